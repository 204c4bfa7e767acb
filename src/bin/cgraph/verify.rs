//! `cgraph verify`: checks, and repair of a mini.

use capsulegraph::Error;
use capsulegraph::container::reader::Damage;
use capsulegraph::pool::CancelToken;
use capsulegraph::split::verify::{Outcome, Verified, VerifyOptions, check};

use crate::args::VerifyArgs;
use crate::failure::Failure;
use crate::session::refuse_gguf;
use crate::ui::{self, Ui};

pub fn verify(args: VerifyArgs, ui: &Ui, cancel: &CancelToken) -> Result<(), Failure> {
    refuse_gguf(&args.file)?;
    let options = VerifyOptions {
        full: args.full.clone(),
        deep: args.deep,
        cancel: Some(cancel.clone()),
        ..VerifyOptions::default()
    };
    let bar = ui.bytes_bar("verifying");
    let mut progress = |done: u64, total: u64| ui::show(&bar, done, total);
    let outcome = check(&args.file, &options, args.repair, &mut progress)?;
    bar.finish_and_clear();
    if args.json {
        ui::print_json(&outcome)?;
    }
    let Outcome { verified, repaired, mended } = outcome;
    if !args.json {
        list(&mended)?;
        list(&verified.problems)?;
        if verified.problems.is_empty() && !ui.is_quiet() {
            ui::print(&good_news(&verified, repaired))?;
        }
    }
    match verified.problems.len() {
        0 => Ok(()),
        n => Err(Error::Corrupt(advice(&verified, n, repaired)).into()),
    }
}

fn list(problems: &[Damage]) -> Result<(), Failure> {
    let line = |p: &Damage| match &p.capsule {
        Some(capsule) => format!("problem: capsule {capsule}: {}\n", p.detail),
        None => format!("problem: {}\n", p.detail),
    };
    ui::print(&problems.iter().map(line).collect::<String>())
}

fn good_news(verified: &Verified, repaired: bool) -> String {
    let read = if verified.deep { "every checksum holds" } else { "structure and bounds hold" };
    let full = verified.full.as_ref().map(|f| format!(", full file {f}")).unwrap_or_default();
    let rebuilt = if repaired { "rebuilt; " } else { "" };
    format!(
        "{}: {rebuilt}{} file, {}{full}: {read}\n",
        verified.file,
        verified.kind,
        ui::counted(verified.capsules, "capsule")
    )
}

fn advice(verified: &Verified, problems: usize, repaired: bool) -> String {
    let what = if problems == 1 { "1 problem".to_owned() } else { format!("{problems} problems") };
    let next = match (verified.kind, repaired) {
        ("mini", false) => "rebuild it from a sound full file with --repair",
        ("mini", true) => "the full file itself is damaged; convert the source again",
        _ => "convert the source again",
    };
    format!("{}: {what} found; {next}", verified.file)
}

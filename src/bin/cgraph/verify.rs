//! `cgraph verify`: checks, and repair of a mini.

use capsulegraph::Error;
use capsulegraph::pool::CancelToken;
use capsulegraph::split::verify::{Verified, VerifyOptions, repair, verify as check};
use serde::Serialize;

use crate::args::VerifyArgs;
use crate::failure::Failure;
use crate::session::refuse_gguf;
use crate::ui::{self, Ui};

/// What is printed as JSON.
#[derive(Serialize)]
struct Outcome<'a> {
    #[serde(flatten)]
    verified: &'a Verified,
    /// Whether the mini was rebuilt before this.
    repaired: bool,
}

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
    let mut verified = check(&args.file, &options, &mut progress)?;
    let repaired = args.repair && !verified.problems.is_empty();
    if repaired {
        if !args.json {
            list(&verified)?;
        }
        bar.set_message("rebuilding");
        let bytes = repair(&args.file, &options, &mut progress)?;
        ui.remark(&format!("{} rebuilt, {bytes} bytes", args.file.display()));
        verified = check(&args.file, &options, &mut progress)?;
    }
    bar.finish_and_clear();
    if args.json {
        ui::print_json(&Outcome { verified: &verified, repaired })?;
    } else {
        list(&verified)?;
        if verified.problems.is_empty() && !ui.is_quiet() {
            ui::print(&good_news(&verified, repaired))?;
        }
    }
    match verified.problems.len() {
        0 => Ok(()),
        n => Err(Error::Corrupt(advice(&verified, n, repaired)).into()),
    }
}

fn list(verified: &Verified) -> Result<(), Failure> {
    let line = |p: &capsulegraph::container::reader::Damage| match &p.capsule {
        Some(capsule) => format!("problem: capsule {capsule}: {}\n", p.detail),
        None => format!("problem: {}\n", p.detail),
    };
    ui::print(&verified.problems.iter().map(line).collect::<String>())
}

fn good_news(verified: &Verified, repaired: bool) -> String {
    let read = if verified.deep { "every checksum holds" } else { "structure and bounds hold" };
    let full = verified.full.as_ref().map(|f| format!(", full file {f}")).unwrap_or_default();
    let rebuilt = if repaired { "rebuilt; " } else { "" };
    format!(
        "{}: {rebuilt}{} file, {} capsules{full}: {read}\n",
        verified.file, verified.kind, verified.capsules
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

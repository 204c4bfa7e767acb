//! `cgraph split`: a mini from a full file.

use std::path::Path;

use capsulegraph::container::manifest::Residence;
use capsulegraph::pool::CancelToken;
use capsulegraph::split::job::default_mini;
use capsulegraph::split::{SplitOptions, SplitSummary, residence_counts};

use crate::args::{PlanArgs, SplitArgs};
use crate::failure::Failure;
use crate::outputs::Outputs;
use crate::session::refuse_gguf;
use crate::size::human;
use crate::ui::{self, Ui};

pub fn split(args: SplitArgs, ui: &Ui, cancel: &CancelToken) -> Result<(), Failure> {
    refuse_gguf(&args.source)?;
    let target = args.output.unwrap_or_else(|| default_mini(&args.source));
    let inputs = [Some(args.source.as_path()), args.plan.calibrate_file()];
    Outputs::checked(&[Some(target.as_path())], &inputs)?;
    let options = options(args.plan, cancel)?;
    let bar = ui.bytes_bar("splitting");
    let summary = capsulegraph::split::split(&args.source, &target, &options, &mut |done, total| {
        ui::show(&bar, done, total);
    });
    bar.finish_and_clear();
    let summary = summary?;
    if args.json {
        return ui::print_json(&summary);
    }
    if ui.is_quiet() {
        return Ok(());
    }
    print_summary(&summary, ui)
}

impl PlanArgs {
    /// The file that `--calibrate` names.
    pub fn calibrate_file(&self) -> Option<&Path> {
        self.calibrate.as_deref()?.strip_prefix('@').map(Path::new)
    }
}

/// The library's options.
pub fn options(args: PlanArgs, cancel: &CancelToken) -> Result<SplitOptions, Failure> {
    let calibrate = match args.calibrate_file() {
        Some(file) => Some(ui::read_text(file)?),
        None => args.calibrate,
    };
    Ok(SplitOptions {
        size: args.size.unwrap_or(0),
        light: args.light,
        calibrate,
        cancel: Some(cancel.clone()),
        ..SplitOptions::default()
    })
}

/// The plan in words; with `-v` every capsule.
pub fn print_summary(summary: &SplitSummary, ui: &Ui) -> Result<(), Failure> {
    let counts: Vec<String> = residence_counts(&summary.plan)
        .iter()
        .map(|(residence, count)| format!("{count} {}", residence.name()))
        .collect();
    let mut text = format!(
        "mini  {}  {} ({:.0} % of {}), capsules: {}\n",
        summary.path.display(),
        human(summary.bytes),
        100.0 * summary.bytes as f64 / summary.full_bytes.max(1) as f64,
        human(summary.full_bytes),
        counts.join(", ")
    );
    match summary.expected_agreement {
        Some(share) => {
            text.push_str(&format!("      agrees with the full file on {:.1} % of tokens\n", share * 100.0))
        }
        None => text.push_str("      agreement with the full file: not measured\n"),
    }
    if summary.bytes >= summary.full_bytes {
        ui.note("the mini holds everything and is no shorter than the full file; give a smaller --size");
    }
    if ui.is_verbose() {
        for capsule in &summary.plan.capsules {
            let forms = match capsule.residence {
                Residence::Light => capsule.encodings.join(" "),
                Residence::Pinned | Residence::Nested | Residence::Linked => String::new(),
            };
            text.push_str(format!("  {:24} {:7} {forms}", capsule.id, capsule.residence.name()).trim_end());
            text.push('\n');
        }
    }
    ui::print(&text)
}

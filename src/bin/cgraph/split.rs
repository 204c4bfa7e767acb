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
    let mut inputs = vec![Some(args.source.as_path())];
    inputs.extend(args.plan.calibrate_files().into_iter().map(Some));
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
    /// The files that `--calibrate` names.
    pub fn calibrate_files<'a>(&'a self) -> Vec<&'a Path> {
        let file = |text: &'a String| text.strip_prefix('@').or_else(|| Some(text.rsplit_once('=')?.1));
        self.calibrate.iter().filter_map(file).filter(|path| !path.is_empty()).map(Path::new).collect()
    }
}

/// The library's options.
pub fn options(args: PlanArgs, cancel: &CancelToken) -> Result<SplitOptions, Failure> {
    let calibrate = match args.calibrate.as_slice() {
        [] => None,
        [one] => Some(match one.strip_prefix('@') {
            Some(file) => ui::read_text(Path::new(file))?,
            None => one.clone(),
        }),
        several => Some(several.join("\n")),
    };
    Ok(SplitOptions {
        size: args.size.unwrap_or(0),
        light: args.light,
        calibrate,
        max_error: args.max_error,
        runtime: args.onnxruntime,
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
    match (summary.expected_agreement, summary.plan.output_error) {
        (Some(share), _) => {
            text.push_str(&format!("      agrees with the full file on {:.1} % of tokens\n", share * 100.0))
        }
        (None, Some(error)) => {
            text.push_str(&format!("      outputs {:.2} % from the full file's\n", error * 100.0))
        }
        (None, None) => text.push_str("      agreement with the full file: not measured\n"),
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

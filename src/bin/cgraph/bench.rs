//! `cgraph bench`: speed of prefill, decode and passes.

use std::time::Instant;

use capsulegraph::generate::bench::{BenchOptions, BenchRow, bench as measure};
use capsulegraph::pool::CancelToken;
use capsulegraph::report::Report;
use capsulegraph::report::memory::MemorySampler;

use crate::args::{BenchArgs, Given};
use crate::failure::Failure;
use crate::outputs::Outputs;
use crate::size::human;
use crate::tensors;
use crate::ui::{self, Ui};

pub fn bench(args: &BenchArgs, given: &Given, ui: &Ui, cancel: &CancelToken) -> Result<(), Failure> {
    if tensors::is_onnx(&args.file)? {
        given.refuse_for_onnx(&args.file)?;
        return tensors::bench(args, ui, cancel);
    }
    given.refuse_for_language(&args.file)?;
    let inputs = [Some(args.file.as_path()), args.compute.file.full.as_deref()];
    let outputs = Outputs::checked(&[args.report.report.as_deref()], &inputs)?;
    let sampler = MemorySampler::new();
    let options = args.options();
    let context = options.context().max(1);
    let model = args.compute.open(&args.file, context, &outputs, ui)?;
    let begun = Instant::now();
    let mut session = args.compute.session(model, context)?;
    let bar = ui.count_bar("measuring");
    let result = measure(&mut session, &options, begun, Some(cancel), &mut |done, total| {
        sampler.sample();
        ui::show(&bar, done, total);
    });
    bar.finish_and_clear();
    let report = Report::new("bench", &session, &sampler).with_bench(result?);
    if !args.report.json {
        ui::print(&table(&report, &options))?;
    }
    args.report.deliver(&report)
}

fn table(report: &Report, options: &BenchOptions) -> String {
    let size = report.model.mini_bytes.or(report.model.full_bytes).unwrap_or(0);
    let mut text = format!(
        "{} ({}), {}, mode {}, {}\n",
        report.model.name,
        report.model.arch,
        human(size),
        report.mode,
        report.backend
    );
    text.extend(report.tests.iter().map(row));
    let prompt = options.prompts.iter().find(|tokens| **tokens > 0);
    if let (Some(first), Some(prompt)) = (report.first_token_ms, prompt) {
        text.push_str(&format!(
            "{:>14}  {:10.1} ms to open, then {first:.1} ms to the first token (prompt of {prompt})\n",
            "", report.open_ms
        ));
    }
    text
}

fn row(row: &BenchRow) -> String {
    let sd = row.tokens_per_s_sd.map(|sd| format!(" ± {sd:.2}")).unwrap_or_default();
    format!("{:>14}  {:10.2}{sd} tokens/s\n", row.test, row.tokens_per_s)
}

//! `cgraph bench`: speed of prefill and decode.

use capsulegraph::generate::bench::{BenchOptions, BenchRow, bench as measure};
use capsulegraph::pool::CancelToken;
use capsulegraph::report::Report;
use capsulegraph::report::memory::MemorySampler;

use crate::args::BenchArgs;
use crate::failure::Failure;
use crate::size::human;
use crate::ui::{self, Ui};

pub fn bench(args: &BenchArgs, ui: &Ui, cancel: &CancelToken) -> Result<(), Failure> {
    args.report.check()?;
    let sampler = MemorySampler::new();
    let model = args.compute.open(&args.file, ui)?;
    let mut session = args.compute.session(model, args.prompt.max(args.n).max(1))?;
    let bar = ui.count_bar("measuring");
    let options = BenchOptions { prompt: args.prompt, generate: args.n, repeat: args.repeat };
    let rows = measure(&mut session, &options, Some(cancel), &mut |done, total| {
        sampler.sample();
        ui::show(&bar, done, total);
    });
    bar.finish_and_clear();
    let report = Report::new("bench", &session, &sampler).with_tests(rows?);
    if !args.report.json {
        ui::print(&table(&report))?;
    }
    args.report.deliver(&report)
}

fn table(report: &Report) -> String {
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
    text
}

fn row(row: &BenchRow) -> String {
    let sd = row.tokens_per_s_sd.map(|sd| format!(" ± {sd:.2}")).unwrap_or_default();
    format!("{:>8}  {:10.2}{sd} tokens/s\n", row.test, row.tokens_per_s)
}

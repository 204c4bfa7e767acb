//! `cgraph eval`: perplexity and logits.

use std::path::Path;
use std::time::Instant;

use capsulegraph::Error;
use capsulegraph::container::disk::SystemDisk;
use capsulegraph::container::npy::NpyWriter;
use capsulegraph::generate::eval::{DEFAULT_WINDOW, Evaluation, evaluate};
use capsulegraph::generate::model::Model;
use capsulegraph::pool::CancelToken;
use capsulegraph::report::Report;
use capsulegraph::report::memory::MemorySampler;

use crate::args::EvalArgs;
use crate::failure::Failure;
use crate::outputs::Outputs;
use crate::ui::{self, Ui};

pub fn eval(args: &EvalArgs, ui: &Ui, cancel: &CancelToken) -> Result<(), Failure> {
    let inputs = [
        Some(args.file.as_path()),
        args.compute.file.full.as_deref(),
        args.text.as_deref(),
        args.tokens.as_deref(),
    ];
    let outputs = Outputs::checked(&[args.logits.as_deref(), args.report.report.as_deref()], &inputs)?;
    let sampler = MemorySampler::new();
    let model = args.compute.open(&args.file, DEFAULT_WINDOW, &outputs, ui)?;
    let tokens = tokens(args, &model)?;
    let params = model.decoder().params();
    let (trained, vocab) = (params.context_length as usize, u64::from(params.vocab_size));
    // No window is longer than the tokens, so the cache need not be either.
    let window = args.compute.ctx.unwrap_or(trained.min(DEFAULT_WINDOW)).min(tokens.len()).max(1);
    let mut session = args.compute.session_of(model, window)?;
    sampler.sample();
    let mut logits = match &args.logits {
        Some(path) => Some(NpyWriter::create(&SystemDisk, path, &[tokens.len() as u64, vocab])?),
        None => None,
    };
    let bar = ui.count_bar("evaluating");
    let begun = Instant::now();
    let evaluation = evaluate(
        &mut session,
        &tokens,
        args.compute.batch,
        Some(cancel),
        &mut |rows| logits.as_mut().map_or(Ok(()), |file| file.push(rows)),
        &mut |done| ui::show(&bar, done as u64, tokens.len() as u64),
    );
    bar.finish_and_clear();
    let (evaluation, spent) = (evaluation?, begun.elapsed());
    if let Some(file) = logits {
        file.finish()?;
    }
    let report = Report::new("eval", &session, &sampler).with_evaluation(&evaluation, spent);
    if !args.report.json {
        ui::print(&summary(&evaluation))?;
    }
    args.report.deliver(&report)
}

fn summary(evaluation: &Evaluation) -> String {
    match evaluation.perplexity {
        Some(perplexity) => format!(
            "perplexity {perplexity:.4} ({} of {} tokens predicted, in {} windows)\n",
            evaluation.predicted, evaluation.tokens, evaluation.windows
        ),
        None => format!("{} tokens evaluated; perplexity needs two in one window\n", evaluation.tokens),
    }
}

fn tokens(args: &EvalArgs, model: &Model) -> Result<Vec<u32>, Failure> {
    match (&args.text, &args.tokens) {
        (Some(text), _) => Ok(model.tokenizer()?.encode(&ui::read_text(text)?, true, false)?),
        (None, Some(ids)) => read_ids(ids),
        (None, None) => Err(Error::InvalidArgument("give --text or --tokens".into()).into()),
    }
}

fn read_ids(path: &Path) -> Result<Vec<u32>, Failure> {
    let text = ui::read_text(path)?;
    Ok(serde_json::from_str(&text).map_err(|e| {
        Error::malformed(
            path.display().to_string(),
            format!("it is no JSON array of token ids such as [1, 2]: {e}"),
        )
    })?)
}

//! `cgraph run`: text from a prompt, or an ONNX model's outputs.

use std::io::{self, IsTerminal, Read, Write};

use capsulegraph::Error;
use capsulegraph::container::disk::SystemDisk;
use capsulegraph::generate::session::{FinishReason, GenerateOptions, Session, Step};
use capsulegraph::pool::{CancelToken, Gate};
use capsulegraph::report::Report;
use capsulegraph::report::memory::MemorySampler;
use capsulegraph::text::ChatMessage;

use crate::args::{Given, PromptArgs, ReportArgs, RunArgs};
use crate::failure::Failure;
use crate::outputs::Outputs;
use crate::size::human;
use crate::ui::{self, Ui};
use crate::{chat, interrupt, tensors};

pub fn run(args: &RunArgs, given: &Given, ui: &Ui, cancel: &CancelToken) -> Result<(), Failure> {
    if tensors::is_onnx(&args.file)? {
        given.refuse_for_onnx(&args.file)?;
        return tensors::run(args, ui, cancel);
    }
    given.refuse_for_language(&args.file)?;
    let inputs =
        [Some(args.file.as_path()), args.compute.file.full.as_deref(), args.prompt.prompt_file.as_deref()];
    let outputs = Outputs::checked(&[args.report.report.as_deref()], &inputs)?;
    let Some(prompt) = args.prompt.read()? else {
        if args.report.json || args.report.report.is_some() {
            let why = "a report is of one prompt; give it with -p, --prompt-file or a pipe";
            return Err(Error::InvalidArgument(why.into()).into());
        }
        return chat::converse(&args.file, args.system.as_deref(), &args.generate, &args.compute, ui, cancel);
    };
    let sampler = MemorySampler::new();
    let model = args.compute.open(&args.file, 0, &outputs, ui)?;
    let tokens = if args.chat || args.system.is_some() {
        let system = args.system.iter().map(|text| ChatMessage::new("system", text));
        let messages: Vec<ChatMessage> = system.chain([ChatMessage::new("user", prompt)]).collect();
        model.chat_tokens(&messages)?
    } else {
        model.tokenizer()?.encode(&prompt, true, true)?
    };
    let mut session = args.compute.session(model, 0)?;
    sampler.sample();
    let mut answer = Answer::default();
    let streamed = !args.report.json;
    let outcome =
        answer.generate(&mut session, &tokens, &args.generate.options(), cancel, &sampler, streamed);
    match outcome {
        Ok(()) | Err(Failure::Library(Error::Cancelled)) => {}
        Err(failure) => return Err(failure),
    }
    if streamed && !answer.text.ends_with('\n') {
        ui::print("\n")?;
    }
    remark_speeds(&session, ui);
    let report = Report::new("run", &session, &sampler).with_generation(
        &session,
        answer.text,
        answer.token_ids,
        answer.reason,
    );
    args.report.deliver(&report)?;
    outcome
}

/// A generation's text so far.
#[derive(Debug, Default)]
pub struct Answer {
    pub text: String,
    pub token_ids: Vec<u32>,
    pub reason: Option<FinishReason>,
}

impl Answer {
    /// Generates after `tokens` until the end, writing the text to stdout as it comes where `streamed`. What
    /// came before a failure is kept.
    pub fn generate(
        &mut self,
        session: &mut Session,
        tokens: &[u32],
        options: &GenerateOptions,
        cancel: &CancelToken,
        sampler: &MemorySampler,
        streamed: bool,
    ) -> Result<(), Failure> {
        session.start(tokens, options)?;
        let gate = Gate { deadline: None, cancel: Some(cancel.clone()) };
        while self.reason.is_none() {
            let text = match session.step(&gate)? {
                Step::Paused => continue,
                Step::Token { id, text } => {
                    if self.token_ids.is_empty() {
                        sampler.sample();
                    }
                    self.token_ids.push(id);
                    text
                }
                Step::Finished(reason) => {
                    self.reason = Some(reason);
                    continue;
                }
            };
            if streamed && !text.is_empty() {
                ui::print(&text)?;
            }
            self.text.push_str(&text);
        }
        Ok(())
    }
}

/// Counts and speeds of the last generation, with `-v`.
pub fn remark_speeds(session: &Session, ui: &Ui) {
    let t = session.timings();
    let rate = |tokens: usize, seconds: f64| tokens as f64 / seconds.max(1e-9);
    ui.remark(&format!(
        "prompt {} tokens at {:.1}/s, first token after {:.1} ms, {} tokens generated at {:.1}/s",
        t.prompt_tokens,
        rate(t.prompt_tokens, t.prefill.as_secs_f64()),
        t.first_token.as_secs_f64() * 1e3,
        t.generated_tokens,
        rate(t.generated_tokens.saturating_sub(1), t.decode.as_secs_f64())
    ));
    let Some(weights) = session.model().store().weight_memory() else { return };
    let mut text =
        format!("budget {}, {} of weights stay in memory", human(weights.budget), human(weights.pinned));
    if let Some(reads) = weights.reads_in_flight {
        text.push_str(&format!(
            "; {} read from the disk, {reads} at once of up to {}; {:.1} ms waited for them",
            human(weights.streamed),
            human(weights.read_bytes),
            weights.stalled.as_secs_f64() * 1e3
        ));
    }
    ui.remark(&text);
}

impl PromptArgs {
    /// The prompt, or `None` where standard input is a terminal and no prompt was given.
    pub fn read(&self) -> Result<Option<String>, Failure> {
        if let Some(text) = &self.prompt {
            return Ok(Some(text.clone()));
        }
        if let Some(path) = &self.prompt_file {
            return ui::read_text(path).map(without_line_end).map(Some);
        }
        let mut input = io::stdin().lock();
        if input.is_terminal() {
            return Ok(None);
        }
        let mut text = String::new();
        interrupt::waiting(|| input.read_to_string(&mut text)).map_err(Failure::input)?;
        Ok(Some(without_line_end(ui::without_mark(text))))
    }
}

/// One line end that editors and `echo` put behind a text is not part of a prompt.
fn without_line_end(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

impl ReportArgs {
    /// Writes the report to where it was asked for.
    pub fn deliver(&self, report: &Report) -> Result<(), Failure> {
        if let Some(path) = &self.report {
            report.write(path, &SystemDisk)?;
        }
        if self.json {
            let mut out = io::stdout().lock();
            out.write_all(report.to_json()?.as_bytes()).map_err(Failure::output)?;
        }
        Ok(())
    }
}

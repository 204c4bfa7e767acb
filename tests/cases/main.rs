//! Runs tests/data/cases.txt by the Rust API: the table of cases that every language runs.
//!
//! Needs the .gguf's path in CAPSULEGRAPH_TEST_MODEL, the folder of ONNX models in CAPSULEGRAPH_TEST_ONNX and ONNX Runtime in
//! CAPSULEGRAPH_ONNXRUNTIME; `cargo xtask test` gets them and sets them.

mod run;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use capsulegraph::Error;
use capsulegraph::convert::import::ConvertOptions;
use capsulegraph::convert::onnx::cut::CutOptions;
use capsulegraph::generate::model::{Model, ModelOptions};
use capsulegraph::generate::session::{GenerateOptions, Session, SessionOptions, Step};
use capsulegraph::pool::{CancelToken, Gate};
use capsulegraph::split::job::{Targets, produce};
use capsulegraph::split::{SplitOptions, split};
use capsulegraph::store::budget::Budget;
use capsulegraph::store::fetch::FetchLayout;
use capsulegraph::store::{Mode, OpenOptions, Origin, Store};
use capsulegraph::text::ChatMessage;
use table::Case;

/// How a case failed.
pub enum Failure {
    /// The library refused; the case may expect it.
    Refused(Error),
    /// The case is not as it should be.
    Wrong(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self::Wrong(why)
    }
}

/// Holds what was found against what should be.
pub fn check<T: PartialEq + std::fmt::Debug>(what: &str, found: &T, wanted: &T) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("{what} is {found:?} and should be {wanted:?}")) }
}

/// What a case does, once its keys are read.
type Work = Box<dyn FnOnce() -> Result<(), Failure>>;

/// The options that open a file in a mode, in a budget where `memory` is not 0.
pub fn open_options(mode: &str, memory: u64) -> Result<OpenOptions, String> {
    let mode = match mode {
        "auto" => Mode::Auto,
        "exact" => Mode::Exact,
        "fast" => Mode::Fast,
        "speculative" => Mode::Speculative,
        other => return Err(format!("there is no mode {other:?}")),
    };
    let budget = (memory > 0).then(|| Budget::new(memory));
    Ok(OpenOptions { mode, budget, ..OpenOptions::default() })
}

/// A language model; an ONNX model is refused as the other languages are refused it.
fn open(path: &Path, store: OpenOptions) -> Result<Arc<Model>, Failure> {
    let origin = Origin::Path(path.to_owned());
    Ok(Arc::new(Model::open(&origin, &ModelOptions { store, ..ModelOptions::default() })?))
}

fn convert(case: &mut Case, folder: &Path) -> Result<Work, String> {
    let (source, target) = (folder.join(case.take("source")?), folder.join(case.take("target")?));
    let mini = case.optional("mini").map(|mini| folder.join(mini));
    let capsules = case.number("capsules")?;
    Ok(Box::new(move || {
        let targets = Targets::new(&source, Some(&target), mini.as_deref(), mini.is_none());
        let cut = CutOptions { capsules: (capsules > 0).then_some(capsules), ..CutOptions::default() };
        let options = ConvertOptions { cut, ..ConvertOptions::default() };
        produce(&source, &targets, &options, &SplitOptions::default(), &mut |_, _, _| {})?;
        Ok(())
    }))
}

fn derive(case: &mut Case, folder: &Path) -> Result<Work, String> {
    let (source, target) = (folder.join(case.take("source")?), folder.join(case.take("target")?));
    let mut options = SplitOptions {
        size: case.number("mini_bytes")? as u64,
        calibrate: case.optional("calibrate"),
        ..SplitOptions::default()
    };
    if let Some(light) = case.optional("light") {
        options.light = light.parse().map_err(|e: Error| e.to_string())?;
    }
    Ok(Box::new(move || {
        split(&source, &target, &options, &mut |_, _| {})?;
        Ok(())
    }))
}

fn tokenize(case: &mut Case, folder: &Path) -> Result<Work, String> {
    let (file, text, wanted) = (folder.join(case.take("file")?), case.take("text")?, case.ids()?);
    Ok(Box::new(move || {
        let model = open(&file, OpenOptions::default())?;
        check("tokens", &model.tokenizer()?.encode(&text, false, false)?, &wanted)?;
        Ok(())
    }))
}

/// A generation and what it should give.
struct Generation {
    file: PathBuf,
    open: OpenOptions,
    prompt: String,
    chat: Option<String>,
    max_tokens: usize,
    cancel_after: usize,
    stop_after: usize,
}

impl Generation {
    /// Tokens and text up to the end, the failure or the place where the case stops it.
    fn run(&self, tokens: &mut Vec<u32>, text: &mut String) -> Result<(), Failure> {
        let model = open(&self.file, self.open.clone())?;
        let mut session = Session::new(Arc::clone(&model), &SessionOptions::default())?;
        let prompt = match &self.chat {
            Some(message) => model.chat_tokens(&[ChatMessage::new("user", message.as_str())])?,
            None => model.tokenizer()?.encode(&self.prompt, true, true)?,
        };
        let options = GenerateOptions { max_tokens: self.max_tokens, ..GenerateOptions::default() };
        session.start(&prompt, &options)?;
        let gate = Gate { deadline: None, cancel: Some(CancelToken::new()) };
        loop {
            match session.step(&gate)? {
                Step::Paused => {}
                Step::Token { id, text: piece } => {
                    tokens.push(id);
                    text.push_str(&piece);
                    if let (true, Some(token)) = (tokens.len() == self.cancel_after, &gate.cancel) {
                        token.cancel();
                    }
                    if tokens.len() == self.stop_after {
                        return Ok(());
                    }
                }
                Step::Finished(_) => return Ok(()),
            }
        }
    }
}

fn generate(case: &mut Case, folder: &Path) -> Result<Work, String> {
    let mode = case.optional("mode").unwrap_or_else(|| "auto".into());
    let generation = Generation {
        file: folder.join(case.take("file")?),
        open: open_options(&mode, case.number("memory")? as u64)?,
        chat: case.optional("chat"),
        prompt: case.optional("prompt").unwrap_or_default(),
        max_tokens: case.number("max_tokens")?,
        cancel_after: case.number("cancel_after")?,
        stop_after: case.number("stop_after")?,
    };
    let (wanted, wanted_text) = (case.ids()?, case.optional("text"));
    Ok(Box::new(move || {
        let (mut tokens, mut text) = (Vec::new(), String::new());
        let outcome = generation.run(&mut tokens, &mut text);
        check("tokens", &tokens, &wanted)?;
        if let Some(wanted) = wanted_text {
            check("text", &text, &wanted)?;
        }
        outcome
    }))
}

fn fetch(case: &mut Case, folder: &Path) -> Result<Work, String> {
    let mode = case.optional("mode").unwrap_or_else(|| "auto".into());
    let (file, options) = (folder.join(case.take("file")?), open_options(&mode, 0)?);
    let layout = match case.optional("layout").as_deref() {
        None | Some("source") => FetchLayout::Source,
        Some("stored") => FetchLayout::Stored,
        Some("f32") => FetchLayout::F32,
        Some(other) => return Err(format!("there is no layout {other:?}")),
    };
    let (capsule, name) = (case.take("capsule")?, case.take("tensor")?);
    let (kind, shape, sum) = (case.optional("type"), case.optional("shape"), case.optional("sum"));
    Ok(Box::new(move || {
        let store = Store::open(&Origin::Path(file), &options)?;
        let fetched = store.fetch(&capsule, layout)?;
        let tensor = fetched.tensors.iter().find(|tensor| tensor.name == name);
        let tensor = tensor.ok_or_else(|| format!("there is no tensor {name}"))?;
        let extents: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        let total: u64 = tensor.bytes.iter().map(|byte| u64::from(*byte)).sum();
        check("type", &Some(tensor.encoding.to_owned()), &kind)?;
        check("shape", &Some(extents.join(",")), &shape)?;
        check("sum", &Some(total.to_string()), &sum)?;
        Ok(())
    }))
}

fn write_bytes(case: &mut Case, folder: &Path) -> Result<Work, String> {
    let (target, hex) = (folder.join(case.take("target")?), case.take("hex")?);
    let digits = |at: usize| hex.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(digits).collect();
    let bytes = bytes.ok_or_else(|| format!("{hex:?} is no hex"))?;
    Ok(Box::new(move || {
        std::fs::write(&target, bytes).map_err(|e| format!("cannot write {}: {e}", target.display()).into())
    }))
}

/// The name of an error's status, as the C API has it.
fn status(error: &Error) -> &'static str {
    match error {
        Error::Io { .. } => "io",
        Error::Malformed { .. } => "malformed",
        Error::Unsupported(_) => "unsupported",
        Error::InvalidArgument(_) => "invalid_argument",
        Error::Mismatch(_) => "mismatch",
        Error::Corrupt(_) => "corrupt",
        Error::NotFound(_) => "not_found",
        Error::Limit(_) => "limit",
        Error::Cancelled => "cancelled",
        Error::Host(_) => "host",
        Error::Internal(_) => "internal",
        _ => "unknown",
    }
}

fn attempt(mut case: Case, folder: &Path) -> Result<(), String> {
    case.refuse_repeated()?;
    let kind = case.take("do")?;
    let prepare = match kind.as_str() {
        "convert" => convert,
        "split" => derive,
        "tokenize" => tokenize,
        "generate" => generate,
        "fetch" => fetch,
        "run" => run::run,
        "bytes" => write_bytes,
        other => return Err(format!("this runner does not know how to do {other:?}")),
    };
    let expect = case.optional("expect").unwrap_or_else(|| "ok".into());
    let messages = case.all("message");
    let work = prepare(&mut case, folder)?;
    case.refuse_the_rest()?;
    let (found, message) = match work() {
        Ok(()) => ("ok", String::new()),
        Err(Failure::Refused(error)) => (status(&error), error.to_string()),
        Err(Failure::Wrong(why)) => return Err(why),
    };
    if found != expect {
        return Err(format!("status is {found} ({message}) and should be {expect}"));
    }
    match messages.iter().find(|text| !message.contains(text.as_str())) {
        Some(text) => Err(format!("the message {message:?} does not have {text:?}")),
        None => Ok(()),
    }
}

/// Fails where a wrong case is passed, or fails for another reason than its own.
fn refuse_wrong_cases(wrong: Vec<Case>, folder: &Path) -> Result<(), String> {
    for case in wrong {
        let name = case.name.clone();
        match attempt(case, folder) {
            Err(why) if why.contains(&name) => {}
            outcome => return Err(format!("the wrong case {name} ended with {outcome:?}")),
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let (cases, wrong) = match table::read().and_then(|cases| Ok((cases, table::wrong()?))) {
        Ok(tables) => tables,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    let Ok(folder) = tempfile::tempdir() else { return ExitCode::FAILURE };
    let (mut passed, mut failed) = (0, 0);
    for case in cases {
        let name = case.name.clone();
        match attempt(case, folder.path()) {
            Ok(()) => {
                passed += 1;
                println!("case {name} ... ok");
            }
            Err(why) => {
                failed += 1;
                println!("case {name} ... FAILED: {why}");
            }
        }
    }
    let refused = refuse_wrong_cases(wrong, folder.path());
    if let Err(why) = &refused {
        println!("{why}");
    }
    let good = failed == 0 && passed > 0 && refused.is_ok();
    println!("test result: {}. {passed} passed; {failed} failed", if good { "ok" } else { "FAILED" });
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

//! The command line's options. What several commands share is defined once.

mod bench;
mod compute;
mod given;
mod onnx;
mod tensors;

use std::num::{IntErrorKind, ParseIntError};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use capsulegraph::Error;
use capsulegraph::convert::import::Planes;
use capsulegraph::generate::SamplingOptions;
use capsulegraph::generate::session::GenerateOptions;
use capsulegraph::split::plan::Light;
use capsulegraph::store::fetch::FetchLayout;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::size;
pub use bench::BenchArgs;
pub use compute::ComputeArgs;
pub use given::Given;
pub use onnx::{CutArgs, ExportArgs};
pub use tensors::{Binding, OnnxArgs, Switch};

/// Runs language models and ONNX models from one packed file.
///
/// A model is converted once to a .cgraph file (the full file) and a light .mini.cgraph beside it; either can then be
/// run, evaluated, measured and taken apart. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
#[derive(Debug, Parser)]
#[command(
    name = "cgraph",
    version,
    after_help = "\
Examples:
  cgraph convert model.gguf                 # writes model.cgraph and model.mini.cgraph
  cgraph run model.cgraph -p \"Once upon a time\" -n 64
  cgraph chat model.mini.cgraph --mode fast
  cgraph COMMAND --help                     # more examples for each command"
)]
pub struct Cli {
    /// Say nothing but results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more, on stderr
    #[arg(short, long, global = true)]
    pub verbose: bool,
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    Convert(ConvertArgs),
    Split(SplitArgs),
    Run(RunArgs),
    Chat(ChatArgs),
    Eval(EvalArgs),
    Tokenize(TokenizeArgs),
    Export(ExportArgs),
    Fetch(FetchArgs),
    Inspect(InspectArgs),
    Verify(VerifyArgs),
    Bench(BenchArgs),
    Plan(ForecastArgs),
}

/// `--mode`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum ModeArg {
    /// Exact, or speculative where not all fits --memory and guesses are expected to pay; fast where the full file cannot
    /// be reached. -v and the report say which and why
    #[default]
    Auto,
    /// Every capsule at full precision
    Exact,
    /// Only what the mini holds; the full file is never opened
    Fast,
    /// The tokens of exact: the mini drafts some, one pass at full precision verifies them
    Speculative,
}

/// `--layout`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum LayoutArg {
    /// Row after row in the encoding that the file holds: the source's own bytes; with --mode fast the mini's
    #[default]
    Source,
    /// As kernels read them: matrices packed, the two planes of a divided one joined
    Stored,
    /// Decoded to f32, row after row
    F32,
}

impl From<LayoutArg> for FetchLayout {
    fn from(layout: LayoutArg) -> Self {
        match layout {
            LayoutArg::Source => Self::Source,
            LayoutArg::Stored => Self::Stored,
            LayoutArg::F32 => Self::F32,
        }
    }
}

/// Which files serve a model, and how.
#[derive(Args, Debug)]
pub struct FileArgs {
    /// What computes
    #[arg(
        long,
        value_enum,
        default_value_t,
        value_name = "MODE",
        hide_possible_values = true,
        help = "What computes: auto, exact, speculative or fast"
    )]
    pub mode: ModeArg,
    /// The mini's full file, where it is not the one beside it
    #[arg(long, value_name = "PATH")]
    pub full: Option<PathBuf>,
}

/// How text is generated.
#[derive(Args, Debug)]
#[command(next_help_heading = "Generating")]
pub struct GenerateArgs {
    /// Tokens at most; 0: until the model ends its text or the context is full
    #[arg(short, value_name = "N", allow_negative_numbers = true, default_value_t = 0, value_parser = whole)]
    pub n: usize,
    /// Divides the logits; 0 is greedy, 1 the model's own distribution
    #[arg(long, value_name = "T", allow_negative_numbers = true, default_value_t = 0.0)]
    pub temperature: f32,
    /// Choose among the K best tokens; 0: all
    #[arg(long, value_name = "K", allow_negative_numbers = true, default_value_t = 0)]
    pub top_k: u32,
    /// Choose among the best tokens whose probabilities reach P; 0: all
    #[arg(long, value_name = "P", allow_negative_numbers = true, default_value_t = 0.0)]
    pub top_p: f32,
    /// Drop tokens below this share of the best one's probability; 0: none
    #[arg(long, value_name = "P", allow_negative_numbers = true, default_value_t = 0.0)]
    pub min_p: f32,
    /// Makes the last 64 tokens less likely by this factor; 0 and 1: off
    #[arg(long, value_name = "R", allow_negative_numbers = true, default_value_t = 0.0)]
    pub repeat_penalty: f32,
    /// Chooses one of the possible random sequences
    #[arg(long, value_name = "S", allow_negative_numbers = true, default_value_t = 0)]
    pub seed: u64,
    /// End the text before this; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub stop: Vec<String>,
}

impl GenerateArgs {
    /// The library's options.
    pub fn options(&self) -> GenerateOptions {
        GenerateOptions {
            sampling: SamplingOptions {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                repeat_penalty: self.repeat_penalty,
                repeat_window: 0,
                seed: self.seed,
            },
            max_tokens: self.n,
            stop: self.stop.clone(),
            ignore_end: false,
        }
    }
}

/// Where a command's report goes.
#[derive(Args, Debug)]
pub struct ReportArgs {
    /// Write the report to a file, as JSON
    #[arg(long, value_name = "OUT.json")]
    pub report: Option<PathBuf>,
    /// Print the report on stdout, in place of the text
    #[arg(long)]
    pub json: bool,
}

/// How a mini is derived.
#[derive(Args, Debug)]
#[command(next_help_heading = "The mini")]
pub struct PlanArgs {
    /// Length of the mini at most, such as 80MiB [default: by the full file's precision]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub size: Option<u64>,
    /// Light forms: auto, none, or the name of an encoding such as q2_k; of an ONNX model q8_0 or q4_0
    #[arg(long, value_name = "FORM", default_value = "auto", value_parser = light)]
    pub light: Light,
    /// Text on which the agreement with the full file is measured; @FILE reads it from a file. Of an ONNX model NAME=FILE.npy
    /// for each of its inputs, and again for further sets of them [default: a sample; random inputs]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub calibrate: Vec<String>,
    /// Of an ONNX model: how far the mini's outputs may be from the full file's, relative to their own [default: 0.05]
    #[arg(long, value_name = "E")]
    pub max_error: Option<f64>,
    /// Of an ONNX model: ONNX Runtime's library or its folder, to measure with [default: it is looked for]
    #[arg(long, value_name = "PATH")]
    pub onnxruntime: Option<PathBuf>,
}

/// Convert a GGUF model to a .cgraph file and its mini, or an ONNX model to a .cgraph file
///
/// Weights are stored without loss. Of a sharded model name any shard; an ONNX model's data files are found beside it.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cgraph convert model.gguf                       # model.cgraph and model.mini.cgraph
  cgraph convert model.gguf -o m.cgraph --no-mini
  cgraph convert big-00001-of-00004.gguf -o big.cgraph --size 2GiB
  cgraph convert model.gguf --light q4_k --json
  cgraph convert model.onnx --capsule-size 8MiB")]
pub struct ConvertArgs {
    /// The GGUF or ONNX model
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// The full file [default: SRC with the ending .cgraph]
    #[arg(short, value_name = "OUT.cgraph")]
    pub output: Option<PathBuf>,
    /// The mini [default: the full file with the ending .mini.cgraph]
    #[arg(long, value_name = "OUT.mini.cgraph", conflicts_with = "no_mini")]
    pub mini: Option<PathBuf>,
    /// Write no mini
    #[arg(long)]
    pub no_mini: bool,
    /// How weights are stored: whole as kernels read them, or divided into two planes, of which a mini can be the first
    /// (faster in a budget, somewhat slower without one); auto: divided where a mini is made with --light auto
    #[arg(long, value_name = "auto|whole|divided", default_value = "auto", hide_default_value = true)]
    pub planes: Planes,
    #[command(flatten)]
    pub plan: PlanArgs,
    #[command(flatten)]
    pub cut: CutArgs,
    /// Print what was written as JSON
    #[arg(long)]
    pub json: bool,
}

/// Derive a mini from a full file
///
/// Prints the plan: how many capsules the mini holds bit for bit (pinned), in a light form, or only by a link into the
/// full file, and how often both agree on the most likely token (of an ONNX model how far their outputs differ).
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cgraph split model.cgraph
  cgraph split model.cgraph -o small.mini.cgraph --size 80MiB
  cgraph split model.cgraph --light none --size 40MB     # pinned or linked only
  cgraph split model.cgraph --calibrate @my-text.txt -v  # -v lists every capsule
  cgraph split image.cgraph --calibrate image=a.npy --max-error 0.02  # an ONNX model")]
pub struct SplitArgs {
    /// The full file
    #[arg(value_name = "FULL")]
    pub source: PathBuf,
    /// The mini [default: FULL with the ending .mini.cgraph]
    #[arg(short, value_name = "OUT.mini.cgraph")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub plan: PlanArgs,
    /// Print the plan as JSON
    #[arg(long)]
    pub json: bool,
}

/// Where a prompt comes from.
#[derive(Args, Debug)]
pub struct PromptArgs {
    /// The prompt
    #[arg(short, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "prompt_file")]
    pub prompt: Option<String>,
    /// Read the prompt from a file; one line feed at its end is left out
    #[arg(long, value_name = "F")]
    pub prompt_file: Option<PathBuf>,
}

/// Generate text, or run an ONNX model
///
/// An ONNX model takes its inputs from .npy files (--input) and writes outputs to such files (--output); without --output
/// every output is shown in a line. A language model takes a prompt: the text goes to stdout as it comes. Without -p the prompt is read from standard input; on a terminal a conversation
/// starts. All sampling options are zero by default: greedy. In a plain prompt the text of a special token counts as that
/// token.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cgraph run model.cgraph -p \"The capital of France is\" -n 16
  cgraph run model.cgraph --chat -p \"What is a capsule?\"
  cgraph run model.mini.cgraph --mode fast -p Hello --temperature 0.8 --top-p 0.95 --seed 7
  echo \"Once upon a time\" | cgraph run model.cgraph -n 64 --stop . --report report.json
  cgraph run classifier.cgraph --input image=cat.npy --output scores=scores.npy --memory 512MiB")]
pub struct RunArgs {
    /// A mini or a full file
    pub file: PathBuf,
    #[command(flatten)]
    pub prompt: PromptArgs,
    /// Take the prompt as a user's message and apply the model's chat template
    #[arg(long)]
    pub chat: bool,
    /// System message of a conversation [default: the template's own]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub system: Option<String>,
    #[command(flatten)]
    pub generate: GenerateArgs,
    #[command(flatten)]
    pub onnx: OnnxArgs,
    /// Write an output to a .npy file; may be given several times
    #[arg(long, value_name = "NAME=F.npy", value_parser = tensors::binding, help_heading = "ONNX models")]
    pub output: Vec<Binding>,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub report: ReportArgs,
}

/// Talk with a model
///
/// One line is one message. /exit or the end of input ends the conversation, /clear forgets it. Ctrl-C stops the current
/// answer.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cgraph chat model.cgraph
  cgraph chat model.mini.cgraph --mode fast --temperature 0.7 --seed 1
  cgraph chat model.cgraph --system \"Answer in one sentence.\" --ctx 8192")]
pub struct ChatArgs {
    /// A mini or a full file
    pub file: PathBuf,
    /// System message [default: the template's own]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub system: Option<String>,
    #[command(flatten)]
    pub generate: GenerateArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
}

/// Perplexity of a text, and the logits of every position
///
/// The tokens are cut into windows of --ctx (here at most 512 unless --ctx says more), each from position 0 and without
/// overlap. Perplexity is the exponential of the mean negative log-likelihood of every token but the first of its window,
/// given those before it in the window.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cgraph eval model.cgraph --text book.txt
  cgraph eval model.mini.cgraph --mode fast --text book.txt --ctx 1024 --json
  cgraph eval model.cgraph --tokens ids.json --logits logits.npy")]
pub struct EvalArgs {
    /// A mini or a full file
    pub file: PathBuf,
    /// A text file; special tokens that the model asks for are put around it, none is read from it
    #[arg(long, value_name = "F", required_unless_present = "tokens", conflicts_with = "tokens")]
    pub text: Option<PathBuf>,
    /// A JSON array of token ids, taken as they are
    #[arg(long, value_name = "IDS.json")]
    pub tokens: Option<PathBuf>,
    /// Write the raw logits of every position: f32, [tokens, vocab]
    #[arg(long, value_name = "OUT.npy")]
    pub logits: Option<PathBuf>,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub report: ReportArgs,
}

/// Text to token ids and back
///
/// Prints the ids of a text as a JSON array, or the text of ids.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cgraph tokenize model.cgraph -p \"Hello world\"
  cgraph tokenize model.gguf -p \"<|im_start|>user\" --special
  cgraph tokenize model.cgraph --bos -p \"Hello\"         # with the tokens that the model puts around a text
  cgraph tokenize model.cgraph --ids 1,2,3")]
pub struct TokenizeArgs {
    /// A .cgraph file or a GGUF model, one without tensors too
    pub file: PathBuf,
    #[command(flatten)]
    pub prompt: PromptArgs,
    /// Ids whose text is wanted
    #[arg(long, value_name = "1,2,3", value_parser = ids, conflicts_with_all = ["prompt", "prompt_file", "bos"])]
    pub ids: Option<Ids>,
    /// Read the text of a special token as that token; with --ids print special tokens too
    #[arg(long)]
    pub special: bool,
    /// Add the special tokens that the model puts around a text
    #[arg(long)]
    pub bos: bool,
    /// Print JSON: with --ids the text as a JSON string
    #[arg(long)]
    pub json: bool,
}

/// Take a capsule's tensors out of a file
///
/// Writes one file per tensor (.npy for f32 and for weights of ONNX models, .bin for raw bytes) and capsule.json, which
/// describes them; of an ONNX model also what the capsule computes, as a model of its own named CAPSULE.onnx. From a mini the
/// capsule is fetched at full precision through the link index; with --mode fast as the mini holds it.
///
/// No layout gives planes: a tensor that is stored in two comes joined. Of a nested capsule --mode fast has the first
/// planes alone: its tensors come in their own encoding and length, with the low bits filled in.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cgraph fetch model.cgraph block.0.attn
  cgraph fetch model.mini.cgraph block.3.ffn -o out --layout f32
  cgraph fetch onnx.cgraph segment.2 -o out       # out/segment.2.onnx and its weights
  cgraph inspect model.cgraph --capsules          # lists the capsules")]
pub struct FetchArgs {
    /// A mini or a full file
    pub file: PathBuf,
    /// The capsule, such as block.0.attn
    pub capsule: String,
    /// The directory [default: named as the capsule]
    #[arg(short, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// How the tensors are laid out
    #[arg(long, value_enum, default_value_t)]
    pub layout: LayoutArg,
    #[command(flatten)]
    pub source: FileArgs,
    /// Print the description as JSON
    #[arg(long)]
    pub json: bool,
}

/// What a file holds
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cgraph inspect model.cgraph
  cgraph inspect model.mini.cgraph --capsules
  cgraph inspect model.gguf --json
  cgraph inspect model.onnx                       # what it would be cut into
  cgraph inspect model.cgraph --yaml")]
pub struct InspectArgs {
    /// A .cgraph file, a GGUF model, one without tensors too, or an ONNX model
    pub file: PathBuf,
    /// Print JSON
    #[arg(long, conflicts_with = "yaml")]
    pub json: bool,
    /// Print YAML
    #[arg(long)]
    pub yaml: bool,
    /// List every capsule (of a GGUF model, every tensor; of an ONNX model, what it would be cut into)
    #[arg(long)]
    pub capsules: bool,
}

/// Check a file, and a mini against its full file
///
/// Without --deep only structure, bounds and the link index are checked, which reads no weights. Problems go to stdout;
/// the exit code is 1 where there are any.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cgraph verify model.cgraph --deep
  cgraph verify model.mini.cgraph --full /data/model.cgraph
  cgraph verify model.mini.cgraph --deep --repair   # rebuilds the mini where something is wrong")]
pub struct VerifyArgs {
    /// A mini or a full file
    pub file: PathBuf,
    /// Read everything and hold it against the checksums
    #[arg(long)]
    pub deep: bool,
    /// The mini's full file, where it is not the one beside it
    #[arg(long, value_name = "PATH")]
    pub full: Option<PathBuf>,
    /// Rebuild a mini with problems from its full file, and check it again
    #[arg(long)]
    pub repair: bool,
    /// Print what was found as JSON
    #[arg(long)]
    pub json: bool,
}

/// Token ids of one option.
#[derive(Clone, Debug)]
pub struct Ids(pub Vec<u32>);

fn ids(text: &str) -> Result<Ids, String> {
    let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
    let id = |part: &str| {
        let part = part.trim();
        part.parse::<u32>().map_err(|_| format!("\"{part}\" is no token id; write ids such as 1,2,3"))
    };
    inner.split(',').filter(|part| !part.trim().is_empty()).map(id).collect::<Result<_, _>>().map(Ids)
}

/// What each mode would do in a memory budget
///
/// Prints for each mode the smallest budget, the bytes of weights that stay in memory, those that each pass reads from the
/// disk, and the tokens that are expected of a pass and of a second on this machine, whose disk and memory are measured; what
/// mode auto takes, and why; and how long a mini may be. It is about one session with --ctx positions. --mode changes
/// nothing: all are shown. A budget that is too small for auto is no error: the last line says so, and in JSON taken is null.
///
/// Of an ONNX model it prints for each choice of --prepack the smallest budget, what stays of the weights, what each run reads
/// again, and the budget in which all stays; --mode counts.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cgraph plan model.mini.cgraph --memory 1GiB
  cgraph plan model.cgraph --memory 600MB --disk 3.5 --ctx 8192 --json
  cgraph plan classifier.cgraph --memory 64MiB           # an ONNX model")]
pub struct ForecastArgs {
    /// A mini or a full file
    pub file: PathBuf,
    /// Speed of the disk in GB/s [default: measured]
    #[arg(long, value_name = "GB/s", value_parser = rate)]
    pub disk: Option<f64>,
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Print the plan as JSON
    #[arg(long)]
    pub json: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| "it must be a number above 0".to_owned())
}

fn light(text: &str) -> Result<Light, String> {
    text.to_ascii_lowercase().parse().map_err(|e: Error| e.to_string())
}

fn whole(text: &str) -> Result<usize, String> {
    text.parse().map_err(|e: ParseIntError| match e.kind() {
        IntErrorKind::PosOverflow => "the number is too large".to_owned(),
        _ => "it must be a whole number".to_owned(),
    })
}

fn positive(text: &str) -> Result<usize, String> {
    text.parse::<usize>().ok().filter(|n| *n > 0).ok_or_else(|| "it must be a whole number from 1".to_owned())
}

/// A whole number of this range.
fn within(text: &str, range: RangeInclusive<usize>) -> Result<usize, String> {
    let number = text.parse().ok().filter(|n| range.contains(n));
    number.ok_or_else(|| format!("it must be a whole number from {} to {}", range.start(), range.end()))
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound_and_every_command_has_examples() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands_mut() {
            let help = sub.render_long_help().to_string();
            assert!(help.contains("Examples:"), "{}", sub.get_name());
        }
    }
}

//! Options of `cgraph bench`.

use std::path::PathBuf;

use capsulegraph::generate::bench::{BenchOptions, MAX_REPEAT};
use clap::Args;

use super::tensors::{Dim, dim};
use super::{ComputeArgs, OnnxArgs, ReportArgs, whole, within};

/// Speed of prefill and decode, as llama-bench reports them
///
/// Lengths may be lists; every length is tested at every depth: a short run that is not measured, then --repeat runs. ppN reads a prompt
/// of N tokens, tgN decodes N tokens one by one, passN evaluates N tokens together and gives the logits of each, as
/// speculative decoding verifies a draft; "@ dN" says that N tokens were in the context before. Prints mean and standard
/// deviation in tokens a second, the time to open the file and that from there to the first token after the first prompt.
///
/// Of an ONNX model the first run and --repeat further ones are measured, with inputs from .npy files (--input) or made up.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cgraph bench model.cgraph
  cgraph bench model.mini.cgraph --mode fast -p 128 -n 32 --threads 2
  cgraph bench model.cgraph -p 16,128,512 -n 0
  cgraph bench model.cgraph -p 0 -n 64 --depth 4096,1024,0     # a context is kept: the greatest first
  cgraph bench model.cgraph -p 0 -n 0 --pass 1,2,4,8 --depth 64
  cgraph bench model.cgraph -p 0 -n 64 --repeat 10 --json
  cgraph bench classifier.cgraph --dim batch=4          # an ONNX model, with inputs that are made up")]
pub struct BenchArgs {
    /// A mini or a full file
    pub file: PathBuf,
    /// Tokens of the prompt; 0 leaves the test out
    #[arg(short, value_name = "N,...", default_value = "512", value_delimiter = ',')]
    #[arg(value_parser = whole, allow_hyphen_values = true)]
    pub prompt: Vec<usize>,
    /// Tokens that are decoded; 0 leaves the test out
    #[arg(short, value_name = "N,...", default_value = "128", value_delimiter = ',')]
    #[arg(value_parser = whole, allow_hyphen_values = true)]
    pub n: Vec<usize>,
    /// Tokens of a pass that gives all their logits; 0 leaves the test out
    #[arg(long, value_name = "N,...", default_value = "0", value_delimiter = ',')]
    #[arg(value_parser = whole, allow_hyphen_values = true)]
    pub pass: Vec<usize>,
    /// Tokens in the context before a test
    #[arg(long, value_name = "N,...", default_value = "0", value_delimiter = ',')]
    #[arg(value_parser = whole, allow_hyphen_values = true)]
    pub depth: Vec<usize>,
    /// Measured repeats of each test
    #[arg(long, value_name = "R", allow_negative_numbers = true, default_value_t = 5, value_parser = repeats)]
    pub repeat: usize,
    #[command(flatten)]
    pub onnx: OnnxArgs,
    /// Length of the dimensions of this name in made-up inputs [default: 1]; may be given several times
    #[arg(long, value_name = "NAME=N", value_parser = dim, help_heading = "ONNX models")]
    pub dim: Vec<Dim>,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub report: ReportArgs,
}

impl BenchArgs {
    /// The library's options.
    pub fn options(&self) -> BenchOptions {
        BenchOptions {
            prompts: self.prompt.clone(),
            generate: self.n.clone(),
            passes: self.pass.clone(),
            depths: self.depth.clone(),
            repeat: self.repeat,
        }
    }
}

fn repeats(text: &str) -> Result<usize, String> {
    within(text, 1..=MAX_REPEAT)
}

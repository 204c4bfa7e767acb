//! Options of the commands that compute.

use capsulegraph::kernels::kv::KvFormat;
use capsulegraph::pool::{MAX_THREADS, Priority};
use clap::Args;

use super::{FileArgs, positive};
use crate::size;

/// Options of every command that computes.
#[derive(Args, Debug)]
#[command(next_help_heading = "Computing")]
pub struct ComputeArgs {
    #[command(flatten)]
    pub file: FileArgs,
    /// Memory budget, such as 512MiB or 1.5GB (refused: not built yet)
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub memory: Option<u64>,
    /// Threads that compute; 0: one per entry of --processors, else one per processor
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub threads: usize,
    /// Processors that the threads beside the main one may run on, such as 0,2-3 [default: all]
    #[arg(long, value_name = "LIST", value_parser = processors)]
    pub processors: Option<Processors>,
    /// How urgently those threads run: inherited, low or lowest
    #[arg(long, value_name = "PRIORITY", default_value = "inherited")]
    pub priority: Priority,
    /// Tokens evaluated together; 0: what suits the machine. It never changes a bit of the results
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub batch: usize,
    /// Context length in tokens [default: the model's, at most 4096]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub ctx: Option<usize>,
    /// How the KV cache stores keys and values: f16, or q8_0 for about half the memory
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    pub kv_type: KvFormat,
}

/// `--processors`: a type of its own, as clap would take a `Vec` for an option that is repeated.
#[derive(Clone, Debug)]
pub struct Processors(pub Vec<usize>);

/// Reads `0,2-3`.
fn processors(text: &str) -> Result<Processors, String> {
    let wrong = || format!("\"{text}\" is no list of processors such as 0,2-3");
    let mut list = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let [first, last] = [first, last].map(|number| number.trim().parse::<usize>().ok());
        match (first, last) {
            (Some(first), Some(last)) if first <= last && last - first < MAX_THREADS => {
                list.extend(first..=last)
            }
            _ => return Err(wrong()),
        }
    }
    Ok(Processors(list))
}

//! Options of the commands that compute.

use capsulegraph::kernels::kv::KvFormat;
use capsulegraph::pool::{MAX_THREADS, Priority};
use clap::Args;

use super::{FileArgs, positive, whole, within};
use crate::size;

/// Options of every command that computes.
#[derive(Args, Debug)]
#[command(next_help_heading = "Computing")]
pub struct ComputeArgs {
    #[command(flatten)]
    pub file: FileArgs,
    /// Bound on all memory of the model, such as 512MiB or 1.5GB; weights that do not fit are streamed [default: none]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub memory: Option<u64>,
    /// Threads that compute; 0: one per entry of --processors, else one per processor
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0, value_parser = threads)]
    pub threads: usize,
    /// Processors that the threads run on, such as 0,2-3; one thread each unless --threads says otherwise
    /// [default: all]
    #[arg(long, value_name = "LIST", allow_hyphen_values = true, value_parser = processors)]
    pub processors: Option<Processors>,
    /// How urgently the threads run: inherited, low or lowest
    #[arg(long, value_name = "PRIORITY", default_value = "inherited")]
    pub priority: Priority,
    /// Tokens evaluated together; 0: what suits the machine. It never changes a bit of the results
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0, value_parser = whole)]
    pub batch: usize,
    /// Context length in tokens [default: the model's, at most 4096]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = positive)]
    pub ctx: Option<usize>,
    /// How the KV cache stores keys and values: f16, or q8_0 for about half the memory
    #[arg(long, value_name = "TYPE", default_value = "f16")]
    pub kv_type: KvFormat,
    /// In mode speculative let the mini draft alone, without guessing that repeated text goes on as before
    #[arg(long)]
    pub no_lookup: bool,
}

/// `--processors`: a type of its own, as clap would take a `Vec` for an option that is repeated.
#[derive(Clone, Debug)]
pub struct Processors(pub Vec<usize>);

fn threads(text: &str) -> Result<usize, String> {
    within(text, 0..=MAX_THREADS)
}

/// Reads `0,2-3`.
fn processors(text: &str) -> Result<Processors, String> {
    let mut list = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let [first, last] = [first, last].map(|number| number.trim().parse::<usize>().ok());
        let (Some(first), Some(last)) = (first, last) else {
            return Err(format!("\"{text}\" is no list of processors such as 0,2-3"));
        };
        if first > last {
            return Err(format!("the range {part} runs backwards"));
        }
        if last - first >= MAX_THREADS - list.len() {
            return Err(format!("at most {MAX_THREADS} processors are possible"));
        }
        list.extend(first..=last);
    }
    Ok(Processors(list))
}

#[cfg(test)]
mod tests {
    use super::{processors, threads};

    #[test]
    fn lists_of_processors_are_read() {
        for (text, list) in [("7", &[7][..]), ("0,2-3", &[0, 2, 3]), ("1 - 2, 0", &[1, 2, 0])] {
            assert_eq!(processors(text).map(|read| read.0), Ok(list.to_vec()), "{text}");
        }
        assert_eq!(processors("0-1023").map(|read| read.0.len()), Ok(1024));
        for (text, why) in [
            ("", "is no list"),
            ("-1", "is no list"),
            ("0,,1", "is no list"),
            ("0,x", "is no list"),
            ("1-2-3", "is no list"),
            ("0,3-1", "the range 3-1 runs backwards"),
            ("0-1024", "at most 1024"),
            ("0-1023,7", "at most 1024"),
            ("0-18446744073709551615", "at most 1024"),
        ] {
            assert!(processors(text).is_err_and(|message| message.contains(why)), "{text}");
        }
    }

    #[test]
    fn numbers_of_threads_are_bounded() {
        assert_eq!([threads("0"), threads("1024")], [Ok(0), Ok(1024)]);
        for wrong in ["", "-1", "1025", "abc", "2.5"] {
            assert_eq!(threads(wrong), Err("it must be a whole number from 0 to 1024".into()), "{wrong}");
        }
    }
}

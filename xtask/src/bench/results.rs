//! What was measured: samples of every round, kept between runs in target/xtask/bench/results.json.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::run::Run;
use crate::shell::Outcome;

/// Prompt lengths, context lengths and tokens of a pass that are measured.
pub const PROMPTS: [usize; 4] = [16, 128, 512, 2048];
pub const DEPTHS: [usize; 3] = [0, 1024, 4096];
pub const PASSES: [usize; 6] = [1, 2, 4, 5, 8, 16];
/// The prompt after which the first token is timed, and the context before a pass.
pub const FIRST: usize = 16;
pub const PASS_DEPTH: usize = 64;

/// Who computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Engine {
    Ours,
    /// llama.cpp with the weights as the file has them.
    Mapped,
    /// llama.cpp with the weights repacked while the model is loaded.
    Repacked,
}

impl Engine {
    pub const ALL: [Self; 3] = [Self::Ours, Self::Mapped, Self::Repacked];
    pub const PEERS: [Self; 2] = [Self::Mapped, Self::Repacked];

    pub fn title(self) -> &'static str {
        match self {
            Self::Ours => "CapsuleGraph",
            Self::Mapped => "llama.cpp",
            Self::Repacked => "llama.cpp, repacked",
        }
    }
}

/// What a sample measures. Speeds are in tokens or bytes a second, times in milliseconds, sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Figure {
    /// Speed of a prompt of so many tokens, on so many threads.
    Prefill(usize, usize),
    /// Speed of decoding with so many tokens in the context, on so many threads.
    Decode(usize, usize),
    /// Speed of passes of so many tokens, on so many threads.
    Pass(usize, usize),
    /// Speed of decoding while another process keeps a core busy.
    Busy,
    /// Time to the first token with the file in the page cache, and not.
    Warm,
    Cold,
    /// Anonymous memory beyond what the process held at its start.
    Anonymous,
    /// Anonymous memory beyond KV cache and activations too.
    Beyond,
    Resident,
    /// Speed of the conversion in bytes written a second, and its memory.
    Convert,
    ConvertResident,
    /// The disk's own speeds beside them.
    DiskWrite,
    DiskRead,
    /// The speed of memory on so many threads, in the same round as the engines.
    MemoryRead(usize),
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefill(n, threads) => write!(f, "prefill of {n}, threads {threads}"),
            Self::Decode(depth, threads) => write!(f, "decode at {depth}, threads {threads}"),
            Self::Pass(n, threads) => write!(f, "pass of {n}, threads {threads}"),
            Self::Busy => f.write_str("decode beside a busy process"),
            Self::Warm => f.write_str("first token, warm"),
            Self::Cold => f.write_str("first token, cold"),
            Self::Anonymous => f.write_str("anonymous memory"),
            Self::Beyond => f.write_str("anonymous memory beyond KV cache and activations"),
            Self::Resident => f.write_str("resident memory"),
            Self::Convert => f.write_str("conversion"),
            Self::ConvertResident => f.write_str("resident memory of the conversion"),
            Self::DiskWrite => f.write_str("disk write"),
            Self::DiskRead => f.write_str("disk read"),
            Self::MemoryRead(threads) => write!(f, "memory read, threads {threads}"),
        }
    }
}

/// The median; of an even number of samples the mean of the two in the middle.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut values = samples.to_vec();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get((values.len().checked_sub(1)?) / 2)?, values.get(values.len() / 2)?);
    Some((low + high) / 2.0)
}

/// One model's samples and sizes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// The run that took the samples.
    pub run: Run,
    /// Length of the .cgraph file and of the .gguf.
    pub file_bytes: u64,
    pub source_bytes: u64,
    /// Weights that one token reads.
    pub weight_bytes: u64,
    /// KV cache of the longest context that was measured.
    pub kv_bytes: u64,
    pub samples: BTreeMap<Engine, BTreeMap<String, Vec<f64>>>,
}

impl Measured {
    pub fn add(&mut self, engine: Engine, figure: Figure, sample: f64) {
        self.samples.entry(engine).or_default().entry(figure.to_string()).or_default().push(sample);
    }

    /// The median of a figure's samples; of an even number the mean of the two in the middle.
    pub fn median(&self, engine: Engine, figure: Figure) -> Option<f64> {
        median(self.samples.get(&engine)?.get(&figure.to_string())?)
    }

    pub fn ours(&self, figure: Figure) -> Option<f64> {
        self.median(Engine::Ours, figure)
    }

    /// The higher of llama.cpp's two medians.
    pub fn fastest_peer(&self, figure: Figure) -> Option<f64> {
        Engine::PEERS.iter().filter_map(|e| self.median(*e, figure)).reduce(f64::max)
    }

    /// The lower of llama.cpp's two medians.
    pub fn shortest_peer(&self, figure: Figure) -> Option<f64> {
        Engine::PEERS.iter().filter_map(|e| self.median(*e, figure)).reduce(f64::min)
    }

    /// Our speed over llama.cpp's best.
    pub fn ratio(&self, figure: Figure) -> Option<f64> {
        Some(self.ours(figure)? / self.fastest_peer(figure)?)
    }

    /// The share of the machine's read bandwidth that decoding from an empty context takes.
    pub fn bandwidth_share(&self, threads: usize) -> Option<f64> {
        let rate = self.weight_bytes as f64 * self.ours(Figure::Decode(0, threads))?;
        Some(rate / self.ours(Figure::MemoryRead(threads))?)
    }

    /// What an engine's decoding keeps of its speed with so many tokens in the context.
    pub fn kept(&self, engine: Engine, depth: usize) -> Option<f64> {
        Some(self.median(engine, Figure::Decode(depth, 2))? / self.median(engine, Figure::Decode(0, 2))?)
    }
}

/// Everything that docs/performance.md is written from.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// The run that measured kernels and pool.
    pub run: Run,
    /// The kernels that `cargo bench --bench kernels -- --json` printed.
    pub kernels: Value,
    /// What `cargo bench --bench pool -- --json` printed.
    pub pool: Value,
    /// By `Model::name`.
    pub models: BTreeMap<String, Measured>,
    /// What peer.py's `agree` printed, in the run of the real model.
    pub agreement: Value,
}

impl Results {
    /// Those of earlier runs, or none.
    pub fn load(path: &Path) -> Outcome<Self> {
        let Ok(text) = fs::read_to_string(path) else { return Ok(Self::default()) };
        serde_json::from_str(&text).map_err(|e| {
            format!(
                "{} is not what this version writes ({e}); remove it and measure all models",
                path.display()
            )
        })
    }

    pub fn save(&self, path: &Path) -> Outcome {
        let text = serde_json::to_string_pretty(self).map_err(|e| e.to_string())?;
        fs::write(path, text + "\n").map_err(|e| format!("cannot write {}: {e}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Engine, Figure, Measured};

    #[test]
    fn medians_and_ratios() {
        let mut m = Measured::default();
        let figure = Figure::Decode(0, 2);
        assert_eq!(m.ratio(figure), None);
        for sample in [3.0, 1.0, 8.0] {
            m.add(Engine::Ours, figure, sample);
        }
        m.add(Engine::Mapped, figure, 1.0);
        m.add(Engine::Mapped, figure, 2.0);
        m.add(Engine::Repacked, figure, 1.0);
        assert_eq!((m.ours(figure), m.fastest_peer(figure)), (Some(3.0), Some(1.5)));
        assert_eq!((m.ratio(figure), m.shortest_peer(figure)), (Some(2.0), Some(1.0)));
    }
}

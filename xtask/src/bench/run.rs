//! A run of the benchmark: what was measured when, on what machine, and what that machine did at best.

use std::fs;
use std::process::Command;
use std::thread;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::setup;
use crate::shell::{Outcome, capture, root, run as shell};

/// Processors that a run may use: as many as threads compute.
const PROCESSORS: usize = 2;

/// Where and when samples were taken. Ratios and shares are taken within one run only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The short commit, with a + where the code differed from it.
    pub commit: String,
    /// UTC, to the minute.
    pub date: String,
    /// The processor's name and the number of processors.
    pub machine: String,
    /// The instruction set of the kernels.
    pub isa: String,
    /// The peer's package.
    pub peer: String,
    /// For each number of threads: `read` in bytes, `int8` and `f32` in multiply-adds a second.
    pub limits: Value,
}

impl Run {
    /// A run that begins now; `kernels` is what benches/kernels.rs printed.
    pub fn new(kernels: &Value) -> Outcome<Self> {
        Ok(Self {
            commit: commit()?,
            date: capture(Command::new("date").args(["-u", "+%F %H:%M"]))?.trim().to_owned(),
            machine: machine(),
            isa: kernels["isa"].as_str().unwrap_or("?").to_owned(),
            peer: setup::PEER_PACKAGE.to_owned(),
            limits: kernels["limits"].clone(),
        })
    }

    /// A limit of the machine with so many threads.
    pub fn limit(&self, name: &str, threads: usize) -> Option<f64> {
        limit(&self.limits, name, threads)
    }
}

/// One of the `limits` that benches/kernels.rs printed.
pub fn limit(limits: &Value, name: &str, threads: usize) -> Option<f64> {
    limits.as_array()?.iter().find(|l| l["threads"].as_u64() == Some(threads as u64))?[name].as_f64()
}

/// Documents are no code: the benchmark writes them itself.
fn commit() -> Outcome<String> {
    let git = |arguments: &[&str]| capture(Command::new("git").current_dir(root()).args(arguments));
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let changes = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs"])?;
    Ok(format!("{}{}", commit.trim(), if changes.is_empty() { "" } else { "+" }))
}

fn machine() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|l| l.starts_with(name));
        line.and_then(|l| l.split(':').nth(1)).map_or("?", str::trim).to_owned()
    };
    let count = text.lines().filter(|l| l.starts_with("processor")).count();
    format!("{} (family {}, {count} processors)", field("model name"), field("cpu family"))
}

/// Confines this process, and with it all that it starts, to the first processors: with more of them than threads
/// that compute, a busy process would be in nobody's way.
pub fn confine() -> Outcome {
    let there = thread::available_parallelism().map_err(|e| format!("cannot count processors: {e}"))?;
    if there.get() <= PROCESSORS {
        return Ok(());
    }
    let (first, process) = (format!("0-{}", PROCESSORS - 1), std::process::id().to_string());
    shell(Command::new("taskset").args(["--cpu-list", "--pid", &first, &process]))
}

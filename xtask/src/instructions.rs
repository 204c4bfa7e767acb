//! Instruction counts of the main kernels under callgrind, held against benches/instructions.json.
//!
//! Counts do not depend on what else the machine does, so a few percent are a finding. They do depend on the
//! compiler: the file names the one that wrote it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::setup;
use crate::shell::{Outcome, cache, capture, cargo, root};
use crate::verdict::Verdict;

/// Where the counts are kept.
const FILE: &str = "benches/instructions.json";
/// How far a count may be off. The folder of the checkout is part of the names by which the compiler divides its work,
/// and what it inlines differs with it: one kernel had 6% more instructions in another folder.
const TOLERANCE: f64 = 0.08;

#[derive(Debug, Serialize, Deserialize)]
struct Counts {
    /// The compiler that built the kernels.
    rustc: String,
    /// Instructions by kernel.
    counts: BTreeMap<String, u64>,
}

/// Counts and compares. Elsewhere than on x86-64 there is nothing to count.
pub fn check() -> Outcome<Verdict> {
    if !cfg!(target_arch = "x86_64") {
        println!("instruction counts are kept for x86-64 only");
        return Ok(Verdict::default());
    }
    let path = root().join(FILE);
    let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let wanted: Counts = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(compare(&wanted, &count()?))
}

/// Counts, compares, and says what is off.
pub fn run() -> Outcome {
    setup::programs()?;
    check()?.conclude("instruction counts")
}

/// Rewrites the file.
pub fn bless() -> Outcome {
    let text = serde_json::to_string_pretty(&count()?).map_err(|e| e.to_string())?;
    let path = root().join(FILE);
    fs::write(&path, text + "\n").map_err(|e| format!("cannot write {}: {e}", path.display()))
}

fn compare(wanted: &Counts, found: &Counts) -> Verdict {
    let compilers = if wanted.rustc == found.rustc {
        String::new()
    } else {
        format!(" ({} wrote the file, this is {})", wanted.rustc, found.rustc)
    };
    let mut verdict = Verdict::default();
    for (name, count) in &found.counts {
        let off = wanted.counts.get(name).map(|wanted| *count as f64 / (*wanted).max(1) as f64 - 1.0);
        match off {
            Some(off) if off.abs() <= TOLERANCE => verdict.good += 1,
            Some(off) => verdict.bad.push(format!(
                "{name}: {count}, {:+.1}% off {FILE}{compilers}; if that is meant: cargo xtask bless",
                100.0 * off
            )),
            None => verdict.bad.push(format!("{name}: not in {FILE}; run: cargo xtask bless")),
        }
    }
    let gone = wanted.counts.keys().filter(|name| !found.counts.contains_key(*name));
    verdict.bad.extend(gone.map(|name| format!("{name}: no longer counted; run: cargo xtask bless")));
    verdict
}

/// Builds benches/instructions.rs with full optimisation and counts what it runs.
fn count() -> Outcome<Counts> {
    let program = build()?;
    let folder = cache().join("callgrind");
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|e| format!("cannot clear {}: {e}", folder.display()))?;
    }
    fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--tool=callgrind"]);
    // Counting is on within the function only, and each return from it writes a part of its own. Valgrind keeps
    // one setting for each pattern, hence two patterns.
    valgrind.args(["--toggle-collect=instructions::counted*", "--dump-after=*::counted*"]);
    valgrind.arg(format!("--callgrind-out-file={}", folder.join("part").display()));
    let names = capture(valgrind.arg(program))?;
    let mut counts = BTreeMap::new();
    for (i, name) in names.lines().enumerate() {
        counts.insert(name.to_owned(), total(&folder.join(format!("part.{}", i + 1)))?);
    }
    let rustc = capture(Command::new(rustc()).arg("--version"))?.trim().to_owned();
    Ok(Counts { rustc, counts })
}

/// The compiler beside the cargo that runs us; another one may come first in the search path.
fn rustc() -> PathBuf {
    let beside = std::env::var_os("CARGO").map(|cargo| Path::new(&cargo).with_file_name("rustc"));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| "rustc".into())
}

/// The program's path, as cargo tells it.
fn build() -> Outcome<PathBuf> {
    let mut bench = cargo();
    bench.args(["bench", "--quiet", "--no-run", "--bench", "instructions", "--message-format", "json"]);
    let messages = capture(&mut bench)?;
    let message = |line: &str| serde_json::from_str::<Value>(line).ok();
    let path = messages.lines().filter_map(message).find_map(|message| {
        let own = message["target"]["name"] == "instructions";
        message["executable"].as_str().filter(|_| own).map(PathBuf::from)
    });
    path.ok_or_else(|| "cargo named no program for benches/instructions.rs".to_owned())
}

/// Instructions of one part of callgrind's output.
fn total(part: &Path) -> Outcome<u64> {
    let text = fs::read_to_string(part).map_err(|e| format!("cannot read {}: {e}", part.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    total
        .and_then(|t| t.trim().parse().ok())
        .filter(|t| *t > 0)
        .ok_or_else(|| format!("{} has no total; does valgrind know this processor?", part.display()))
}

#[cfg(test)]
mod tests {
    use super::{Counts, compare};

    fn counts(rustc: &str, list: &[(&str, u64)]) -> Counts {
        let counts = list.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Counts { rustc: rustc.to_owned(), counts }
    }

    #[test]
    fn a_few_percent_are_a_finding_in_either_direction() {
        let wanted = counts("1.0", &[("a", 1000), ("b", 1000), ("c", 1000), ("gone", 1)]);
        let found = counts("1.1", &[("a", 1079), ("b", 1081), ("c", 919), ("new", 1)]);
        let verdict = compare(&wanted, &found);
        assert_eq!((verdict.good, verdict.bad.len()), (1, 4));
        assert!(verdict.bad[0].contains("+8.1%") && verdict.bad[0].contains("1.0 wrote the file"));
        assert!(compare(&wanted, &wanted).bad.is_empty());
    }
}

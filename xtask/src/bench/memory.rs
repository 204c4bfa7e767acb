//! Both programs under a memory limit that the kernel holds: decoding in a cgroup of 120 to 25% of the file.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cgroup::Cgroup;
use super::disk;
use super::measure::{Programs, Subject};
use super::results::median;
use super::run::Run;
use super::{plot, tables};
use crate::shell::{Outcome, capture, root};

/// Limits in percent of our file's length.
const LIMITS: [u64; 5] = [120, 100, 75, 50, 25];
/// The models that are measured so.
pub const MODELS: [&str; 2] = ["1b-q8_0", "7b-q4_k_m"];
/// Part of the limit that is no part of our budget: what a program needs beside its model.
const BESIDE: u64 = 24 << 20;
/// Positions of our context: a few tokens are decoded.
const CONTEXT: usize = 64;
/// Tokens of two runs of ours, whose difference tells what a token reads.
const OURS: [usize; 2] = [3, 9];
/// Runs of ours, each after a look at the disk; medians count.
const ROUNDS: usize = 3;
/// Tokens of llama.cpp's run, which takes seconds a token once the file does not fit.
const THEIRS: usize = 3;

/// One engine under one limit.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Row {
    pub model: String,
    /// Of the code that was measured: models may be measured one by one.
    #[serde(default)]
    pub commit: String,
    /// Of the file's length.
    pub percent: u64,
    pub limit_bytes: u64,
    pub budget_bytes: u64,
    /// Tokens a second; absent where the process was killed.
    pub ours: Option<f64>,
    pub theirs: Option<f64>,
    /// Bytes that a token of ours reads from the disk, by the kernel's account.
    pub token_bytes: f64,
    /// Weights that one token needs, and those that stay.
    pub weight_bytes: u64,
    pub pinned_bytes: u64,
    /// KV cache and activations.
    pub beside_bytes: u64,
    /// Time that a token of ours waits for the disk.
    pub stall_ms: f64,
    /// Most memory of our cgroup.
    pub peak_bytes: u64,
    /// Direct reads of our file, bytes a second.
    pub disk_read: f64,
    /// Our decoding without any limit, tokens a second.
    pub unlimited: f64,
    /// Tokens a second that `cgraph plan` expects.
    #[serde(default)]
    pub planned: f64,
    /// The modes of a mini.
    #[serde(default)]
    pub modes: Vec<ModeRow>,
}

/// A mode of the model's mini under a limit.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ModeRow {
    pub mode: String,
    /// The one that `auto` took.
    pub taken: String,
    /// Tokens a second; absent where the budget was refused.
    pub speed: Option<f64>,
    pub token_bytes: f64,
    pub stall_ms: f64,
    pub peak_bytes: u64,
}

/// The modes of a mini that are measured.
const MODES: [&str; 4] = ["exact", "speculative", "fast", "auto"];

/// What was measured under limits, and by which run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MemoryResults {
    pub run: Run,
    pub rows: Vec<Row>,
}

impl MemoryResults {
    /// Those of an earlier run, or none.
    pub fn load(path: &Path) -> Self {
        fs::read_to_string(path).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// In the order of the models, whichever were measured last.
    pub fn sort(&mut self) {
        self.rows.sort_by_key(|row| MODELS.iter().position(|name| *name == row.model));
    }

    pub fn save(&self, path: &Path) -> Outcome {
        let text = serde_json::to_string_pretty(self).map_err(|e| e.to_string())?;
        fs::write(path, text + "\n").map_err(|e| format!("cannot write {}: {e}", path.display()))
    }
}

impl Row {
    /// The tokens a second that the disk and computing allow at best with these pins.
    fn bound(&self) -> f64 {
        let streamed = self.weight_bytes.saturating_sub(self.pinned_bytes) as f64;
        self.unlimited.min(self.disk_read / streamed.max(1.0))
    }

    /// Our speed against llama.cpp's; infinite where that was killed.
    pub fn ratio(&self) -> Option<f64> {
        Some(self.ours? / self.theirs.unwrap_or(0.0))
    }

    /// What a token reads of the weights that are not pinned; 0 where all are.
    pub fn read_share(&self) -> f64 {
        let unpinned = self.weight_bytes.saturating_sub(self.pinned_bytes) as f64;
        if unpinned > 0.0 { self.token_bytes / unpinned } else { 0.0 }
    }

    /// Our speed against the bound.
    pub fn of_bound(&self) -> f64 {
        self.ours.unwrap_or(0.0) / self.bound()
    }

    /// What of the budget is neither pins nor KV cache nor activations, in MiB.
    pub fn unused_mib(&self) -> f64 {
        let used = self.pinned_bytes + self.beside_bytes;
        self.budget_bytes.min(self.weight_bytes + self.beside_bytes).saturating_sub(used) as f64
            / f64::from(1 << 20)
    }

    /// What the cgroup's peak is over the budget, in MB.
    pub fn over_mb(&self) -> f64 {
        (self.peak_bytes as f64 - self.budget_bytes as f64) / 1e6
    }
}

impl MemoryResults {
    /// The table of docs/memory.md.
    pub fn table(&self) -> String {
        let Run { date, machine, peer, .. } = &self.run;
        let commit = |model: &&str| {
            let row = self.rows.iter().find(|row| row.model == *model)?;
            Some(format!("{model} at commit {}", row.commit))
        };
        let commits: Vec<String> = MODELS.iter().filter_map(commit).collect();
        let mut text = format!("{}; {date} UTC; {machine}; peer: {peer}.\n\n", commits.join(", "));
        let titles = [
            "model",
            "limit",
            "CapsuleGraph, tokens/s",
            "llama.cpp",
            "ratio",
            "pinned, MB",
            "read a token, MB",
            "of what is not pinned",
            "of the bound",
            "of the plan",
            "waiting, ms a token",
            "peak over the budget, MB",
        ];
        let mega = |bytes: f64| format!("{:.0}", bytes / 1e6);
        let rows = self.rows.iter().map(|row| {
            let ours = row.ours.unwrap_or(0.0);
            let share = row.read_share();
            vec![
                row.model.clone(),
                format!("{}%", row.percent),
                tables::show(row.ours),
                row.theirs.map_or_else(|| "killed".to_owned(), |speed| tables::show(Some(speed))),
                tables::show(row.ratio().filter(|ratio| ratio.is_finite())),
                mega(row.pinned_bytes as f64),
                mega(row.token_bytes),
                if share > 0.0 { tables::percent(Some(share)) } else { String::new() },
                tables::percent(Some(row.of_bound())),
                tables::percent((row.planned > 0.0).then(|| ours / row.planned)),
                tables::show(Some(row.stall_ms)),
                format!("{:.1}", row.over_mb()),
            ]
        });
        text += &tables::table(&titles, rows);
        text + &self.modes()
    }

    /// The table of the modes.
    fn modes(&self) -> String {
        let titles = [
            "model",
            "limit",
            "mode of the mini",
            "tokens/s",
            "read a token, MB",
            "waiting, ms a token",
            "peak over the budget, MB",
        ];
        let rows = self.rows.iter().flat_map(|row| {
            row.modes.iter().map(move |mode| {
                let taken = if mode.taken == mode.mode { String::new() } else { format!(": {}", mode.taken) };
                let mut cells =
                    vec![row.model.clone(), format!("{}%", row.percent), format!("{}{taken}", mode.mode)];
                cells.extend(match mode.speed {
                    None => ["does not fit".to_owned(), String::new(), String::new(), String::new()],
                    Some(_) => [
                        tables::show(mode.speed),
                        format!("{:.0}", mode.token_bytes / 1e6),
                        tables::show(Some(mode.stall_ms)),
                        format!("{:.1}", (mode.peak_bytes as f64 - row.budget_bytes as f64) / 1e6),
                    ],
                });
                cells
            })
        });
        let rows: Vec<Vec<String>> = rows.collect();
        if rows.is_empty() {
            return String::new();
        }
        let why = "\nTheir weights are random, so that a mini's guesses never hold: these rows show what the modes cost at worst.\n\n";
        why.to_owned() + &tables::table(&titles, rows)
    }

    /// The picture of docs/plots: speed by limit, ours, llama.cpp's and the bound.
    pub fn plot(&self) -> String {
        let lines = [
            ("CapsuleGraph", "#2464b4", (|row: &Row| row.ours) as fn(&Row) -> Option<f64>),
            ("llama.cpp", "#d08422", |row| row.theirs),
            ("bound", "#85888f", |row| Some(row.bound())),
        ];
        let models: Vec<(&str, Vec<&Row>)> = MODELS
            .iter()
            .map(|name| (*name, self.rows.iter().filter(|row| row.model == *name).rev().collect()))
            .collect();
        plot::by_label("Decode by memory limit, 2 threads (tokens/s)", &models, &lines, |row: &Row| {
            format!("{}%", row.percent)
        })
    }
}

impl Programs {
    /// A model under every limit.
    pub fn limited(
        &self,
        subject: &Subject<'_>,
        weight_bytes: u64,
        commit: &str,
        say: &dyn Fn(&str),
    ) -> Outcome<Vec<Row>> {
        let length = super::measure::length(&subject.converted)?;
        let unlimited = number(&self.ours_in(subject, None, None, OURS[1])?.0, "decode_tokens_per_s")?;
        say(&format!("{}: a mini", subject.model.title));
        // Anew: another planner would make another one.
        let mini = self.mini(&subject.converted, None)?;
        let mut rows = Vec::new();
        for percent in LIMITS {
            say(&format!("{}: a limit of {percent}%", subject.model.title));
            let limit_bytes = length * percent / 100;
            let budget_bytes = limit_bytes - BESIDE;
            let model = subject.model.name.to_owned();
            let mut row = Row {
                model,
                commit: commit.to_owned(),
                percent,
                limit_bytes,
                budget_bytes,
                weight_bytes,
                unlimited,
                ..Row::default()
            };
            self.own_row(subject, &mut row)?;
            row.planned = self.planned(subject, budget_bytes)?;
            row.theirs = self.peer_in(subject, limit_bytes)?;
            for mode in MODES {
                row.modes.push(self.mode_row(subject, &mini, mode, &row)?);
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// Mode exact of the full file, and the disk beside it: a disk that others use too is not the same a minute later.
    fn own_row(&self, subject: &Subject<'_>, row: &mut Row) -> Outcome {
        let mut read = [0.0; 2];
        let (mut speeds, mut disks) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            disks.push(disk::direct_read(&subject.converted)?);
            // What a token reads is the same in every round.
            let first = if round == 0 { 0 } else { 1 };
            for (read, tokens) in read.iter_mut().zip(OURS).skip(first) {
                let (report, bytes, peak) =
                    self.ours_in(subject, Some(row.limit_bytes), Some(row.budget_bytes), tokens)?;
                *read = bytes as f64;
                if tokens == OURS[1] {
                    speeds.push(number(&report, "decode_tokens_per_s")?);
                }
                row.peak_bytes = row.peak_bytes.max(peak);
                let memory = &report["memory"];
                row.pinned_bytes = number(memory, "pinned_bytes")? as u64;
                row.beside_bytes = (number(memory, "kv_bytes")? + number(memory, "buffers_bytes")?) as u64;
                // The run that is not measured decodes as many tokens first, and reads the pins.
                row.stall_ms = number(&report["capsules"], "stall_ms")? / (2 * tokens) as f64;
            }
        }
        row.ours = median(&speeds);
        row.disk_read = median(&disks).unwrap_or(0.0);
        row.token_bytes = (read[1] - read[0]) / (2 * (OURS[1] - OURS[0])) as f64;
        Ok(())
    }

    /// Tokens a second that `cgraph plan` expects of mode exact.
    fn planned(&self, subject: &Subject<'_>, budget: u64) -> Outcome<f64> {
        let mut command = Command::new(&self.cgraph);
        command.arg("plan").arg(&subject.converted).args(["--memory", &budget.to_string(), "--json"]);
        let output = capture(command.args(["--threads", "2", "--ctx", &CONTEXT.to_string()]))?;
        let plan: Value = serde_json::from_str(&output).map_err(|e| format!("no JSON ({e}): {output}"))?;
        number(&plan["modes"][0], "tokens_per_s")
    }

    /// One mode of the model's mini.
    fn mode_row(&self, subject: &Subject<'_>, mini: &Path, mode: &str, row: &Row) -> Outcome<ModeRow> {
        let mut found = ModeRow { mode: mode.to_owned(), ..ModeRow::default() };
        let mut read = [0.0; 2];
        for (read, tokens) in read.iter_mut().zip(OURS) {
            let limits = (Some(row.limit_bytes), Some(row.budget_bytes));
            disk::evict(mini)?;
            let Some((report, bytes, peak)) = self.decode_in(mini, mode, limits, tokens, subject)? else {
                return Ok(found);
            };
            *read = bytes as f64;
            found.speed = Some(number(&report, "decode_tokens_per_s")?);
            found.taken = report["mode"].as_str().unwrap_or_default().to_owned();
            found.stall_ms = number(&report["capsules"], "stall_ms")? / (2 * tokens) as f64;
            found.peak_bytes = found.peak_bytes.max(peak);
        }
        found.token_bytes = ((read[1] - read[0]) / (2 * (OURS[1] - OURS[0])) as f64).max(0.0);
        Ok(found)
    }

    /// Our report of mode exact, the bytes read and the peak of the cgroup.
    fn ours_in(
        &self,
        subject: &Subject<'_>,
        limit: Option<u64>,
        budget: Option<u64>,
        tokens: usize,
    ) -> Outcome<(Value, u64, u64)> {
        self.decode_in(&subject.converted, "exact", (limit, budget), tokens, subject)?.ok_or_else(|| {
            format!("cgraph did not end well with a budget of {budget:?} bytes in a cgroup of {limit:?}")
        })
    }

    /// The same of any mode of a file; `None` where it ended with an error.
    fn decode_in(
        &self,
        file: &Path,
        mode: &str,
        (limit, budget): (Option<u64>, Option<u64>),
        tokens: usize,
        subject: &Subject<'_>,
    ) -> Outcome<Option<(Value, u64, u64)>> {
        let mut command = Command::new(&self.cgraph);
        command.arg("bench").arg(file).args(["--mode", mode, "--threads", "2", "--json"]);
        command.args(["--repeat", "1", "-p", "0", "-n", &tokens.to_string(), "--ctx", &CONTEXT.to_string()]);
        if let Some(budget) = budget {
            command.args(["--memory", &budget.to_string()]);
        }
        disk::evict(&subject.converted)?;
        // Without a limit of its own the process gets one that binds nothing.
        let finished = Cgroup::new(limit.unwrap_or(1 << 40))?.run(&command)?;
        let Some(output) = finished.output else { return Ok(None) };
        let report = serde_json::from_str(&output).map_err(|e| format!("no JSON ({e}): {output}"))?;
        Ok(Some((report, finished.read_bytes, finished.peak_bytes)))
    }

    /// llama.cpp's tokens a second, the file mapped; `None` where it was killed.
    fn peer_in(&self, subject: &Subject<'_>, limit: u64) -> Outcome<Option<f64>> {
        let Some(python) = &self.python else { return Ok(None) };
        let mut command = Command::new(python);
        command.arg(root().join("xtask/python/peer.py")).arg("speed").arg(&subject.source);
        command.args(["--no-repack", "--threads", "2", "--depth", "0", "--generate", &THEIRS.to_string()]);
        disk::evict(&subject.source)?;
        let finished = Cgroup::new(limit)?.run(&command)?;
        let Some(output) = finished.output else { return Ok(None) };
        let report: Value =
            serde_json::from_str(output.trim()).map_err(|e| format!("no JSON ({e}): {output}"))?;
        Ok(Some(number(&report["decode"], "0")?))
    }
}

fn number(report: &Value, key: &str) -> Outcome<f64> {
    report[key].as_f64().ok_or_else(|| format!("the report has no number {key}: {report}"))
}

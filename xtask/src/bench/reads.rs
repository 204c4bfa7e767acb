//! Direct reads of a big file: by threads that wait for theirs, and by one thread through `io_uring`; into pages of the
//! usual size and into huge ones; how many at once, how long each, what they cost.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::disk;
use super::run::Run;
use super::tables;
use crate::shell::Outcome;

/// Reads under way at once.
pub const DEPTHS: [usize; 4] = [1, 2, 4, 8];
/// Bytes of a read.
pub const SIZES: [usize; 4] = [256 << 10, 1 << 20, 2 << 20, 4 << 20];
/// How long one candidate reads in a round.
pub const SPAN: Duration = Duration::from_millis(300);
/// Rounds, each of which measures every candidate.
pub const ROUNDS: usize = 7;

/// Who waits for a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    Threads,
    IoUring,
}

/// What memory that is read into consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pages {
    Small,
    Huge,
}

/// The table's groups of lines.
pub const KINDS: [(Way, Pages); 4] = [
    (Way::Threads, Pages::Small),
    (Way::Threads, Pages::Huge),
    (Way::IoUring, Pages::Small),
    (Way::IoUring, Pages::Huge),
];

/// The samples of one candidate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub way: Way,
    pub pages: Pages,
    pub depth: usize,
    pub size: usize,
    /// Bytes a second.
    pub rates: Vec<f64>,
    /// Seconds of a processor for a byte, the system's work included.
    pub costs: Vec<f64>,
}

/// What reading costs, and in which run that was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReadResults {
    run: Run,
    rows: Vec<Row>,
    /// What the kernel said to `io_uring`, where it refused.
    refused: Option<String>,
}

impl ReadResults {
    /// Those of an earlier run, or none.
    pub fn load(path: &Path) -> Self {
        fs::read_to_string(path).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn save(&self, path: &Path) -> Outcome {
        let text = serde_json::to_string_pretty(self).map_err(|e| e.to_string())?;
        fs::write(path, text + "\n").map_err(|e| format!("cannot write {}: {e}", path.display()))
    }

    /// Measures every candidate in every round.
    pub fn measure(folder: &Path, rounds: usize, run: Run, say: &dyn Fn(&str)) -> Outcome<Self> {
        let (rows, refused) = disk::time_reads(folder, rounds, say)?;
        Ok(Self { run, rows, refused })
    }

    /// The table of docs/memory.md.
    pub fn table(&self) -> String {
        if self.is_empty() {
            return "Nothing is measured yet.\n".to_owned();
        }
        let Run { commit, date, machine, .. } = &self.run;
        let rounds = self.rows.first().map_or(0, |row| row.rates.len());
        let mut text = format!(
            "Commit {commit}, {date} UTC; {machine}. GB/s, and in brackets milliseconds of a processor for a GB; medians \
             of {rounds} rounds of {} s.\n\n",
            SPAN.as_secs_f64()
        );
        if let Some(reason) = &self.refused {
            let _ = writeln!(text, "The kernel refuses io_uring here: {reason}.\n");
        }
        let mut titles = vec!["reads".to_owned()];
        titles.extend(SIZES.map(|size| match size >> 20 {
            0 => format!("{} KiB", size >> 10),
            mega => format!("{mega} MiB"),
        }));
        let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
        let lines = KINDS.into_iter().flat_map(|kind| DEPTHS.map(|depth| (kind, depth)));
        let lines = lines.map(|((way, pages), depth)| {
            let mut name = match (way, depth) {
                (Way::Threads, 1) => "1 thread".to_owned(),
                (Way::Threads, _) => format!("{depth} threads"),
                (Way::IoUring, _) => format!("io_uring, {depth} in flight"),
            };
            if pages == Pages::Huge {
                name += ", huge pages";
            }
            let cell = |size| {
                let mut rows = self.rows.iter();
                let row = rows.find(|r| (r.way, r.pages, r.depth, r.size) == (way, pages, depth, size));
                row.map_or_else(
                    || "refused".to_owned(),
                    |row| format!("{:.2} ({:.0})", median(&row.rates) / 1e9, median(&row.costs) * 1e12),
                )
            };
            [name].into_iter().chain(SIZES.map(cell)).collect()
        });
        text += &tables::table(&titles, lines);
        text
    }
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let [low, high] = [sorted.len().saturating_sub(1) / 2, sorted.len() / 2];
    (sorted.get(low).unwrap_or(&0.0) + sorted.get(high).unwrap_or(&0.0)) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_cell_for_every_candidate_and_says_what_was_refused() {
        let (pages, size) = (Pages::Small, 1 << 20);
        let row = |way, rate| Row { way, pages, depth: 2, size, rates: vec![rate; 3], costs: vec![1e-10; 3] };
        let mut results = ReadResults { rows: vec![row(Way::Threads, 2e9)], ..ReadResults::default() };
        results.refused = Some("not here".to_owned());
        let text = results.table();
        assert!(text.contains("not here") && text.contains("2.00 (100)"), "{text}");
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[1.0, 2.0]) - 1.5).abs() < 1e-9);
    }
}

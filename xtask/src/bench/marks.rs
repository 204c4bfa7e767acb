//! What is demanded: ratios within one run, on the same files and threads.
//!
//! A mark that stays short may have a floor in benches/floors.json: the best figure that was agreed on. The bench
//! fails where a mark without a floor is missed, and where a figure is more than a tenth worse than its floor.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::models::{MODELS, Model};
use super::results::{Figure, Measured, Results};
use crate::shell::Outcome;

/// The floors, by [`Mark::id`].
pub type Floors = BTreeMap<String, f64>;

pub const FLOORS: &str = "benches/floors.json";
/// How much worse than its floor a figure may be.
const TOLERANCE: f64 = 0.1;

/// Which side of the wanted figure is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    AtLeast,
    AtMost,
}

/// One demand and how it is met.
#[derive(Clone, Debug)]
pub struct Mark {
    /// What floors name it by: model and demand.
    pub id: String,
    pub figure: f64,
    pub wanted: f64,
    pub side: Side,
    pub unit: &'static str,
    /// Another figure that meets the mark in place of the first, and what is wanted of it.
    pub instead: Option<(f64, f64)>,
}

/// A floor and whether the figure holds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    Met,
    /// Short of the mark, but not of its floor.
    Short(f64),
    /// More than a tenth worse than its floor.
    Fallen(f64),
    /// Short, and there is no floor.
    Missed,
}

impl Mark {
    pub fn verdict(&self, floors: &Floors) -> Verdict {
        let good = |figure: f64, wanted: f64| match self.side {
            Side::AtLeast => figure >= wanted,
            Side::AtMost => figure <= wanted,
        };
        if good(self.figure, self.wanted) || self.instead.is_some_and(|(figure, wanted)| figure >= wanted) {
            return Verdict::Met;
        }
        let factor = match self.side {
            Side::AtLeast => 1.0 - TOLERANCE,
            Side::AtMost => 1.0 + TOLERANCE,
        };
        match floors.get(&self.id) {
            Some(floor) if good(self.figure, floor * factor) => Verdict::Short(*floor),
            Some(floor) => Verdict::Fallen(*floor),
            None => Verdict::Missed,
        }
    }
}

/// The floors, none where there is no file.
pub fn floors(path: &Path) -> Outcome<Floors> {
    let Ok(text) = fs::read_to_string(path) else { return Ok(Floors::new()) };
    serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Fails and names every mark that is missed or has fallen under its floor.
pub fn guard(marks: &[Mark], floors: &Floors) -> Outcome {
    let bad = |m: &&Mark| matches!(m.verdict(floors), Verdict::Missed | Verdict::Fallen(_));
    let lines: Vec<String> = marks
        .iter()
        .filter(bad)
        .map(|m| match m.verdict(floors) {
            Verdict::Fallen(floor) => format!("{}: {:.3}, its floor is {floor:.3}", m.id, m.figure),
            _ => format!("{}: {:.3}, wanted {:.3}; no floor in {FLOORS}", m.id, m.figure, m.wanted),
        })
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    Err(format!("{} of {} marks are missed:\n  {}", lines.len(), marks.len(), lines.join("\n  ")))
}

/// Every mark whose figures were measured.
pub fn all(results: &Results) -> Vec<Mark> {
    let measured = MODELS.iter().filter_map(|m| Some((m, results.models.get(m.name)?)));
    measured.flat_map(|(model, measured)| of_model(model, measured, results)).collect()
}

fn of_model(model: &Model, m: &Measured, results: &Results) -> Vec<Mark> {
    use Side::{AtLeast, AtMost};
    let mut marks = Vec::new();
    let mut mark = |what: &str, figure: Option<f64>, side: Side, wanted: f64, unit: &'static str| {
        if let Some(figure) = figure {
            let id = format!("{}: {what}", model.name);
            marks.push(Mark { id, figure, wanted, side, unit, instead: None });
        }
    };
    let relative = "x llama.cpp";
    for threads in [2, 1] {
        let figure = m.ratio(Figure::Decode(0, threads));
        mark(&format!("decode, threads {threads}"), figure, AtLeast, 1.25, relative);
    }
    mark("prefill of 512", m.ratio(Figure::Prefill(512, 2)), AtLeast, model.prefill, relative);
    mark("time of a pass of 5", m.ratio(Figure::Pass(5, 2)).map(f64::recip), AtMost, 0.55, relative);
    mark("decode beside a busy process", busy(m), AtLeast, 0.45, "of the quiet speed");
    mark("first token, warm", time_ratio(m, Figure::Warm), AtMost, model.first, relative);
    mark("first token, cold", time_ratio(m, Figure::Cold), AtMost, 1.0, relative);
    mark("first token, cold, by the disk", cold_share(m), AtMost, 1.15, "x max(disk, warm)");
    let megabytes = m.ours(Figure::Beyond).map(|bytes| bytes / 1e6);
    mark("memory beyond KV cache and activations", megabytes, AtMost, 30.0, "MB");
    mark("decode at 4k kept", kept(m), AtLeast, 1.0, relative);
    if let (Some(own), Some(disk)) = (m.ours(Figure::Convert), m.ours(Figure::DiskWrite)) {
        mark("conversion", Some(own / disk), AtLeast, 0.6, "of the disk's writing");
        let megabytes = m.ours(Figure::ConvertResident).map(|bytes| bytes / 1e6);
        mark("memory of the conversion", megabytes, AtMost, 300.0, "MB");
    }
    for threads in [2, 1] {
        let id = format!("{}: decode, threads {threads}", model.name);
        let share = bandwidth_share(m, results, threads);
        if let Some(mark) = marks.iter_mut().find(|mark| mark.id == id) {
            mark.instead = share.map(|share| (share, 0.85));
        }
    }
    marks
}

/// The share of the read bandwidth that decoding from an empty context takes.
pub fn bandwidth_share(m: &Measured, results: &Results, threads: usize) -> Option<f64> {
    Some(m.weight_rate(threads)? / results.limit("read", threads)?)
}

/// Our time over llama.cpp's shorter one.
pub fn time_ratio(m: &Measured, figure: Figure) -> Option<f64> {
    Some(m.ours(figure)? / m.shortest_peer(figure)?)
}

/// Our decoding beside a busy process over the quiet one.
pub fn busy(m: &Measured) -> Option<f64> {
    Some(m.ours(Figure::Busy)? / m.ours(Figure::Decode(0, 2))?)
}

/// Milliseconds that the file takes from the disk at best, or the warm time where that is longer.
pub fn cold_bound(m: &Measured) -> Option<f64> {
    let disk = 1e3 * m.file_bytes as f64 / m.ours(Figure::DiskRead)?;
    Some(disk.max(m.ours(Figure::Warm)?))
}

fn cold_share(m: &Measured) -> Option<f64> {
    Some(m.ours(Figure::Cold)? / cold_bound(m)?)
}

/// What decoding keeps of its speed at 4k tokens, over what llama.cpp keeps.
fn kept(m: &Measured) -> Option<f64> {
    Some(m.ratio(Figure::Decode(4096, 2))? / m.ratio(Figure::Decode(0, 2))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::results::Engine;

    fn mark(figure: f64, side: Side, instead: Option<(f64, f64)>) -> Mark {
        Mark { id: "m".into(), figure, wanted: 1.0, side, unit: "", instead }
    }

    #[test]
    fn verdicts() {
        use Side::{AtLeast, AtMost};
        let floors = Floors::from([("m".to_owned(), 0.8)]);
        assert_eq!(mark(1.0, AtLeast, None).verdict(&floors), Verdict::Met);
        assert_eq!(mark(0.73, AtLeast, None).verdict(&floors), Verdict::Short(0.8));
        assert_eq!(mark(0.71, AtLeast, None).verdict(&floors), Verdict::Fallen(0.8));
        assert_eq!(mark(0.5, AtLeast, Some((0.9, 0.85))).verdict(&floors), Verdict::Met);
        assert_eq!(mark(0.5, AtLeast, Some((0.8, 0.85))).verdict(&floors), Verdict::Fallen(0.8));
        assert_eq!(mark(1.1, AtMost, None).verdict(&Floors::new()), Verdict::Missed);
        let floors = Floors::from([("m".to_owned(), 1.2)]);
        assert_eq!(mark(1.3, AtMost, None).verdict(&floors), Verdict::Short(1.2));
        assert_eq!(mark(1.33, AtMost, None).verdict(&floors), Verdict::Fallen(1.2));
        assert!(guard(&[mark(1.3, AtMost, None)], &floors).is_ok());
        assert!(guard(&[mark(1.4, AtMost, None)], &floors).is_err());
    }

    #[test]
    fn marks_are_ratios_against_the_better_peer() {
        let mut m = Measured { file_bytes: 1000, weight_bytes: 10, ..Measured::default() };
        for (engine, decode, warm) in
            [(Engine::Ours, 4.0, 5.0), (Engine::Mapped, 2.0, 10.0), (Engine::Repacked, 1.0, 20.0)]
        {
            m.add(engine, Figure::Decode(0, 2), decode);
            m.add(engine, Figure::Decode(4096, 2), decode / 2.0);
            m.add(engine, Figure::Warm, warm);
            m.add(engine, Figure::Cold, 2.0 * warm);
        }
        m.add(Engine::Ours, Figure::DiskRead, 100_000.0);
        let limits = serde_json::json!({ "limits": [{ "threads": 2, "read": 50.0 }] });
        let mut results = Results { kernels: limits, ..Results::default() };
        results.models.insert("smollm2".into(), m);
        let marks = all(&results);
        let figure = |what: &str| {
            let id = format!("smollm2: {what}");
            marks.iter().find(|m| m.id == id).map(|m| (m.figure, m.instead))
        };
        assert_eq!(figure("decode, threads 2"), Some((2.0, Some((0.8, 0.85)))));
        assert_eq!(figure("decode, threads 1"), None);
        assert_eq!(figure("first token, warm"), Some((0.5, None)));
        assert_eq!(figure("first token, cold"), Some((0.5, None)));
        assert_eq!(figure("first token, cold, by the disk"), Some((1.0, None)));
        assert_eq!(figure("decode at 4k kept"), Some((1.0, None)));
    }
}

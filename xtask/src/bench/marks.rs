//! What is demanded: ratios within one run, on the same files and threads.
//!
//! A mark that stays short may have a floor in benches/floors.json: the best figure that was agreed on. The bench
//! fails where a mark without a floor is missed, and where a figure is more than a tenth worse than its floor. Few
//! demands may stay short: see [`SHORT_ROWS`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::drafts::{DraftResults, FIRSTS};
use super::memory::{MemoryResults, Row};
use super::minis;
use super::models::{MODELS, Model};
use super::results::{Engine, Figure, Measured, Results};
use super::speculate::{CASES, SAMPLINGS};
use crate::shell::Outcome;

/// The floors, by [`Mark::id`].
pub type Floors = BTreeMap<String, f64>;

pub const FLOORS: &str = "benches/floors.json";
/// How much worse than its floor a figure may be.
const TOLERANCE: f64 = 0.1;
/// Rows of the demands of which some models may stay short.
const SHORT_ROWS: usize = 2;

/// Which side of the wanted figure is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    AtLeast,
    AtMost,
}

/// What is demanded of every model.
struct Demand {
    /// Those of one name are one demand in several parts.
    row: &'static str,
    what: &'static str,
    figure: fn(&Measured) -> Option<f64>,
    side: Side,
    wanted: fn(&Model) -> f64,
    unit: &'static str,
    instead: fn(&Measured) -> Option<(f64, f64)>,
    applies: fn(&Model) -> bool,
}

/// A speed of ours against llama.cpp's.
const SPEED: Demand = Demand {
    row: "",
    what: "",
    figure: |_| None,
    side: Side::AtLeast,
    wanted: |_| 1.0,
    unit: "x llama.cpp",
    instead: |_| None,
    applies: |_| true,
};
const DECODE: Demand = Demand { row: "decode", wanted: |_| 1.25, ..SPEED };
/// A time of ours against llama.cpp's, or anything else that is better when less.
const TIME: Demand = Demand { side: Side::AtMost, ..SPEED };
const COLD: Demand = Demand { row: "first token, cold", ..TIME };
const CONVERSION: Demand = Demand { row: "conversion", applies: |model| model.convert, ..SPEED };

const DEMANDS: [Demand; 12] = [
    Demand {
        what: "decode, threads 2",
        figure: |m| m.ratio(Figure::Decode(0, 2)),
        instead: |m| Some((m.bandwidth_share(2)?, 0.85)),
        ..DECODE
    },
    Demand {
        what: "decode, threads 1",
        figure: |m| m.ratio(Figure::Decode(0, 1)),
        instead: |m| Some((m.bandwidth_share(1)?, 0.85)),
        ..DECODE
    },
    Demand {
        row: "prefill",
        what: "prefill of 512",
        figure: |m| m.ratio(Figure::Prefill(512, 2)),
        wanted: |model| model.prefill,
        ..SPEED
    },
    Demand {
        row: "pass",
        what: "time of a pass of 5",
        figure: |m| m.ratio(Figure::Pass(5, 2)).map(f64::recip),
        wanted: |_| 0.55,
        ..TIME
    },
    Demand {
        row: "busy",
        what: "decode beside a busy process",
        figure: |m| busy(m, Engine::Ours),
        wanted: |_| 0.45,
        unit: "of the quiet speed",
        ..SPEED
    },
    Demand {
        row: "first token, warm",
        what: "first token, warm",
        figure: |m| time_ratio(m, Figure::Warm),
        wanted: |model| model.first,
        ..TIME
    },
    Demand { what: "first token, cold", figure: |m| time_ratio(m, Figure::Cold), ..COLD },
    Demand {
        what: "first token, cold, by the disk",
        figure: |m| Some(m.ours(Figure::Cold)? / cold_bound(m)?),
        wanted: |_| 1.15,
        unit: "x max(disk, warm)",
        ..COLD
    },
    Demand {
        row: "memory",
        what: "memory beyond KV cache and activations",
        figure: |m| m.ours(Figure::Beyond).map(|bytes| bytes / 1e6),
        wanted: |_| 30.0,
        unit: "MB",
        ..TIME
    },
    Demand { row: "decode at 4k", what: "decode at 4k kept", figure: kept_ratio, ..SPEED },
    Demand {
        what: "conversion",
        figure: |m| Some(m.ours(Figure::Convert)? / m.ours(Figure::DiskWrite)?),
        wanted: |_| 0.6,
        unit: "of the disk's writing",
        ..CONVERSION
    },
    Demand {
        what: "memory of the conversion",
        figure: |m| m.ours(Figure::ConvertResident).map(|bytes| bytes / 1e6),
        side: Side::AtMost,
        wanted: |_| 300.0,
        unit: "MB",
        ..CONVERSION
    },
];

/// Our time over llama.cpp's shorter one.
pub fn time_ratio(m: &Measured, figure: Figure) -> Option<f64> {
    Some(m.ours(figure)? / m.shortest_peer(figure)?)
}

/// An engine's decoding beside a busy process over its quiet one.
pub fn busy(m: &Measured, engine: Engine) -> Option<f64> {
    Some(m.median(engine, Figure::Busy)? / m.median(engine, Figure::Decode(0, 2))?)
}

/// Milliseconds that the file takes from the disk at best, or the warm time where that is longer.
pub fn cold_bound(m: &Measured) -> Option<f64> {
    let disk = 1e3 * m.file_bytes as f64 / m.ours(Figure::DiskRead)?;
    Some(disk.max(m.ours(Figure::Warm)?))
}

/// What decoding keeps of its speed at 4k tokens, over what the llama.cpp keeps that keeps more.
fn kept_ratio(m: &Measured) -> Option<f64> {
    let peers = Engine::PEERS.iter().filter_map(|engine| m.kept(*engine, 4096));
    Some(m.kept(Engine::Ours, 4096)? / peers.reduce(f64::max)?)
}

/// One demand on one model and how it is met.
#[derive(Clone, Debug)]
pub struct Mark {
    /// What floors name it by: model and demand.
    pub id: String,
    pub row: &'static str,
    /// `None` where it was not measured.
    pub figure: Option<f64>,
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
    Unmeasured,
}

impl Mark {
    pub fn verdict(&self, floors: &Floors) -> Verdict {
        let Some(figure) = self.figure else { return Verdict::Unmeasured };
        let good = |wanted: f64| match self.side {
            Side::AtLeast => figure >= wanted,
            Side::AtMost => figure <= wanted,
        };
        if good(self.wanted) || self.instead.is_some_and(|(figure, wanted)| figure >= wanted) {
            return Verdict::Met;
        }
        let factor = match self.side {
            Side::AtLeast => 1.0 - TOLERANCE,
            Side::AtMost => 1.0 + TOLERANCE,
        };
        match floors.get(&self.id) {
            Some(floor) if good(floor * factor) => Verdict::Short(*floor),
            Some(floor) => Verdict::Fallen(*floor),
            None => Verdict::Missed,
        }
    }

    /// What is wrong with it, if anything.
    fn complaint(&self, floors: &Floors) -> Option<String> {
        let figure = self.figure.unwrap_or_default();
        let what = match self.verdict(floors) {
            Verdict::Met | Verdict::Short(_) => return None,
            Verdict::Fallen(floor) => format!("{figure:.3}, its floor is {floor:.3}"),
            Verdict::Missed => format!("{figure:.3}, wanted {:.3}; no floor in {FLOORS}", self.wanted),
            Verdict::Unmeasured => "not measured".to_owned(),
        };
        Some(format!("{}: {what}", self.id))
    }
}

/// Every mark of the models that were measured, and of the `whole` benchmark those of all others too.
pub fn all(results: &Results, whole: bool) -> Vec<Mark> {
    let none = Measured::default();
    let mut marks = Vec::new();
    for model in &MODELS {
        let measured = match results.models.get(model.name) {
            Some(measured) => measured,
            None if whole => &none,
            None => continue,
        };
        let demands = DEMANDS.iter().filter(|demand| (demand.applies)(model));
        marks.extend(demands.map(|demand| Mark {
            id: format!("{}: {}", model.name, demand.what),
            row: demand.row,
            figure: (demand.figure)(measured),
            wanted: (demand.wanted)(model),
            side: demand.side,
            unit: demand.unit,
            instead: (demand.instead)(measured),
        }));
    }
    marks
}

/// Speeds under a limit against llama.cpp's that are demanded: model, percent of the file, ratio.
const LIMITED: [(&str, u64, f64); 6] = [
    ("1b-q8_0", 75, 2.5),
    ("1b-q8_0", 50, 1.4),
    ("1b-q8_0", 25, 1.1),
    ("7b-q4_k_m", 75, 4.0),
    ("7b-q4_k_m", 50, 2.0),
    ("7b-q4_k_m", 25, 1.4),
];

/// Every mark of decoding under memory limits; where it was not the `whole` that was measured, of what was.
pub fn limits(results: &MemoryResults, whole: bool) -> Vec<Mark> {
    let mut marks = Vec::new();
    for (model, percent, wanted) in LIMITED {
        let row = results.rows.iter().find(|row| row.model == model && row.percent == percent);
        let mut add = |what: &str, name, figure: Option<f64>, side, wanted, unit| {
            let id = format!("limits {model} at {percent}%: {what}");
            let mark = Mark { id, row: name, figure, wanted, side, unit, instead: None };
            marks.extend((whole || row.is_some()).then_some(mark));
        };
        let (least, most) = (Side::AtLeast, Side::AtMost);
        add("speed", "limited speed", row.and_then(Row::ratio), least, wanted, "x llama.cpp");
        add("bytes a token", "limited bytes", row.map(Row::read_share), most, 1.05, "x what is not pinned");
        add("of the bound", "limited bound", row.map(Row::of_bound), least, 1.0 / 1.15, "x the bound");
        add("unused", "limited pins", row.map(Row::unused_mib), most, 64.0, "MiB of the budget");
        add("peak over the budget", "limited peak", row.map(Row::over_mb), most, 24.0, "MB");
    }
    marks
}

/// Every mark of drafts and minis; where it was not the `whole` that was measured, of what was.
pub fn drafts(results: &DraftResults, whole: bool) -> Vec<Mark> {
    let mark = |id: String, row, figure: Option<f64>, side, wanted, unit| {
        (whole || figure.is_some()).then_some(Mark { id, row, figure, wanted, side, unit, instead: None })
    };
    let mut marks = Vec::new();
    for case in &CASES {
        let name = format!("drafts {} at {}%", case.title, case.percent);
        for temperature in SAMPLINGS {
            let figure = results.row(case, temperature, false).map(|row| row.bytes_ratio());
            let id = format!("{name}: bytes a token, temperature {temperature}");
            marks.push(mark(id, "draft bytes", figure, Side::AtMost, case.bytes, "x exact's"));
        }
        if let Some(wanted) = case.speed {
            let figure = results.row(case, 0.0, true).map(|row| row.speed_ratio());
            let id = format!("{name}: speed with a slow disk");
            marks.push(mark(id, "draft speed", figure, Side::AtLeast, wanted, "x exact's"));
        }
    }
    for size in minis::SIZES {
        let id = format!("minis F16 at {size}%: differing positions");
        let figure = results.mini_ratio(size);
        marks.push(mark(id, "mini agreement", figure, Side::AtMost, 0.9, "x the mixes' line"));
    }
    for name in FIRSTS {
        let id = format!("minis {name}: first token, cold");
        marks.push(mark(id, "mini first token", results.first_ratio(name), Side::AtMost, 0.5, "x llama.cpp"));
    }
    marks.into_iter().flatten().collect()
}

/// The floors, none where there is no file.
pub fn floors(path: &Path) -> Outcome<Floors> {
    let Ok(text) = fs::read_to_string(path) else { return Ok(Floors::new()) };
    serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
}

/// Fails and names every mark that is missed, has fallen under its floor or was not measured, and floors that may
/// not be.
pub fn guard(marks: &[Mark], floors: &Floors) -> Outcome {
    let mut lines = wrong_floors(floors);
    lines.extend(marks.iter().filter_map(|mark| mark.complaint(floors)));
    if lines.is_empty() {
        return Ok(());
    }
    Err(format!("what is demanded does not hold:\n  {}", lines.join("\n  ")))
}

/// Floors of no mark, and too many of them.
fn wrong_floors(floors: &Floors) -> Vec<String> {
    let limits = limits(&MemoryResults::default(), true);
    let marks = [all(&Results::default(), true), drafts(&DraftResults::default(), true), limits].concat();
    let row = |id: &String| marks.iter().find(|mark| mark.id == *id).map(|mark| mark.row);
    let unknown = floors.keys().filter(|id| row(id).is_none());
    let mut lines: Vec<String> = unknown.map(|id| format!("{FLOORS}: {id:?} is no mark")).collect();
    let rows: BTreeSet<&str> = floors.keys().filter_map(row).collect();
    if rows.len() > SHORT_ROWS {
        let rows = rows.into_iter().collect::<Vec<_>>().join("; ");
        lines.push(format!("{FLOORS}: at most {SHORT_ROWS} demands may stay short, these do: {rows}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::drafts::Drafts;
    use crate::bench::speculate::{Row as DraftRow, Sums};

    fn mark(figure: f64, side: Side, instead: Option<(f64, f64)>) -> Mark {
        let id = "smollm2: prefill of 512".to_owned();
        Mark { id, row: "prefill", figure: Some(figure), wanted: 1.0, side, unit: "", instead }
    }

    fn floor(figure: f64) -> Floors {
        Floors::from([(mark(0.0, Side::AtLeast, None).id, figure)])
    }

    #[test]
    fn verdicts() {
        use Side::{AtLeast, AtMost};
        let floors = floor(0.8);
        assert_eq!(mark(1.0, AtLeast, None).verdict(&floors), Verdict::Met);
        assert_eq!(mark(0.73, AtLeast, None).verdict(&floors), Verdict::Short(0.8));
        assert_eq!(mark(0.71, AtLeast, None).verdict(&floors), Verdict::Fallen(0.8));
        assert_eq!(mark(0.5, AtLeast, Some((0.9, 0.85))).verdict(&floors), Verdict::Met);
        assert_eq!(mark(0.5, AtLeast, Some((0.8, 0.85))).verdict(&floors), Verdict::Fallen(0.8));
        assert_eq!(mark(1.1, AtMost, None).verdict(&Floors::new()), Verdict::Missed);
        let floors = floor(1.2);
        assert_eq!(mark(1.3, AtMost, None).verdict(&floors), Verdict::Short(1.2));
        assert_eq!(mark(1.33, AtMost, None).verdict(&floors), Verdict::Fallen(1.2));
        assert!(guard(&[mark(1.3, AtMost, None)], &floors).is_ok());
        assert!(guard(&[mark(1.4, AtMost, None)], &floors).is_err());
        let unmeasured = Mark { figure: None, ..mark(0.0, AtLeast, Some((0.9, 0.85))) };
        assert_eq!(unmeasured.verdict(&floors), Verdict::Unmeasured);
    }

    #[test]
    fn a_whole_run_without_a_figure_fails() {
        let mut results = Results::default();
        assert!(all(&results, false).is_empty());
        let message = guard(&all(&results, true), &Floors::new()).unwrap_err();
        for id in ["smollm2: prefill of 512", "7b-q4_k_m: conversion"] {
            assert!(message.contains(&format!("{id}: not measured")), "{message}");
        }
        results.models.insert("smollm2".into(), Measured::default());
        assert!(all(&results, false).iter().all(|mark| mark.id.starts_with("smollm2: ")));
        assert!(guard(&all(&results, false), &Floors::new()).is_err());
    }

    #[test]
    fn drafts_and_minis_have_marks() {
        let mut results = DraftResults::default();
        assert!(drafts(&results, false).is_empty());
        let marks = drafts(&results, true);
        assert_eq!((marks.len(), guard(&marks, &Floors::new()).is_err()), (13, true));
        let sums = |read_bytes, seconds| Sums { tokens: 10, seconds, read_bytes, ..Sums::default() };
        let (exact, speculative) = (sums(100.0, 9.0), sums(25.0, 3.0));
        let row = DraftRow { case: "f16".into(), exact, speculative, ..DraftRow::default() };
        results.drafts = Some(Drafts { rows: vec![row.clone()], slow: vec![row], ..Drafts::default() });
        let marks = drafts(&results, false);
        let verdicts: Vec<_> = marks.iter().map(|mark| (mark.figure, mark.verdict(&Floors::new()))).collect();
        assert_eq!(verdicts, [(Some(0.25), Verdict::Met), (Some(3.0), Verdict::Met)]);
    }

    #[test]
    fn floors_are_of_marks_and_of_few_demands() {
        let floors = |whats: &[&str]| whats.iter().map(|what| (format!("smollm2: {what}"), 1.0)).collect();
        let two =
            ["decode, threads 1", "decode, threads 2", "first token, cold", "first token, cold, by the disk"];
        assert!(guard(&[], &floors(&two)).is_ok());
        assert!(guard(&[], &floors(&["decode"])).unwrap_err().contains("is no mark"));
        let three = [&two[..], &["prefill of 512"]].concat();
        assert!(guard(&[], &floors(&three)).unwrap_err().contains("prefill"));
    }

    #[test]
    fn marks_are_ratios_against_the_better_peer() {
        let mut m = Measured { file_bytes: 1000, weight_bytes: 10, ..Measured::default() };
        for (engine, decode, deep, warm) in [
            (Engine::Ours, 4.0, 2.0, 5.0),
            (Engine::Mapped, 2.0, 0.5, 10.0),
            (Engine::Repacked, 1.0, 0.4, 20.0),
        ] {
            m.add(engine, Figure::Decode(0, 2), decode);
            m.add(engine, Figure::Decode(4096, 2), deep);
            m.add(engine, Figure::Warm, warm);
            m.add(engine, Figure::Cold, 2.0 * warm);
        }
        m.add(Engine::Ours, Figure::DiskRead, 100_000.0);
        m.add(Engine::Ours, Figure::MemoryRead(2), 50.0);
        let mut results = Results::default();
        results.models.insert("smollm2".into(), m);
        let marks = all(&results, false);
        let figure = |what: &str| {
            let id = format!("smollm2: {what}");
            marks.iter().find(|m| m.id == id).and_then(|m| Some((m.figure?, m.instead)))
        };
        assert_eq!(figure("decode, threads 2"), Some((2.0, Some((0.8, 0.85)))));
        assert_eq!(figure("decode, threads 1"), None);
        assert_eq!(figure("first token, warm"), Some((0.5, None)));
        assert_eq!(figure("first token, cold"), Some((0.5, None)));
        assert_eq!(figure("first token, cold, by the disk"), Some((1.0, None)));
        assert_eq!(figure("decode at 4k kept"), Some((1.25, None)));
    }
}

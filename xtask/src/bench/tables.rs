//! The tables of docs/performance.md, written from the results alone.

use std::fmt::Write as _;

use serde_json::Value;

use super::marks::{Floors, Mark, Side, Verdict, busy, cold_bound, time_ratio};
use super::models::{MODELS, Model};
use super::results::{DEPTHS, Engine, Figure, Measured, PASSES, PROMPTS, Results};
use super::run::Run;

/// A figure with about three digits; nothing where it was not measured.
pub fn show(value: Option<f64>) -> String {
    match value {
        Some(v) if v.abs() >= 100.0 => format!("{v:.0}"),
        Some(v) if v.abs() >= 10.0 => format!("{v:.1}"),
        Some(v) => format!("{v:.2}"),
        None => String::new(),
    }
}

pub fn percent(value: Option<f64>) -> String {
    value.map_or(String::new(), |v| format!("{:.0}%", 100.0 * v))
}

fn megabytes(value: Option<f64>) -> String {
    value.map_or(String::new(), |v| format!("{:.0}", v / 1e6))
}

/// A table from its titles and rows.
pub fn table(titles: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut text = format!("| {} |\n|{}\n", titles.join(" | "), "---|".repeat(titles.len()));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | ")); // writing to a String cannot fail
    }
    text
}

/// Every measured model, in their order.
fn models(results: &Results) -> impl Iterator<Item = (&'static Model, &Measured)> {
    MODELS.iter().filter_map(|model| Some((model, results.models.get(model.name)?)))
}

/// Ours and llama.cpp's twice, and ours over the better.
fn speeds(m: &Measured, figure: Figure) -> Vec<String> {
    let mut cells: Vec<String> = Engine::ALL.iter().map(|e| show(m.median(*e, figure))).collect();
    cells.push(show(m.ratio(figure)));
    cells
}

fn row(model: &Model, first: impl ToString, rest: Vec<String>) -> Vec<String> {
    [vec![model.title.to_owned(), first.to_string()], rest].concat()
}

/// Each table under the name of its markers, but for the marks.
pub fn all(results: &Results) -> Vec<(&'static str, String)> {
    vec![
        ("machine", machine(results)),
        ("prefill", prefill(results)),
        ("decode", decode(results)),
        ("threads", threads(results)),
        ("passes", passes(results)),
        ("first", first(results)),
        ("memory", memory(results)),
        ("busy", beside(results)),
        ("convert", convert(results)),
        ("kernels", kernels(results)),
        ("pool", pool(results)),
        ("agreement", agreement(results)),
    ]
}

/// What each run measured.
fn by_run<'a>(parts: impl Iterator<Item = (&'static str, &'a Run)>) -> Vec<(&'a Run, Vec<&'static str>)> {
    let mut runs: Vec<(&Run, Vec<&str>)> = Vec::new();
    for (title, run) in parts {
        match runs.iter_mut().find(|(known, _)| *known == run) {
            Some((_, titles)) => titles.push(title),
            None => runs.push((run, vec![title])),
        }
    }
    runs
}

/// The machine in each run, and what it did at best.
fn machine(results: &Results) -> String {
    let kernels = results.kernels.is_array().then_some(("kernels and pool", &results.run));
    let parts = kernels.into_iter().chain(models(results).map(|(model, m)| (model.title, &m.run)));
    let runs = by_run(parts);
    if runs.is_empty() {
        return "Nothing is measured yet.\n".to_owned();
    }
    let several = runs.len() > 1;
    let mut text = String::new();
    for (run, titles) in runs {
        let titles = if several { titles.join(", ") } else { "All tables".to_owned() };
        let Run { commit, date, machine, isa, peer, .. } = run;
        text += &format!("{titles}: commit {commit}, {date} UTC; {machine}, {isa}; peer: {peer}.\n\n");
        text += &limits(run);
        text.push('\n');
    }
    let best = |figure| models(results).filter_map(|(_, m)| m.ours(figure)).reduce(f64::max);
    let disk = [("direct reads", Figure::DiskRead), ("synced writes", Figure::DiskWrite)];
    for (title, figure) in disk {
        if let Some(speed) = best(figure) {
            text += &format!("Disk, {title}: {} GB/s.\n", show(Some(speed / 1e9)));
        }
    }
    text.trim_end().to_owned() + "\n"
}

fn limits(run: &Run) -> String {
    let giga = |name: &str, threads| show(run.limit(name, threads).map(|v| v / 1e9));
    let rows = [
        ("read", "memory, read", "GB/s"),
        ("int8", "int8", "G multiply-adds/s"),
        ("f32", "f32", "G multiply-adds/s"),
    ];
    let rows =
        rows.map(|(name, title, unit)| vec![format!("{title} ({unit})"), giga(name, 1), giga(name, 2)]);
    table(&["limit", "1 thread", "2 threads"], rows)
}

/// The run, or runs, that the models were measured in.
fn runs(results: &Results) -> String {
    let runs = by_run(models(results).map(|(model, m)| (model.title, &m.run)));
    let run = |(run, titles): &(&Run, Vec<&str>)| {
        format!("{} at commit {} ({} UTC)", titles.join(", "), run.commit, run.date)
    };
    match &runs[..] {
        [] => String::new(),
        [(run, _)] => format!("All from one run, at commit {} ({} UTC).\n\n", run.commit, run.date),
        several => {
            let several: Vec<String> = several.iter().map(run).collect();
            format!("From {} runs: {}.\n\n", several.len(), several.join("; "))
        }
    }
}

/// What is demanded, what was measured, and the floor where a mark stays short.
pub fn marks(results: &Results, marks: &[Mark], floors: &Floors) -> String {
    runs(results) + &demanded(marks, floors)
}

/// The marks alone.
pub fn demanded(marks: &[Mark], floors: &Floors) -> String {
    let rows = marks.iter().map(|mark| {
        let sign = if mark.side == Side::AtLeast { ">=" } else { "<=" };
        let instead = mark.instead.map_or(String::new(), |(share, wanted)| {
            format!(", or {} of the read bandwidth: {}", percent(Some(wanted)), percent(Some(share)))
        });
        let verdict = match mark.verdict(floors) {
            Verdict::Met => "met".to_owned(),
            Verdict::Short(floor) => format!("short; floor {}", show(Some(floor))),
            Verdict::Fallen(floor) => format!("**under its floor** of {}", show(Some(floor))),
            Verdict::Missed => "**missed**".to_owned(),
            Verdict::Unmeasured => "**not measured**".to_owned(),
        };
        let wanted = format!("{sign} {} {}{instead}", show(Some(mark.wanted)), mark.unit);
        vec![mark.id.clone(), show(mark.figure), wanted, verdict]
    });
    table(&["mark", "measured", "wanted", ""], rows)
}

fn prefill(results: &Results) -> String {
    let rows = models(results)
        .flat_map(|(model, m)| PROMPTS.iter().map(move |n| row(model, n, speeds(m, Figure::Prefill(*n, 2)))));
    table(&["model", "prompt", "CapsuleGraph", "llama.cpp", "repacked", "ratio"], rows)
}

fn decode(results: &Results) -> String {
    let rows = models(results).flat_map(|(model, m)| {
        DEPTHS.iter().map(move |depth| {
            let share = if *depth == 0 { m.bandwidth_share(2) } else { None };
            row(model, depth, [speeds(m, Figure::Decode(*depth, 2)), vec![percent(share)]].concat())
        })
    });
    table(
        &["model", "context", "CapsuleGraph", "llama.cpp", "repacked", "ratio", "of the read bandwidth"],
        rows,
    )
}

fn threads(results: &Results) -> String {
    type Test = (&'static str, fn(usize) -> Figure);
    let tests: [Test; 3] = [
        ("prefill of 512", |threads| Figure::Prefill(512, threads)),
        ("decode", |threads| Figure::Decode(0, threads)),
        ("pass of 5", |threads| Figure::Pass(5, threads)),
    ];
    let rows = models(results).flat_map(|(model, m)| {
        tests.iter().map(move |(title, figure)| {
            let (one, two) = (figure(1), figure(2));
            let scaling = |one: Option<f64>, two: Option<f64>| show(one.zip(two).map(|(one, two)| two / one));
            let ours = [show(m.ours(one)), show(m.ours(two)), scaling(m.ours(one), m.ours(two))];
            let (peer_one, peer_two) = (m.fastest_peer(one), m.fastest_peer(two));
            let theirs = [show(peer_one), show(peer_two), scaling(peer_one, peer_two), show(m.ratio(one))];
            row(model, title, [ours.to_vec(), theirs.to_vec()].concat())
        })
    });
    let titles = [
        "model",
        "test",
        "ours, 1 thread",
        "2 threads",
        "gain",
        "llama.cpp, 1 thread",
        "2 threads",
        "gain",
        "ratio with 1",
    ];
    table(&titles, rows)
}

fn passes(results: &Results) -> String {
    let rows = models(results).flat_map(|(model, m)| {
        PASSES.iter().map(move |n| {
            let figure = Figure::Pass(*n, 2);
            let ms = |speed: Option<f64>| show(speed.map(|speed| 1e3 * *n as f64 / speed));
            let mut cells: Vec<String> = Engine::ALL.iter().map(|e| ms(m.median(*e, figure))).collect();
            cells.push(show(m.ratio(figure).map(f64::recip)));
            row(model, n, cells)
        })
    });
    table(&["model", "tokens", "CapsuleGraph, ms", "llama.cpp, ms", "repacked, ms", "time ratio"], rows)
}

fn first(results: &Results) -> String {
    let rows = models(results).flat_map(|(model, m)| {
        [("warm", Figure::Warm), ("cold", Figure::Cold)].map(|(title, figure)| {
            let mut cells: Vec<String> = Engine::ALL.iter().map(|e| show(m.median(*e, figure))).collect();
            cells.push(show(time_ratio(m, figure)));
            cells.push(if figure == Figure::Cold { show(cold_bound(m)) } else { String::new() });
            row(model, title, cells)
        })
    });
    let titles =
        ["model", "cache", "CapsuleGraph, ms", "llama.cpp, ms", "repacked, ms", "time ratio", "bound, ms"];
    table(&titles, rows)
}

fn memory(results: &Results) -> String {
    let rows = models(results).map(|(model, m)| {
        let kv = Some(m.kv_bytes as f64);
        let own = [Some(m.file_bytes as f64), kv, m.ours(Figure::Anonymous)];
        let mut cells = own.map(megabytes).to_vec();
        cells.push(show(m.ours(Figure::Beyond).map(|v| v / 1e6)));
        cells.push(megabytes(m.ours(Figure::Resident)));
        for engine in Engine::PEERS {
            cells.push(megabytes(m.median(engine, Figure::Anonymous)));
            cells.push(megabytes(m.median(engine, Figure::Resident)));
        }
        [vec![model.title.to_owned()], cells].concat()
    });
    let titles = [
        "model",
        "file",
        "KV cache",
        "ours: anonymous",
        "beyond KV and activations",
        "resident",
        "llama.cpp: anonymous",
        "resident",
        "repacked: anonymous",
        "resident",
    ];
    table(&titles, rows)
}

fn beside(results: &Results) -> String {
    let rows = models(results).map(|(model, m)| {
        let kept = |engine| percent(busy(m, engine));
        let cells = [vec![show(m.ours(Figure::Busy))], Engine::ALL.map(kept).to_vec()].concat();
        [vec![model.title.to_owned()], cells].concat()
    });
    table(&["model", "CapsuleGraph, tokens/s", "kept", "llama.cpp keeps", "repacked keeps"], rows)
}

fn convert(results: &Results) -> String {
    let rows = models(results).filter_map(|(model, m)| {
        let (own, disk) = (m.ours(Figure::Convert)?, m.ours(Figure::DiskWrite)?);
        let cells = vec![
            show(Some(m.file_bytes as f64 / 1e9)),
            show(Some(own / 1e9)),
            show(Some(disk / 1e9)),
            percent(Some(own / disk)),
            megabytes(m.ours(Figure::ConvertResident)),
        ];
        Some([vec![model.title.to_owned()], cells].concat())
    });
    table(&["model", "GB", "conversion, GB/s", "disk, GB/s", "share", "peak resident, MB"], rows)
}

fn kernels(results: &Results) -> String {
    let number = |kernel: &Value, key: &str| kernel[key].as_f64();
    let rows = results.kernels.as_array().into_iter().flatten().map(|kernel| {
        let threads = kernel["threads"].as_u64().unwrap_or_default() as usize;
        let read = |key: &str| {
            let (rate, limit) = (number(kernel, key), results.run.limit("read", threads));
            let share = rate.zip(limit).map(|(rate, limit)| rate / limit);
            [show(rate.map(|rate| rate / 1e9)), percent(share)]
        };
        let batch = number(kernel, "multiply_adds_512");
        let share = batch.zip(number(kernel, "rate")).map(|(batch, rate)| batch / rate);
        let name = kernel["encoding"].as_str().unwrap_or_default().to_uppercase();
        let cells = [read("read_1"), read("read_5"), [show(batch.map(|b| b / 1e9)), percent(share)]];
        [vec![name, threads.to_string()], cells.concat()].concat()
    });
    let titles = [
        "kernel",
        "threads",
        "1 column, GB/s",
        "of the read bandwidth",
        "5 columns, GB/s",
        "of the read bandwidth",
        "512 columns, G multiply-adds/s",
        "of the rate",
    ];
    table(&titles, rows)
}

fn pool(results: &Results) -> String {
    let rows = results.pool.as_array().into_iter().flatten().map(|row| {
        let us = ["alone", "own", "rayon"].map(|key| show(row[key].as_f64()));
        [vec![row["pause"].as_str().unwrap_or_default().to_owned()], us.to_vec()].concat()
    });
    table(&["pause before each", "alone, us", "CapsuleGraph, us", "rayon, us"], rows)
}

fn agreement(results: &Results) -> String {
    let rows = results.agreement.as_object().into_iter().flatten().map(|(title, row)| {
        let number = |key: &str| row[key].as_f64().unwrap_or(0.0);
        vec![
            title.clone(),
            row["positions"].to_string(),
            format!("{:.1}%", 100.0 * number("same")),
            format!("{:.5}", number("kl")),
            row["perplexity_ratio"].as_f64().map_or(String::new(), |r| format!("{r:.4}")),
        ]
    });
    table(&["logits", "positions", "same most likely token", "mean KL", "perplexity ratio"], rows)
}

#[cfg(test)]
mod tests {
    use super::{machine, runs};
    use crate::bench::results::{Measured, Results};
    use crate::bench::run::Run;

    #[test]
    fn models_of_several_runs_are_told_apart() {
        let measured = |commit: &str| {
            let run = Run { commit: commit.to_owned(), ..Run::default() };
            Measured { run, ..Measured::default() }
        };
        let mut results = Results::default();
        assert!(machine(&results).starts_with("Nothing") && runs(&results).is_empty());
        results.models.insert("smollm2".into(), measured("aaa"));
        results.models.insert("1b-q4_0".into(), measured("aaa"));
        assert!(runs(&results).starts_with("All from one run, at commit aaa"));
        assert!(machine(&results).starts_with("All tables: commit aaa"));
        results.models.insert("1b-q8_0".into(), measured("bbb+"));
        let text = runs(&results);
        assert!(text.starts_with("From 2 runs: SmolLM2 135M Q4_1, 1B Q4_0 at commit aaa"), "{text}");
        assert!(
            text.contains("; 1B Q8_0 at commit bbb+") && machine(&results).contains("1B Q8_0: commit bbb+")
        );
    }
}

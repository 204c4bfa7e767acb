//! `cargo xtask bench [--peers]`: speed and agreement on the real model; the tables of docs/performance.md.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::demo;
use crate::setup;
use crate::shell::{Outcome, cache, capture, root, target};

/// Prompt and generated tokens of a measurement, as llama-bench's pp512 and tg128.
const PROMPT: &str = "512";
const GENERATE: &str = "128";
/// Measurements of each engine, in alternation.
const ROUNDS: usize = 5;

/// Speeds in tokens a second.
#[derive(Clone, Copy)]
struct Speed {
    prefill: f64,
    decode: f64,
}

pub fn run(peers: bool) -> Outcome {
    let model = setup::model()?;
    let python = if peers { Some(setup::peer()?) } else { None };
    let cgraph = demo::build()?;
    let folder = cache().join("bench");
    fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    let converted = folder.join("smollm2.cgraph");
    capture(
        Command::new(&cgraph).arg("convert").arg(&model).arg("-o").arg(&converted).args(["--no-mini", "-q"]),
    )?;
    let mut results = json!({ "machine": machine(), "rounds": ROUNDS, "speed": [] });
    let mut rows = String::new();
    for threads in ["1", "2"] {
        let (ours, theirs) = measure(&cgraph, &converted, python.as_deref(), &model, threads)?;
        let row = speed_row(threads, ours, theirs);
        println!("{row}");
        rows.push_str(&row);
        rows.push('\n');
        let entry = json!({
            "threads": threads,
            "ours": { "prefill": ours.prefill, "decode": ours.decode },
            "llama_cpp": theirs.map(|t| json!({ "prefill": t.prefill, "decode": t.decode })),
        });
        results["speed"].as_array_mut().map(|list| list.push(entry)).unwrap_or_default();
    }
    if let Some(python) = &python {
        let agreement = agreement(&cgraph, python, &model, &folder)?;
        write_documents(&results, &rows, &agreement)?;
        results["agreement"] = agreement;
    }
    let path = target().join("xtask/bench/results.json");
    let text = serde_json::to_string_pretty(&results).map_err(|e| e.to_string())?;
    fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    println!("{}", path.display());
    Ok(())
}

/// Medians of both engines, measured in alternation so that a drift of the machine meets both.
fn measure(
    cgraph: &Path,
    converted: &Path,
    python: Option<&Path>,
    model: &Path,
    threads: &str,
) -> Outcome<(Speed, Option<Speed>)> {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut own = Command::new(cgraph);
        own.arg("bench").arg(converted).args(["-p", PROMPT, "-n", GENERATE, "--repeat", "1"]);
        let report = parse(&capture(own.args(["--threads", threads, "--json"]))?)?;
        ours.push(Speed {
            prefill: number(&report, "prefill_tokens_per_s")?,
            decode: number(&report, "decode_tokens_per_s")?,
        });
        if let Some(python) = python {
            let mut peer = Command::new(python);
            peer.arg(root().join("xtask/python/peer.py")).arg("speed").arg(model);
            let line =
                capture(peer.args(["--threads", threads, "--prompt", PROMPT, "--generate", GENERATE]))?;
            let report = parse(&line)?;
            theirs.push(Speed { prefill: number(&report, "prefill")?, decode: number(&report, "decode")? });
        }
    }
    Ok((median(&ours), (!theirs.is_empty()).then(|| median(&theirs))))
}

fn median(speeds: &[Speed]) -> Speed {
    let middle = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Speed {
        prefill: middle(speeds.iter().map(|s| s.prefill).collect()),
        decode: middle(speeds.iter().map(|s| s.decode).collect()),
    }
}

fn speed_row(threads: &str, ours: Speed, theirs: Option<Speed>) -> String {
    match theirs {
        Some(t) => format!(
            "| {threads} | {:.0} | {:.0} | {:.2} | {:.1} | {:.1} | {:.2} |",
            ours.prefill,
            t.prefill,
            ours.prefill / t.prefill,
            ours.decode,
            t.decode,
            ours.decode / t.decode
        ),
        None => format!("| {threads} | {:.0} | | | {:.1} | | |", ours.prefill, ours.decode),
    }
}

/// How far both engines' logits lie apart, and each from the same weights without rounded activations.
fn agreement(cgraph: &Path, python: &Path, model: &Path, folder: &Path) -> Outcome<Value> {
    let mut peer = Command::new(python);
    peer.arg(root().join("xtask/python/peer.py")).arg("agree").arg(cgraph).arg(model);
    let line = capture(peer.arg(root().join("tests/data")).arg(folder))?;
    let result = parse(&line)?;
    println!("{}", serde_json::to_string_pretty(&result).unwrap_or_default());
    Ok(result)
}

/// Puts the tables between their markers in docs/performance.md.
fn write_documents(results: &Value, rows: &str, agreement: &Value) -> Outcome {
    let path = root().join("docs/performance.md");
    let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let speed = format!(
        "{}, {ROUNDS} rounds in alternation, medians, tokens a second.\n\n\
         | threads | prefill 512: ours | llama.cpp | ratio | decode 128: ours | llama.cpp | ratio |\n\
         |---|---|---|---|---|---|---|\n{rows}",
        results["machine"].as_str().unwrap_or_default()
    );
    let mut table = String::from(
        "| logits | positions | same most likely token | mean KL | perplexity ratio |\n|---|---|---|---|---|\n",
    );
    for (title, row) in agreement.as_object().into_iter().flatten() {
        table.push_str(&format!(
            "| {title} | {} | {:.1}% | {:.5} | {} |\n",
            row["positions"],
            100.0 * row["same"].as_f64().unwrap_or(0.0),
            row["kl"].as_f64().unwrap_or(0.0),
            row["perplexity_ratio"].as_f64().map_or(String::new(), |r| format!("{r:.4}"))
        ));
    }
    let text = replace_between(&text, "speed", &speed)?;
    let text = replace_between(&text, "agreement", &table)?;
    fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

fn replace_between(text: &str, name: &str, content: &str) -> Outcome<String> {
    let (begin, end) = (format!("<!-- {name}:begin -->\n"), format!("<!-- {name}:end -->"));
    let start = text.find(&begin).ok_or_else(|| format!("docs/performance.md lacks {begin}"))? + begin.len();
    let stop = text.find(&end).ok_or_else(|| format!("docs/performance.md lacks {end}"))?;
    Ok(format!("{}{content}{}", &text[..start], &text[stop..]))
}

fn parse(text: &str) -> Outcome<Value> {
    serde_json::from_str(text.trim()).map_err(|e| format!("no JSON ({e}): {text}"))
}

fn number(report: &Value, key: &str) -> Outcome<f64> {
    report[key].as_f64().ok_or_else(|| format!("the report has no number {key}: {report}"))
}

/// The processor's name and the number of processors.
fn machine() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|l| l.starts_with(name));
        line.and_then(|l| l.split(':').nth(1)).map_or("?", str::trim).to_owned()
    };
    let count = text.lines().filter(|l| l.starts_with("processor")).count();
    format!("{} (family {}, {count} processors)", field("model name"), field("cpu family"))
}

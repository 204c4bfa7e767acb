//! `cargo xtask demo`: the main job on a real model, from nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::setup;
use crate::shell::{self, Outcome, cache, capture, cargo, root, target};

/// Builds the command line with full optimisation and returns its path.
pub fn build() -> Outcome<PathBuf> {
    shell::run(cargo().args(["build", "--release", "--bin", "cgraph"]))?;
    Ok(target().join("release").join("cgraph"))
}

fn run_in(folder: &Path, cgraph: &Path, args: &[&str]) -> Outcome {
    shell::run(Command::new(cgraph).current_dir(folder).args(args))
}

fn show(cgraph: &Path, folder: &Path, model: &Path) -> Outcome {
    let source = model.display().to_string();
    run_in(folder, cgraph, &["convert", &source, "-o", "smollm2.cgraph", "--mini", "smollm2.mini.cgraph"])?;
    let prompt = "What is the capital of Japan?";
    for (mode, report) in [("fast", "fast.json"), ("exact", "exact.json")] {
        println!("\n--- {mode}: {prompt}");
        let args = [
            "run",
            "smollm2.mini.cgraph",
            "--chat",
            "-p",
            prompt,
            "-n",
            "64",
            "--mode",
            mode,
            "--report",
            report,
        ];
        run_in(folder, cgraph, &args)?;
        let text =
            fs::read_to_string(folder.join(report)).map_err(|e| format!("cannot read {report}: {e}"))?;
        println!("\n{text}");
    }
    Ok(())
}

/// Counts how many greedy tokens are llama.cpp's on the reference prompts.
fn compare_greedy(cgraph: &Path, folder: &Path) -> Outcome {
    let path = root().join("tests/data/smollm2.greedy.json");
    let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let prompts: Value = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    let (mut equal, mut compared, mut whole) = (0, 0, 0);
    let list = prompts.as_array().cloned().unwrap_or_default();
    for prompt in &list {
        let question = prompt["prompt"].as_str().unwrap_or_default();
        let args =
            ["run", "smollm2.cgraph", "--chat", "-p", question, "-n", "64", "-q", "--report", "greedy.json"];
        capture(Command::new(cgraph).current_dir(folder).args(args))?;
        let report = fs::read_to_string(folder.join("greedy.json")).map_err(|e| format!("no report: {e}"))?;
        let report: Value =
            serde_json::from_str(&report).map_err(|e| format!("the report is no JSON: {e}"))?;
        let numbers = |v: &Value| {
            v.as_array().map(|a| a.iter().filter_map(Value::as_u64).collect::<Vec<_>>()).unwrap_or_default()
        };
        let (own, theirs) = (numbers(&report["token_ids"]), numbers(&prompt["out"]));
        let gaps = prompt["gap"].as_array().cloned().unwrap_or_default();
        let mut same_so_far = true;
        for ((a, b), gap) in own.iter().zip(&theirs).zip(&gaps) {
            // After the first difference the two texts are different texts.
            if gap.as_f64().unwrap_or(0.0) > 0.05 || a == b {
                compared += 1;
                equal += usize::from(a == b);
            }
            if a != b {
                same_so_far = false;
                break;
            }
        }
        whole += usize::from(same_so_far);
    }
    println!(
        "\ngreedy tokens against llama.cpp on {} prompts: {equal} of {compared} equal up to the first difference, {whole} answers equal throughout",
        list.len()
    );
    println!(
        "(docs/performance.md says why a few differ: llama.cpp differs from itself as much from one CPU to the next)"
    );
    Ok(())
}

pub fn run() -> Outcome {
    let model = setup::model()?;
    let cgraph = build()?;
    let folder = cache().join("demo");
    fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    show(&cgraph, &folder, &model)?;
    compare_greedy(&cgraph, &folder)
}

//! `cargo xtask bench [--peers]`: speed, memory and agreement; the tables and plots of docs/performance.md.
//!
//! [`measure`] runs the engines, [`results`] keeps the samples, [`marks`] says what is demanded of them, [`tables`]
//! and [`plot`] show them. Nothing is shown that is not in the results.

mod account;
mod cgroup;
mod choice;
#[cfg_attr(not(target_os = "linux"), path = "disk/elsewhere.rs")]
mod disk;
pub mod document;
mod drafts;
mod marks;
mod measure;
mod memory;
mod minis;
mod models;
pub mod platforms;
mod plot;
mod reads;
mod results;
mod roofline;
mod run;
mod speculate;
mod svg;
mod tables;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use crate::demo;
use crate::setup;
use crate::shell::{Outcome, cache, capture, cargo, root};
use drafts::DraftResults;
use marks::{Floors, Mark};
use measure::{Programs, Subject};
use memory::MemoryResults;
use models::{MODELS, Model};
use reads::ReadResults;
use results::{Measured, Results};
use run::Run;

/// What the command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    peers: bool,
    /// Names of the models to measure; none means all.
    models: Vec<String>,
    /// In place of each model's own number of rounds.
    rounds: Option<usize>,
    /// Measure under memory limits alone.
    memory: bool,
    /// Measure drafts alone, and with peers minis too.
    drafts: bool,
    /// Measure ways to read alone.
    reads: bool,
    /// Measure nothing: write what the results of earlier runs say.
    tables: bool,
}

impl Options {
    /// `None` for what is no option.
    pub fn parse(arguments: &[&str]) -> Option<Self> {
        let mut options = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match *argument {
                "--peers" => options.peers = true,
                "--tables" => (options.peers, options.tables) = (true, true),
                "--memory" => (options.peers, options.memory) = (true, true),
                "--drafts" => options.drafts = true,
                "--reads" => options.reads = true,
                "--models" => options.models = rest.next()?.split(',').map(str::to_owned).collect(),
                "--rounds" => options.rounds = Some(rest.next()?.parse().ok().filter(|n| *n > 0)?),
                _ => return None,
            }
        }
        let known = |name: &String| MODELS.iter().any(|m| m.name == name);
        options.models.iter().all(known).then_some(options)
    }

    fn chosen(&self) -> impl Iterator<Item = &'static Model> {
        MODELS.iter().filter(|m| self.models.is_empty() || self.models.iter().any(|name| name == m.name))
    }
}

pub fn run(options: &Options) -> Outcome {
    if !options.tables {
        // Before anything is built or downloaded.
        disk::supported()?;
    }
    let folder = cache().join("bench");
    fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    if options.reads || options.tables {
        reading(options, &folder)?;
    }
    if options.reads {
        return Ok(());
    }
    let path = folder.join(if options.peers { "results.json" } else { "own.json" });
    let mut results = Results::load(&path)?;
    let part = options.memory || options.drafts;
    if !options.tables && !part {
        measure_all(options, &folder, &mut results, &path)?;
    }
    let floors = marks::floors(&root().join(marks::FLOORS))?;
    let mut demanded = Vec::new();
    if options.peers && (options.memory || !options.drafts) {
        demanded = limited(options, &folder, &floors)?;
    }
    // Of models by name only the limits are measured.
    if options.models.is_empty() || !options.memory {
        demanded.extend(drafting(options, &folder, &floors)?);
    }
    if part {
        return marks::guard(&demanded, &floors);
    }
    if !options.peers {
        println!(
            "{}",
            tables::all(&results).into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("\n")
        );
        return Ok(());
    }
    let marks = marks::all(&results, options.models.is_empty());
    println!("{}", tables::marks(&results, &marks, &floors));
    document::write(&results, &marks, &floors)?;
    marks::guard(&[marks, demanded].concat(), &floors)
}

/// Measures the chosen models, and kernels and pool where all are chosen; a run that is broken off keeps the models
/// that it has measured.
fn measure_all(options: &Options, folder: &Path, results: &mut Results, path: &Path) -> Outcome {
    let begun = Instant::now();
    let python = if options.peers { Some(setup::peer()?) } else { None };
    let programs = Programs { cgraph: demo::build()?, python, folder: folder.to_owned() };
    run::confine()?;
    let run = if options.models.is_empty() {
        say(begun, "limits of the machine, the kernels against them, and the pool");
        let mut kernels = program("kernels", "--json")?;
        let run = Run::new(&kernels)?;
        results.kernels = kernels["kernels"].take();
        results.pool = program("pool", "--json")?;
        results.run = run.clone();
        run
    } else {
        say(begun, "limits of the machine");
        Run::new(&program("kernels", "--limits")?)?
    };
    for model in options.chosen() {
        let measured = measure(&programs, model, options.rounds.unwrap_or(model.rounds), &run, begun)?;
        results.models.insert(model.name.to_owned(), measured);
        if let (true, Some(python)) = (model.is_real(), &programs.python) {
            say(begun, "agreement");
            results.agreement = agreement(&programs.cgraph, python, folder)?;
        }
        results.save(path)?;
    }
    say(begun, &path.display().to_string());
    Ok(())
}

/// Measures both programs under memory limits where that was asked for or everything is, and writes docs/memory.md's
/// tables; what is demanded.
fn limited(options: &Options, folder: &Path, floors: &Floors) -> Outcome<Vec<Mark>> {
    let path = folder.join("memory.json");
    let mut results = MemoryResults::load(&path);
    if !options.tables && (options.memory || options.models.is_empty()) {
        let begun = Instant::now();
        let programs =
            Programs { cgraph: demo::build()?, python: Some(setup::peer()?), folder: folder.to_owned() };
        run::confine()?;
        results.run = Run::new(&program("kernels", "--limits")?)?;
        for model in options.chosen().filter(|model| memory::MODELS.contains(&model.name)) {
            results.rows.retain(|row| row.model != model.name);
            let converted = folder.join(format!("{}.cgraph", model.name));
            let subject = Subject { model, source: model.source()?, converted };
            // Anew: what an earlier version wrote may not be what this one reads.
            programs.convert(&subject, false, &mut Measured::default())?;
            let weights = programs.weight_bytes(&subject)?;
            let commit = results.run.commit.clone();
            results.rows.extend(programs.limited(&subject, weights, &commit, &|what| say(begun, what))?);
            results.save(&path)?;
        }
    }
    results.sort();
    let marks = marks::limits(&results, options.memory || options.models.is_empty());
    if results.rows.is_empty() {
        // The tables of another checkout stay.
        return Ok(marks);
    }
    document::plot("limits", &results.plot())?;
    let tables = [("limits", results.table()), ("limit-marks", tables::demanded(&marks, floors))];
    tables.iter().for_each(|(_, table)| println!("{table}"));
    document::fill("memory.md", &tables)?;
    Ok(marks)
}

/// Measures drafts and minis where that was asked for or everything is, and writes docs/memory.md's tables; what is
/// demanded of them.
fn drafting(options: &Options, folder: &Path, floors: &Floors) -> Outcome<Vec<Mark>> {
    if !options.drafts && !options.peers {
        return Ok(Vec::new());
    }
    let path = folder.join("drafts.json");
    let mut results = DraftResults::load(&path);
    let whole = options.peers && (options.memory || options.drafts || options.models.is_empty());
    if !options.tables && (options.drafts || whole) {
        let begun = Instant::now();
        let python = if options.peers { Some(setup::peer()?) } else { None };
        let programs = Programs { cgraph: demo::build()?, python: python.clone(), folder: folder.to_owned() };
        run::confine()?;
        let run = Run::new(&Value::Null)?;
        programs.drafts(run.clone(), &|what| say(begun, what), &mut |drafts| {
            results.drafts = Some(drafts.clone());
            results.save(&path)
        })?;
        if let Some(python) = python {
            results.minis = Some(programs.minis(&python, run, &|what| say(begun, what))?);
            results.save(&path)?;
        }
        say(begun, &path.display().to_string());
    }
    let marks = marks::drafts(&results, whole);
    let mut tables = results.tables();
    if tables.is_empty() {
        // The tables of another checkout stay.
        return Ok(marks);
    }
    // Each beside the table that it is about: one that was not measured now stays.
    for (name, begin) in [("draft-marks", "drafts "), ("mini-marks", "minis ")] {
        let own: Vec<Mark> = marks.iter().filter(|mark| mark.id.starts_with(begin)).cloned().collect();
        if !own.is_empty() {
            tables.push((name, tables::demanded(&own, floors)));
        }
    }
    for (_, table) in &tables {
        println!("{table}");
    }
    document::fill("memory.md", &tables)?;
    Ok(marks)
}

/// Measures ways to read where that was asked for, and writes docs/memory.md's table.
fn reading(options: &Options, folder: &Path) -> Outcome {
    let path = folder.join("reads.json");
    let mut results = ReadResults::load(&path);
    if options.reads {
        let begun = Instant::now();
        let run = Run::new(&Value::Null)?;
        let rounds = options.rounds.unwrap_or(reads::ROUNDS);
        results = ReadResults::measure(folder, rounds, run, &|what| say(begun, what))?;
        results.save(&path)?;
    } else if results.is_empty() {
        // The table of another checkout stays.
        return Ok(());
    }
    println!("{}", results.table());
    document::fill("memory.md", &[("reads", results.table())])
}

/// Says what comes next, and after how many minutes.
fn say(begun: Instant, what: &str) {
    let seconds = begun.elapsed().as_secs();
    println!("[{:02}:{:02}] {what}", seconds / 60, seconds % 60);
}

/// Everything about one model.
fn measure(
    programs: &Programs,
    model: &Model,
    rounds: usize,
    run: &Run,
    begun: Instant,
) -> Outcome<Measured> {
    let converted = programs.folder.join(format!("{}.cgraph", model.name));
    let subject = Subject { model, source: model.source()?, converted };
    let source_bytes = measure::length(&subject.source)?;
    let mut measured = Measured { run: run.clone(), source_bytes, ..Measured::default() };
    for round in 0..if model.convert { rounds } else { 1 } {
        if model.convert {
            say(begun, &format!("{}: conversion, {} of {rounds}", model.title, round + 1));
        }
        programs.convert(&subject, model.convert, &mut measured)?;
    }
    measured.weight_bytes = programs.weight_bytes(&subject)?;
    for round in 0..rounds {
        say(begun, &format!("{}: round {} of {rounds}", model.title, round + 1));
        programs.round(&subject, &mut measured)?;
    }
    say(begun, &format!("{}: first token from a cold cache", model.title));
    for round in 0..rounds.min(3) {
        programs.cold(&subject, round, &mut measured)?;
    }
    Ok(measured)
}

/// What a program of benches prints.
fn program(name: &str, option: &str) -> Outcome<Value> {
    let text = capture(cargo().args(["bench", "--quiet", "--bench", name, "--", option]))?;
    serde_json::from_str(&text).map_err(|e| format!("benches/{name}.rs printed no JSON ({e}): {text}"))
}

/// How far both engines' logits lie apart, and each from the same weights without rounded activations.
fn agreement(cgraph: &Path, python: &Path, folder: &Path) -> Outcome<Value> {
    let model: PathBuf = setup::model()?;
    let mut peer = Command::new(python);
    peer.arg(root().join("xtask/python/peer.py")).arg("agree").arg(cgraph).arg(model);
    let line = capture(peer.arg(root().join("tests/data")).arg(folder))?;
    serde_json::from_str(&line).map_err(|e| format!("peer.py printed no JSON ({e}): {line}"))
}

#[cfg(test)]
mod tests {
    use super::Options;

    #[test]
    fn options_are_read() {
        let options = Options::parse(&["--peers", "--models", "smollm2,1b-q4_0", "--rounds", "2"]);
        let models = vec!["smollm2".to_owned(), "1b-q4_0".to_owned()];
        assert_eq!(options, Some(Options { peers: true, models, rounds: Some(2), ..Options::default() }));
        assert_eq!(options.map(|o| o.chosen().count()), Some(2));
        let drafts = Options::parse(&["--drafts", "--peers"]);
        assert_eq!(drafts, Some(Options { drafts: true, peers: true, ..Options::default() }));
        assert_eq!(Options::parse(&[]).map(|o| o.chosen().count()), Some(5));
        for wrong in [&["--models", "8b"][..], &["--models"], &["--rounds", "0"], &["peers"]] {
            assert_eq!(Options::parse(wrong), None, "{wrong:?}");
        }
    }
}

//! One table of all systems: what the small real model takes on each. On this machine's own system speed and memory; on those
//! that are emulated memory, and the instructions that a token costs, which no emulator changes.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::document;
use crate::setup;
use crate::shell::{Outcome, cache, run};
use crate::systems::{SYSTEMS, System, built_here, here};

/// Tokens after the prompt where speed and memory are measured.
const TOKENS: usize = 64;
/// Tokens of the two runs whose instructions are counted: the difference is that of the tokens between.
const COUNTED: [usize; 2] = [2, 4];

/// Measures this system by itself and keeps the numbers: what the workflows do on machines of each kind.
pub fn native() -> Outcome {
    let program = here()?.join(format!("cgraph{}", std::env::consts::EXE_SUFFIX));
    let found =
        measure(|command| Ok(Command::new(command)), &|path| path.display().to_string(), &program, TOKENS)?;
    let name = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
    work()?;
    let path = results().join(format!("{name}.json"));
    let text = serde_json::to_string_pretty(&found).map_err(|e| e.to_string())?;
    fs::write(&path, text + "\n").map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    println!("{}: {found:#}", path.display());
    Ok(())
}

/// Measures every system that releases are for and writes the table of docs/performance.md. `others` is a folder with what
/// [`native`] wrote on other machines, each of which becomes a row.
pub fn all(others: Option<&Path>) -> Outcome {
    let mut table = String::from(
        "| system | measured | shared library | peak resident | anonymous | decode, tokens a second | instructions a token |\n\
         |---|---|---:|---:|---:|---:|---:|\n",
    );
    let folder = work()?;
    let own = built_here()?;
    let own_row = (own.system, own.library(), own.program(), "on this machine");
    let mut rows = vec![own_row];
    let built = SYSTEMS.iter().map(|system| system.build(&folder)).collect::<Outcome<Vec<_>>>()?;
    rows.extend(built.iter().map(|b| (b.system, b.library(), b.program(), b.system.emulator)));
    for (index, (system, library, program, how)) in rows.into_iter().enumerate() {
        let is_own = index == 0;
        // The release for this system is measured by its instructions.
        let found = measure(system.runner, &system.path, &program, if is_own { TOKENS } else { 8 })?;
        let counted = (!is_own).then(|| instructions(system, &program)).transpose()?;
        table += &row(system.name, how, Some(len(&library)?), &found, is_own, counted);
    }
    for path in others.map(measured_elsewhere).transpose()?.unwrap_or_default() {
        let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        let found: Value = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        table += &row(&name, "on a machine of its own", None, &found, true, None);
    }
    document::fill("performance.md", &[("platforms", table)])
}

/// What [`native`] wrote, in a folder and those in it: runners' artifacts have one each.
fn measured_elsewhere(folder: &Path) -> Outcome<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).map_err(|e| format!("cannot list {}: {e}", folder.display()))?;
    let mut found = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            found.extend(measured_elsewhere(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "json") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn len(file: &Path) -> Outcome<u64> {
    Ok(fs::metadata(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?.len())
}

/// A line of the table; speed is told only of machines that are what they seem.
fn row(
    system: &str,
    how: &str,
    library: Option<u64>,
    found: &Value,
    is_real: bool,
    instructions: Option<f64>,
) -> String {
    let dash = || "–".to_owned();
    let megabytes = |value: &Value| value.as_f64().map_or_else(dash, |v| format!("{:.0} MB", v / 1e6));
    let speed = found["decode_tokens_per_s"].as_f64().filter(|_| is_real);
    let row = format!(
        "| {system} | {how} | {} | {} | {} | {} | {} |\n",
        library.map_or_else(dash, |bytes| format!("{:.1} MB", bytes as f64 / 1e6)),
        megabytes(&found["memory"]["peak_rss_bytes"]),
        megabytes(&found["memory"]["peak_anonymous_bytes"]),
        speed.map_or_else(dash, |v| format!("{v:.1}")),
        instructions.map_or_else(dash, |v| format!("{:.1} million", v / 1e6)),
    );
    print!("{row}");
    row
}

fn results() -> PathBuf {
    cache().join("platforms")
}

/// For files of which none is a result.
fn work() -> Outcome<PathBuf> {
    let folder = results().join("work");
    fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    Ok(folder)
}

/// The report of a generation by `program`, which `runner` starts; a path there is as `path` has it.
fn measure(
    runner: impl Fn(&Path) -> Outcome<Command>,
    path: &dyn Fn(&Path) -> String,
    program: &Path,
    tokens: usize,
) -> Outcome<Value> {
    let (model, report) = (model(program, &runner, path)?, work()?.join("report.json"));
    let mut command = runner(program)?;
    command.args(["run", &path(&model), "-p", "Once upon a time", "-q", "--report", &path(&report)]);
    run(command.args(["-n", &tokens.to_string()]).stdout(Stdio::null()))?;
    let text = fs::read_to_string(&report).map_err(|e| format!("cannot read {}: {e}", report.display()))?;
    let report: Value = serde_json::from_str(&text).map_err(|e| format!("the report is no JSON: {e}"))?;
    let fields = ["version", "backend", "threads", "decode_tokens_per_s", "prefill_tokens_per_s", "memory"];
    Ok(fields.iter().map(|field| ((*field).to_owned(), report[field].clone())).collect())
}

/// The model's full file, which the program itself converts.
fn model(
    program: &Path,
    runner: &impl Fn(&Path) -> Outcome<Command>,
    path: &dyn Fn(&Path) -> String,
) -> Outcome<PathBuf> {
    let model = work()?.join("model.cgraph");
    let mut convert = runner(program)?;
    convert.args(["convert", &path(&setup::model()?), "-o", &path(&model), "--no-mini", "-q"]);
    run(&mut convert)?;
    Ok(model)
}

/// Instructions that a token costs on one thread, by an emulator that tells which blocks of code it ran.
fn instructions(system: &System, program: &Path) -> Outcome<f64> {
    const LOG: &[&str] = &["-d", "nochain,exec,in_asm", "-D", "/dev/stderr"];
    let model = (system.path)(&work()?.join("model.cgraph"));
    let mut counts = [0u64; 2];
    for (count, tokens) in counts.iter_mut().zip(COUNTED) {
        let mut command = (system.traced)(program, LOG)?;
        command.arg("run").arg(&model).args(["-p", "Hi", "--threads", "1", "--ctx", "64", "-q", "-n"]);
        command.arg(tokens.to_string()).stdout(Stdio::null()).stderr(Stdio::piped());
        println!("$ {command:?}");
        let mut child = command.spawn().map_err(|e| format!("cannot start {command:?}: {e}"))?;
        if let Some(log) = child.stderr.take() {
            *count = executed(BufReader::with_capacity(1 << 20, log))?;
        }
        let status = child.wait().map_err(|e| format!("cannot wait for {command:?}: {e}"))?;
        if !status.success() {
            return Err(format!("{command:?} failed: {status}"));
        }
    }
    Ok(counts[1].saturating_sub(counts[0]) as f64 / (COUNTED[1] - COUNTED[0]) as f64)
}

/// Instructions that were executed, by qemu's log: each block of code is listed when it is translated (`IN:`, a line for each
/// instruction, beginning with its address), and named by its address in every `Trace`.
fn executed(mut log: impl BufRead) -> Outcome<u64> {
    let mut lengths: HashMap<u64, u64> = HashMap::new();
    let (mut total, mut block, mut line) = (0, None, Vec::new());
    let number = |text: &[u8]| {
        std::str::from_utf8(text)
            .ok()
            .and_then(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok())
    };
    loop {
        line.clear();
        let read =
            log.read_until(b'\n', &mut line).map_err(|e| format!("cannot read the emulator's log: {e}"))?;
        if read == 0 {
            return Ok(total);
        }
        if line.starts_with(b"Trace ") {
            let address = line.split(|byte| *byte == b'/').nth(1).and_then(number);
            total += address.and_then(|address| lengths.get(&address)).copied().unwrap_or(0);
        } else if line.starts_with(b"IN:") {
            block = Some(None);
        } else if line.starts_with(b"0x") {
            let address = line.split(|byte| *byte == b':').next().and_then(number);
            if let (Some(first), Some(address)) = (&mut block, address) {
                let first = *first.get_or_insert_with(|| {
                    lengths.insert(address, 0);
                    address
                });
                *lengths.entry(first).or_default() += 1;
            }
        } else if line == b"\n" {
            block = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::executed;

    #[test]
    fn blocks_count_as_often_as_they_run() {
        let log = "----------------\nIN: f\n0x0010:  aa  nop\n0x0011:  bb  ret\n\n\
                   Trace 0: 0x7f00 [0000/0000000000000010/00/00] f\n\
                   ----------------\nIN:\n0x0020:  aa  jmp 0x10\n\n\
                   Trace 0: 0x7f10 [0000/0000000000000020/00/00]\n\
                   Trace 0: 0x7f00 [0000/0000000000000010/00/00]\n";
        assert_eq!(executed(log.as_bytes()), Ok(5));
    }
}

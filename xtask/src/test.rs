//! `cargo xtask test`: lints, every test, the archive's and the kernels' instruction counts, with the results at the end.

use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use crate::aarch64;
use crate::csharp;
use crate::instructions;
use crate::onnx;
use crate::package;
use crate::setup;
use crate::shell::{self, Outcome, cargo, root};
use crate::soak;
use crate::verdict::Verdict;
use crate::wheel;
use crate::windows::{self, Windows};
use crate::workflows;

/// How long each soak lasts here; `cargo xtask soak` takes ten minutes.
const SOAK_SECONDS: u32 = 20;

/// Tests that passed and failed, and what to say of failures at the end.
#[derive(Default)]
struct Results {
    passed: u64,
    failed: u64,
    failures: Vec<String>,
}

pub fn run() -> Outcome {
    setup::programs()?;
    let model = setup::model()?;
    let python = setup::python()?;
    let ray = setup::ray()?;
    let onnx = onnx::setup()?;
    let sysroot = aarch64::setup()?;
    let windows = windows::setup()?;
    shell::run(cargo().args(["fmt", "--all", "--check"]))?;
    shell::run(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--features",
        "schema",
        "--",
        "-D",
        "warnings",
    ]))?;
    let mut results = Results::default();
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--features", "schema", "--no-fail-fast"]);
    tests.env("CAPSULEGRAPH_TEST_MODEL", &model).env("CAPSULEGRAPH_TEST_PYTHON", &python);
    tests.env("CAPSULEGRAPH_TEST_RAY_PYTHON", &ray).env("CAPSULEGRAPH_TEST_ONNX", &onnx);
    tests.env("CAPSULEGRAPH_ONNXRUNTIME", onnx.join("runtime"));
    tests.env("CAPSULEGRAPH_TEST_OLD_ONNXRUNTIME", onnx.join("older"));
    results.count("cargo test", &mut tests);
    for mut tests in results.made("tests for aarch64", aarch64::tests(&sysroot).map(Vec::from)) {
        results.count("cargo test for aarch64", &mut tests);
    }
    for (name, mut tests) in results.made("tests of Python", wheel::tests()) {
        results.count(name, &mut tests);
    }
    for (name, mut tests) in results.made("tests of C#", csharp::tests()) {
        results.count(name, &mut tests);
    }
    for mut soak in results.made("soaks", soak::runners(SOAK_SECONDS)) {
        results.count(soak.name, &mut soak.command);
    }
    results.check("package", package::check);
    results.check("workflows", workflows::check);
    results.check("instruction counts", instructions::check);
    results.of_windows(&windows, &model, &onnx);
    results.conclude()
}

/// Rust's tests on an emulated aarch64, all that need no compiler for C.
pub fn aarch64() -> Outcome {
    let (model, onnx, sysroot) = (setup::model()?, onnx::setup()?, aarch64::setup()?);
    let mut results = Results::default();
    // The emulator does not bound a process's memory, takes half an hour to make a mini of the table's model, and hours to
    // compare the real one with llama.cpp's outputs.
    let left_out = ["bounds", "cases", "smollm2"];
    let names: Vec<&str> = NATIVE.iter().copied().filter(|name| !left_out.contains(name)).collect();
    let mut tests = aarch64::all_tests(&sysroot, &names, &model, &onnx)?;
    tests.env("CAPSULEGRAPH_TEST_PYTHON", setup::python()?);
    results.count("cargo test for aarch64", &mut tests);
    results.conclude()
}

/// Only the tests of what is built for Windows.
pub fn windows() -> Outcome {
    setup::programs()?;
    let (model, onnx, windows) = (setup::model()?, onnx::setup()?, windows::setup()?);
    let mut results = Results::default();
    results.of_windows(&windows, &model, &onnx);
    results.conclude()
}

/// Of the integration tests those that need neither a compiler for C nor another program.
const NATIVE: &[&str] = &[
    "bad_input",
    "bounds",
    "budget",
    "cases",
    "cli",
    "cli_files",
    "cli_limits",
    "divided",
    "encodings",
    "exactness",
    "golden",
    "killed",
    "limits",
    "onnx_cli",
    "onnx_import",
    "onnx_mini",
    "onnx_run",
    "smollm2",
    "speculative",
    "tokenizer_golden",
    "tokenizer_smollm2",
];

/// The Rust tests alone, on whatever system this is: for machines that are not set up for all the others.
pub fn native() -> Outcome {
    let (model, onnx, python) = (setup::model()?, onnx::setup()?, setup::python()?);
    let mut results = Results::default();
    let mut tests = cargo();
    tests.args(["test", "--no-fail-fast", "--lib", "--bins"]);
    tests.args(NATIVE.iter().flat_map(|name| ["--test", name]));
    tests.env("CAPSULEGRAPH_TEST_MODEL", model).env("CAPSULEGRAPH_TEST_ONNX", &onnx);
    tests.env("CAPSULEGRAPH_TEST_PYTHON", python).env("CAPSULEGRAPH_ONNXRUNTIME", onnx.join("runtime"));
    tests.env("CAPSULEGRAPH_TEST_OLD_ONNXRUNTIME", onnx.join("older"));
    results.count("cargo test", &mut tests);
    results.conclude()
}

impl Results {
    /// The tests of what is built for Windows: tests/windows.rs, which drives the DLL and the command line from here, and the
    /// Rust tests under wine.
    fn of_windows(&mut self, windows: &Windows, model: &Path, onnx: &Path) {
        let mut driven = cargo();
        // The features of the other tests, so that nothing is compiled again.
        driven.args(["test", "--workspace", "--features", "schema", "--test", "windows"]);
        driven.env("CAPSULEGRAPH_TEST_MODEL", model).env("CAPSULEGRAPH_TEST_ONNX", onnx);
        driven.env("CAPSULEGRAPH_ONNXRUNTIME", onnx.join("runtime"));
        let built = setup::python().and_then(|python| {
            driven.env("CAPSULEGRAPH_TEST_PYTHON", python);
            windows.build(&mut driven)
        });
        // What the build does not even give is one failure, not as many as there are tests.
        let Err(message) = built else {
            self.check("what the Windows build needs and exports", || windows.check());
            self.count("tests of the Windows build", &mut driven);
            self.count("cargo test for Windows", &mut windows.tests(model, onnx));
            let cases = csharp::windows_cases(windows).map(|cases| vec![cases]);
            for mut cases in self.made("C# on .NET for Windows", cases) {
                self.count("C# on .NET for Windows: the table of cases, but for errors", &mut cases);
            }
            return;
        };
        self.failures.push(format!("Windows build: {message}"));
    }

    /// What is to be run, or nothing and a failure: the others' results are worth printing even so.
    fn made<T>(&mut self, what: &str, made: Outcome<Vec<T>>) -> Vec<T> {
        made.unwrap_or_else(|message| {
            self.failures.push(format!("{what}: {message}"));
            Vec::new()
        })
    }

    /// Counts each check as a test.
    fn check(&mut self, name: &str, check: impl FnOnce() -> Outcome<Verdict>) {
        println!("$ {name}");
        let start = Instant::now();
        match check() {
            Ok(verdict) => {
                let seconds = start.elapsed().as_secs();
                println!("{name}: {} passed, {} failed, {seconds} s", verdict.good, verdict.bad.len());
                self.passed += verdict.good;
                self.failed += verdict.bad.len() as u64;
                self.failures.extend(verdict.bad.into_iter().map(|why| format!("{name}: {why}")));
            }
            Err(message) => self.failures.push(format!("{name}: {message}")),
        }
    }

    /// Runs a test runner, passes its output on, and adds up its result lines. One that passes no test at all has failed: its
    /// filter names nothing any more.
    fn count(&mut self, name: &str, command: &mut Command) {
        println!("$ {name}");
        let (before, start) = (self.passed, Instant::now());
        match self.add_up(command) {
            Ok(status) if status.success() => {}
            Ok(status) => self.failures.push(format!("{name}: {status}")),
            Err(error) => self.failures.push(format!("{name}: {error}")),
        }
        println!("{name}: {} s", start.elapsed().as_secs());
        if self.passed == before {
            self.failures.push(format!("{name}: no test passed: {command:?}"));
        }
    }

    fn add_up(&mut self, command: &mut Command) -> io::Result<ExitStatus> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(|out| out.split(b'\n')) {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            if let Some(result) = line.strip_prefix("test result: ") {
                self.passed += number_before(result, " passed");
                self.failed += number_before(result, " failed");
            }
            println!("{}", line.trim_end_matches('\r'));
        }
        child.wait()
    }

    /// Prints what failed and how many tests passed; the last line is for whoever reads the counts.
    fn conclude(self) -> Outcome {
        println!();
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed > 0 || !self.failures.is_empty() {
            return Err("some tests failed".into());
        }
        Ok(())
    }
}

/// The number that stands directly before `word`.
fn number_before(text: &str, word: &str) -> u64 {
    let before = text.find(word).map_or("", |at| &text[..at]);
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap_or("");
    digits.parse().unwrap_or(0)
}

/// Rewrites the generated files that tests compare.
pub fn bless() -> Outcome {
    setup::programs()?;
    let mut tests = cargo();
    tests.args(["test", "--features", "schema"]);
    let written = ["header", "csharp", "docs", "c_api", "exactness", "golden"];
    tests.args(written.iter().flat_map(|name| ["--test", name]));
    tests.env("CAPSULEGRAPH_TEST_MODEL", setup::model()?).env("CAPSULEGRAPH_TEST_PYTHON", setup::python()?);
    let onnx = onnx::setup()?;
    tests.env("CAPSULEGRAPH_ONNXRUNTIME", onnx.join("runtime")).env("CAPSULEGRAPH_TEST_ONNX", onnx);
    shell::run(tests.env("CAPSULEGRAPH_BLESS", "1"))?;
    instructions::bless()?;
    println!("generated files are up to date in {}", root().display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::Results;

    #[test]
    fn a_run_without_a_passed_test_fails() {
        let run = |result: &str| {
            let mut results = Results::default();
            results.count("t", Command::new("echo").arg(format!("test result: {result}")));
            (results.passed, results.failed, results.failures.len())
        };
        assert_eq!(run("ok. 12 passed; 0 failed; 0 ignored; 3 filtered out"), (12, 0, 0));
        assert_eq!(run("ok. 0 passed; 0 failed; 0 ignored; 3 filtered out"), (0, 0, 1));
        assert_eq!(run("FAILED. 0 passed; 2 failed"), (0, 2, 1));
    }
}

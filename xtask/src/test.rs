//! `cargo xtask test`: lints, every test, the archive's and the kernels' instruction counts, with the results at the end.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
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

/// Tests passed and failed.
#[derive(Clone, Copy, Default)]
struct Counts {
    passed: u64,
    failed: u64,
}

pub fn run() -> Outcome {
    setup::programs()?;
    let model = setup::model()?;
    let python = setup::python()?;
    let ray = setup::ray()?;
    let onnx = onnx::setup()?;
    let sysroot = aarch64::setup()?;
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
    let mut total = Counts::default();
    let mut failures = Vec::new();
    let mut tests = cargo();
    tests.args(["test", "--workspace", "--features", "schema", "--no-fail-fast"]);
    tests.env("CAPSULEGRAPH_TEST_MODEL", &model).env("CAPSULEGRAPH_TEST_PYTHON", &python);
    tests.env("CAPSULEGRAPH_TEST_RAY_PYTHON", &ray).env("CAPSULEGRAPH_TEST_ONNX", &onnx);
    tests.env("CAPSULEGRAPH_ONNXRUNTIME", onnx.join("runtime"));
    tests.env("CAPSULEGRAPH_TEST_OLD_ONNXRUNTIME", onnx.join("older"));
    count("cargo test", &mut tests, &mut total, &mut failures)?;
    for mut tests in aarch64::tests(&sysroot)? {
        count("cargo test for aarch64", &mut tests, &mut total, &mut failures)?;
    }
    for (name, mut tests) in wheel::tests()? {
        count(name, &mut tests, &mut total, &mut failures)?;
    }
    for (name, mut tests) in csharp::tests()? {
        count(name, &mut tests, &mut total, &mut failures)?;
    }
    for mut soak in soak::runners(SOAK_SECONDS)? {
        count(soak.name, &mut soak.command, &mut total, &mut failures)?;
    }
    count_checks("package", package::check, &mut total, &mut failures);
    count_checks("workflows", workflows::check, &mut total, &mut failures);
    count_checks("instruction counts", instructions::check, &mut total, &mut failures);
    count_windows(&windows::setup()?, &model, &onnx, &mut total, &mut failures)?;
    conclude(total, &failures)
}

/// Rust's tests on an emulated aarch64, all that need no compiler for C.
pub fn aarch64() -> Outcome {
    let (model, onnx, sysroot) = (setup::model()?, onnx::setup()?, aarch64::setup()?);
    let (mut total, mut failures) = (Counts::default(), Vec::new());
    let mut tests = aarch64::all_tests(&sysroot, NATIVE, &model, &onnx)?;
    tests.env("CAPSULEGRAPH_TEST_PYTHON", setup::python()?);
    count("cargo test for aarch64", &mut tests, &mut total, &mut failures)?;
    conclude(total, &failures)
}

/// Only the tests of what is built for Windows.
pub fn windows() -> Outcome {
    setup::programs()?;
    let (model, onnx, windows) = (setup::model()?, onnx::setup()?, windows::setup()?);
    let (mut total, mut failures) = (Counts::default(), Vec::new());
    count_windows(&windows, &model, &onnx, &mut total, &mut failures)?;
    conclude(total, &failures)
}

/// The tests of what is built for Windows: the Rust tests under wine, and tests/windows.rs, which drives the DLL and the
/// command line from here.
fn count_windows(
    windows: &Windows,
    model: &Path,
    onnx: &Path,
    total: &mut Counts,
    failures: &mut Vec<String>,
) -> Outcome {
    let mut driven = cargo();
    // The features of the other tests, so that nothing is compiled again.
    driven.args(["test", "--workspace", "--features", "schema", "--test", "windows"]);
    driven.env("CAPSULEGRAPH_TEST_MODEL", model).env("CAPSULEGRAPH_TEST_PYTHON", setup::python()?);
    driven.env("CAPSULEGRAPH_TEST_ONNX", onnx).env("CAPSULEGRAPH_ONNXRUNTIME", onnx.join("runtime"));
    windows.build(&mut driven)?;
    count("tests of the Windows build", &mut driven, total, failures)?;
    count("cargo test for Windows", &mut windows.tests(model, onnx), total, failures)
}

/// Of the integration tests those that need neither a compiler for C nor another program.
const NATIVE: &[&str] = &[
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
    let (mut total, mut failures) = (Counts::default(), Vec::new());
    let mut tests = cargo();
    tests.args(["test", "--no-fail-fast", "--lib", "--bins"]);
    tests.args(NATIVE.iter().flat_map(|name| ["--test", name]));
    tests.env("CAPSULEGRAPH_TEST_MODEL", model).env("CAPSULEGRAPH_TEST_ONNX", &onnx);
    tests.env("CAPSULEGRAPH_TEST_PYTHON", python).env("CAPSULEGRAPH_ONNXRUNTIME", onnx.join("runtime"));
    tests.env("CAPSULEGRAPH_TEST_OLD_ONNXRUNTIME", onnx.join("older"));
    count("cargo test", &mut tests, &mut total, &mut failures)?;
    conclude(total, &failures)
}

/// Prints what failed and how many tests passed; the last line is for whoever reads the counts.
fn conclude(total: Counts, failures: &[String]) -> Outcome {
    println!();
    for failure in failures {
        println!("failed: {failure}");
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    if total.failed > 0 || !failures.is_empty() {
        return Err("some tests failed".into());
    }
    Ok(())
}

/// Counts each check as a test.
fn count_checks(name: &str, check: fn() -> Outcome<Verdict>, total: &mut Counts, failures: &mut Vec<String>) {
    println!("$ {name}");
    let start = Instant::now();
    match check() {
        Ok(verdict) => {
            let seconds = start.elapsed().as_secs();
            println!("{name}: {} passed, {} failed, {seconds} s", verdict.good, verdict.bad.len());
            total.passed += verdict.good;
            total.failed += verdict.bad.len() as u64;
            failures.extend(verdict.bad.into_iter().map(|why| format!("{name}: {why}")));
        }
        // The tests' own results are worth printing even so.
        Err(message) => failures.push(format!("{name}: {message}")),
    }
}

/// Runs a test runner, passes its output on, and adds up its result lines. One that passes no test at all has
/// failed: its filter names nothing any more.
fn count(name: &str, command: &mut Command, total: &mut Counts, failures: &mut Vec<String>) -> Outcome {
    println!("$ {name}");
    let (before, start) = (total.passed, Instant::now());
    let mut child =
        command.stdout(Stdio::piped()).spawn().map_err(|e| format!("cannot start {name}: {e}"))?;
    if let Some(out) = child.stdout.take() {
        for line in BufReader::new(out).lines() {
            let line = line.map_err(|e| format!("cannot read from {name}: {e}"))?;
            if let Some(result) = line.strip_prefix("test result: ") {
                total.passed += number_before(result, " passed");
                total.failed += number_before(result, " failed");
            }
            println!("{line}");
        }
    }
    let status = child.wait().map_err(|e| format!("cannot wait for {name}: {e}"))?;
    println!("{name}: {} s", start.elapsed().as_secs());
    if !status.success() {
        failures.push(format!("{name}: {status}"));
    }
    if total.passed == before {
        failures.push(format!("{name}: no test passed: {command:?}"));
    }
    Ok(())
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

    use super::{Counts, count};

    #[test]
    fn a_run_without_a_passed_test_fails() {
        let run = |result: &str| {
            let (mut total, mut failures) = (Counts::default(), Vec::new());
            let mut command = Command::new("echo");
            count("t", command.arg(format!("test result: {result}")), &mut total, &mut failures).unwrap();
            (total.passed, total.failed, failures.len())
        };
        assert_eq!(run("ok. 12 passed; 0 failed; 0 ignored; 3 filtered out"), (12, 0, 0));
        assert_eq!(run("ok. 0 passed; 0 failed; 0 ignored; 3 filtered out"), (0, 0, 1));
        assert_eq!(run("FAILED. 0 passed; 2 failed"), (0, 2, 1));
    }
}

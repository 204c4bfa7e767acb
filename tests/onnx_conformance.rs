//! ONNX's own backend cases through convert, cut and the C API: each that ONNX Runtime passes alone passes here
//! (tests/tools/onnx_conformance.py). And real models in one capsule and in many (tests/tools/onnx_real.py).
//!
//! Needs a Python with `numpy`, `onnx` and `onnxruntime` in CAPSULEGRAPH_TEST_PYTHON and the folder of cases and models in
//! CAPSULEGRAPH_TEST_ONNX; `cargo xtask test` makes both and sets them.

// The library's file name, the locale's folder.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

#[path = "support/compiler.rs"]
mod compiler;
#[path = "support/onnx_set_up.rs"]
mod onnx;
#[path = "support/program.rs"]
mod program;

use std::process::Command;

use program::{directory, root, shared_library};

/// Cases of the five kinds, those among them that ONNX Runtime 1.31.1 passes alone, and those of two nodes or more.
const CASES: u64 = 1914;
const PASSED: u64 = 1720;
const CUT: u64 = 360;
/// Models, and comparisons of all of them.
const MODELS: u64 = 12;
const COMPARISONS: u64 = 300;

/// Runs one of the tools; its output and whether it succeeded.
fn tool(name: &str, more: &[&str]) -> (String, bool) {
    let work = directory(name);
    let mut command = Command::new(onnx::python());
    command.arg(root().join("tests/tools").join(name)).arg(shared_library());
    let output = command.args(more).arg(&work).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    println!("{text}{error}");
    std::fs::remove_dir_all(work).unwrap();
    (text, output.status.success())
}

/// The numbers of the last line, which must begin with `name`.
fn numbers(text: &str, name: &str) -> Vec<u64> {
    let last = text.lines().last().unwrap_or_default();
    let rest = last.strip_prefix(name).unwrap_or_else(|| panic!("the last line is {last:?}"));
    rest.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
}

#[test]
fn every_case_that_onnx_runtime_passes_passes() {
    let (cases, locale) = (onnx::folder().join("cases"), onnx::folder().join("locale"));
    let (text, success) =
        tool("onnx_conformance.py", &["--locale", locale.to_str().unwrap(), cases.to_str().unwrap()]);
    let [cases, plain, ours, only_here, cut] = numbers(&text, "conformance: ")[..] else {
        panic!("the last line has other numbers");
    };
    assert!(success && only_here == 0, "{only_here} cases fail here only");
    assert!(ours >= plain && plain >= PASSED, "{plain} pass with ONNX Runtime, {ours} here");
    assert!(cases >= CASES && cut >= CUT, "{cases} cases, {cut} of them cut");
}

#[test]
fn real_models_give_the_same_however_they_are_cut() {
    let models = onnx::folder().join("models");
    let (text, success) = tool("onnx_real.py", &[models.to_str().unwrap()]);
    let [models, comparisons, failed] = numbers(&text, "real models: ")[..] else {
        panic!("the last line has other numbers");
    };
    assert!(success && failed == 0, "{failed} comparisons fail");
    assert!(models >= MODELS && comparisons >= COMPARISONS, "{models} models, {comparisons} comparisons");
}

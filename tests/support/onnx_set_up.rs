//! What tests of ONNX models are given by `cargo xtask test`.
#![allow(dead_code, clippy::expect_used, clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::Command;

/// A Python with `numpy`, `onnx` and `onnxruntime`.
pub fn python() -> PathBuf {
    let python = std::env::var_os("CAPSULEGRAPH_TEST_PYTHON").expect(
        "CAPSULEGRAPH_TEST_PYTHON must name a Python with the packages numpy, onnx and onnxruntime; run the tests with: \
         cargo xtask test",
    );
    python.into()
}

/// The folder of models, cases and what else `cargo xtask setup` makes.
pub fn folder() -> PathBuf {
    let folder = std::env::var_os("CAPSULEGRAPH_TEST_ONNX").expect(
        "CAPSULEGRAPH_TEST_ONNX must name the folder that `cargo xtask setup` fills; run the tests with: cargo xtask test",
    );
    folder.into()
}

/// ONNX Runtime's library in that Python.
pub fn runtime() -> PathBuf {
    let script =
        "import sys; sys.path.insert(0, sys.argv[1]); import onnx_plain; print(onnx_plain.library())";
    let tools = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools");
    let output = Command::new(python()).arg("-c").arg(script).arg(tools).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().into()
}

//! Every tensor type and variant of the graph against a float64 forward pass that shares nothing with the library
//! (tests/tools/reference_f32.py: numpy, and the PyPI package `gguf` for every byte of the models).
//!
//! Needs a Python with `gguf` and `numpy` in CAPSULEGRAPH_TEST_PYTHON; `cargo xtask test` makes one and sets it.
// It starts a Python of the system that the tests are built on.
#![cfg(unix)]
#![allow(clippy::expect_used, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use capsulegraph::convert::import::{ConvertOptions, convert};
use capsulegraph::generate::model::{Model, ModelOptions};
use capsulegraph::generate::session::{Session, SessionOptions};
use capsulegraph::store::fetch::FetchLayout;
use capsulegraph::store::{OpenOptions, Origin, Store};
use serde_json::Value;

/// Largest error of the logits relative to their size (both root mean square) where weights are f32, f16 or
/// bf16 and activations are f32: what is left is the KV cache in f16. Rounding to f16 has a relative error of
/// 2^-11 / sqrt(3) = 0.03% an element, and keys and values average over many elements.
const FLOAT_ERROR: f64 = 1e-3;

/// The same where weights are integers and activations are rounded to 8 bits, 32 of them with one scale.
///
/// The scale is the largest of 32 values over 127, for normal values 2.4 standard deviations over 127, and
/// rounding makes an error of 1/sqrt(12) of it: 2.4 / (127 * 3.46) = 0.55% of the activations' size. A product with
/// random weights passes a relative error on as it is. With two blocks a logit has behind it the product of the
/// head (0.55%) and the residual stream, whose four branches each add two roundings of their own and the one of what
/// they read. If all parts were independent and equal: sqrt(1 + 2 * 2 * 2) * 0.55% = 1.7%. SwiGLU multiplies two
/// inexact numbers and softmax turns an error of a score into one of a weight, so somewhat more is allowed.
const INTEGER_ERROR: f64 = 0.025;

/// Directory of the reference's files, made once.
fn directory() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let python = std::env::var_os("CAPSULEGRAPH_TEST_PYTHON").expect(
            "CAPSULEGRAPH_TEST_PYTHON must name a Python with the packages gguf and numpy; run the tests with: \
             cargo xtask test",
        );
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("reference_f32");
        std::fs::create_dir_all(&dir).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/reference_f32.py");
        let status = Command::new(&python).arg(script).arg(&dir).status();
        let status = status.unwrap_or_else(|e| panic!("cannot start {}: {e}", python.display()));
        assert!(status.success(), "the reference failed: {status}");
        dir
    })
}

fn cases() -> Vec<Value> {
    let text = std::fs::read_to_string(directory().join("cases.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(directory().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The case's model, converted once for each caller.
fn converted(case: &str, caller: &str) -> PathBuf {
    let target = directory().join(format!("{case}.{caller}.cgraph"));
    let source = directory().join(format!("{case}.gguf"));
    convert(&source, &target, &ConvertOptions::default(), &mut |_, _| {})
        .unwrap_or_else(|e| panic!("{case}: {e}"));
    target
}

/// Whether any weight matrix is stored in integers.
fn has_integers(case: &Value) -> bool {
    let tensors = case["tensors"].as_array().unwrap();
    tensors.iter().any(|t| !["f32", "f16", "bf16"].contains(&t["encoding"].as_str().unwrap()))
}

#[test]
fn logits_agree_with_the_reference() {
    let cases = cases();
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let words = bytes(&format!("{name}.tokens"));
        let ids: Vec<u32> =
            words.chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect();
        let reference = bytes(&format!("{name}.logits"));
        let reference =
            reference.chunks_exact(4).map(|w| f64::from(f32::from_le_bytes(w.try_into().unwrap())));
        let options = ModelOptions { threads: 2.into(), ..ModelOptions::default() };
        let model = Model::open(&Origin::Path(converted(name, "logits")), &options).unwrap();
        let mut session = Session::new(Arc::new(model), &SessionOptions::default()).unwrap();
        let logits = session.eval(&ids, true, None).unwrap();
        let (mut error, mut power, mut compared) = (0.0, 0.0, 0);
        for (own, wanted) in logits.iter().zip(reference) {
            error += (f64::from(*own) - wanted).powi(2);
            power += wanted.powi(2);
            compared += 1;
        }
        assert_eq!(compared, logits.len());
        assert!(compared > 1000 && power > 0.0, "{name}: {compared} logits");
        let relative = (error / power).sqrt();
        let cap = if has_integers(case) { INTEGER_ERROR } else { FLOAT_ERROR };
        println!("{name:18} {:.4}% of {:.4}%", 100.0 * relative, 100.0 * cap);
        assert!(relative <= cap, "{name}: the logits differ by {:.4}%", 100.0 * relative);
    }
    assert!(cases.len() > 30, "{}", cases.len());
}

#[test]
fn fetch_gives_the_source_and_its_values_back() {
    let mut compared = 0;
    for case in &cases() {
        let name = case["name"].as_str().unwrap();
        let path = converted(name, "fetch");
        let store = Store::open(&Origin::Path(path), &OpenOptions::default()).unwrap();
        let ids: Vec<String> = store.manifest().capsules.iter().map(|c| c.id.clone()).collect();
        for (number, wanted) in case["tensors"].as_array().unwrap().iter().enumerate() {
            let tensor = wanted["name"].as_str().unwrap();
            let holder =
                store.manifest().capsules.iter().find(|c| c.tensors.iter().any(|t| t.name == tensor));
            let id = &holder.unwrap_or_else(|| panic!("{name}: no capsule of {ids:?} holds {tensor}")).id;
            for (layout, file) in [(FetchLayout::Source, "raw"), (FetchLayout::F32, "f32")] {
                let capsule = store.fetch(id, layout).unwrap();
                let found = capsule.tensors.iter().find(|t| t.name == tensor).unwrap();
                let expected = bytes(&format!("{name}.{number}.{file}"));
                assert!(*found.bytes == *expected, "{name}: {tensor} differs in layout {}", layout.name());
                let shape: Vec<u64> =
                    wanted["shape"].as_array().unwrap().iter().filter_map(Value::as_u64).collect();
                assert_eq!(found.shape, shape, "{name}: {tensor}");
                compared += 1;
            }
            let source = store.fetch(id, FetchLayout::Source).unwrap();
            let encoding = source.tensors.iter().find(|t| t.name == tensor).unwrap().encoding;
            assert_eq!(encoding, wanted["encoding"].as_str().unwrap(), "{name}: {tensor}");
        }
    }
    println!("{compared} tensors equal byte for byte");
    assert!(compared > 1000, "{compared}");
}

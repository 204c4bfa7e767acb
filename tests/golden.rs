//! Files that released versions wrote: every later version reads them and computes from them what was computed then. One folder
//! a version, with full files, minis and `expected.json`; none is changed once its version is released. Needs ONNX Runtime (`CAPSULEGRAPH_ONNXRUNTIME`),
//! as `cargo xtask test` gets it.
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/onnx.rs"]
mod onnx;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use capsulegraph::container::manifest::Residence;
use capsulegraph::convert::import::{ConvertOptions, convert};
use capsulegraph::generate::model::{Model, ModelOptions};
use capsulegraph::generate::session::{GenerateOptions, Session, SessionOptions, Step};
use capsulegraph::onnx::model::{OnnxModel, OnnxOptions};
use capsulegraph::pool::Gate;
use capsulegraph::split::verify::{VerifyOptions, verify};
use capsulegraph::split::{SplitOptions, split};
use capsulegraph::store::{Mode, OpenOptions, Origin};
use serde_json::{Value, json};

use onnx::{Floats, Onnx, floats_of, layers, noise, plain};
use support::TinyModel;

const PROMPT: &str = "the world is the stone and";
const EXPECTED: &str = "expected.json";
const LANGUAGE: [&str; 2] = ["language.cgraph", "language.mini.cgraph"];
const TENSORS: [&str; 2] = ["tensors.cgraph", "tensors.mini.cgraph"];
/// How far outputs of ONNX models may be from those of then: other builds of the runtime round otherwise.
const BOUND: f32 = 1e-4;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden")
}

fn store(mode: Mode) -> OpenOptions {
    OpenOptions { mode, ..OpenOptions::default() }
}

/// What a language model answers in a mode, token by token. A random model ends its text anywhere, so it goes on.
fn tokens(path: &Path, mode: Mode) -> Vec<u32> {
    let options = ModelOptions { store: store(mode), threads: 1.into(), ..ModelOptions::default() };
    let model = Arc::new(Model::open(&Origin::Path(path.to_owned()), &options).unwrap());
    let prompt = model.tokenizer().unwrap().encode(PROMPT, true, true).unwrap();
    let mut session = Session::new(model, &SessionOptions::default()).unwrap();
    let options = GenerateOptions { max_tokens: 24, ignore_end: true, ..GenerateOptions::default() };
    session.start(&prompt, &options).unwrap();
    let mut tokens = Vec::new();
    loop {
        match session.step(&Gate::open()).unwrap() {
            Step::Token { id, .. } => tokens.push(id),
            Step::Paused => {}
            Step::Finished(_) => return tokens,
        }
    }
}

/// What an ONNX model computes of a seeded input.
fn outputs(path: &Path, mode: Mode) -> Vec<f32> {
    let options = OnnxOptions { store: store(mode), ..plain() };
    let model = OnnxModel::open(&Origin::Path(path.to_owned()), &options).unwrap();
    let x = Floats::new(&[3, 64], noise(5));
    floats_of(&model.run(&[("x", x.input())], &[], None).unwrap()[0])
}

fn computed(place: &Path) -> Value {
    let language = LANGUAGE.map(|name| place.join(name));
    let tensors = TENSORS.map(|name| place.join(name));
    json!({
        "language": {
            "full": tokens(&language[0], Mode::Exact),
            "mini": tokens(&language[1], Mode::Fast),
        },
        "tensors": {
            "full": outputs(&tensors[0], Mode::Exact),
            "mini": outputs(&tensors[1], Mode::Fast),
        },
    })
}

/// Writes the files of this version, in place of those that there are.
fn keep(place: &Path) {
    let part = tempfile::tempdir_in(folder()).unwrap();
    let at = |name: &str| part.path().join(name);
    // Capsules of several units of 64 KiB, so that some are worth making light.
    let model =
        TinyModel { width: 256, ffn: 512, head_dim: 64, blocks: 1, encoding: "q8_0", ..TinyModel::default() };
    fs::write(at("m.gguf"), model.gguf()).unwrap();
    convert(&at("m.gguf"), &at(LANGUAGE[0]), &ConvertOptions::default(), &mut |_, _| {}).unwrap();
    let full = fs::metadata(at(LANGUAGE[0])).unwrap().len();
    let options = SplitOptions { size: full * 7 / 10, ..SplitOptions::default() };
    let summary = split(&at(LANGUAGE[0]), &at(LANGUAGE[1]), &options, &mut |_, _| {}).unwrap();
    assert!(summary.plan.capsules.iter().any(|capsule| capsule.residence == Residence::Light));
    let source = Onnx::new(&layers(64, 4));
    onnx::convert(&source.path("m.onnx"), &at(TENSORS[0]), 4);
    split(&at(TENSORS[0]), &at(TENSORS[1]), &SplitOptions::default(), &mut |_, _| {}).unwrap();
    fs::remove_file(at("m.gguf")).unwrap();
    let expected = serde_json::to_string(&computed(part.path())).unwrap();
    fs::write(at(EXPECTED), expected + "\n").unwrap();
    if place.is_dir() {
        fs::remove_dir_all(place).unwrap();
    }
    fs::rename(part.path(), place).unwrap();
    // It is not there any more.
    part.close().unwrap_err();
}

#[test]
fn files_of_every_version_give_what_they_gave() {
    let own = folder().join(env!("CARGO_PKG_VERSION"));
    let changes = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("CHANGELOG.md")).unwrap();
    let is_open = changes.contains(concat!("## ", env!("CARGO_PKG_VERSION"), " (unreleased)"));
    if is_open && std::env::var_os("CAPSULEGRAPH_BLESS").is_some() {
        fs::create_dir_all(folder()).unwrap();
        keep(&own);
    }
    assert!(
        own.is_dir(),
        "this version has no files of its own in {}: cargo xtask bless",
        folder().display()
    );
    for place in fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()) {
        let text = fs::read_to_string(place.join(EXPECTED)).unwrap();
        let expected: Value = serde_json::from_str(&text).unwrap();
        let found = computed(&place);
        assert_eq!(found["language"], expected["language"], "{}", place.display());
        for kind in ["full", "mini"] {
            let numbers = |of: &Value| -> Vec<f32> {
                of["tensors"][kind].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
            };
            let (found, expected) = (numbers(&found), numbers(&expected));
            assert!(found.len() == expected.len() && !found.is_empty());
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= BOUND * b.abs().max(1.0);
            assert!(found.iter().zip(&expected).all(near), "{}: {kind}", place.display());
        }
        // In mode exact a mini gives what its full file does.
        let [full, mini] = LANGUAGE.map(|name| place.join(name));
        assert_eq!(tokens(&mini, Mode::Exact), tokens(&full, Mode::Exact), "{}", place.display());
        for name in LANGUAGE.iter().chain(&TENSORS) {
            let deep = VerifyOptions { deep: true, ..VerifyOptions::default() };
            let verified = verify(&place.join(name), &deep, &mut |_, _| {}).unwrap();
            assert!(verified.problems.is_empty(), "{}: {verified:?}", place.display());
        }
    }
}

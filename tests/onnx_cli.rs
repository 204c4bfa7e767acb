//! The real program on small ONNX models: tensors in and out, reports, and every way in which ONNX Runtime can be missing.
//! Needs ONNX Runtime, a new one and an old one, as `cargo xtask test` gets them.
#![cfg(feature = "cli")]
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/onnx.rs"]
mod onnx;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use capsulegraph::container::disk::SystemDisk;
use capsulegraph::container::npy::{self, ArrayData};
use capsulegraph::graph::element::ElementType;
use capsulegraph::onnx::library::VARIABLE;
use onnx::{Onnx, info, layers, model, node, tensor_type};
use serde_json::Value;

/// Names the folder of a runtime that copies weights.
const OLD: &str = "CAPSULEGRAPH_TEST_OLD_ONNXRUNTIME";

fn runtime(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable);
    path.unwrap_or_else(|| {
        panic!("{variable} must name the folder of ONNX Runtime's library; cargo xtask test gets it")
    })
    .into()
}

/// Runs the program in the model's folder, with the runtime at `path` or with none to be found.
fn cgraph(place: &Onnx, path: Option<&Path>, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cgraph"));
    command.current_dir(place.0.path()).args(args);
    for variable in [VARIABLE, "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "PYTHONUSERBASE"] {
        command.env_remove(variable);
    }
    // No Python on the path and none of the user's.
    command.env("PATH", place.0.path()).env("HOME", place.0.path());
    command.envs(path.map(|path| (VARIABLE, path)));
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn ok(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn failed(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    let message = text(&output.stderr);
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

/// A model of four layers in four capsules, and an input.
fn place() -> Onnx {
    let place = Onnx::new(&layers(32, 4));
    place.converted(4);
    let bytes: Vec<u8> = (0..96).flat_map(|i| (i as f32 / 48.0 - 1.0).to_le_bytes()).collect();
    npy::write(&SystemDisk, &place.path("x.npy"), ElementType::Float32, &[3, 32], &bytes).unwrap();
    place
}

fn array(place: &Onnx, name: &str) -> npy::Array {
    npy::read(&SystemDisk, &place.path(name), None).unwrap()
}

#[test]
fn tensors_go_in_and_come_out() {
    let (place, new) = (place(), runtime(VARIABLE));
    let run = |args: &[&str]| {
        cgraph(&place, Some(&new), &[&["run", "m4.cgraph", "--input", "x=x.npy"][..], args].concat())
    };
    let shown = ok(&run(&[]));
    assert!(shown.starts_with("y  float32 [3, 32]  ") && shown.trim_end().ends_with("..."), "{shown}");
    assert_eq!(ok(&run(&["--output", "y=y.npy", "--report", "r.json"])), "");
    let y = array(&place, "y.npy");
    assert_eq!((y.element, y.shape.as_slice()), (ElementType::Float32, &[3, 32][..]));
    let report: Value = serde_json::from_slice(&std::fs::read(place.path("r.json")).unwrap()).unwrap();
    assert_eq!(report["schema"], "capsulegraph.report/1");
    assert_eq!(
        (&report["command"], &report["model"]["arch"], &report["mode"]),
        (&"run".into(), &"onnx".into(), &"exact".into())
    );
    assert_eq!((&report["capsules"]["total"], &report["capsules"]["hits"]), (&4.into(), &4.into()));
    let facts = &report["onnx"];
    assert_eq!(
        (&facts["zero_copy"], &facts["prepack"], &facts["optimization"]),
        (&true.into(), &"auto".into(), &true.into())
    );
    assert_eq!(facts["outputs"][0]["file"], "y.npy");
    assert!(
        facts["run_ms"].as_f64() > Some(0.0)
            && facts["runtime_version"].as_str().is_some_and(|v| v.starts_with("1."))
    );
    // Without optimisation the bits are the same however the model is cut and whatever the budget.
    let plain = ["--optimization", "off", "--prepack", "off"];
    ok(&run(&[&plain[..], &["--output", "y=a.npy"]].concat()));
    ok(&run(&[&plain[..], &["--output", "y=b.npy", "--memory", "20MiB"]].concat()));
    place.converted(1);
    let whole = [&["run", "m1.cgraph", "--input", "x=x.npy", "--output", "y=c.npy"][..], &plain].concat();
    ok(&cgraph(&place, Some(&new), &whole));
    let [a, b, c] = ["a.npy", "b.npy", "c.npy"].map(|name| array(&place, name));
    assert_eq!((&a, &a), (&b, &c));
    let bench = cgraph(
        &place,
        Some(&new),
        &["bench", "m4.cgraph", "--dim", "n1=5", "--repeat", "3", "--json", "--prepack", "on"],
    );
    let bench: Value = serde_json::from_str(&ok(&bench)).unwrap();
    assert_eq!(bench["onnx"]["runs_ms"].as_array().map(Vec::len), Some(3));
    assert_eq!(bench["onnx"]["prepacked"].as_array().map(Vec::len), Some(4));
    assert!(bench["onnx"]["run_min_ms"].as_f64() <= bench["onnx"]["run_ms"].as_f64());
}

#[test]
fn strings_are_read_and_written() {
    let port = |name: &str| info(name, tensor_type(ElementType::String, Some(&[-1])));
    let source =
        model(vec![node("Identity", &["s"], &["t"], vec![])], vec![port("s")], vec![port("t")], vec![]);
    let (place, new) = (Onnx::new(&source), runtime(VARIABLE));
    place.converted(1);
    let strings: Vec<Vec<u8>> = ["one", "", "drei €"].iter().map(|s| s.as_bytes().to_vec()).collect();
    npy::write_strings(&SystemDisk, &place.path("s.npy"), &[3], &strings).unwrap();
    let run = |args: &[&str]| {
        ok(&cgraph(&place, Some(&new), &[&["run", "m1.cgraph", "--input", "s=s.npy"][..], args].concat()))
    };
    assert_eq!(run(&[]), "t  string [3]  \"one\", \"\", \"drei €\"\n");
    run(&["--output", "t=t.npy"]);
    assert_eq!(array(&place, "t.npy").data, ArrayData::Strings(strings));
}

#[test]
fn an_older_runtime_copies_and_says_so() {
    let (place, old) = (place(), runtime(OLD));
    let args =
        ["run", "m4.cgraph", "--input", "x=x.npy", "--output", "y=y.npy", "--json", "--optimization", "off"];
    for memory in [&[][..], &["--memory", "24MiB"]] {
        let report: Value =
            serde_json::from_str(&ok(&cgraph(&place, Some(&old), &[&args[..], memory].concat()))).unwrap();
        assert_eq!(report["onnx"]["zero_copy"], false);
        assert_eq!(array(&place, "y.npy").shape, [3, 32]);
    }
}

#[test]
fn without_a_runtime_files_are_opened_and_inspected_and_runs_say_what_is_missing() {
    let place = place();
    let facts = ok(&cgraph(&place, None, &["inspect", "m4.cgraph"]));
    assert!(facts.contains("onnx"), "{facts}");
    let run = ["run", "m4.cgraph", "--input", "x=x.npy"];
    let why = failed(&cgraph(&place, None, &run));
    for part in [
        "ONNX Runtime 1.18 or later",
        "beside this library",
        "beside the program",
        "Python",
        "the system",
        VARIABLE,
    ] {
        assert!(why.contains(part), "{part} is missing: {why}");
    }
    let why = failed(&cgraph(&place, Some(&place.path("nothing")), &run));
    assert!(why.contains("the environment variable") && why.contains("nothing (not there)"), "{why}");
    let why = failed(&cgraph(&place, None, &[&run[..], &["--onnxruntime", "x.npy"]].concat()));
    assert!(why.contains("the option") && why.contains("x.npy"), "{why}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_runtime_that_is_too_old_is_named() {
    let place = place();
    // The first thing in which every release agrees: the table that gives the version.
    let code = "typedef struct { const void *(*get)(unsigned); const char *(*version)(void); } base;
static const void *get(unsigned v) { (void)v; return 0; }
static const char *version(void) { return \"1.17.3\"; }
static const base table = { get, version };
const base *OrtGetApiBase(void) { return &table; }
";
    std::fs::write(place.path("old.c"), code).unwrap();
    let folder = place.path("old");
    std::fs::create_dir(&folder).unwrap();
    let target = folder.join("libonnxruntime.so.1.17.3");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&target)
        .arg(place.path("old.c"))
        .status()
        .unwrap();
    assert!(built.success());
    let why = failed(&cgraph(&place, Some(&folder), &["run", "m4.cgraph", "--input", "x=x.npy"]));
    assert!(why.contains("version 1.17.3, too old") && why.contains("1.18 or later"), "{why}");
}

#[test]
fn a_python_package_is_found_in_its_folders() {
    let (place, new) = (place(), runtime(VARIABLE));
    let venv = place.path("venv");
    let folder = venv.join(if cfg!(windows) {
        "Lib/site-packages/onnxruntime/capi"
    } else {
        "lib/python3.99/site-packages/onnxruntime/capi"
    });
    std::fs::create_dir_all(&folder).unwrap();
    let library = if new.is_dir() {
        let entries = std::fs::read_dir(&new).unwrap().map(|entry| entry.unwrap().path());
        entries
            .into_iter()
            .find(|path| path.file_name().is_some_and(|n| n.to_string_lossy().contains("onnxruntime.")))
    } else {
        Some(new)
    };
    let library = library.expect("a library");
    std::fs::copy(&library, folder.join(library.file_name().unwrap())).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cgraph"));
    command.current_dir(place.0.path()).args(["-v", "run", "m4.cgraph", "--input", "x=x.npy"]);
    command
        .env_remove(VARIABLE)
        .env("PATH", place.0.path())
        .env("HOME", place.0.path())
        .env("VIRTUAL_ENV", &venv);
    let output = command.output().unwrap();
    ok(&output);
    assert!(text(&output.stderr).contains("python3.99") || cfg!(windows), "{}", text(&output.stderr));
}

#[test]
fn prompts_and_tensors_are_told_apart() {
    let place = place();
    let why = failed(&cgraph(&place, None, &["run", "m4.cgraph", "-p", "Hello"]));
    assert!(why.contains("ONNX model") && why.contains("--input"), "{why}");
    let why = failed(&cgraph(&place, None, &["run", "m.onnx", "--input", "x=x.npy"]));
    assert!(why.contains("cgraph convert m.onnx -o m.cgraph"), "{why}");
    let why =
        failed(&cgraph(&place, None, &["run", "m4.cgraph", "--input", "x=x.npy", "--output", "y=x.npy"]));
    assert!(why.contains("x.npy"), "{why}");
}

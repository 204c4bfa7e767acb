//! The real program on small ONNX models: tensors in and out, reports, and every way in which ONNX Runtime can be missing.
//! Needs ONNX Runtime, a new one and an old one, as `cargo xtask test` gets them.
#![cfg(feature = "cli")]
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/built.rs"]
mod built;
#[path = "support/onnx.rs"]
mod onnx;
#[path = "support/onnx_set_up.rs"]
mod set_up;

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
    let mut command = built::cgraph();
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
fn a_model_that_is_not_converted_is_inspected() {
    let place = place();
    let shown = ok(&cgraph(&place, None, &["inspect", "m.onnx"]));
    for line in [
        "kind        onnx, 1 file\n",
        "model       20 nodes\n",
        "            format 9, operators ai.onnx 18\n",
        "input       x  float32 [n1, 32]\n",
        "output      y  float32 [n1, 32]\n",
        // Biases of 128 bytes stay in the graph.
        "tensors     8, 128.0 KiB\n",
        "  float32       8 tensors   128.0 KiB\n",
        "capsules    1 with weights up to 32.0 MiB each (--capsule-size), the largest 128.0 KiB\n",
    ] {
        assert!(shown.contains(line), "{line} is missing: {shown}");
    }
    let facts: Value =
        serde_json::from_str(&ok(&cgraph(&place, None, &["inspect", "m.onnx", "--json", "--capsules"])))
            .unwrap();
    assert_eq!((&facts["kind"], &facts["onnx"]["inputs"][0]["name"]), (&"onnx".into(), &"x".into()));
    // What a conversion makes of it.
    ok(&cgraph(&place, None, &["convert", "m.onnx", "-o", "c.cgraph", "--no-mini"]));
    let made: Value =
        serde_json::from_str(&ok(&cgraph(&place, None, &["inspect", "c.cgraph", "--json", "--capsules"])))
            .unwrap();
    assert_eq!(facts["capsule_count"], made["capsule_count"]);
    assert_eq!(facts["encodings"], made["encodings"]);
    assert_eq!(facts["onnx"], made["model"]["onnx"]);
    for key in ["id", "inputs", "outputs"] {
        assert_eq!(facts["capsules"][0][key], made["capsules"][0][key], "{key}");
    }
    let names = |facts: &Value| -> Vec<Value> {
        facts["capsules"][0]["tensors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tensor| tensor["name"].clone())
            .collect()
    };
    assert_eq!(names(&facts), names(&made));
    assert!(ok(&cgraph(&place, None, &["inspect", "m.onnx", "--yaml"])).contains("tensor_count: 8"));
}

/// ONNX's checker and the onnxruntime package take what is fetched; the script says how the results are compared.
#[cfg(unix)] // it starts a Python of the system that the tests are built on
#[test]
fn fetched_capsules_are_models_of_their_own() {
    let work = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/onnx_submodels.py");
    let mut command = Command::new(set_up::python());
    command
        .arg(script)
        .arg(env!("CARGO_BIN_EXE_cgraph"))
        .arg(set_up::folder().join("models"))
        .arg(work.path());
    let output = command.output().unwrap();
    let told = text(&output.stdout);
    assert!(output.status.success(), "{told}{}", text(&output.stderr));
    let last = told.lines().last().unwrap_or_default();
    let light = last.split(", ").find_map(|part| part.strip_suffix(" light")?.parse::<usize>().ok());
    assert!(last.starts_with("sub-models: 12 models, ") && light > Some(8), "{told}");
}

#[test]
fn a_plan_says_what_stays_in_a_budget() {
    let new = runtime(VARIABLE);
    // 8 capsules of 2 MiB, in four sessions.
    let place = Onnx::new(&layers(256, 8));
    place.converted(8);
    let bytes: Vec<u8> = (0..256).flat_map(|i| (i as f32 / 256.0).to_le_bytes()).collect();
    npy::write(&SystemDisk, &place.path("x.npy"), ElementType::Float32, &[1, 256], &bytes).unwrap();
    let plan = |memory: &str| -> Value {
        let args = ["plan", "m8.cgraph", "--json", "--memory", memory];
        serde_json::from_str(&ok(&cgraph(&place, None, &args))).unwrap()
    };
    let run = |memory: u64, prepack: &str| {
        let memory = memory.to_string();
        let args =
            ["run", "m8.cgraph", "--input", "x=x.npy", "--json", "--memory", &memory, "--prepack", prepack];
        cgraph(&place, Some(&new), &args)
    };
    let first = plan("1MiB");
    for (number, prepack) in ["off", "auto", "on"].into_iter().enumerate() {
        let choice = &first["choices"][number];
        assert_eq!((&choice["prepack"], &choice["fits"]), (&prepack.into(), &false.into()));
        let least = choice["smallest_budget_bytes"].as_u64().unwrap();
        let why = failed(&run(least - 1, prepack));
        assert!(why.contains(&format!("the smallest possible one is {least} bytes")), "{prepack}: {why}");
        let whole = choice["whole_budget_bytes"].as_u64().unwrap();
        for memory in [least, (least + whole) / 2, whole] {
            let choice = &plan(&memory.to_string())["choices"][number];
            let report: Value = serde_json::from_str(&ok(&run(memory, prepack))).unwrap();
            assert_eq!(choice["pinned_bytes"], report["memory"]["pinned_bytes"], "{prepack} {memory}");
            assert_eq!(choice["pinned_capsules"], report["onnx"]["kept_capsules"], "{prepack} {memory}");
            assert_eq!(choice["streamed_bytes"], report["capsules"]["streamed_bytes"], "{prepack} {memory}");
            assert_eq!(choice["streamed_bytes"] == 0, memory == whole, "{prepack} {memory}");
        }
    }
    let on = |key: &str| [0, 2].map(|number| first["choices"][number][key].as_u64().unwrap());
    let [off, on] = on("smallest_budget_bytes");
    assert!(on > off + (2 << 20), "{off} {on}");
    let shown = ok(&cgraph(&place, None, &["plan", "m8.cgraph", "--memory", "1GiB"]));
    assert!(shown.contains("in 8 capsules") && shown.contains(&format!("{off:>14}")), "{shown}");
    let why = failed(&cgraph(&place, None, &["plan", "m8.cgraph", "--memory", "1GiB", "--ctx", "64"]));
    assert!(why.contains("no use for --ctx"), "{why}");
}

/// Large activations of many lengths: in a heap they would leave holes, half as large as all of them (measured).
#[cfg(target_os = "linux")]
#[test]
fn memory_beside_the_budget_is_the_runtimes_own_whatever_the_activations() {
    let (place, new) = (Onnx(tempfile::tempdir().unwrap()), runtime(VARIABLE));
    let source = set_up::folder().join("models/ch_PP-OCRv4_det_infer.onnx");
    let convert = ["convert", source.to_str().unwrap(), "-o", "m.cgraph", "--no-mini"];
    ok(&cgraph(&place, Some(&new), &convert));
    let input = vec![0; 4 * 3 * 640 * 640];
    npy::write(&SystemDisk, &place.path("x.npy"), ElementType::Float32, &[1, 3, 640, 640], &input).unwrap();
    let run = ["run", "m.cgraph", "--input", "x=x.npy", "--memory", "400MiB", "--json"];
    let report: Value = serde_json::from_str(&ok(&cgraph(&place, Some(&new), &run))).unwrap();
    let memory = |field: &str| report["memory"][field].as_u64().unwrap();
    assert!(memory("buffers_bytes") > 30 << 20, "{report}");
    let beside = memory("peak_rss_bytes") - memory("peak_bytes");
    assert!(beside < (52 << 20) + 2 * input.len() as u64, "{beside} bytes; {report}");
}

#[test]
fn numbers_of_half_precision_are_shown() {
    let new = runtime(VARIABLE);
    for (element, bits) in [(ElementType::Float16, 0x3e00u16), (ElementType::Bfloat16, 0x3fc0)] {
        let port = |name: &str| info(name, tensor_type(element, Some(&[-1])));
        let source =
            model(vec![node("Identity", &["x"], &["y"], vec![])], vec![port("x")], vec![port("y")], vec![]);
        let place = Onnx::new(&source);
        place.converted(1);
        let bytes: Vec<u8> = [bits, bits | 0x8000].into_iter().flat_map(u16::to_le_bytes).collect();
        npy::write(&SystemDisk, &place.path("x.npy"), element, &[2], &bytes).unwrap();
        let shown = ok(&cgraph(&place, Some(&new), &["run", "m1.cgraph", "--input", "x=x.npy"]));
        assert_eq!(shown, format!("y  {} [2]  1.5, -1.5\n", element.name()));
    }
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
    let (place, old, new) = (place(), runtime(OLD), runtime(VARIABLE));
    let args =
        ["run", "m4.cgraph", "--input", "x=x.npy", "--output", "y=y.npy", "--json", "--optimization", "off"];
    let run = |runtime: &Path, more: &[&str]| -> (Value, Vec<f32>) {
        let report = ok(&cgraph(&place, Some(runtime), &[&args[..], more].concat()));
        let ArrayData::Bytes(bytes) = array(&place, "y.npy").data else { panic!("y has no numbers") };
        let numbers = bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        (serde_json::from_str(&report).unwrap(), numbers)
    };
    let (_, wanted) = run(&new, &[]);
    assert!(wanted.len() == 96 && wanted.iter().all(|number| number.is_finite()));
    for memory in [&[][..], &["--memory", "24MiB"], &["--memory", "24MiB", "--prepack", "on"]] {
        let (report, numbers) = run(&old, memory);
        assert_eq!(report["onnx"]["zero_copy"], false);
        let off = numbers.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(numbers.len() == 96 && off <= 1e-5, "{off}");
        // Copies of weights are no activations.
        assert!(report["memory"]["buffers_bytes"].as_u64().is_some_and(|bytes| bytes < 64 << 10), "{report}");
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
        "of no Python on the path",
        "the system",
        "pip install \"onnxruntime>=1.18\"",
        VARIABLE,
    ] {
        assert!(why.contains(part), "{part} is missing: {why}");
    }
    let why = failed(&cgraph(&place, Some(&place.path("nothing")), &run));
    assert!(why.contains("the environment variable") && why.contains("nothing (not there)"), "{why}");
    std::fs::create_dir(place.path("empty")).unwrap();
    let why = failed(&cgraph(&place, Some(&place.path("empty")), &run));
    assert!(why.contains("/empty (no libonnxruntime.so in it)") || !cfg!(target_os = "linux"), "{why}");
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
    let compiler = std::env::var_os("CAPSULEGRAPH_TEST_CC").unwrap_or_else(|| "cc".into());
    let built = Command::new(compiler)
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
    let mut command = built::cgraph();
    command.current_dir(place.0.path()).args(["run", "m4.cgraph", "--input", "x=x.npy", "--json"]);
    for variable in [VARIABLE, "CONDA_PREFIX", "LD_LIBRARY_PATH", "PYTHONUSERBASE"] {
        command.env_remove(variable);
    }
    command.env("PATH", place.0.path()).env("HOME", place.0.path()).env("VIRTUAL_ENV", &venv);
    let report: Value = serde_json::from_str(&ok(&command.output().unwrap())).unwrap();
    let found = Path::new(report["onnx"]["runtime_path"].as_str().unwrap()).canonicalize().unwrap();
    assert_eq!(found, folder.join(library.file_name().unwrap()).canonicalize().unwrap());
}

#[test]
fn prompts_and_tensors_are_told_apart() {
    let place = place();
    let why = failed(&cgraph(&place, None, &["run", "m4.cgraph", "-p", "Hello"]));
    assert!(why.contains("ONNX model") && why.contains("--input"), "{why}");
    let run = ["run", "m4.cgraph", "--input", "x=x.npy"];
    for (args, why) in [
        (&["--ctx", "64"][..], "--ctx (the inputs' shapes"),
        (&["--chat"], "--chat (tensors go in"),
        (&["-n", "8", "--stop", "x"], "-n, --stop (it makes tensors"),
        (&["--kv-type", "f16"], "--kv-type ("),
        (&["--processors", "0"], "--processors ("),
    ] {
        let said = failed(&cgraph(&place, None, &[&run[..], args].concat()));
        assert!(said.contains("m4.cgraph: it is an ONNX model") && said.contains(why), "{said}");
    }
    let why = failed(&cgraph(&place, None, &["bench", "m4.cgraph", "-p", "16"]));
    assert!(why.contains("-p (inputs are as long as"), "{why}");
    let why = failed(&cgraph(&place, None, &["run", "m.onnx", "--input", "x=x.npy"]));
    assert!(why.contains("cgraph convert m.onnx -o m.cgraph"), "{why}");
    let why =
        failed(&cgraph(&place, None, &["run", "m4.cgraph", "--input", "x=x.npy", "--output", "y=x.npy"]));
    assert!(why.contains("x.npy"), "{why}");
}

//! The Windows build, driven from Linux: its DLL from C and C++, its command line beside this system's, under wine.
//!
//! The Rust tests run there by themselves. Needs what `cargo xtask windows` makes and names in the environment: the build's folder
//! in CAPSULEGRAPH_TEST_WINDOWS, ONNX Runtime for Windows in CAPSULEGRAPH_TEST_WINDOWS_ONNXRUNTIME, wine's variables.
#![cfg(all(target_os = "linux", feature = "cli"))]
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/built.rs"]
mod built;
#[path = "support/cgraph.rs"]
mod cgraph;
#[path = "support/compiler.rs"]
mod compiler;
#[path = "support/onnx_set_up.rs"]
mod onnx;
#[path = "support/program.rs"]
mod program;
mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use capsulegraph::container::disk::SystemDisk;
use capsulegraph::container::npy::{self, ArrayData};
use capsulegraph::graph::element::ElementType;
use cgraph::Place;
use compiler::Language;
use program::root;
use support::TinyModel;

fn variable(name: &str) -> PathBuf {
    let value = std::env::var_os(name);
    value.unwrap_or_else(|| panic!("{name} is not set; run the tests with: cargo xtask windows")).into()
}

/// A file of the Windows build.
fn built(name: &str) -> PathBuf {
    let folder = variable("CAPSULEGRAPH_TEST_WINDOWS");
    let places = [folder.join(name), folder.join("deps").join(name)];
    let found = places.iter().filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path))).max();
    found.unwrap_or_else(|| panic!("{name} is neither in {} nor in deps there", folder.display())).1.clone()
}

/// A path as programs for Windows have it, from whatever drive they run.
fn drive(path: &Path) -> String {
    format!("Z:{}", path.display())
}

/// A program under wine.
fn wine(program: &Path) -> Command {
    let mut command = Command::new("/usr/lib/wine/wine64");
    command.arg(program);
    command
}

fn output_of(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace('\r', "");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// An empty folder, whose path programs in C take for ASCII.
fn folder(name: &str) -> PathBuf {
    let path =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("windows {}", std::process::id())).join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Compiles `source` for Windows, linked to the DLL, which is put beside the program.
fn compile(source: &Path, language: Language, place: &Path) -> PathBuf {
    let program = place.join(source.with_extension("exe").file_name().unwrap());
    let mut command = language.for_windows();
    command.arg("-I").arg(root().join("include")).arg("-I").arg(root().join("bindings/cpp")).arg(source);
    // The import libraries of both worlds.
    let import = if language == Language::C { "libcapsulegraph.dll.a" } else { "capsulegraph.dll.lib" };
    command.args(["-x", "none", "-o"]).arg(&program).arg(built(import)).arg("-static");
    let (code, _, errors) = output_of(&mut command);
    assert_eq!(code, Some(0), "{}: {errors}", source.display());
    std::fs::copy(built("capsulegraph.dll"), place.join("capsulegraph.dll")).unwrap();
    program
}

/// Compiles a test program and runs it on its models and an empty folder. It must print "ok" and nothing else.
fn check(source: &str, language: Language) {
    let place = folder(&format!("{source} {language:?}"));
    let program = compile(&root().join(source), language, &place);
    let (gguf, work) = (place.join("tiny.gguf"), place.join("work"));
    TinyModel { width: 128, blocks: 4, ffn: 256, heads: 4, head_dim: 32, ..TinyModel::default() }
        .write(&gguf);
    std::fs::create_dir_all(&work).unwrap();
    let small = drive(&onnx::folder().join("models/small.onnx"));
    let (gguf, work, runtime) = (drive(&gguf), drive(&work), runtime());
    let mut command = wine(&program);
    command.env("CAPSULEGRAPH_ONNXRUNTIME", &runtime);
    match source {
        "tests/c/onnx.c" => command.args([&small, &work, &runtime, &gguf]),
        "tests/cpp/api.cpp" => command.args([&gguf, &small, &work]),
        _ => command.args([&gguf, &work]),
    };
    let (code, out, mut err) = output_of(&mut command);
    // ONNX Runtime looks for graphics processors, which wine has no library for.
    err = err.replace("Failed to create DXGI factory.\n", "");
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "ok\n", ""), "{source} {language:?}");
    std::fs::remove_dir_all(place).unwrap();
}

fn runtime() -> String {
    drive(&variable("CAPSULEGRAPH_TEST_WINDOWS_ONNXRUNTIME"))
}

#[test]
fn c_programs_call_the_dll() {
    for program in ["main_path", "misuse", "threads", "workers", "parts", "onnx", "paths"] {
        check(&format!("tests/c/{program}.c"), Language::C);
    }
}

#[test]
fn cpp_programs_call_the_dll() {
    check("tests/cpp/api.cpp", Language::Cpp);
}

/// Runs both command lines on a file here and one there with the same arguments; both must succeed.
fn both(place: &Place, arguments: &[&str], there: &[(&str, &str)]) -> [String; 2] {
    let here = place.ok(arguments);
    let mut command = wine(&built("cgraph.exe"));
    command.current_dir(place.path("windows"));
    let arguments = arguments.iter().map(|argument| {
        let replaced = there.iter().find(|(from, _)| from == argument);
        replaced.map_or(*argument, |(_, to)| to)
    });
    let (code, out, errors) = output_of(command.args(arguments));
    assert_eq!(code, Some(0), "{errors}");
    [here, out]
}

#[test]
fn both_systems_write_the_same_files_and_compute_the_same_bits() {
    let place = Place::new();
    std::fs::create_dir(place.path("windows")).unwrap();
    let same = |name: &str| {
        let there = place.bytes(&format!("windows/{name}"));
        assert!(!there.is_empty() && place.bytes(name) == there, "{name} differs");
    };
    let model = variable("CAPSULEGRAPH_TEST_MODEL");
    let (here, there) = (model.to_str().unwrap(), drive(&model));
    // A mini of it is measured for minutes; those of small models are as good a proof.
    both(&place, &["convert", here, "-o", "m.cgraph", "--no-mini"], &[(here, &there)]);
    same("m.cgraph");
    let ids: Vec<u32> = (0..96).map(|i| 1000 + i * 37).collect();
    for folder in ["", "windows/"] {
        std::fs::write(place.path(&format!("{folder}ids.json")), serde_json::to_vec(&ids).unwrap()).unwrap();
    }
    let eval = ["eval", "m.cgraph", "--tokens", "ids.json", "--ctx", "96", "--logits", "x.npy"];
    both(&place, &eval, &[]);
    same("x.npy");
    // Streamed past the cache, with few bytes pinned.
    both(&place, &[&eval[..], &["--memory", "60MB"]].concat(), &[]);
    same("x.npy");
    let run = ["run", "m.cgraph", "--chat", "-p", "What is the capital of France?", "-n", "24"];
    let [here, there] = both(&place, &run, &[]);
    assert!(here.len() > 24 && here == there, "{here:?} {there:?}");
    for folder in ["", "windows/"] {
        TinyModel::for_minis("q8_0", "q8_0", true).write(&place.path(&format!("{folder}tiny.gguf")));
    }
    both(&place, &["convert", "tiny.gguf"], &[]);
    same("tiny.cgraph");
    same("tiny.mini.cgraph");
    for mode in ["exact", "fast", "speculative"] {
        let run = ["run", "tiny.mini.cgraph", "-p", "the water", "-n", "24", "--mode", mode];
        let [here, there] = both(&place, &run, &[]);
        assert_eq!(here, there, "{mode}");
    }
}

#[test]
fn an_onnx_model_runs_by_the_runtime_for_windows() {
    let place = Place::new();
    std::fs::create_dir(place.path("windows")).unwrap();
    let model = onnx::folder().join("models/magika.onnx");
    let (here, there) = (model.to_str().unwrap(), drive(&model));
    both(&place, &["convert", here, "-o", "m.cgraph", "--no-mini"], &[(here, &there)]);
    assert!(place.bytes("m.cgraph") == place.bytes("windows/m.cgraph"));
    let bytes: Vec<u8> = (0..2048i32).flat_map(|i| (i * 7 % 257).to_le_bytes()).collect();
    for folder in ["", "windows/"] {
        let path = place.path(&format!("{folder}x.npy"));
        npy::write(&SystemDisk, &path, ElementType::Int32, &[1, 2048], &bytes).unwrap();
    }
    let (own, other) = (onnx::runtime(), runtime());
    let own = own.to_str().unwrap();
    for memory in [&[][..], &["--memory", "16MB"]] {
        let run = [
            "run",
            "m.cgraph",
            "--input",
            "bytes=x.npy",
            "--output",
            "target_label=y.npy",
            "--report",
            "r.json",
        ];
        let arguments = [&run[..], &["--onnxruntime", own], memory].concat();
        both(&place, &arguments, &[(own, &other)]);
        let [here, there] = ["y.npy", "windows/y.npy"].map(|name| {
            let array = npy::read(&SystemDisk, &place.path(name), None).unwrap();
            let ArrayData::Bytes(bytes) = array.data else { panic!("{name} holds no numbers") };
            let floats = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            floats.collect::<Vec<f32>>()
        });
        // Two builds of the runtime, by two compilers: not the same bits.
        let near = here.iter().zip(&there).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(here.len() == there.len() && here.len() > 100 && near, "{here:?} {there:?}");
        let report: serde_json::Value = serde_json::from_slice(&place.bytes("windows/r.json")).unwrap();
        assert_eq!(report["onnx"]["zero_copy"], true, "{report}");
    }
}

/// The command line on a console, which wine makes of a terminal; arguments without quotes in them.
fn on_a_console(place: &Place, arguments: &str) -> Command {
    let line = format!("/usr/lib/wine/wine64 '{}' {arguments}", built("cgraph.exe").display());
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).current_dir(place.path(""));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

#[test]
fn ctrl_c_on_the_console_ends_with_130_and_leaves_nothing() {
    let place = Place::with_model();
    let ids: Vec<u32> = (0..200_000).map(|i| i % 250).collect();
    std::fs::write(place.path("ids.json"), serde_json::to_vec(&ids).unwrap()).unwrap();
    let before = place.files();
    let arguments = "eval m.cgraph --tokens ids.json --logits out.npy --ctx 64 --batch 1";
    let mut child = on_a_console(&place, arguments).spawn().unwrap();
    let begun = Instant::now();
    while place.files() == before && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(child.try_wait().unwrap().is_none(), "it was done before it could be interrupted");
    // The key, as a terminal sends it.
    let mut keys = child.stdin.take().unwrap();
    keys.write_all(b"\x03").unwrap();
    keys.flush().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(keys);
    assert_eq!(place.files(), before);
}

#[test]
fn the_console_shows_what_no_code_page_has() {
    let place = Place::new();
    let output = on_a_console(&place, "inspect 'ü 日本.cgraph'").output().unwrap();
    let mut shown = String::new();
    // The console moves the cursor between characters: what counts is their order.
    let mut rest = String::from_utf8(output.stdout).unwrap();
    while let Some(escape) = rest.find('\x1b') {
        shown.push_str(&rest[..escape]);
        let end = rest[escape + 2..].find(|c: char| c.is_ascii_alphabetic()).map(|at| escape + 3 + at);
        rest = rest.split_off(end.unwrap_or(rest.len()));
    }
    shown.push_str(&rest);
    let letters: String = shown.chars().filter(|c| c.is_alphabetic()).collect();
    assert!(letters.contains("cannotopenü日本cgraph"), "{shown:?}");
    assert_eq!(output.status.code(), Some(1));
}

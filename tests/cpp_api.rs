//! The C++ header (bindings/cpp): its tests and examples, against the shared and the static library, under AddressSanitizer and
//! valgrind; and the table of cases in C and C++.

// The compilers and valgrind are called as Linux has them.
#![cfg(target_os = "linux")]
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/compiler.rs"]
mod compiler;
#[path = "support/onnx_set_up.rs"]
mod onnx;
#[path = "support/program.rs"]
mod program;
mod support;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use compiler::Language;
use program::{Link, compile, directory, root};
use support::TinyModel;

/// The warnings that the header must be free of, besides those of every program.
const WARNINGS: &[&str] = &["-Wconversion", "-Wshadow", "-Wold-style-cast", "-Wnon-virtual-dtor"];
/// Leaks are errors, and so is whatever else the sanitizers see.
const SANITIZERS: &[&str] = &["-fsanitize=address", "-fsanitize=undefined", "-fno-sanitize-recover=all"];

/// A tiny random model as GGUF.
fn gguf() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = directory("model").join("tiny.gguf");
        TinyModel { width: 128, blocks: 4, ffn: 256, heads: 4, head_dim: 32, ..TinyModel::default() }
            .write(&path);
        path
    })
}

/// The same as a .cgraph file.
fn cgraph() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = gguf().with_extension("cgraph");
        capsulegraph::convert::import::convert(gguf(), &path, &Default::default(), &mut |_, _| {}).unwrap();
        path
    })
}

fn include() -> String {
    format!("-I{}", root().join("bindings/cpp").display())
}

/// Compiles a C++ program with the header, every warning an error.
fn compile_cpp(source: &str, link: Link, flags: &[&str], name: &str) -> PathBuf {
    let include = include();
    let flags: Vec<&str> = [&[include.as_str()], WARNINGS, flags].concat();
    compile(&root().join(source), Language::Cpp, link, &flags, name)
}

fn output_of(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// valgrind, for which leaks are errors too.
fn valgrind(program: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["-q", "--error-exitcode=9", "--leak-check=full", "--fair-sched=yes"]);
    command.args(["--show-leak-kinds=definite,indirect", "--errors-for-leak-kinds=definite,indirect"]);
    command.arg(format!("--suppressions={}", root().join("tests/c/onnx.valgrind").display())).arg(program);
    command
}

/// A program as the sanitizers want it started.
fn sanitized(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("ASAN_OPTIONS", "detect_leaks=1:detect_stack_use_after_return=1");
    let leaks = root().join("tests/c/onnx.lsan");
    command.env("LSAN_OPTIONS", format!("print_suppressions=0:suppressions={}", leaks.display()));
    command
}

/// Runs a program of tests/cpp on the tiny model, an ONNX model and an empty folder. It must print "ok" and nothing else.
fn check(mut command: Command, name: &str) {
    let work = directory(&format!("{name}.work"));
    command.arg(gguf()).arg(onnx::folder().join("models/small.onnx")).arg(&work);
    let found = output_of(command.env("CAPSULEGRAPH_ONNXRUNTIME", onnx::runtime()));
    assert_eq!(found, (Some(0), "ok\n".to_owned(), String::new()), "{name}");
    std::fs::remove_dir_all(work).unwrap();
}

/// C++ compilers: the one of the build, and clang where there is one.
fn compilers() -> Vec<Command> {
    let mut all = vec![Language::Cpp.compiler()];
    if Command::new("clang++").arg("--version").output().is_ok_and(|o| o.status.success()) {
        let mut clang = Command::new("clang++");
        clang.args(["-x", "c++", "-Wall", "-Wextra", "-pedantic", "-Werror"]);
        all.push(clang);
    }
    all
}

#[test]
fn headers_compile_without_a_warning_each_alone_and_in_every_dialect() {
    let folder = root().join("bindings/cpp/capsulegraph");
    let mut headers: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    headers.push(root().join("bindings/cpp/capsulegraph.hpp"));
    assert!(headers.len() > 5);
    let source = directory("headers").join("headers.cpp");
    for header in headers {
        // Twice: a header guards itself.
        let line = format!("#include \"{}\"\n", header.display());
        std::fs::write(&source, line.repeat(2) + "int main() {}\n").unwrap();
        let dialects: &[&[&str]] = match header.file_name().unwrap().to_str().unwrap() {
            "capsulegraph.hpp" => {
                &[&["-std=c++17"], &["-std=c++20"], &["-std=c++17", "-fno-exceptions", "-fno-rtti"]]
            }
            _ => &[&["-std=c++17"]],
        };
        for (dialect, mut compiler) in
            dialects.iter().flat_map(|d| compilers().into_iter().map(move |c| (d, c)))
        {
            compiler.args(*dialect).args(WARNINGS).arg("-fsyntax-only").arg(include());
            let (code, _, errors) = output_of(compiler.arg("-I").arg(root().join("include")).arg(&source));
            assert_eq!(code, Some(0), "{} {dialect:?}: {errors}", header.display());
        }
    }
}

#[test]
fn api() {
    for (link, dialect) in [(Link::Shared, "-std=c++17"), (Link::Static, "-std=c++20")] {
        let name = format!("api {link:?}");
        check(Command::new(compile_cpp("tests/cpp/api.cpp", link, &[dialect], &name)), &name);
    }
}

#[test]
fn api_under_sanitizers() {
    let program = compile_cpp("tests/cpp/api.cpp", Link::Shared, SANITIZERS, "api asan");
    check(sanitized(&program), "api asan");
}

#[test]
fn api_under_valgrind() {
    let program = compile_cpp("tests/cpp/api.cpp", Link::Shared, &[], "api valgrind");
    check(valgrind(&program), "api valgrind");
}

#[test]
fn without_exceptions() {
    let flags = ["-fno-exceptions", "-fno-rtti"];
    let program = compile_cpp("tests/cpp/without_exceptions.cpp", Link::Shared, &flags, "without exceptions");
    check(Command::new(&program), "without exceptions");
    // Asking for a value that is not there says why, and ends the program.
    let (code, out, err) = output_of(Command::new(&program).arg("misuse"));
    assert!(
        code.is_none() && out.is_empty() && err.contains("cannot open absent.cgraph"),
        "{code:?} {out}{err}"
    );
}

#[test]
fn a_library_of_another_abi_version_is_refused() {
    let program = compile_cpp("tests/cpp/other_abi.cpp", Link::Shared, &[], "other abi");
    let found = output_of(Command::new(program).arg(cgraph()));
    assert_eq!(found, (Some(0), "ok\n".to_owned(), String::new()));
}

#[test]
fn every_function_of_the_c_api_is_used() {
    let headers: String = std::fs::read_dir(root().join("bindings/cpp/capsulegraph"))
        .unwrap()
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    // Whole words: some names are the beginnings of others.
    let used: HashSet<&str> = headers.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    let symbols = std::fs::read_to_string(root().join("tests/data/exported-symbols.txt")).unwrap();
    // Errors carry their own status.
    let missing: Vec<&str> =
        symbols.lines().filter(|name| *name != "capg_error_status" && !used.contains(*name)).collect();
    assert!(missing.is_empty() && symbols.lines().count() > 50, "the C++ header does not reach {missing:?}");
}

#[test]
fn the_example_that_the_readme_prints() {
    let source = "examples/cmake_consumer/answer.cpp";
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let printed = readme.split_once("```cpp\n").unwrap().1.split_once("```").unwrap().0;
    assert_eq!(
        std::fs::read_to_string(root().join(source)).unwrap(),
        printed,
        "README.md differs from {source}"
    );
    let plain = compile_cpp(source, Link::Shared, &[], "answer");
    let (code, out, err) = output_of(Command::new(&plain).arg(cgraph()));
    assert!(code == Some(0) && out.len() > 1 && err.is_empty(), "{code:?} {out} {err}");
    let (code, none, err) = output_of(Command::new(&plain).arg("absent.cgraph"));
    assert!(code == Some(1) && none.is_empty() && err.contains("absent.cgraph"), "{code:?} {none} {err}");
    let other = compile_cpp(source, Link::Static, SANITIZERS, "answer asan");
    assert_eq!(output_of(sanitized(&other).arg(cgraph())), (Some(0), out.clone(), String::new()));
    assert_eq!(output_of(valgrind(&plain).arg(cgraph())), (Some(0), out, String::new()));
}

#[test]
fn the_game_loop_holds_its_budget_and_generates_the_same() {
    let source = "examples/game_loop.cpp";
    let plain = compile_cpp(source, Link::Shared, &[], "game loop");
    // The text, the number of frames, and of those that held the budget.
    let run = |mut command: Command, milliseconds: &str| {
        command.arg(cgraph()).args(["Hello, how are you?", "96", milliseconds]);
        let (code, out, err) = output_of(&mut command);
        assert!(code == Some(0) && err.is_empty(), "{code:?} {out}{err}");
        let (text, report) = out.split_once("\n--- ").unwrap();
        assert!(report.contains("frames of 16.7 ms") && report.contains('#'), "{report}");
        let number = |text: &str| text.split(' ').next().unwrap().parse::<usize>().unwrap();
        (text.to_owned(), number(report), number(report.split_once("; ").unwrap().1))
    };
    let (text, frames, held) = run(Command::new(&plain), "0.5");
    assert!(!text.is_empty() && frames > 3, "{frames} frames: {text}");
    // What the first slice and interrupts take is no more than a few of them.
    assert!(held + 1 + frames / 5 >= frames, "{held} of {frames} slices held the budget");
    let other = compile_cpp(source, Link::Shared, SANITIZERS, "game loop asan");
    assert_eq!(run(sanitized(&other), "4").0, text);
    assert_eq!(run(valgrind(&plain), "100").0, text);
    // Sliced or not, the tokens are the same.
    let (whole, frames, _) = run(Command::new(&plain), "0");
    assert_eq!((whole, frames), (text, 1));
    let (code, _, err) = output_of(Command::new(&plain).arg("absent.cgraph"));
    assert!(code == Some(1) && err.contains("absent.cgraph"), "{code:?} {err}");
}

/// Runs the table of cases by a runner: every case must be passed, and every one must have been run.
fn run_table(program: &Path, name: &str) {
    let table = root().join("tests/data/cases.txt");
    let cases = std::fs::read_to_string(&table).unwrap().lines().filter(|l| l.starts_with("case ")).count();
    let model = std::env::var_os("CAPSULEGRAPH_TEST_MODEL").expect(
        "CAPSULEGRAPH_TEST_MODEL must name the small real model; run the tests with: cargo xtask test",
    );
    let work = directory(&format!("{name}.work"));
    let mut command = Command::new(program);
    command.arg(table).arg(model).arg(onnx::folder().join("models")).arg(&work);
    let (code, out, err) = output_of(command.env("CAPSULEGRAPH_ONNXRUNTIME", onnx::runtime()));
    let last = out.lines().last().unwrap_or_default();
    let wanted = format!("test result: ok. {cases} passed; 0 failed");
    assert!(code == Some(0) && cases > 10 && last == wanted && err.is_empty(), "{name}: {code:?} {out}{err}");
    std::fs::remove_dir_all(work).unwrap();
}

#[test]
fn table_of_cases_in_c() {
    let source = root().join("tests/c/cases.c");
    run_table(&compile(&source, Language::C, Link::Shared, &[], "cases c"), "cases c");
}

#[test]
fn table_of_cases_in_cpp() {
    run_table(&compile_cpp("tests/cpp/cases.cpp", Link::Static, &[], "cases cpp"), "cases cpp");
}

#[test]
fn runners_refuse_what_they_do_not_know_and_fail_what_is_wrong() {
    let table = root().join("tests/cases/wrong.txt");
    let text = std::fs::read_to_string(&table).unwrap();
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("case ")).collect();
    let folder = directory("wrong");
    std::fs::copy(cgraph(), folder.join("language.cgraph")).unwrap();
    let c = compile(&root().join("tests/c/cases.c"), Language::C, Link::Shared, &[], "wrong c");
    let cpp = compile_cpp("tests/cpp/cases.cpp", Link::Shared, &[], "wrong cpp");
    for program in [c, cpp] {
        let mut command = Command::new(&program);
        let (code, out, _) = output_of(command.arg(&table).args(["model", "onnx"]).arg(&folder));
        let wanted = format!("test result: FAILED. 0 passed; {} failed\n", names.len());
        assert!(code == Some(1) && names.len() > 5 && out.ends_with(&wanted), "{out}");
        // The name of each is a word of its reason.
        for (name, line) in names.iter().zip(out.lines()) {
            let why = line.strip_prefix(&format!("case {name} ... FAILED: ")).unwrap_or_default();
            assert!(why.contains(name), "{line}");
        }
    }
}

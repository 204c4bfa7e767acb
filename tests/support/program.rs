//! Compiles C programs against the library of this build. The test that uses it has the module `compiler` too.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use crate::compiler::Language;

/// What a program that links the static library needs besides: rustc --print native-static-libs.
const SYSTEM_LIBRARIES: &[&str] = &["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl"];

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The library that a program is linked to.
#[derive(Clone, Copy, Debug)]
pub enum Link {
    /// libcapsulegraph.so.
    Shared,
    /// libcapsulegraph.a.
    Static,
}

/// The newest library of this build: cargo puts it beside the tests, and `cargo build` a directory above.
fn library(file_name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let places = [tests.join(file_name), tests.parent().unwrap().join(file_name)];
    let found = places.iter().filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)));
    match found.max() {
        Some((_, path)) => path.clone(),
        None => panic!("{file_name} is neither in {} nor above it", tests.display()),
    }
}

/// The shared library of this build.
pub fn shared_library() -> PathBuf {
    library("libcapsulegraph.so")
}

/// A directory of this test run; its name has characters outside ASCII.
pub fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("{} ü {}", env!("CARGO_CRATE_NAME"), std::process::id()))
        .join(name);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Compiles `source` and returns the program.
pub fn compile(source: &Path, language: Language, link: Link, flags: &[&str], name: &str) -> PathBuf {
    let program = directory(name).join(source.file_stem().unwrap());
    let mut command = language.compiler();
    command.arg("-g").args(flags);
    command.arg("-I").arg(root().join("include")).arg(source).args(["-x", "none", "-o"]).arg(&program);
    match link {
        Link::Shared => {
            let library = shared_library();
            // The old tag: of a RUNPATH, cargo's LD_LIBRARY_PATH comes first, and with it an older build's library.
            let folder = library.parent().unwrap().display();
            command.arg(&library).arg(format!("-Wl,--disable-new-dtags,-rpath,{folder}"));
        }
        Link::Static => {
            command.arg(library("libcapsulegraph.a"));
        }
    }
    let output = command.args(SYSTEM_LIBRARIES).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", source.display());
    program
}

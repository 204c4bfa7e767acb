//! Runs the real program in a directory of its own.
#![allow(dead_code, clippy::expect_used, clippy::unwrap_used)]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::built;
use crate::support::TinyModel;

/// A temporary directory in which the program runs.
#[derive(Debug)]
pub struct Place(tempfile::TempDir);

/// What a run of the program gave.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; absent where a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Place {
    /// An empty directory.
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    /// A directory with `m.gguf`, `m.cgraph` and `m.mini.cgraph` of the default tiny model.
    pub fn with_model() -> Self {
        Self::with(&TinyModel::default())
    }

    /// A directory with `m.gguf`, `m.cgraph` and `m.mini.cgraph` of `model`.
    pub fn with(model: &TinyModel) -> Self {
        let place = Self::new();
        model.write(&place.path("m.gguf"));
        place.ok(&["convert", "m.gguf"]);
        place
    }

    /// The path of a file in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The bytes of a file in the directory.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|e| panic!("cannot read {name}: {e}"))
    }

    /// Names of all files, hidden ones too, sorted.
    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The program with arguments, standard input closed.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = built::cgraph();
        command.args(args).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// Runs the program.
    pub fn cgraph(&self, args: &[&str]) -> Ran {
        finish(&mut self.command(args), "")
    }

    /// Runs the program with a text on its standard input.
    pub fn fed(&self, args: &[&str], input: &str) -> Ran {
        finish(self.command(args).stdin(Stdio::piped()), input)
    }

    /// Runs the program, which must succeed, and gives its output.
    pub fn ok(&self, args: &[&str]) -> String {
        let ran = self.cgraph(args);
        assert_eq!(ran.code, Some(0), "cgraph {args:?}: {}", ran.err);
        ran.out
    }

    /// Runs the program, which must succeed and print JSON.
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let out = self.ok(args);
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("cgraph {args:?}: {e}: {out}"))
    }
}

fn finish(command: &mut Command, input: &str) -> Ran {
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    if let Some(mut pipe) = child.stdin.take() {
        // A program that ends before it has read everything closes the pipe.
        let _ = pipe.write_all(input.as_bytes());
    }
    let done = child.wait_with_output().expect("the program ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program writes UTF-8");
    Ran { code: done.status.code(), out: text(done.stdout), err: text(done.stderr) }
}

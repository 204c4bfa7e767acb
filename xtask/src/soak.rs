//! `cargo xtask soak [SECONDS]`: eight threads on one model, from each language that the library is called from; and the C
//! programs under ThreadSanitizer.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::csharp;
use crate::setup;
use crate::shell::{self, Outcome, cache, root, target};
use crate::systems::here;
use crate::wheel;

/// A runner that prints `test result: ...` at the end.
pub struct Runner {
    /// What it is.
    pub name: &'static str,
    /// How it is started.
    pub command: Command,
}

/// ThreadSanitizer sees the C program and what it calls of libc; the library's own code is Rust's to check.
const SANITIZER: &str = "ignore_noninstrumented_modules=1 halt_on_error=1 exitcode=66";

pub fn run(seconds: &str) -> Outcome {
    let seconds: u32 = seconds.parse().map_err(|_| format!("\"{seconds}\" is no number of seconds"))?;
    for Runner { name, mut command } in runners(seconds)? {
        println!("--- {name}");
        shell::run(&mut command)?;
    }
    Ok(())
}

/// Each language's soak for that long, and a short one under ThreadSanitizer.
pub fn runners(seconds: u32) -> Outcome<Vec<Runner>> {
    setup::programs()?;
    here()?;
    let model = setup::model()?;
    let folder = cache().join("soak");
    std::fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    let program = |sanitized: bool, seconds: u32| -> Outcome<Command> {
        let mut command = Command::new(compile(&folder, sanitized)?);
        command.arg(&model).arg(&folder).arg(seconds.to_string()).env("TSAN_OPTIONS", SANITIZER);
        Ok(command)
    };
    let plain = program(false, seconds)?;
    let sanitized = program(true, seconds.min(60))?;
    let mut python = wheel::python()?;
    python.arg(root().join("bindings/python/tests/soak.py")).arg(seconds.to_string());
    let mut runners = vec![
        Runner { name: "C, eight threads", command: plain },
        Runner { name: "C, eight threads under ThreadSanitizer", command: sanitized },
        Runner { name: "Python, eight threads", command: python },
    ];
    runners.extend(csharp::soaks(seconds)?.into_iter().map(|(name, command)| Runner { name, command }));
    Ok(runners)
}

fn compile(folder: &Path, sanitized: bool) -> Outcome<PathBuf> {
    let program = folder.join(if sanitized { "soak-tsan" } else { "soak" });
    let library = target().join("release");
    let mut compiler = Command::new("cc");
    compiler.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-g", "-O1", "-I"]).arg(root().join("include"));
    if sanitized {
        compiler.arg("-fsanitize=thread");
    }
    compiler.arg(root().join("tests/c/soak.c")).arg("-o").arg(&program).arg("-L").arg(&library);
    compiler.arg("-lcapsulegraph").arg(format!("-Wl,-rpath,{}", library.display())).arg("-lpthread");
    shell::run(&mut compiler)?;
    Ok(program)
}

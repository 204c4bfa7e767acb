//! Linking for Linux against an older glibc than this system's, as cargo-zigbuild has zig do it: what is built here then runs on
//! the systems of the last years.

use std::path::PathBuf;
use std::process::Command;

use crate::aarch64;
use crate::setup;
use crate::shell::{self, Outcome, cargo, target};

/// The oldest glibc that releases run with: that of 2018.
const GLIBC: &str = "2.28";

/// Builds libraries and command line by `cargo`; gives their folder.
fn build(mut cargo: Command, triple: &str, folder: PathBuf) -> Outcome<PathBuf> {
    let tools = setup::zig()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = tools.parent().map(PathBuf::from).into_iter().chain(std::env::split_paths(&path));
    let path = std::env::join_paths(places).map_err(|e| format!("cannot find zig in its folder: {e}"))?;
    cargo.args(["zigbuild", "--release", "--lib", "--bins", "--target", &format!("{triple}.{GLIBC}")]);
    shell::run(cargo.env("PATH", path))?;
    Ok(folder.join(triple).join("release"))
}

pub fn x86_64() -> Outcome<PathBuf> {
    build(cargo(), "x86_64-unknown-linux-gnu", target())
}

/// By Debian's Rust, whose standard library there is for this processor.
pub fn aarch64() -> Outcome<PathBuf> {
    let sysroot = aarch64::setup()?;
    let target = aarch64::target(&sysroot);
    build(target.plain(), target.triple, crate::debian::target())
}

//! Linking for Linux against an older glibc than this system's, as cargo-zigbuild has zig do it: what is built here then runs on
//! the systems of the last years.
//!
//! Zig would put an unwinder of its own into the library. Exceptions of ONNX Runtime pass through frames of ours, whose
//! unwinding must be done by the one that raised them, GCC's: so that is linked in its place.

use std::path::PathBuf;
use std::process::Command;

use crate::aarch64;
use crate::debian;
use crate::setup;
use crate::shell::{self, Outcome, capture, cargo, target};

/// The oldest glibc that releases run with: that of 2018.
const GLIBC: &str = "2.28";

/// Builds libraries and command line by `cargo`, with `flags` for its compiler and the unwinder of the C compiler `cc`; gives
/// their folder.
fn build(mut cargo: Command, triple: &str, cc: &str, flags: &str, folder: PathBuf) -> Outcome<PathBuf> {
    let tools = setup::zig()?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = tools.parent().map(PathBuf::from).into_iter().chain(std::env::split_paths(&path));
    let path = std::env::join_paths(places).map_err(|e| format!("cannot find zig in its folder: {e}"))?;
    let unwinder = capture(Command::new(cc).arg("-print-file-name=libgcc_s.so.1"))?;
    let linked = format!("-C link-arg={} -C link-arg=-Wl,--allow-shlib-undefined", unwinder.trim());
    let flags = format!("{flags} {} {linked}", shell::remapped());
    // These would take the place of the target's own flags.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.env(format!("CARGO_TARGET_{}_RUSTFLAGS", triple.replace('-', "_").to_uppercase()), flags.trim());
    cargo.args(["zigbuild", "--release", "--lib", "--bins", "--target", &format!("{triple}.{GLIBC}")]);
    shell::run(cargo.env("PATH", path))?;
    Ok(folder.join(triple).join("release"))
}

pub fn x86_64() -> Outcome<PathBuf> {
    build(cargo(), "x86_64-unknown-linux-gnu", "cc", "", target())
}

/// By Debian's Rust, whose standard library there is for this processor.
pub fn aarch64() -> Outcome<PathBuf> {
    let sysroot = aarch64::setup()?;
    let target = aarch64::target(&sysroot);
    build(target.plain(), target.triple, target.linker, &target.flags(), debian::target())
}

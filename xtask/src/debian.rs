//! Building for other systems than this one with Debian's Rust, and the Debian packages that takes.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::setup::debian;
use crate::shell::{Outcome, cache, root};

/// The package with the compiler.
pub const COMPILER: &str = "rustc-web";
/// What every target needs.
pub const TOOLS: &[&str] = &[COMPILER, "cargo-web"];

/// The version of the compiler's package, which the standard library for a target must be of; installs what of `packages`
/// and the tools is missing.
pub fn compiler(packages: &[&str]) -> Outcome<String> {
    let all = [TOOLS, packages].concat();
    if !all.iter().all(|package| version(package).is_some()) {
        // Debian keeps one version, of which compiler and standard library must both be.
        debian(&all)?;
    }
    version(COMPILER).ok_or_else(|| format!("{COMPILER} was not installed"))
}

/// The version of an installed Debian package.
fn version(package: &str) -> Option<String> {
    let mut query = Command::new("dpkg-query");
    let output =
        query.args(["--show", "--showformat=${db:Status-Status} ${Version}", package]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.strip_prefix("installed ").map(str::to_owned)
}

/// Where Debian's cargo builds.
pub fn target() -> PathBuf {
    cache().join("debian")
}

/// Where it puts what it builds for `triple` in the profile of tests.
pub fn built(triple: &str) -> PathBuf {
    target().join(triple).join("debug")
}

/// A target: its triple, its standard library, its linker and what runs its programs.
pub struct Target<'a> {
    pub triple: &'a str,
    pub sysroot: &'a Path,
    pub linker: &'a str,
    pub runner: &'a str,
}

impl Target<'_> {
    /// Debian's cargo in the checkout, with the target's standard library for whatever names that target.
    pub fn plain(&self) -> Command {
        let mut cargo = Command::new("/usr/bin/cargo");
        cargo.current_dir(root()).env("RUSTC", "/usr/bin/rustc").env("CARGO_TARGET_DIR", target());
        // These would take the place of the target's own flags.
        cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        cargo.env(self.variable("RUSTFLAGS"), self.flags());
        cargo
    }

    /// What its compiler is told.
    pub fn flags(&self) -> String {
        format!("--sysroot={}", self.sysroot.display())
    }

    /// A command of it for the target.
    pub fn cargo(&self, command: &str) -> Command {
        let mut cargo = self.plain();
        cargo.args([command, "--target", self.triple]);
        cargo.env(self.variable("LINKER"), self.linker).env(self.variable("RUNNER"), self.runner);
        cargo
    }

    /// Cargo's variable for the target, such as RUSTFLAGS.
    pub fn variable(&self, of: &str) -> String {
        format!("CARGO_TARGET_{}_{of}", self.triple.replace('-', "_").to_uppercase())
    }

    /// Its `test`, without debug information. Dependencies are not optimised: building them takes longer than running them.
    pub fn test(&self) -> Command {
        let mut cargo = self.cargo("test");
        cargo.arg("--no-fail-fast");
        for setting in ["debug=false", "incremental=false", "package.'*'.opt-level=0"] {
            cargo.args(["--config", &format!("profile.test.{setting}")]);
        }
        cargo
    }
}

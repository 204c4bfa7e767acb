//! What a release is made of: the list of its parts and their licences, of which all must be allowed ones
//! (xtask/licenses/about.toml).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::shell::{Outcome, cache, capture, cargo, root, run};

/// What finds the licences: its version and features.
const LICENSES: [&str; 3] = ["cargo-about", "0.9.3", "cli"];
/// What lists the parts, likewise.
const LIST: [&str; 3] = ["cargo-cyclonedx", "0.5.9", ""];

/// The list's name.
const NAME: &str = "capsulegraph.cdx.json";

/// A program that cargo builds, once; its path.
fn tool([name, version, features]: [&str; 3]) -> Outcome<PathBuf> {
    let folder = cache().join("tools").join(format!("{name}-{version}"));
    let program = folder.join("bin").join(name);
    if !program.is_file() {
        let mut install = cargo();
        install.args(["install", "--quiet", "--locked", name, "--version", version, "--features", features]);
        install.arg("--root").arg(&folder);
        run(install.arg("--target-dir").arg(cache().join("tools/target")))?;
    }
    Ok(program)
}

fn page() -> PathBuf {
    root().join("docs/licenses.md")
}

/// The licences' page; an error where one is not allowed.
fn licenses() -> Outcome<String> {
    let folder = root().join("xtask/licenses");
    let mut about = Command::new(tool(LICENSES)?);
    // The texts are those in the crates themselves, whatever a server says of them.
    run(cargo().args(["fetch", "--locked"]))?;
    about.current_dir(root()).args(["generate", "--fail", "--frozen", "--features", "cli", "-c"]);
    let text = capture(about.arg(folder.join("about.toml")).arg(folder.join("about.hbs")))?;
    // Blank lines at the end of a licence's text say nothing.
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    Ok(lines.join("\n").trim_end().to_owned() + "\n")
}

/// Writes the licences' page.
pub fn write_licenses() -> Outcome {
    let text = licenses()?;
    fs::write(page(), text).map_err(|e| format!("cannot write {}: {e}", page().display()))
}

/// Writes the list of parts into `folder`; fails where the licences' page is not up to date.
pub fn dist(folder: &Path) -> Outcome {
    let found = fs::read_to_string(page()).map_err(|e| format!("cannot read {}: {e}", page().display()))?;
    if found != licenses()? {
        return Err("docs/licenses.md is out of date; run: cargo xtask licenses".into());
    }
    let mut list = Command::new(tool(LIST)?);
    list.current_dir(root()).args(["cyclonedx", "--format", "json", "--spec-version", "1.5"]);
    run(list.args(["--target", "all", "--describe", "crate"]))?;
    // It writes one beside each member's manifest, named after the member.
    let (made, other) = (root().join(NAME), root().join("xtask/xtask.cdx.json"));
    let text = fs::read_to_string(&made).map_err(|e| format!("cannot read {}: {e}", made.display()))?;
    for file in [made, other].iter().filter(|file| file.exists()) {
        fs::remove_file(file).map_err(|e| format!("cannot remove {}: {e}", file.display()))?;
    }
    // Where it was built is nobody's business, and where to get it no folder.
    let place = format!("path+file://{}#", root().display());
    let text = text.replace(&place, "").replace("?download_url=file://.", "");
    let target = folder.join(NAME);
    fs::write(&target, text).map_err(|e| format!("cannot write {}: {e}", target.display()))
}

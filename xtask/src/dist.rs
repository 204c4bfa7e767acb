//! `cargo xtask dist`: an archive of library, header and command line for this system.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::demo;
use crate::shell::{self, Outcome, cargo, root, target};

/// What goes where: path in the checkout or the target folder, folder in the archive.
const FILES: &[(&str, &str)] = &[
    ("include/capsulegraph.h", "include"),
    ("docs/c-api.md", "docs"),
    ("docs/format.md", "docs"),
    ("docs/manifest.schema.json", "docs"),
    ("docs/memory.md", "docs"),
    ("docs/performance.md", "docs"),
    ("docs/plots/decode.svg", "docs/plots"),
    ("docs/plots/first-token.svg", "docs/plots"),
    ("docs/plots/memory.svg", "docs/plots"),
    ("docs/plots/passes.svg", "docs/plots"),
    ("docs/plots/prefill.svg", "docs/plots"),
    ("docs/plots/roofline.svg", "docs/plots"),
    ("docs/plots/threads.svg", "docs/plots"),
    ("docs/report.md", "docs"),
    ("examples/quickstart.c", "examples"),
    ("examples/chat.c", "examples"),
    ("examples/threads.c", "examples"),
    ("examples/pipeline.c", "examples"),
    ("examples/pipeline_ray.py", "examples"),
    ("README.md", "."),
    ("CHANGELOG.md", "."),
    ("LICENSE-MIT", "."),
    ("LICENSE-APACHE", "."),
];

pub fn run() -> Outcome {
    let cgraph = demo::build()?;
    shell::run(cargo().args(["build", "--release", "--lib"]))?;
    let name = format!("capsulegraph-{}-{}-{}", version()?, std::env::consts::OS, std::env::consts::ARCH);
    let dist = target().join("dist");
    let folder = dist.join(&name);
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|e| format!("cannot clear {}: {e}", folder.display()))?;
    }
    for (path, place) in FILES {
        copy(&root().join(path), &folder.join(place))?;
    }
    copy(&cgraph, &folder.join("bin"))?;
    for library in ["libcapsulegraph.so", "libcapsulegraph.a"] {
        copy(&target().join("release").join(library), &folder.join("lib"))?;
    }
    for (option, file) in [
        ("--strip-unneeded", "bin/cgraph"),
        ("--strip-unneeded", "lib/libcapsulegraph.so"),
        ("--strip-debug", "lib/libcapsulegraph.a"),
    ] {
        shell::run(Command::new("strip").arg(option).arg(folder.join(file)))?;
    }
    let archive = format!("{name}.tar.gz");
    shell::run(Command::new("tar").current_dir(&dist).args(["czf", &archive, &name]))?;
    println!("{}", dist.join(archive).display());
    crate::wheel::dist(&dist)?;
    Ok(())
}

fn copy(file: &Path, folder: &Path) -> Outcome {
    let name = file.file_name().ok_or_else(|| format!("{} is no file", file.display()))?;
    fs::create_dir_all(folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    fs::copy(file, folder.join(name)).map_err(|e| format!("cannot copy {}: {e}", file.display()))?;
    Ok(())
}

/// The package's version, from the one place that states it.
fn version() -> Outcome<String> {
    let manifest = root().join("Cargo.toml");
    let text =
        fs::read_to_string(&manifest).map_err(|e| format!("cannot read {}: {e}", manifest.display()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
        .map(str::to_owned)
        .ok_or_else(|| "Cargo.toml states no version".to_owned())
}

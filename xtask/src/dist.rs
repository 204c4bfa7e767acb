//! `cargo xtask dist`: what a release holds. For each system an archive of an install tree (libraries, headers, CMake and
//! pkg-config files, command line, documents, examples) and a wheel; the packages of C# with all of them, Python's sdist, the
//! list of parts, checksums.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binary;
use crate::csharp_dist;
use crate::parts;
use crate::setup;
use crate::shell::{self, Outcome, capture, root, target};
use crate::systems::{Built, HERE, SYSTEMS, System};
use crate::try_out;
use crate::wheel;

/// Single files: path in the checkout, folder in the tree.
const FILES: &[(&str, &str)] = &[
    ("include/capsulegraph.h", "include"),
    ("bindings/cpp/capsulegraph.hpp", "include"),
    ("cmake/CapsuleGraphConfig.cmake", "lib/cmake/CapsuleGraph"),
    ("cmake/CapsuleGraphTargets.cmake", "lib/cmake/CapsuleGraph"),
    ("README.md", DOCUMENTS),
    ("CHANGELOG.md", DOCUMENTS),
    ("LICENSE-MIT", LICENCES),
    ("LICENSE-APACHE", LICENCES),
    ("docs/licenses.md", LICENCES),
];
/// Folders with all they hold: path in the checkout, path in the tree.
const FOLDERS: &[(&str, &str)] = &[
    ("bindings/cpp/capsulegraph", "include/capsulegraph"),
    ("docs", "share/doc/capsulegraph/docs"),
    ("examples", "share/doc/capsulegraph/examples"),
];
/// Files that are filled in: path in the checkout, path in the tree.
const TEMPLATES: &[(&str, &str)] = &[
    ("cmake/CapsuleGraphConfigVersion.cmake.in", "lib/cmake/CapsuleGraph/CapsuleGraphConfigVersion.cmake"),
    ("cmake/capsulegraph.pc.in", "lib/pkgconfig/capsulegraph.pc"),
];
pub const DOCUMENTS: &str = "share/doc/capsulegraph";
const LICENCES: &str = "share/licenses/capsulegraph";

/// For all systems, or for this one alone.
pub fn run(all: bool) -> Outcome {
    setup::programs()?;
    let dist = cleared(&target().join("dist"))?;
    let systems = if all { SYSTEMS } else { std::slice::from_ref(&HERE) };
    let work = dist.join("built");
    let built = systems.iter().map(|system| system.build(&work)).collect::<Outcome<Vec<_>>>()?;
    for built in built.iter().filter(|_| all) {
        for file in [built.library(), built.program(), built.folder.join("libcapsulegraph.a")] {
            binary::check_places(&file)?;
        }
    }
    for built in &built {
        let archive = archive(built, &dist)?;
        try_out::archive(built.system, &archive)?;
    }
    for (built, wheel) in built.iter().zip(wheel::dist(&built, &dist)?) {
        try_out::wheel(built.system, &wheel)?;
    }
    csharp_dist::run(&built, &dist)?;
    parts::dist(&dist)?;
    cleared(&work)?;
    checksums(&dist)
}

/// Lays out what was built and returns the archive, in `folder`.
pub fn archive(built: &Built, folder: &Path) -> Outcome<PathBuf> {
    let system = built.system;
    let name = format!("capsulegraph-{}-{}", version()?, system.name);
    let tree = cleared(&folder.join(&name))?;
    lay_out(&tree, system)?;
    copy(&built.program(), &tree.join("bin"))?;
    // Windows looks for DLLs beside the program.
    copy(&built.library(), &tree.join(if system.zipped { "bin" } else { "lib" }))?;
    for file in system.linked {
        copy(&built.folder.join(file), &tree.join("lib"))?;
    }
    let archive = format!("{name}.{}", if system.zipped { "zip" } else { "tar.gz" });
    let mut pack = if system.zipped { shell::python() } else { Command::new("tar") };
    if system.zipped {
        pack.args(["-m", "zipfile", "-c"]);
    } else {
        pack.args(["--owner=0", "--group=0", "--sort=name", "-czf"]);
    }
    shell::run(pack.current_dir(folder).args([&archive, &name]))?;
    cleared(&tree)?;
    Ok(folder.join(archive))
}

/// Writes the SHA-256 sums of all files, as `sha256sum --check` reads them.
fn checksums(folder: &Path) -> Outcome {
    let entries = fs::read_dir(folder).map_err(|e| format!("cannot list {}: {e}", folder.display()))?;
    let mut names: Vec<_> = entries.flatten().filter(|e| e.path().is_file()).map(|e| e.file_name()).collect();
    names.sort();
    let sums = capture(Command::new("sha256sum").current_dir(folder).arg("--").args(&names))?;
    let path = folder.join("SHA256SUMS");
    fs::write(&path, &sums).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    println!("{}:\n{sums}", path.display());
    Ok(())
}

/// A folder that is not there any more, if it ever was.
pub fn cleared(folder: &Path) -> Outcome<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|e| format!("cannot clear {}: {e}", folder.display()))?;
    }
    Ok(folder.to_owned())
}

/// Everything of the tree that is not built.
fn lay_out(folder: &Path, system: &System) -> Outcome {
    for (path, place) in FILES {
        copy(&root().join(path), &folder.join(place))?;
    }
    for (path, place) in FOLDERS {
        copy_folder(&root().join(path), &folder.join(place))?;
    }
    // CMake and pkg-config know numbers only.
    let version = version()?;
    let numbers = version.split('-').next().unwrap_or_default();
    for (path, place) in TEMPLATES {
        let (from, to) = (root().join(path), folder.join(place));
        let text = fs::read_to_string(&from).map_err(|e| format!("cannot read {}: {e}", from.display()))?;
        let text = text.replace("@VERSION@", numbers).replace("@SYSTEM_LIBRARIES@", system.system_libraries);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(|e| format!("cannot create {}: {e}", parent.display()))?;
        }
        fs::write(&to, text).map_err(|e| format!("cannot write {}: {e}", to.display()))?;
    }
    Ok(())
}

/// Copies a folder with all it holds, but for what Python leaves behind.
pub fn copy_folder(from: &Path, to: &Path) -> Outcome {
    let entries = fs::read_dir(from).map_err(|e| format!("cannot list {}: {e}", from.display()))?;
    for entry in entries {
        let path = entry.map_err(|e| format!("cannot list {}: {e}", from.display()))?.path();
        let name = path.file_name().unwrap_or_default();
        if path.is_file() {
            copy(&path, to)?;
        } else if name != "__pycache__" {
            copy_folder(&path, &to.join(name))?;
        }
    }
    Ok(())
}

/// Copies a file into a folder, which is made where it is missing.
pub fn copy(file: &Path, folder: &Path) -> Outcome {
    let name = file.file_name().ok_or_else(|| format!("{} is no file", file.display()))?;
    fs::create_dir_all(folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    fs::copy(file, folder.join(name)).map_err(|e| format!("cannot copy {}: {e}", file.display()))?;
    Ok(())
}

/// The package's version, from the one place that states it.
pub fn version() -> Outcome<String> {
    let manifest = root().join("Cargo.toml");
    let text =
        fs::read_to_string(&manifest).map_err(|e| format!("cannot read {}: {e}", manifest.display()))?;
    text.lines()
        .find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
        .map(str::to_owned)
        .ok_or_else(|| "Cargo.toml states no version".to_owned())
}

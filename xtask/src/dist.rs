//! `cargo xtask dist`: an install tree of libraries, headers, CMake and pkg-config files, command line, documents and examples
//! for this system, and its archive.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::csharp_dist;
use crate::demo;
use crate::shell::{self, Outcome, cargo, root, target};
use crate::wheel;
use crate::windows;

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
const DOCUMENTS: &str = "share/doc/capsulegraph";
const LICENCES: &str = "share/licenses/capsulegraph";
/// What a program that links the static library needs besides; CapsuleGraphTargets.cmake has it too.
const SYSTEM_LIBRARIES: &str = "-lgcc_s -lutil -lrt -lpthread -lm -ldl";

pub fn run() -> Outcome {
    let archive = make()?;
    wheel::dist(&target().join("dist"))?;
    csharp_dist::run(&target().join("dist"))?;
    println!("{}", archive.display());
    Ok(())
}

/// Builds everything, lays it out and returns the archive.
pub fn make() -> Outcome<PathBuf> {
    let cgraph = demo::build()?;
    shell::run(cargo().args(["build", "--release", "--lib"]))?;
    let name = format!("capsulegraph-{}-{}-{}", version()?, std::env::consts::OS, std::env::consts::ARCH);
    let dist = target().join("dist");
    let folder = cleared(&dist.join(&name))?;
    lay_out(&folder)?;
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
    Ok(dist.join(archive))
}

/// The same for Windows x86-64, cross-built.
pub fn windows() -> Outcome {
    let built = windows::setup()?.release()?;
    let name = format!("capsulegraph-{}-windows-x86_64", version()?);
    let dist = target().join("dist");
    let folder = cleared(&dist.join(&name))?;
    lay_out(&folder)?;
    for (file, place) in [
        ("cgraph.exe", "bin"),
        ("capsulegraph.dll", "bin"),
        ("libcapsulegraph.dll.a", "lib"),
        ("libcapsulegraph.a", "lib"),
    ] {
        copy(&built.join(file), &folder.join(place))?;
    }
    windows::import_library(&folder.join("lib"))?;
    for (option, file) in [
        ("--strip-unneeded", "bin/cgraph.exe"),
        ("--strip-unneeded", "bin/capsulegraph.dll"),
        ("--strip-debug", "lib/libcapsulegraph.a"),
    ] {
        shell::run(Command::new("x86_64-w64-mingw32-strip").arg(option).arg(folder.join(file)))?;
    }
    let archive = format!("{name}.zip");
    shell::run(Command::new("python3").current_dir(&dist).args(["-m", "zipfile", "-c", &archive, &name]))?;
    println!("{}", dist.join(archive).display());
    Ok(())
}

/// A folder that is not there any more, if it ever was.
fn cleared(folder: &Path) -> Outcome<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|e| format!("cannot clear {}: {e}", folder.display()))?;
    }
    Ok(folder.to_owned())
}

/// Everything of the tree that is not built.
fn lay_out(folder: &Path) -> Outcome {
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
        let text = text.replace("@VERSION@", numbers).replace("@SYSTEM_LIBRARIES@", SYSTEM_LIBRARIES);
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

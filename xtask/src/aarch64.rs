//! The tests for aarch64 Linux: cross-built by Debian's Rust, whose standard library there is for that target, and
//! run by an emulator. Proves that NEON kernels give the same bits as all others; says nothing of their speed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::debian::{Target, compiler};
use crate::onnx;
use crate::shell::{Outcome, cache, run};

/// Linker, C library and emulator.
const PACKAGES: &[&str] = &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user"];
/// The fastest kernels: tests then fail where the emulator lacks them. All others are compared with them.
const ISA: &str = "neondot";

const COMPILER: &str = "aarch64-linux-gnu-gcc";
/// What runs its programs, and the variable with the folder whose files they find in place of the system's.
const EMULATOR: &str = "/usr/bin/qemu-aarch64";
const FILES: &str = "QEMU_LD_PREFIX";
/// The C library that they are linked with.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu/lib";
/// A processor of Linux's list, a Neoverse N1: ONNX Runtime reads that, and crashes where it finds this machine's. Of the manual
/// "CPU Feature Registers" of Linux for arm64, and of Arm's for that processor.
const PROCESSOR: &str = "BogoMIPS\t: 50.00
Features\t: fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1
";

/// Installs what is missing; gives the sysroot with the standard library for aarch64.
pub fn setup() -> Outcome<PathBuf> {
    let version = compiler(PACKAGES)?;
    let sysroot = folder().join(format!("std-{version}"));
    if !sysroot.is_dir() {
        fetch(&version, &sysroot)?;
    }
    make_files()?;
    Ok(sysroot.join("usr"))
}

/// The folder of the variable.
fn files() -> PathBuf {
    folder().join("files")
}

fn make_files() -> Outcome {
    let processors = files().join("proc");
    fs::create_dir_all(&processors).map_err(|e| format!("cannot create {}: {e}", processors.display()))?;
    let count = thread::available_parallelism().map_or(1, usize::from);
    let list: String = (0..count).map(|index| format!("processor\t: {index}\n{PROCESSOR}\n")).collect();
    let path = processors.join("cpuinfo");
    fs::write(&path, list).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    run(Command::new("ln").args(["-sfn", LIBRARIES]).arg(files().join("lib")))
}

fn folder() -> PathBuf {
    cache().join("aarch64")
}

/// Unpacks the standard library of `version` to `sysroot`; under that name only when whole.
///
/// The package is of another architecture than the system. That one is made known to apt in a configuration with
/// lists of its own, so that the system's stays as it is.
fn fetch(version: &str, sysroot: &Path) -> Outcome {
    const CONFIGURATION: &str = "
Dir::State \"FOLDER\";
Dir::State::lists \"FOLDER/lists\";
Dir::State::status \"FOLDER/status\";
Dir::Cache \"FOLDER/cache\";
APT::Architectures { \"amd64\"; \"arm64\"; };
APT::Sandbox::User \"root\";
";
    let apt = folder().join("apt");
    let remove = || fs::remove_dir_all(&apt).map_err(|e| format!("cannot remove {}: {e}", apt.display()));
    if apt.exists() {
        remove()?;
    }
    let write = |path: PathBuf, text: &str| {
        fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
    };
    for part in ["lists/partial", "cache/archives/partial", "download"] {
        let path = apt.join(part);
        fs::create_dir_all(&path).map_err(|e| format!("cannot create {}: {e}", path.display()))?;
    }
    write(apt.join("status"), "")?;
    let configuration = apt.join("apt.conf");
    write(configuration.clone(), &CONFIGURATION.replace("FOLDER", &apt.display().to_string()))?;
    let private = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(arguments).env("APT_CONFIG", &configuration).current_dir(apt.join("download"));
        command
    };
    run(&mut private(&["update", "-qq"]))?;
    let package = format!("libstd-rust-web-dev:arm64={version}");
    run(&mut private(&["download", "-qq", &package]))?;
    let unpacked = apt.join("unpacked");
    let archive = format!("libstd-rust-web-dev_{}_arm64.deb", version.replace(':', "%3a"));
    run(Command::new("dpkg").arg("--extract").arg(apt.join("download").join(archive)).arg(&unpacked))?;
    fs::rename(&unpacked, sysroot).map_err(|e| format!("cannot create {}: {e}", sysroot.display()))?;
    remove()
}

/// Builds the tests; gives the runs: the kernels' and the pool's own tests, and logits against those of other
/// processors. One filter a run, so that a run without tests shows a filter that names nothing.
pub fn tests(sysroot: &Path) -> Outcome<[Command; 3]> {
    run(&mut cargo(sysroot, &["--lib", "--test", "exactness", "--no-run"]))?;
    let kernels = cargo(sysroot, &["--lib", "--", "kernels::"]);
    let pool = cargo(sysroot, &["--lib", "--", "pool::"]);
    let logits = cargo(sysroot, &["--test", "exactness", "--", "logits_are"]);
    Ok([kernels, pool, logits])
}

/// Tests that another machine than the emulated one has a part in: the emulator's own memory counts as its program's, and
/// Python's ONNX Runtime is compared with the program's, whose products of light weights are others on each processor.
const MIXED: &[&str] = &[
    "memory_beside_the_budget_is_the_runtimes_own_whatever_the_activations",
    "fetched_capsules_are_models_of_their_own",
];

/// The Rust tests that `names` are, with all features, the model and the folder of ONNX models; the emulator takes an hour.
pub fn all_tests(sysroot: &Path, names: &[&str], model: &Path, onnx: &Path) -> Outcome<Command> {
    let [runtime, older] = onnx::runtimes("linux", "manylinux_2_28_aarch64")?;
    let mut tests = target(sysroot).test();
    tests.args(["--lib", "--bins"]).args(names.iter().flat_map(|name| ["--test", name]));
    tests.env("CAPSULEGRAPH_ISA", ISA).env("CAPSULEGRAPH_TEST_MODEL", model);
    tests.env("CAPSULEGRAPH_TEST_ONNX", onnx).env("CAPSULEGRAPH_ONNXRUNTIME", runtime);
    tests.env("CAPSULEGRAPH_TEST_OLD_ONNXRUNTIME", older).env("CAPSULEGRAPH_TEST_FEWER", "1");
    tests.env("CAPSULEGRAPH_TEST_EMULATOR", EMULATOR).env(FILES, files());
    tests.env("CAPSULEGRAPH_TEST_CC", COMPILER);
    tests.arg("--").args(MIXED.iter().flat_map(|name| ["--skip", name]));
    Ok(tests)
}

/// A program for it, in the emulator.
pub fn emulated(program: &Path) -> Command {
    let mut command = Command::new(EMULATOR);
    command.arg(program).env(FILES, files());
    command
}

/// What builds for it.
pub fn target(sysroot: &Path) -> Target<'_> {
    Target { triple: "aarch64-unknown-linux-gnu", sysroot, linker: COMPILER, runner: EMULATOR }
}

/// The tests, with these arguments.
fn cargo(sysroot: &Path, arguments: &[&str]) -> Command {
    let mut command = target(sysroot).test();
    command.arg("--no-default-features").args(arguments).env("CAPSULEGRAPH_ISA", ISA).env(FILES, files());
    command
}

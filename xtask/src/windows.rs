//! Windows x86-64: cross-built by Debian's Rust and mingw, run by wine. Says nothing of speed, nor of what wine does otherwise
//! than Windows (sharing of open files, long paths, access rights).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binary::{self, Format};
use crate::debian::{self, Target, built, compiler};
use crate::onnx;
use crate::setup;
use crate::shell::{self, Outcome, cache, root, run};
use crate::verdict::Verdict;

const TRIPLE: &str = "x86_64-pc-windows-gnu";
/// The compiler's sources, mingw (the one with threads for C++ programs), wine.
const PACKAGES: &[&str] = &[
    "rust-web-src",
    "gcc-mingw-w64-x86-64-win32",
    "gcc-mingw-w64-x86-64-posix",
    "g++-mingw-w64-x86-64-posix",
    "wine64",
];
pub const WINE: &str = "/usr/lib/wine/wine64";
const WINE_SERVER: &str = "/usr/lib/wine/wineserver64";
/// The one DLL that Rust's standard library imports and wine 8 lacks; never shipped.
const RANDOM: &str = "#include <windows.h>
#include <ntsecapi.h>
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE bytes, SIZE_T len) { return RtlGenRandom(bytes, (ULONG)len); }
";

/// What a build and its tests need.
pub struct Windows {
    sysroot: PathBuf,
    prefix: PathBuf,
    /// Folders of ONNX Runtime, the one that tests use and an older one.
    runtimes: [PathBuf; 2],
}

fn folder() -> PathBuf {
    cache().join("windows")
}

fn write(path: &Path, text: &str) -> Outcome {
    fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

fn create(path: &Path) -> Outcome {
    fs::create_dir_all(path).map_err(|e| format!("cannot create {}: {e}", path.display()))
}

/// A path as wine has it, from whatever drive a program runs.
pub fn drive(path: &Path) -> String {
    format!("Z:{}", path.display())
}

/// Installs what is missing.
pub fn setup() -> Outcome<Windows> {
    let version = compiler(PACKAGES)?;
    let sysroot = folder().join(format!("std-{version}-release"));
    if !sysroot.is_dir() {
        build_std(&sysroot)?;
    }
    let runtimes = onnx::runtimes("windows", "win_amd64")?;
    let windows = Windows { sysroot, prefix: folder().join("prefix"), runtimes };
    if !windows.prefix.is_dir() {
        windows.make_prefix()?;
    }
    Ok(windows)
}

/// Builds the standard library for the target; under its name only when whole. About two minutes.
fn build_std(sysroot: &Path) -> Outcome {
    let seed = folder().join("seed");
    create(&seed.join("src"))?;
    write(&seed.join("src/lib.rs"), "")?;
    write(
        &seed.join("Cargo.toml"),
        "[package]\nname = \"seed\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n",
    )?;
    let mut cargo = Command::new("/usr/bin/cargo");
    cargo.current_dir(&seed).args(["build", "--release", "--target", TRIPLE, "--target-dir", "target"]);
    cargo.args(["-Z", "build-std=std,panic_unwind,panic_abort,proc_macro,test"]);
    cargo.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", "/usr/bin/rustc");
    // Releases are optimised as a whole, the standard library with them.
    cargo.env("RUSTFLAGS", format!("-C embed-bitcode=yes {}", shell::remapped()));
    run(cargo.env_remove("CARGO_ENCODED_RUSTFLAGS"))?;
    let (parts, made) = (seed.join("target").join(TRIPLE).join("release/deps"), seed.join("sysroot"));
    let place = made.join("lib/rustlib").join(TRIPLE).join("lib");
    create(&place)?;
    let entries = fs::read_dir(&parts).map_err(|e| format!("cannot list {}: {e}", parts.display()))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".rlib") && !name.starts_with("libseed") {
            fs::copy(&path, place.join(name)).map_err(|e| format!("cannot copy {}: {e}", path.display()))?;
        }
    }
    fs::rename(&made, sysroot).map_err(|e| format!("cannot create {}: {e}", sysroot.display()))?;
    fs::remove_dir_all(&seed).map_err(|e| format!("cannot remove {}: {e}", seed.display()))
}

impl Windows {
    /// A folder that wine takes for a computer of its own; under its name only when whole.
    fn make_prefix(&self) -> Outcome {
        let made = folder().join("prefix.part");
        let wine = |command: &mut Command| run(command.env("WINEPREFIX", &made).envs(WINE_VARIABLES));
        wine(Command::new(WINE).args(["wineboot", "-i"]))?;
        wine(Command::new(WINE_SERVER).arg("-w"))?;
        let source = folder().join("random.c");
        write(&source, RANDOM)?;
        let dll = made.join("drive_c/windows/system32/bcryptprimitives.dll");
        let mut compile = Command::new("x86_64-w64-mingw32-gcc-win32");
        run(compile.args(["-O2", "-shared"]).arg(&source).arg("-o").arg(dll).arg("-ladvapi32"))?;
        fs::rename(&made, &self.prefix).map_err(|e| format!("cannot create {}: {e}", self.prefix.display()))
    }

    fn cargo(&self) -> Target<'_> {
        // The mingw whose C library needs no DLL of its own for threads.
        Target {
            triple: TRIPLE,
            sysroot: &self.sysroot,
            linker: "x86_64-w64-mingw32-gcc-win32",
            runner: WINE,
        }
    }

    fn test(&self, arguments: &[&str]) -> Command {
        let mut cargo = self.cargo().test();
        cargo.args(["--lib", "--bins", "--tests"]).args(arguments);
        self.name_wine(&mut cargo);
        cargo
    }

    fn name_wine(&self, command: &mut Command) {
        command.env("WINEPREFIX", &self.prefix).envs(WINE_VARIABLES);
    }

    /// Checks that xtask itself compiles, then builds the DLL, the command line and the tests, in one profile. The tests in
    /// tests/windows.rs, which run here, are told where they are by the variables that this gives `command`.
    pub fn build(&self, command: &mut Command) -> Outcome {
        // The workflows run xtask on Windows: what only compiles on Linux would fail there alone.
        run(self.cargo().cargo("check").args(["--package", "xtask"]))?;
        run(&mut self.test(&["--no-run"]))?;
        import_library(&built(TRIPLE))?;
        self.name_wine(command);
        command.env("CAPSULEGRAPH_TEST_WINDOWS", built(TRIPLE));
        command.env("CAPSULEGRAPH_TEST_WINDOWS_ONNXRUNTIME", &self.runtimes[0]);
        Ok(())
    }

    /// The folder with the DLL that the tests were built with.
    pub fn library(&self) -> PathBuf {
        built(TRIPLE).join("deps")
    }

    /// Whether that DLL and the command line need only what is part of Windows, and it exports what is listed.
    pub fn check(&self) -> Outcome<Verdict> {
        let (library, program) = (self.library().join("capsulegraph.dll"), built(TRIPLE).join("cgraph.exe"));
        let mut verdict = Verdict::default();
        for outcome in [
            binary::check_exports(Format::Pe, &library),
            binary::check_needed(Format::Pe, &library, binary::WINDOWS),
            binary::check_needed(Format::Pe, &program, binary::WINDOWS),
        ] {
            match outcome {
                Ok(()) => verdict.good += 1,
                Err(message) => verdict.bad.push(message),
            }
        }
        Ok(verdict)
    }

    /// The folder with ONNX Runtime's DLL.
    pub fn onnx_runtime(&self) -> &Path {
        &self.runtimes[0]
    }

    /// A program under wine.
    pub fn wine(&self, program: &Path) -> Command {
        let mut command = Command::new(WINE);
        command.arg(program);
        self.name_wine(&mut command);
        command
    }

    /// A program under wine in an emulator, which `wine` starts without a program. Wine would start itself anew, outside of it.
    pub fn traced(&self, mut wine: Command, program: &Path) -> Command {
        wine.env("WINELOADERNOEXEC", "1").arg(program);
        self.name_wine(&mut wine);
        wine
    }

    /// Builds the libraries and the command line as users have them; gives their folder.
    pub fn release(&self) -> Outcome<PathBuf> {
        let target = self.cargo();
        let mut build = target.cargo("build");
        build.env(target.variable("RUSTFLAGS"), format!("{} {}", target.flags(), shell::remapped()));
        run(build.args(["--release", "--lib", "--bins"]))?;
        let folder = debian::target().join(TRIPLE).join("release");
        import_library(&folder)?;
        Ok(folder)
    }

    /// The Rust tests under wine, with the model and the folder of ONNX models.
    pub fn tests(&self, model: &Path, onnx: &Path) -> Command {
        let mut tests = self.test(&[]);
        tests.env("CAPSULEGRAPH_TEST_MODEL", drive(model)).env("CAPSULEGRAPH_TEST_ONNX", drive(onnx));
        tests.env("CAPSULEGRAPH_ONNXRUNTIME", drive(&self.runtimes[0]));
        tests.env("CAPSULEGRAPH_TEST_OLD_ONNXRUNTIME", drive(&self.runtimes[1]));
        tests.env("CAPSULEGRAPH_TEST_FEWER", "1");
        tests
    }
}

/// Writes the import library of the DLL that Microsoft's linker takes, of the list of exported functions. By LLVM, as zig has it,
/// in that linker's own short form: what binutils write are object files, whose sections it may sort or drop.
pub fn import_library(folder: &Path) -> Outcome {
    let list = root().join("tests/data/exported-symbols.txt");
    let names = fs::read_to_string(&list).map_err(|e| format!("cannot read {}: {e}", list.display()))?;
    let definitions = self::folder().join("capsulegraph.def");
    create(&self::folder())?;
    write(&definitions, &format!("LIBRARY capsulegraph.dll\nEXPORTS\n{names}"))?;
    let mut dlltool = Command::new(setup::zig()?);
    dlltool.args(["-m", "ziglang", "dlltool", "-m", "i386:x86-64", "-d"]).arg(definitions);
    run(dlltool.arg("-l").arg(folder.join("capsulegraph.dll.lib")))
}

/// What wine is told besides: to say nothing, and to ask for neither .NET nor a browser.
const WINE_VARIABLES: [(&str, &str); 2] = [("WINEDEBUG", "-all"), ("WINEDLLOVERRIDES", "mscoree,mshtml=")];

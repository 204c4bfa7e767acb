//! The systems that releases are for: how each is built for, and all else in which they differ. A new one is added here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::aarch64;
use crate::binary::{self, Format};
use crate::demo;
use crate::dist;
use crate::shell::{Outcome, cache, capture, cargo, run, target};
use crate::windows;
use crate::zig;

/// Bytes that a shared library has at most, without debug information.
const MOST: u64 = 12_000_000;

/// A system and its processor.
pub struct System {
    /// As archives are named.
    pub name: &'static str,
    /// As NuGet has it.
    pub rid: &'static str,
    /// As Python's `sysconfig` has it.
    pub python: &'static str,
    /// How Unity's importer names the CPU, the editor's system and the player.
    pub unity: [&'static str; 3],
    pub library: &'static str,
    pub program: &'static str,
    /// What programs are linked with besides the shared library.
    pub linked: &'static [&'static str],
    /// What a program that links the static library needs besides; CapsuleGraphTargets.cmake has it too.
    pub system_libraries: &'static str,
    /// Whether archives are zipped, as they are on Windows.
    pub zipped: bool,
    /// How files are read that are linked for it, and what they may need: names begin so.
    format: Format,
    needs: &'static [&'static str],
    /// The newest glibc that it may need, where it needs one.
    glibc: Option<(u32, u32)>,
    strip: &'static str,
    /// What compiles a C program for it here.
    pub compiler: &'static str,
    /// What runs its programs here, and how paths look to them.
    pub runner: fn(&Path) -> Outcome<Command>,
    pub path: fn(&Path) -> String,
    /// What that is, where it is no processor of this machine.
    pub emulator: &'static str,
    /// Runs its programs in qemu, which takes the options and tells by them which code ran.
    pub traced: fn(&Path, &[&str]) -> Outcome<Command>,
    /// What runs its programs as the oldest processor does that they are for; nothing where there is no such emulator.
    pub oldest: &'static [&'static str],
    /// What CMake is told to build for it, where there is a C++ compiler for it here.
    pub cmake: Option<&'static [&'static str]>,
    build: fn() -> Outcome<PathBuf>,
}

const LINUX_X86_64: System = System {
    name: "linux-x86_64",
    rid: "linux-x64",
    python: "linux-x86_64",
    unity: ["x86_64", "Linux", "Linux64"],
    library: "libcapsulegraph.so",
    program: "cgraph",
    linked: &["libcapsulegraph.a"],
    system_libraries: "-lgcc_s -lutil -lrt -lpthread -lm -ldl",
    zipped: false,
    format: Format::Elf,
    needs: binary::LINUX,
    glibc: Some((2, 28)),
    strip: "strip",
    compiler: "cc",
    runner: |program| Ok(Command::new(program)),
    path: |path| path.display().to_string(),
    emulator: "on this machine, the release",
    traced: |program, options| Ok(emulated(&["qemu-x86_64", "-cpu", "max"], options, program)),
    oldest: &["qemu-x86_64", "-cpu", "qemu64"],
    cmake: Some(&[]),
    build: zig::x86_64,
};

/// A program in an emulator with further options.
fn emulated(emulator: &[&str], options: &[&str], program: &Path) -> Command {
    let mut command = Command::new(emulator[0]);
    command.args(&emulator[1..]).args(options).arg(program);
    command
}

/// All that a release holds.
pub const SYSTEMS: &[System] = &[
    LINUX_X86_64,
    System {
        name: "linux-aarch64",
        rid: "linux-arm64",
        python: "linux-aarch64",
        unity: ["ARM64", "Linux", "Linux64"],
        strip: "aarch64-linux-gnu-strip",
        compiler: "aarch64-linux-gnu-gcc",
        runner: |program| Ok(aarch64::emulated(program)),
        emulator: "emulated by qemu, whose own memory counts",
        traced: |program, options| {
            Ok(emulated(&["qemu-aarch64", "-cpu", "max", "-L", "/usr/aarch64-linux-gnu"], options, program))
        },
        oldest: &["qemu-aarch64", "-cpu", "cortex-a53", "-L", "/usr/aarch64-linux-gnu"],
        cmake: None,
        build: zig::aarch64,
        ..LINUX_X86_64
    },
    System {
        name: "windows-x86_64",
        rid: "win-x64",
        python: "win-amd64",
        unity: ["x86_64", "Windows", "Win64"],
        library: "capsulegraph.dll",
        program: "cgraph.exe",
        linked: &["libcapsulegraph.a", "libcapsulegraph.dll.a", "capsulegraph.dll.lib"],
        system_libraries: "-ladvapi32 -lbcrypt -lkernel32 -lntdll -luserenv -lws2_32 -ldbghelp -lsynchronization",
        zipped: true,
        format: Format::Pe,
        needs: binary::WINDOWS,
        glibc: None,
        strip: "x86_64-w64-mingw32-strip",
        compiler: "x86_64-w64-mingw32-gcc-win32",
        runner: |program| Ok(windows::setup()?.wine(program)),
        path: windows::drive,
        emulator: "under wine, whose own memory counts",
        traced: |program, options| {
            Ok(windows::setup()?
                .traced(emulated(&["qemu-x86_64", "-cpu", "max"], options, windows::WINE.as_ref()), program))
        },
        oldest: &[],
        cmake: Some(&[
            "-DCMAKE_SYSTEM_NAME=Windows",
            "-DCMAKE_C_COMPILER=x86_64-w64-mingw32-gcc-posix",
            "-DCMAKE_CXX_COMPILER=x86_64-w64-mingw32-g++-posix",
            "-DCMAKE_EXE_LINKER_FLAGS=-static",
        ]),
        build: || windows::setup()?.release(),
    },
];

/// This system, built by its own linker: for this machine and newer ones.
pub const HERE: System = System { glibc: None, oldest: &[], build: packaged_here, ..LINUX_X86_64 };

/// As [`here`], where what is built is for the system that the packages say.
fn packaged_here() -> Outcome<PathBuf> {
    let (system, processor) = (std::env::consts::OS, std::env::consts::ARCH);
    if (system, processor) != ("linux", "x86_64") {
        return Err(format!(
            "packages are made on Linux x86-64, for all systems; for {system} {processor}: cargo build --release --lib --bins"
        ));
    }
    here()
}

/// Builds the libraries and the command line with full optimisation; gives their folder.
pub fn here() -> Outcome<PathBuf> {
    demo::build()?;
    run(cargo().args(["build", "--release", "--lib"]))?;
    Ok(target().join("release"))
}

/// What was built for a system, in one folder, without debug information.
pub struct Built {
    pub system: &'static System,
    pub folder: PathBuf,
}

impl Built {
    pub fn library(&self) -> PathBuf {
        self.folder.join(self.system.library)
    }

    pub fn program(&self) -> PathBuf {
        self.folder.join(self.system.program)
    }
}

/// This system's, in the folder of what the tests make.
pub fn built_here() -> Outcome<Built> {
    HERE.build(&cache().join("built"))
}

impl System {
    /// Builds for it, into a folder of its own inside `work`; fails where what was built is not as it is promised.
    pub fn build(&'static self, work: &Path) -> Outcome<Built> {
        let from = (self.build)()?;
        let folder = dist::cleared(&work.join(self.name))?;
        for file in [&[self.library, self.program], self.linked].concat() {
            dist::copy(&from.join(file), &folder)?;
            let option = if file.ends_with(".lib") || file.ends_with(".dll.a") {
                continue;
            } else if file.ends_with(".a") {
                "--strip-debug"
            } else {
                "--strip-unneeded"
            };
            run(Command::new(self.strip).arg(option).arg(folder.join(file)))?;
        }
        let built = Built { system: self, folder };
        self.check(&built)?;
        Ok(built)
    }

    fn check(&self, built: &Built) -> Outcome {
        let library = built.library();
        let len =
            fs::metadata(&library).map_err(|e| format!("cannot read {}: {e}", library.display()))?.len();
        println!("{}: {} has {len} bytes", self.name, self.library);
        if len > MOST {
            return Err(format!("{} has {len} bytes, more than {MOST}", library.display()));
        }
        binary::check_exports(self.format, &library)?;
        for file in [&library, &built.program()] {
            binary::check_needed(self.format, file, self.needs)?;
        }
        let Some(newest) = self.glibc else { return Ok(()) };
        for file in [library, built.program()] {
            let versions = capture(Command::new("readelf").args(["--version-info", "--wide"]).arg(&file))?;
            let needed = versions.split("GLIBC_").skip(1).filter_map(version).max();
            let (major, minor) = needed.ok_or_else(|| format!("{} needs no glibc", file.display()))?;
            println!("{}: {} needs glibc {major}.{minor}", self.name, file.display());
            if (major, minor) > newest {
                let (most, least) = newest;
                return Err(format!(
                    "{} needs glibc {major}.{minor}, newer than {most}.{least}",
                    file.display()
                ));
            }
        }
        Ok(())
    }
}

/// The version that a text begins with.
fn version(text: &str) -> Option<(u32, u32)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let mut numbers = text[..end].split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::{SYSTEMS, version};

    #[test]
    fn cmake_links_what_pkg_config_does() {
        let text = include_str!("../../cmake/CapsuleGraphTargets.cmake");
        for system in SYSTEMS {
            let line = format!("set(libraries {})", system.system_libraries.replace("-l", ""));
            assert!(text.contains(&line), "{}: no {line}", system.name);
        }
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(version("2.28 flags"), Some((2, 28)));
        assert_eq!(version("2.2.5)"), Some((2, 2)));
        assert_eq!((version("PRIVATE"), version("2")), (None, None));
    }
}

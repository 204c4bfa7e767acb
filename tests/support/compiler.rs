//! The C and C++ compilers of this machine, found as `cc` finds them (CC, CXX and CFLAGS are obeyed).

#![allow(dead_code)] // not every test compiles both languages

use std::process::Command;

/// The language of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    C,
    Cpp,
}

impl Language {
    /// A command that compiles it as C11 or C++17, whatever the source's ending, with every warning an error.
    pub fn compiler(self) -> Command {
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let mut build = cc::Build::new();
        build.cpp(self == Self::Cpp).target(&triple).host(&triple).opt_level(1).cargo_metadata(false);
        self.strict(build.get_compiler().to_command())
    }

    /// The same, with mingw, for Windows.
    pub fn for_windows(self) -> Command {
        // Of the two, the one whose C++ library has threads.
        let mut command = self.strict(Command::new(match self {
            Self::C => "x86_64-w64-mingw32-gcc-posix",
            Self::Cpp => "x86_64-w64-mingw32-g++-posix",
        }));
        // printf as the standard has it, with %zu.
        command.arg("-D__USE_MINGW_ANSI_STDIO=1");
        command
    }

    fn strict(self, mut command: Command) -> Command {
        command.args(match self {
            Self::C => ["-x", "c", "-std=c11"],
            Self::Cpp => ["-x", "c++", "-std=c++17"],
        });
        command.args(["-Wall", "-Wextra", "-pedantic", "-Werror"]);
        command
    }
}

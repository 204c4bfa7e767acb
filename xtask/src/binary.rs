//! What a linked file needs and gives, by the words of binutils: held against what is promised of releases.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::shell::{self, Outcome, capture, root};

/// How a system's files are read.
#[derive(Clone, Copy)]
pub enum Format {
    Elf,
    Pe,
}

/// What libraries and programs may need of a Linux system: glibc's parts, and the unwinder of its compiler.
pub const LINUX: &[&str] = &[
    "ld-linux-",
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
    "libutil.so.1",
];
/// Of Windows: DLLs that are part of it, and its API sets.
pub const WINDOWS: &[&str] = &[
    "advapi32.dll",
    "api-ms-win-",
    "bcrypt.dll",
    "bcryptprimitives.dll",
    "kernel32.dll",
    "msvcrt.dll",
    "ntdll.dll",
    "ole32.dll",
    "psapi.dll",
    "shell32.dll",
    "user32.dll",
    "userenv.dll",
    "ws2_32.dll",
];

/// An error where a file needs what is not among `allowed`, which names may begin with.
pub fn check_needed(format: Format, file: &Path, allowed: &[&str]) -> Outcome {
    let (text, mark) = match format {
        Format::Elf => (readelf(&["--dynamic"], file)?, "(NEEDED)"),
        Format::Pe => (objdump(file)?, "DLL Name:"),
    };
    let needed: Vec<String> = text
        .lines()
        .filter_map(|line| line.split_once(mark)?.1.split_whitespace().last())
        .map(|name| name.trim_matches(['[', ']']).to_lowercase())
        .collect();
    let foreign: Vec<_> =
        needed.iter().filter(|name| !allowed.iter().any(|allowed| name.starts_with(allowed))).collect();
    if needed.is_empty() || !foreign.is_empty() {
        return Err(format!("{} needs {foreign:?} of {needed:?}", file.display()));
    }
    Ok(())
}

/// An error where a shared library exports other names than those of the list.
pub fn check_exports(format: Format, library: &Path) -> Outcome {
    let list = root().join("tests/data/exported-symbols.txt");
    let listed = fs::read_to_string(&list).map_err(|e| format!("cannot read {}: {e}", list.display()))?;
    let text = match format {
        Format::Elf => readelf(&["--dyn-syms"], library)?,
        Format::Pe => objdump(library)?,
    };
    let mut found = match format {
        Format::Elf => elf_exports(&text),
        Format::Pe => pe_exports(&text),
    };
    found.sort_unstable();
    if found != listed.lines().collect::<Vec<_>>() {
        return Err(format!("{} exports other names than {}: {found:?}", library.display(), list.display()));
    }
    Ok(())
}

/// An error where a file names a folder of the machine that built it.
pub fn check_places(file: &Path) -> Outcome {
    let bytes = fs::read(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
    for (place, _) in shell::places() {
        let name = place.as_os_str().as_encoded_bytes();
        if bytes.windows(name.len()).any(|part| part == name) {
            return Err(format!("{} names {}", file.display(), place.display()));
        }
    }
    Ok(())
}

/// Names of a table whose rows are number, value, size, type, binding, visibility, section, name.
fn elf_exports(text: &str) -> Vec<&str> {
    text.lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, _, _, _, "GLOBAL" | "WEAK", _, section, name, ..] = fields[..] else { return None };
            (section != "UND").then_some(name)
        })
        .collect()
}

fn pe_exports(text: &str) -> Vec<&str> {
    let Some((_, table)) = text.split_once("[Ordinal/Name Pointer] Table") else { return Vec::new() };
    let row = |line: &&str| line.trim_start().starts_with('[');
    table.lines().skip(1).take_while(row).filter_map(|line| line.split_whitespace().last()).collect()
}

fn readelf(what: &[&str], file: &Path) -> Outcome<String> {
    capture(Command::new("readelf").args(what).arg("--wide").arg(file))
}

fn objdump(file: &Path) -> Outcome<String> {
    capture(Command::new("x86_64-w64-mingw32-objdump").arg("-p").arg(file))
}

#[cfg(test)]
mod tests {
    use super::{elf_exports, pe_exports};

    #[test]
    fn exports_are_read() {
        let elf = "Symbol table '.dynsym' contains 3 entries:\n   Num:    Value          Size Type    Bind   Vis      Ndx Name\n\
                   \x20    1: 0000000000000000     0 FUNC    GLOBAL DEFAULT  UND malloc@GLIBC_2.2.5 (2)\n\
                   \x20    2: 00000000000d1f10    12 FUNC    GLOBAL DEFAULT   14 capg_version\n\
                   \x20    3: 00000000000d1f20    12 FUNC    LOCAL  DEFAULT   14 inner\n";
        assert_eq!(elf_exports(elf), ["capg_version"]);
        let pe = "[Ordinal/Name Pointer] Table -- Ordinal Base 1\n\t[   0] +base[   1]  0000 capg_a\n\t[   1] capg_b\n\nThe Function\n";
        assert_eq!(pe_exports(pe), ["capg_a", "capg_b"]);
    }
}

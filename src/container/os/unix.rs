//! Files on Unix.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::super::paths::directory_of;

/// Characters that are no part of a file's name.
pub(in super::super) const SPECIAL: &[char] = &['\0'];

/// What a name names, where it is that of no file.
pub(in super::super) fn no_file(_: &OsStr) -> Option<&'static str> {
    None
}

/// A name so that names of one file are the same.
pub(in super::super) fn compared(name: &OsStr) -> OsString {
    name.to_owned()
}

/// Fills `buf` from `offset`; an error where the file ends before.
pub(in super::super) fn read_exact_at(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buf, offset)
}

/// Gives the file at `from` the name `to`, in place of what has it, at once. The data is on the disk; the name follows
/// where the system allows it.
pub(in super::super) fn replace(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    if let Ok(dir) = File::open(directory_of(to)) {
        let _ = dir.sync_all();
    }
    Ok(())
}

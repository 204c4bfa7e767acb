//! Files on Windows.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::windows::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::super::paths::is_device;

/// Characters that are no part of a file's name: behind a colon comes what else is stored under it.
pub(in super::super) const SPECIAL: &[char] = &['\0', ':'];

/// "Access is denied": what replaces a file that is mapped, or that another program has just opened, is told.
const ACCESS_DENIED: i32 = 5;
/// "The process cannot access the file because it is being used by another process."
const SHARING_VIOLATION: i32 = 32;
/// "The requested operation cannot be performed on a file with a user-mapped section open."
const USER_MAPPED: i32 = 1224;
/// Scanners and indexers open every new file for a moment: how often, and after how long first, it is tried again.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);

/// What a name names, where it is that of no file.
pub(in super::super) fn no_file(name: &OsStr) -> Option<&'static str> {
    let name = name.to_string_lossy();
    if name.contains(':') {
        return Some("a stream of a file, by its colon");
    }
    is_device(&name).then_some("a device")
}

/// A name so that names of one file are the same: those that differ in case or in dots and spaces at the end are.
pub(in super::super) fn compared(name: &OsStr) -> OsString {
    // One that is no Unicode is compared as it is.
    name.to_str()
        .map_or_else(|| name.to_owned(), |name| name.trim_end_matches(['.', ' ']).to_lowercase().into())
}

/// Fills `buf` from `offset`; an error where the file ends before.
pub(in super::super) fn read_exact_at(file: &File, mut offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
    while !buf.is_empty() {
        match file.seek_read(buf, offset) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "read past the end")),
            Ok(n) => {
                buf = buf.get_mut(n..).unwrap_or_default();
                offset += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Gives the file at `from` the name `to`, in place of what has it, at once.
pub(in super::super) fn replace(from: &Path, to: &Path) -> io::Result<()> {
    let mut tried = 0;
    loop {
        let Err(error) = fs::rename(from, to) else { return Ok(()) };
        if !matches!(error.raw_os_error(), Some(ACCESS_DENIED | SHARING_VIOLATION | USER_MAPPED)) {
            return Err(error);
        }
        if tried == TRIES {
            let why = format!(
                "{error} (a program has the file open, or it may not be written: close the model that it belongs to, or allow \
                 writing, and try again)"
            );
            return Err(io::Error::new(error.kind(), why));
        }
        thread::sleep(PAUSE * (1 << tried));
        tried += 1;
    }
}

//! ONNX Runtime on Linux and macOS.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ort::sys;

use super::super::library::absolute;

const IS_APPLE: bool = cfg!(target_vendor = "apple");
/// The library's file name.
pub(in super::super) const FILE_NAME: &str =
    if IS_APPLE { "libonnxruntime.dylib" } else { "libonnxruntime.so" };
/// File names of Python.
pub(in super::super) const PYTHONS: &[&str] = &["python3", "python"];
/// How far above Python's file the folder of its packages begins.
pub(in super::super) const PYTHON_DEPTH: usize = 2;
/// The variable of the user's folder, and where packages are in it.
pub(in super::super) const USER_PACKAGES: (&str, &str) = ("HOME", ".local");

/// `libonnxruntime.so`, `libonnxruntime.so.1.31.1`, `libonnxruntime.1.31.1.dylib`.
pub(in super::super) fn is_library_name(name: &str) -> bool {
    let middle = |rest: &str| rest.chars().all(|c| c.is_ascii_digit() || c == '.');
    if IS_APPLE {
        let inner = name.strip_prefix("libonnxruntime.").and_then(|rest| rest.strip_suffix("dylib"));
        return inner.is_some_and(middle);
    }
    name.strip_prefix(FILE_NAME).is_some_and(middle)
}

/// The folder of the library that this code is in (a program that is linked with it: the program's).
pub(in super::super) fn own_folder() -> Option<PathBuf> {
    let mut info = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    let here = own_folder as fn() -> Option<PathBuf>;
    // SAFETY: any address may be asked about, and `info` is ours.
    let known = unsafe { libc::dladdr(here as *const libc::c_void, &raw mut info) } != 0;
    if !known || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: dladdr gives a NUL-terminated string that lives as long as the library, which is running.
    let name = unsafe { std::ffi::CStr::from_ptr(info.dli_fname) };
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(name.to_bytes()));
    // Of the program itself it is the name by which it was called. One without a folder was found along the path: taken as
    // relative it would lead to the working directory, where anybody may have put a library.
    let has_folder = path.parent().is_some_and(|folder| !folder.as_os_str().is_empty());
    let path = if has_folder { absolute(path) } else { std::env::current_exe().ok()? };
    path.parent().map(Path::to_owned)
}

/// Whether a library's file has all that its header says is to be mapped (ELF: System V ABI, program header). A file of another
/// form, or none, is left to the loader.
pub(in super::super) fn is_whole(path: &Path) -> bool {
    /// Bytes of the header and of each entry for a segment.
    const HEADER: usize = 64;
    const ENTRY: usize = 56;
    const LOADED: [u8; 4] = 1u32.to_le_bytes();
    let Ok(mut file) = File::open(path) else { return true };
    let Ok(len) = file.metadata().map(|found| found.len()) else { return true };
    let mut header = [0; HEADER];
    if file.read_exact(&mut header).is_err() || header[..6] != *b"\x7fELF\x02\x01" {
        return true;
    }
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |all, byte| (all << 8) | u64::from(*byte));
    let (start, entry, count) = (number(&header[32..40]), number(&header[54..56]), number(&header[56..58]));
    if entry != ENTRY as u64 {
        return true;
    }
    let mut entries = vec![0; count as usize * ENTRY];
    if file.seek(SeekFrom::Start(start)).is_err() || file.read_exact(&mut entries).is_err() {
        return false;
    }
    let mut mapped = entries.chunks_exact(ENTRY).filter(|entry| entry[..4] == LOADED);
    mapped.all(|entry| number(&entry[8..16]).saturating_add(number(&entry[32..40])) <= len)
}

/// A file name as the runtime wants one, NUL-terminated.
pub(in super::super) fn runtime_string(text: &str) -> Vec<sys::os_char> {
    text.bytes().chain([0]).map(|byte| byte as sys::os_char).collect()
}

#[cfg(test)]
mod tests {
    use super::{IS_APPLE, is_library_name};

    #[test]
    fn library_names_are_told_from_others() {
        let (yes, no): (&[&str], &[&str]) = if IS_APPLE {
            (&["libonnxruntime.dylib", "libonnxruntime.1.31.1.dylib"], &["libonnxruntime_x.dylib"])
        } else {
            (
                &["libonnxruntime.so", "libonnxruntime.so.1", "libonnxruntime.so.1.31.1"],
                &["libonnxruntime_providers_shared.so", "libonnxruntime.so.bak"],
            )
        };
        assert!(yes.iter().all(|name| is_library_name(name)));
        assert!(!no.iter().any(|name| is_library_name(name)));
    }
}

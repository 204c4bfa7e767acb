//! ONNX Runtime on Windows.

use std::ffi::OsString;
use std::os::windows::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::ptr;

use ort::sys;
use windows_sys::Win32::System::LibraryLoader::{
    GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS, GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT, GetModuleFileNameW,
    GetModuleHandleExW,
};

/// The library's file name.
pub(in super::super) const FILE_NAME: &str = "onnxruntime.dll";
/// File names of Python.
pub(in super::super) const PYTHONS: &[&str] = &["python.exe"];
/// How far above Python's file the folder of its packages begins.
pub(in super::super) const PYTHON_DEPTH: usize = 1;
/// The variable of the user's folder, and where packages are in it.
pub(in super::super) const USER_PACKAGES: (&str, &str) = ("APPDATA", "Python");

/// Longest path, in UTF-16 units.
const LONGEST: usize = 32 << 10;

/// `onnxruntime.dll`, in whatever case.
pub(in super::super) fn is_library_name(name: &str) -> bool {
    name.eq_ignore_ascii_case(FILE_NAME)
}

/// The folder of the library that this code is in (a program that is linked with it: the program's).
pub(in super::super) fn own_folder() -> Option<PathBuf> {
    let mut module = ptr::null_mut();
    let here = own_folder as fn() -> Option<PathBuf>;
    let mut name = vec![0u16; LONGEST];
    let flags = GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT;
    // SAFETY: with these flags the name is any address in a module; the results are ours, and as long as said.
    let len = unsafe {
        if GetModuleHandleExW(flags, here as *const u16, &raw mut module) == 0 {
            return None;
        }
        GetModuleFileNameW(module, name.as_mut_ptr(), LONGEST as u32)
    };
    let path = PathBuf::from(OsString::from_wide(name.get(..len as usize).filter(|name| !name.is_empty())?));
    path.parent().map(Path::to_owned)
}

/// Whether a library's file may be given to the loader: the one of this system checks files itself.
pub(in super::super) fn is_whole(_: &Path) -> bool {
    true
}

/// A file name as the runtime wants one, NUL-terminated.
pub(in super::super) fn runtime_string(text: &str) -> Vec<sys::os_char> {
    text.encode_utf16().chain([0]).collect()
}

#[cfg(test)]
mod tests {
    use super::{is_library_name, own_folder};

    #[test]
    fn library_names_are_told_from_others() {
        assert!(["onnxruntime.dll", "OnnxRuntime.DLL"].into_iter().all(is_library_name));
        assert!(!is_library_name("onnxruntime_providers_shared.dll"));
    }

    #[test]
    fn the_own_folder_is_that_of_the_program_here() {
        let program = std::env::current_exe().unwrap();
        assert_eq!(own_folder().as_deref(), program.parent());
    }
}

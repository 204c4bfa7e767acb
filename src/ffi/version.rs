//! Versions.

use std::ffi::{CStr, c_char};

/// The number of the contract that this header belongs to. A program or binding compares it with
/// capg_abi_version() and refuses the library where they differ.
pub const CAPG_ABI_VERSION: u32 = 1;

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(text) => text,
    Err(_) => c"",
};

/// The library's release, such as "0.1.0". Static, NUL-terminated. Thread class: any.
#[unsafe(no_mangle)]
pub extern "C" fn capg_version_string() -> *const c_char {
    VERSION.as_ptr()
}

/// The number of the contract that the library keeps; see CAPG_ABI_VERSION. Thread class: any.
#[unsafe(no_mangle)]
pub extern "C" fn capg_abi_version() -> u32 {
    CAPG_ABI_VERSION
}

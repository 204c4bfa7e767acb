//! What comes in by pointer: arrays, strings, optional strings.

use std::ffi::c_char;
use std::path::PathBuf;

use super::error::Failure;

/// An array of the host. Length 0 may come with NULL.
///
/// # Safety
/// `data` is NULL or valid for reading `len` elements for `'a`.
pub(super) unsafe fn array<'a, T>(data: *const T, len: usize, parameter: &str) -> Result<&'a [T], Failure> {
    if len == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(Failure::invalid(format!("{parameter} is NULL, and its length is {len}")));
    }
    if !data.is_aligned() {
        return Err(Failure::invalid(format!("{parameter} is not aligned for its elements")));
    }
    if len > isize::MAX as usize / size_of::<T>().max(1) {
        return Err(Failure::invalid(format!("{parameter}: a length of {len} exceeds the address space")));
    }
    // SAFETY: not NULL, aligned, of a possible length, and valid by this function's contract.
    Ok(unsafe { std::slice::from_raw_parts(data, len) })
}

/// A UTF-8 string of the host, possibly empty.
///
/// # Safety
/// As [`array`].
pub(super) unsafe fn text<'a>(data: *const c_char, len: usize, parameter: &str) -> Result<&'a str, Failure> {
    // SAFETY: passed on; every byte is a valid u8.
    let bytes = unsafe { array(data.cast::<u8>(), len, parameter) }?;
    std::str::from_utf8(bytes)
        .map_err(|e| Failure::invalid(format!("{parameter} is not UTF-8 at byte {}", e.valid_up_to())))
}

/// A string that counts as absent where its length is 0.
///
/// # Safety
/// As [`array`].
pub(super) unsafe fn optional_text<'a>(
    data: *const c_char,
    len: usize,
    parameter: &str,
) -> Result<Option<&'a str>, Failure> {
    // SAFETY: passed on.
    let text = unsafe { text(data, len, parameter) }?;
    Ok(Some(text).filter(|t| !t.is_empty()))
}

/// A path that must be there.
///
/// # Safety
/// As [`array`].
pub(super) unsafe fn path(data: *const c_char, len: usize, parameter: &str) -> Result<PathBuf, Failure> {
    // SAFETY: passed on.
    match unsafe { optional_path(data, len, parameter) }? {
        Some(path) => Ok(path),
        None if data.is_null() => Err(Failure::null(parameter)),
        None => Err(Failure::invalid(format!("{parameter} is empty"))),
    }
}

/// A path that counts as absent where its length is 0.
///
/// # Safety
/// As [`array`].
pub(super) unsafe fn optional_path(
    data: *const c_char,
    len: usize,
    parameter: &str,
) -> Result<Option<PathBuf>, Failure> {
    // SAFETY: passed on.
    let text = unsafe { optional_text(data, len, parameter) }?;
    match text.and_then(|t| t.find('\0')) {
        Some(at) => Err(Failure::invalid(format!("{parameter} has a NUL at byte {at}; no path can"))),
        None => Ok(text.map(PathBuf::from)),
    }
}

/// A truth value.
pub(super) fn flag(value: u32, parameter: &str) -> Result<bool, Failure> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Failure::invalid(format!("{parameter} is {other}; 0 and 1 are possible"))),
    }
}

/// Flags of which only those of `known` exist.
pub(super) fn flags(value: u32, known: u32) -> Result<u32, Failure> {
    match value & !known {
        0 => Ok(value),
        unknown => Err(Failure::invalid(format!("flags has the unknown bits {unknown:#x}"))),
    }
}

/// A field that has no meaning yet.
pub(super) fn reserved(value: u32, parameter: &str) -> Result<(), Failure> {
    match value {
        0 => Ok(()),
        _ => Err(Failure::invalid(format!("{parameter} must be 0"))),
    }
}

/// A UTF-8 string as an element of an array.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct capg_string {
    /// Bytes; may be NULL where len is 0.
    pub data: *const c_char,
    /// Number of bytes.
    pub len: usize,
}

//! Errors as handles.

use std::ffi::c_char;

use super::handle::{Handle, release};
use super::status::{self, CAPG_OK, capg_status};
use super::text::Utf8;
use crate::error::Error;

/// Why a call ended without a result, before it becomes a handle.
#[derive(Debug)]
pub(super) struct Failure {
    pub status: capg_status,
    pub message: String,
}

impl Failure {
    pub fn new(status: capg_status, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(status::CAPG_ERROR_INVALID_ARGUMENT, message)
    }

    pub fn null(parameter: &str) -> Self {
        Self::invalid(format!("{parameter} is NULL"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(status::of(&error), error.to_string())
    }
}

/// Why a call failed. Owned by the host, immutable.
pub struct capg_error {
    status: capg_status,
    message: Utf8,
}

impl Handle for capg_error {}

impl From<Failure> for capg_error {
    fn from(failure: Failure) -> Self {
        // One line to its end: what comes out of a file may hold a NUL, which would cut it, or line feeds.
        let message = failure.message.replace('\0', "\\0").replace(['\n', '\r'], " ");
        Self { status: failure.status, message: message.into() }
    }
}

/// The status that the failed call returned; CAPG_OK for NULL. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_error_status(error: *const capg_error) -> capg_status {
    // SAFETY: NULL or a live handle, by contract.
    unsafe { error.as_ref() }.map_or(CAPG_OK, |e| e.status)
}

/// One line for a person: what failed, where, why, what to do. UTF-8, NUL-terminated, valid until the error is
/// freed; "" for NULL. len (nullable) receives its length in bytes. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_error_message(error: *const capg_error, len: *mut usize) -> *const c_char {
    // SAFETY: NULL or a live handle, by contract.
    let (data, length) = match unsafe { error.as_ref() } {
        Some(error) => error.message.view(),
        None => (c"".as_ptr(), 0),
    };
    if !len.is_null() {
        // SAFETY: not NULL, so valid for writing, by contract.
        unsafe { len.write(length) };
    }
    data
}

/// Frees an error; does nothing for NULL. Thread class: free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_error_free(error: *mut capg_error) {
    // SAFETY: NULL or a handle that the host gives back, by contract.
    unsafe { release(error) };
}

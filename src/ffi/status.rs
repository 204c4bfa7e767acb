//! Statuses: frozen numbers.

use std::ffi::{CStr, c_char};

use crate::error::Error;

/// What a call returns: CAPG_OK or one of CAPG_ERROR_*. Expect numbers that you do not know and treat them as
/// failures. A number is never given another meaning.
pub type capg_status = u32;

/// Done; outputs are written.
pub const CAPG_OK: u32 = 0;
/// An argument or option is NULL, out of range, not UTF-8 or contradicts another.
pub const CAPG_ERROR_INVALID_ARGUMENT: u32 = 1;
/// Valid, but this version of the library cannot do it.
pub const CAPG_ERROR_UNSUPPORTED: u32 = 2;
/// The system refused to open, read, map, write or rename a file.
pub const CAPG_ERROR_IO: u32 = 3;
/// A file is not what its format demands.
pub const CAPG_ERROR_MALFORMED: u32 = 4;
/// A mini and a full file, or a file and a mode, do not belong together.
pub const CAPG_ERROR_MISMATCH: u32 = 5;
/// Stored bytes do not match their checksum.
pub const CAPG_ERROR_CORRUPT: u32 = 6;
/// Something asked for by name or number does not exist.
pub const CAPG_ERROR_NOT_FOUND: u32 = 7;
/// A limit (context, size, memory) does not allow the request.
pub const CAPG_ERROR_LIMIT: u32 = 8;
/// The caller's cancel token was triggered.
pub const CAPG_ERROR_CANCELLED: u32 = 9;
/// The host's read callback reported a failure.
pub const CAPG_ERROR_HOST: u32 = 10;
/// The session, part or group is in use by another call, or a capsule has not come yet.
pub const CAPG_ERROR_BUSY: u32 = 11;
/// A defect of the library; please report it.
pub const CAPG_ERROR_INTERNAL: u32 = 12;

/// The status of a library error.
pub(super) fn of(error: &Error) -> capg_status {
    match error {
        Error::Io { .. } => CAPG_ERROR_IO,
        Error::Malformed { .. } => CAPG_ERROR_MALFORMED,
        Error::Unsupported(_) => CAPG_ERROR_UNSUPPORTED,
        Error::InvalidArgument(_) => CAPG_ERROR_INVALID_ARGUMENT,
        Error::Mismatch(_) => CAPG_ERROR_MISMATCH,
        Error::Corrupt(_) => CAPG_ERROR_CORRUPT,
        Error::NotFound(_) => CAPG_ERROR_NOT_FOUND,
        Error::Limit(_) => CAPG_ERROR_LIMIT,
        Error::Cancelled => CAPG_ERROR_CANCELLED,
        Error::Host(_) => CAPG_ERROR_HOST,
        Error::Internal(_) => CAPG_ERROR_INTERNAL,
    }
}

fn name(status: capg_status) -> &'static CStr {
    match status {
        CAPG_OK => c"ok",
        CAPG_ERROR_INVALID_ARGUMENT => c"invalid_argument",
        CAPG_ERROR_UNSUPPORTED => c"unsupported",
        CAPG_ERROR_IO => c"io",
        CAPG_ERROR_MALFORMED => c"malformed",
        CAPG_ERROR_MISMATCH => c"mismatch",
        CAPG_ERROR_CORRUPT => c"corrupt",
        CAPG_ERROR_NOT_FOUND => c"not_found",
        CAPG_ERROR_LIMIT => c"limit",
        CAPG_ERROR_CANCELLED => c"cancelled",
        CAPG_ERROR_HOST => c"host",
        CAPG_ERROR_BUSY => c"busy",
        CAPG_ERROR_INTERNAL => c"internal",
        _ => c"unknown",
    }
}

/// The name of a status: "ok", "invalid_argument", ...; "unknown" for a number that this library does not have.
/// Static, NUL-terminated. Thread class: any.
#[unsafe(no_mangle)]
pub extern "C" fn capg_status_name(status: capg_status) -> *const c_char {
    name(status).as_ptr()
}

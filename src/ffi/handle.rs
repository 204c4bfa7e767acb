//! Handles: the only place where pointers of the host become owners or references.
//!
//! Every handle is an `Arc` of which the host holds one reference. A call takes a reference of its own for its
//! duration, so a handle freed in a callback lives until the call has returned, and objects that need each
//! other (a session its model) hold references, so the order of freeing does not matter.

use std::sync::Arc;

use super::error::Failure;
use super::panic::quietly;

/// An object that a host holds by pointer. It may be used and freed on any thread.
pub(super) trait Handle: Send + Sync + 'static {}

/// Gives `value` to the host as a handle.
pub(super) fn give<T: Handle>(value: T) -> *mut T {
    Arc::into_raw(Arc::new(value)).cast_mut()
}

/// A reference of the call's own to the object behind a required handle.
///
/// # Safety
/// `handle` is NULL or a live handle made by [`give`].
pub(super) unsafe fn share<T: Handle>(handle: *const T, parameter: &str) -> Result<Arc<T>, Failure> {
    // SAFETY: passed on.
    unsafe { share_optional(handle) }.ok_or_else(|| Failure::null(parameter))
}

/// As [`share`], for a handle that may be NULL.
///
/// # Safety
/// As [`share`].
pub(super) unsafe fn share_optional<T: Handle>(handle: *const T) -> Option<Arc<T>> {
    if handle.is_null() {
        return None;
    }
    // SAFETY: a live handle is a pointer of `Arc::into_raw` whose reference the host still holds.
    unsafe {
        Arc::increment_strong_count(handle);
        Some(Arc::from_raw(handle))
    }
}

/// Takes the host's reference back. Does nothing for NULL.
///
/// # Safety
/// `handle` is NULL or a live handle made by [`give`], which the host does not use again.
pub(super) unsafe fn release<T: Handle>(handle: *mut T) {
    if handle.is_null() {
        return;
    }
    // SAFETY: the host's reference, given back once by this function's contract.
    let object = unsafe { Arc::from_raw(handle.cast_const()) };
    if let Err(payload) = quietly(|| drop(object)) {
        std::mem::forget(payload); // there is no error to report it in
    }
}

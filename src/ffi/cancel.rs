//! Cancel tokens.

use super::error::{Failure, capg_error};
use super::handle::{Handle, release, share, share_optional};
use super::output::{HandleOut, Out};
use super::panic::guard;
use super::status::capg_status;
use crate::pool::CancelToken;

/// A flag that any thread puts up to stop the calls that were given it.
#[derive(Default)]
pub struct capg_cancel(CancelToken);

impl Handle for capg_cancel {}

/// The token behind a nullable handle.
///
/// # Safety
/// `cancel` is NULL or a live handle.
pub(super) unsafe fn token(cancel: *const capg_cancel) -> Option<CancelToken> {
    // SAFETY: passed on.
    unsafe { share_optional(cancel) }.map(|c| c.0.clone())
}

/// Makes a token that is not triggered. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_cancel_new(
    cancel: *mut *mut capg_cancel,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let out = unsafe { HandleOut::required(cancel, "cancel") }?;
        out.set(capg_cancel::default());
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Asks every call that was given this token to stop and to return CAPG_ERROR_CANCELLED. The flag stays up
/// until capg_cancel_reset. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_cancel_trigger(
    cancel: *const capg_cancel,
    error: *mut *mut capg_error,
) -> capg_status {
    // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
    unsafe { with(cancel, error, |token| token.cancel()) }
}

/// Makes a triggered token usable again. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_cancel_reset(
    cancel: *const capg_cancel,
    error: *mut *mut capg_error,
) -> capg_status {
    // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
    unsafe { with(cancel, error, |token| token.reset()) }
}

/// Whether the token was triggered since it was last reset: 0 or 1. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_cancel_is_triggered(
    cancel: *const capg_cancel,
    triggered: *mut u32,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, cancel) = unsafe { (Out::required(triggered, "triggered")?, share(cancel, "cancel")?) };
        out.set(u32::from(cancel.0.is_cancelled()));
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Frees a token; does nothing for NULL. Not before the calls that use it have returned. Thread class: free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_cancel_free(cancel: *mut capg_cancel) {
    // SAFETY: NULL or a handle that the host gives back, by contract.
    unsafe { release(cancel) };
}

/// # Safety
/// As every function: pointers are NULL or valid, handles live.
unsafe fn with(
    cancel: *const capg_cancel,
    error: *mut *mut capg_error,
    action: impl FnOnce(&CancelToken),
) -> capg_status {
    let body = || -> Result<(), Failure> {
        // SAFETY: passed on.
        action(&unsafe { share(cancel, "cancel") }?.0);
        Ok(())
    };
    // SAFETY: passed on.
    unsafe { guard(error, body) }
}

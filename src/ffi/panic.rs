//! The one boundary that every fallible function goes through: no panic leaves, nothing is printed.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use super::error::{Failure, capg_error};
use super::handle::give;
use super::status::{CAPG_ERROR_INTERNAL, CAPG_OK, capg_status};
use crate::pool::StandardFloats;

/// Runs the body of a function: sets `*error` to NULL, turns a failure or a panic into a status and an error.
///
/// # Safety
/// `error` is NULL or valid for writing.
pub(super) unsafe fn guard(
    error: *mut *mut capg_error,
    body: impl FnOnce() -> Result<(), Failure>,
) -> capg_status {
    if !error.is_null() {
        // SAFETY: not NULL, so valid for writing, by this function's contract.
        unsafe { error.write(std::ptr::null_mut()) };
    }
    // Unwind safety: what a body may leave half-changed is inside a session's mutex, which a panic poisons.
    let result = quietly(|| {
        let _floats = StandardFloats::enter();
        body()
    });
    let failure = match result {
        Ok(Ok(())) => return CAPG_OK,
        Ok(Err(failure)) => failure,
        Err(payload) => {
            let text = format!("internal error (please report it): {}", describe(payload.as_ref()));
            // A payload's own destructor may panic; leaking it cannot.
            std::mem::forget(payload);
            Failure::new(CAPG_ERROR_INTERNAL, text)
        }
    };
    let status = failure.status;
    if !error.is_null() {
        // SAFETY: as above.
        unsafe { error.write(give(failure.into())) };
    }
    status
}

/// Runs `body`; a panic in it is caught and not printed.
pub(super) fn quietly<T>(body: impl FnOnce() -> T) -> Result<T, Box<dyn Any + Send>> {
    silence_own_panics();
    DEPTH.set(DEPTH.get() + 1);
    let result = catch_unwind(AssertUnwindSafe(body));
    DEPTH.set(DEPTH.get() - 1);
    result
}

thread_local! {
    /// Calls of the C API that this thread is inside of. It only decides whether a panic is printed.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Prefix of the names of the library's compute threads.
const POOL_THREADS: &str = "capsulegraph-";

/// Puts a hook before the panic hook that is there, which then sees only panics that are not the library's: in
/// a Rust program the host's own, in a C program none.
fn silence_own_panics() {
    static ONCE: Once = Once::new();
    if std::thread::panicking() {
        return; // the hook cannot be changed now, and the host's panic is the host's
    }
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let own = DEPTH.try_with(|depth| depth.get() > 0).unwrap_or(false)
                || std::thread::current().name().is_some_and(|name| name.starts_with(POOL_THREADS));
            if !own {
                previous(info);
            }
        }));
    });
}

fn describe(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::error::{capg_error_free, capg_error_message, capg_error_status};

    #[test]
    fn a_panic_becomes_an_error() {
        let mut error = std::ptr::null_mut();
        // SAFETY: `error` is a local; the handle is used before it is freed.
        unsafe {
            let status = guard(&raw mut error, || panic!("a broken {}", "invariant"));
            assert_eq!((status, capg_error_status(error)), (CAPG_ERROR_INTERNAL, CAPG_ERROR_INTERNAL));
            let message = std::ffi::CStr::from_ptr(capg_error_message(error, std::ptr::null_mut()));
            assert!(message.to_str().is_ok_and(|m| m.ends_with("a broken invariant")), "{message:?}");
            capg_error_free(error);
            assert_eq!(guard(std::ptr::null_mut(), || panic!("unseen")), CAPG_ERROR_INTERNAL);
            assert_eq!(guard(&raw mut error, || Ok(())), CAPG_OK);
        }
        assert!(error.is_null());
    }
}

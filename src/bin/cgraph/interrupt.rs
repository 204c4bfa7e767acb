//! Ctrl-C: the first asks the running call to stop, so that it cleans up; the second exits at once.

use std::sync::atomic::{AtomicBool, Ordering};

use capsulegraph::Error;
use capsulegraph::pool::CancelToken;

use crate::failure::{Failure, INTERRUPTED};

/// Whether the program waits for input: nothing runs that could see a token, so Ctrl-C exits.
static WAITING: AtomicBool = AtomicBool::new(false);

/// Installs the handler and gives the token that it cancels.
pub fn install() -> Result<CancelToken, Failure> {
    let token = CancelToken::new();
    let seen = token.clone();
    let handler = move || {
        if WAITING.load(Ordering::Relaxed) || seen.is_cancelled() {
            std::process::exit(i32::from(INTERRUPTED));
        }
        seen.cancel();
    };
    ctrlc::set_handler(handler)
        .map_err(|e| Failure::Library(Error::Unsupported(format!("Ctrl-C cannot be handled here: {e}"))))?;
    Ok(token)
}

/// Runs `read`, which waits for input and leaves nothing to clean up: Ctrl-C exits meanwhile.
pub fn waiting<T>(read: impl FnOnce() -> T) -> T {
    WAITING.store(true, Ordering::Relaxed);
    let result = read();
    WAITING.store(false, Ordering::Relaxed);
    result
}

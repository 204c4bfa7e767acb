//! Threads: a fork-join pool (its own threads or the host's), the gate that stops work early, the cancel token.
//!
//! Lives here: who computes and when to stop. May be called by `kernels` and everything above.
//! Must not know: what is computed.

mod float_mode;
mod fork_join;
mod options;
mod pace;
mod system;
#[cfg(test)]
mod tests;

pub use float_mode::StandardFloats;
pub use fork_join::{Pool, SharedLoop};
pub use options::{MAX_THREADS, ParallelFor, Priority, ThreadOptions};
pub use system::place_this_thread;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::error::{Error, Result};

/// A flag that a host sets from any thread to stop a running call. Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that is not cancelled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks every call that was given this token to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Makes the token usable again.
    pub fn reset(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether [`cancel`](Self::cancel) was called since the last [`reset`](Self::reset).
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// For loops that a token ends: looked at before each step.
///
/// # Errors
/// [`Error::Cancelled`] where there is a token and it is cancelled.
pub(crate) fn unless_cancelled(token: Option<&CancelToken>) -> Result<()> {
    if token.is_some_and(CancelToken::is_cancelled) { Err(Error::Cancelled) } else { Ok(()) }
}

/// When a parallel loop must stop claiming further tasks: a deadline, a cancel token, both or neither.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    /// No task is claimed after this moment; of short tasks each thread may claim some for 20 us more.
    pub deadline: Option<Instant>,
    /// No task is claimed once this token is cancelled.
    pub cancel: Option<CancelToken>,
}

impl Gate {
    /// A gate that never closes.
    #[must_use]
    pub fn open() -> Self {
        Self::default()
    }

    /// Whether work must stop now. Costs one clock reading where a deadline is set.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.is_cancelled() || self.deadline.is_some_and(|at| Instant::now() >= at)
    }

    /// Whether its token is cancelled.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel.as_ref().is_some_and(CancelToken::is_cancelled)
    }
}

/// How far a resumable operation came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Every task is done.
    Done,
    /// The gate closed; all tasks below this index are done and none above it is begun.
    Paused(usize),
}

//! Placing a thread: processors and priority, by means of the operating system.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(any(target_os = "linux", windows))]
mod refusal;
#[cfg(all(unix, not(target_os = "linux")))]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
use linux as os;
#[cfg(all(unix, not(target_os = "linux")))]
use unix as os;
#[cfg(windows)]
use windows as os;

use super::options::{Priority, ThreadOptions};
use crate::error::Result;

/// Gives the calling thread the processors and the priority of `options`, as every thread that a [`super::Pool`]
/// starts has them. For programs whose own thread computes; threads that it starts later inherit both.
///
/// # Errors
/// [`crate::Error::InvalidArgument`] for a processor that is named twice or not allowed, and where the system refuses the
/// priority; [`crate::Error::Unsupported`] on a system for which placing threads is not built.
pub fn place_this_thread(options: &ThreadOptions) -> Result<()> {
    options.check()?;
    place(options)
}

/// Where threads go that are started by this one.
#[derive(Clone, Debug)]
pub(super) struct Place {
    options: ThreadOptions,
    starter: os::Starter,
}

impl Place {
    /// That of `options`, which are checked, for threads that the calling one starts.
    pub fn of(options: &ThreadOptions) -> Self {
        Self { options: options.clone(), starter: os::Starter::this_thread() }
    }

    /// Takes the calling thread there, which has just been started.
    pub fn take(&self) -> Result<()> {
        self.starter.hand_on();
        place(&self.options)
    }

    /// Whether a thread can have it: tried on one that ends at once.
    pub fn try_out(self) -> Result<()> {
        if !self.options.places() {
            return Ok(());
        }
        let tried = std::thread::Builder::new().spawn(move || self.take()).map(|thread| thread.join());
        match tried {
            Ok(Ok(placed)) => placed,
            // A thread that the system does not start needs no place.
            Err(_) | Ok(Err(_)) => Ok(()),
        }
    }
}

/// As [`place_this_thread`], of options that are checked.
fn place(options: &ThreadOptions) -> Result<()> {
    if !options.processors.is_empty() {
        os::set_processors(&options.processors)?;
    }
    match options.priority {
        Priority::Inherited => Ok(()),
        lower => os::set_priority(lower),
    }
}

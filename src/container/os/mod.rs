//! What each system does its own way with files: reading at a position, and putting a file in another's place.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub(super) use unix::{SPECIAL, compared, no_file, read_exact_at, replace};
#[cfg(windows)]
pub(super) use windows::{SPECIAL, compared, no_file, read_exact_at, replace};

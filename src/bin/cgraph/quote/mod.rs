//! Paths as a shell takes them, for command lines in messages.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub use unix::quoted;
#[cfg(windows)]
pub use windows::quoted;

/// Whether a shell takes a text for one word as it is.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "/._-+=:,@\\".contains(c))
}

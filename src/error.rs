//! What can go wrong: the one error type of the library.
//!
//! Every message says what failed, where (file, capsule, tensor, numbers), why, and what to do about it.
//! The C API maps each variant to one frozen `capg_status` number; see `docs/c-api.md`.

use std::io;
use std::path::PathBuf;

/// The result of every fallible call of the library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong. `Display` gives the whole message, fit to be shown to a person.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused to open, read, write, map or rename a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb phrase: "open", "read 512 bytes at offset 64 of".
        action: String,
        /// The file concerned.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file is not what its format demands: truncated, out of bounds, contradictory.
    #[error("{file}: {detail}")]
    Malformed {
        /// The file (or in-memory source) concerned, as a person would name it.
        file: String,
        /// What is wrong, at which place, and what to do.
        detail: String,
    },
    /// The data is valid but this version of the library cannot use it.
    #[error("{0}")]
    Unsupported(String),
    /// A caller's argument or option is out of range or contradicts another.
    #[error("{0}")]
    InvalidArgument(String),
    /// A mini and a full file, or a file and a request, do not belong together.
    #[error("{0}")]
    Mismatch(String),
    /// Stored bytes do not match their checksum.
    #[error("{0}")]
    Corrupt(String),
    /// Something asked for by name (capsule, tensor, file) does not exist.
    #[error("{0}")]
    NotFound(String),
    /// A limit (context length, size, memory) does not allow the request.
    #[error("{0}")]
    Limit(String),
    /// The caller's cancel token was triggered.
    #[error("cancelled by the caller")]
    Cancelled,
    /// A callback of the host (token sink, reader) reported a failure.
    #[error("{0}")]
    Host(String),
    /// A broken invariant of the library itself; please report it.
    #[error("internal error (please report it): {0}")]
    Internal(String),
}

impl Error {
    /// Wraps an [`io::Error`] with what was attempted on which file.
    pub fn io(action: impl Into<String>, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { action: action.into(), path: path.into(), source }
    }

    /// The same error with a note behind its message. A cancellation, which the caller knows of, stays as it is.
    pub(crate) fn with_note(self, note: &str) -> Self {
        let noted = |text: String| format!("{text} ({note})");
        match self {
            Self::Io { action, path, source } => {
                let source = io::Error::new(source.kind(), noted(source.to_string()));
                Self::Io { action, path, source }
            }
            Self::Malformed { file, detail } => Self::Malformed { file, detail: noted(detail) },
            Self::Unsupported(text) => Self::Unsupported(noted(text)),
            Self::InvalidArgument(text) => Self::InvalidArgument(noted(text)),
            Self::Mismatch(text) => Self::Mismatch(noted(text)),
            Self::Corrupt(text) => Self::Corrupt(noted(text)),
            Self::NotFound(text) => Self::NotFound(noted(text)),
            Self::Limit(text) => Self::Limit(noted(text)),
            Self::Cancelled => Self::Cancelled,
            Self::Host(text) => Self::Host(noted(text)),
            Self::Internal(text) => Self::Internal(noted(text)),
        }
    }

    /// A file that breaks its own format.
    pub fn malformed(file: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Malformed { file: file.into(), detail: detail.into() }
    }
}

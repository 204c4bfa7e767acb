//! Why a command ended without success, and its exit code.

use std::io;
use std::process::ExitCode;

use capsulegraph::Error;

use crate::ui;

/// Exit code after Ctrl-C, as shells count it: 128 + SIGINT.
pub const INTERRUPTED: u8 = 130;

/// Why a command ended without success.
#[derive(Debug)]
pub enum Failure {
    /// The library's answer.
    Library(Error),
    /// Standard output or input failed.
    Stream(&'static str, io::Error),
}

impl Failure {
    /// A failure to write results.
    pub fn output(error: io::Error) -> Self {
        Self::Stream("write to standard output", error)
    }

    /// A failure to read standard input.
    pub fn input(error: io::Error) -> Self {
        Self::Stream("read standard input", error)
    }

    /// Says on stderr, in one line, what went wrong, and gives the exit code. A reader that closed its end of
    /// the pipe has what it wanted: that is no failure.
    pub fn report(&self) -> ExitCode {
        let message = match self {
            Self::Library(Error::Cancelled) => return ExitCode::from(INTERRUPTED),
            Self::Stream(_, error) if is_closed(error) => return ExitCode::SUCCESS,
            Self::Stream(action, error) => format!("cannot {action}: {error}"),
            Self::Library(error) => error.to_string(),
        };
        let lines: Vec<&str> = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        ui::say(&format!("cgraph: error: {}\n", lines.join(" ")));
        ExitCode::FAILURE
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Library(error)
    }
}

/// Whether the other end of a pipe was closed.
fn is_closed(error: &io::Error) -> bool {
    /// Windows' "No process is on the other end of the pipe."; no other system has an error of that number.
    const NOT_CONNECTED: i32 = 233;
    error.kind() == io::ErrorKind::BrokenPipe || error.raw_os_error() == Some(NOT_CONNECTED)
}

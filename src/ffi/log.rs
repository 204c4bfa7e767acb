//! Logs: lines wait in a queue until the host takes them.

use std::collections::VecDeque;
use std::ffi::{c_char, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::{Failure, capg_error};
use super::handle::{Handle, release, share};
use super::output::HandleOut;
use super::panic::guard;
use super::status::capg_status;
use super::text::Utf8;

/// A call failed.
pub const CAPG_LOG_ERROR: u32 = 1;
/// Something is not as it was asked for.
pub const CAPG_LOG_WARNING: u32 = 2;
/// What was done.
pub const CAPG_LOG_INFO: u32 = 3;
/// Details.
pub const CAPG_LOG_DEBUG: u32 = 4;

/// Lines that wait at most.
const CAPACITY: usize = 1024;

/// Receives one line: its CAPG_LOG_* level and its text without a line feed, valid until the callback returns.
pub type capg_log_callback =
    Option<unsafe extern "C" fn(user_data: *mut c_void, level: u32, line: *const c_char, line_len: usize)>;

/// A queue of log lines.
pub struct capg_log {
    level: u32,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<(u32, Utf8)>,
    dropped: u64,
}

impl Handle for capg_log {}

impl capg_log {
    /// Queues a line where the host wants its level.
    pub(super) fn write(&self, level: u32, line: impl FnOnce() -> String) {
        if level > self.level {
            return;
        }
        let line = line().replace(['\n', '\r'], " ").into();
        // A queue is whole between any two statements, so a poisoned one is too.
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.lines.len() == CAPACITY {
            queue.lines.pop_front();
            queue.dropped += 1;
        }
        queue.lines.push_back((level, line));
    }

    fn take(&self) -> VecDeque<(u32, Utf8)> {
        let mut queue = std::mem::take(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner));
        if queue.dropped > 0 {
            let text = format!("{} older log lines were dropped; deliver more often", queue.dropped);
            queue.lines.push_front((CAPG_LOG_WARNING, text.into()));
        }
        queue.lines
    }
}

/// Runs a job that may have a log; its failure becomes an error line.
pub(super) fn logged<T>(
    log: Option<&Arc<capg_log>>,
    job: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let result = job();
    if let (Err(failure), Some(log)) = (&result, log) {
        log.write(CAPG_LOG_ERROR, || failure.message.clone());
    }
    result
}

/// Makes a log that keeps lines of this CAPG_LOG_* level and the more important ones (0: CAPG_LOG_INFO). Name it
/// in the options of other calls, and take its lines with capg_log_deliver. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_log_new(
    level: u32,
    log: *mut *mut capg_log,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let out = unsafe { HandleOut::required(log, "log") }?;
        let level = match level {
            0 => CAPG_LOG_INFO,
            CAPG_LOG_ERROR..=CAPG_LOG_DEBUG => level,
            other => return Err(Failure::invalid(format!("level is {other}; 0 to 4 are possible"))),
        };
        out.set(capg_log { level, queue: Mutex::default() });
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Empties the queue into the callback, oldest line first, on this thread, before it returns. Of more than 1024
/// waiting lines the oldest are lost, and the first line delivered says how many. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_log_deliver(
    log: *const capg_log,
    callback: capg_log_callback,
    user_data: *mut c_void,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let log = unsafe { share(log, "log") }?;
        let callback = callback.ok_or_else(|| Failure::null("callback"))?;
        // The lines left the queue: the callback may write more, or deliver itself.
        for (level, line) in log.take() {
            let (data, len) = line.view();
            // SAFETY: the host's function, called on the host's thread with a string that lives.
            unsafe { callback(user_data, level, data, len) };
        }
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Frees a log; does nothing for NULL. Models that were opened with it keep it alive. Thread class: free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_log_free(log: *mut capg_log) {
    // SAFETY: NULL or a handle that the host gives back, by contract.
    unsafe { release(log) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_lines_go_first() {
        let log = capg_log { level: CAPG_LOG_INFO, queue: Mutex::default() };
        for i in 0..CAPACITY + 3 {
            log.write(CAPG_LOG_INFO, || format!("line\n{i}"));
            log.write(CAPG_LOG_DEBUG, || unreachable!());
        }
        let lines: Vec<(u32, String)> = log
            .take()
            .into_iter()
            .map(|(level, text)| {
                // SAFETY: the view is of `text`, which lives, and ends in a NUL.
                let line = unsafe { std::ffi::CStr::from_ptr(text.view().0) };
                (level, line.to_string_lossy().into_owned())
            })
            .collect();
        assert_eq!(lines.len(), CAPACITY + 1);
        assert!(
            lines[0].0 == CAPG_LOG_WARNING && lines[0].1.starts_with("3 older log lines"),
            "{:?}",
            lines[0]
        );
        assert_eq!(lines[1], (CAPG_LOG_INFO, "line 3".into()));
        assert!(log.take().is_empty());
    }
}

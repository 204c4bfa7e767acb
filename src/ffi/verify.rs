//! Verification and repair.

use std::ffi::{c_char, c_void};

use super::cancel::{capg_cancel, token};
use super::convert::{CAPG_PHASE_VERIFY, Progress, capg_progress_callback, json};
use super::error::capg_error;
use super::handle::share_optional;
use super::input::{flag, optional_path, path};
use super::log::{CAPG_LOG_WARNING, capg_log, logged};
use super::options::{Versioned, read};
use super::output::{HandleOut, Out};
use super::panic::guard;
use super::status::capg_status;
use super::text::capg_text;
use crate::split::verify::{VerifyOptions, check};

/// How to verify. All zero but struct_size: the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct capg_verify_options {
    /// sizeof(capg_verify_options).
    pub struct_size: usize,
    /// Path of a mini's full file, UTF-8. Default: the file of the recorded name beside the mini.
    pub full_path: *const c_char,
    /// Its length in bytes.
    pub full_path_len: usize,
    /// Stops the work. Nullable.
    pub cancel: *const capg_cancel,
    /// Receives log lines. Nullable.
    pub log: *const capg_log,
    /// Receives the progress. Nullable.
    pub progress: capg_progress_callback,
    /// Handed to progress.
    pub progress_user_data: *mut c_void,
    /// 1: read everything and hold it against the checksums.
    pub deep: u32,
    /// 1: where there are problems, rebuild the mini from its full file and verify again.
    pub repair: u32,
}

// SAFETY: integers, nullable pointers and nullable function pointers, without padding.
unsafe impl Versioned for capg_verify_options {
    const NAME: &'static str = "capg_verify_options";
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// Verifies a .cgraph file: structure, bounds, and that every edge of the graph is served; of a mini also its
/// links into the full file; with deep every checksum of both.
///
/// options: nullable. problems (nullable) receives the number of problems, after the repair where one was made;
/// report (nullable) a JSON object that lists them. Problems found do not make the call fail. Errors: IO, MALFORMED
/// (the file itself cannot be read), MISMATCH (nothing to repair from), CANCELLED. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_verify(
    path: *const c_char,
    path_len: usize,
    options: *const capg_verify_options,
    problems: *mut usize,
    report: *mut *mut capg_text,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, problems, file, o) = unsafe {
            let (out, problems) = (HandleOut::nullable(report), Out::nullable(problems));
            (out, problems, self::path(path, path_len, "path")?, read(options)?)
        };
        // SAFETY: as above, for what the options point to.
        let (full, cancel, log) = unsafe {
            let full = optional_path(o.full_path, o.full_path_len, "options.full_path")?;
            (full, token(o.cancel), share_optional(o.log))
        };
        let deep = flag(o.deep, "options.deep")?;
        let repair = flag(o.repair, "options.repair")?;
        let options = VerifyOptions { full, deep, cancel, ..VerifyOptions::default() };
        let host = Progress { callback: o.progress, user_data: o.progress_user_data };
        let mut progress = |done, total| host.report(CAPG_PHASE_VERIFY, done, total);
        let outcome = logged(log.as_ref(), || Ok(check(&file, &options, repair, &mut progress)?))?;
        let found = &outcome.verified.problems;
        if let Some(log) = &log {
            for problem in found {
                log.write(CAPG_LOG_WARNING, || format!("{}: {}", file.display(), problem.detail));
            }
        }
        let text = json(&outcome)?;
        problems.set(found.len());
        out.set(text);
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

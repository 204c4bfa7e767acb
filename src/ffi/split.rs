//! Derivation of a mini.

use std::ffi::{c_char, c_void};

use super::cancel::capg_cancel;
use super::convert::{CAPG_PHASE_SPLIT, Progress, capg_progress_callback, json, split_options, splitting};
use super::error::capg_error;
use super::handle::share_optional;
use super::input::{optional_path, path, reserved};
use super::log::{CAPG_LOG_INFO, capg_log, logged};
use super::options::{Versioned, read};
use super::output::HandleOut;
use super::panic::guard;
use super::status::capg_status;
use super::text::capg_text;
use crate::split::job::default_mini;
use crate::split::split;

/// How to split. All zero but struct_size: the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct capg_split_options {
    /// sizeof(capg_split_options).
    pub struct_size: usize,
    /// Light forms that the mini may use: "auto" (default), "none", or the name of an encoding.
    pub light: *const c_char,
    /// Its length in bytes.
    pub light_len: usize,
    /// Text on which the agreement of mini and full file is measured; of an ONNX model lines of NAME=FILE.npy, one or more for
    /// each input. Default: a bundled sample, for small models; of an ONNX model random inputs.
    pub calibrate: *const c_char,
    /// Its length in bytes.
    pub calibrate_len: usize,
    /// Stops the job; nothing is left under the mini's name. Nullable.
    pub cancel: *const capg_cancel,
    /// Receives log lines. Nullable.
    pub log: *const capg_log,
    /// Receives the progress. Nullable.
    pub progress: capg_progress_callback,
    /// Handed to progress.
    pub progress_user_data: *mut c_void,
    /// Length of the mini at most, in bytes. Default: by the precision of the model.
    pub mini_bytes: u64,
    /// To measure the mini of an ONNX model with: path of ONNX Runtime's library or its folder. Default: it is looked for.
    pub onnxruntime_path: *const c_char,
    /// Its length in bytes.
    pub onnxruntime_path_len: usize,
    /// Of an ONNX model: how far the mini's outputs may be from the full file's, relative to their own. Default: 0.05.
    pub max_error: f32,
    /// Must be 0.
    pub reserved: u32,
}

// SAFETY: integers, nullable pointers and nullable function pointers, without padding.
unsafe impl Versioned for capg_split_options {
    const NAME: &'static str = "capg_split_options";
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// Derives a mini from the full file. It appears whole under its name or not at all.
///
/// mini may be (NULL, 0): the full file's name with .mini.cgraph. options: nullable. summary (nullable) receives a
/// JSON object with the plan. Errors: IO, MALFORMED, MISMATCH (not a full file), LIMIT (naming the smallest
/// possible mini), CANCELLED; of an ONNX model those of running it (capg_model_run) where its mini is measured. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_split(
    full: *const c_char,
    full_len: usize,
    mini: *const c_char,
    mini_len: usize,
    options: *const capg_split_options,
    summary: *mut *mut capg_text,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, full, mini, o) = unsafe {
            let out = HandleOut::nullable(summary);
            let full = path(full, full_len, "full")?;
            (out, full, optional_path(mini, mini_len, "mini")?, read(options)?)
        };
        // SAFETY: as above, for what the options point to.
        let (options, log) = unsafe {
            let options = split_options(&splitting!(o))?;
            (options, share_optional(o.log))
        };
        reserved(o.reserved, "options.reserved")?;
        let mini = mini.unwrap_or_else(|| default_mini(&full));
        let host = Progress { callback: o.progress, user_data: o.progress_user_data };
        let mut progress = |done, total| host.report(CAPG_PHASE_SPLIT, done, total);
        let written = logged(log.as_ref(), || Ok(split(&full, &mini, &options, &mut progress)?))?;
        if let Some(log) = &log {
            log.write(CAPG_LOG_INFO, || format!("{} written: {} bytes", mini.display(), written.bytes));
        }
        out.set(json(&written)?);
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

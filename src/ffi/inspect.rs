//! Facts of a file.

use std::ffi::c_char;
use std::sync::Arc;

use super::convert::json;
use super::error::capg_error;
use super::handle::share;
use super::input::{flag, path};
use super::model::capg_model;
use super::output::HandleOut;
use super::panic::guard;
use super::status::capg_status;
use super::text::capg_text;
use crate::container::disk::{Disk, SystemDisk};
use crate::report::inspect::{inspect, inspect_contents};

/// The facts of a .cgraph file, of a GGUF model or of an ONNX model as a JSON object, read without opening it as a model.
/// details 1 lists every capsule (of a GGUF model every tensor; of an ONNX model the capsules that it would be cut into),
/// 0 does not. Errors: IO, MALFORMED, UNSUPPORTED, LIMIT. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_inspect(
    path: *const c_char,
    path_len: usize,
    details: u32,
    report: *mut *mut capg_text,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, file) = unsafe {
            let out = HandleOut::required(report, "report")?;
            (out, self::path(path, path_len, "path")?)
        };
        let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
        out.set(json(&inspect(&file, &disk, flag(details, "details")?)?)?);
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// The facts of capg_inspect about the file that the model was opened from. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_inspect(
    model: *const capg_model,
    details: u32,
    report: *mut *mut capg_text,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, model) = unsafe {
            let out = HandleOut::required(report, "report")?;
            (out, share(model, "model")?)
        };
        let contents = model.model.store().primary().contents().clone();
        out.set(json(&inspect_contents(contents, flag(details, "details")?))?);
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

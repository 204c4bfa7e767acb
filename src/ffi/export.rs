//! Back to ONNX: a whole model, or one capsule of it.

use std::ffi::c_char;

use super::cancel::{capg_cancel, token};
use super::convert::json;
use super::error::capg_error;
use super::handle::share;
use super::input::{path, text};
use super::model::capg_model;
use super::output::HandleOut;
use super::panic::guard;
use super::status::capg_status;
use super::text::capg_text;
use crate::convert::onnx::export::{ExportOptions, export, export_served};

/// Writes the ONNX model at target that the full file at source was converted from: its inputs, outputs and weights are the
/// source's. Weights lie in the model up to about 1.8 GB, else beside it in a file named as target with .data behind it. Files
/// appear whole under their names or not at all.
///
/// cancel: nullable. summary (nullable) receives a JSON object about the files written. Errors: IO, MALFORMED, UNSUPPORTED (no
/// ONNX model), MISMATCH (a mini), CORRUPT, CANCELLED. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_export(
    source: *const c_char,
    source_len: usize,
    target: *const c_char,
    target_len: usize,
    cancel: *const capg_cancel,
    summary: *mut *mut capg_text,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, source, target, cancel) = unsafe {
            let out = HandleOut::nullable(summary);
            let source = path(source, source_len, "source")?;
            (out, source, path(target, target_len, "target")?, token(cancel))
        };
        let options = ExportOptions { cancel, ..ExportOptions::default() };
        out.set(json(&export(&source, &target, &options, &mut |_, _| {})?)?);
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Writes what a capsule of an ONNX model computes to target, as an ONNX model of its own with its weights: as the mini has it
/// in mode fast, at full precision in every other mode. cancel, summary and weights of more than 1.8 GB: as for capg_export.
/// Errors: NOT_FOUND (no such capsule, or in mode fast a weight that the mini only links), and those of capg_export. Thread
/// class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_export_capsule(
    model: *const capg_model,
    id: *const c_char,
    id_len: usize,
    target: *const c_char,
    target_len: usize,
    cancel: *const capg_cancel,
    summary: *mut *mut capg_text,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, model, id, target, cancel) = unsafe {
            let out = HandleOut::nullable(summary);
            let (model, id) = (share(model, "model")?, text(id, id_len, "id")?);
            (out, model, id, path(target, target_len, "target")?, token(cancel))
        };
        let options = ExportOptions { cancel, ..ExportOptions::default() };
        out.set(json(&export_served(model.model.store(), id, &target, &options, &mut |_, _| {})?)?);
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

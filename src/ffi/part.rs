//! Parts: a model whose capsules are divided among processes.

use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use super::cancel::{capg_cancel, token};
use super::error::{Failure, capg_error};
use super::handle::{Handle, release, share};
use super::input::{array, flags};
use super::model::capg_model;
use super::options::{Versioned, read};
use super::output::{HandleOut, Out, ViewOut};
use super::panic::guard;
use super::session::{CAPG_EVAL_ALL_LOGITS, kv_format};
use super::status::{CAPG_ERROR_BUSY, CAPG_ERROR_INTERNAL, capg_status};
use crate::decoder::forward::Input;
use crate::generate::part::{Output, Part};
use crate::generate::session::SessionOptions;

/// How to make a part. All zero but struct_size: the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct capg_part_options {
    /// sizeof(capg_part_options).
    pub struct_size: usize,
    /// Positions that there is room for; 0: the model's own context, at most 4096.
    pub context: u32,
    /// CAPG_KV_*: how keys and values of past tokens are kept. The bits are those of one process where it is the same in
    /// all parts.
    pub kv_type: u32,
}

// SAFETY: integers without padding.
unsafe impl Versioned for capg_part_options {
    const NAME: &'static str = "capg_part_options";
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// A sequence on the capsules that a model was opened for (first_capsule and end_capsule of its options), with their KV
/// cache: token ids or activations come in, activations or logits go out. Owned by the host; used by one call at a time.
pub struct capg_part(Mutex<Part>);

impl Handle for capg_part {}

impl capg_part {
    /// The part for one call.
    ///
    /// # Errors
    /// BUSY while another call has it; INTERNAL after a panic.
    fn enter(&self) -> Result<MutexGuard<'_, Part>, Failure> {
        self.0.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                Failure::new(CAPG_ERROR_BUSY, "the part is in use by another call; wait for it")
            }
            TryLockError::Poisoned(_) => Failure::new(
                CAPG_ERROR_INTERNAL,
                "an earlier call on this part ended with an internal error; free it and make a new one",
            ),
        })
    }
}

/// Makes a part; it keeps its model alive. options: nullable. Errors: LIMIT where the KV cache does not fit memory or
/// budget. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_part_new(
    model: *const capg_model,
    options: *const capg_part_options,
    part: *mut *mut capg_part,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, model, o) = unsafe {
            let out = HandleOut::required(part, "part")?;
            (out, share(model, "model")?, read(options)?)
        };
        let options = SessionOptions {
            context: o.context as usize,
            kv_format: kv_format(o.kv_type, "options.kv_type")?,
            ..SessionOptions::default()
        };
        out.set(capg_part(Mutex::new(Part::new(Arc::clone(model.model.language()?), &options)?)));
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Evaluates tokens after those that the part has evaluated; capg_part_output then gives what came of it. Only a part
/// that begins with capsule 0 takes token ids. flags: CAPG_EVAL_ALL_LOGITS, for the part that has the head; others leave
/// it aside. All tokens are one batch. cancel: nullable.
///
/// Errors: INVALID_ARGUMENT for no tokens, for ids out of range and for a part that takes activations, LIMIT where they
/// do not fit the context, the budget or the system's memory, CANCELLED. After any error the part has the positions that
/// it had, and no output. Thread class: one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_part_eval(
    part: *const capg_part,
    ids: *const u32,
    count: usize,
    flags: u32,
    cancel: *const capg_cancel,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (part, ids, cancel) = unsafe { (share(part, "part")?, array(ids, count, "ids")?, token(cancel)) };
        let all = self::flags(flags, CAPG_EVAL_ALL_LOGITS)? != 0;
        part.enter()?.eval(Input::Tokens(ids), all, cancel.as_ref())?;
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// As capg_part_eval, with what the part before gave: rows * columns floats, row after row, one row a token, columns the
/// model's embedding length. Only a part that begins behind capsule 0 takes activations. The output of another
/// part in this process may be handed in as it is.
///
/// Errors: also INVALID_ARGUMENT for another number of columns and for values that are not finite. Thread class: one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_part_eval_activations(
    part: *const capg_part,
    data: *const f32,
    rows: usize,
    columns: usize,
    flags: u32,
    cancel: *const capg_cancel,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (part, cancel) = unsafe { (share(part, "part")?, token(cancel)) };
        let all = self::flags(flags, CAPG_EVAL_ALL_LOGITS)? != 0;
        let mut part = part.enter()?;
        let width = part.model().decoder().params().embedding_length as usize;
        if columns != width {
            return Err(Failure::invalid(format!(
                "columns is {columns}; a row of this model has {width} (capg_model_embedding_length)"
            )));
        }
        let Some(len) = rows.checked_mul(columns) else {
            return Err(Failure::invalid(format!("data: {rows} rows exceed the address space")));
        };
        // SAFETY: as above.
        let activations = unsafe { array(data, len, "data") }?;
        // The evaluation writes where its output is.
        if let Output::Hidden(own) = part.output()
            && own.as_ptr_range().contains(&activations.as_ptr())
        {
            return Err(Failure::invalid("data is the part's own output; it goes to the part behind"));
        }
        part.eval(Input::Hidden(activations), all, cancel.as_ref())?;
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// What the last evaluation gave: rows * columns floats, row after row. Of a part that has the head logits, a column a
/// token of the vocabulary; of any other activations, a row a token, for capg_part_eval_activations of the part behind. 0
/// rows before any evaluation, after one that failed, and after capg_part_truncate. A view, valid until the part's next
/// call that is not a view. Thread class: one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_part_output(
    part: *const capg_part,
    data: *mut *const f32,
    rows: *mut usize,
    columns: *mut usize,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, columns, part) = unsafe {
            let out = ViewOut::required(data, rows, ["data", "rows"])?;
            (out, Out::required(columns, "columns")?, share(part, "part")?)
        };
        let part = part.enter()?;
        let params = part.model().decoder().params();
        let (values, width) = match part.output() {
            Output::Hidden(values) => (values, params.embedding_length as usize),
            Output::Logits(values) => (values, params.vocab_size as usize),
        };
        out.set((values.as_ptr(), values.len().checked_div(width).unwrap_or(0)));
        columns.set(width);
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Positions that the part has evaluated. Thread class: one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_part_len(
    part: *const capg_part,
    count: *mut usize,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, part) = unsafe { (Out::required(count, "count")?, share(part, "part")?) };
        out.set(part.enter()?.len());
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Forgets every position from count on, and the output. A count past the end keeps all positions. Thread class: one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_part_truncate(
    part: *const capg_part,
    count: usize,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        unsafe { share(part, "part") }?.enter()?.truncate(count);
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Frees a part; does nothing for NULL. Thread class: free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_part_free(part: *mut capg_part) {
    // SAFETY: NULL or a handle that the host gives back, by contract.
    unsafe { release(part) };
}

//! Sessions: making, evaluating, views, forgetting, reports. Generation is in `generate`.

use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use super::cancel::{capg_cancel, token};
use super::error::{Failure, capg_error};
use super::handle::{Handle, release, share};
use super::input::{array, flags};
use super::log::capg_log;
use super::model::capg_model;
use super::options::{Versioned, read};
use super::output::{HandleOut, Out, ViewOut};
use super::panic::guard;
use super::status::{CAPG_ERROR_BUSY, CAPG_ERROR_INTERNAL, capg_status};
use super::text::{Utf8, capg_text};
use crate::generate::session::{FinishReason, Session, SessionOptions};
use crate::kernels::kv::KvFormat;
use crate::report::Report;
use crate::report::memory::MemorySampler;

/// KV type: keys and values in half precision.
pub const CAPG_KV_F16: u32 = 0;
/// KV type: 8-bit codes with a scale for every 32, about half the memory. Logits differ a little.
pub const CAPG_KV_Q8_0: u32 = 1;

/// Session flag: in mode speculative the mini drafts alone; text that repeats is not guessed to go on as before.
pub const CAPG_SESSION_WITHOUT_LOOKUP: u32 = 1;

/// Eval flag: compute the logits of every token given, not of the last alone.
pub const CAPG_EVAL_ALL_LOGITS: u32 = 1;

/// How to make a session. All zero but struct_size: the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct capg_session_options {
    /// sizeof(capg_session_options).
    pub struct_size: usize,
    /// Positions that there is room for; 0: the model's own context, at most 4096.
    pub context: u32,
    /// Tokens that are evaluated together while a prompt is read; 0: what suits the machine. It never changes a
    /// bit of the results.
    pub batch: u32,
    /// CAPG_KV_*: how keys and values of past tokens are kept.
    pub kv_type: u32,
    /// CAPG_SESSION_* flags.
    pub flags: u32,
}

// SAFETY: integers without padding.
unsafe impl Versioned for capg_session_options {
    const NAME: &'static str = "capg_session_options";
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// A sequence of tokens on a model, with its KV cache and at most one generation in progress. Owned by the host;
/// used by one call at a time.
pub struct capg_session {
    state: Mutex<State>,
    context: usize,
    pub(super) log: Option<Arc<capg_log>>,
}

impl Handle for capg_session {}

/// What calls on a session change.
pub(super) struct State {
    pub session: Session,
    pub sampler: MemorySampler,
    /// Text and tokens of the last generation, for the report.
    pub text: String,
    pub tokens: Vec<u32>,
    /// How the last generation ended; `None` while it goes on, and without one.
    pub finished: Option<FinishReason>,
    /// Whether there was a generation.
    pub generated: bool,
    /// What the last slice gave, or the present one has gathered.
    pub slice: Slice,
}

/// Text and tokens of a slice.
#[derive(Default)]
pub(super) struct Slice {
    pub text: String,
    pub tokens: Vec<u32>,
    /// The host has seen it: the next slice begins anew.
    pub delivered: bool,
    /// `text` as the host sees it.
    pub view: Utf8,
}

impl capg_session {
    /// The session for one call.
    ///
    /// # Errors
    /// BUSY while another call, also one further up on this thread, has it; INTERNAL after a panic.
    pub(super) fn enter(&self) -> Result<MutexGuard<'_, State>, Failure> {
        self.state.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Failure::new(
                CAPG_ERROR_BUSY,
                "the session is in use by another call; wait for it, and do not call from its callbacks",
            ),
            TryLockError::Poisoned(_) => Failure::new(
                CAPG_ERROR_INTERNAL,
                "an earlier call on this session ended with an internal error; free it and make a new one",
            ),
        })
    }
}

impl State {
    /// The report of the last generation, or of the session where there was none.
    fn report(&self) -> Result<String, Failure> {
        let mut report = Report::new("run", &self.session, &self.sampler);
        if self.generated {
            report =
                report.with_generation(&self.session, self.text.clone(), self.tokens.clone(), self.finished);
            // A generation in progress was not cancelled: it can go on.
            report.finish_reason = self.finished.map(|reason| reason.name().to_owned());
        }
        Ok(report.to_json()?)
    }

    /// Forgets every token from `len` on.
    fn truncate(&mut self, len: usize) {
        self.session.truncate(len);
        self.slice = Slice::default();
    }
}

impl capg_session_options {
    /// The library's options.
    fn checked(self) -> Result<SessionOptions, Failure> {
        let flags = flags(self.flags, CAPG_SESSION_WITHOUT_LOOKUP)?;
        let kv_format = kv_format(self.kv_type, "options.kv_type")?;
        let without_lookup = flags & CAPG_SESSION_WITHOUT_LOOKUP != 0;
        Ok(SessionOptions {
            context: self.context as usize,
            batch: self.batch as usize,
            kv_format,
            without_lookup,
        })
    }
}

/// What a CAPG_KV_* names.
pub(super) fn kv_format(kv_type: u32, name: &str) -> Result<KvFormat, Failure> {
    match kv_type {
        CAPG_KV_F16 => Ok(KvFormat::F16),
        CAPG_KV_Q8_0 => Ok(KvFormat::Q8_0),
        other => Err(Failure::invalid(format!("{name} is {other}; 0 (f16) and 1 (q8_0) are possible"))),
    }
}

/// Makes a session; it keeps its model alive. options: nullable. Errors: LIMIT where the KV cache does not fit memory or
/// budget, INVALID_ARGUMENT where the model was opened for a range of its capsules (capg_part_new). Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_session_new(
    model: *const capg_model,
    options: *const capg_session_options,
    session: *mut *mut capg_session,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, model, o) = unsafe {
            let out = HandleOut::required(session, "session")?;
            (out, share(model, "model")?, read(options)?)
        };
        let options = o.checked()?;
        let session = Session::new(Arc::clone(model.model.language()?), &options)?;
        let context = session.context();
        let state = State {
            session,
            sampler: MemorySampler::new(),
            text: String::new(),
            tokens: Vec::new(),
            finished: None,
            generated: false,
            slice: Slice::default(),
        };
        out.set(capg_session { state: Mutex::new(state), context, log: model.log.clone() });
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Evaluates tokens after those that the session holds, and ends a generation in progress. capg_session_logits
/// then gives the logits of the last token, or with the flag CAPG_EVAL_ALL_LOGITS of every token, which takes
/// 4 * vocabulary bytes a token. cancel: nullable.
///
/// Errors: INVALID_ARGUMENT for no tokens and for ids out of range, LIMIT where they do not fit the
/// context, or where the budget has no room or the system no memory for them, CANCELLED. After any error the session holds the
/// tokens that were through and can be used on. Thread class: one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_session_eval(
    session: *const capg_session,
    ids: *const u32,
    count: usize,
    flags: u32,
    cancel: *const capg_cancel,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (session, ids, cancel) =
            unsafe { (share(session, "session")?, array(ids, count, "ids")?, token(cancel)) };
        let all = self::flags(flags, CAPG_EVAL_ALL_LOGITS)? != 0;
        let mut state = session.enter()?;
        state.session.eval(ids, all, cancel.as_ref())?;
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Logits of the last evaluation: rows * columns floats, row after row; a column a token of the vocabulary. Before
/// any evaluation there are 0 rows. A view, valid until the session's next call that is not a view. After a
/// generated token they are those that it was chosen from, with its penalties. Thread class: one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_session_logits(
    session: *const capg_session,
    data: *mut *const f32,
    rows: *mut usize,
    columns: *mut usize,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, columns, session) = unsafe {
            let out = ViewOut::required(data, rows, ["data", "rows"])?;
            (out, Out::required(columns, "columns")?, share(session, "session")?)
        };
        let state = session.enter()?;
        let logits = state.session.logits();
        let vocab = state.session.model().decoder().params().vocab_size as usize;
        out.set((logits.as_ptr(), logits.len().checked_div(vocab).unwrap_or(0)));
        columns.set(vocab);
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// The tokens that the session holds. A view, valid until the session's next call that is not a view.
/// Thread class: one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_session_tokens(
    session: *const capg_session,
    ids: *mut *const u32,
    count: *mut usize,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, session) =
            unsafe { (ViewOut::required(ids, count, ["ids", "count"])?, share(session, "session")?) };
        let state = session.enter()?;
        out.set((state.session.tokens().as_ptr(), state.session.tokens().len()));
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Positions that the session has room for. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_session_context(
    session: *const capg_session,
    count: *mut usize,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, session) = unsafe { (Out::required(count, "count")?, share(session, "session")?) };
        out.set(session.context);
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Forgets every token from position count on, and a generation in progress. A count past the end keeps all
/// tokens. Thread class: one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_session_truncate(
    session: *const capg_session,
    count: usize,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        unsafe { share(session, "session") }?.enter()?.truncate(count);
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Forgets all tokens, and a generation in progress. Thread class: one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_session_reset(
    session: *const capg_session,
    error: *mut *mut capg_error,
) -> capg_status {
    // SAFETY: passed on.
    unsafe { capg_session_truncate(session, 0, error) }
}

/// What the session did and cost, as a JSON object ("schema": "capsulegraph.report/1"): mode and why, times,
/// memory, capsules, text and tokens of the last generation. Thread class: one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_session_report(
    session: *const capg_session,
    report: *mut *mut capg_text,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, session) = unsafe {
            let out = HandleOut::required(report, "report")?;
            (out, share(session, "session")?)
        };
        let text = session.enter()?.report()?;
        out.set(text.into());
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Frees a session; does nothing for NULL. Thread class: free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_session_free(session: *mut capg_session) {
    // SAFETY: NULL or a handle that the host gives back, by contract.
    unsafe { release(session) };
}

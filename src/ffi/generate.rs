//! Generation: streamed through a callback, or in slices of a host's frame.

use std::ffi::{c_char, c_void};
use std::time::{Duration, Instant};

use super::cancel::{capg_cancel, token};
use super::error::{Failure, capg_error};
use super::handle::share;
use super::input::{array, capg_string, flag, reserved, text};
use super::log::CAPG_LOG_INFO;
use super::options::{StructOut, Versioned, read};
use super::output::Out;
use super::panic::guard;
use super::session::{Slice, State, capg_session};
use super::status::capg_status;
use super::text::Utf8;
use crate::error::Error;
use crate::generate::SamplingOptions;
use crate::generate::session::{FinishReason, GenerateOptions, Step};
use crate::pool::{CancelToken, Gate};

/// Finish reason: the generation is not over.
pub const CAPG_FINISH_NONE: u32 = 0;
/// Finish reason: the model ended its text.
pub const CAPG_FINISH_END: u32 = 1;
/// Finish reason: a stop string came.
pub const CAPG_FINISH_STOP: u32 = 2;
/// Finish reason: max_tokens were generated.
pub const CAPG_FINISH_LENGTH: u32 = 3;
/// Finish reason: the context is full.
pub const CAPG_FINISH_CONTEXT: u32 = 4;
/// Finish reason: the token callback asked to stop; the generation can go on.
pub const CAPG_FINISH_CALLBACK: u32 = 5;

/// A shorter slice might end before any work was begun, and the generation would never go on.
const SHORTEST_SLICE: Duration = Duration::from_micros(100);

/// Receives a token and the text that became complete with it: UTF-8, NUL-terminated, possibly empty, never a part
/// of a character. Returns 0 to go on, anything else to stop.
pub type capg_token_callback = Option<
    unsafe extern "C" fn(user_data: *mut c_void, token: u32, text: *const c_char, text_len: usize) -> i32,
>;

/// What to generate. All zero but struct_size: greedy, until the model ends its text or the context is full.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct capg_generate_options {
    /// sizeof(capg_generate_options).
    pub struct_size: usize,
    /// The text ends before the first of these.
    pub stop: *const capg_string,
    /// Number of stop strings.
    pub stop_count: usize,
    /// Tokens at most; 0: as many as the context has room for.
    pub max_tokens: u64,
    /// Chooses one of the possible random sequences.
    pub seed: u64,
    /// Divides the logits: 0 takes the best token always, 1 leaves the model's own distribution. At most 100.
    pub temperature: f32,
    /// Keeps the fewest best tokens whose probabilities reach this sum; 0 and 1 keep all.
    pub top_p: f32,
    /// Drops tokens less probable than this share of the best one's probability; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens; 0 and 1 change nothing.
    pub repeat_penalty: f32,
    /// Keeps this many best tokens; 0 keeps all.
    pub top_k: u32,
    /// How many recent tokens are penalised; 0 means 64.
    pub repeat_window: u32,
    /// 1: go on after an end-of-generation token (for measurements).
    pub ignore_end: u32,
    /// Must be 0.
    pub reserved: u32,
}

// SAFETY: integers, floats and nullable pointers, without padding.
unsafe impl Versioned for capg_generate_options {
    const NAME: &'static str = "capg_generate_options";
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// What a slice of a generation gave. The host sets struct_size, the library the rest. Pointers are views of the
/// session, valid until its next call that is not a view.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct capg_slice {
    /// sizeof(capg_slice), set by the host.
    pub struct_size: usize,
    /// Text that became complete: UTF-8, NUL-terminated, possibly empty, never a part of a character.
    pub text: *const c_char,
    /// Its length in bytes.
    pub text_len: usize,
    /// Tokens that were generated.
    pub tokens: *const u32,
    /// Their number.
    pub token_count: usize,
    /// 1: the generation goes on, call again. 0: it is over.
    pub more: u32,
    /// CAPG_FINISH_NONE while there is more, else why it ended.
    pub finish_reason: u32,
}

// SAFETY: integers and nullable pointers, without padding.
unsafe impl Versioned for capg_slice {
    const NAME: &'static str = "capg_slice";
    const FIRST_SIZE: usize = size_of::<Self>();
}

fn number(reason: Option<FinishReason>) -> u32 {
    match reason {
        None => CAPG_FINISH_NONE,
        Some(FinishReason::End) => CAPG_FINISH_END,
        Some(FinishReason::Stop) => CAPG_FINISH_STOP,
        Some(FinishReason::Length) => CAPG_FINISH_LENGTH,
        Some(FinishReason::Context) => CAPG_FINISH_CONTEXT,
    }
}

/// # Safety
/// `options` is NULL or valid with what it points to.
unsafe fn generate_options(options: *const capg_generate_options) -> Result<GenerateOptions, Failure> {
    // SAFETY: passed on.
    let (o, stops) = unsafe {
        let o = read(options)?;
        (o, array(o.stop, o.stop_count, "options.stop")?)
    };
    reserved(o.reserved, "options.reserved")?;
    let mut stop = Vec::with_capacity(stops.len());
    for (i, s) in stops.iter().enumerate() {
        // SAFETY: passed on.
        stop.push(unsafe { text(s.data, s.len, &format!("options.stop[{i}]")) }?.to_owned());
    }
    Ok(GenerateOptions {
        sampling: SamplingOptions {
            temperature: o.temperature,
            top_k: o.top_k,
            top_p: o.top_p,
            min_p: o.min_p,
            repeat_penalty: o.repeat_penalty,
            repeat_window: o.repeat_window,
            seed: o.seed,
        },
        // More than the address space can hold is no limit.
        max_tokens: usize::try_from(o.max_tokens).unwrap_or(0),
        stop,
        ignore_end: flag(o.ignore_end, "options.ignore_end")?,
    })
}

impl State {
    fn start(&mut self, prompt: &[u32], options: &GenerateOptions) -> Result<(), Error> {
        self.session.start(prompt, options)?;
        self.text.clear();
        self.tokens.clear();
        self.finished = None;
        self.generated = true;
        self.slice = Slice::default();
        Ok(())
    }

    /// One step; keeps the account of the generation.
    fn step(&mut self, gate: &Gate) -> Result<Step, Error> {
        let step = self.session.step(gate)?;
        self.account(&step);
        Ok(step)
    }

    /// Keeps the account of a step.
    pub(super) fn account(&mut self, step: &Step) {
        match step {
            Step::Paused => {}
            Step::Token { id, text } => {
                if self.tokens.is_empty() {
                    self.sampler.sample();
                }
                self.tokens.push(*id);
                self.text.push_str(text);
            }
            Step::Finished(reason) => self.finished = Some(*reason),
        }
    }

    /// What the host has seen goes, and the next slice is gathered.
    pub(super) fn begin_slice(&mut self) {
        if std::mem::take(&mut self.slice.delivered) {
            self.slice.text.clear();
            self.slice.tokens.clear();
        }
    }

    /// A token for the slice.
    pub(super) fn gather(&mut self, id: u32, text: &str) {
        self.slice.text.push_str(text);
        self.slice.tokens.push(id);
    }

    /// Generates to the end, or until `sink` wants no more; that is `None`.
    fn stream(
        &mut self,
        cancel: Option<CancelToken>,
        sink: &mut dyn FnMut(u32, String) -> bool,
    ) -> Result<Option<FinishReason>, Error> {
        let gate = Gate { deadline: None, cancel };
        loop {
            match self.step(&gate)? {
                Step::Paused => {}
                Step::Token { id, text } => {
                    if !sink(id, text) {
                        return Ok(None);
                    }
                }
                Step::Finished(reason) => return Ok(Some(reason)),
            }
        }
    }

    /// Goes on until the gate's deadline, `max_tokens` (0: no limit) or the end.
    fn advance(&mut self, gate: &Gate, max_tokens: usize) -> Result<(), Error> {
        self.begin_slice();
        loop {
            match self.step(gate)? {
                Step::Paused => return Ok(()),
                Step::Token { id, text } => {
                    self.gather(id, &text);
                    let enough = max_tokens > 0 && self.slice.tokens.len() >= max_tokens;
                    if enough || gate.deadline.is_some_and(|at| Instant::now() >= at) {
                        return Ok(());
                    }
                }
                Step::Finished(_) => return Ok(()),
            }
        }
    }

    /// The slice as the host sees it.
    fn deliver(&mut self) -> capg_slice {
        self.slice.delivered = true;
        self.slice.view = self.slice.text.as_str().into();
        let (text, text_len) = self.slice.view.view();
        capg_slice {
            struct_size: 0, // the host's stays
            text,
            text_len,
            tokens: self.slice.tokens.as_ptr(),
            token_count: self.slice.tokens.len(),
            more: u32::from(self.finished.is_none()),
            finish_reason: number(self.finished),
        }
    }
}

impl capg_session {
    fn log_end(&self, state: &State) {
        if let (Some(log), Some(reason)) = (&self.log, state.finished) {
            let n = state.tokens.len();
            log.write(CAPG_LOG_INFO, || format!("generation over after {n} tokens: {}", reason.name()));
        }
    }
}

/// When a slice that began at that moment ends; `None` for 0 microseconds: never.
pub(super) fn deadline(begun: Instant, max_microseconds: u64) -> Option<Instant> {
    let limit = Duration::from_micros(max_microseconds).max(SHORTEST_SLICE);
    // A moment that the clock cannot express is never reached.
    (max_microseconds > 0).then(|| begun.checked_add(limit)).flatten()
}

/// Generates after this prompt: each token and its text goes through the callback as it is chosen, until the
/// model ends its text, a limit of the options is reached, or the callback returns other than 0. What the session
/// holds of the same prefix is not evaluated again, so a conversation may be given anew each turn.
///
/// options, callback, cancel and finish_reason (CAPG_FINISH_*) are nullable. Errors: INVALID_ARGUMENT (no tokens, an
/// id or option out of range), LIMIT (the prompt does not fit the context), CANCELLED (after a reset of the token
/// capg_session_advance goes on), BUSY. Thread class: one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_session_generate(
    session: *const capg_session,
    ids: *const u32,
    count: usize,
    options: *const capg_generate_options,
    callback: capg_token_callback,
    user_data: *mut c_void,
    cancel: *const capg_cancel,
    finish_reason: *mut u32,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, session, ids, options, cancel) = unsafe {
            let (out, session) = (Out::nullable(finish_reason), share(session, "session")?);
            (out, session, array(ids, count, "ids")?, generate_options(options)?, token(cancel))
        };
        let mut state = session.enter()?;
        state.start(ids, &options)?;
        let mut sink = |id: u32, text: String| match callback {
            None => true,
            Some(callback) => {
                let text = Utf8::from(text);
                let (data, len) = text.view();
                // SAFETY: the host's function on the host's thread inside its call, with a text that lives.
                unsafe { callback(user_data, id, data, len) == 0 }
            }
        };
        let reason = state.stream(cancel, &mut sink)?;
        session.log_end(&state);
        out.set(reason.map_or(CAPG_FINISH_CALLBACK, |r| number(Some(r))));
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Begins a generation after this prompt without computing anything; capg_session_advance does the work. options:
/// nullable. Errors: as capg_session_generate. Thread class: one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_session_start(
    session: *const capg_session,
    ids: *const u32,
    count: usize,
    options: *const capg_generate_options,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (session, ids, options) =
            unsafe { (share(session, "session")?, array(ids, count, "ids")?, generate_options(options)?) };
        session.enter()?.start(ids, &options)?;
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Goes on with the generation for about max_microseconds and for max_tokens at most (0 each: no limit), and fills
/// slice with what became complete meanwhile. It pauses inside a capsule too, at most a millisecond of compute late,
/// and takes up its work exactly there: the tokens are the same however they are sliced. Less than 100 microseconds
/// count as 100.
///
/// cancel: nullable. After CANCELLED nothing is lost: what the slice had produced comes with the next one. After the
/// end every further call gives an empty slice with the same finish_reason. Errors: INVALID_ARGUMENT where no
/// generation is in progress, CANCELLED, BUSY. Thread class: one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_session_advance(
    session: *const capg_session,
    max_microseconds: u64,
    max_tokens: usize,
    cancel: *const capg_cancel,
    slice: *mut capg_slice,
    error: *mut *mut capg_error,
) -> capg_status {
    let begun = Instant::now();
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, session, cancel) = unsafe {
            let out = StructOut::required(slice, "slice")?;
            (out, share(session, "session")?, token(cancel))
        };
        let deadline = deadline(begun, max_microseconds);
        let mut state = session.enter()?;
        let was_over = state.finished.is_some();
        state.advance(&Gate { deadline, cancel }, max_tokens)?;
        if !was_over {
            session.log_end(&state);
        }
        out.set(state.deliver());
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// What became complete of a generation that capg_group_advance went on with, since the last slice. Errors:
/// INVALID_ARGUMENT where there is no generation, BUSY. Thread class: one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_session_slice(
    session: *const capg_session,
    slice: *mut capg_slice,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, session) = unsafe { (StructOut::required(slice, "slice")?, share(session, "session")?) };
        let mut state = session.enter()?;
        if !state.generated {
            return Err(Failure::invalid("the session has no generation; start one first"));
        }
        state.begin_slice();
        out.set(state.deliver());
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

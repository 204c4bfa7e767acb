//! Models.

use std::ffi::{c_char, c_void};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::budget::{self, capg_budget};
use super::error::{Failure, capg_error};
use super::handle::{Handle, release, share, share_optional};
use super::input::{optional_path, path};
use super::log::{CAPG_LOG_INFO, CAPG_LOG_WARNING, capg_log, logged};
use super::opened::{OnnxChoices, Opened};
use super::options::{Versioned, read};
use super::output::{HandleOut, Out, ViewOut};
use super::panic::guard;
use super::port::{Port, ports};
use super::reader::{HostSource, capg_reader};
use super::session::kv_format;
use super::status::capg_status;
use super::text::Utf8;
use super::threads::{capg_parallel_for_callback, thread_options};
use crate::generate::model::ModelOptions;
use crate::generate::session::SessionOptions;
use crate::onnx::model::{JOINED_BYTES, Prepack};
use crate::report::memory::MemorySampler;
use crate::store::budget::Budget;
use crate::store::{Mode, OpenOptions, Origin};

/// Run mode: exact; of a mini in a budget that all weights do not fit speculative, where that is expected to be faster and
/// leaves room for the session that the options name; of a mini whose full file cannot be reached fast. capg_model_mode says
/// what it came to.
pub const CAPG_MODE_AUTO: u32 = 0;
/// Run mode: every capsule at full precision.
pub const CAPG_MODE_EXACT: u32 = 1;
/// Run mode: only what the mini holds; the full file is never opened.
pub const CAPG_MODE_FAST: u32 = 2;
/// Run mode: the tokens of exact; the mini drafts some, and one pass at full precision verifies them together. Of a full
/// file, where there is no mini, text that repeats is all that is guessed to go on as before.
pub const CAPG_MODE_SPECULATIVE: u32 = 3;

/// Weights of an ONNX model are copied into the form that ONNX Runtime's kernels like best: of each capsule where it pays and
/// the budget has room.
pub const CAPG_PREPACK_AUTO: u32 = 0;
/// Of every capsule.
pub const CAPG_PREPACK_ON: u32 = 1;
/// Of none: all weights are used where they lie in the mapped file.
pub const CAPG_PREPACK_OFF: u32 = 2;

/// ONNX Runtime optimises the graph of each capsule.
pub const CAPG_OPTIMIZATION_DEFAULT: u32 = 0;
/// It does not: slower, and the bits of the outputs do not depend on how the model is cut.
pub const CAPG_OPTIMIZATION_OFF: u32 = 1;
/// Every capsule of an ONNX model has a session of its own.
pub const CAPG_JOINED_NONE: u64 = 1;

/// How to open a model. All zero but struct_size: the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct capg_model_options {
    /// sizeof(capg_model_options).
    pub struct_size: usize,
    /// Path of a mini's full file, UTF-8. Default: the file of the recorded name beside the mini.
    pub full_path: *const c_char,
    /// Its length in bytes.
    pub full_path_len: usize,
    /// The full file of a mini through the host; excludes full_path. Nullable.
    pub full_reader: *const capg_reader,
    /// Receives log lines, those of the model's sessions too. Nullable.
    pub log: *const capg_log,
    /// First byte of the model in its file, where it is part of a larger one (an archive).
    pub offset: u64,
    /// Bytes of the model in its file; 0: up to the file's end.
    pub length: u64,
    /// First byte of the full file in full_path.
    pub full_offset: u64,
    /// Bytes of the full file in full_path; 0: up to its end.
    pub full_length: u64,
    /// Upper bound in bytes on all memory that the library holds for the model and its sessions: weights, KV caches,
    /// activations, tables. 0: none, and the file is mapped. A bound that cannot work is CAPG_ERROR_LIMIT, from the call
    /// that needs more than there is; its message names the smallest one that can.
    pub memory_budget_bytes: u64,
    /// CAPG_MODE_*.
    pub mode: u32,
    /// Threads that compute, the caller's included; 0: one per entry of processors, else one per processor that the
    /// process may use. Those that the system refuses to start are missing, and capg_model_threads says how many
    /// there are. With parallel_for the greatest count that it is called with.
    pub threads: u32,
    /// Numbers of the processors that the library's threads may run on (the caller's thread stays as it is). One
    /// that the system does not allow, or that is named twice, is an error. Default: all.
    pub processors: *const u32,
    /// How many there are, at most 1024.
    pub processors_len: usize,
    /// Runs the parallel loops on the host's threads; the model then has none of its own, and processors and
    /// priority must be left out. It is called by every thread that computes with the model, by one at a time.
    /// Nullable.
    pub parallel_for: capg_parallel_for_callback,
    /// Handed to parallel_for.
    pub parallel_for_data: *mut c_void,
    /// CAPG_PRIORITY_* of the library's threads.
    pub priority: u32,
    /// Must be 0.
    pub reserved: u32,
    /// A budget that the model shares with others; excludes memory_budget_bytes. Nullable.
    pub budget: *const capg_budget,
    /// Index of the first capsule that is computed with here, where other processes have the others (capg_part_new): no
    /// other weights are held or count in a budget, but that a tied head reads the embedding's. 0 with end_capsule 0: all.
    pub first_capsule: u32,
    /// Index past the last one; at most capg_model_capsule_count.
    pub end_capsule: u32,
    /// Positions of the session that the model is opened for; 0: as many as a session has by default. Under a budget mode
    /// auto leaves room for it, and the message of CAPG_ERROR_LIMIT counts with it. Other sessions are possible.
    pub session_context: u32,
    /// CAPG_KV_* of that session.
    pub session_kv_type: u32,
    /// Of an ONNX model: path of ONNX Runtime's library, UTF-8, or of the folder that it is in. A process has one: another
    /// than the one that is loaded is CAPG_ERROR_INVALID_ARGUMENT when the model first runs. Default: it is looked for.
    pub onnxruntime_path: *const c_char,
    /// Its length in bytes.
    pub onnxruntime_path_len: usize,
    /// Of an ONNX model: CAPG_PREPACK_*.
    pub prepack: u32,
    /// Of an ONNX model: CAPG_OPTIMIZATION_*.
    pub optimization: u32,
    /// Of an ONNX model: bytes of weights up to which neighbouring capsules are computed by one session of ONNX Runtime; 0:
    /// 4 MiB; CAPG_JOINED_NONE: each has its own.
    pub joined_bytes: u64,
}

// SAFETY: integers, nullable pointers and nullable function pointers, without padding.
unsafe impl Versioned for capg_model_options {
    const NAME: &'static str = "capg_model_options";
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// An opened language model or ONNX model. Owned by the host, immutable, shared by any number of sessions on any threads.
pub struct capg_model {
    pub(super) model: Opened,
    pub(super) log: Option<Arc<capg_log>>,
    name: Utf8,
    mode_reason: Utf8,
    /// The capsules' ids, in the order of computation.
    pub(super) capsules: Vec<Utf8>,
    /// Inputs and outputs of an ONNX model.
    pub(super) ports: [Vec<Port>; 2],
    /// For reports of an ONNX model.
    pub(super) sampler: Mutex<MemorySampler>,
}

impl Handle for capg_model {}

impl capg_model {
    fn new(model: Opened, log: Option<Arc<capg_log>>) -> Self {
        let store = model.store();
        let manifest = store.manifest();
        Self {
            name: manifest.model.name.as_str().into(),
            mode_reason: store.mode_reason().into(),
            capsules: manifest.capsules.iter().map(|c| c.id.as_str().into()).collect(),
            ports: model.onnx().map(|onnx| ports(onnx)).unwrap_or_default(),
            sampler: Mutex::new(MemorySampler::new()),
            model,
            log,
        }
    }

    /// Writes what was opened into the log; that mode auto had to do without the full file is a warning.
    fn announce(&self, asked: Mode) {
        let Some(log) = &self.log else { return };
        let store = self.model.store();
        let level = match (asked, store.mode()) {
            (Mode::Auto, Mode::Fast) => CAPG_LOG_WARNING,
            _ => CAPG_LOG_INFO,
        };
        log.write(level, || {
            let (file, mode, reason) = (store.primary().name(), store.mode().name(), store.mode_reason());
            let backend = self.model.backend();
            let time = self.model.open_time().as_secs_f64() * 1e3;
            format!("{file} opened in {time:.1} ms: mode {mode} ({reason}), {backend}")
        });
    }
}

/// What the options say, and the readers that must be closed when the call ends.
struct Opening {
    options: ModelOptions,
    onnx: OnnxChoices,
    readers: Vec<Arc<HostSource>>,
}

impl Opening {
    /// # Safety
    /// What the options point to is valid.
    unsafe fn new(o: &capg_model_options) -> Result<Self, Failure> {
        let mode = match o.mode {
            CAPG_MODE_AUTO => Mode::Auto,
            CAPG_MODE_EXACT => Mode::Exact,
            CAPG_MODE_FAST => Mode::Fast,
            CAPG_MODE_SPECULATIVE => Mode::Speculative,
            other => return Err(Failure::invalid(format!("options.mode is {other}, no CAPG_MODE_*"))),
        };
        // SAFETY: passed on.
        let threads = unsafe { thread_options(o) }?;
        let mut readers = Vec::new();
        // SAFETY: passed on.
        let full_path = unsafe { optional_path(o.full_path, o.full_path_len, "options.full_path") }?;
        let full = match (full_path, o.full_reader.is_null()) {
            (Some(_), false) => {
                return Err(Failure::invalid("options.full_path and options.full_reader exclude each other"));
            }
            (Some(path), true) => Some(origin(path, o.full_offset, o.full_length)),
            (None, _) if o.full_offset != 0 || o.full_length != 0 => {
                return Err(Failure::invalid("options.full_offset and full_length need options.full_path"));
            }
            (None, true) => None,
            (None, false) => {
                // SAFETY: passed on.
                let reader = unsafe { HostSource::new(o.full_reader, "options.full_reader") }?;
                readers.push(Arc::clone(&reader));
                Some(Origin::Source(reader))
            }
        };
        // SAFETY: passed on.
        let budget = match (unsafe { budget::shared(o.budget) }, o.memory_budget_bytes) {
            (Some(_), 1..) => {
                return Err(Failure::invalid(
                    "options.budget and options.memory_budget_bytes exclude each other",
                ));
            }
            (Some(shared), 0) => Some(shared),
            (None, 0) => None,
            (None, bytes) => Some(Budget::new(bytes)),
        };
        let range = match (o.first_capsule, o.end_capsule) {
            (0, 0) => None,
            (first, end) => Some(first as usize..end as usize),
        };
        let store = OpenOptions { mode, full, budget, range, ..OpenOptions::default() };
        let session = SessionOptions {
            context: o.session_context as usize,
            kv_format: kv_format(o.session_kv_type, "options.session_kv_type")?,
            ..SessionOptions::default()
        };
        // SAFETY: passed on.
        let onnx = unsafe { onnx_choices(o) }?;
        Ok(Self { options: ModelOptions { store, threads, session }, onnx, readers })
    }

    /// Opens the model; the readers are closed whatever happens.
    fn open(self, origin: &Origin, log: Option<Arc<capg_log>>) -> Result<capg_model, Failure> {
        logged(log.as_ref(), || {
            let opened = Opened::open(origin, &self.options, &self.onnx);
            // All are closed before the first failure is looked at.
            let failures: Vec<Failure> = self.readers.iter().filter_map(|reader| reader.close()).collect();
            let failure = failures.into_iter().next();
            match (opened, failure) {
                (Ok(model), _) => {
                    let model = capg_model::new(model, log.clone());
                    model.announce(self.options.store.mode);
                    Ok(model)
                }
                (Err(_), Some(failure)) => Err(failure),
                (Err(error), None) => Err(error),
            }
        })
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        // Also where opening panicked: no reader survives the call.
        self.readers.iter().for_each(|reader| drop(reader.close()));
    }
}

/// # Safety
/// What the options point to is valid.
unsafe fn onnx_choices(o: &capg_model_options) -> Result<OnnxChoices, Failure> {
    let (path, len) = (o.onnxruntime_path, o.onnxruntime_path_len);
    // SAFETY: passed on.
    let runtime = unsafe { optional_path(path, len, "options.onnxruntime_path") }?;
    let prepack = match o.prepack {
        CAPG_PREPACK_AUTO => Prepack::Auto,
        CAPG_PREPACK_ON => Prepack::On,
        CAPG_PREPACK_OFF => Prepack::Off,
        other => return Err(Failure::invalid(format!("options.prepack is {other}, no CAPG_PREPACK_*"))),
    };
    let unoptimized = match o.optimization {
        CAPG_OPTIMIZATION_DEFAULT => false,
        CAPG_OPTIMIZATION_OFF => true,
        other => {
            return Err(Failure::invalid(format!("options.optimization is {other}, no CAPG_OPTIMIZATION_*")));
        }
    };
    let joined_bytes = match o.joined_bytes {
        0 => JOINED_BYTES,
        CAPG_JOINED_NONE => 0,
        bytes => bytes,
    };
    Ok(OnnxChoices { runtime, prepack, unoptimized, joined_bytes })
}

fn origin(path: PathBuf, offset: u64, length: u64) -> Origin {
    match (offset, length) {
        (0, 0) => Origin::Path(path),
        _ => Origin::Part(path, offset, length),
    }
}

/// Opens a full file, or a mini together with its full file (in mode fast without it), of a language model or an ONNX
/// model. Weights are mapped, not read. The files must not be truncated or overwritten while the model lives.
///
/// options: nullable. Errors: IO, MALFORMED, MISMATCH (the mode cannot be had from these files; mini and full do
/// not belong together), INVALID_ARGUMENT (a range of capsules that there is not), LIMIT (the budget), UNSUPPORTED.
/// Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_open(
    path: *const c_char,
    path_len: usize,
    options: *const capg_model_options,
    model: *mut *mut capg_model,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, file, o, opening, log) = unsafe {
            let out = HandleOut::required(model, "model")?;
            let file = self::path(path, path_len, "path")?;
            let o = read(options)?;
            (out, file, o, Opening::new(&o)?, share_optional(o.log))
        };
        out.set(opening.open(&origin(file, o.offset, o.length), log)?);
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// As capg_model_open, with the file read by the host: all of it, into memory, inside this call. options.offset
/// and options.length must be 0; a mini needs its full file named in the options, unless the mode is fast.
///
/// Errors: also HOST, with the number that the callback returned. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_open_reader(
    reader: *const capg_reader,
    options: *const capg_model_options,
    model: *mut *mut capg_model,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, source, o, mut opening, log) = unsafe {
            let out = HandleOut::required(model, "model")?;
            let source = HostSource::new(reader, "reader")?;
            let o = read(options)?;
            (out, source, o, Opening::new(&o)?, share_optional(o.log))
        };
        if o.offset != 0 || o.length != 0 {
            return Err(Failure::invalid("options.offset and options.length do not apply to a reader"));
        }
        opening.readers.push(Arc::clone(&source));
        out.set(opening.open(&Origin::Source(source), log)?);
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// # Safety
/// As every function: pointers are NULL or valid, handles live.
unsafe fn get<T: Copy>(
    model: *const capg_model,
    (place, name): (*mut T, &str),
    error: *mut *mut capg_error,
    value: impl FnOnce(&capg_model) -> Result<T, Failure>,
) -> capg_status {
    let body = || {
        // SAFETY: passed on.
        let (out, model) = unsafe { (Out::required(place, name)?, share(model, "model")?) };
        out.set(value(&model)?);
        Ok(())
    };
    // SAFETY: passed on.
    unsafe { guard(error, body) }
}

/// # Safety
/// As every function: pointers are NULL or valid, handles live.
unsafe fn get_text(
    model: *const capg_model,
    (data, len): (*mut *const c_char, *mut usize),
    error: *mut *mut capg_error,
    value: impl FnOnce(&capg_model) -> &Utf8,
) -> capg_status {
    let body = || {
        // SAFETY: passed on.
        let (out, model) =
            unsafe { (ViewOut::required(data, len, ["data", "len"])?, share(model, "model")?) };
        out.set(value(&model).view());
        Ok(())
    };
    // SAFETY: passed on.
    unsafe { guard(error, body) }
}

/// The mode in force: CAPG_MODE_EXACT, CAPG_MODE_FAST or CAPG_MODE_SPECULATIVE. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_mode(
    model: *const capg_model,
    mode: *mut u32,
    error: *mut *mut capg_error,
) -> capg_status {
    let value = |m: &capg_model| {
        Ok(match m.model.store().mode() {
            Mode::Auto => CAPG_MODE_AUTO,
            Mode::Exact => CAPG_MODE_EXACT,
            Mode::Fast => CAPG_MODE_FAST,
            Mode::Speculative => CAPG_MODE_SPECULATIVE,
        })
    };
    // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
    unsafe { get(model, (mode, "mode"), error, value) }
}

/// Why that mode was taken: a view, UTF-8, NUL-terminated, valid until the model is freed. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_mode_reason(
    model: *const capg_model,
    data: *mut *const c_char,
    len: *mut usize,
    error: *mut *mut capg_error,
) -> capg_status {
    // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
    unsafe { get_text(model, (data, len), error, |m| &m.mode_reason) }
}

/// The model's own name: a view, UTF-8, NUL-terminated, valid until the model is freed. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_name(
    model: *const capg_model,
    data: *mut *const c_char,
    len: *mut usize,
    error: *mut *mut capg_error,
) -> capg_status {
    // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
    unsafe { get_text(model, (data, len), error, |m| &m.name) }
}

/// Tokens of the vocabulary: ids are below it, and it is the width of a row of logits. Errors: UNSUPPORTED of an ONNX model.
/// Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_vocab_size(
    model: *const capg_model,
    count: *mut u32,
    error: *mut *mut capg_error,
) -> capg_status {
    // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
    unsafe { get(model, (count, "count"), error, |m| Ok(m.model.language()?.decoder().params().vocab_size)) }
}

/// Activations of a token between two capsules: the width of a row that capg_part_eval_activations takes. Errors:
/// UNSUPPORTED of an ONNX model. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_embedding_length(
    model: *const capg_model,
    count: *mut u32,
    error: *mut *mut capg_error,
) -> capg_status {
    // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
    unsafe {
        get(model, (count, "count"), error, |m| Ok(m.model.language()?.decoder().params().embedding_length))
    }
}

/// Positions that the model was trained for. Errors: UNSUPPORTED of an ONNX model. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_context_length(
    model: *const capg_model,
    count: *mut u32,
    error: *mut *mut capg_error,
) -> capg_status {
    // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
    unsafe {
        get(model, (count, "count"), error, |m| Ok(m.model.language()?.decoder().params().context_length))
    }
}

/// Threads that compute, the caller's included; fewer than were asked for where the system refused to start one. With
/// parallel_for the number that was asked for. Of an ONNX model those of ONNX Runtime, which is loaded where it was not.
/// Errors: those of loading it (capg_model_run). Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_threads(
    model: *const capg_model,
    count: *mut u32,
    error: *mut *mut capg_error,
) -> capg_status {
    // The number was given as a u32 or is that of the machine's processors.
    let value = |m: &capg_model| Ok(m.model.threads()? as u32);
    // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
    unsafe { get(model, (count, "count"), error, value) }
}

/// Anonymous memory that the model holds, in bytes: tables, the file where the host read it, and of an ONNX model what ONNX
/// Runtime holds for it between runs. Mapped files are the system's. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_held_bytes(
    model: *const capg_model,
    bytes: *mut u64,
    error: *mut *mut capg_error,
) -> capg_status {
    // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
    unsafe { get(model, (bytes, "bytes"), error, |m| Ok(m.model.held_bytes())) }
}

/// Whether the model has a chat template: 0 or 1. Errors: UNSUPPORTED of an ONNX model. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_has_chat_template(
    model: *const capg_model,
    has: *mut u32,
    error: *mut *mut capg_error,
) -> capg_status {
    // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
    unsafe { get(model, (has, "has"), error, |m| Ok(u32::from(m.model.language()?.has_chat_template()))) }
}

/// Whether the model ends its answer with this token: 0 or 1. Errors: UNSUPPORTED where it has no tokenizer.
/// Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_is_end_token(
    model: *const capg_model,
    id: u32,
    is_end: *mut u32,
    error: *mut *mut capg_error,
) -> capg_status {
    let value = |m: &capg_model| Ok(u32::from(m.model.language()?.tokenizer()?.is_end_of_generation(id)));
    // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
    unsafe { get(model, (is_end, "is_end"), error, value) }
}

/// Frees a model; does nothing for NULL. Its sessions and capsules stay usable and keep it in memory.
/// Thread class: free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_free(model: *mut capg_model) {
    // SAFETY: NULL or a handle that the host gives back, by contract.
    unsafe { release(model) };
}

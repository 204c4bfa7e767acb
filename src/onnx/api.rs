//! A thin safe layer over ONNX Runtime's C API: the process's environment, sessions, runs.
//!
//! Raw calls, because `ort`'s own session wants the weights in memory of its own and its environment has no setting for
//! how threads wait. Every call's status is looked at; enumerations of the runtime are read as numbers, as a later runtime
//! may answer with one that this crate does not know.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use ort::sys;

use super::arena::Arena;
use super::library::{self, Loaded, ZERO_COPY_MINOR};
use super::os;
use super::raw::{RawValue, TypeInfo};
use crate::error::{Error, Result};
use crate::store::mapped::SharedBytes;

/// Constants of this many bytes at most are computed when a session is made; larger ones would be copies of weights.
const FOLDED_BYTES: &str = "1048576";
/// The runtime's error code for a feature that it lacks.
const NOT_IMPLEMENTED: i32 = 9;
/// The runtime's error code for a wrong argument.
const INVALID_ARGUMENT: i32 = 2;

/// The runtime: its library, one environment with one pool of threads for all sessions. Lives as long as the process.
pub struct Runtime {
    api: &'static sys::OrtApi,
    env: NonNull<sys::OrtEnv>,
    memory: NonNull<sys::OrtMemoryInfo>,
    allocator: NonNull<sys::OrtAllocator>,
    arena: &'static Arena,
    version: String,
    minor: u32,
    loaded: Loaded,
    threads: usize,
}

// SAFETY: the environment, the memory info and the default allocator may be used from any thread by ONNX Runtime's contract,
// and nothing here is changed after it was made.
unsafe impl Send for Runtime {}
// SAFETY: as above.
unsafe impl Sync for Runtime {}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { version, loaded, threads, .. } = self;
        f.debug_struct("Runtime")
            .field("version", version)
            .field("loaded", loaded)
            .field("threads", threads)
            .finish_non_exhaustive()
    }
}

/// What the runtime answered to a call that failed.
#[derive(Clone, Debug)]
pub struct Refused {
    code: i32,
    message: String,
}

impl Refused {
    /// The library's error for it; `what` says what was attempted, as "run capsule segment.3 of FILE".
    pub fn error(self, what: &str) -> Error {
        let text = format!("cannot {what}: ONNX Runtime says: {}", self.message.trim());
        // It has no code for memory that the system refuses. What the first exception says of itself depends on the C++ library.
        const REFUSED: [&str; 3] = ["bad_alloc", "bad allocation", "Failed to allocate memory"];
        if REFUSED.iter().any(|said| self.message.contains(said)) {
            return Error::Limit(format!("{text} (the system has no memory for a value of this size)"));
        }
        match self.code {
            NOT_IMPLEMENTED => Error::Unsupported(text),
            INVALID_ARGUMENT => Error::InvalidArgument(text),
            _ => Error::Mismatch(text),
        }
    }
}

/// A call that succeeded gave nothing.
pub(super) fn nothing() -> Refused {
    Refused { code: 1, message: "it gave nothing".into() }
}

/// The result of a call of the runtime.
pub type Answer<T = ()> = Result<T, Refused>;

static RUNTIME: OnceLock<Runtime> = OnceLock::new();

impl Runtime {
    /// The runtime: loaded and started now, where it is not yet, with `threads` that compute (0: one per processor). The
    /// threads are those of the first call.
    ///
    /// # Errors
    /// Those of [`library::load`]; [`Error::Unsupported`] where the runtime does not start.
    pub fn get(named: Option<&Path>, threads: usize) -> Result<&'static Self> {
        static START: Mutex<()> = Mutex::new(());
        let _one_at_a_time = START.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = library::load(named)?;
        if let Some(runtime) = RUNTIME.get() {
            return Ok(runtime);
        }
        let started = Self::start(loaded, threads)?;
        Ok(RUNTIME.get_or_init(|| started))
    }

    /// The runtime, where it is started.
    pub fn started() -> Option<&'static Self> {
        RUNTIME.get()
    }

    fn start(loaded: Loaded, threads: usize) -> Result<Self> {
        // The library was loaded and its version is new enough, so `ort` finds the table of functions.
        let api = ort::api();
        let all = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = if threads == 0 { all() } else { threads };
        let version = loaded.version.clone();
        let minor = version.split('.').nth(1).and_then(|part| part.parse().ok()).unwrap_or(0);
        let what = format!("start ONNX Runtime ({})", loaded.path.display());
        let started = start_environment(api, threads).map_err(|refused| refused.error(&what))?;
        let (env, memory, allocator, arena) = started;
        Ok(Self { api, env, memory, allocator, arena, version, minor, loaded, threads })
    }

    /// The runtime's version, as "1.31.1".
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Where its library was found.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Whether it computes with weights where they lie; else it copies them.
    pub fn is_zero_copy(&self) -> bool {
        self.minor >= ZERO_COPY_MINOR
    }

    pub(super) fn api(&self) -> &'static sys::OrtApi {
        self.api
    }

    pub(super) fn memory(&self) -> *const sys::OrtMemoryInfo {
        self.memory.as_ptr()
    }

    pub(super) fn allocator(&self) -> *mut sys::OrtAllocator {
        self.allocator.as_ptr()
    }

    /// What all sessions compute in.
    pub(super) fn arena(&self) -> &'static Arena {
        self.arena
    }

    /// Looks at what a call answered.
    pub(super) fn check(&self, status: sys::OrtStatusPtr) -> Answer {
        check(self.api, status)
    }
}

/// Looks at what a call answered, and frees it.
fn check(api: &sys::OrtApi, status: sys::OrtStatusPtr) -> Answer {
    if status.0.is_null() {
        return Ok(());
    }
    // SAFETY: the signature differs in its result alone, a C enumeration of 32 bits, which is read as a number because a
    // later runtime may give one that the crate's enumeration lacks.
    let code_of: unsafe extern "system" fn(*const sys::OrtStatus) -> i32 =
        unsafe { std::mem::transmute(api.GetErrorCode) };
    // SAFETY: the status is live; its message is a NUL-terminated string that lives as long as it; it is freed once.
    unsafe {
        let message = text_at((api.GetErrorMessage)(status.0));
        let code = code_of(status.0);
        (api.ReleaseStatus)(status.0);
        Err(Refused { code, message })
    }
}

/// A C string as text.
///
/// # Safety
/// `text` is NULL or a NUL-terminated string.
unsafe fn text_at(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by this function's contract.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

type Started =
    (NonNull<sys::OrtEnv>, NonNull<sys::OrtMemoryInfo>, NonNull<sys::OrtAllocator>, &'static Arena);

fn start_environment(api: &sys::OrtApi, threads: usize) -> Answer<Started> {
    let mut options = ptr::null_mut();
    // SAFETY: every pointer that is handed over is valid for the call; the environment keeps none of them; what is made is
    // checked before it is used and lives to the end of the process, but the threading options, which are released, and
    // what a failure leaves without a use.
    unsafe {
        check(api, (api.CreateThreadingOptions)(&raw mut options))?;
        let count = c_int::try_from(threads).unwrap_or(c_int::MAX);
        let mut env = ptr::null_mut();
        let made = check(api, (api.SetGlobalIntraOpNumThreads)(options, count))
            .and_then(|()| check(api, (api.SetGlobalInterOpNumThreads)(options, 1)))
            // Threads may wait actively within a run; sessions end that when their last run returns.
            .and_then(|()| check(api, (api.SetGlobalSpinControl)(options, 1)))
            .and_then(|()| {
                let level = sys::OrtLoggingLevel::ORT_LOGGING_LEVEL_FATAL;
                let name = c"capsulegraph".as_ptr();
                let create = api.CreateEnvWithCustomLoggerAndGlobalThreadPools;
                check(api, create(discard, ptr::null_mut(), level, name, options, &raw mut env))
            });
        (api.ReleaseThreadingOptions)(options);
        made?;
        let (mut memory, mut allocator) = (ptr::null_mut(), ptr::null_mut());
        let (kind, place) = (sys::OrtAllocatorType::OrtDeviceAllocator, sys::OrtMemType::OrtMemTypeDefault);
        let made = check(api, (api.DisableTelemetryEvents)(env))
            .and_then(|()| check(api, (api.CreateCpuMemoryInfo)(kind, place, &raw mut memory)))
            .and_then(|()| check(api, (api.GetAllocatorWithDefaultOptions)(&raw mut allocator)));
        let arena = Arena::leaked(memory, allocator);
        let made = made.and_then(|()| check(api, (api.RegisterAllocator)(env, arena.as_ptr())));
        match (made, NonNull::new(env), NonNull::new(memory), NonNull::new(allocator)) {
            (Ok(()), Some(env), Some(memory), Some(allocator)) => Ok((env, memory, allocator, arena)),
            (made, env, memory, _) => {
                memory.into_iter().for_each(|memory| (api.ReleaseMemoryInfo)(memory.as_ptr()));
                env.into_iter().for_each(|env| (api.ReleaseEnv)(env.as_ptr()));
                Err(made.err().unwrap_or_else(nothing))
            }
        }
    }
}

/// The runtime writes its log to stderr unless it is given somebody who takes it. Errors come as statuses.
unsafe extern "system" fn discard(
    _: *mut c_void,
    _: sys::OrtLoggingLevel,
    _: *const c_char,
    _: *const c_char,
    _: *const c_char,
    _: *const c_char,
) {
}

/// How a session is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionSettings {
    /// Whether the graph is optimised.
    pub optimization: bool,
    /// Whether weights are copied into the form that kernels like best.
    pub prepack: bool,
}

/// A region of memory that weights are in, under the name by which the model calls it.
#[derive(Clone, Debug)]
pub struct Region {
    /// The location in the model's external data.
    pub name: String,
    /// The bytes.
    pub bytes: SharedBytes,
}

/// A model that is ready to compute. It may run on several threads at once.
pub struct Session {
    runtime: &'static Runtime,
    session: NonNull<sys::OrtSession>,
    inputs: Vec<CString>,
    outputs: Vec<CString>,
    /// The weights, which the runtime reads where they are.
    _regions: Vec<Region>,
}

// SAFETY: sessions may be run from several threads at once by ONNX Runtime's contract, and be released on any.
unsafe impl Send for Session {}
// SAFETY: as above.
unsafe impl Sync for Session {}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("inputs", &self.inputs)
            .field("outputs", &self.outputs)
            .finish_non_exhaustive()
    }
}

/// Options of a session, freed when they are dropped.
struct Options<'a> {
    api: &'a sys::OrtApi,
    options: *mut sys::OrtSessionOptions,
}

impl Drop for Options<'_> {
    fn drop(&mut self) {
        // SAFETY: made by the API, freed once.
        unsafe { (self.api.ReleaseSessionOptions)(self.options) };
    }
}

impl<'a> Options<'a> {
    fn new(runtime: &'a Runtime, settings: SessionSettings) -> Answer<Self> {
        let api = runtime.api;
        let mut options = ptr::null_mut();
        // SAFETY: the result is ours.
        check(api, unsafe { (api.CreateSessionOptions)(&raw mut options) })?;
        let made = Self { api, options };
        let level = match (settings.optimization, settings.prepack) {
            (false, _) => sys::GraphOptimizationLevel::ORT_DISABLE_ALL,
            // The last level rewrites weights of convolutions into memory of its own.
            (true, true) => sys::GraphOptimizationLevel::ORT_ENABLE_ALL,
            (true, false) => sys::GraphOptimizationLevel::ORT_ENABLE_EXTENDED,
        };
        // SAFETY: the options are live, and the other arguments plain numbers.
        unsafe {
            check(api, (api.DisablePerSessionThreads)(options))?;
            check(api, (api.SetSessionGraphOptimizationLevel)(options, level))?;
            check(api, (api.SetSessionExecutionMode)(options, sys::ExecutionMode::ORT_SEQUENTIAL))?;
            check(api, (api.SetDeterministicCompute)(options, true))?;
            check(api, (api.SetSessionLogSeverityLevel)(options, 4))?;
        }
        made.set(c"session.use_external_initializer_file_buffers_directly", c"1")?;
        made.set(c"session.disable_prepacking", if settings.prepack { c"0" } else { c"1" })?;
        // Copies of weights lie beside the arena, whose blocks are not given back one by one.
        made.set(c"session.use_device_allocator_for_initializers", c"1")?;
        made.set(c"session.force_spinning_stop", c"1")?;
        made.set(c"session.use_env_allocators", c"1")?;
        let folded = CString::new(FOLDED_BYTES).unwrap_or_default();
        made.set(c"optimization.constant_folding_max_output_size_in_bytes", &folded)?;
        Ok(made)
    }

    fn set(&self, key: &CStr, value: &CStr) -> Answer {
        // SAFETY: both strings are NUL-terminated, and copied.
        check(self.api, unsafe {
            (self.api.AddSessionConfigEntry)(self.options, key.as_ptr(), value.as_ptr())
        })
    }

    /// Tells the runtime where the bytes of each location are.
    fn set_regions(&self, regions: &[Region]) -> Answer {
        if regions.is_empty() {
            return Ok(());
        }
        let names: Vec<Vec<sys::os_char>> =
            regions.iter().map(|region| os::runtime_string(&region.name)).collect();
        let pointers: Vec<*const sys::os_char> = names.iter().map(|name| name.as_ptr()).collect();
        // The runtime takes them as changeable and changes none: they are pages that cannot be written.
        let buffers: Vec<*mut c_char> =
            regions.iter().map(|region| region.bytes.as_ref().as_ptr().cast_mut().cast()).collect();
        let lengths: Vec<usize> = regions.iter().map(|region| region.bytes.as_ref().len()).collect();
        // SAFETY: as many names, buffers and lengths as are said; names are copied; the buffers live as long as the session,
        // which keeps the regions.
        check(self.api, unsafe {
            (self.api.AddExternalInitializersFromMemory)(
                self.options,
                pointers.as_ptr(),
                buffers.as_ptr(),
                lengths.as_ptr(),
                regions.len(),
            )
        })
    }
}

/// Names as C strings.
fn c_names(names: &[&str]) -> Answer<Vec<CString>> {
    let name = |name: &&str| {
        CString::new(*name).map_err(|_| Refused {
            code: INVALID_ARGUMENT,
            message: format!("the name {name:?} has a zero in it"),
        })
    };
    names.iter().map(name).collect()
}

impl Session {
    /// Makes a session of a serialized model, whose weights are in `regions`. It will be fed `inputs`, and asked for
    /// `outputs`.
    pub fn new(
        runtime: &'static Runtime,
        model: &[u8],
        regions: Vec<Region>,
        settings: SessionSettings,
        [inputs, outputs]: [&[&str]; 2],
    ) -> Answer<Self> {
        let options = Options::new(runtime, settings)?;
        options.set_regions(&regions)?;
        let (inputs, outputs) = (c_names(inputs)?, c_names(outputs)?);
        let mut session = ptr::null_mut();
        // SAFETY: the environment lives to the end of the process; the model's bytes are read during the call alone; the
        // options are live, and copied.
        runtime.check(unsafe {
            (runtime.api.CreateSessionFromArray)(
                runtime.env.as_ptr(),
                model.as_ptr().cast(),
                model.len(),
                options.options,
                &raw mut session,
            )
        })?;
        match NonNull::new(session) {
            Some(session) => Ok(Self { runtime, session, inputs, outputs, _regions: regions }),
            None => Err(nothing()),
        }
    }

    /// Computes: `fed` has a value for each input, in their order, NULL for one that is absent; what comes back are the outputs
    /// in theirs.
    pub(super) fn run(&self, options: &RunOptions, fed: &[*const sys::OrtValue]) -> Answer<Vec<RawValue>> {
        if fed.len() != self.inputs.len() {
            let message = format!("{} values for {} inputs", fed.len(), self.inputs.len());
            return Err(Refused { code: INVALID_ARGUMENT, message });
        }
        // The runtime takes an absent value as one that is not fed; fed, it is read as if it were there.
        let named = self.inputs.iter().map(|name| name.as_ptr()).zip(fed.iter().copied());
        let (inputs, fed): (Vec<*const c_char>, Vec<*const sys::OrtValue>) =
            named.filter(|(_, value)| !value.is_null()).unzip();
        let outputs: Vec<*const c_char> = self.outputs.iter().map(|name| name.as_ptr()).collect();
        let mut made: Vec<*mut sys::OrtValue> = vec![ptr::null_mut(); outputs.len()];
        // SAFETY: names and values are as many as is said and live through the call; the session may run on several threads;
        // the runtime fills each place of `made` with a value that is then ours.
        let answer = self.runtime.check(unsafe {
            (self.runtime.api.Run)(
                self.session.as_ptr(),
                options.options.as_ptr(),
                inputs.as_ptr(),
                fed.as_ptr(),
                fed.len(),
                outputs.as_ptr(),
                outputs.len(),
                made.as_mut_ptr(),
            )
        });
        let values: Vec<Option<RawValue>> =
            made.into_iter().map(|value| RawValue::new(self.runtime, value)).collect();
        answer?;
        values.into_iter().collect::<Option<Vec<_>>>().ok_or_else(nothing)
    }

    /// The type of output `index`, as the runtime found it.
    pub(super) fn output_type(&self, index: usize) -> Answer<TypeInfo> {
        let mut info = ptr::null_mut();
        let api = self.runtime.api;
        // SAFETY: the session is live; the runtime checks the index.
        let status = unsafe { (api.SessionGetOutputTypeInfo)(self.session.as_ptr(), index, &raw mut info) };
        self.runtime.check(status)?;
        // SAFETY: the runtime made it for us.
        Ok(unsafe { TypeInfo::new(self.runtime, info) })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: made by the API, freed once; whoever runs it borrows it.
        unsafe { (self.runtime.api.ReleaseSession)(self.session.as_ptr()) };
    }
}

/// Options of a run, through which it can be stopped.
pub struct RunOptions {
    runtime: &'static Runtime,
    options: NonNull<sys::OrtRunOptions>,
}

// SAFETY: the runtime reads the flag that stops a run while another thread sets it, which is what it is for; nothing else of
// the options is changed after they were made.
unsafe impl Send for RunOptions {}
// SAFETY: as above.
unsafe impl Sync for RunOptions {}

impl RunOptions {
    /// Options of a run that nothing stops yet.
    pub fn new(runtime: &'static Runtime) -> Answer<Self> {
        let mut options = ptr::null_mut();
        // SAFETY: the result is ours.
        runtime.check(unsafe { (runtime.api.CreateRunOptions)(&raw mut options) })?;
        let made = Self { runtime, options: NonNull::new(options).ok_or_else(nothing)? };
        // SAFETY: the options are live.
        runtime.check(unsafe { (runtime.api.RunOptionsSetRunLogSeverityLevel)(made.options.as_ptr(), 4) })?;
        Ok(made)
    }

    /// Options of runs that nothing stops, the same for all.
    pub fn unstopped(runtime: &'static Runtime) -> Answer<Arc<Self>> {
        static UNSTOPPED: OnceLock<Arc<RunOptions>> = OnceLock::new();
        if let Some(options) = UNSTOPPED.get() {
            return Ok(Arc::clone(options));
        }
        let made = Arc::new(Self::new(runtime)?);
        Ok(Arc::clone(UNSTOPPED.get_or_init(|| made)))
    }

    /// Stops the runs with these options, those to come too.
    pub fn terminate(&self) {
        // SAFETY: the options are live. That it cannot be set is nothing that a caller could change: the run ends as usual.
        let _ =
            self.runtime.check(unsafe { (self.runtime.api.RunOptionsSetTerminate)(self.options.as_ptr()) });
    }
}

impl Drop for RunOptions {
    fn drop(&mut self) {
        // SAFETY: made by the API, freed once.
        unsafe { (self.runtime.api.ReleaseRunOptions)(self.options.as_ptr()) };
    }
}

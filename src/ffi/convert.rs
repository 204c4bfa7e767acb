//! Conversion of a source model.

use std::ffi::{c_char, c_void};

use serde::Serialize;

use super::cancel::{capg_cancel, token};
use super::error::{Failure, capg_error};
use super::handle::share_optional;
use super::input::{flag, optional_path, optional_text, path};
use super::log::{CAPG_LOG_INFO, capg_log, logged};
use super::options::{Versioned, read};
use super::output::HandleOut;
use super::panic::guard;
use super::status::{CAPG_ERROR_INTERNAL, capg_status};
use super::text::capg_text;
use crate::convert::import::{ConvertOptions, Planes};
use crate::convert::onnx::cut::CutOptions;
use crate::split::SplitOptions;
use crate::split::job::{Phase, Targets, produce};
use crate::split::plan::Light;

/// Progress phase: the full file is being written.
pub const CAPG_PHASE_CONVERT: u32 = 1;
/// Progress phase: the mini is being written.
pub const CAPG_PHASE_SPLIT: u32 = 2;
/// Progress phase: a file is being read and checked, or rebuilt.
pub const CAPG_PHASE_VERIFY: u32 = 3;

/// Receives the progress of a job: CAPG_PHASE_*, bytes done, bytes in all. To stop the job, trigger its cancel
/// token here.
pub type capg_progress_callback =
    Option<unsafe extern "C" fn(user_data: *mut c_void, phase: u32, done: u64, total: u64)>;

/// How to convert. All zero but struct_size: the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct capg_convert_options {
    /// sizeof(capg_convert_options).
    pub struct_size: usize,
    /// Path of the mini, UTF-8. Default: the target's name with .mini.cgraph.
    pub mini_path: *const c_char,
    /// Its length in bytes.
    pub mini_path_len: usize,
    /// Light forms that the mini may use: "auto" (default), "none", or the name of an encoding.
    pub light: *const c_char,
    /// Its length in bytes.
    pub light_len: usize,
    /// Text on which the agreement of mini and full file is measured; of an ONNX model lines of NAME=FILE.npy, one or more for
    /// each input. Default: a bundled sample, for small models; of an ONNX model random inputs.
    pub calibrate: *const c_char,
    /// Its length in bytes.
    pub calibrate_len: usize,
    /// Stops the job; no file is left half-written, and a full file that was done before its mini stays. Nullable.
    pub cancel: *const capg_cancel,
    /// Receives log lines. Nullable.
    pub log: *const capg_log,
    /// Receives the progress. Nullable.
    pub progress: capg_progress_callback,
    /// Handed to progress.
    pub progress_user_data: *mut c_void,
    /// Length of the mini at most, in bytes. Default: by the precision of the model.
    pub mini_bytes: u64,
    /// 1: write no mini.
    pub no_mini: u32,
    /// How weights are stored, CAPG_PLANES_*. Default: CAPG_PLANES_AUTO.
    pub planes: u32,
    /// Of an ONNX model: bytes of weights in a capsule at most, where the graph can be cut so. Default: 32 MiB.
    pub capsule_bytes: u64,
    /// Of an ONNX model: number of capsules, or as many as its graph can be cut into. Default: by capsule_bytes.
    pub capsule_count: u32,
    /// Of an ONNX model: how far the mini's outputs may be from the full file's, relative to their own. Default: 0.05.
    pub max_error: f32,
    /// To measure the mini of an ONNX model with: path of ONNX Runtime's library or its folder. Default: it is looked for.
    pub onnxruntime_path: *const c_char,
    /// Its length in bytes.
    pub onnxruntime_path_len: usize,
}

/// Weights are divided into two planes where a mini is made with the full file and light is "auto": others hold no first
/// planes.
pub const CAPG_PLANES_AUTO: u32 = 0;
/// Weights are stored as kernels read them.
pub const CAPG_PLANES_WHOLE: u32 = 1;
/// Weights are divided where their encoding can be: a mini can then hold the first planes, and drafts cost the passes of a
/// budget fewer bytes. Without a budget computing takes somewhat longer.
pub const CAPG_PLANES_DIVIDED: u32 = 2;

// SAFETY: integers, nullable pointers and nullable function pointers, without padding.
unsafe impl Versioned for capg_convert_options {
    const NAME: &'static str = "capg_convert_options";
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// A progress callback with what it is called with.
#[derive(Clone, Copy)]
pub(super) struct Progress {
    pub callback: capg_progress_callback,
    pub user_data: *mut c_void,
}

impl Progress {
    /// Tells the host; on its own thread, since jobs report on the thread that runs them.
    pub fn report(self, phase: u32, done: u64, total: u64) {
        if let Some(callback) = self.callback {
            // SAFETY: the host's function, called inside the host's call.
            unsafe { callback(self.user_data, phase, done, total) };
        }
    }
}

/// The split options that convert and split have in common, as the host gave them.
pub(super) struct Splitting {
    pub light: (*const c_char, usize),
    pub calibrate: (*const c_char, usize),
    pub runtime: (*const c_char, usize),
    pub cancel: *const capg_cancel,
    pub size: u64,
    pub max_error: f32,
}

/// Takes them out of options whose fields have these names.
macro_rules! splitting {
    ($options:expr) => {
        $crate::ffi::convert::Splitting {
            light: ($options.light, $options.light_len),
            calibrate: ($options.calibrate, $options.calibrate_len),
            runtime: ($options.onnxruntime_path, $options.onnxruntime_path_len),
            cancel: $options.cancel,
            size: $options.mini_bytes,
            max_error: $options.max_error,
        }
    };
}
pub(super) use splitting;

/// Reads them.
///
/// # Safety
/// The strings and the handle are NULL or valid.
pub(super) unsafe fn split_options(o: &Splitting) -> Result<SplitOptions, Failure> {
    let Splitting { size, max_error, .. } = *o;
    // SAFETY: passed on.
    let (light, calibrate, runtime, cancel) = unsafe {
        let light = optional_text(o.light.0, o.light.1, "options.light")?;
        let calibrate = optional_text(o.calibrate.0, o.calibrate.1, "options.calibrate")?;
        let runtime = optional_path(o.runtime.0, o.runtime.1, "options.onnxruntime_path")?;
        (light, calibrate, runtime, token(o.cancel))
    };
    if !(max_error.is_finite() && max_error >= 0.0) {
        return Err(Failure::invalid(format!("options.max_error is {max_error}; it must be 0 or more")));
    }
    let light = light.map(str::parse).transpose()?.unwrap_or(Light::Auto);
    Ok(SplitOptions {
        size,
        light,
        calibrate: calibrate.map(str::to_owned),
        max_error: Some(f64::from(max_error)).filter(|most| *most > 0.0),
        runtime,
        cancel,
        ..SplitOptions::default()
    })
}

/// One JSON object with a line feed at its end.
pub(super) fn json(value: &impl Serialize) -> Result<capg_text, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|e| {
        Failure::new(CAPG_ERROR_INTERNAL, format!("internal error: a result is no JSON: {e}"))
    })?;
    Ok(capg_text::from(text + "\n"))
}

/// Converts the model at source (GGUF, any shard of a sharded one, or ONNX) to a full .cgraph file and, unless no_mini,
/// derives its mini. Files appear whole under their names or not at all; weights are stored without loss.
///
/// target may be (NULL, 0): the source's name with .cgraph. options: nullable. summary (nullable) receives a JSON
/// object about the files written. Errors: IO, MALFORMED, UNSUPPORTED (a kind of model that cannot be run yet),
/// LIMIT (naming the smallest possible mini), CANCELLED; of an ONNX model those of running it
/// (capg_model_run) where its mini is measured. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_convert(
    source: *const c_char,
    source_len: usize,
    target: *const c_char,
    target_len: usize,
    options: *const capg_convert_options,
    summary: *mut *mut capg_text,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, source, target, o) = unsafe {
            let out = HandleOut::nullable(summary);
            let source = path(source, source_len, "source")?;
            (out, source, optional_path(target, target_len, "target")?, read(options)?)
        };
        // SAFETY: as above, for what the options point to.
        let (mini, split, log) = unsafe {
            let split = split_options(&splitting!(o))?;
            (optional_path(o.mini_path, o.mini_path_len, "options.mini_path")?, split, share_optional(o.log))
        };
        let planes = match o.planes {
            CAPG_PLANES_AUTO => Planes::Auto,
            CAPG_PLANES_WHOLE => Planes::Whole,
            CAPG_PLANES_DIVIDED => Planes::Divided,
            other => {
                return Err(Failure::invalid(format!(
                    "options.planes is {other}; CAPG_PLANES_* go from 0 to 2"
                )));
            }
        };
        let no_mini = flag(o.no_mini, "options.no_mini")?;
        if no_mini && mini.is_some() {
            return Err(Failure::invalid("options.mini_path and options.no_mini contradict each other"));
        }
        let targets = Targets::new(&source, target.as_deref(), mini.as_deref(), no_mini);
        let by_size = CutOptions::default().capsule_bytes;
        let cut = CutOptions {
            capsule_bytes: if o.capsule_bytes == 0 { by_size } else { o.capsule_bytes },
            capsules: Some(o.capsule_count as usize).filter(|count| *count > 0),
        };
        let convert =
            ConvertOptions { planes, cut, cancel: split.cancel.clone(), ..ConvertOptions::default() };
        let host = Progress { callback: o.progress, user_data: o.progress_user_data };
        let mut progress = |phase, done, total| match phase {
            Phase::Convert => host.report(CAPG_PHASE_CONVERT, done, total),
            Phase::Split => host.report(CAPG_PHASE_SPLIT, done, total),
        };
        let produced =
            logged(log.as_ref(), || Ok(produce(&source, &targets, &convert, &split, &mut progress)?))?;
        if let Some(log) = &log {
            log.write(CAPG_LOG_INFO, || {
                let full = &produced.full;
                format!("{} written: {} bytes, {} capsules", full.path.display(), full.bytes, full.capsules)
            });
        }
        out.set(json(&produced)?);
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

//! Capsules taken out of a model.

use std::borrow::Cow;
use std::ffi::{c_char, c_void};

use super::error::{Failure, capg_error};
use super::handle::{Handle, release, share};
use super::input::text;
use super::log::CAPG_LOG_DEBUG;
use super::model::capg_model;
use super::opened::Opened;
use super::options::StructOut;
use super::options::Versioned;
use super::output::{HandleOut, Out, ViewOut};
use super::panic::guard;
use super::status::{CAPG_ERROR_NOT_FOUND, capg_status};
use super::text::Utf8;
use crate::store::budget::Claim;
use crate::store::fetch::{FetchLayout, FetchedCapsule, FetchedTensor};

/// Layout: row after row in the encoding that the file holds. At full precision these are the source's own bytes; in mode
/// fast they are in the mini's own form, which may be coarser.
pub const CAPG_LAYOUT_SOURCE: u32 = 0;
/// Layout: as kernels read them: matrices packed, the two planes of a divided tensor joined.
pub const CAPG_LAYOUT_STORED: u32 = 1;
/// Layout: decoded to floats, row after row.
pub const CAPG_LAYOUT_F32: u32 = 2;

/// A capsule's tensors. Owned by the host, immutable; keeps its model in memory.
pub struct capg_capsule {
    precision: Utf8,
    tensors: Vec<Tensor>,
    /// What the tensors take of a budget.
    _claim: Option<Claim>,
    /// Keeps mapped tensors where they are.
    _model: Opened,
}

impl capg_capsule {
    pub(super) fn new(fetched: FetchedCapsule<'_>, model: &Opened) -> Self {
        Self {
            precision: fetched.precision.into(),
            tensors: fetched.tensors.into_iter().map(Tensor::from).collect(),
            _claim: fetched.claim,
            _model: model.clone(),
        }
    }
}

impl Handle for capg_capsule {}

struct Tensor {
    name: Utf8,
    encoding: Utf8,
    layout: Utf8,
    shape: Vec<u64>,
    data: Data,
}

enum Data {
    /// Bytes of the model's mapped file.
    Mapped(*const u8, usize),
    Owned(Vec<u8>),
    /// Decoded floats, where their bytes were not aligned.
    Floats(Vec<f32>),
}

// SAFETY: `Mapped` points to read-only memory that `capg_capsule::_model` keeps; all else is plain data.
unsafe impl Send for Data {}
// SAFETY: as for `Send`; nothing is ever changed.
unsafe impl Sync for Data {}

impl Data {
    fn view(&self) -> (*const u8, usize) {
        match self {
            Self::Mapped(data, len) => (*data, *len),
            Self::Owned(bytes) => (bytes.as_ptr(), bytes.len()),
            Self::Floats(floats) => (floats.as_ptr().cast(), size_of_val(floats.as_slice())),
        }
    }
}

impl From<FetchedTensor<'_>> for Tensor {
    fn from(tensor: FetchedTensor<'_>) -> Self {
        let aligned = tensor.bytes.as_ptr().cast::<f32>().is_aligned();
        let data = match tensor.bytes {
            bytes if tensor.encoding == "f32" && !aligned => {
                let values = bytes.chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
                Data::Floats(values.collect())
            }
            Cow::Borrowed(bytes) => Data::Mapped(bytes.as_ptr(), bytes.len()),
            Cow::Owned(bytes) => Data::Owned(bytes),
        };
        Self {
            name: tensor.name.into(),
            encoding: tensor.encoding.into(),
            layout: tensor.layout.into(),
            shape: tensor.shape.to_vec(),
            data,
        }
    }
}

/// A tensor of a capsule. The host sets struct_size, the library the rest. Pointers are views of the capsule,
/// valid until it is freed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct capg_tensor_view {
    /// sizeof(capg_tensor_view), set by the host.
    pub struct_size: usize,
    /// Name, UTF-8, NUL-terminated.
    pub name: *const c_char,
    /// Its length in bytes.
    pub name_len: usize,
    /// How the elements are stored: "f32", "f16", "q4_k", ...
    pub encoding: *const c_char,
    /// Its length in bytes.
    pub encoding_len: usize,
    /// How rows are arranged: "rows", "packed8" (only with CAPG_LAYOUT_STORED), or "plain" (of an ONNX model).
    pub layout: *const c_char,
    /// Its length in bytes.
    pub layout_len: usize,
    /// Extents in elements, outermost first.
    pub shape: *const u64,
    /// Number of extents.
    pub dimensions: usize,
    /// The bytes, little-endian; of encoding "f32" aligned to 4 bytes, else of any alignment.
    pub data: *const c_void,
    /// Their number.
    pub data_len: usize,
}

// SAFETY: integers and nullable pointers, without padding.
unsafe impl Versioned for capg_tensor_view {
    const NAME: &'static str = "capg_tensor_view";
    const FIRST_SIZE: usize = size_of::<Self>();
}

fn out_of_range(what: &str, index: usize, count: usize) -> Failure {
    Failure::new(CAPG_ERROR_NOT_FOUND, format!("there is no {what} number {index}; there are {count}"))
}

pub(super) fn fetch_layout(layout: u32) -> Result<FetchLayout, Failure> {
    match layout {
        CAPG_LAYOUT_SOURCE => Ok(FetchLayout::Source),
        CAPG_LAYOUT_STORED => Ok(FetchLayout::Stored),
        CAPG_LAYOUT_F32 => Ok(FetchLayout::F32),
        other => Err(Failure::invalid(format!("layout is {other}, no CAPG_LAYOUT_*"))),
    }
}

/// Number of capsules, in the order of computation. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_capsule_count(
    model: *const capg_model,
    count: *mut usize,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, model) = unsafe { (Out::required(count, "count")?, share(model, "model")?) };
        out.set(model.capsules.len());
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// The id of capsule number index, such as "block.0.attn": a view, UTF-8, NUL-terminated, valid until the model is
/// freed. Errors: NOT_FOUND. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_capsule_id(
    model: *const capg_model,
    index: usize,
    data: *mut *const c_char,
    len: *mut usize,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, model) =
            unsafe { (ViewOut::required(data, len, ["data", "len"])?, share(model, "model")?) };
        let count = model.capsules.len();
        let id = model.capsules.get(index).ok_or_else(|| out_of_range("capsule", index, count))?;
        out.set(id.view());
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Takes a capsule out: as the mini holds it in mode fast, at full precision in every other mode. Every tensor is held
/// against its checksum. layout: CAPG_LAYOUT_*. Errors: NOT_FOUND, CORRUPT naming the tensor, LIMIT (the budget). Thread
/// class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_fetch(
    model: *const capg_model,
    id: *const c_char,
    id_len: usize,
    layout: u32,
    capsule: *mut *mut capg_capsule,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, model, id) = unsafe {
            let out = HandleOut::required(capsule, "capsule")?;
            (out, share(model, "model")?, text(id, id_len, "id")?)
        };
        let layout = fetch_layout(layout)?;
        let fetched = model.model.store().fetch(id, layout)?;
        if let Some(log) = &model.log {
            log.write(CAPG_LOG_DEBUG, || {
                format!("capsule {id} fetched from {} ({})", fetched.file, fetched.precision)
            });
        }
        out.set(capg_capsule::new(fetched, &model.model));
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// What the capsule came as: "full", "pinned" (bit for bit, out of the mini), "light" (the mini's copy of lower precision)
/// or "nested" (the mini's first planes). A view, UTF-8, NUL-terminated, valid until the capsule is freed. Thread class:
/// any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_capsule_precision(
    capsule: *const capg_capsule,
    data: *mut *const c_char,
    len: *mut usize,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, capsule) =
            unsafe { (ViewOut::required(data, len, ["data", "len"])?, share(capsule, "capsule")?) };
        out.set(capsule.precision.view());
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Number of tensors, in the order of use. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_capsule_tensor_count(
    capsule: *const capg_capsule,
    count: *mut usize,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, capsule) = unsafe { (Out::required(count, "count")?, share(capsule, "capsule")?) };
        out.set(capsule.tensors.len());
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Tensor number index. Errors: NOT_FOUND. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_capsule_tensor(
    capsule: *const capg_capsule,
    index: usize,
    tensor: *mut capg_tensor_view,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, capsule) = unsafe { (StructOut::required(tensor, "tensor")?, share(capsule, "capsule")?) };
        let count = capsule.tensors.len();
        let tensor = capsule.tensors.get(index).ok_or_else(|| out_of_range("tensor", index, count))?;
        let ((name, name_len), (encoding, encoding_len)) = (tensor.name.view(), tensor.encoding.view());
        let ((layout, layout_len), (data, data_len)) = (tensor.layout.view(), tensor.data.view());
        out.set(capg_tensor_view {
            struct_size: 0, // the host's stays
            name,
            name_len,
            encoding,
            encoding_len,
            layout,
            layout_len,
            shape: tensor.shape.as_ptr(),
            dimensions: tensor.shape.len(),
            data: data.cast(),
            data_len,
        });
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Frees a capsule; does nothing for NULL. Thread class: free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_capsule_free(capsule: *mut capg_capsule) {
    // SAFETY: NULL or a handle that the host gives back, by contract.
    unsafe { release(capsule) };
}

//! Values that go into a model and come out of it.

use std::ffi::{c_int, c_void};
use std::marker::PhantomData;
use std::ptr;
use std::sync::{Arc, OnceLock};

use ort::sys;

use super::api::{self, Answer, Runtime};
use super::raw::{self, RawValue};
use crate::error::{Error, Result};
use crate::graph::element::ElementType;
use crate::graph::onnx::OnnxKind;

/// A tensor that the caller holds.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    /// The element type.
    pub element: ElementType,
    /// Dimensions, outermost first; none of a single element.
    pub shape: &'a [u64],
    /// The elements.
    pub data: TensorData<'a>,
}

/// Elements of a tensor, in row-major order.
#[derive(Clone, Copy, Debug)]
pub enum TensorData<'a> {
    /// Of every type but strings: little-endian; two or four to a byte where an element has less than one, the first in the
    /// low bits.
    Bytes(&'a [u8]),
    /// Strings; ONNX's are UTF-8 by convention, and any bytes are kept.
    Strings(&'a [&'a [u8]]),
}

/// What a model is fed with under one name.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A tensor that the caller holds: read where it is, not copied.
    Tensor(TensorView<'a>),
    /// A value that a model gave, or that was made of tensors.
    Value(&'a Value),
}

/// A value that owns its memory, as models give them. It never changes; clones share it, and any thread may read it.
#[derive(Clone)]
pub struct Value(Arc<Owned>);

struct Owned {
    raw: RawValue,
    kind: OnnxKind,
    /// The runtime's kind is another one for what an optional value holds: whether it holds any.
    present: bool,
    element: Option<ElementType>,
    shape: Vec<u64>,
    /// The elements of a tensor of a fixed-size type.
    data: *const u8,
    len: usize,
    /// Made when they are first asked for.
    strings: OnceLock<Vec<Vec<u8>>>,
    items: OnceLock<Vec<Value>>,
}

// SAFETY: `data` points into `raw`, which is `Send` and `Sync`; nobody writes there once the value is made.
unsafe impl Send for Owned {}
// SAFETY: as above.
unsafe impl Sync for Owned {}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Value")
            .field("kind", &self.0.kind)
            .field("element", &self.0.element)
            .field("shape", &self.0.shape)
            .finish_non_exhaustive()
    }
}

impl Value {
    /// A tensor of the runtime's own, filled with a copy of `view`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where elements and shape do not belong together; [`Error::Unsupported`] where the runtime has
    /// no such type.
    pub fn tensor(runtime: &'static Runtime, view: &TensorView<'_>) -> Result<Self> {
        check_view("a tensor", view)?;
        let raw = owned_tensor(runtime, view).map_err(|refused| refused.error("make a tensor"))?;
        Self::of(raw).map_err(|refused| refused.error("look at a tensor"))
    }

    /// A sequence of at least one value, all of one type.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where there is none or the runtime refuses them.
    pub fn sequence(runtime: &'static Runtime, items: &[Self]) -> Result<Self> {
        if items.is_empty() {
            let why = "an empty sequence needs the type of what it does not hold; make it with OnnxModel::empty_input";
            return Err(Error::InvalidArgument(why.into()));
        }
        Self::compound(runtime, sys::ONNXType::ONNX_TYPE_SEQUENCE, items)
    }

    /// A map: a tensor of keys (int64 or strings), and one of as many values.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the runtime refuses them.
    pub fn map(runtime: &'static Runtime, keys: Self, values: Self) -> Result<Self> {
        Self::compound(runtime, sys::ONNXType::ONNX_TYPE_MAP, &[keys, values])
    }

    fn compound(runtime: &'static Runtime, kind: sys::ONNXType, items: &[Self]) -> Result<Self> {
        let pointers: Vec<*const sys::OrtValue> =
            items.iter().map(|item| item.raw().as_ptr().cast_const()).collect();
        let mut made = ptr::null_mut();
        // SAFETY: as many live values as is said; the runtime shares or copies them.
        let answer = runtime.check(unsafe {
            (runtime.api().CreateValue)(pointers.as_ptr(), pointers.len(), kind, &raw mut made)
        });
        let value = answer.and_then(|()| Self::of(RawValue::new(runtime, made).ok_or_else(api::nothing)?));
        value.map_err(|refused| refused.error("join values"))
    }

    /// What the runtime gave.
    pub(super) fn of(raw: RawValue) -> Answer<Self> {
        let runtime = raw.runtime();
        let (present, mut kind) = (raw.is_present()?, 0i32);
        if present {
            // SAFETY: the value is live and there; kinds are read as numbers of 32 bits.
            runtime.check(unsafe { (runtime.api().GetValueType)(raw.as_ptr(), (&raw mut kind).cast()) })?;
        }
        let mut owned = Owned {
            raw,
            kind: kind_of(kind),
            present,
            element: None,
            shape: Vec::new(),
            data: ptr::null(),
            len: 0,
            strings: OnceLock::new(),
            items: OnceLock::new(),
        };
        if owned.present && matches!(owned.kind, OnnxKind::Tensor | OnnxKind::Sparse) {
            owned.describe()?;
        }
        Ok(Self(Arc::new(owned)))
    }

    pub(super) fn raw(&self) -> &RawValue {
        &self.0.raw
    }

    /// What kind of value it is: what an optional value holds, where it holds anything; else [`OnnxKind::Optional`].
    #[must_use]
    pub fn kind(&self) -> OnnxKind {
        self.0.kind
    }

    /// Whether it is anything at all: an optional value may be absent.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.0.present
    }

    /// The element type of a tensor; `None` of other kinds, and where the runtime has a type that ONNX's numbers lack.
    #[must_use]
    pub fn element(&self) -> Option<ElementType> {
        self.0.element
    }

    /// The dimensions of a tensor.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        &self.0.shape
    }

    /// The elements of a tensor of any type but strings, as [`TensorData::Bytes`] has them. Borrowed, not copied.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where it is another kind of value.
    pub fn bytes(&self) -> Result<&[u8]> {
        let owned = &*self.0;
        let fixed = owned.element.is_some_and(|element| element != ElementType::String);
        if owned.kind != OnnxKind::Tensor || !owned.present || !fixed {
            return Err(self.is_other("a tensor of numbers"));
        }
        if owned.len == 0 {
            return Ok(&[]);
        }
        // SAFETY: the runtime gave the address of `len` bytes, which `raw` keeps and nobody changes.
        Ok(unsafe { std::slice::from_raw_parts(owned.data, owned.len) })
    }

    /// The elements of a tensor of strings.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where it is another kind of value.
    pub fn strings(&self) -> Result<&[Vec<u8>]> {
        if self.0.kind != OnnxKind::Tensor || self.0.element != Some(ElementType::String) {
            return Err(self.is_other("a tensor of strings"));
        }
        if let Some(strings) = self.0.strings.get() {
            return Ok(strings);
        }
        let read = strings_of(&self.0).map_err(|refused| refused.error("read the strings of a tensor"))?;
        Ok(self.0.strings.get_or_init(|| read))
    }

    /// The elements of a sequence; of a map a tensor of its keys and one of its values.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where it is another kind of value.
    pub fn items(&self) -> Result<&[Self]> {
        if !self.0.present || !matches!(self.0.kind, OnnxKind::Sequence | OnnxKind::Map) {
            return Err(self.is_other("a sequence or a map"));
        }
        if let Some(items) = self.0.items.get() {
            return Ok(items);
        }
        let read = items_of(&self.0.raw).map_err(|refused| refused.error("read the elements of a value"))?;
        Ok(self.0.items.get_or_init(|| read))
    }

    fn is_other(&self, wanted: &str) -> Error {
        let element = self.element().map(|element| format!(" of {}", element.name())).unwrap_or_default();
        let kind = if self.is_present() { self.kind().name() } else { "absent" };
        Error::InvalidArgument(format!("the value is {kind}{element}, not {wanted}"))
    }
}

impl Owned {
    /// Reads element type, shape and place of a tensor; of a sparse one no place.
    fn describe(&mut self) -> Answer {
        let runtime = self.raw.runtime();
        let (element, shape) = self.raw.element_and_shape()?;
        (self.element, self.shape) = (element_of(element), shape);
        let bytes = self.element.and_then(|element| element.tensor_bytes(&self.shape));
        if let (OnnxKind::Tensor, Some(bytes)) =
            (self.kind, bytes.and_then(|bytes| usize::try_from(bytes).ok()))
        {
            let mut data: *mut c_void = ptr::null_mut();
            // SAFETY: the value is a live tensor.
            let status = unsafe { (runtime.api().GetTensorMutableData)(self.raw.as_ptr(), &raw mut data) };
            runtime.check(status)?;
            self.data = data.cast_const().cast();
            self.len = if data.is_null() { 0 } else { bytes };
            self.clear_padding();
        }
        Ok(())
    }
}

impl Owned {
    /// Zeros what lies behind the last of elements that share a byte: the runtime leaves there what was there.
    fn clear_padding(&mut self) {
        let bits = u64::from(self.element.and_then(ElementType::bits).unwrap_or(8));
        let used = self.shape.iter().product::<u64>().wrapping_mul(bits) % 8;
        if used > 0 && self.len > 0 {
            // SAFETY: the runtime gave the address of `len` bytes that may be written, and nobody else has this value yet.
            unsafe { *self.data.cast_mut().add(self.len - 1) &= (1 << used) - 1 };
        }
    }
}

fn kind_of(number: i32) -> OnnxKind {
    match number {
        raw::TENSOR => OnnxKind::Tensor,
        raw::SEQUENCE => OnnxKind::Sequence,
        raw::MAP => OnnxKind::Map,
        raw::SPARSE => OnnxKind::Sparse,
        _ => OnnxKind::Optional,
    }
}

/// The element type with the runtime's number: ONNX's, but for three that came later.
pub(super) fn element_of(number: i32) -> Option<ElementType> {
    match number {
        24 => Some(ElementType::Uint2),
        25 => Some(ElementType::Int2),
        26 => Some(ElementType::Float8e8m0),
        other => ElementType::from_onnx(other),
    }
}

/// The runtime's number of an element type.
fn element_for(element: ElementType) -> sys::ONNXTensorElementDataType {
    use sys::ONNXTensorElementDataType as E;
    match element {
        ElementType::Float32 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        ElementType::Uint8 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        ElementType::Int8 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        ElementType::Uint16 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        ElementType::Int16 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        ElementType::Int32 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        ElementType::Int64 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        ElementType::String => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
        ElementType::Bool => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        ElementType::Float16 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        ElementType::Float64 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        ElementType::Uint32 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        ElementType::Uint64 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        ElementType::Complex64 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_COMPLEX64,
        ElementType::Complex128 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_COMPLEX128,
        ElementType::Bfloat16 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        ElementType::Float8e4m3fn => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN,
        ElementType::Float8e4m3fnuz => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FNUZ,
        ElementType::Float8e5m2 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E5M2,
        ElementType::Float8e5m2fnuz => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E5M2FNUZ,
        ElementType::Uint4 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT4,
        ElementType::Int4 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4,
        ElementType::Float4e2m1 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT4E2M1,
        ElementType::Float8e8m0 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E8M0,
        ElementType::Uint2 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT2,
        ElementType::Int2 => E::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT2,
    }
}

/// Holds a tensor's elements against its shape; `what` names it.
///
/// # Errors
/// [`Error::InvalidArgument`] with both numbers.
pub(super) fn check_view(what: &str, view: &TensorView<'_>) -> Result<()> {
    let count = view.shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
    let fits = |dim: &u64| i64::try_from(*dim).is_ok();
    let (Some(count), true) = (count, view.shape.iter().all(fits)) else {
        return Err(Error::InvalidArgument(format!("{what}: the shape {:?} is too large", view.shape)));
    };
    let name = view.element.name();
    let (wanted, given, unit) = match view.data {
        TensorData::Bytes(bytes) => (view.element.bytes_of(count), bytes.len() as u64, "bytes"),
        TensorData::Strings(strings) => {
            let wanted = (view.element == ElementType::String).then_some(count);
            (wanted, strings.len() as u64, "strings")
        }
    };
    match wanted {
        Some(wanted) if wanted == given => Ok(()),
        Some(wanted) => Err(Error::InvalidArgument(format!(
            "{what}: {given} {unit} where a tensor of {name} of shape {:?} has {wanted}",
            view.shape
        ))),
        None => Err(Error::InvalidArgument(format!("{what}: {unit} where a tensor of {name} is wanted"))),
    }
}

fn dims_of(view: &TensorView<'_>) -> Vec<i64> {
    view.shape.iter().map(|dim| *dim as i64).collect()
}

/// A value over memory that a caller lends.
pub(super) struct Borrowed<'a> {
    raw: RawValue,
    _lent: PhantomData<&'a [u8]>,
}

impl<'a> Borrowed<'a> {
    /// A value over the elements of `view`; strings, and elements at an odd address, are copied.
    pub fn new(runtime: &'static Runtime, view: &TensorView<'a>) -> Answer<Self> {
        let own = |raw| Self { raw, _lent: PhantomData };
        let TensorData::Bytes(bytes) = view.data else { return owned_tensor(runtime, view).map(own) };
        let aligned = view.element.bits().map_or(1, |bits| (bits as usize / 8).clamp(1, 8));
        if !bytes.as_ptr().addr().is_multiple_of(aligned) {
            return owned_tensor(runtime, view).map(own);
        }
        let (dims, mut made) = (dims_of(view), ptr::null_mut());
        // SAFETY: the bytes are as many as is said, and are lent for as long as the value lives; the runtime takes them as
        // changeable and changes no input.
        runtime.check(unsafe {
            (runtime.api().CreateTensorWithDataAsOrtValue)(
                runtime.memory(),
                bytes.as_ptr().cast_mut().cast(),
                bytes.len(),
                dims.as_ptr(),
                dims.len(),
                element_for(view.element),
                &raw mut made,
            )
        })?;
        RawValue::new(runtime, made).map(own).ok_or_else(api::nothing)
    }

    /// The value.
    pub fn raw(&self) -> &RawValue {
        &self.raw
    }
}

/// A value with a copy of the elements.
fn owned_tensor(runtime: &'static Runtime, view: &TensorView<'_>) -> Answer<RawValue> {
    let (api, dims, mut made) = (runtime.api(), dims_of(view), ptr::null_mut());
    // SAFETY: the dimensions are as many as is said.
    runtime.check(unsafe {
        let element = element_for(view.element);
        (api.CreateTensorAsOrtValue)(runtime.allocator(), dims.as_ptr(), dims.len(), element, &raw mut made)
    })?;
    let value = RawValue::new(runtime, made).ok_or_else(api::nothing)?;
    match view.data {
        TensorData::Bytes([]) => {}
        TensorData::Bytes(bytes) => {
            let mut data: *mut c_void = ptr::null_mut();
            // SAFETY: the value is ours alone and has room for the elements that its shape and type say, which the view was
            // held against.
            unsafe {
                runtime.check((api.GetTensorMutableData)(value.as_ptr(), &raw mut data))?;
                ptr::copy_nonoverlapping(bytes.as_ptr(), data.cast(), bytes.len());
            }
        }
        TensorData::Strings(strings) => {
            for (index, string) in strings.iter().enumerate() {
                let mut buffer = ptr::null_mut();
                let make = api.GetResizedStringTensorElementBuffer;
                // SAFETY: the value is ours alone and has as many elements; the buffer has the length that was asked for.
                unsafe {
                    runtime.check(make(value.as_ptr(), index, string.len(), &raw mut buffer))?;
                    if !string.is_empty() {
                        ptr::copy_nonoverlapping(string.as_ptr(), buffer.cast(), string.len());
                    }
                }
            }
        }
    }
    Ok(value)
}

fn strings_of(owned: &Owned) -> Answer<Vec<Vec<u8>>> {
    let runtime = owned.raw.runtime();
    let (api, value) = (runtime.api(), owned.raw.as_ptr());
    let count = owned.shape.iter().product::<u64>() as usize;
    if count == 0 {
        return Ok(Vec::new());
    }
    let (mut len, mut offsets) = (0usize, vec![0usize; count]);
    // SAFETY: the value is live; both arrays are as long as is said.
    let bytes = unsafe {
        runtime.check((api.GetStringTensorDataLength)(value, &raw mut len))?;
        let mut bytes = vec![0u8; len];
        let (place, starts) = (bytes.as_mut_ptr().cast(), offsets.as_mut_ptr());
        runtime.check((api.GetStringTensorContent)(value, place, len, starts, count))?;
        bytes
    };
    let ends = offsets.iter().skip(1).copied().chain([len]);
    Ok(offsets
        .iter()
        .zip(ends)
        .map(|(start, end)| bytes.get(*start..end).unwrap_or_default().to_vec())
        .collect())
}

fn items_of(raw: &RawValue) -> Answer<Vec<Value>> {
    let runtime = raw.runtime();
    let api = runtime.api();
    let mut count = 0usize;
    // SAFETY: the value is live.
    runtime.check(unsafe { (api.GetValueCount)(raw.as_ptr(), &raw mut count) })?;
    let item = |index: usize| {
        let mut item = ptr::null_mut();
        let index = c_int::try_from(index).unwrap_or(c_int::MAX);
        // SAFETY: the value is live, the allocator that of the process; the runtime checks the index.
        runtime.check(unsafe { (api.GetValue)(raw.as_ptr(), index, runtime.allocator(), &raw mut item) })?;
        Value::of(RawValue::new(runtime, item).ok_or_else(api::nothing)?)
    };
    (0..count).map(item).collect()
}

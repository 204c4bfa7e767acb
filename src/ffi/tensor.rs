//! Tensors and other values of ONNX models: those that a host gives, and those that a run gave.

use std::ffi::{c_char, c_void};

use super::error::{Failure, capg_error};
use super::handle::{Handle, release, share};
use super::input::{array, capg_string, reserved};
use super::output::Out;
use super::panic::guard;
use super::status::{CAPG_ERROR_NOT_FOUND, CAPG_ERROR_UNSUPPORTED, capg_status};
use super::text::Utf8;
use crate::graph::element::ElementType;
use crate::graph::onnx::OnnxKind;
use crate::onnx::value::{TensorData, TensorView, Value};

/// Element type: not said.
pub const CAPG_ELEMENT_NONE: u32 = 0;
/// Element type: float32.
pub const CAPG_ELEMENT_FLOAT32: u32 = 1;
/// Element type: uint8.
pub const CAPG_ELEMENT_UINT8: u32 = 2;
/// Element type: int8.
pub const CAPG_ELEMENT_INT8: u32 = 3;
/// Element type: uint16.
pub const CAPG_ELEMENT_UINT16: u32 = 4;
/// Element type: int16.
pub const CAPG_ELEMENT_INT16: u32 = 5;
/// Element type: int32.
pub const CAPG_ELEMENT_INT32: u32 = 6;
/// Element type: int64.
pub const CAPG_ELEMENT_INT64: u32 = 7;
/// Element type: string, capg_string.
pub const CAPG_ELEMENT_STRING: u32 = 8;
/// Element type: bool, a byte, 0 or 1.
pub const CAPG_ELEMENT_BOOL: u32 = 9;
/// Element type: float16.
pub const CAPG_ELEMENT_FLOAT16: u32 = 10;
/// Element type: float64.
pub const CAPG_ELEMENT_FLOAT64: u32 = 11;
/// Element type: uint32.
pub const CAPG_ELEMENT_UINT32: u32 = 12;
/// Element type: uint64.
pub const CAPG_ELEMENT_UINT64: u32 = 13;
/// Element type: complex64, two floats of 32 bits: real, imaginary.
pub const CAPG_ELEMENT_COMPLEX64: u32 = 14;
/// Element type: complex128, two floats of 64 bits: real, imaginary.
pub const CAPG_ELEMENT_COMPLEX128: u32 = 15;
/// Element type: bfloat16.
pub const CAPG_ELEMENT_BFLOAT16: u32 = 16;
/// Element type: float8e4m3fn.
pub const CAPG_ELEMENT_FLOAT8E4M3FN: u32 = 17;
/// Element type: float8e4m3fnuz.
pub const CAPG_ELEMENT_FLOAT8E4M3FNUZ: u32 = 18;
/// Element type: float8e5m2.
pub const CAPG_ELEMENT_FLOAT8E5M2: u32 = 19;
/// Element type: float8e5m2fnuz.
pub const CAPG_ELEMENT_FLOAT8E5M2FNUZ: u32 = 20;
/// Element type: uint4, two to a byte, the first in the low bits.
pub const CAPG_ELEMENT_UINT4: u32 = 21;
/// Element type: int4.
pub const CAPG_ELEMENT_INT4: u32 = 22;
/// Element type: float4e2m1.
pub const CAPG_ELEMENT_FLOAT4E2M1: u32 = 23;
/// Element type: float8e8m0.
pub const CAPG_ELEMENT_FLOAT8E8M0: u32 = 24;
/// Element type: uint2, four to a byte, the first in the lowest bits.
pub const CAPG_ELEMENT_UINT2: u32 = 25;
/// Element type: int2.
pub const CAPG_ELEMENT_INT2: u32 = 26;

/// Kind of value: a tensor.
pub const CAPG_VALUE_TENSOR: u32 = 0;
/// Kind of value: a sequence of tensors.
pub const CAPG_VALUE_SEQUENCE: u32 = 1;
/// Kind of value: an optional value that is absent; for an input that is no optional value it counts as not given. Of a port:
/// an optional value.
pub const CAPG_VALUE_NONE: u32 = 2;
/// Kind of value: a map, as a tensor of its keys and one of its values.
pub const CAPG_VALUE_MAP: u32 = 3;
/// Kind of value: a sequence of maps, two tensors each.
pub const CAPG_VALUE_SEQUENCE_OF_MAPS: u32 = 4;
/// Kind of port only: a sparse tensor, which cannot be run with.
pub const CAPG_VALUE_SPARSE: u32 = 5;

/// A dense tensor, in row-major order. Frozen: it never grows.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct capg_tensor {
    /// The elements, little-endian; of types below 8 bits the first in a byte's low bits. Strings: capg_string.
    pub data: *const c_void,
    /// Their length in bytes. Strings: their number.
    pub data_len: usize,
    /// Extents, outermost first.
    pub dims: *const i64,
    /// Number of extents; 0: a single element.
    pub rank: usize,
    /// CAPG_ELEMENT_*.
    pub element: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// A value under its name. Frozen: it never grows.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct capg_value {
    /// Name of the input or output, UTF-8.
    pub name: *const c_char,
    /// Its length in bytes.
    pub name_len: usize,
    /// What it is made of.
    pub tensors: *const capg_tensor,
    /// Number of tensors: 1 of a tensor, 0 of an absent value, 2 of a map, 2 for each map of a sequence of maps.
    pub count: usize,
    /// CAPG_VALUE_*.
    pub kind: u32,
    /// CAPG_ELEMENT_* of the tensors, of a map of its values; of an input 0 will do where there are tensors.
    pub element: u32,
}

/// What a run gave: its outputs. Owned by the host, immutable; keeps neither the model nor the inputs.
pub struct capg_values(Vec<Output>);

impl Handle for capg_values {}

/// A value of the library with what a view of it points to.
struct Output {
    name: Utf8,
    kind: u32,
    element: u32,
    tensors: Vec<capg_tensor>,
    /// What `tensors` point to.
    _parts: Vec<Part>,
    _value: Value,
}

// SAFETY: the pointers lead into `_parts` and `_value`, which are `Send` and `Sync`, and are only read.
unsafe impl Send for Output {}
// SAFETY: as above; nothing is ever changed.
unsafe impl Sync for Output {}

/// Where a tensor's view points to.
struct Part {
    dims: Vec<i64>,
    strings: Vec<capg_string>,
    /// All strings of the tensor, each with a NUL behind it.
    _bytes: Vec<u8>,
}

impl capg_values {
    /// Of outputs with their names and the element types that the model says.
    pub(super) fn new(outputs: Vec<(&str, Option<ElementType>, Value)>) -> Result<Self, Failure> {
        let outputs = outputs.into_iter().map(|(name, element, value)| Output::new(name, element, value));
        outputs.collect::<Result<_, _>>().map(Self)
    }
}

impl Output {
    fn new(name: &str, declared: Option<ElementType>, value: Value) -> Result<Self, Failure> {
        let (kind, leaves) = leaves(name, &value)?;
        let (mut tensors, mut parts) = (Vec::with_capacity(leaves.len()), Vec::with_capacity(leaves.len()));
        for leaf in &leaves {
            let (tensor, part) = tensor_of(name, leaf)?;
            tensors.push(tensor);
            parts.push(part);
        }
        // Of a map the last tensor has the values.
        let element = match tensors.last() {
            Some(tensor) => tensor.element,
            None => declared.map_or(CAPG_ELEMENT_NONE, number),
        };
        Ok(Self { name: name.into(), kind, element, tensors, _parts: parts, _value: value })
    }

    fn view(&self) -> capg_value {
        let (name, name_len) = self.name.view();
        let (tensors, count) = (self.tensors.as_ptr(), self.tensors.len());
        capg_value { name, name_len, tensors, count, kind: self.kind, element: self.element }
    }
}

/// The kind of a value and the tensors that it is made of. These share its memory.
fn leaves(name: &str, value: &Value) -> Result<(u32, Vec<Value>), Failure> {
    if !value.is_present() {
        return Ok((CAPG_VALUE_NONE, Vec::new()));
    }
    let other = |what: &str| {
        let message = format!("output \"{name}\" is {what}, which the C API has no form for");
        Err(Failure::new(CAPG_ERROR_UNSUPPORTED, message))
    };
    match value.kind() {
        OnnxKind::Tensor => Ok((CAPG_VALUE_TENSOR, vec![value.clone()])),
        OnnxKind::Map => Ok((CAPG_VALUE_MAP, value.items()?.to_vec())),
        OnnxKind::Sequence => {
            let items = value.items()?;
            let all = |kind| items.iter().all(|item| item.is_present() && item.kind() == kind);
            if all(OnnxKind::Tensor) {
                return Ok((CAPG_VALUE_SEQUENCE, items.to_vec()));
            }
            if !all(OnnxKind::Map) {
                return other("a sequence of neither tensors nor maps");
            }
            let mut tensors = Vec::with_capacity(2 * items.len());
            for item in items {
                tensors.extend_from_slice(item.items()?);
            }
            Ok((CAPG_VALUE_SEQUENCE_OF_MAPS, tensors))
        }
        OnnxKind::Sparse => other("a sparse tensor"),
        OnnxKind::Optional => other("of a kind that ONNX Runtime does not name"),
    }
}

/// A view of a tensor, and what it points to beside the tensor's own memory.
fn tensor_of(name: &str, value: &Value) -> Result<(capg_tensor, Part), Failure> {
    let Some(element) = value.element() else {
        let message = format!("output \"{name}\" has elements of a type that ONNX has no number for");
        return Err(Failure::new(CAPG_ERROR_UNSUPPORTED, message));
    };
    let mut part = Part {
        // They were i64 in the runtime.
        dims: value.shape().iter().map(|dim| *dim as i64).collect(),
        strings: Vec::new(),
        _bytes: Vec::new(),
    };
    let (data, data_len) = if element == ElementType::String {
        let strings = value.strings()?;
        let mut bytes = Vec::with_capacity(strings.iter().map(|s| s.len() + 1).sum());
        for string in strings {
            bytes.extend_from_slice(string);
            bytes.push(0);
        }
        let mut at = 0;
        for string in strings {
            part.strings.push(capg_string { data: bytes[at..].as_ptr().cast(), len: string.len() });
            at += string.len() + 1;
        }
        part._bytes = bytes;
        (part.strings.as_ptr().cast(), part.strings.len())
    } else {
        let bytes = value.bytes()?;
        (bytes.as_ptr().cast(), bytes.len())
    };
    let (dims, rank) = (part.dims.as_ptr(), part.dims.len());
    Ok((capg_tensor { data, data_len, dims, rank, element: number(element), reserved: 0 }, part))
}

/// ONNX's number of an element type, which is the C API's.
pub(super) fn number(element: ElementType) -> u32 {
    element.onnx().unsigned_abs()
}

/// The type with that number.
pub(super) fn element(number: u32, what: &str) -> Result<ElementType, Failure> {
    let known = i32::try_from(number).ok().and_then(ElementType::from_onnx);
    known.ok_or_else(|| Failure::invalid(format!("{what}: element is {number}, no CAPG_ELEMENT_*")))
}

/// A tensor of the host, with the lists that its view borrows.
pub(super) struct HostTensor<'a> {
    element: ElementType,
    shape: Vec<u64>,
    bytes: &'a [u8],
    strings: Vec<&'a [u8]>,
}

impl<'a> HostTensor<'a> {
    /// # Safety
    /// What the tensor points to is valid for `'a`.
    pub unsafe fn new(tensor: &capg_tensor, what: &str) -> Result<Self, Failure> {
        let element = element(tensor.element, what)?;
        reserved(tensor.reserved, &format!("{what}: reserved"))?;
        // SAFETY: passed on.
        let dims = unsafe { array(tensor.dims, tensor.rank, &format!("{what}: dims")) }?;
        let extent = |dim: &i64| {
            let negative = || Failure::invalid(format!("{what}: an extent is {dim}; it must be 0 or more"));
            u64::try_from(*dim).map_err(|_| negative())
        };
        let shape = dims.iter().map(extent).collect::<Result<_, _>>()?;
        let data = format!("{what}: data");
        let mut made = Self { element, shape, bytes: &[], strings: Vec::new() };
        if element == ElementType::String {
            // SAFETY: passed on.
            let strings = unsafe { array(tensor.data.cast::<capg_string>(), tensor.data_len, &data) }?;
            for string in strings {
                // SAFETY: passed on.
                made.strings.push(unsafe { array(string.data.cast::<u8>(), string.len, &data) }?);
            }
        } else {
            // SAFETY: passed on; bytes need no alignment.
            made.bytes = unsafe { array(tensor.data.cast::<u8>(), tensor.data_len, &data) }?;
        }
        Ok(made)
    }

    pub fn element(&self) -> ElementType {
        self.element
    }

    pub fn view(&self) -> TensorView<'_> {
        let data = match self.element {
            ElementType::String => TensorData::Strings(&self.strings),
            _ => TensorData::Bytes(self.bytes),
        };
        TensorView { element: self.element, shape: &self.shape, data }
    }
}

/// Number of outputs. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_values_count(
    values: *const capg_values,
    count: *mut usize,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, values) = unsafe { (Out::required(count, "count")?, share(values, "values")?) };
        out.set(values.0.len());
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Fills value with a view of output number index, in the order in which the outputs were asked for; valid until values is
/// freed. Strings in it are followed by a NUL that their length does not count. Errors: NOT_FOUND. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_values_view(
    values: *const capg_values,
    index: usize,
    value: *mut capg_value,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, values) = unsafe { (Out::required(value, "value")?, share(values, "values")?) };
        let count = values.0.len();
        let missing = || {
            Failure::new(
                CAPG_ERROR_NOT_FOUND,
                format!("there is no output number {index}; there are {count}"),
            )
        };
        out.set(values.0.get(index).ok_or_else(missing)?.view());
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Frees the outputs of a run; does nothing for NULL. Thread class: free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_values_free(values: *mut capg_values) {
    // SAFETY: NULL or a handle that the host gives back, by contract.
    unsafe { release(values) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_onnx() {
        let names = [
            (CAPG_ELEMENT_FLOAT32, "float32"),
            (CAPG_ELEMENT_UINT8, "uint8"),
            (CAPG_ELEMENT_INT8, "int8"),
            (CAPG_ELEMENT_UINT16, "uint16"),
            (CAPG_ELEMENT_INT16, "int16"),
            (CAPG_ELEMENT_INT32, "int32"),
            (CAPG_ELEMENT_INT64, "int64"),
            (CAPG_ELEMENT_STRING, "string"),
            (CAPG_ELEMENT_BOOL, "bool"),
            (CAPG_ELEMENT_FLOAT16, "float16"),
            (CAPG_ELEMENT_FLOAT64, "float64"),
            (CAPG_ELEMENT_UINT32, "uint32"),
            (CAPG_ELEMENT_UINT64, "uint64"),
            (CAPG_ELEMENT_COMPLEX64, "complex64"),
            (CAPG_ELEMENT_COMPLEX128, "complex128"),
            (CAPG_ELEMENT_BFLOAT16, "bfloat16"),
            (CAPG_ELEMENT_FLOAT8E4M3FN, "float8e4m3fn"),
            (CAPG_ELEMENT_FLOAT8E4M3FNUZ, "float8e4m3fnuz"),
            (CAPG_ELEMENT_FLOAT8E5M2, "float8e5m2"),
            (CAPG_ELEMENT_FLOAT8E5M2FNUZ, "float8e5m2fnuz"),
            (CAPG_ELEMENT_UINT4, "uint4"),
            (CAPG_ELEMENT_INT4, "int4"),
            (CAPG_ELEMENT_FLOAT4E2M1, "float4e2m1"),
            (CAPG_ELEMENT_FLOAT8E8M0, "float8e8m0"),
            (CAPG_ELEMENT_UINT2, "uint2"),
            (CAPG_ELEMENT_INT2, "int2"),
        ];
        assert_eq!(names.len(), ElementType::all().count());
        for (value, name) in names {
            assert_eq!(ElementType::by_name(name).map(number), Some(value));
        }
    }
}

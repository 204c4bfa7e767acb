//! Values and types of ONNX Runtime: owned handles, and what they say of themselves.

use std::ptr::{self, NonNull};

use ort::sys;

use super::api::{Answer, Runtime};
use crate::graph::element::ElementType;

/// Kinds of values, the runtime's numbers.
pub(super) const TENSOR: i32 = 1;
pub(super) const SEQUENCE: i32 = 2;
pub(super) const MAP: i32 = 3;
pub(super) const SPARSE: i32 = 5;
pub(super) const OPTIONAL: i32 = 6;

/// A value of the runtime, freed when it is dropped.
pub(super) struct RawValue {
    runtime: &'static Runtime,
    value: NonNull<sys::OrtValue>,
}

// SAFETY: a value is changed only while it is made (`value.rs`); the runtime reads it from any thread.
unsafe impl Send for RawValue {}
// SAFETY: as above.
unsafe impl Sync for RawValue {}

impl RawValue {
    /// A value that the runtime gave; `None` for none.
    pub(super) fn new(runtime: &'static Runtime, value: *mut sys::OrtValue) -> Option<Self> {
        Some(Self { runtime, value: NonNull::new(value)? })
    }

    pub(super) fn runtime(&self) -> &'static Runtime {
        self.runtime
    }

    pub(super) fn as_ptr(&self) -> *mut sys::OrtValue {
        self.value.as_ptr()
    }

    /// Whether it is anything: an optional value may be absent.
    pub(super) fn is_present(&self) -> Answer<bool> {
        let mut present = 0;
        // SAFETY: the value is live.
        self.runtime.check(unsafe { (self.runtime.api().HasValue)(self.as_ptr(), &raw mut present) })?;
        Ok(present != 0)
    }

    /// The element type and the shape of a tensor; `None` of other values.
    pub(super) fn tensor(&self) -> Option<(Option<ElementType>, Vec<u64>)> {
        let (mut is_tensor, api) = (0, self.runtime.api());
        if !self.is_present().unwrap_or(false) {
            return None;
        }
        // SAFETY: the value is live.
        let asked = self.runtime.check(unsafe { (api.IsTensor)(self.as_ptr(), &raw mut is_tensor) });
        let (element, shape) = (asked.is_ok() && is_tensor != 0).then(|| self.element_and_shape().ok())??;
        Some((super::value::element_of(element), shape))
    }

    /// The shape of a tensor; `None` of other values.
    pub(super) fn shape(&self) -> Option<Vec<u64>> {
        self.tensor().map(|(_, shape)| shape)
    }

    /// The runtime's number of a tensor's element type, and its shape.
    pub(super) fn element_and_shape(&self) -> Answer<(i32, Vec<u64>)> {
        let (runtime, api) = (self.runtime, self.runtime.api());
        let mut info = ptr::null_mut();
        // SAFETY: the value is live; what is made is freed; element types are read as numbers of 32 bits; the array of
        // dimensions is as long as is said.
        unsafe {
            runtime.check((api.GetTensorTypeAndShape)(self.as_ptr(), &raw mut info))?;
            let (mut element, mut rank, mut dims) = (0i32, 0usize, Vec::new());
            let mut read = runtime.check((api.GetTensorElementType)(info, (&raw mut element).cast()));
            read = read.and_then(|()| runtime.check((api.GetDimensionsCount)(info, &raw mut rank)));
            if read.is_ok() {
                dims = vec![0i64; rank];
                read = runtime.check((api.GetDimensions)(info, dims.as_mut_ptr(), dims.len()));
            }
            (api.ReleaseTensorTypeAndShapeInfo)(info);
            read?;
            Ok((element, dims.iter().map(|dim| u64::try_from(*dim).unwrap_or(0)).collect()))
        }
    }
}

impl Drop for RawValue {
    fn drop(&mut self) {
        // SAFETY: made by the API, freed once.
        unsafe { (self.runtime.api().ReleaseValue)(self.value.as_ptr()) };
    }
}

/// A type of the runtime, freed when it is dropped.
pub(super) struct TypeInfo {
    runtime: &'static Runtime,
    info: *mut sys::OrtTypeInfo,
}

/// A type, as far as a session must be told it: element types are the runtime's numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RawType {
    /// A tensor.
    Tensor(i32),
    /// A sparse tensor.
    Sparse(i32),
    /// A sequence.
    Sequence(Box<RawType>),
    /// A value that may be absent.
    Optional(Box<RawType>),
    /// A map: the keys' element type, the values' type.
    Map(i32, Box<RawType>),
}

impl Drop for TypeInfo {
    fn drop(&mut self) {
        // SAFETY: made by the API, freed once.
        unsafe { (self.runtime.api().ReleaseTypeInfo)(self.info) };
    }
}

impl TypeInfo {
    /// A type that the runtime made.
    ///
    /// # Safety
    /// `info` is NULL or a live type that is the caller's to free.
    pub(super) unsafe fn new(runtime: &'static Runtime, info: *mut sys::OrtTypeInfo) -> Self {
        Self { runtime, info }
    }

    /// The type of a value; `None` of an absent one, whose type the runtime looks for where nothing is.
    pub(super) fn of_value(value: &RawValue) -> Answer<Option<Self>> {
        let (runtime, mut info) = (value.runtime, ptr::null_mut());
        if !value.is_present()? {
            return Ok(None);
        }
        // SAFETY: the value is live and there, the result ours.
        runtime.check(unsafe { (runtime.api().GetTypeInfo)(value.as_ptr(), &raw mut info) })?;
        Ok(Some(Self { runtime, info }))
    }

    /// The type in terms of this library; `None` where the runtime does not say.
    pub(super) fn raw_type(&self) -> Answer<Option<RawType>> {
        // SAFETY: the type is live.
        unsafe { raw_type(self.runtime, self.info) }
    }
}

/// # Safety
/// `info` is NULL or a live type.
unsafe fn raw_type(runtime: &'static Runtime, info: *const sys::OrtTypeInfo) -> Answer<Option<RawType>> {
    let (api, mut kind) = (runtime.api(), 0i32);
    if info.is_null() {
        return Ok(None);
    }
    // SAFETY: live by this function's contract. Kinds and element types are read as numbers: a C enumeration has 32 bits, and
    // a later runtime may give one that the crate's lacks. What casts give belongs to `info`, what the others make is freed.
    unsafe {
        runtime.check((api.GetOnnxTypeFromTypeInfo)(info, (&raw mut kind).cast()))?;
        let own = |inner| {
            let inner = TypeInfo { runtime, info: inner };
            Ok(inner.raw_type()?.map(Box::new))
        };
        let mut inner = ptr::null_mut();
        match kind {
            TENSOR | SPARSE => {
                let (mut tensor, mut element) = (ptr::null(), 0i32);
                runtime.check((api.CastTypeInfoToTensorInfo)(info, &raw mut tensor))?;
                runtime.check((api.GetTensorElementType)(tensor, (&raw mut element).cast()))?;
                Ok(Some(if kind == TENSOR { RawType::Tensor(element) } else { RawType::Sparse(element) }))
            }
            SEQUENCE => {
                let mut sequence = ptr::null();
                runtime.check((api.CastTypeInfoToSequenceTypeInfo)(info, &raw mut sequence))?;
                runtime.check((api.GetSequenceElementType)(sequence, &raw mut inner))?;
                Ok(own(inner)?.map(RawType::Sequence))
            }
            OPTIONAL => {
                let mut optional = ptr::null();
                runtime.check((api.CastTypeInfoToOptionalTypeInfo)(info, &raw mut optional))?;
                runtime.check((api.GetOptionalContainedTypeInfo)(optional, &raw mut inner))?;
                Ok(own(inner)?.map(RawType::Optional))
            }
            MAP => {
                let (mut map, mut key) = (ptr::null(), 0i32);
                runtime.check((api.CastTypeInfoToMapTypeInfo)(info, &raw mut map))?;
                runtime.check((api.GetMapKeyType)(map, (&raw mut key).cast()))?;
                runtime.check((api.GetMapValueType)(map, &raw mut inner))?;
                Ok(own(inner)?.map(|value| RawType::Map(key, value)))
            }
            _ => Ok(None),
        }
    }
}

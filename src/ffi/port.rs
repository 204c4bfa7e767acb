//! Inputs and outputs of an ONNX model.

use std::ffi::c_char;

use super::error::{Failure, capg_error};
use super::handle::share;
use super::input::capg_string;
use super::model::capg_model;
use super::options::{StructOut, Versioned};
use super::output::Out;
use super::panic::guard;
use super::status::{CAPG_ERROR_NOT_FOUND, capg_status};
use super::tensor::{
    CAPG_ELEMENT_NONE, CAPG_VALUE_MAP, CAPG_VALUE_NONE, CAPG_VALUE_SEQUENCE, CAPG_VALUE_SEQUENCE_OF_MAPS,
    CAPG_VALUE_SPARSE, CAPG_VALUE_TENSOR, number,
};
use super::text::Utf8;
use crate::graph::onnx::{OnnxDim, OnnxKind, OnnxPort};
use crate::onnx::model::OnnxModel;

/// Direction of a port: what the model takes.
pub const CAPG_PORT_INPUT: u32 = 0;
/// Direction of a port: what the model gives.
pub const CAPG_PORT_OUTPUT: u32 = 1;

/// An input or output of an ONNX model. The host sets struct_size, the library the rest. Pointers are views of the model,
/// valid until it is freed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct capg_port {
    /// sizeof(capg_port), set by the host.
    pub struct_size: usize,
    /// Name, UTF-8, NUL-terminated.
    pub name: *const c_char,
    /// Its length in bytes.
    pub name_len: usize,
    /// Extents, outermost first; -1: any.
    pub dims: *const i64,
    /// The name of each extent that may be any: extents of one name are equal. Empty where there is none.
    pub dim_names: *const capg_string,
    /// Number of extents.
    pub rank: usize,
    /// CAPG_VALUE_*; CAPG_VALUE_NONE: an optional value, CAPG_VALUE_SPARSE: a sparse tensor.
    pub kind: u32,
    /// CAPG_ELEMENT_*: of a sequence or optional value that of its tensors, of a map that of its values; 0: not said.
    pub element: u32,
    /// 1: there are so many extents; 0: even their number is open.
    pub has_shape: u32,
    /// 1: an input that has a default and may be left out.
    pub optional: u32,
}

// SAFETY: integers and nullable pointers, without padding.
unsafe impl Versioned for capg_port {
    const NAME: &'static str = "capg_port";
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// A port with what its view points to.
pub(super) struct Port {
    name: Utf8,
    dims: Vec<i64>,
    dim_names: Vec<capg_string>,
    _names: Vec<Utf8>,
    kind: u32,
    element: u32,
    has_shape: bool,
    optional: bool,
}

// SAFETY: the pointers lead into `_names`, which is `Send` and `Sync`, and are only read.
unsafe impl Send for Port {}
// SAFETY: as above; nothing is ever changed.
unsafe impl Sync for Port {}

impl From<&OnnxPort> for Port {
    fn from(port: &OnnxPort) -> Self {
        let shape = port.shape.as_deref().unwrap_or_default();
        let named = |dim: &OnnxDim| match dim {
            OnnxDim::Named(name) => Utf8::from(name.as_str()),
            _ => Utf8::default(),
        };
        let names: Vec<Utf8> = shape.iter().map(named).collect();
        let extent = |dim: &OnnxDim| match dim {
            OnnxDim::Fixed(extent) => i64::try_from(*extent).unwrap_or(i64::MAX),
            _ => -1,
        };
        let string = |name: &Utf8| {
            let (data, len) = name.view();
            capg_string { data, len }
        };
        Self {
            name: port.name.as_str().into(),
            dims: shape.iter().map(extent).collect(),
            dim_names: names.iter().map(string).collect(),
            _names: names,
            kind: match port.kind {
                OnnxKind::Sequence if port.is_sequence_of_maps() => CAPG_VALUE_SEQUENCE_OF_MAPS,
                OnnxKind::Tensor => CAPG_VALUE_TENSOR,
                OnnxKind::Sequence => CAPG_VALUE_SEQUENCE,
                OnnxKind::Optional => CAPG_VALUE_NONE,
                OnnxKind::Map => CAPG_VALUE_MAP,
                OnnxKind::Sparse => CAPG_VALUE_SPARSE,
            },
            element: port.element.map_or(CAPG_ELEMENT_NONE, number),
            has_shape: port.shape.is_some(),
            optional: port.optional,
        }
    }
}

impl Port {
    fn view(&self) -> capg_port {
        let (name, name_len) = self.name.view();
        capg_port {
            struct_size: size_of::<capg_port>(),
            name,
            name_len,
            dims: self.dims.as_ptr(),
            dim_names: self.dim_names.as_ptr(),
            rank: self.dims.len(),
            kind: self.kind,
            element: self.element,
            has_shape: u32::from(self.has_shape),
            optional: u32::from(self.optional),
        }
    }
}

/// The ports of a model, in its own order: inputs, outputs.
pub(super) fn ports(model: &OnnxModel) -> [Vec<Port>; 2] {
    [model.inputs(), model.outputs()].map(|ports| ports.iter().map(Port::from).collect())
}

/// The ports of one direction.
fn of_direction(model: &capg_model, direction: u32) -> Result<&[Port], Failure> {
    model.model.onnx()?;
    let ports = usize::try_from(direction).ok().and_then(|number| model.ports.get(number));
    let unknown = || Failure::invalid(format!("direction is {direction}, no CAPG_PORT_*"));
    ports.map(Vec::as_slice).ok_or_else(unknown)
}

/// Number of inputs or outputs of an ONNX model. direction: CAPG_PORT_*. Errors: UNSUPPORTED of a language model. Thread
/// class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_port_count(
    model: *const capg_model,
    direction: u32,
    count: *mut usize,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, model) = unsafe { (Out::required(count, "count")?, share(model, "model")?) };
        out.set(of_direction(&model, direction)?.len());
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Fills port with what the model says of input or output number index, in its own order. Errors: NOT_FOUND, UNSUPPORTED of a
/// language model. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_port(
    model: *const capg_model,
    direction: u32,
    index: usize,
    port: *mut capg_port,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, model) = unsafe { (StructOut::required(port, "port")?, share(model, "model")?) };
        let ports = of_direction(&model, direction)?;
        let missing = || {
            let (what, count) = (["input", "output"][direction as usize], ports.len());
            Failure::new(
                CAPG_ERROR_NOT_FOUND,
                format!("there is no {what} number {index}; there are {count}"),
            )
        };
        out.set(ports.get(index).ok_or_else(missing)?.view());
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

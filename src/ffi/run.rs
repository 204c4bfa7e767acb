//! Running ONNX models.

use std::sync::PoisonError;

use super::cancel::{capg_cancel, token};
use super::error::{Failure, capg_error};
use super::handle::share;
use super::input::{array, capg_string, flags, reserved, text};
use super::model::capg_model;
use super::options::{Versioned, read};
use super::output::HandleOut;
use super::panic::guard;
use super::status::capg_status;
use super::tensor::{
    CAPG_ELEMENT_NONE, CAPG_VALUE_MAP, CAPG_VALUE_NONE, CAPG_VALUE_SEQUENCE, CAPG_VALUE_SEQUENCE_OF_MAPS,
    CAPG_VALUE_TENSOR, HostTensor, capg_value, capg_values, element,
};
use super::text::capg_text;
use crate::graph::element::ElementType;
use crate::graph::onnx::OnnxKind;
use crate::onnx::model::OnnxModel;
use crate::onnx::value::{Input, Value};
use crate::report::Report;

/// How to run. All zero but struct_size: the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct capg_run_options {
    /// sizeof(capg_run_options).
    pub struct_size: usize,
    /// Must be 0: there are none yet.
    pub flags: u32,
    /// Must be 0.
    pub reserved: u32,
}

// SAFETY: integers, without padding.
unsafe impl Versioned for capg_run_options {
    const NAME: &'static str = "capg_run_options";
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// An input of the host.
struct HostValue<'a> {
    name: &'a str,
    kind: u32,
    tensors: Vec<HostTensor<'a>>,
    /// What the model is fed with where that is not a tensor; made of `tensors`.
    made: Option<Value>,
}

impl<'a> HostValue<'a> {
    /// # Safety
    /// What the value points to is valid for `'a`.
    unsafe fn new(value: &capg_value) -> Result<Self, Failure> {
        // SAFETY: passed on.
        let name: &'a str = unsafe { text(value.name, value.name_len, "inputs: a name") }?;
        let what = format!("input \"{name}\"");
        // SAFETY: passed on.
        let tensors = unsafe { array(value.tensors, value.count, &format!("{what}: tensors")) }?;
        let fits = match value.kind {
            CAPG_VALUE_TENSOR => value.count == 1,
            CAPG_VALUE_SEQUENCE => true,
            CAPG_VALUE_NONE => value.count == 0,
            CAPG_VALUE_MAP => value.count == 2,
            CAPG_VALUE_SEQUENCE_OF_MAPS => value.count.is_multiple_of(2),
            other => return Err(Failure::invalid(format!("{what}: kind is {other}, no CAPG_VALUE_*"))),
        };
        if !fits {
            let (count, kind) = (value.count, value.kind);
            return Err(Failure::invalid(format!(
                "{what}: a value of kind {kind} is not made of {count} tensors"
            )));
        }
        let given = |tensor| {
            // SAFETY: passed on.
            unsafe { HostTensor::new(tensor, &what) }
        };
        let tensors = tensors.iter().map(given).collect::<Result<Vec<_>, _>>()?;
        let made = Self { name, kind: value.kind, tensors, made: None };
        made.check_element(value.element, &what)?;
        Ok(made)
    }

    /// Holds what the value says of its elements against its tensors; of a map only those of values count.
    fn check_element(&self, said: u32, what: &str) -> Result<(), Failure> {
        if said == CAPG_ELEMENT_NONE {
            return Ok(());
        }
        let said = element(said, what)?;
        let is_map = matches!(self.kind, CAPG_VALUE_MAP | CAPG_VALUE_SEQUENCE_OF_MAPS);
        let mut counted = self.tensors.iter().skip(usize::from(is_map)).step_by(1 + usize::from(is_map));
        match counted.find(|tensor| tensor.element() != said) {
            None => Ok(()),
            Some(other) => Err(Failure::invalid(format!(
                "{what}: element is {}, and a tensor in it has {}",
                said.name(),
                other.element().name()
            ))),
        }
    }

    /// Makes what is not a tensor: the runtime takes such values only of its own making.
    fn make(&mut self, model: &OnnxModel) -> Result<(), Failure> {
        let tensors = || {
            let runtime = model.runtime()?;
            let made = self.tensors.iter().map(|tensor| Value::tensor(runtime, &tensor.view()));
            Ok::<_, Failure>((runtime, made.collect::<crate::error::Result<Vec<_>>>()?))
        };
        let port = model.inputs().iter().find(|port| port.name == self.name);
        self.made = match self.kind {
            CAPG_VALUE_SEQUENCE | CAPG_VALUE_SEQUENCE_OF_MAPS if self.tensors.is_empty() => {
                Some(model.empty_input(self.name)?)
            }
            CAPG_VALUE_NONE if port.is_some_and(|port| port.kind == OnnxKind::Optional) => {
                Some(model.empty_input(self.name)?)
            }
            CAPG_VALUE_SEQUENCE => {
                let (runtime, tensors) = tensors()?;
                Some(Value::sequence(runtime, &tensors)?)
            }
            CAPG_VALUE_MAP | CAPG_VALUE_SEQUENCE_OF_MAPS => {
                let (runtime, tensors) = tensors()?;
                let mut maps = Vec::with_capacity(tensors.len() / 2);
                for pair in tensors.chunks_exact(2) {
                    maps.push(Value::map(runtime, pair[0].clone(), pair[1].clone())?);
                }
                match self.kind {
                    CAPG_VALUE_MAP => maps.pop(),
                    _ => Some(Value::sequence(runtime, &maps)?),
                }
            }
            _ => None,
        };
        Ok(())
    }

    /// What the model is fed with; where the model has no optional value an absent one with nothing.
    fn input(&self) -> Option<(&str, Input<'_>)> {
        let input = match (&self.made, self.tensors.first()) {
            (Some(value), _) => Input::Value(value),
            (None, Some(tensor)) => Input::Tensor(tensor.view()),
            (None, None) => return None,
        };
        Some((self.name, input))
    }
}

/// The names of what is computed, and the element types that the model says of them.
fn named<'a>(model: &'a OnnxModel, wanted: &[&'a str]) -> Vec<(&'a str, Option<ElementType>)> {
    let ports = model.outputs();
    if wanted.is_empty() {
        return ports.iter().map(|port| (port.name.as_str(), port.element)).collect();
    }
    let element = |name: &str| ports.iter().find(|port| port.name == name).and_then(|port| port.element);
    wanted.iter().map(|name| (*name, element(name))).collect()
}

/// Computes outputs of an ONNX model from inputs by name. outputs: the names of those that are wanted, which
/// capg_values_view then gives in that order; (NULL, 0): all, in the model's order. Only the
/// capsules that they need are computed, and only the inputs that these need must be given. options, cancel: nullable.
///
/// Inputs are read where they are and not copied, but for strings, sequences, maps, and data at an address that is no
/// multiple of the element's size; they must not change during the call. What comes out is owned by values, and is not copied
/// either. Any number of threads may run one model at the same time. The first run loads ONNX Runtime.
///
/// Errors: INVALID_ARGUMENT for names, types, ranks and lengths that are not the model's or do not fit together, and for inputs
/// that are missing or given twice; NOT_FOUND and UNSUPPORTED where there is no usable ONNX Runtime, with the places that were
/// searched; MISMATCH where it refuses graph or inputs, with its message; LIMIT (the budget), CANCELLED; UNSUPPORTED of a
/// language model. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_run(
    model: *const capg_model,
    inputs: *const capg_value,
    inputs_len: usize,
    outputs: *const capg_string,
    outputs_len: usize,
    options: *const capg_run_options,
    cancel: *const capg_cancel,
    values: *mut *mut capg_values,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, model, inputs, outputs, o, cancel) = unsafe {
            let out = HandleOut::required(values, "values")?;
            let model = share(model, "model")?;
            let inputs = array(inputs, inputs_len, "inputs")?;
            (out, model, inputs, array(outputs, outputs_len, "outputs")?, read(options)?, token(cancel))
        };
        flags(o.flags, 0)?;
        reserved(o.reserved, "options.reserved")?;
        let onnx = model.model.onnx()?;
        let mut wanted = Vec::with_capacity(outputs.len());
        for name in outputs {
            // SAFETY: as above.
            wanted.push(unsafe { text(name.data, name.len, "outputs: a name") }?);
        }
        let mut given = Vec::with_capacity(inputs.len());
        for value in inputs {
            // SAFETY: as above.
            let mut value = unsafe { HostValue::new(value) }?;
            value.make(onnx)?;
            given.push(value);
        }
        let fed: Vec<_> = given.iter().filter_map(HostValue::input).collect();
        let computed = onnx.run(&fed, &wanted, cancel.as_ref())?;
        let named = named(onnx, &wanted).into_iter().zip(computed);
        let computed = named.map(|((name, element), value)| (name, element, value)).collect();
        out.set(capg_values::new(computed)?);
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// The report of an ONNX model up to now, schema capsulegraph.report/1: times, memory, what is prepacked, ONNX Runtime's
/// version. Errors: UNSUPPORTED of a language model, whose sessions have reports. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_model_report(
    model: *const capg_model,
    report: *mut *mut capg_text,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, model) = unsafe { (HandleOut::required(report, "report")?, share(model, "model")?) };
        let sampler = model.sampler.lock().unwrap_or_else(PoisonError::into_inner);
        let made = Report::of_onnx("run", model.model.onnx()?, &sampler);
        out.set(made.to_json()?.into());
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

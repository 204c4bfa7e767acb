//! Inputs to try a model with: read from .npy files, or random ones of the right types and shapes.

use std::path::Path;

use super::model::OnnxModel;
use super::value::{Input, TensorData, TensorView};
use crate::container::disk::Disk;
use crate::container::npy::{self, Array, ArrayData};
use crate::error::{Error, Result};
use crate::graph::element::ElementType;
use crate::graph::onnx::{OnnxDim, OnnxKind, OnnxPort};

/// Length of a dimension that a model leaves open; the first one of an input is mostly the number of examples, and 1.
const OPEN_DIM: u64 = 32;
/// Random integers lie below this: they are mostly numbers of tokens or classes.
const INTEGERS: u64 = 2;
/// Bytes of a random input at most.
const MOST_BYTES: u64 = 1 << 32;
/// Seed of the random inputs: the same model is always fed with the same ones.
const SEED: u64 = 0x1234_5678;

/// A set of inputs.
#[derive(Debug, Default)]
pub struct Sample {
    inputs: Vec<Named>,
}

/// An array under an input's name.
#[derive(Debug)]
struct Named {
    name: String,
    array: Array,
}

impl Sample {
    /// Calls `with` with the inputs by name.
    pub fn with<T>(&self, with: impl FnOnce(&[(&str, Input<'_>)]) -> T) -> T {
        let strings: Vec<Vec<&[u8]>> = self
            .inputs
            .iter()
            .map(|input| match &input.array.data {
                ArrayData::Strings(strings) => strings.iter().map(Vec::as_slice).collect(),
                ArrayData::Bytes(_) => Vec::new(),
            })
            .collect();
        let inputs: Vec<(&str, Input<'_>)> = self
            .inputs
            .iter()
            .zip(&strings)
            .map(|(input, strings)| {
                let data = match &input.array.data {
                    ArrayData::Bytes(bytes) => TensorData::Bytes(bytes),
                    ArrayData::Strings(_) => TensorData::Strings(strings),
                };
                let (element, shape) = (input.array.element, input.array.shape.as_slice());
                (input.name.as_str(), Input::Tensor(TensorView { element, shape, data }))
            })
            .collect();
        with(&inputs)
    }
}

/// Inputs from lines of `NAME=FILE.npy`. A name that comes again begins another set, which takes from the one before what it
/// does not name itself.
///
/// # Errors
/// [`Error::InvalidArgument`] for a line that is none, and for names that are no inputs; those of [`npy::read`].
pub fn read(model: &OnnxModel, lines: &str, disk: &dyn Disk) -> Result<Vec<Sample>> {
    let mut sets: Vec<Vec<(String, String)>> = Vec::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (name, path) = line
            .split_once('=')
            .filter(|(name, path)| !name.is_empty() && !path.is_empty())
            .ok_or_else(|| {
            Error::InvalidArgument(format!("{line:?} is no input of the model; give NAME=FILE.npy for each"))
        })?;
        let named = |set: &Vec<(String, String)>| set.iter().position(|(own, _)| own == name);
        match sets.last_mut() {
            Some(last) if named(last).is_none() => last.push((name.to_owned(), path.to_owned())),
            Some(last) => {
                let mut set = last.clone();
                if let Some(at) = named(&set) {
                    path.clone_into(&mut set[at].1);
                }
                sets.push(set);
            }
            None => sets.push(vec![(name.to_owned(), path.to_owned())]),
        }
    }
    let one = |(name, path): &(String, String)| -> Result<Named> {
        let port = model.inputs().iter().find(|port| port.name == *name);
        let array = npy::read(disk, Path::new(path), port.and_then(|port| port.element))?;
        Ok(Named { name: name.clone(), array })
    };
    sets.iter().map(|set| Ok(Sample { inputs: set.iter().map(one).collect::<Result<_>>()? })).collect()
}

/// Random inputs, seeded, for all that the model has no default for: floating-point numbers between -1 and 1, integers 0
/// and 1. `dims` gives lengths of open dimensions by name.
///
/// # Errors
/// [`Error::Unsupported`] for an input that is no tensor or whose shape is wholly open; [`Error::Limit`] for one that would
/// be too large.
pub fn random(model: &OnnxModel, dims: &[(&str, u64)]) -> Result<Sample> {
    let file = model.store().primary().name();
    let mut state = SEED;
    let mut inputs = Vec::new();
    for port in model.inputs().iter().filter(|port| !port.optional) {
        inputs.push(Named { name: port.name.clone(), array: random_array(file, port, dims, &mut state)? });
    }
    Ok(Sample { inputs })
}

fn random_array(file: &str, port: &OnnxPort, dims: &[(&str, u64)], state: &mut u64) -> Result<Array> {
    let give = "give it as a file, NAME=FILE.npy";
    let unknown = |what: &str| Error::Unsupported(format!("{file}: input \"{}\" {what}; {give}", port.name));
    let (Some(element), Some(shape), OnnxKind::Tensor) = (port.element, &port.shape, port.kind) else {
        return Err(unknown("is no tensor of a known type and number of dimensions"));
    };
    let length = |(at, dim): (usize, &OnnxDim)| match dim {
        OnnxDim::Fixed(length) => *length,
        OnnxDim::Named(name) if dims.iter().any(|(known, _)| known == name) => {
            dims.iter().find(|(known, _)| known == name).map_or(1, |(_, length)| *length)
        }
        OnnxDim::Named(_) | OnnxDim::Any(()) if at == 0 => 1,
        OnnxDim::Named(_) | OnnxDim::Any(()) => OPEN_DIM,
    };
    let shape: Vec<u64> = shape.iter().enumerate().map(length).collect();
    let count = shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim));
    let count = count.filter(|count| element.bytes_of(*count).is_none_or(|bytes| bytes <= MOST_BYTES));
    let count = count.ok_or_else(|| {
        Error::Limit(format!("{file}: input \"{}\" of {shape:?} is too large; {give}", port.name))
    })?;
    let data = if element == ElementType::String {
        ArrayData::Strings((0..count).map(|i| i.to_string().into_bytes()).collect())
    } else {
        ArrayData::Bytes(
            random_bytes(element, count, state)
                .ok_or_else(|| unknown("is of a type without random values"))?,
        )
    };
    Ok(Array { element, shape, data })
}

/// `None` for types that random values have no meaning in.
fn random_bytes(element: ElementType, count: u64, state: &mut u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(element.bytes_of(count)?).ok()?);
    let mut unit = || (next(state) >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
    match element {
        ElementType::Float32 => (0..count).for_each(|_| bytes.extend(unit().to_le_bytes())),
        ElementType::Float64 => (0..count).for_each(|_| bytes.extend(f64::from(unit()).to_le_bytes())),
        ElementType::Float16 => {
            (0..count).for_each(|_| bytes.extend(half::f16::from_f32(unit()).to_le_bytes()))
        }
        ElementType::Bfloat16 => {
            (0..count).for_each(|_| bytes.extend(half::bf16::from_f32(unit()).to_le_bytes()))
        }
        ElementType::Bool
        | ElementType::Uint8
        | ElementType::Int8
        | ElementType::Uint16
        | ElementType::Int16
        | ElementType::Uint32
        | ElementType::Int32
        | ElementType::Uint64
        | ElementType::Int64 => {
            let each = element.bits()? as usize / 8;
            for _ in 0..count {
                let value = (next(state) >> 33) % INTEGERS;
                bytes.extend_from_slice(&value.to_le_bytes()[..each]);
            }
        }
        _ => return None,
    }
    Some(bytes)
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

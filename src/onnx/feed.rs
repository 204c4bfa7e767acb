//! Inputs of a run that are held until it is over: arrays from files, and made-up ones.

use super::api::Runtime;
use super::ports;
use super::value::{Input, TensorData, TensorView, Value};
use crate::container::npy::{Array, ArrayData};
use crate::error::{Error, Result};
use crate::graph::element::ElementType;
use crate::graph::onnx::{OnnxDim, OnnxKind, OnnxPort};

/// Bytes that a string takes in memory.
const STRING_BYTES: u64 = 64;

/// Inputs by name.
#[derive(Debug, Default)]
pub struct Feed(Vec<(String, Fed)>);

#[derive(Debug)]
enum Fed {
    Array(Array),
    Value(Value),
}

impl Feed {
    /// Adds an array under `name`.
    ///
    /// # Errors
    /// Those of making a value of strings.
    pub fn add(&mut self, runtime: &'static Runtime, name: &str, array: Array) -> Result<()> {
        let fed = match &array.data {
            ArrayData::Bytes(_) => Fed::Array(array),
            ArrayData::Strings(strings) => {
                let strings: Vec<&[u8]> = strings.iter().map(Vec::as_slice).collect();
                let data = TensorData::Strings(&strings);
                Fed::Value(Value::tensor(
                    runtime,
                    &TensorView { element: array.element, shape: &array.shape, data },
                )?)
            }
        };
        self.0.push((name.to_owned(), fed));
        Ok(())
    }

    /// Whether there is an input of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(own, _)| own == name)
    }

    /// The inputs, as a run takes them.
    #[must_use]
    pub fn inputs(&self) -> Vec<(&str, Input<'_>)> {
        self.0.iter().map(|(name, fed)| (name.as_str(), fed.input())).collect()
    }
}

impl Fed {
    fn input(&self) -> Input<'_> {
        match self {
            Self::Value(value) => Input::Value(value),
            Self::Array(Array { element, shape, data }) => {
                let bytes = if let ArrayData::Bytes(bytes) = data { bytes.as_slice() } else { &[] };
                Input::Tensor(TensorView { element: *element, shape, data: TensorData::Bytes(bytes) })
            }
        }
    }
}

/// An array for an input, the same for the same seed: numbers between -1 and 1, whole ones 0 or 1, as they may be indices.
/// Dimensions with a name have the length that `dims` gives them, others that are open the length 1. `room` is how many bytes
/// it may have, and then how many are left.
///
/// # Errors
/// [`Error::Unsupported`] where the input takes no tensor of a known type and rank; [`Error::Limit`] where it would be too
/// large.
pub fn made_up(port: &OnnxPort, dims: &[(String, u64)], seed: u64, room: &mut u64) -> Result<Array> {
    let (Some(element), Some(shape), OnnxKind::Tensor) = (port.element, &port.shape, port.kind) else {
        return Err(Error::Unsupported(format!(
            "input {} has no tensor type and shape from which one could be made up; give it with --input",
            ports::described(port)
        )));
    };
    let len = |dim: &OnnxDim| match dim {
        OnnxDim::Fixed(len) => *len,
        OnnxDim::Named(name) => dims.iter().find(|(own, _)| own == name).map_or(1, |(_, len)| *len),
        OnnxDim::Any(()) => 1,
    };
    let shape: Vec<u64> = shape.iter().map(len).collect();
    let most = *room;
    let too_large = || {
        Error::Limit(format!(
            "input {} of shape {shape:?} is larger than made-up ones may be ({most} bytes more)",
            port.name
        ))
    };
    let count =
        shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim)).ok_or_else(too_large)?;
    let bytes = match element {
        ElementType::String => count.checked_mul(STRING_BYTES),
        _ => element.bytes_of(count),
    };
    let bytes = bytes.ok_or_else(too_large)?;
    *room = room.checked_sub(bytes).ok_or_else(too_large)?;
    let mut random = Random(seed ^ 0x9e37_79b9_7f4a_7c15);
    let data = match element {
        ElementType::String => ArrayData::Strings((0..count).map(|_| vec![b'a' + random.bit()]).collect()),
        _ => {
            let mut data = Vec::new();
            data.try_reserve_exact(bytes as usize).map_err(|_| too_large())?;
            numbers(element, count, &mut random, &mut data);
            data.resize(bytes as usize, 0);
            ArrayData::Bytes(data)
        }
    };
    Ok(Array { element, shape, data })
}

fn numbers(element: ElementType, count: u64, random: &mut Random, data: &mut Vec<u8>) {
    for _ in 0..count {
        match element {
            ElementType::Float32 | ElementType::Complex64 => {
                for _ in 0..element.bits().unwrap_or(32) / 32 {
                    data.extend((random.unit() as f32).to_le_bytes());
                }
            }
            ElementType::Float64 | ElementType::Complex128 => {
                for _ in 0..element.bits().unwrap_or(64) / 64 {
                    data.extend(random.unit().to_le_bytes());
                }
            }
            ElementType::Float16 => data.extend(half::f16::from_f64(random.unit()).to_le_bytes()),
            ElementType::Bfloat16 => data.extend(half::bf16::from_f64(random.unit()).to_le_bytes()),
            other => {
                // Kinds of float8 have a small positive number there.
                let bytes = (other.bits().unwrap_or(8) / 8) as usize;
                data.extend((0..bytes).map(|byte| if byte == 0 { random.bit() } else { 0 }));
            }
        }
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    fn bit(&mut self) -> u8 {
        (self.next() >> 63) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_inputs_have_the_shape_that_is_asked_for() {
        let shape = Some(vec![OnnxDim::Named("n".into()), OnnxDim::Fixed(3), OnnxDim::Any(())]);
        for element in ElementType::all() {
            let port = OnnxPort {
                name: "x".into(),
                kind: OnnxKind::Tensor,
                type_name: None,
                element: Some(element),
                shape: shape.clone(),
                optional: false,
            };
            let made = made_up(&port, &[("n".into(), 5)], 7, &mut (1 << 20)).unwrap();
            assert_eq!((made.element, made.shape.as_slice()), (element, &[5, 3, 1][..]));
            match &made.data {
                ArrayData::Bytes(bytes) => assert_eq!(Some(bytes.len() as u64), element.bytes_of(15)),
                ArrayData::Strings(strings) => assert_eq!(strings.len(), 15),
            }
            assert_eq!(made, made_up(&port, &[("n".into(), 5)], 7, &mut (1 << 20)).unwrap());
            assert!(made_up(&port, &[("n".into(), u64::MAX)], 7, &mut (1 << 20)).is_err());
        }
        let float = OnnxPort {
            name: "x".into(),
            kind: OnnxKind::Tensor,
            type_name: None,
            element: Some(ElementType::Float32),
            shape,
            optional: false,
        };
        let ArrayData::Bytes(bytes) = made_up(&float, &[("n".into(), 500)], 1, &mut (1 << 20)).unwrap().data
        else {
            panic!()
        };
        let values: Vec<f32> =
            bytes.chunks(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
        assert!(values.iter().all(|v| (-1.0..1.0).contains(v)));
        assert!(values.iter().any(|v| *v < -0.9) && values.iter().any(|v| *v > 0.9));
        let mut room = 500 * 3 * 4;
        assert!(made_up(&float, &[("n".into(), 500)], 1, &mut room).is_ok());
        assert!(room == 0 && made_up(&float, &[], 1, &mut room).is_err());
        let sequence = OnnxPort { kind: OnnxKind::Sequence, ..float };
        assert!(made_up(&sequence, &[], 1, &mut (1 << 20)).is_err());
    }
}

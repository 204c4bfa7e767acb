//! A tensor's data: where it is, whether it is as long as its shape and type need, and its plain little-endian bytes.

use bytes::Bytes;

use super::proto::{Packed, TensorProto};
use super::source::{Region, Source};
use crate::error::{Error, Result};
use crate::graph::element::ElementType;

/// Weights from this size on are stored in capsules; smaller tensors stay in the graph.
const MIN_WEIGHT: u64 = 1024;
/// As [`MIN_WEIGHT`], of 32-bit and 64-bit integers: shorter ones are shapes and indices, which a runtime must see when it
/// infers shapes.
const MIN_INTEGERS: u64 = 64 << 10;
/// Dimensions of a tensor at most, as the container has it.
const MAX_DIMS: usize = 64;
/// Bytes that are read and handed on at a time.
const PIECE: usize = 1 << 20;

/// A weight: a tensor whose bytes are streamed from the source into a capsule.
#[derive(Clone, Debug)]
pub struct Weight {
    /// Type of the elements.
    pub element: ElementType,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// Its bytes.
    pub len: u64,
    data: Data,
}

/// Where a tensor's data is.
#[derive(Clone, Debug)]
enum Data {
    /// Plain bytes in a file.
    Region(Region),
    /// Plain bytes in memory.
    Bytes(Bytes),
    /// The packed plain numbers of one of protobuf's fixed-size fields.
    Fixed(Packed),
    /// Packed varints, each of which holds an element of this many bytes in its low ones.
    Varints(Packed, usize),
}

/// What is known of a tensor after its check.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The tensor as a weight; `None` of strings.
    weight: Option<Weight>,
}

impl Checked {
    /// Holds a tensor's data against its shape and type. Nothing of it is read.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming model and tensor; those of [`Source::external`].
    pub fn new(source: &mut Source, tensor: &TensorProto) -> Result<Self> {
        let name = source.name();
        let bad = |why: String| Error::malformed(&name, format!("tensor {}: {why}", tensor.name()));
        let element = ElementType::from_onnx(tensor.data_type())
            .ok_or_else(|| bad(format!("its element type has the unknown number {}", tensor.data_type())))?;
        if tensor.segment.is_some() {
            return Err(Error::Unsupported(format!(
                "{name}: tensor {}: it is one of several segments",
                tensor.name()
            )));
        }
        if tensor.dims.len() > MAX_DIMS {
            return Err(bad(format!("{} dimensions; at most {MAX_DIMS} are possible", tensor.dims.len())));
        }
        let shape: Option<Vec<u64>> = tensor.dims.iter().map(|d| u64::try_from(*d).ok()).collect();
        let wrong = || bad(format!("its shape {:?} is negative or too large", tensor.dims));
        let shape = shape.ok_or_else(wrong)?;
        let count = product(&shape).ok_or_else(wrong)?;
        let Some(len) = element.bytes_of(count).filter(|len| usize::try_from(*len).is_ok()) else {
            if element != ElementType::String {
                return Err(wrong());
            }
            let found = tensor.string_data.len() as u64;
            if tensor.is_external() || found != count {
                return Err(bad(format!("it holds {found} strings where its shape {shape:?} needs {count}")));
            }
            return Ok(Self { weight: None });
        };
        let data = Data::of(source, tensor, element, len)?;
        let found = match &data {
            Data::Region(region) => region.len,
            Data::Bytes(bytes) => bytes.len() as u64,
            Data::Fixed(packed) => packed.len() as u64,
            Data::Varints(packed, width) => varints(packed) as u64 * *width as u64,
        };
        if found != len {
            return Err(bad(format!(
                "its data has {found} bytes where its shape {shape:?} of {} needs {len}",
                element.name()
            )));
        }
        Ok(Self { weight: Some(Weight { element, shape, len, data }) })
    }

    /// The tensor as a weight, where it is large enough to be one.
    #[must_use]
    pub fn weight(&self) -> Option<&Weight> {
        let weight = self.weight.as_ref()?;
        let bits = u64::from(weight.element.bits()?);
        let least = match weight.element {
            ElementType::Int32 | ElementType::Int64 => MIN_INTEGERS,
            _ => MIN_WEIGHT,
        };
        let whole = bits.is_multiple_of(8)
            || weight.shape.last().is_some_and(|last| last.saturating_mul(bits).is_multiple_of(8));
        (weight.len >= least && whole).then_some(weight)
    }

    /// The same tensor with its data in it, where that lay in another file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Limit`] where all such data would take too much memory.
    pub fn inlined(&self, source: &mut Source, tensor: &TensorProto) -> Result<TensorProto> {
        let mut own = TensorProto { external_data: Vec::new(), data_location: None, ..tensor.clone() };
        if let (Some(weight), true) = (&self.weight, tensor.is_external()) {
            source.keep_in_memory(weight.len)?;
            let mut raw = Vec::new();
            weight.stream(source, &mut |bytes| {
                raw.extend_from_slice(bytes);
                Ok(())
            })?;
            own.raw_data = Some(raw.into());
        }
        Ok(own)
    }
}

/// The number of elements; `None` where it does not fit. A dimension of 0 does not hide one that is too large.
fn product(shape: &[u64]) -> Option<u64> {
    let filled = shape.iter().filter(|d| **d > 0).try_fold(1u64, |n, d| n.checked_mul(*d))?;
    // What fits no memory is an error of shape, even where nothing of it is stored.
    (filled <= i64::MAX as u64).then_some(if shape.contains(&0) { 0 } else { filled })
}

impl Data {
    fn of(source: &mut Source, tensor: &TensorProto, element: ElementType, len: u64) -> Result<Self> {
        use ElementType as E;
        if tensor.is_external() {
            return Ok(Self::Region(source.external(tensor, len)?));
        }
        // Some writers set it and leave it empty.
        if let Some(raw) = tensor.raw_data.as_ref().filter(|raw| len == 0 || !raw.is_empty()) {
            // Read from the file instead of through the map, so that it does not stay in this process's memory.
            let place = source.place_of(raw).filter(|_| raw.len() >= MIN_WEIGHT as usize);
            return Ok(place.map_or_else(|| Self::Bytes(raw.clone()), Self::Region));
        }
        let bits = element.bits().unwrap_or(8) as usize;
        Ok(match element {
            E::Float32 | E::Complex64 => Self::Fixed(tensor.float_data.clone()),
            E::Float64 | E::Complex128 => Self::Fixed(tensor.double_data.clone()),
            E::Int64 => Self::Varints(tensor.int64_data.clone(), 8),
            E::Uint32 | E::Uint64 => Self::Varints(tensor.uint64_data.clone(), bits / 8),
            _ => Self::Varints(tensor.int32_data.clone(), bits.div_ceil(8)),
        })
    }
}

/// How many varints there are.
fn varints(packed: &Packed) -> usize {
    packed.parts().flatten().filter(|byte| **byte < 0x80).count()
}

impl Weight {
    /// Hands the plain little-endian bytes to `sink` in pieces of about a megabyte.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] for a number that is none; what `sink` returns.
    pub fn stream(&self, source: &Source, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        match &self.data {
            Data::Bytes(bytes) => bytes.chunks(PIECE).try_for_each(sink),
            Data::Fixed(packed) => packed.parts().flat_map(|part| part.chunks(PIECE)).try_for_each(sink),
            Data::Region(region) => {
                let mut piece = vec![0; PIECE.min(region.len as usize)];
                let mut at = 0;
                while at < region.len {
                    let len = (region.len - at).min(PIECE as u64) as usize;
                    source.read(region, at, &mut piece[..len])?;
                    sink(&piece[..len])?;
                    at += len as u64;
                }
                Ok(())
            }
            Data::Varints(packed, width) => {
                let mut piece = Vec::with_capacity(PIECE + 8);
                let (mut value, mut shift) = (0u64, 0u32);
                for byte in packed.parts().flatten() {
                    value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
                    shift = shift.saturating_add(7);
                    if *byte >= 0x80 {
                        continue;
                    }
                    piece.extend_from_slice(&value.to_le_bytes()[..*width]);
                    (value, shift) = (0, 0);
                    if piece.len() >= PIECE {
                        sink(&piece)?;
                        piece.clear();
                    }
                }
                if piece.is_empty() { Ok(()) } else { sink(&piece) }
            }
        }
    }
}

//! Taking a capsule's tensors out of the store, in the layout that the caller asks for.

use std::borrow::Cow;

use super::budget::Claim;
use super::{Store, View};
use crate::container::manifest::{Capsule, Layout, Tensor};
use crate::container::reader::tensor_bytes;
use crate::error::{Error, Result};
use crate::graph::element::ElementType;
use crate::kernels::encoding::{self, Encoding};
use crate::kernels::pack;
use crate::pool::{CancelToken, unless_cancelled};

/// How fetched tensors are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FetchLayout {
    /// Row after row in the encoding that the file holds: of a full file and of pins the source's own bytes, else the
    /// mini's own form.
    #[default]
    Source,
    /// As kernels read them: matrices packed, the planes of a divided tensor joined.
    Stored,
    /// Decoded to f32, row after row.
    F32,
}

impl FetchLayout {
    /// The layout's name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Stored => "stored",
            Self::F32 => "f32",
        }
    }
}

/// A tensor that was taken out.
#[derive(Clone, Debug)]
pub struct FetchedTensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// Dimensions, outermost first.
    pub shape: &'a [u64],
    /// Encoding of `bytes`: the stored one, or `f32`.
    pub encoding: &'static str,
    /// `rows`, `packed8` or `plain`.
    pub layout: &'static str,
    /// The bytes; borrowed from the map where no conversion was needed.
    pub bytes: Cow<'a, [u8]>,
}

/// A capsule that was taken out.
#[derive(Debug)]
pub struct FetchedCapsule<'a> {
    /// The capsule.
    pub id: &'a str,
    /// The file that served it.
    pub file: &'a str,
    /// `full`, or as the mini that serves it holds it: `pinned`, `light`, `nested`.
    pub precision: &'static str,
    /// Its tensors, in the order of use.
    pub tensors: Vec<FetchedTensor<'a>>,
    /// What the tensors' own memory takes of the model's budget, where it has one.
    pub claim: Option<Claim>,
}

impl Store {
    /// Takes capsule `id` out: as the mini holds it in mode fast, at full precision in every other mode. Each
    /// plane is held against its checksum.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Corrupt`] naming capsule and tensor; [`Error::Limit`] where a budget has no room for
    /// it.
    pub fn fetch(&self, id: &str, layout: FetchLayout) -> Result<FetchedCapsule<'_>> {
        self.fetch_until(id, layout, None)
    }

    /// As [`fetch`](Self::fetch), until `cancel` is cancelled: it is looked at every few megabytes where the file is
    /// mapped, and before every plane where it is read.
    ///
    /// # Errors
    /// Those of [`fetch`](Self::fetch); [`Error::Cancelled`].
    pub fn fetch_until(
        &self,
        id: &str,
        layout: FetchLayout,
        cancel: Option<&CancelToken>,
    ) -> Result<FetchedCapsule<'_>> {
        let index = self.find(id)?;
        let (file, capsule) = self.capsule(index)?;
        let precision = match capsule.residence {
            None => "full",
            Some(residence) => residence.name(),
        };
        self.count_use(index);
        self.ask_for(index, 0..usize::MAX);
        let mut claim = match self.budget() {
            Some(budget) => Some(budget.claim("a fetched capsule", most_bytes(capsule, layout)?)?),
            None => None,
        };
        let mut tensors = Vec::with_capacity(capsule.tensors.len());
        for (number, tensor) in capsule.tensors.iter().enumerate() {
            let mut planes = Vec::with_capacity(tensor.planes.len());
            for (plane, described) in tensor.planes.iter().enumerate() {
                unless_cancelled(cancel)?;
                planes.push(if self.is_mapped() {
                    let bytes = file.plane(capsule, tensor, plane)?;
                    file.check_plane((capsule, tensor, plane), bytes, cancel)?;
                    Cow::Borrowed(bytes)
                } else {
                    let all = 0..described.len as usize;
                    let stored = self.stored(View::Promised, index, number, plane, all)?;
                    file.check_plane((capsule, tensor, plane), stored.as_ref(), cancel)?;
                    Cow::Owned(stored.as_ref().to_vec())
                });
            }
            let stored = joined(tensor, planes).ok_or_else(|| file.not_stored(capsule, tensor))?;
            tensors.push(lay_out(tensor, stored, layout, cancel)?);
        }
        if let Some(claim) = &mut claim {
            let own = |tensor: &FetchedTensor<'_>| match &tensor.bytes {
                Cow::Borrowed(_) => 0,
                Cow::Owned(bytes) => bytes.len() as u64,
            };
            claim.resize(tensors.iter().map(own).sum())?;
        }
        Ok(FetchedCapsule { id: &capsule.id, file: file.name(), precision, tensors, claim })
    }
}

/// Bytes that taking a capsule out takes at most while it goes on: all that is given, and beside it one form of the largest
/// tensor, of which each step makes the next.
fn most_bytes(capsule: &Capsule, layout: FetchLayout) -> Result<u64> {
    let (mut given, mut largest) = (0u64, 0);
    for tensor in &capsule.tensors {
        let packed = tensor_bytes(tensor)
            .map_err(|why| Error::Internal(format!("tensor {} passed the reader: {why}", tensor.name)))?;
        let count = tensor.shape.iter().fold(1u64, |count, dim| count.saturating_mul(*dim));
        let decoded = count.saturating_mul(4);
        let own = if layout == FetchLayout::F32 { decoded.max(packed) } else { packed };
        given = given.saturating_add(own);
        largest = packed.max(largest);
    }
    Ok(given.saturating_add(largest))
}

/// Rows and columns of a tensor whose outer dimensions are flattened. The reader checked that they fit.
#[must_use]
pub fn rows_cols(tensor: &Tensor) -> (usize, usize) {
    match tensor.shape.split_last() {
        Some((cols, outer)) => (outer.iter().product::<u64>() as usize, *cols as usize),
        None => (0, 0),
    }
}

/// The encoding of a tensor of an opened file.
///
/// # Errors
/// [`Error::Internal`]: the reader refuses files with unknown encodings.
pub fn encoding_of(tensor: &Tensor) -> Result<&'static Encoding> {
    encoding::by_name(&tensor.encoding)
        .ok_or_else(|| Error::Internal(format!("encoding {} passed the reader", tensor.encoding)))
}

/// The stored form of a tensor from its planes; where the first alone is there, its coarse form. `None` without any.
fn joined<'a>(tensor: &Tensor, planes: Vec<Cow<'a, [u8]>>) -> Option<Cow<'a, [u8]>> {
    let division = encoding::by_name(&tensor.encoding).and_then(|encoding| encoding.division);
    let mut planes = planes.into_iter();
    let first = planes.next()?;
    let Some(division) = division.filter(|_| tensor.division.is_some()) else { return Some(first) };
    let blocks = first.len() / division.bytes[0];
    let mut packed = vec![0; blocks * division.bytes.iter().sum::<usize>()];
    division.join(&first, planes.next().as_deref(), &mut packed);
    Some(Cow::Owned(packed))
}

fn lay_out<'a>(
    tensor: &'a Tensor,
    bytes: Cow<'a, [u8]>,
    layout: FetchLayout,
    cancel: Option<&CancelToken>,
) -> Result<FetchedTensor<'a>> {
    unless_cancelled(cancel)?;
    if tensor.layout == Layout::Plain {
        return plain(tensor, bytes, layout, cancel);
    }
    let encoding = encoding_of(tensor)?;
    let (rows, cols) = rows_cols(tensor);
    let source_rows = |bytes: Cow<'a, [u8]>| -> Result<Cow<'a, [u8]>> {
        match tensor.layout {
            Layout::Rows | Layout::Plain => Ok(bytes),
            Layout::Packed8 => {
                let row = pack::row_bytes(encoding, cols)
                    .ok_or_else(|| Error::Internal(format!("shape of {} passed the reader", tensor.name)))?;
                let mut out = vec![0; rows * row];
                pack::unpack(encoding, cols, rows, &bytes, &mut out)?;
                Ok(Cow::Owned(out))
            }
        }
    };
    let (name_of_encoding, name_of_layout, bytes) = match layout {
        FetchLayout::Stored => (encoding.name, tensor.layout.name(), bytes),
        FetchLayout::Source => (encoding.name, "rows", source_rows(bytes)?),
        FetchLayout::F32 => {
            let source = source_rows(bytes)?;
            let mut out = Vec::with_capacity(rows * cols * 4);
            let mut decoded = vec![0f32; cols];
            for row in source.chunks_exact(source.len() / rows) {
                unless_cancelled(cancel)?;
                encoding.decode(row, &mut decoded)?;
                out.extend(decoded.iter().flat_map(|v| v.to_le_bytes()));
            }
            ("f32", "rows", Cow::Owned(out))
        }
    };
    Ok(FetchedTensor {
        name: &tensor.name,
        shape: &tensor.shape,
        encoding: name_of_encoding,
        layout: name_of_layout,
        bytes,
    })
}

/// A tensor of plain elements: as it is stored in every layout but f32.
fn plain<'a>(
    tensor: &'a Tensor,
    bytes: Cow<'a, [u8]>,
    layout: FetchLayout,
    cancel: Option<&CancelToken>,
) -> Result<FetchedTensor<'a>> {
    let element = ElementType::by_name(&tensor.encoding)
        .ok_or_else(|| Error::Internal(format!("element type {} passed the reader", tensor.encoding)))?;
    let (encoding, layout, bytes) = match layout {
        FetchLayout::Source | FetchLayout::Stored => (element.name(), tensor.layout.name(), bytes),
        FetchLayout::F32 => {
            ("f32", Layout::Rows.name(), Cow::Owned(as_f32(tensor, element, &bytes, cancel)?))
        }
    };
    Ok(FetchedTensor { name: &tensor.name, shape: &tensor.shape, encoding, layout, bytes })
}

/// Numbers of whole bytes as f32.
fn as_f32(
    tensor: &Tensor,
    element: ElementType,
    bytes: &[u8],
    cancel: Option<&CancelToken>,
) -> Result<Vec<u8>> {
    fn each<const N: usize>(bytes: &[u8], out: &mut Vec<u8>, number: impl Fn([u8; N]) -> f32) {
        out.extend(bytes.as_chunks::<N>().0.iter().flat_map(|b| number(*b).to_le_bytes()));
    }
    use ElementType as E;
    let width = match element.bits() {
        Some(bits) if bits.is_multiple_of(8) => (bits / 8) as usize,
        _ => 1,
    };
    let mut out = Vec::with_capacity(bytes.len() / width * 4);
    for piece in bytes.chunks((1 << 20) * width) {
        unless_cancelled(cancel)?;
        let out = &mut out;
        match element {
            E::Float32 => out.extend_from_slice(piece),
            E::Float64 => each(piece, out, |b| f64::from_le_bytes(b) as f32),
            E::Float16 => each(piece, out, |b| half::f16::from_le_bytes(b).to_f32()),
            E::Bfloat16 => each(piece, out, |b| half::bf16::from_le_bytes(b).to_f32()),
            E::Uint8 | E::Bool => each(piece, out, |b| f32::from(u8::from_le_bytes(b))),
            E::Int8 => each(piece, out, |b| f32::from(i8::from_le_bytes(b))),
            E::Uint16 => each(piece, out, |b| f32::from(u16::from_le_bytes(b))),
            E::Int16 => each(piece, out, |b| f32::from(i16::from_le_bytes(b))),
            E::Uint32 => each(piece, out, |b| u32::from_le_bytes(b) as f32),
            E::Int32 => each(piece, out, |b| i32::from_le_bytes(b) as f32),
            E::Uint64 => each(piece, out, |b| u64::from_le_bytes(b) as f32),
            E::Int64 => each(piece, out, |b| i64::from_le_bytes(b) as f32),
            _ => {
                return Err(Error::Unsupported(format!(
                    "tensor {}: elements of type {} cannot be decoded to f32; fetch them in layout source",
                    tensor.name,
                    element.name()
                )));
            }
        }
    }
    Ok(out)
}

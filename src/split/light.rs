//! Light forms: re-encoding a stored tensor at lower precision.

use std::sync::{Mutex, OnceLock, PoisonError};

use crate::container::manifest::{Capsule, Layout, Tensor};
use crate::error::{Error, Result};
use crate::kernels::division::Planes;
use crate::kernels::encoding::Encoding;
use crate::kernels::pack;
use crate::pool::{Gate, Pool, StandardFloats};
use crate::store::fetch::{encoding_of, rows_cols};
use crate::store::mapped::MappedFile;

/// Rows of a tensor on which the planner measures a light form's error.
const SAMPLED_ROWS: usize = 24;
/// Elements that are re-encoded between two calls of the sink.
const CHUNK: usize = 1 << 20;

/// A stored tensor of which rows can be decoded.
#[derive(Clone, Copy)]
struct Rows<'a> {
    encoding: &'static Encoding,
    layout: Layout,
    planes: Planes<'a>,
    rows: usize,
    cols: usize,
}

/// Memory for a row group of divided planes that was joined.
#[derive(Default)]
struct Group {
    /// Which it is of the [`Rows`] it is used with.
    number: Option<usize>,
    bytes: Vec<u8>,
}

impl<'a> Rows<'a> {
    fn new(file: &'a MappedFile, capsule: &Capsule, tensor: &Tensor) -> Result<Self> {
        let (rows, cols) = rows_cols(tensor);
        let planes = file.planes(capsule, tensor)?;
        Ok(Self { encoding: encoding_of(tensor)?, layout: tensor.layout, planes, rows, cols })
    }

    /// The same, but of a divided tensor the coarse form; `None` where it is not divided.
    fn coarse(self) -> Option<Self> {
        match self.planes {
            Planes::Both([first, _]) => Some(Self { planes: Planes::First(first), ..self }),
            Planes::Whole(_) | Planes::First(_) => None,
        }
    }

    /// Decodes a row; `group` holds the row group of the last one, of these rows and no others.
    fn decode(&self, row: usize, group: &mut Group, out: &mut [f32]) -> Result<()> {
        let (first, second) = match (self.planes, self.layout) {
            (Planes::Whole(bytes), Layout::Packed8) => {
                return pack::dequantize_row(self.encoding, bytes, self.rows, self.cols, row, out);
            }
            (Planes::Whole(bytes), Layout::Rows | Layout::Plain) => {
                let len = bytes.len() / self.rows;
                return self.encoding.decode(&bytes[row * len..][..len], out);
            }
            (Planes::First(first), _) => (first, None),
            (Planes::Both([first, second]), _) => (first, Some(second)),
        };
        let divided = || Error::Internal(format!("{} is divided, which it cannot be", self.encoding.name));
        let division = self.encoding.division.ok_or_else(divided)?;
        let at = row / pack::GROUP;
        if group.number != Some(at) {
            let [coarse, fine] = division.group_bytes(self.cols);
            let part =
                |plane: &'a [u8], each: usize| plane.get(at * each..(at + 1) * each).ok_or_else(divided);
            group.number = None;
            group.bytes.resize(coarse + fine, 0);
            let second = second.map(|second| part(second, fine)).transpose()?;
            division.join(part(first, coarse)?, second, &mut group.bytes);
            group.number = Some(at);
        }
        pack::dequantize_row(self.encoding, &group.bytes, pack::GROUP, self.cols, row % pack::GROUP, out)
    }
}

/// Squared error of `target`'s codes relative to the weights, on rows spread over the tensor; each column counts by its
/// `importance`.
pub fn sampled_error(
    file: &MappedFile,
    capsule: &Capsule,
    tensor: &Tensor,
    target: &Encoding,
    importance: Option<&[f32]>,
) -> Result<f64> {
    let cols = rows_cols(tensor).1;
    let len = pack::row_bytes(target, cols)
        .ok_or_else(|| Error::Internal(format!("{} does not suit {}", target.name, tensor.name)))?;
    let mut codes = vec![0; len];
    let source = Rows::new(file, capsule, tensor)?;
    error_of(source, importance, &mut |_, exact, out| {
        target.encode(exact, importance, &mut codes)?;
        target.decode(&codes, out)
    })
}

/// As [`sampled_error`], of the first plane of a divided tensor; 0 of one that is not divided.
pub fn nested_error(
    file: &MappedFile,
    capsule: &Capsule,
    tensor: &Tensor,
    importance: Option<&[f32]>,
) -> Result<f64> {
    let source = Rows::new(file, capsule, tensor)?;
    let Some(coarse) = source.coarse() else { return Ok(0.0) };
    let mut group = Group::default();
    error_of(source, importance, &mut |row, _, out| coarse.decode(row, &mut group, out))
}

/// Makes something of a row: takes its number, the row, and room for what is made.
type Approximate<'a> = dyn FnMut(usize, &[f32], &mut [f32]) -> Result<()> + 'a;

/// The error of what `approximate` makes of sampled rows.
fn error_of(source: Rows<'_>, importance: Option<&[f32]>, approximate: &mut Approximate<'_>) -> Result<f64> {
    let _floats = StandardFloats::enter();
    let sampled = source.rows.min(SAMPLED_ROWS);
    let (mut exact, mut coarse, mut group) =
        (vec![0.0; source.cols], vec![0.0; source.cols], Group::default());
    let (mut error, mut power) = (0.0, 0.0);
    for i in 0..sampled {
        let row = i * source.rows / sampled;
        source.decode(row, &mut group, &mut exact)?;
        approximate(row, &exact, &mut coarse)?;
        for (column, (a, b)) in exact.iter().zip(&coarse).enumerate() {
            let weight = importance.and_then(|weights| weights.get(column)).map_or(1.0, |w| f64::from(*w));
            error += weight * f64::from(a - b).powi(2);
            power += weight * f64::from(*a).powi(2);
        }
    }
    Ok(if power > 0.0 { error / power } else { 0.0 })
}

/// Re-encodes a stored tensor as `target` and hands the bytes to `sink` in the order in which they are
/// stored. The result does not depend on the number of threads.
pub fn stream(
    file: &MappedFile,
    capsule: &Capsule,
    tensor: &Tensor,
    target: &'static Encoding,
    importance: Option<&[f32]>,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let _floats = StandardFloats::enter();
    let pool = Pool::new(0)?;
    let source = Rows::new(file, capsule, tensor)?;
    let row = pack::row_bytes(target, source.cols)
        .ok_or_else(|| Error::Internal(format!("{} does not suit {}", target.name, tensor.name)))?;
    let step = (CHUNK / source.cols / pack::GROUP).max(1) * pack::GROUP;
    let (mut codes, mut packed) = (Vec::new(), Vec::new());
    let mut first = 0;
    while first < source.rows {
        let n = step.min(source.rows - first);
        codes.resize(n * row, 0);
        encode_rows(&pool, &source, first, (target, importance), &mut codes)?;
        match tensor.layout {
            Layout::Rows | Layout::Plain => sink(&codes)?,
            Layout::Packed8 => {
                packed.resize(n.next_multiple_of(pack::GROUP) * row, 0);
                pack::pack(target, source.cols, &codes, &mut packed)?;
                sink(&packed)?;
            }
        }
        first += n;
    }
    Ok(())
}

/// Encodes the rows from `first` on that `codes` has room for, on all threads of `pool`.
fn encode_rows(
    pool: &Pool,
    source: &Rows<'_>,
    first: usize,
    (target, importance): (&Encoding, Option<&[f32]>),
    codes: &mut [u8],
) -> Result<()> {
    let row = pack::row_bytes(target, source.cols).unwrap_or(codes.len()).max(1);
    let share = (codes.len() / row).div_ceil(pool.threads()).max(1);
    let parts: Vec<Mutex<&mut [u8]>> = codes.chunks_mut(share * row).map(Mutex::new).collect();
    let encode = |i: usize| -> Result<()> {
        let mut part = parts[i].lock().unwrap_or_else(PoisonError::into_inner);
        let (mut exact, mut group) = (vec![0.0; source.cols], Group::default());
        for (j, out) in part.chunks_exact_mut(row).enumerate() {
            source.decode(first + i * share + j, &mut group, &mut exact)?;
            target.encode(&exact, importance, out)?;
        }
        Ok(())
    };
    let failure = OnceLock::new();
    pool.run(&Gate::open(), 0, parts.len(), &|i| {
        if let Err(error) = encode(i) {
            let _ = failure.set(error);
        }
    });
    failure.into_inner().map_or(Ok(()), Err)
}

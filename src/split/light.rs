//! Light forms: re-encoding a stored tensor at lower precision.

use std::sync::{Mutex, OnceLock, PoisonError};

use crate::container::manifest::{Capsule, Layout, Tensor};
use crate::error::{Error, Result};
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
struct Rows<'a> {
    encoding: &'static Encoding,
    layout: Layout,
    bytes: &'a [u8],
    rows: usize,
    cols: usize,
}

impl<'a> Rows<'a> {
    fn new(file: &'a MappedFile, capsule: &Capsule, tensor: &Tensor) -> Result<Self> {
        let (rows, cols) = rows_cols(tensor);
        let bytes = file.plane(capsule, tensor)?;
        Ok(Self { encoding: encoding_of(tensor)?, layout: tensor.layout, bytes, rows, cols })
    }

    fn decode(&self, row: usize, out: &mut [f32]) -> Result<()> {
        match self.layout {
            Layout::Packed8 => {
                pack::dequantize_row(self.encoding, self.bytes, self.rows, self.cols, row, out)
            }
            Layout::Rows => {
                let len = self.bytes.len() / self.rows;
                self.encoding.decode(&self.bytes[row * len..][..len], out)
            }
        }
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
    let _floats = StandardFloats::enter();
    let source = Rows::new(file, capsule, tensor)?;
    let sampled = source.rows.min(SAMPLED_ROWS);
    let len = pack::row_bytes(target, source.cols)
        .ok_or_else(|| Error::Internal(format!("{} does not suit {}", target.name, tensor.name)))?;
    let (mut exact, mut coarse) = (vec![0.0; source.cols], vec![0.0; source.cols]);
    let mut codes = vec![0; len];
    let (mut error, mut power) = (0.0, 0.0);
    for i in 0..sampled {
        source.decode(i * source.rows / sampled, &mut exact)?;
        target.encode(&exact, importance, &mut codes)?;
        target.decode(&codes, &mut coarse)?;
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
            Layout::Rows => sink(&codes)?,
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
        let mut exact = vec![0.0; source.cols];
        for (j, out) in part.chunks_exact_mut(row).enumerate() {
            source.decode(first + i * share + j, &mut exact)?;
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

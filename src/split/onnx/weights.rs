//! The bytes of light tensors: codes and scales of a weight of the full file.
//!
//! Codes and their scales come from the registry's own encodings of blocks of 32 (q4_0, q8_0), so that one search for the
//! best scale serves both kinds of models; here they are put in the order in which `MatMulNBits` reads them.

use std::sync::{Mutex, PoisonError};

use super::light::{BLOCK, Bits, Held};
use crate::container::manifest::Tensor;
use crate::error::{Error, Result};
use crate::kernels::encoding::{self, Encoding};
use crate::pool::{CancelToken, Gate, Pool, Progress, StandardFloats};

/// Elements that are encoded between two calls of the sink.
const CHUNK: usize = 1 << 20;
/// Bytes of a half-precision scale, with which a block of either encoding starts.
const SCALE: usize = 2;
/// What a code of 8 bits is stored above, and one of 4.
const ZERO: [u8; 2] = [128, 8];

/// Takes codes in order.
pub(super) type Sink<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// A weight of f32, as it lies in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weight<'a> {
    pub tensor: &'a Tensor,
    pub bytes: &'a [u8],
}

impl Weight<'_> {
    /// Hands the codes to `sink` and returns the scales. The result does not depend on the number of threads.
    ///
    /// # Errors
    /// Those of the sink; [`Error::Cancelled`].
    pub fn encode(
        &self,
        held: Held,
        pool: &Pool,
        cancel: Option<&CancelToken>,
        sink: &mut Sink<'_>,
    ) -> Result<Vec<f32>> {
        let _floats = StandardFloats::enter();
        match (held, self.tensor.shape.as_slice()) {
            (Held::Blocks { bits, by_row }, &[rows, cols]) => {
                let (outputs, inner) = if by_row { (rows, cols) } else { (cols, rows) };
                let blocks = Blocks {
                    floats: self.floats(),
                    by_row,
                    outputs: outputs as usize,
                    inner: inner as usize,
                    bits,
                    encoding: encoding_for(bits)?,
                };
                blocks.encode(pool, cancel, sink)
            }
            (Held::Rows, [rows, ..]) => self.by_row(*rows as usize, cancel, sink),
            _ => Err(Error::Internal(format!("weight {} has no light form", self.tensor.name))),
        }
    }

    fn floats(&self) -> &[[u8; 4]] {
        self.bytes.as_chunks().0
    }

    /// A scale for each index of the first dimension: the largest value becomes the largest code.
    fn by_row(&self, rows: usize, cancel: Option<&CancelToken>, sink: &mut Sink<'_>) -> Result<Vec<f32>> {
        let floats = self.floats();
        let each = floats.len() / rows.max(1);
        let mut scales = Vec::with_capacity(rows);
        let mut codes = Vec::with_capacity(each);
        for row in floats.chunks_exact(each.max(1)) {
            crate::pool::unless_cancelled(cancel)?;
            let most = row.iter().map(|x| finite(*x).abs()).fold(0.0, f32::max);
            let scale = most / 127.0;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            codes.clear();
            codes.extend(row.iter().map(|x| {
                // Within -127..=127, by the choice of the scale.
                libm::roundf(finite(*x) * inverse).clamp(-127.0, 127.0) as i8 as u8
            }));
            sink(&codes)?;
            scales.push(scale);
        }
        Ok(scales)
    }
}

fn finite(bytes: [u8; 4]) -> f32 {
    let value = f32::from_le_bytes(bytes);
    if value.is_finite() { value } else { 0.0 }
}

fn encoding_for(bits: Bits) -> Result<&'static Encoding> {
    let missing = || Error::Internal(format!("{} is not in the registry", bits.name()));
    encoding::by_name(bits.name()).ok_or_else(missing)
}

/// Codes and scales.
type Encoded = (Vec<u8>, Vec<f32>);

/// A weight in blocks along its inner dimension.
struct Blocks<'a> {
    floats: &'a [[u8; 4]],
    by_row: bool,
    outputs: usize,
    inner: usize,
    bits: Bits,
    encoding: &'static Encoding,
}

impl Blocks<'_> {
    fn encode(&self, pool: &Pool, cancel: Option<&CancelToken>, sink: &mut Sink<'_>) -> Result<Vec<f32>> {
        let blocks = self.inner.div_ceil(BLOCK as usize);
        let code_bytes = blocks * (BLOCK * self.bits.count() / 8) as usize;
        // Whole cache lines of a row of the weight are gathered at once where outputs are columns.
        let step = (CHUNK / (blocks * BLOCK as usize)).max(16).min(self.outputs.max(1));
        let mut scales = Vec::with_capacity(self.outputs * blocks);
        let mut first = 0;
        while first < self.outputs {
            let n = step.min(self.outputs - first);
            let results: Vec<Mutex<Result<Encoded>>> =
                (0..n.div_ceil(16)).map(|_| Mutex::new(Ok(Encoded::default()))).collect();
            let gate = Gate { deadline: None, cancel: cancel.cloned() };
            let done = pool.run(&gate, 0, results.len(), &|task| {
                let from = first + 16 * task;
                let made = self.group(from, 16.min(first + n - from), code_bytes);
                if let Some(place) = results.get(task) {
                    *place.lock().unwrap_or_else(PoisonError::into_inner) = made;
                }
            });
            if !matches!(done, Progress::Done) {
                return Err(Error::Cancelled);
            }
            for result in results {
                let (codes, own) = result.into_inner().unwrap_or_else(PoisonError::into_inner)?;
                sink(&codes)?;
                scales.extend(own);
            }
            first += n;
        }
        Ok(scales)
    }

    /// Codes and scales of outputs `from` and `n - 1` behind it.
    fn group(&self, from: usize, n: usize, code_bytes: usize) -> Result<Encoded> {
        let padded = self.inner.next_multiple_of(BLOCK as usize);
        let mut rows = vec![0f32; n * padded];
        for (i, row) in rows.chunks_exact_mut(padded).enumerate() {
            let output = from + i;
            for (k, value) in row.iter_mut().take(self.inner).enumerate() {
                let at = if self.by_row { output * self.inner + k } else { k * self.outputs + output };
                *value = self.floats.get(at).copied().map_or(0.0, finite);
            }
        }
        let mut encoded = vec![0; n * padded / self.encoding.block_len * self.encoding.block_bytes];
        self.encoding.encode(&rows, None, &mut encoded)?;
        let mut codes = Vec::with_capacity(n * code_bytes);
        let mut scales = Vec::with_capacity(n * padded / BLOCK as usize);
        for block in encoded.chunks_exact(self.encoding.block_bytes) {
            let (scale, stored) = block.split_at(SCALE);
            scales.push(half::f16::from_le_bytes([scale[0], scale[1]]).to_f32());
            match self.bits {
                Bits::Eight => codes.extend(stored.iter().map(|code| code.wrapping_add(ZERO[0]))),
                // ggml keeps element i and i + 16 in one byte, MatMulNBits two that follow each other.
                Bits::Four => codes.extend((0..stored.len()).map(|byte| {
                    let code = |i: usize| if i < 16 { stored[i] & 15 } else { stored[i - 16] >> 4 };
                    code(2 * byte) | code(2 * byte + 1) << 4
                })),
            }
        }
        Ok((codes, scales))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::manifest::Layout;

    fn tensor(shape: &[u64]) -> Tensor {
        Tensor {
            name: "w".into(),
            shape: shape.to_vec(),
            encoding: "float32".into(),
            layout: Layout::Plain,
            division: None,
            planes: Vec::new(),
        }
    }

    fn encoded(shape: &[u64], held: Held, weights: &[f32]) -> (Vec<u8>, Vec<f32>) {
        let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
        let tensor = tensor(shape);
        let weight = Weight { tensor: &tensor, bytes: &bytes };
        let (pool, mut codes) = (Pool::new(2).unwrap(), Vec::new());
        let scales = weight.encode(held, &pool, None, &mut |part| {
            codes.extend_from_slice(part);
            Ok(())
        });
        (codes, scales.unwrap())
    }

    /// The weight that codes and scales stand for, as `MatMulNBits` reads them: output by output.
    fn decoded(codes: &[u8], scales: &[f32], bits: Bits, outputs: usize, inner: usize) -> Vec<f32> {
        let blocks = inner.div_ceil(32);
        let mut out = Vec::new();
        for output in 0..outputs {
            for k in 0..inner {
                let element = (output * blocks + k / 32) * 32 + k % 32;
                let code = match bits {
                    Bits::Eight => i32::from(codes[element]) - 128,
                    Bits::Four => i32::from(codes[element / 2] >> (4 * (element % 2)) & 15) - 8,
                };
                out.push(code as f32 * scales[output * blocks + k / 32]);
            }
        }
        out
    }

    #[test]
    fn blocks_are_those_of_both_orders() {
        let (inner, outputs) = (70, 37);
        let value = |k: usize, n: usize| libm::sinf((k * 31 + n * 17) as f32);
        let by_column: Vec<f32> = (0..inner * outputs).map(|i| value(i / outputs, i % outputs)).collect();
        let by_row: Vec<f32> = (0..inner * outputs).map(|i| value(i % inner, i / inner)).collect();
        for (bits, most) in [(Bits::Eight, 0.01), (Bits::Four, 0.15)] {
            let columns = encoded(&[70, 37], Held::Blocks { bits, by_row: false }, &by_column);
            let rows = encoded(&[37, 70], Held::Blocks { bits, by_row: true }, &by_row);
            assert_eq!(columns, rows);
            assert_eq!(rows.0.len(), 37 * 3 * 32 * bits.count() as usize / 8);
            let found = decoded(&rows.0, &rows.1, bits, outputs, inner);
            for (found, wanted) in found.iter().zip(&by_row) {
                assert!((found - wanted).abs() <= most, "{found} for {wanted} in {}", bits.name());
            }
        }
    }

    #[test]
    fn rows_have_a_scale_each() {
        let (codes, scales) = encoded(&[2, 3], Held::Rows, &[1.27, -0.5, f32::NAN, 0.0, 0.0, 0.0]);
        assert_eq!(codes, [127, (-50i8) as u8, 0, 0, 0, 0]);
        assert!((scales[0] - 0.01).abs() < 1e-6 && scales[1] == 0.0, "{scales:?}");
    }
}

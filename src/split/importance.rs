//! How much each column of a weight matrix matters: the mean square of its inputs on a text.
//!
//! The error of a product is the error of the weights times the inputs, so a light form is fitted with these as weights
//! (as llama.cpp's importance matrices do). The mini keeps them as an asset, so that it can be rebuilt bit for bit.

use std::collections::BTreeMap;

use super::agreement::Text;
use super::options::SplitOptions;
use crate::container::manifest::{Capsule, Layout, Manifest};
use crate::decoder::forward::{Forward, Logits};
use crate::decoder::kv::KvCache;
use crate::error::{Error, Result};
use crate::kernels::kv::KvFormat;
use crate::kernels::math::{f16_to_f32, f32_to_f16};
use crate::pool::{Gate, Progress, StandardFloats};
use crate::store::fetch::rows_cols;

/// The asset's name.
pub(super) const ASSET: &str = "importance";
/// Share of the mean that every column has at least: a text tells little of columns that it hardly uses.
const LEAST: f32 = 0.05;

/// Weights of the columns of matrices, by capsule and tensor index.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Importance(BTreeMap<[usize; 2], Vec<f32>>);

impl Importance {
    /// Measures on `text`, which the full file of `manifest` reads.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; those of running.
    pub fn measure(manifest: &Manifest, text: &Text, options: &SplitOptions) -> Result<Self> {
        let _floats = StandardFloats::enter();
        let decoder = text.exact.decoder();
        let mut cache = KvCache::new(decoder.params(), text.tokens.len(), KvFormat::F16)?;
        let mut forward = Forward::recording();
        let gate = Gate { deadline: None, cancel: options.cancel.clone() };
        for part in text.tokens.chunks(decoder.backend().max_batch(false).clamp(1, 64)) {
            decoder.begin(&mut forward, &cache, part, Logits::All)?;
            if let Progress::Paused(_) = decoder.advance(&mut forward, &mut cache, &gate)? {
                return Err(Error::Cancelled);
            }
        }
        let mut columns = BTreeMap::new();
        for ([capsule, tensor], squares) in forward.recorded() {
            let stored = manifest.capsules.get(*capsule).and_then(|capsule| capsule.tensors.get(*tensor));
            if stored.is_some_and(|stored| rows_cols(stored).1 == squares.len()) {
                columns.insert([*capsule, *tensor], relative(squares));
            }
        }
        Ok(Self(columns))
    }

    /// The weights of a matrix; `None` where it was not multiplied.
    pub fn of(&self, capsule: usize, tensor: usize) -> Option<&[f32]> {
        self.0.get(&[capsule, tensor]).map(Vec::as_slice)
    }

    /// As the asset stores them: an f16 a column, of the matrices in the order of the manifest.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.values().flatten().flat_map(|weight| f32_to_f16(*weight).to_le_bytes()).collect()
    }

    /// Reads what [`bytes`](Self::bytes) wrote for the packed matrices of `capsules`; `None` where it is of another length.
    pub fn read(capsules: &[Capsule], bytes: &[u8]) -> Option<Self> {
        let (halves, rest) = bytes.as_chunks::<2>();
        let mut weights = halves.iter().map(|half| f16_to_f32(u16::from_le_bytes(*half)));
        let mut columns = BTreeMap::new();
        for (index, capsule) in capsules.iter().enumerate() {
            for (number, tensor) in capsule.tensors.iter().enumerate() {
                if tensor.layout == Layout::Packed8 {
                    let (_, cols) = rows_cols(tensor);
                    let own: Vec<f32> = weights.by_ref().take(cols).collect();
                    if own.len() < cols {
                        return None;
                    }
                    columns.insert([index, number], own);
                }
            }
        }
        (rest.is_empty() && weights.next().is_none()).then_some(Self(columns))
    }
}

/// Mean squares relative to their mean, as the asset will give them back.
fn relative(squares: &[f64]) -> Vec<f32> {
    let mean = squares.iter().sum::<f64>() / squares.len().max(1) as f64;
    let weight = |square: &f64| {
        let share = if mean > 0.0 { (square / mean) as f32 } else { 1.0 };
        // Largest f16 is 65504.
        f16_to_f32(f32_to_f16(share.clamp(LEAST, 60_000.0)))
    };
    squares.iter().map(weight).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_relative_and_survive_the_asset() {
        let weights = relative(&[0.0, 1.0, 3.0, 4.0]);
        assert_eq!(weights, [f16_to_f32(f32_to_f16(LEAST)), 0.5, 1.5, 2.0]);
        assert_eq!(relative(&[0.0, 0.0]), [1.0, 1.0]);
        let importance = Importance(BTreeMap::from([([0, 1], weights)]));
        assert_eq!(importance.bytes().len(), 8);
        assert_eq!(importance.of(0, 1).map(<[f32]>::len), Some(4));
        assert_eq!(importance.of(1, 0), None);
        assert_eq!(Importance::read(&[], &importance.bytes()), None);
        assert_eq!(Importance::read(&[], &[]), Some(Importance::default()));
    }
}

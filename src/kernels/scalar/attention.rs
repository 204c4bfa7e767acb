//! Causal attention, one query at a time.

use std::ops::Range;

use crate::kernels::backend::AttentionShape;
use crate::kernels::layout::Shared;
use crate::kernels::math::{exp, f16_to_f32, fma, sum_lanes};

/// What all tasks of one attention call read and write.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    pub shape: AttentionShape,
    pub q: &'a [f32],
    pub keys: &'a [u16],
    pub values: &'a [u16],
    pub out: Shared<f32>,
}

impl<'a> Call<'a> {
    /// Query heads per key head.
    pub fn heads_per_key(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    /// Positions that pair `pair` sees.
    pub fn visible(&self, pair: usize) -> usize {
        self.shape.start + pair / self.heads_per_key() + 1
    }

    /// Index of the (token, head) that pair `pair` of key head `kv` stands for, in `[n, heads]`.
    pub fn row(&self, kv: usize, pair: usize) -> usize {
        let per_key = self.heads_per_key();
        pair / per_key * self.shape.heads + kv * per_key + pair % per_key
    }

    /// The query of a pair.
    pub fn query(&self, kv: usize, pair: usize) -> &'a [f32] {
        &self.q[self.row(kv, pair) * self.shape.key_dim..][..self.shape.key_dim]
    }

    /// The keys of head `kv`, `[capacity, key_dim]`.
    pub fn keys(&self, kv: usize) -> &'a [u16] {
        let len = self.shape.capacity * self.shape.key_dim;
        &self.keys[kv * len..][..len]
    }

    /// The values of head `kv`, `[capacity, value_dim]`.
    pub fn values(&self, kv: usize) -> &'a [u16] {
        let len = self.shape.capacity * self.shape.value_dim;
        &self.values[kv * len..][..len]
    }
}

/// Computes `pairs` of key head `kv`. A score is one chain of fused steps along the dimension, times the
/// scale; the weights' sum runs in eight lanes by position; an output element is one chain along positions.
///
/// # Safety
/// The shapes fit (`Cpu::attention` checks them) and no other task computes these pairs.
pub unsafe fn run(call: &Call<'_>, kv: usize, pairs: Range<usize>) {
    let (key_dim, value_dim) = (call.shape.key_dim, call.shape.value_dim);
    let mut weights = Vec::new();
    for pair in pairs {
        let visible = call.visible(pair);
        let q = call.query(kv, pair);
        weights.clear();
        for j in 0..visible {
            let key = &call.keys(kv)[j * key_dim..][..key_dim];
            let dot = q.iter().zip(key).fold(0.0, |s, (q, k)| fma(*q, f16_to_f32(*k), s));
            weights.push(dot * call.shape.scale);
        }
        let sum = softmax(&mut weights);
        // SAFETY: passed on to the caller.
        let out = unsafe { call.out.part(call.row(kv, pair) * value_dim, value_dim) };
        out.fill(0.0);
        for (j, w) in weights.iter().enumerate() {
            let value = &call.values(kv)[j * value_dim..][..value_dim];
            for (o, v) in out.iter_mut().zip(value) {
                *o = fma(*w, f16_to_f32(*v), *o);
            }
        }
        out.iter_mut().for_each(|o| *o /= sum);
    }
}

/// Replaces scores by exp(score - maximum); returns their sum.
fn softmax(scores: &mut [f32]) -> f32 {
    let max = scores.iter().fold(f32::NEG_INFINITY, |m, s| if *s > m { *s } else { m });
    let mut lanes = [0.0; 8];
    for (j, s) in scores.iter_mut().enumerate() {
        *s = exp(*s - max);
        lanes[j % 8] += *s;
    }
    sum_lanes(&lanes)
}

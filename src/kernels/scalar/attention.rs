//! Causal attention, one query at a time.

use std::ops::Range;

use crate::kernels::attention::{Buffers, CHUNK, Call, Kernel, MIXED, state_len};
use crate::kernels::kv::TILE;
use crate::kernels::math::{exp, fma, sum_lanes_16};

/// The kernel in plain Rust, which defines the bits of all others.
pub struct Scalar;

impl Kernel for Scalar {
    /// A score is one chain of fused steps along the dimension, times the scale. The maximum starts at the lowest
    /// finite number, so that a score of -infinity weighs nothing. The weights' sum runs in sixteen lanes by position;
    /// a mixed element is one chain of fused steps along the chunk's positions.
    unsafe fn chunk(
        call: &Call<'_>,
        kv: usize,
        pairs: Range<usize>,
        chunk: usize,
        buffers: &mut Buffers,
        states: &mut [f32],
    ) {
        let (cache, shape) = (call.cache, call.cache.shape());
        let first = chunk * CHUNK;
        for (pair, state) in pairs.zip(states.chunks_exact_mut(state_len(shape.value_row()))) {
            let weights = buffers.scores.at_least(call.visible(pair).min(first + CHUNK) - first);
            let element = buffers.block.at_least(shape.key_dim.max(shape.value_dim));
            let q = call.query(kv, pair);
            for (j, weight) in weights.iter_mut().enumerate() {
                cache.read_key(kv, first + j, &mut element[..shape.key_dim]);
                *weight = q.iter().zip(&*element).fold(0.0, |s, (q, k)| fma(*q, *k, s)) * call.queries.scale;
            }
            let max = weights.iter().fold(f32::MIN, |m, s| if *s > m { *s } else { m });
            let mut lanes = [0.0; TILE];
            for (j, weight) in weights.iter_mut().enumerate() {
                *weight = exp(*weight - max);
                lanes[j % TILE] += *weight;
            }
            state.fill(0.0);
            [state[0], state[1]] = [max, sum_lanes_16(&lanes)];
            for (j, weight) in weights.iter().enumerate() {
                let value = &mut element[..shape.value_dim];
                cache.read_value(kv, first + j, value);
                for (mixed, v) in state[MIXED..].iter_mut().zip(value) {
                    *mixed = fma(*weight, *v, *mixed);
                }
            }
        }
    }

    /// With the larger maximum M: sum and mixed values of both, times exp(maximum - M), are added by fused steps.
    unsafe fn merge(state: &mut [f32], chunk: &[f32]) {
        let (top, lower) = ordered(state[0], chunk[0]);
        let factor = exp(lower - top);
        let (before, after) = if chunk[0] > state[0] { (factor, 1.0) } else { (1.0, factor) };
        (state[0], state[1]) = (top, fma(chunk[1], after, state[1] * before));
        for (mixed, later) in state[MIXED..].iter_mut().zip(&chunk[MIXED..]) {
            *mixed = fma(*later, after, *mixed * before);
        }
    }
}

/// The larger and the smaller of two maxima, neither of which is NaN.
#[inline(always)]
pub fn ordered(a: f32, b: f32) -> (f32, f32) {
    if b > a { (b, a) } else { (a, b) }
}

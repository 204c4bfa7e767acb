//! The loops of attention.

use super::source::{Rows, Source};
use crate::kernels::attention::CHUNK;
use crate::kernels::kv::{BLOCK, TILE};
use crate::kernels::math::sum_lanes_16;
use crate::kernels::scalar::attention::ordered;
use crate::kernels::vector::{Operation, Vector, exp};

/// Rows of values between the one in use and the one asked for in advance.
const AHEAD: usize = 64;

/// An operation on register blocks of `T` vectors for each query.
pub(super) struct Wide<O, const T: usize>(pub O);

/// Scores of `P` queries of `dim` elements for the positions of `T` vectors, written `CHUNK` apart.
#[derive(Clone, Copy)]
pub(super) struct Score<E, const P: usize> {
    pub queries: [*const f32; P],
    pub dim: usize,
    pub keys: E,
    pub scale: f32,
    pub scores: *mut f32,
}

impl<V: Vector, E: Source, const T: usize, const P: usize> Operation<V> for Wide<Score<E, P>, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run(self) {
        let Score { queries, dim, keys, scale, scores } = self.0;
        let blocks = dim.div_ceil(BLOCK);
        // SAFETY: passed on to the caller.
        unsafe {
            let mut sums = [[V::splat(0.0); T]; P];
            let mut scales = [V::splat(1.0); T];
            for block in 0..blocks {
                if E::SCALED {
                    for (i, scale) in scales.iter_mut().enumerate() {
                        *scale = V::load(keys.scales().add(place::<V>(i, blocks) + block * TILE));
                    }
                }
                for d in block * BLOCK..dim.min((block + 1) * BLOCK) {
                    let mut key = scales;
                    for (i, key) in key.iter_mut().enumerate() {
                        let element = keys.get::<V>(place::<V>(i, dim) + d * TILE);
                        // The tiles that come next: each is a page of its own, at which the processor's own
                        // prefetching stops.
                        if i * V::LANES % TILE == 0 {
                            keys.prefetch::<V>(place::<V>(i + T, dim) + d * TILE);
                        }
                        *key = if E::SCALED { element.mul(*key) } else { element };
                    }
                    for (p, sums) in sums.iter_mut().enumerate() {
                        let q = V::splat(*queries[p].add(d));
                        for (i, sum) in sums.iter_mut().enumerate() {
                            *sum = q.fma(key[i], *sum);
                        }
                    }
                }
            }
            for (p, sums) in sums.iter().enumerate() {
                for (i, sum) in sums.iter().enumerate() {
                    sum.mul(V::splat(scale)).store(scores.add(p * CHUNK + i * V::LANES));
                }
            }
        }
    }
}

/// Where vector `i` of a row lies in tiles of `rows` rows.
#[inline(always)]
fn place<V: Vector>(i: usize, rows: usize) -> usize {
    i * V::LANES / TILE * rows * TILE + i * V::LANES % TILE
}

/// Replaces the first `seen` scores of a chunk by their weights; returns their maximum and the weights' sum.
/// `U` vectors are a tile.
pub(super) struct Weigh<'a, const U: usize> {
    pub scores: &'a mut [f32],
    pub seen: usize,
}

impl<V: Vector, const U: usize> Operation<V> for Weigh<'_, U> {
    type Output = [f32; 2];

    #[inline(always)]
    unsafe fn run(self) -> [f32; 2] {
        let end = self.seen.next_multiple_of(TILE);
        let scores = &mut self.scores[..end];
        // Weighs nothing, and adds 0 to sums that are never -0.
        scores[self.seen..].fill(f32::NEG_INFINITY);
        // SAFETY: the scores are a multiple of `TILE`; else passed on to the caller.
        unsafe {
            let mut lanes = [0.0; TILE];
            let mut tops = [V::splat(f32::MIN); U];
            for tile in scores.chunks_exact(TILE) {
                for (i, top) in tops.iter_mut().enumerate() {
                    *top = V::load(tile.as_ptr().add(i * V::LANES)).max(*top);
                }
            }
            store_tile(&tops, &mut lanes);
            // The maximum does not depend on the order.
            let max = lanes.iter().fold(f32::MIN, |m, s| if *s > m { *s } else { m });
            let mut sums = [V::splat(0.0); U];
            for tile in scores.chunks_exact_mut(TILE) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    let place = tile.as_mut_ptr().add(i * V::LANES);
                    let weight = exp(V::load(place).sub(V::splat(max)));
                    weight.store(place);
                    *sum = sum.add(weight);
                }
            }
            store_tile(&sums, &mut lanes);
            [max, sum_lanes_16(&lanes)]
        }
    }
}

/// Writes `U` vectors, a tile.
#[inline(always)]
fn store_tile<V: Vector, const U: usize>(vectors: &[V; U], tile: &mut [f32; TILE]) {
    assert!(U * V::LANES == TILE);
    for (i, vector) in vectors.iter().enumerate() {
        // SAFETY: inside the tile by the assertion; there is a vector, so there is the instruction set.
        unsafe { vector.store(tile.as_mut_ptr().add(i * V::LANES)) };
    }
}

/// Adds the elements from `d` on of `rows`, `T` vectors of each, times `P` sets of weights, `CHUNK` apart, to the
/// elements at `states`, `len` apart.
#[derive(Clone, Copy)]
pub(super) struct Mix<E, const P: usize> {
    pub rows: Rows,
    pub values: E,
    pub weights: *const f32,
    pub states: *mut f32,
    pub len: usize,
    pub d: usize,
}

impl<V: Vector, E: Source, const T: usize, const P: usize> Operation<V> for Wide<Mix<E, P>, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run(self) {
        let Mix { rows: Rows { count, row, blocks }, values, weights, states, len, d } = self.0;
        // SAFETY: passed on to the caller.
        unsafe {
            let mut sums = [[V::splat(0.0); T]; P];
            for (p, sums) in sums.iter_mut().enumerate() {
                for (i, sum) in sums.iter_mut().enumerate() {
                    *sum = V::load(states.add(p * len + i * V::LANES));
                }
            }
            for j in 0..count {
                let mut value = [V::splat(0.0); T];
                for (i, value) in value.iter_mut().enumerate() {
                    let at = d + i * V::LANES;
                    *value = values.get::<V>(j * row + at);
                    if i * V::LANES % BLOCK == 0 {
                        values.prefetch::<V>((j + AHEAD) * row + at);
                    }
                    if E::SCALED {
                        *value = value.mul(V::splat(*values.scales().add(j * blocks + at / BLOCK)));
                    }
                }
                for (p, sums) in sums.iter_mut().enumerate() {
                    let weight = V::splat(*weights.add(p * CHUNK + j));
                    for (i, sum) in sums.iter_mut().enumerate() {
                        *sum = weight.fma(value[i], *sum);
                    }
                }
            }
            for (p, sums) in sums.iter().enumerate() {
                for (i, sum) in sums.iter().enumerate() {
                    sum.store(states.add(p * len + i * V::LANES));
                }
            }
        }
    }
}

/// Merges a later chunk's state into that of the chunks before it.
pub(super) struct Merge<'a> {
    pub state: &'a mut [f32],
    pub chunk: &'a [f32],
}

impl<V: Vector> Operation<V> for Merge<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run(self) {
        let Self { state, chunk } = self;
        assert!(state.len() == chunk.len() && state.len().is_multiple_of(TILE));
        let grows = chunk[0] > state[0];
        let (top, lower) = ordered(state[0], chunk[0]);
        // SAFETY: states are multiples of `TILE` long; else passed on to the caller.
        unsafe {
            let (one, factor) = (V::splat(1.0), exp(V::splat(lower - top)));
            let (before, after) = if grows { (factor, one) } else { (one, factor) };
            for at in (0..state.len()).step_by(V::LANES) {
                let place = state.as_mut_ptr().add(at);
                let later = V::load(chunk.as_ptr().add(at));
                later.fma(after, V::load(place).mul(before)).store(place);
            }
        }
        state[0] = top;
    }
}

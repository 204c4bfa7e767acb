//! Causal attention on vectors. The lanes of a score are positions, those of a mixed value dimensions, as the cache
//! is laid out, so that no sum crosses lanes. A register block is up to four queries times several vectors.

mod operations;
mod source;

use std::marker::PhantomData;
use std::ops::Range;

use super::{Operation, Vector};
use crate::kernels::attention::{Buffers, CHUNK, Call, Kernel, MIXED, state_len};
use crate::kernels::kv::{BLOCK, Elements, TILE};
use operations::{Merge, Mix, Score, Weigh, Wide};
use source::{Codes, DecodeHalves, DecodeKeys, DecodeScales, DecodeValues, Floats, Halves, Rows, Source};

/// Positions whose keys (values) are read by all queries of a task in turn, from the first-level cache.
const SPAN: usize = 64;

/// Queries of a register block.
const QUERIES: usize = 4;

/// Pairs up to which keys and values are decoded anew for each register block; above it once for all.
const DIRECT: usize = 2 * QUERIES;

/// The kernel for vectors `V` with register blocks of `T` vectors per query where there are so many, else of `U`:
/// a tile, so that `U * V::LANES == TILE`. `T` is a multiple of `U`.
pub struct Blocked<V, const T: usize, const U: usize>(PhantomData<V>);

impl<V: Vector, const T: usize, const U: usize> Kernel for Blocked<V, T, U> {
    unsafe fn chunk(
        call: &Call<'_>,
        kv: usize,
        pairs: Range<usize>,
        chunk: usize,
        buffers: &mut Buffers,
        states: &mut [f32],
    ) {
        let shape = call.cache.shape();
        let dim = shape.key_dim.max(shape.value_row());
        buffers.scores.at_least(pairs.len() * CHUNK);
        buffers.block.at_least(SPAN * dim);
        buffers.scales.at_least(SPAN * dim.div_ceil(BLOCK) + TILE);
        let part = Chunk { call, kv, first: chunk * CHUNK, pairs };
        // SAFETY: passed on to the caller.
        unsafe {
            part.score::<V, T, U>(buffers);
            let len = state_len(shape.value_row());
            for (i, state) in states.chunks_exact_mut(len).enumerate() {
                let seen = part.seen(part.pairs.start + i, CHUNK);
                state.fill(0.0);
                let scores = &mut buffers.scores[i * CHUNK..][..CHUNK];
                [state[0], state[1]] = V::enter(Weigh::<U> { scores, seen });
            }
            part.mix::<V, T, U>(buffers, states);
        }
    }

    unsafe fn merge(state: &mut [f32], chunk: &[f32]) {
        // SAFETY: passed on to the caller.
        unsafe { V::enter(Merge { state, chunk }) };
    }
}

/// A chunk as `pairs` of one key head see it; each of them sees its first position.
struct Chunk<'a> {
    call: &'a Call<'a>,
    kv: usize,
    first: usize,
    pairs: Range<usize>,
}

/// Positions of a chunk from its position `at` on, and the pairs that see the first of them.
struct Span {
    at: usize,
    count: usize,
    pairs: Range<usize>,
}

impl Span {
    /// Whether its keys (values) are decoded once for all pairs.
    fn is_decoded_once(&self) -> bool {
        self.pairs.len() > DIRECT
    }
}

impl Chunk<'_> {
    /// Positions of the chunk's first `count` that `pair` sees.
    fn seen(&self, pair: usize, count: usize) -> usize {
        (self.call.visible(pair) - self.first).min(count)
    }

    /// The spans, each with the pairs that see its first position.
    fn spans(&self) -> impl Iterator<Item = Span> {
        let count = self.seen(self.pairs.end - 1, CHUNK);
        (0..count).step_by(SPAN).map(move |at| {
            let from = self.call.first_seeing(self.first + at).max(self.pairs.start);
            Span { at, count: SPAN.min(count - at), pairs: from..self.pairs.end }
        })
    }

    /// Writes the scores.
    unsafe fn score<V: Vector, const T: usize, const U: usize>(&self, buffers: &mut Buffers) {
        let shape = self.call.cache.shape();
        let (dim, blocks) = (shape.key_dim, shape.key_blocks());
        let block = buffers.block.as_mut_ptr();
        for span in self.spans() {
            let (tile, tiles) = ((self.first + span.at) / TILE, span.count.div_ceil(TILE));
            let len = tiles * dim * TILE;
            // SAFETY: the tiles lie inside the cache, as their slices are taken; the buffers have room for `SPAN`
            // positions. Else passed on to the caller.
            unsafe {
                match self.call.cache.keys(self.kv) {
                    Elements::F16(halves) => {
                        let keys = Halves(halves[tile * dim * TILE..][..len].as_ptr());
                        let decode = DecodeHalves { from: keys, len, block };
                        self.score_from::<V, _, T, U>(&span, keys, decode, block, &mut buffers.scores);
                    }
                    Elements::Q8_0 { codes, scales } => {
                        let scales = &scales[tile * blocks * TILE..][..tiles * blocks * TILE];
                        V::enter(DecodeScales { scales, out: &mut buffers.scales });
                        let codes = codes[tile * dim * TILE..][..len].as_ptr();
                        let keys = Codes { codes, scales: buffers.scales.as_ptr() };
                        let decode = DecodeKeys { keys, tiles, dim, block };
                        self.score_from::<V, _, T, U>(&span, keys, decode, block, &mut buffers.scores);
                    }
                }
            }
        }
    }

    /// Scores of a span from `keys`, or from the floats at `block` that `decode` makes of them.
    unsafe fn score_from<V: Vector, E: Source, const T: usize, const U: usize>(
        &self,
        span: &Span,
        keys: E,
        decode: impl Operation<V, Output = ()>,
        block: *const f32,
        scores: &mut [f32],
    ) {
        // SAFETY: passed on to the caller.
        unsafe {
            if span.is_decoded_once() {
                V::enter(decode);
                self.score_span::<V, _, T, U>(span, Floats(block), scores);
            } else {
                self.score_span::<V, _, T, U>(span, keys, scores);
            }
        }
    }

    /// Scores of a span for all its pairs. Scores up to the end of a tile are written, with whatever the cache holds
    /// beyond the last position; nobody reads them.
    unsafe fn score_span<V: Vector, E: Source, const T: usize, const U: usize>(
        &self,
        span: &Span,
        keys: E,
        scores: &mut [f32],
    ) {
        let mut pair = span.pairs.start;
        while pair < span.pairs.end {
            let n = (span.pairs.end - pair).min(QUERIES);
            // The last pair of a group sees the most.
            let seen = self.seen(pair + n - 1, span.at + span.count);
            let tiles = seen.saturating_sub(span.at).div_ceil(TILE);
            let scores = &mut scores[(pair - self.pairs.start) * CHUNK + span.at..];
            // SAFETY: passed on to the caller.
            unsafe {
                match n {
                    4 => self.score_group::<V, E, T, U, 4>(pair, tiles, keys, scores),
                    3 => self.score_group::<V, E, T, U, 3>(pair, tiles, keys, scores),
                    2 => self.score_group::<V, E, T, U, 2>(pair, tiles, keys, scores),
                    _ => self.score_group::<V, E, T, U, 1>(pair, tiles, keys, scores),
                }
            }
            pair += n;
        }
    }

    /// Scores of the pairs `pair .. pair + P`.
    unsafe fn score_group<V: Vector, E: Source, const T: usize, const U: usize, const P: usize>(
        &self,
        pair: usize,
        tiles: usize,
        keys: E,
        scores: &mut [f32],
    ) {
        let shape = self.call.cache.shape();
        let queries: [_; P] = std::array::from_fn(|i| self.call.query(self.kv, pair + i).as_ptr());
        assert!(scores.len() >= (P - 1) * CHUNK + tiles * TILE);
        let scale = self.call.queries.scale;
        let mut tile = 0;
        while tile < tiles {
            let keys = keys.skip(tile * shape.key_dim * TILE, tile * shape.key_blocks() * TILE);
            let scores = scores[tile * TILE..].as_mut_ptr();
            let score = Score { queries, dim: shape.key_dim, keys, scale, scores };
            // SAFETY: the keys have so many tiles, the scores room by the assertion. Else passed on to the caller.
            unsafe {
                if tiles - tile >= T / U {
                    V::enter(Wide::<_, T>(score));
                    tile += T / U;
                } else {
                    V::enter(Wide::<_, U>(score));
                    tile += 1;
                }
            }
        }
    }

    /// Adds the values, times their weights, to the states.
    unsafe fn mix<V: Vector, const T: usize, const U: usize>(
        &self,
        buffers: &mut Buffers,
        states: &mut [f32],
    ) {
        let shape = self.call.cache.shape();
        let (row, blocks) = (shape.value_row(), shape.value_blocks());
        let block = buffers.block.as_mut_ptr();
        for span in self.spans() {
            let (position, count) = (self.first + span.at, span.count);
            let len = count * row;
            // SAFETY: as in `score`.
            unsafe {
                match self.call.cache.values(self.kv) {
                    Elements::F16(halves) => {
                        let values = Halves(halves[position * row..][..len].as_ptr());
                        let decode = DecodeHalves { from: values, len, block };
                        self.mix_from::<V, _, T, U>(&span, values, decode, block, &buffers.scores, states);
                    }
                    Elements::Q8_0 { codes, scales } => {
                        let scales = &scales[position * blocks..][..count * blocks];
                        V::enter(DecodeScales { scales, out: &mut buffers.scales });
                        let codes = codes[position * row..][..len].as_ptr();
                        let values = Codes { codes, scales: buffers.scales.as_ptr() };
                        let decode = DecodeValues { values, rows: Rows { count, row, blocks }, block };
                        self.mix_from::<V, _, T, U>(&span, values, decode, block, &buffers.scores, states);
                    }
                }
            }
        }
    }

    /// Adds the values of a span, or the floats at `block` that `decode` makes of them.
    unsafe fn mix_from<V: Vector, E: Source, const T: usize, const U: usize>(
        &self,
        span: &Span,
        values: E,
        decode: impl Operation<V, Output = ()>,
        block: *const f32,
        weights: &[f32],
        states: &mut [f32],
    ) {
        // SAFETY: passed on to the caller.
        unsafe {
            if span.is_decoded_once() {
                V::enter(decode);
                self.mix_span::<V, _, T, U>(span, Floats(block), weights, states);
            } else {
                self.mix_span::<V, _, T, U>(span, values, weights, states);
            }
        }
    }

    /// Adds the values of a span to the states of all its pairs.
    unsafe fn mix_span<V: Vector, E: Source, const T: usize, const U: usize>(
        &self,
        span: &Span,
        values: E,
        weights: &[f32],
        states: &mut [f32],
    ) {
        let (at, count) = (span.at, span.count);
        let len = state_len(self.call.cache.shape().value_row());
        let mut pair = span.pairs.start;
        while pair < span.pairs.end {
            let n = (span.pairs.end - pair).min(QUERIES);
            let index = pair - self.pairs.start;
            let weights = &weights[index * CHUNK + at..][..(n - 1) * CHUNK + count];
            let states = &mut states[index * len..][..n * len];
            // Positions that all of the group see are taken together (the first sees the fewest), the rest pair by
            // pair.
            let shared = self.seen(pair, at + count) - at;
            // SAFETY: passed on to the caller.
            unsafe {
                match n {
                    4 => self.mix_group::<V, E, T, U, 4>(0..shared, values, weights, states),
                    3 => self.mix_group::<V, E, T, U, 3>(0..shared, values, weights, states),
                    2 => self.mix_group::<V, E, T, U, 2>(0..shared, values, weights, states),
                    _ => self.mix_group::<V, E, T, U, 1>(0..shared, values, weights, states),
                }
                for i in 1..n {
                    let rest = shared..self.seen(pair + i, at + count) - at;
                    if !rest.is_empty() {
                        let (weights, state) = (&weights[i * CHUNK..], &mut states[i * len..]);
                        self.mix_group::<V, E, T, U, 1>(rest, values, weights, state);
                    }
                }
            }
            pair += n;
        }
    }

    /// Adds the values of these positions of the span to `P` states.
    unsafe fn mix_group<V: Vector, E: Source, const T: usize, const U: usize, const P: usize>(
        &self,
        positions: Range<usize>,
        values: E,
        weights: &[f32],
        states: &mut [f32],
    ) {
        let shape = self.call.cache.shape();
        let (row, blocks) = (shape.value_row(), shape.value_blocks());
        let len = state_len(row);
        assert!(weights.len() >= (P - 1) * CHUNK + positions.end && states.len() >= P * len);
        let values = values.skip(positions.start * row, positions.start * blocks);
        let rows = Rows { count: positions.len(), row, blocks };
        let weights = weights[positions.start..].as_ptr();
        let mut d = 0;
        while d < row {
            let mix = Mix::<_, P> { rows, values, weights, states: states[MIXED + d..].as_mut_ptr(), len, d };
            // SAFETY: each state has `row` elements from `MIXED` on, the weights `positions.end` each, by the
            // assertion; the values so many rows. Else passed on to the caller.
            unsafe {
                if row - d >= T * V::LANES {
                    V::enter(Wide::<_, T>(mix));
                    d += T * V::LANES;
                } else {
                    V::enter(Wide::<_, U>(mix));
                    d += TILE;
                }
            }
        }
    }
}

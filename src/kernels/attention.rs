//! Causal attention: what every instruction set shares.
//!
//! The positions are cut into chunks of [`CHUNK`]. Of each chunk that a query sees, a kernel finds the maximum m of
//! the scores, the sum l of the weights exp(score - m) and the values mixed by these weights; the chunks are then
//! merged in order, rescaled to the larger maximum (online softmax: Milakov & Gimelshein 2018, Dao et al. 2022). So a
//! result depends on the positions that its query sees alone, and any thread may compute any chunk.

use std::cell::RefCell;
use std::ops::Range;

use super::aligned::Aligned;
use super::backend::Queries;
use super::kv::{KvLayer, TILE};
use super::layout::Shared;
use super::plan::{AttentionCut, AttentionPart};

/// Positions of a chunk.
pub(super) const CHUNK: usize = 512;

/// Length of the state of one query head: maximum, sum, and from [`MIXED`] on the mixed values, a padded row.
pub(super) fn state_len(value_row: usize) -> usize {
    MIXED + value_row
}

/// Where the mixed values begin in a state.
pub(super) const MIXED: usize = TILE;

/// What all tasks of one attention call read and write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    pub queries: Queries<'a>,
    pub cache: &'a KvLayer,
    pub cut: AttentionCut,
    /// `[kv_heads, pairs]` states that outlive a task, or where chunks are split `[chunks, kv_heads, pairs]`.
    pub states: Shared<f32>,
    pub out: Shared<f32>,
}

impl<'a> Call<'a> {
    /// Query heads per key head.
    fn heads_per_key(&self) -> usize {
        self.queries.heads / self.cache.shape().kv_heads
    }

    /// Positions that pair `pair` sees.
    pub(super) fn visible(&self, pair: usize) -> usize {
        self.queries.start + pair / self.heads_per_key() + 1
    }

    /// The first pair that sees `position`.
    pub(super) fn first_seeing(&self, position: usize) -> usize {
        position.saturating_sub(self.queries.start) * self.heads_per_key()
    }

    /// Index of the (token, head) that pair `pair` of key head `kv` stands for, in `[n, heads]`.
    fn row(&self, kv: usize, pair: usize) -> usize {
        let per_key = self.heads_per_key();
        pair / per_key * self.queries.heads + kv * per_key + pair % per_key
    }

    /// The query of a pair.
    pub(super) fn query(&self, kv: usize, pair: usize) -> &'a [f32] {
        let dim = self.cache.shape().key_dim;
        &self.queries.values[self.row(kv, pair) * dim..][..dim]
    }

    fn state_len(&self) -> usize {
        state_len(self.cache.shape().value_row())
    }

    /// The kept states of `pairs`, of chunk `chunk` where chunks are split (else 0).
    ///
    /// # Safety
    /// They are the calling task's alone.
    #[allow(clippy::mut_from_ref)]
    unsafe fn states(&self, chunk: usize, kv: usize, pairs: Range<usize>) -> &mut [f32] {
        let heads = chunk * self.cache.shape().kv_heads + kv;
        let first = heads * self.cut.pairs() + pairs.start;
        // SAFETY: passed on to the caller.
        unsafe { self.states.part(first * self.state_len(), pairs.len() * self.state_len()) }
    }

    /// Writes the result of a pair whose chunks are all merged.
    ///
    /// # Safety
    /// The output is the calling task's alone.
    unsafe fn finish(&self, kv: usize, pair: usize, state: &[f32]) {
        let dim = self.cache.shape().value_dim;
        // SAFETY: passed on to the caller.
        let out = unsafe { self.out.part(self.row(kv, pair) * dim, dim) };
        let sum = state[1];
        out.iter_mut().zip(&state[MIXED..]).for_each(|(o, mixed)| *o = mixed / sum);
    }
}

/// Buffers of one task, kept between tasks.
#[derive(Debug, Default)]
struct Scratch {
    /// States of a task's pairs.
    states: Aligned<f32>,
    /// States of one chunk.
    chunk: Aligned<f32>,
    /// What the kernels need.
    buffers: Buffers,
}

/// A kernel's own buffers; each kernel gives them the lengths it wants.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// `[pairs, CHUNK]` scores, then weights.
    pub scores: Aligned<f32>,
    /// Some positions' keys or values in f32.
    pub block: Aligned<f32>,
    /// Their scales in f32.
    pub scales: Aligned<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The arithmetic of an instruction set.
pub(super) trait Kernel {
    /// Writes the states of `pairs` of key head `kv` after chunk `chunk` alone, of which each of them sees a position.
    ///
    /// # Safety
    /// The machine has the instruction set; `states` is `pairs` times [`state_len`] long; the call is sound.
    unsafe fn chunk(
        call: &Call<'_>,
        kv: usize,
        pairs: Range<usize>,
        chunk: usize,
        buffers: &mut Buffers,
        states: &mut [f32],
    );

    /// Merges a later chunk's state into the state of all chunks before it.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn merge(state: &mut [f32], chunk: &[f32]);
}

/// Computes one task.
///
/// # Safety
/// The call is sound (`Cpu::attention` checks it), no other task computes this part, and the machine has the kernel's
/// instruction set.
pub(super) unsafe fn run<K: Kernel>(call: &Call<'_>, part: &AttentionPart) {
    // SAFETY: passed on to the caller.
    SCRATCH.with_borrow_mut(|scratch| unsafe { compute::<K>(call, part, scratch) });
}

/// # Safety
/// As for [`run`].
unsafe fn compute<K: Kernel>(call: &Call<'_>, part: &AttentionPart, scratch: &mut Scratch) {
    let AttentionPart { kv, pairs, chunks } = part.clone();
    let len = call.state_len();
    if call.cut.is_split() {
        for chunk in chunks {
            let seeing = pairs.start.max(call.first_seeing(chunk * CHUNK))..pairs.end;
            if !seeing.is_empty() {
                // SAFETY: each task has its own chunks and pairs; else passed on.
                unsafe {
                    let states = call.states(chunk, kv, seeing.clone());
                    K::chunk(call, kv, seeing, chunk, &mut scratch.buffers, states);
                }
            }
        }
        return;
    }
    let own = if call.cut.keeps_states() {
        // SAFETY: of the tasks that run at a time each has its own pairs.
        unsafe { call.states(0, kv, pairs.clone()) }
    } else {
        scratch.states.at_least(pairs.len() * len)
    };
    for chunk in chunks.clone() {
        let seeing = pairs.start.max(call.first_seeing(chunk * CHUNK))..pairs.end;
        if seeing.is_empty() {
            break;
        }
        let states = &mut own[(seeing.start - pairs.start) * len..];
        // SAFETY: passed on to the caller.
        unsafe {
            if chunk == 0 {
                K::chunk(call, kv, seeing, chunk, &mut scratch.buffers, states);
                continue;
            }
            let later = scratch.chunk.at_least(states.len());
            K::chunk(call, kv, seeing, chunk, &mut scratch.buffers, later);
            for (state, later) in states.chunks_exact_mut(len).zip(later.chunks_exact(len)) {
                K::merge(state, later);
            }
        }
    }
    if chunks.end == call.cut.chunks() {
        for (pair, state) in pairs.zip(own.chunks_exact(len)) {
            // SAFETY: passed on to the caller.
            unsafe { call.finish(kv, pair, state) };
        }
    }
}

/// Merges the split chunks of pair `pair` of key head `kv` and writes its result.
///
/// # Safety
/// As for [`run`]; all tasks are done.
pub(super) unsafe fn gather<K: Kernel>(call: &Call<'_>, kv: usize, pair: usize) {
    // SAFETY: each pair has its own states; else passed on to the caller.
    unsafe {
        let state = call.states(0, kv, pair..pair + 1);
        for chunk in 1..call.visible(pair).div_ceil(CHUNK) {
            K::merge(state, call.states(chunk, kv, pair..pair + 1));
        }
        call.finish(kv, pair, state);
    }
}

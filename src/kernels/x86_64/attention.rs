//! Causal attention with 256-bit vectors. Keys are transposed block by block, so that lanes are positions
//! and a score is one chain along the dimension; conversions from f16 are shared by all queries of a task.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::elementwise::exp;
use crate::kernels::math::{f16_to_f32, sum_lanes};
use crate::kernels::scalar::attention::Call;

/// Positions whose keys (values) are converted at a time.
const BLOCK: usize = 64;

/// Buffers of one task, kept between tasks.
#[derive(Debug, Default)]
struct Scratch {
    /// `[key_dim, BLOCK]` keys, or `[BLOCK, value_dim]` values.
    block: Vec<f32>,
    /// `[pairs, stride]` scores, then weights.
    scores: Vec<f32>,
    /// Sum of the weights of each pair.
    sums: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// Computes `pairs` of key head `kv`, as the scalar form.
///
/// # Safety
/// The shapes fit, no other task computes these pairs; AVX2, FMA and F16C are there.
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn run(call: &Call<'_>, kv: usize, pairs: Range<usize>) {
    if pairs.is_empty() {
        return;
    }
    let (key_dim, value_dim) = (call.shape.key_dim, call.shape.value_dim);
    let most = call.visible(pairs.end - 1);
    let stride = most.next_multiple_of(BLOCK);
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.block.resize((BLOCK * key_dim.max(value_dim)).max(scratch.block.len()), 0.0);
        scratch.scores.resize((stride * pairs.len()).max(scratch.scores.len()), 0.0);
        scratch.sums.resize(pairs.len(), 0.0);
        for first in (0..most).step_by(BLOCK) {
            let count = BLOCK.min(most - first);
            transpose(&call.keys(kv)[first * key_dim..][..count * key_dim], key_dim, &mut scratch.block);
            let mut p = pairs.clone();
            while !p.is_empty() {
                let n = if p.len() >= 4 { 4 } else { 1 };
                let scores = &mut scratch.scores[(p.start - pairs.start) * stride + first..];
                match n {
                    4 => score::<4>(call, kv, p.start, count, &scratch.block, scores, stride),
                    _ => score::<1>(call, kv, p.start, count, &scratch.block, scores, stride),
                }
                p.start += n;
            }
        }
        for (i, pair) in pairs.clone().enumerate() {
            scratch.sums[i] = softmax(&mut scratch.scores[i * stride..][..call.visible(pair)]);
            // SAFETY: passed on to the caller.
            unsafe { call.out.part(call.row(kv, pair) * value_dim, value_dim) }.fill(0.0);
        }
        for first in (0..most).step_by(BLOCK) {
            let count = BLOCK.min(most - first);
            convert(&call.values(kv)[first * value_dim..][..count * value_dim], &mut scratch.block);
            let mut p = pairs.clone();
            while !p.is_empty() {
                let n = if p.len() >= 4 { 4 } else { 1 };
                let weights = &scratch.scores[(p.start - pairs.start) * stride + first..];
                let positions = first..first + count;
                // SAFETY: the pairs are in `pairs`, whose outputs the caller owns.
                unsafe {
                    match n {
                        4 => mix::<4>(call, kv, p.start, positions, &scratch.block, weights, stride),
                        _ => mix::<1>(call, kv, p.start, positions, &scratch.block, weights, stride),
                    }
                }
                p.start += n;
            }
        }
        for (i, pair) in pairs.clone().enumerate() {
            // SAFETY: as above.
            let out = unsafe { call.out.part(call.row(kv, pair) * value_dim, value_dim) };
            out.iter_mut().for_each(|o| *o /= scratch.sums[i]);
        }
    });
}

/// Writes `keys`, `[count <= BLOCK, dim]` f16, as `[dim, BLOCK]` f32. Positions beyond `count` keep old values.
#[target_feature(enable = "avx2,fma,f16c")]
fn transpose(keys: &[u16], dim: usize, block: &mut [f32]) {
    let count = keys.len() / dim.max(1);
    assert!(block.len() >= dim * BLOCK && count <= BLOCK);
    let (rows, columns) = (count / 8 * 8, dim / 8 * 8);
    for row in (0..rows).step_by(8) {
        for column in (0..columns).step_by(8) {
            // SAFETY: rows row .. row + 8 and columns column .. column + 8 are inside both.
            unsafe {
                transpose_eight(
                    keys.as_ptr().add(row * dim + column),
                    dim,
                    block.as_mut_ptr().add(column * BLOCK + row),
                )
            };
        }
        for column in columns..dim {
            for r in row..row + 8 {
                block[column * BLOCK + r] = f16_to_f32(keys[r * dim + column]);
            }
        }
    }
    for (r, key) in keys.chunks_exact(dim.max(1)).enumerate().skip(rows) {
        for (column, k) in key.iter().enumerate() {
            block[column * BLOCK + r] = f16_to_f32(*k);
        }
    }
}

/// Eight rows of eight f16, `dim` apart, as eight columns of f32, `BLOCK` apart.
///
/// # Safety
/// These elements are readable and writable.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn transpose_eight(keys: *const u16, dim: usize, block: *mut f32) {
    let mut a = [_mm_setzero_si128(); 8];
    for (r, row) in a.iter_mut().enumerate() {
        // SAFETY: passed on to the caller.
        *row = unsafe { _mm_loadu_si128(keys.add(r * dim).cast()) };
    }
    let mut b = a;
    for i in 0..4 {
        b[2 * i] = _mm_unpacklo_epi16(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm_unpackhi_epi16(a[2 * i], a[2 * i + 1]);
    }
    // b[2i + h]: rows 2i, 2i + 1 of columns 4h .. 4h + 4.
    for i in 0..2 {
        for h in 0..2 {
            a[4 * i + 2 * h] = _mm_unpacklo_epi32(b[4 * i + h], b[4 * i + 2 + h]);
            a[4 * i + 2 * h + 1] = _mm_unpackhi_epi32(b[4 * i + h], b[4 * i + 2 + h]);
        }
    }
    // a[4i + j]: rows 4i .. 4i + 4 of columns 2j, 2j + 1.
    for j in 0..4 {
        let columns = [_mm_unpacklo_epi64(a[j], a[4 + j]), _mm_unpackhi_epi64(a[j], a[4 + j])];
        for (h, column) in columns.into_iter().enumerate() {
            // SAFETY: passed on to the caller.
            unsafe { _mm256_storeu_ps(block.add((2 * j + h) * BLOCK), _mm256_cvtph_ps(column)) };
        }
    }
}

/// Writes f16 as f32.
#[target_feature(enable = "avx2,fma,f16c")]
fn convert(values: &[u16], block: &mut [f32]) {
    let (chunks, rest) = values.as_chunks::<8>();
    let (outs, _) = block.as_chunks_mut::<8>();
    for (chunk, out) in chunks.iter().zip(outs) {
        // SAFETY: both have eight elements.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(chunk.as_ptr().cast())))
        };
    }
    for (out, v) in block[chunks.len() * 8..].iter_mut().zip(rest) {
        *out = f16_to_f32(*v);
    }
}

/// Scores of the pairs `pair .. pair + N` for `count` transposed keys, written to `scores`, `stride` apart.
/// Up to 15 scores beyond `count` are written with whatever the block holds; nobody reads them.
#[target_feature(enable = "avx2,fma,f16c")]
fn score<const N: usize>(
    call: &Call<'_>,
    kv: usize,
    pair: usize,
    count: usize,
    block: &[f32],
    scores: &mut [f32],
    stride: usize,
) {
    let dim = call.shape.key_dim;
    let queries: [&[f32]; N] = std::array::from_fn(|i| call.query(kv, pair + i));
    assert!(block.len() >= dim * BLOCK && scores.len() >= (N - 1) * stride + BLOCK && count <= BLOCK);
    let scale = _mm256_set1_ps(call.shape.scale);
    for j in (0..count).step_by(16) {
        let mut sums = [[_mm256_setzero_ps(); 2]; N];
        for d in 0..dim {
            // SAFETY: j + 16 <= BLOCK, and the block has `dim` rows, each query `dim` elements.
            unsafe {
                let keys = block.as_ptr().add(d * BLOCK + j);
                let keys = [_mm256_loadu_ps(keys), _mm256_loadu_ps(keys.add(8))];
                for (sums, query) in sums.iter_mut().zip(&queries) {
                    let q = _mm256_broadcast_ss(query.get_unchecked(d));
                    sums[0] = _mm256_fmadd_ps(q, keys[0], sums[0]);
                    sums[1] = _mm256_fmadd_ps(q, keys[1], sums[1]);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            // SAFETY: j + 16 <= BLOCK, and each pair's scores have room for a whole block.
            unsafe {
                let to = scores.as_mut_ptr().add(i * stride + j);
                _mm256_storeu_ps(to, _mm256_mul_ps(sums[0], scale));
                _mm256_storeu_ps(to.add(8), _mm256_mul_ps(sums[1], scale));
            }
        }
    }
}

/// Replaces scores by exp(score - maximum); returns their sum, in eight lanes by position.
#[target_feature(enable = "avx2,fma,f16c")]
fn softmax(scores: &mut [f32]) -> f32 {
    // The maximum does not depend on the order; where a NaN is involved the sum is NaN in any case.
    let mut lanes = [f32::NEG_INFINITY; 8];
    for chunk in scores.chunks(8) {
        for (m, s) in lanes.iter_mut().zip(chunk) {
            *m = if *s > *m { *s } else { *m };
        }
    }
    let max = lanes.iter().fold(f32::NEG_INFINITY, |m, s| if *s > m { *s } else { m });
    let mut sums = [0.0; 8];
    let (chunks, rest) = scores.as_chunks_mut::<8>();
    let mut sum = _mm256_setzero_ps();
    for chunk in chunks {
        // SAFETY: a chunk has eight elements.
        unsafe {
            let e = exp(_mm256_sub_ps(_mm256_loadu_ps(chunk.as_ptr()), _mm256_set1_ps(max)));
            _mm256_storeu_ps(chunk.as_mut_ptr(), e);
            sum = _mm256_add_ps(sum, e);
        }
    }
    // SAFETY: `sums` has eight elements.
    unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), sum) };
    for (lane, s) in sums.iter_mut().zip(rest) {
        *s = crate::kernels::math::exp(*s - max);
        *lane += *s;
    }
    sum_lanes(&sums)
}

/// Adds the values at `positions`, times their weights, to the outputs of the pairs `pair .. pair + N`, each
/// up to the last position that it sees.
///
/// # Safety
/// The caller owns these outputs.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn mix<const N: usize>(
    call: &Call<'_>,
    kv: usize,
    pair: usize,
    positions: Range<usize>,
    block: &[f32],
    weights: &[f32],
    stride: usize,
) {
    let dim = call.shape.value_dim;
    // Positions that all pairs see are taken together (the first pair sees the fewest), the rest pair by pair.
    let seen = |i: usize| call.visible(pair + i).clamp(positions.start, positions.end) - positions.start;
    let shared = seen(0);
    // SAFETY: the rows are distinct, and the caller's.
    let mut outs: [&mut [f32]; N] =
        std::array::from_fn(|i| unsafe { call.out.part(call.row(kv, pair + i) * dim, dim) });
    let weights: [&[f32]; N] = std::array::from_fn(|i| &weights[i * stride..][..seen(i)]);
    assert!(block.len() >= positions.len() * dim);
    let whole = dim / 16 * 16;
    for d in (0..whole).step_by(16) {
        let mut sums = [[_mm256_setzero_ps(); 2]; N];
        // SAFETY: d + 16 <= dim, all rows of `block` and `outs` have `dim` elements, and each weight slice
        // has at least `shared` elements.
        unsafe {
            for (sums, out) in sums.iter_mut().zip(&outs) {
                *sums = [_mm256_loadu_ps(out.as_ptr().add(d)), _mm256_loadu_ps(out.as_ptr().add(d + 8))];
            }
            for j in 0..shared {
                let row = block.as_ptr().add(j * dim + d);
                let v = [_mm256_loadu_ps(row), _mm256_loadu_ps(row.add(8))];
                for (sums, weights) in sums.iter_mut().zip(&weights) {
                    let w = _mm256_broadcast_ss(weights.get_unchecked(j));
                    sums[0] = _mm256_fmadd_ps(w, v[0], sums[0]);
                    sums[1] = _mm256_fmadd_ps(w, v[1], sums[1]);
                }
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                for (j, w) in weights[i].iter().enumerate().skip(shared) {
                    let row = block.as_ptr().add(j * dim + d);
                    let w = _mm256_set1_ps(*w);
                    sums[0] = _mm256_fmadd_ps(w, _mm256_loadu_ps(row), sums[0]);
                    sums[1] = _mm256_fmadd_ps(w, _mm256_loadu_ps(row.add(8)), sums[1]);
                }
                _mm256_storeu_ps(outs[i].as_mut_ptr().add(d), sums[0]);
                _mm256_storeu_ps(outs[i].as_mut_ptr().add(d + 8), sums[1]);
            }
        }
    }
    for (out, weights) in outs.iter_mut().zip(weights) {
        for (j, w) in weights.iter().enumerate() {
            for d in whole..dim {
                out[d] = w.mul_add(block[j * dim + d], out[d]);
            }
        }
    }
}

//! Products with f32, f16 and bf16 weights: eight rows per vector, four accumulators by k mod 4.

use std::arch::x86_64::*;

use crate::kernels::backend::Activations;
use crate::kernels::layout::{Float, GROUP, Part};

/// Columns that share one conversion of the weights.
const WIDTH: usize = 3;

/// Eight weights, one per row, at position k.
#[inline(always)]
unsafe fn load<const KIND: u8>(group: *const u8, k: usize) -> __m256 {
    // SAFETY: the caller's group has k + 1 vectors.
    unsafe {
        if KIND == 0 {
            _mm256_loadu_ps(group.add(32 * k).cast())
        } else {
            let half = _mm_loadu_si128(group.add(16 * k).cast());
            if KIND == 1 {
                _mm256_cvtph_ps(half)
            } else {
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half)))
            }
        }
    }
}

/// Group `g` times columns `c .. c + N`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn columns<const KIND: u8, const N: usize>(part: &Part<'_>, x: &Activations, g: usize, c: usize) {
    let group = part.group(g).as_ptr();
    let rows: [*const f32; N] = std::array::from_fn(|i| x.values[(c + i) * x.k..].as_ptr());
    let mut sums = [[_mm256_setzero_ps(); 4]; N];
    let whole = x.k / 4 * 4;
    for k in (0..whole).step_by(4) {
        for lane in 0..4 {
            // SAFETY: the group and the columns have x.k elements per row.
            unsafe {
                let w = load::<KIND>(group, k + lane);
                for (sums, row) in sums.iter_mut().zip(&rows) {
                    sums[lane] = _mm256_fmadd_ps(w, _mm256_broadcast_ss(&*row.add(k + lane)), sums[lane]);
                }
            }
        }
    }
    for k in whole..x.k {
        // SAFETY: as above.
        unsafe {
            let w = load::<KIND>(group, k);
            for (sums, row) in sums.iter_mut().zip(&rows) {
                sums[k - whole] = _mm256_fmadd_ps(w, _mm256_broadcast_ss(&*row.add(k)), sums[k - whole]);
            }
        }
    }
    for (i, s) in sums.iter().enumerate() {
        let total = _mm256_add_ps(_mm256_add_ps(s[0], s[1]), _mm256_add_ps(s[2], s[3]));
        let mut result = [0.0; GROUP];
        // SAFETY: `result` has eight elements; the caller owns the group and column.
        unsafe {
            _mm256_storeu_ps(result.as_mut_ptr(), total);
            part.store(g, c + i, &result);
        }
    }
}

/// All groups and columns of `part`.
unsafe fn all<const KIND: u8>(part: &Part<'_>, x: &Activations) {
    part.each_block::<WIDTH>(
        // SAFETY: passed on to the caller; the columns are in the part.
        |g, c| unsafe { columns::<KIND, WIDTH>(part, x, g, c) },
        // SAFETY: as above.
        |g, c| unsafe { columns::<KIND, 1>(part, x, g, c) },
    );
}

/// Computes `part`.
///
/// # Safety
/// `layout::is_sound` holds, the part is inside the product and owned, AVX2, FMA and F16C are there.
pub unsafe fn run(kind: Float, part: &Part<'_>, x: &Activations) {
    // SAFETY: passed on to the caller.
    unsafe {
        match kind {
            Float::F32 => all::<0>(part, x),
            Float::F16 => all::<1>(part, x),
            Float::Bf16 => all::<2>(part, x),
        }
    }
}

//! Products with f32, f16 and bf16 weights: eight rows in two vectors, four accumulators by k mod 4.

use std::arch::aarch64::*;

use super::half;
use crate::kernels::backend::Activations;
use crate::kernels::layout::{Float, GROUP, Part};

/// Columns that share one conversion of the weights.
const WIDTH: usize = 3;

/// Eight weights, one per row, at position k.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load<const KIND: u8>(group: *const u8, k: usize) -> [float32x4_t; 2] {
    // SAFETY: the caller's group has k + 1 times eight weights.
    unsafe {
        if KIND == 0 {
            let vector = |at: usize| vreinterpretq_f32_u8(vld1q_u8(group.add(32 * k + at)));
            [vector(0), vector(16)]
        } else {
            let bits = vreinterpretq_u16_u8(vld1q_u8(group.add(16 * k)));
            if KIND == 1 {
                half::to_f32(bits)
            } else {
                let low = vshll_n_u16::<16>(vget_low_u16(bits));
                [vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(vshll_high_n_u16::<16>(bits))]
            }
        }
    }
}

/// Group `g` times columns `c .. c + N`.
#[target_feature(enable = "neon")]
unsafe fn columns<const KIND: u8, const N: usize>(part: &Part<'_>, x: &Activations, g: usize, c: usize) {
    let group = part.group(g).as_ptr();
    let rows: [*const f32; N] = std::array::from_fn(|i| x.values[(c + i) * x.k..].as_ptr());
    let mut sums = [[[vdupq_n_f32(0.0); 2]; 4]; N];
    let whole = x.k / 4 * 4;
    let mut step = |k: usize, lane: usize| {
        // SAFETY: the group and the columns have x.k elements per row.
        unsafe {
            let w = load::<KIND>(group, k);
            for (sums, row) in sums.iter_mut().zip(&rows) {
                let x = *row.add(k);
                sums[lane] = [vfmaq_n_f32(sums[lane][0], w[0], x), vfmaq_n_f32(sums[lane][1], w[1], x)];
            }
        }
    };
    for k in (0..whole).step_by(4) {
        for lane in 0..4 {
            step(k + lane, lane);
        }
    }
    for k in whole..x.k {
        step(k, k - whole);
    }
    for (i, s) in sums.iter().enumerate() {
        let mut result = [0.0; GROUP];
        for (v, four) in result.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let total = vaddq_f32(vaddq_f32(s[0][v], s[1][v]), vaddq_f32(s[2][v], s[3][v]));
            // SAFETY: `four` has four elements.
            unsafe { vst1q_f32(four.as_mut_ptr(), total) };
        }
        // SAFETY: the caller owns the group and column.
        unsafe { part.store(g, c + i, &result) };
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
/// `layout::is_sound` holds, the part is inside the product and owned, NEON is there.
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

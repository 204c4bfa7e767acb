//! Element-wise kernels with NEON; tails of rows are left to the scalar forms.

use std::arch::aarch64::*;

use super::half;
use crate::kernels::encoding::TILE;
use crate::kernels::math::{EXP, EXP_HIGHEST, EXP_LOWEST, LN2, LOG2_E, ROUNDER, sum_lanes_f64};
use crate::kernels::scalar::elementwise as scalar;

/// Four elements.
#[inline]
#[target_feature(enable = "neon")]
fn load(x: &[f32; 4]) -> float32x4_t {
    // SAFETY: there are four elements.
    unsafe { vld1q_f32(x.as_ptr()) }
}

/// Writes four elements.
#[inline]
#[target_feature(enable = "neon")]
fn store(out: &mut [f32; 4], v: float32x4_t) {
    // SAFETY: there is room for four elements.
    unsafe { vst1q_f32(out.as_mut_ptr(), v) };
}

/// `math::exp` in four lanes, operation for operation.
#[inline]
#[target_feature(enable = "neon")]
pub fn exp(x: float32x4_t) -> float32x4_t {
    let rounder = vdupq_n_f32(ROUNDER);
    let shifted = vfmaq_n_f32(rounder, x, LOG2_E);
    let n = vsubq_f32(shifted, rounder);
    let r = vfmaq_n_f32(x, n, -LN2[0]);
    let r = vfmaq_n_f32(r, n, -LN2[1]);
    let mut tail = vdupq_n_f32(EXP[4]);
    for c in EXP[..4].iter().rev() {
        tail = vfmaq_f32(vdupq_n_f32(*c), tail, r);
    }
    let mantissa = vfmaq_f32(r, vmulq_f32(r, r), tail);
    let mantissa = vreinterpretq_s32_f32(vaddq_f32(mantissa, vdupq_n_f32(1.0)));
    let power = vshlq_n_s32::<23>(vreinterpretq_s32_f32(shifted));
    let value = vreinterpretq_f32_s32(vaddq_s32(mantissa, power));
    let high = vcgtq_f32(x, vdupq_n_f32(EXP_HIGHEST));
    let low = vcltq_f32(x, vdupq_n_f32(EXP_LOWEST));
    let value = vbslq_f32(high, vdupq_n_f32(f32::INFINITY), value);
    let value = vbslq_f32(low, vdupq_n_f32(0.0), value);
    // A NaN does not equal itself.
    vbslq_f32(vceqq_f32(x, x), value, x)
}

/// As the scalar form.
#[target_feature(enable = "neon")]
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mut sums = [vdupq_n_f64(0.0); 4];
    let (chunks, rest) = x.as_chunks::<8>();
    for chunk in chunks {
        for (h, four) in chunk.as_chunks().0.iter().enumerate() {
            let v = load(four);
            let wide = [vcvt_f64_f32(vget_low_f32(v)), vcvt_high_f64_f32(v)];
            for (sum, wide) in sums[2 * h..][..2].iter_mut().zip(wide) {
                // The square is exact, so that fusing changes nothing.
                *sum = vfmaq_f64(*sum, wide, wide);
            }
        }
    }
    let mut lanes = [0.0f64; 8];
    for (two, sum) in lanes.chunks_exact_mut(2).zip(sums) {
        // SAFETY: `two` has two elements.
        unsafe { vst1q_f64(two.as_mut_ptr(), sum) };
    }
    for (lane, v) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(*v) * f64::from(*v);
    }
    let factor = scalar::rms_factor(sum_lanes_f64(&lanes), x.len(), eps);
    for ((o, v), w) in out.iter_mut().zip(x).zip(weight) {
        *o = v * factor * w;
    }
}

/// As the scalar form.
#[target_feature(enable = "neon")]
pub fn activations(x: &[f32], row: &mut scalar::Row<'_>) {
    let (blocks, rest) = x.as_chunks::<TILE>();
    if !rest.is_empty() {
        return scalar::activations(x, row);
    }
    for (t, block) in blocks.iter().enumerate() {
        let mut v = [vdupq_n_f32(0.0); 8];
        let mut amax = vdupq_n_u32(0);
        for (v, four) in v.iter_mut().zip(block.as_chunks().0) {
            *v = load(four);
            amax = vmaxq_u32(amax, vreinterpretq_u32_f32(vabsq_f32(*v)));
        }
        let (scale, factor) = scalar::block_scale(vmaxvq_u32(amax));
        let mut halves = [0; 2];
        let codes = row.codes[t * TILE..][..TILE].as_chunks_mut::<16>().0;
        for (h, codes) in codes.iter_mut().enumerate() {
            let packed = if factor == 0.0 {
                // Not finite, or almost zero.
                vdupq_n_s8(0)
            } else {
                quantize(&v[4 * h..], factor)
            };
            // SAFETY: there is room for 16 codes.
            unsafe { vst1q_s8(codes.as_mut_ptr(), packed) };
            halves[h] = i32::from(vaddlvq_s8(packed));
        }
        scalar::finish_block(row, t, scale, halves);
    }
}

/// Codes of 16 values: times `factor`, ties to even. The product is at most 127 and a rounding error, so that
/// nothing is clamped.
#[inline]
#[target_feature(enable = "neon")]
fn quantize(v: &[float32x4_t], factor: f32) -> int8x16_t {
    let whole = |i: usize| vcvtnq_s32_f32(vmulq_n_f32(v[i], factor));
    let low = vcombine_s16(vmovn_s32(whole(0)), vmovn_s32(whole(1)));
    let high = vcombine_s16(vmovn_s32(whole(2)), vmovn_s32(whole(3)));
    vcombine_s8(vmovn_s16(low), vmovn_s16(high))
}

/// As the scalar form: (a, b) becomes (a cos - b sin, b cos + a sin).
#[target_feature(enable = "neon")]
pub fn rope(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    let (fours, rest) = cos.as_chunks::<4>();
    let pairs = fours.len() * 4;
    for head in x.chunks_exact_mut(head_dim) {
        let eights = head.as_chunks_mut::<8>().0;
        for ((eight, c), s) in eights.iter_mut().zip(fours).zip(sin.as_chunks().0) {
            let (c, s) = (load(c), load(s));
            // SAFETY: there are eight elements.
            unsafe {
                let float32x4x2_t(a, b) = vld2q_f32(eight.as_ptr());
                let turned = float32x4x2_t(
                    vsubq_f32(vmulq_f32(a, c), vmulq_f32(b, s)),
                    vaddq_f32(vmulq_f32(b, c), vmulq_f32(a, s)),
                );
                vst2q_f32(eight.as_mut_ptr(), turned);
            }
        }
        if !rest.is_empty() {
            // The pairs that do not fill a vector, as a head of their own.
            let tail = &mut head[2 * pairs..][..2 * rest.len()];
            scalar::rope(tail, 2 * rest.len(), rest, &sin[pairs..]);
        }
    }
}

/// As the scalar form.
#[target_feature(enable = "neon")]
pub fn to_f16(x: &[f32], out: &mut [u16]) {
    let (chunks, rest) = x.as_chunks::<8>();
    let (outs, _) = out.as_chunks_mut::<8>();
    for (chunk, o) in chunks.iter().zip(outs) {
        // SAFETY: both have eight elements.
        unsafe {
            let values = [vld1q_f32(chunk.as_ptr()), vld1q_f32(chunk.as_ptr().add(4))];
            vst1q_u16(o.as_mut_ptr(), half::to_f16(values));
        }
    }
    scalar::to_f16(rest, &mut out[chunks.len() * 8..]);
}

/// As the scalar form.
#[target_feature(enable = "neon")]
pub fn swiglu(gate: &mut [f32], up: &[f32]) {
    let (gates, rest) = gate.as_chunks_mut::<4>();
    let (ups, up_rest) = up.as_chunks::<4>();
    for (g, u) in gates.iter_mut().zip(ups) {
        let x = load(g);
        let silu = vdivq_f32(x, vaddq_f32(vdupq_n_f32(1.0), exp(vnegq_f32(x))));
        store(g, vmulq_f32(silu, load(u)));
    }
    scalar::swiglu(rest, up_rest);
}

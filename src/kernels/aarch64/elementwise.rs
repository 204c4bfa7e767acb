//! Element-wise kernels with NEON; tails of rows are left to the scalar forms.

use std::arch::aarch64::*;

use super::half;
use crate::kernels::encoding::TILE;
use crate::kernels::math::sum_lanes_f64;
use crate::kernels::scalar::elementwise as scalar;

/// Four elements.
#[inline]
#[target_feature(enable = "neon")]
fn load(x: &[f32; 4]) -> float32x4_t {
    // SAFETY: there are four elements.
    unsafe { vld1q_f32(x.as_ptr()) }
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
pub fn quantize(x: &[f32; TILE], codes: &mut [i8; TILE]) -> f32 {
    let mut v = [vdupq_n_f32(0.0); 8];
    let mut amax = vdupq_n_u32(0);
    for (v, four) in v.iter_mut().zip(x.as_chunks().0) {
        *v = load(four);
        amax = vmaxq_u32(amax, vreinterpretq_u32_f32(vabsq_f32(*v)));
    }
    let (scale, factor) = scalar::block_scale(vmaxvq_u32(amax));
    for (v, codes) in v.as_chunks::<4>().0.iter().zip(codes.as_chunks_mut::<16>().0) {
        // A factor of 0 stands for what is not finite, or almost zero.
        let packed = if factor == 0.0 { vdupq_n_s8(0) } else { round(v, factor) };
        // SAFETY: there is room for 16 codes.
        unsafe { vst1q_s8(codes.as_mut_ptr(), packed) };
    }
    scale
}

/// Codes of 16 values: times `factor`, ties to even. The product is at most 127 and a rounding error, so that
/// nothing is clamped.
#[inline]
#[target_feature(enable = "neon")]
fn round(v: &[float32x4_t; 4], factor: f32) -> int8x16_t {
    let whole = |i: usize| vcvtnq_s32_f32(vmulq_n_f32(v[i], factor));
    let low = vcombine_s16(vmovn_s32(whole(0)), vmovn_s32(whole(1)));
    let high = vcombine_s16(vmovn_s32(whole(2)), vmovn_s32(whole(3)));
    vcombine_s8(vmovn_s16(low), vmovn_s16(high))
}

/// As the scalar form.
#[target_feature(enable = "neon")]
pub fn activations(x: &[f32], row: &mut scalar::Row<'_>) {
    let (blocks, rest) = x.as_chunks::<TILE>();
    if !rest.is_empty() {
        return scalar::activations(x, row);
    }
    for (t, block) in blocks.iter().enumerate() {
        let codes = &mut row.codes.as_chunks_mut::<TILE>().0[t];
        let scale = quantize(block, codes);
        // SAFETY: there are twice 16 codes.
        let sum = |h: usize| i32::from(vaddlvq_s8(unsafe { vld1q_s8(codes[16 * h..][..16].as_ptr()) }));
        let halves = [sum(0), sum(1)];
        scalar::finish_block(row, t, scale, halves);
    }
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

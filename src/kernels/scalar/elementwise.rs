//! Norm, preparation of activations, rotation, rounding to f16, SwiGLU: one row (token) or slice at a time.

use crate::kernels::encoding::TILE;
use crate::kernels::math::{exp, f32_to_f16, round_even, sum_lanes_f64};

/// Largest absolute value below which a block of activations counts as zero; its codes' scale would overflow.
pub const SMALLEST: f32 = 1e-30;

/// One row of `Activations` to fill.
pub struct Row<'a> {
    pub codes: &'a mut [i8],
    pub scales: &'a mut [f32],
    pub sums: &'a mut [i32],
    pub half_sums: &'a mut [i32],
    pub offsets: &'a mut [f32],
    pub half_offsets: &'a mut [f32],
}

/// Scale of a block whose largest absolute value has the bits `amax`, and the factor from value to code:
/// both 0 for a block of (almost) zeros, NaN and 0 for one that is not finite.
pub fn block_scale(amax: u32) -> (f32, f32) {
    let amax = f32::from_bits(amax);
    if !amax.is_finite() {
        (f32::NAN, 0.0)
    } else if amax < SMALLEST {
        (0.0, 0.0)
    } else {
        (amax / 127.0, 127.0 / amax)
    }
}

/// Codes of a block, and their scale.
pub fn quantize(x: &[f32; TILE], codes: &mut [i8; TILE]) -> f32 {
    let amax = x.iter().map(|v| v.to_bits() & 0x7fff_ffff).max().unwrap_or(0);
    let (scale, factor) = block_scale(amax);
    codes.fill(0);
    if factor != 0.0 {
        for (code, v) in codes.iter_mut().zip(x) {
            *code = round_even(v * factor).clamp(-127.0, 127.0) as i8;
        }
    }
    scale
}

/// Codes and sums of the row `x`.
pub fn activations(x: &[f32], row: &mut Row<'_>) {
    for (t, values) in x.chunks(TILE).enumerate() {
        let (mut block, mut codes) = ([0.0; TILE], [0; TILE]);
        block[..values.len()].copy_from_slice(values);
        let scale = quantize(&block, &mut codes);
        row.codes[t * TILE..][..TILE].copy_from_slice(&codes);
        let sum = |codes: &[i8]| codes.iter().map(|c| i32::from(*c)).sum();
        let halves = [sum(&codes[..16]), sum(&codes[16..])];
        finish_block(row, t, scale, halves);
    }
}

/// Writes scale and sums of block `t`.
#[inline(always)]
pub fn finish_block(row: &mut Row<'_>, t: usize, scale: f32, halves: [i32; 2]) {
    let sum = halves[0] + halves[1];
    row.scales[t] = scale;
    row.sums[t] = sum;
    row.offsets[t] = scale * sum as f32;
    for (h, half) in halves.into_iter().enumerate() {
        row.half_sums[2 * t + h] = half;
        row.half_offsets[2 * t + h] = scale * half as f32;
    }
}

/// Root-mean-square norm of one row; the squares, exact in f64, are summed in eight lanes.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mut lanes = [0.0f64; 8];
    for chunk in x.chunks(8) {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(*v) * f64::from(*v);
        }
    }
    let factor = rms_factor(sum_lanes_f64(&lanes), x.len(), eps);
    for ((o, v), w) in out.iter_mut().zip(x).zip(weight) {
        *o = v * factor * w;
    }
}

/// 1 / sqrt(sum / n + eps).
pub fn rms_factor(sum: f64, n: usize, eps: f32) -> f32 {
    (1.0 / (sum / n as f64 + f64::from(eps)).sqrt()) as f32
}

/// Rotates the pairs of each head of one token.
pub fn rope(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    for head in x.chunks_exact_mut(head_dim) {
        for ((pair, c), s) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
            let (a, b) = (pair[0], pair[1]);
            pair[0] = a * c - b * s;
            pair[1] = b * c + a * s;
        }
    }
}

/// Rounds to f16.
pub fn to_f16(x: &[f32], out: &mut [u16]) {
    for (o, v) in out.iter_mut().zip(x) {
        *o = f32_to_f16(*v);
    }
}

/// `gate = silu(gate) * up`.
pub fn swiglu(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp(-*g)) * u;
    }
}

/// `x += y`.
pub fn add(x: &mut [f32], y: &[f32]) {
    for (a, b) in x.iter_mut().zip(y) {
        *a += b;
    }
}

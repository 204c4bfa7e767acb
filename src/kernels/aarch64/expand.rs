//! Packed blocks to tiles in registers, for the encodings that have a vector form.
//!
//! In a tile, pair i of vectors holds the codes of k = 4i .. 4i + 4: 32-bit lane r of the first those of row r of
//! the group, of the second those of row 4 + r. All codes fit i8, so that unsigned ones are multiplied as signed.
//! The layouts inside a block are ggml's (`ggml-common.h`), interleaved as `kernels::pack` describes.

use std::arch::aarch64::*;

use super::half;
use crate::kernels::encodings::iq4::VALUES;
use crate::kernels::shape::{Iq4Nl, Iq4Xs, Packed, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};

/// Four codes of each of eight rows.
pub type Codes = [int8x16_t; 2];
/// The same before they are codes.
type Bytes = [uint8x16_t; 2];
/// One number for each of eight rows.
pub type Floats = [float32x4_t; 2];

/// One tile of eight rows.
#[derive(Clone, Copy)]
pub struct Regs {
    /// Codes of four k each.
    pub codes: [Codes; 8],
    /// Scale of the first and second half per row; only the first counts without `HALVES`.
    pub scale: [Floats; 2],
    /// Offsets likewise, with `MIN`.
    pub min: [Floats; 2],
}

/// An encoding that is unpacked in registers.
pub trait Expand: Packed {
    /// Tile `t < TILES` of the eight blocks at `block`.
    ///
    /// # Safety
    /// `block` has `BYTES` readable bytes; the processor has NEON.
    unsafe fn tile(block: *const u8, t: usize) -> Regs;
}

/// 32 bytes at `p + 32 i`.
#[inline(always)]
unsafe fn pair(p: *const u8, i: usize) -> Bytes {
    // SAFETY: the caller's block has these bytes.
    unsafe { [vld1q_u8(p.add(32 * i)), vld1q_u8(p.add(32 * i + 16))] }
}

/// Eight f16, one per row.
#[inline(always)]
unsafe fn halves(p: *const u8) -> Floats {
    // SAFETY: the caller's block has 16 bytes here.
    unsafe { half::to_f32(vreinterpretq_u16_u8(vld1q_u8(p))) }
}

/// Zero for each row.
#[inline(always)]
unsafe fn zeros() -> Floats {
    // SAFETY: NEON by the caller's promise.
    unsafe { [vdupq_n_f32(0.0); 2] }
}

/// The low `mask` of each byte of `v >> shift`.
#[inline(always)]
unsafe fn bits(v: Bytes, shift: usize, mask: u8) -> Bytes {
    // SAFETY: NEON by the caller's promise.
    unsafe {
        let (right, mask) = (vdupq_n_s8(-(shift as i8)), vdupq_n_u8(mask));
        [vandq_u8(vshlq_u8(v[0], right), mask), vandq_u8(vshlq_u8(v[1], right), mask)]
    }
}

/// `low | high << LEFT` as codes.
#[inline(always)]
unsafe fn join<const LEFT: i32>(low: Bytes, high: Bytes) -> Codes {
    // SAFETY: NEON by the caller's promise.
    unsafe {
        let one = |i: usize| vreinterpretq_s8_u8(vorrq_u8(low[i], vshlq_n_u8::<LEFT>(high[i])));
        [one(0), one(1)]
    }
}

/// Bytes as codes.
#[inline(always)]
unsafe fn signed(v: Bytes) -> Codes {
    // SAFETY: NEON by the caller's promise.
    unsafe { [vreinterpretq_s8_u8(v[0]), vreinterpretq_s8_u8(v[1])] }
}

/// Eight tables of 16 bytes' worth of codes, all 0.
#[inline(always)]
unsafe fn no_codes() -> [Codes; 8] {
    // SAFETY: NEON by the caller's promise.
    unsafe { [[vdupq_n_s8(0); 2]; 8] }
}

/// 4-bit codes of a 32-element block of 16 bytes per row: low nibbles, then high nibbles.
#[inline(always)]
unsafe fn nibbles(p: *const u8) -> [Codes; 8] {
    // SAFETY: the caller's block has 128 bytes here.
    unsafe {
        let mut codes = no_codes();
        for i in 0..4 {
            let v = pair(p, i);
            codes[i] = signed(bits(v, 0, 15));
            codes[4 + i] = signed([vshrq_n_u8::<4>(v[0]), vshrq_n_u8::<4>(v[1])]);
        }
        codes
    }
}

/// For each k = 4i .. 4i + 4 of four rows, where in 16 bytes, 4 per row, the byte with the bit of k lies, and
/// that bit; without the 2 (i / 2) to be added to the place.
const FIFTH_BYTES: [u8; 16] = [0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12];
const FIFTH_BITS: [u32; 2] = [0x0804_0201, 0x8040_2010];

/// Adds bit j of each row's 32 `high` bits as value 16 to code j.
#[inline(always)]
unsafe fn add_fifth_bits(codes: &mut [Codes; 8], high: Bytes) {
    // SAFETY: NEON by the caller's promise; the table has 16 bytes.
    unsafe {
        for (i, codes) in codes.iter_mut().enumerate() {
            // Byte i / 2 of the row holds the bits of k = 4i .. 4i + 4, in its low or high half.
            let places = vaddq_u8(vld1q_u8(FIFTH_BYTES.as_ptr()), vdupq_n_u8((i / 2) as u8));
            let select = vreinterpretq_u8_u32(vdupq_n_u32(FIFTH_BITS[i % 2]));
            for (code, high) in codes.iter_mut().zip(high) {
                let set = vtstq_u8(vqtbl1q_u8(high, places), select);
                *code = vorrq_s8(*code, vreinterpretq_s8_u8(vandq_u8(set, vdupq_n_u8(16))));
            }
        }
    }
}

/// Replaces 4-bit indices by the values of ggml's `kvalues_iq4nl`.
#[inline(always)]
unsafe fn look_up(codes: &mut [Codes; 8]) {
    // SAFETY: NEON by the caller's promise; the table has 16 bytes.
    unsafe {
        let table = vld1q_s8(VALUES.as_ptr());
        for code in codes.iter_mut().flatten() {
            *code = vqtbl1q_s8(table, vreinterpretq_u8_s8(*code));
        }
    }
}

/// Writes [`Expand`] for a 32-element block: `|block| (codes, scale, min)`.
macro_rules! simple {
    ($name:ident, |$p:ident| $body:block) => {
        impl Expand for $name {
            #[inline(always)]
            unsafe fn tile($p: *const u8, _: usize) -> Regs {
                // SAFETY: reads stay inside the block, whose bytes the caller vouches for.
                unsafe {
                    let (codes, scale, min) = $body;
                    Regs { codes, scale: [scale; 2], min: [min; 2] }
                }
            }
        }
    };
}

simple!(Q4_0, |p| { (nibbles(p.add(16)), halves(p), zeros()) });
simple!(Q4_1, |p| { (nibbles(p.add(32)), halves(p), halves(p.add(16))) });
simple!(Q5_0, |p| {
    let mut codes = nibbles(p.add(48));
    add_fifth_bits(&mut codes, pair(p.add(16), 0));
    (codes, halves(p), zeros())
});
simple!(Q5_1, |p| {
    let mut codes = nibbles(p.add(64));
    add_fifth_bits(&mut codes, pair(p.add(32), 0));
    (codes, halves(p), halves(p.add(16)))
});
simple!(Q8_0, |p| {
    let mut codes = no_codes();
    for (i, codes) in codes.iter_mut().enumerate() {
        *codes = signed(pair(p.add(16), i));
    }
    (codes, halves(p), zeros())
});
simple!(Iq4Nl, |p| {
    let mut codes = nibbles(p.add(16));
    look_up(&mut codes);
    (codes, halves(p), zeros())
});

/// The low `mask` of eight bytes at `p`, one per row, shifted right.
#[inline(always)]
unsafe fn row_bits(p: *const u8, shift: usize, mask: u8) -> uint8x8_t {
    // SAFETY: the caller's block has 8 bytes here.
    unsafe { vand_u8(vshl_u8(vld1_u8(p), vdup_n_s8(-(shift as i8))), vdup_n_u8(mask)) }
}

/// `d` times an integer per row.
#[inline(always)]
unsafe fn times(d: Floats, factors: int16x8_t) -> Floats {
    // SAFETY: NEON by the caller's promise.
    unsafe {
        let (low, high) = (vmovl_s16(vget_low_s16(factors)), vmovl_high_s16(factors));
        [vmulq_f32(d[0], vcvtq_f32_s32(low)), vmulq_f32(d[1], vcvtq_f32_s32(high))]
    }
}

/// Unsigned bytes as i16.
#[inline(always)]
unsafe fn widen(v: uint8x8_t) -> int16x8_t {
    // SAFETY: NEON by the caller's promise.
    unsafe { vreinterpretq_s16_u16(vmovl_u8(v)) }
}

/// `d` times the signed bytes at `p`, one per row.
#[inline(always)]
unsafe fn times_i8(d: Floats, p: *const u8) -> Floats {
    // SAFETY: the caller's block has 8 bytes here.
    unsafe { times(d, vmovl_s8(vreinterpret_s8_u8(vld1_u8(p)))) }
}

/// `d` times scale j of Q3_K, 6 bits from the 12 scale bytes at `p`, less 32.
#[inline(always)]
unsafe fn times_q3_scale(d: Floats, p: *const u8, j: usize) -> Floats {
    // SAFETY: the caller's block has 96 bytes here; j < 16.
    unsafe {
        let low = row_bits(p.add(8 * (j % 8)), j / 8 * 4, 15);
        let high = row_bits(p.add(64 + 8 * (j % 4)), j / 4 * 2, 3);
        let code = vorr_u8(low, vshl_n_u8::<4>(high));
        times(d, vsubq_s16(widen(code), vdupq_n_s16(32)))
    }
}

/// Scale and offset codes of tile `t` of Q4_K and Q5_K, 6 bits each, from the 12 scale bytes at `p`.
#[inline(always)]
unsafe fn six_bit_pair(p: *const u8, t: usize) -> (uint8x8_t, uint8x8_t) {
    // SAFETY: the caller's block has 96 bytes here; t < 8.
    unsafe {
        if t < 4 {
            return (row_bits(p.add(8 * t), 0, 63), row_bits(p.add(8 * t + 32), 0, 63));
        }
        let both = vld1_u8(p.add(8 * t + 32));
        let top = |at: usize| vshl_n_u8::<4>(vshr_n_u8::<6>(vld1_u8(p.add(8 * at))));
        let scale = vorr_u8(vand_u8(both, vdup_n_u8(15)), top(t - 4));
        (scale, vorr_u8(vshr_n_u8::<4>(both), top(t)))
    }
}

/// Eight f16, one per row, negated.
#[inline(always)]
unsafe fn negated(p: *const u8) -> Floats {
    // SAFETY: the caller's block has 16 bytes here.
    unsafe {
        let v = halves(p);
        [vnegq_f32(v[0]), vnegq_f32(v[1])]
    }
}

/// Scale and negated offset of tile `t` of Q4_K and Q5_K.
#[inline(always)]
unsafe fn affine(p: *const u8, t: usize) -> (Floats, Floats) {
    // SAFETY: the caller's block begins with d, dmin and 12 scale bytes per row.
    unsafe {
        let (scale, min) = six_bit_pair(p.add(32), t);
        (times(halves(p), widen(scale)), times(negated(p.add(16)), widen(min)))
    }
}

/// Writes [`Expand`] for a 256-element block: `|block, t| (codes, scale, min)`.
macro_rules! super_block {
    ($name:ident, |$p:ident, $t:ident| $body:block) => {
        impl Expand for $name {
            #[inline(always)]
            unsafe fn tile($p: *const u8, $t: usize) -> Regs {
                // SAFETY: reads stay inside the block, whose bytes the caller vouches for; t < 8.
                unsafe {
                    let (codes, scale, min) = $body;
                    Regs { codes, scale, min }
                }
            }
        }
    };
}

super_block!(Q4K, |p, t| {
    let mut codes = no_codes();
    let quants = p.add(128 + 256 * (t / 2));
    for (i, codes) in codes.iter_mut().enumerate() {
        *codes = signed(bits(pair(quants, i), 4 * (t % 2), 15));
    }
    let (scale, min) = affine(p, t);
    (codes, [scale; 2], [min; 2])
});
super_block!(Q5K, |p, t| {
    let mut codes = no_codes();
    let quants = p.add(384 + 256 * (t / 2));
    for (i, codes) in codes.iter_mut().enumerate() {
        let low = bits(pair(quants, i), 4 * (t % 2), 15);
        *codes = join::<4>(low, bits(pair(p.add(128), i), t, 1));
    }
    let (scale, min) = affine(p, t);
    (codes, [scale; 2], [min; 2])
});
super_block!(Q6K, |p, t| {
    let mut codes = no_codes();
    let low = p.add(512 * (t / 4) + 256 * (t % 2));
    let high = p.add(1024 + 256 * (t / 4));
    for (i, codes) in codes.iter_mut().enumerate() {
        let low = bits(pair(low, i), t % 4 / 2 * 4, 15);
        *codes = join::<4>(low, bits(pair(high, i), 2 * (t % 4), 3));
    }
    let d = halves(p.add(1664));
    let scales = p.add(1536 + 16 * t);
    (codes, [times_i8(d, scales), times_i8(d, scales.add(8))], [zeros(); 2])
});
super_block!(Q3K, |p, t| {
    let mut codes = no_codes();
    let low = p.add(256 + 256 * (t / 4));
    for (i, codes) in codes.iter_mut().enumerate() {
        let low = bits(pair(low, i), 2 * (t % 4), 3);
        *codes = join::<2>(low, bits(pair(p, i), t, 1));
    }
    let d = halves(p.add(864));
    let scales = p.add(768);
    let scale = [times_q3_scale(d, scales, 2 * t), times_q3_scale(d, scales, 2 * t + 1)];
    (codes, scale, [zeros(); 2])
});
super_block!(Q2K, |p, t| {
    let mut codes = no_codes();
    let quants = p.add(128 + 256 * (t / 4));
    for (i, codes) in codes.iter_mut().enumerate() {
        *codes = signed(bits(pair(quants, i), 2 * (t % 4), 3));
    }
    let (d, dmin) = (halves(p.add(640)), negated(p.add(656)));
    let (mut scale, mut min) = ([zeros(); 2], [zeros(); 2]);
    for h in 0..2 {
        let both = p.add(8 * (2 * t + h));
        scale[h] = times(d, widen(row_bits(both, 0, 15)));
        min[h] = times(dmin, widen(row_bits(both, 4, 15)));
    }
    (codes, scale, min)
});
super_block!(Iq4Xs, |p, t| {
    let mut codes = nibbles(p.add(64 + 128 * t));
    look_up(&mut codes);
    let low = widen(row_bits(p.add(32 + 8 * (t / 2)), t % 2 * 4, 15));
    let words = vreinterpretq_u16_u8(vld1q_u8(p.add(16)));
    let high = vandq_u16(vshlq_u16(words, vdupq_n_s16(-2 * t as i16)), vdupq_n_u16(3));
    let code = vorrq_s16(low, vreinterpretq_s16_u16(vshlq_n_u16::<4>(high)));
    let scale = times(halves(p), vsubq_s16(code, vdupq_n_s16(32)));
    (codes, [scale; 2], [zeros(); 2])
});

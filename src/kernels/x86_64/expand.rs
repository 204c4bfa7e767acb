//! Packed blocks to tiles in registers, for the encodings that have a vector form.
//!
//! In a tile, vector i holds the codes of k = 4i .. 4i + 4, its 32-bit lane r those of row r of the group.
//! The layouts inside a block are ggml's (`ggml-common.h`), interleaved as `kernels::pack` describes.

use std::arch::x86_64::*;

pub use crate::kernels::shape::{
    Generic, Iq4Nl, Iq4Xs, Packed, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Shape,
};

/// One tile of eight rows.
#[derive(Clone, Copy)]
pub struct Regs {
    /// Codes of four k each.
    pub codes: [__m256i; 8],
    /// Scale of the first and second half per row; only the first counts without `HALVES`.
    pub scale: [__m256; 2],
    /// Offsets likewise, with `MIN`.
    pub min: [__m256; 2],
}

/// An encoding that is unpacked in registers.
pub trait Expand: Packed {
    /// Tile `t < TILES` of the eight blocks at `block`.
    ///
    /// # Safety
    /// `block` has `BYTES` readable bytes; the processor has AVX2, FMA and F16C.
    unsafe fn tile(block: *const u8, t: usize) -> Regs;
}

/// 32 bytes at `p + 32 i`.
#[inline(always)]
unsafe fn vector(p: *const u8, i: usize) -> __m256i {
    // SAFETY: the caller's block has these bytes.
    unsafe { _mm256_loadu_si256(p.add(32 * i).cast()) }
}

/// Eight f16, one per row.
#[inline(always)]
unsafe fn halves(p: *const u8) -> __m256 {
    // SAFETY: the caller's block has 16 bytes here.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
}

/// Eight bytes, one per row, as i32 (zero-extended).
#[inline(always)]
unsafe fn bytes(p: *const u8) -> __m256i {
    // SAFETY: the caller's block has 8 bytes here.
    unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())) }
}

/// The low `mask` of each byte of `v >> shift`; `mask << shift` must not exceed a byte.
#[inline(always)]
unsafe fn bits(v: __m256i, shift: usize, mask: i8) -> __m256i {
    // SAFETY: AVX2 by the caller's promise.
    unsafe {
        let shifted = _mm256_srl_epi16(v, _mm_cvtsi32_si128(shift as i32));
        _mm256_and_si256(shifted, _mm256_set1_epi8(mask))
    }
}

/// 4-bit codes of a 32-element block of 16 bytes per row: low nibbles, then high nibbles.
#[inline(always)]
unsafe fn nibbles(p: *const u8) -> [__m256i; 8] {
    // SAFETY: the caller's block has 128 bytes here.
    unsafe {
        let mut codes = [_mm256_setzero_si256(); 8];
        let low = _mm256_set1_epi8(15);
        for i in 0..4 {
            let v = vector(p, i);
            codes[i] = _mm256_and_si256(v, low);
            codes[4 + i] = _mm256_and_si256(_mm256_srli_epi16::<4>(v), low);
        }
        codes
    }
}

/// Adds bit j of each row's 32 `high` bits as value 16 to code j.
#[inline(always)]
unsafe fn add_fifth_bits(codes: &mut [__m256i; 8], high: __m256i) {
    // SAFETY: AVX2 by the caller's promise.
    unsafe {
        for (i, code) in codes.iter_mut().enumerate() {
            // Byte i / 2 of the row holds the bits of k = 4i .. 4i + 4, in its low or high half.
            let byte = (i / 2) as i32;
            let lane = _mm256_set1_epi32(byte * 0x0101_0101);
            let rows = _mm256_set_epi32(
                0x0c0c_0c0c,
                0x0808_0808,
                0x0404_0404,
                0,
                0x0c0c_0c0c,
                0x0808_0808,
                0x0404_0404,
                0,
            );
            let spread = _mm256_shuffle_epi8(high, _mm256_add_epi8(lane, rows));
            let select = _mm256_set1_epi32(if i % 2 == 0 { 0x0804_0201 } else { 0x8040_2010u32 as i32 });
            let set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, select), select);
            *code = _mm256_or_si256(*code, _mm256_and_si256(set, _mm256_set1_epi8(16)));
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

simple!(Q4_0, |p| { (nibbles(p.add(16)), halves(p), _mm256_setzero_ps()) });
simple!(Q4_1, |p| { (nibbles(p.add(32)), halves(p), halves(p.add(16))) });
simple!(Q5_0, |p| {
    let mut codes = nibbles(p.add(48));
    add_fifth_bits(&mut codes, vector(p.add(16), 0));
    (codes, halves(p), _mm256_setzero_ps())
});
simple!(Q5_1, |p| {
    let mut codes = nibbles(p.add(64));
    add_fifth_bits(&mut codes, vector(p.add(32), 0));
    (codes, halves(p), halves(p.add(16)))
});
simple!(Q8_0, |p| {
    let mut codes = [_mm256_setzero_si256(); 8];
    for (i, code) in codes.iter_mut().enumerate() {
        *code = vector(p.add(16), i);
    }
    (codes, halves(p), _mm256_setzero_ps())
});
simple!(Iq4Nl, |p| {
    let mut codes = nibbles(p.add(16));
    look_up(&mut codes);
    (codes, halves(p), _mm256_setzero_ps())
});

/// Replaces 4-bit indices by the values of ggml's `kvalues_iq4nl`.
#[inline(always)]
unsafe fn look_up(codes: &mut [__m256i; 8]) {
    // SAFETY: AVX2 by the caller's promise.
    unsafe {
        let table = _mm256_broadcastsi128_si256(_mm_setr_epi8(
            -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
        ));
        for code in codes {
            *code = _mm256_shuffle_epi8(table, *code);
        }
    }
}

/// The top two bits of scale byte `at` of Q4_K and Q5_K as bits 4 and 5.
#[inline(always)]
unsafe fn top_two(p: *const u8, at: usize) -> __m256i {
    // SAFETY: the caller's block has 96 bytes here; at < 8.
    unsafe { _mm256_slli_epi32::<4>(_mm256_srli_epi32::<6>(bytes(p.add(8 * at)))) }
}

/// `d` times the signed bytes at `p`, one per row.
#[inline(always)]
unsafe fn times_i8(d: __m256, p: *const u8) -> __m256 {
    // SAFETY: the caller's block has 8 bytes here.
    unsafe { _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())))) }
}

/// `d` times scale j of Q3_K, 6 bits from the 12 scale bytes at `p`, less 32.
#[inline(always)]
unsafe fn times_q3_scale(d: __m256, p: *const u8, j: usize) -> __m256 {
    // SAFETY: the caller's block has 96 bytes here; j < 16.
    unsafe {
        let low = bits(bytes(p.add(8 * (j % 8))), j / 8 * 4, 15);
        let high = bits(bytes(p.add(64 + 8 * (j % 4))), j / 4 * 2, 3);
        let code = _mm256_or_si256(low, _mm256_slli_epi32::<4>(high));
        _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_sub_epi32(code, _mm256_set1_epi32(32))))
    }
}

/// Scale and offset codes of tile `t` of Q4_K and Q5_K, 6 bits each, from the 12 scale bytes at `p`.
#[inline(always)]
unsafe fn six_bit_pair(p: *const u8, t: usize) -> (__m256i, __m256i) {
    // SAFETY: the caller's block has 96 bytes here; t < 8.
    unsafe {
        let low6 = _mm256_set1_epi32(63);
        if t < 4 {
            return (
                _mm256_and_si256(bytes(p.add(8 * t)), low6),
                _mm256_and_si256(bytes(p.add(8 * t + 32)), low6),
            );
        }
        let both = bytes(p.add(8 * t + 32));
        let scale = _mm256_or_si256(_mm256_and_si256(both, _mm256_set1_epi32(15)), top_two(p, t - 4));
        (scale, _mm256_or_si256(_mm256_srli_epi32::<4>(both), top_two(p, t)))
    }
}

/// Scale and negated offset of tile `t` of Q4_K and Q5_K.
#[inline(always)]
unsafe fn affine(p: *const u8, t: usize) -> (__m256, __m256) {
    // SAFETY: the caller's block begins with d, dmin and 12 scale bytes per row.
    unsafe {
        let (scale, min) = six_bit_pair(p.add(32), t);
        let negative = _mm256_xor_ps(halves(p.add(16)), _mm256_set1_ps(-0.0));
        (
            _mm256_mul_ps(halves(p), _mm256_cvtepi32_ps(scale)),
            _mm256_mul_ps(negative, _mm256_cvtepi32_ps(min)),
        )
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
    let mut codes = [_mm256_setzero_si256(); 8];
    let quants = p.add(128 + 256 * (t / 2));
    for (i, code) in codes.iter_mut().enumerate() {
        *code = bits(vector(quants, i), 4 * (t % 2), 15);
    }
    let (scale, min) = affine(p, t);
    (codes, [scale; 2], [min; 2])
});
super_block!(Q5K, |p, t| {
    let mut codes = [_mm256_setzero_si256(); 8];
    let quants = p.add(384 + 256 * (t / 2));
    for (i, code) in codes.iter_mut().enumerate() {
        let high = _mm256_slli_epi16::<4>(bits(vector(p.add(128), i), t, 1));
        *code = _mm256_or_si256(bits(vector(quants, i), 4 * (t % 2), 15), high);
    }
    let (scale, min) = affine(p, t);
    (codes, [scale; 2], [min; 2])
});
super_block!(Q6K, |p, t| {
    let mut codes = [_mm256_setzero_si256(); 8];
    let low = p.add(512 * (t / 4) + 256 * (t % 2));
    let high = p.add(1024 + 256 * (t / 4));
    for (i, code) in codes.iter_mut().enumerate() {
        let top = _mm256_slli_epi16::<4>(bits(vector(high, i), 2 * (t % 4), 3));
        *code = _mm256_or_si256(bits(vector(low, i), t % 4 / 2 * 4, 15), top);
    }
    let d = halves(p.add(1664));
    let scales = p.add(1536 + 16 * t);
    let scale = [times_i8(d, scales), times_i8(d, scales.add(8))];
    (codes, scale, [_mm256_setzero_ps(); 2])
});
super_block!(Q3K, |p, t| {
    let mut codes = [_mm256_setzero_si256(); 8];
    let low = p.add(256 + 256 * (t / 4));
    for (i, code) in codes.iter_mut().enumerate() {
        let top = _mm256_slli_epi16::<2>(bits(vector(p, i), t, 1));
        *code = _mm256_or_si256(bits(vector(low, i), 2 * (t % 4), 3), top);
    }
    let d = halves(p.add(864));
    let scales = p.add(768);
    let scale = [times_q3_scale(d, scales, 2 * t), times_q3_scale(d, scales, 2 * t + 1)];
    (codes, scale, [_mm256_setzero_ps(); 2])
});
super_block!(Q2K, |p, t| {
    let mut codes = [_mm256_setzero_si256(); 8];
    let quants = p.add(128 + 256 * (t / 4));
    for (i, code) in codes.iter_mut().enumerate() {
        *code = bits(vector(quants, i), 2 * (t % 4), 3);
    }
    let d = halves(p.add(640));
    let negative = _mm256_xor_ps(halves(p.add(656)), _mm256_set1_ps(-0.0));
    let (mut scale, mut min) = ([d; 2], [d; 2]);
    for h in 0..2 {
        let both = bytes(p.add(8 * (2 * t + h)));
        scale[h] = _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_and_si256(both, _mm256_set1_epi32(15))));
        min[h] = _mm256_mul_ps(negative, _mm256_cvtepi32_ps(_mm256_srli_epi32::<4>(both)));
    }
    (codes, scale, min)
});
super_block!(Iq4Xs, |p, t| {
    let mut codes = nibbles(p.add(64 + 128 * t));
    look_up(&mut codes);
    let low = bits(bytes(p.add(32 + 8 * (t / 2))), t % 2 * 4, 15);
    let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.add(16).cast()));
    let high = _mm256_srl_epi32(words, _mm_cvtsi32_si128(2 * t as i32));
    let high = _mm256_slli_epi32::<4>(_mm256_and_si256(high, _mm256_set1_epi32(3)));
    let code = _mm256_sub_epi32(_mm256_or_si256(low, high), _mm256_set1_epi32(32));
    let scale = _mm256_mul_ps(halves(p), _mm256_cvtepi32_ps(code));
    (codes, [scale; 2], [_mm256_setzero_ps(); 2])
});

//! Packed blocks to tiles in registers, for the encodings that have a vector form.
//!
//! In a tile, vector i holds the codes of k = 4i .. 4i + 4, its 32-bit lane r those of row r.
//! The layouts inside a block are ggml's (`ggml-common.h`), interleaved as `kernels::pack` describes.

use std::arch::x86_64::_mm_setr_epi8;

use super::width::Width;
use crate::kernels::shape::{
    Iq4Nl, Iq4Xs, Packed, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Shape,
};

/// The codes of one tile, four k to a vector.
pub type Codes<W> = [<W as Width>::Int; 8];

/// One tile of the rows of a vector.
pub struct Regs<W: Width> {
    /// Codes of four k each.
    pub codes: Codes<W>,
    /// Scale of the first and second half per row; only the first counts without `HALVES`.
    pub scale: [W::Float; 2],
    /// Offsets likewise, with `MIN`.
    pub min: [W::Float; 2],
}

/// An encoding that is unpacked in registers.
pub trait Expand: Packed {
    /// Tile `t < TILES` of the eight blocks at `block`, in each group.
    ///
    /// # Safety
    /// `block` has `BYTES` readable bytes; the processor has the instructions of `W`.
    unsafe fn tile<W: Width>(block: W::Place, t: usize) -> Regs<W>;
}

/// 32 bytes at `p + 32 i`.
#[inline(always)]
unsafe fn vector<W: Width>(p: W::Place, i: usize) -> W::Int {
    // SAFETY: the caller's block has these bytes.
    unsafe { W::load(W::at(p, 32 * i)) }
}

/// Eight f16 at `p + at`, one per row.
#[inline(always)]
unsafe fn halves<W: Width>(p: W::Place, at: usize) -> W::Float {
    // SAFETY: the caller's block has 16 bytes there.
    unsafe { W::load_f16(W::at(p, at)) }
}

/// Eight bytes at `p + at`, one per row, as i32 (zero-extended).
#[inline(always)]
unsafe fn bytes<W: Width>(p: W::Place, at: usize) -> W::Int {
    // SAFETY: the caller's block has 8 bytes there.
    unsafe { W::load_u8(W::at(p, at)) }
}

/// The low `mask` of each byte of `v >> shift`; `mask << shift` must not exceed a byte.
#[inline(always)]
unsafe fn bits<W: Width>(v: W::Int, shift: usize, mask: i8) -> W::Int {
    // SAFETY: the instructions are there by the caller's promise.
    unsafe { W::and(W::shr16(v, shift as i32), W::splat8(mask)) }
}

/// Eight vectors by their index. No closure: one that is not inlined would lack the caller's instructions.
macro_rules! eight {
    (|$i:ident| $vector:expr) => {{
        let mut codes = [W::splat32(0); 8];
        for ($i, code) in codes.iter_mut().enumerate() {
            *code = $vector;
        }
        codes
    }};
}

/// 4-bit codes of a 32-element block of 16 bytes per row: low nibbles, then high nibbles.
#[inline(always)]
unsafe fn nibbles<W: Width>(p: W::Place) -> Codes<W> {
    // SAFETY: the caller's block has 128 bytes here.
    unsafe { eight!(|i| bits::<W>(vector::<W>(p, i % 4), 4 * (i / 4), 15)) }
}

/// Adds bit j of each row's 32 `high` bits as value 16 to code j.
#[inline(always)]
unsafe fn add_fifth_bits<W: Width>(codes: &mut Codes<W>, high: W::Int) {
    // SAFETY: the instructions are there by the caller's promise.
    unsafe {
        for (i, code) in codes.iter_mut().enumerate() {
            // Byte i / 2 of the row holds the bits of k = 4i .. 4i + 4, in its low or high half.
            let j = (i / 2) as i8;
            let [a, b, c, d] = [j, 4 + j, 8 + j, 12 + j];
            let order = _mm_setr_epi8(a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d);
            let spread = W::shuffle(high, W::splat128(order));
            let mask = W::splat32(if i % 2 == 0 { 0x0804_0201 } else { 0x8040_2010u32 as i32 });
            *code = W::or(*code, W::where_set(spread, mask, 16));
        }
    }
}

/// Writes [`Expand`] for a 32-element block: `|block| (codes, scale, min)`.
macro_rules! simple {
    ($name:ident, |$p:ident| $body:block) => {
        impl Expand for $name {
            #[inline(always)]
            unsafe fn tile<W: Width>($p: W::Place, _: usize) -> Regs<W> {
                // SAFETY: reads stay inside the block, whose bytes the caller vouches for.
                unsafe {
                    let (codes, scale, min) = $body;
                    Regs { codes, scale: [scale; 2], min: [min; 2] }
                }
            }
        }
    };
}

simple!(Q4_0, |p| { (nibbles::<W>(W::at(p, 16)), halves::<W>(p, 0), W::splat(0.0)) });
simple!(Q4_1, |p| { (nibbles::<W>(W::at(p, 32)), halves::<W>(p, 0), halves::<W>(p, 16)) });
simple!(Q5_0, |p| {
    let mut codes = nibbles::<W>(W::at(p, 48));
    add_fifth_bits::<W>(&mut codes, vector::<W>(W::at(p, 16), 0));
    (codes, halves::<W>(p, 0), W::splat(0.0))
});
simple!(Q5_1, |p| {
    let mut codes = nibbles::<W>(W::at(p, 64));
    add_fifth_bits::<W>(&mut codes, vector::<W>(p, 1));
    (codes, halves::<W>(p, 0), halves::<W>(p, 16))
});
simple!(Q8_0, |p| {
    let codes = eight!(|i| vector::<W>(W::at(p, 16), i));
    (codes, halves::<W>(p, 0), W::splat(0.0))
});
simple!(Iq4Nl, |p| { (look_up::<W>(nibbles::<W>(W::at(p, 16))), halves::<W>(p, 0), W::splat(0.0)) });

/// An encoding whose planes are joined in registers: as `kernels::division` lays them out.
pub trait Divided: Shape {
    /// Bytes of eight interleaved blocks in each plane; 0 where the second is not read.
    const PLANES: [usize; 2];

    /// The tile of the eight blocks whose planes are at `first` and `second`, in each group.
    ///
    /// # Safety
    /// There are so many readable bytes; the processor has the instructions of `W`.
    unsafe fn tile<W: Width>(first: W::Place, second: W::Place) -> Regs<W>;
}

/// Declares a [`Divided`] of an encoding's shape: name, encoding, bytes of planes, `|first, second| (codes, scale, min)`.
macro_rules! divided {
    ($(#[$doc:meta])* $name:ident, $of:ident, $planes:expr, |$p:ident, $q:pat_param| $body:block) => {
        $(#[$doc])*
        pub struct $name;
        impl Shape for $name {
            const SIGNED: bool = $of::SIGNED;
            const LARGEST: i32 = $of::LARGEST;
            const ZERO_SHIFT: i32 = $of::ZERO_SHIFT;
            const HALVES: bool = $of::HALVES;
            const MIN: bool = $of::MIN;
        }
        impl Divided for $name {
            const PLANES: [usize; 2] = $planes;
            #[inline(always)]
            unsafe fn tile<W: Width>($p: W::Place, $q: W::Place) -> Regs<W> {
                // SAFETY: reads stay inside the planes, whose bytes the caller vouches for.
                unsafe {
                    let (codes, scale, min) = $body;
                    Regs { codes, scale: [scale; 2], min: [min; 2] }
                }
            }
        }
    };
}

divided!(
    /// q8_0 of both planes.
    Q8Both, Q8_0, [144, 128], |p, q| {
        let codes = eight!(|i| {
            let low = bits::<W>(vector::<W>(q, i % 4), 4 * (i / 4), 15);
            W::or(high_nibble::<W>(p, i), low)
        });
        (codes, halves::<W>(p, 0), W::splat(0.0))
    }
);
divided!(
    /// q8_0 of the first plane alone.
    Q8First, Q8_0, [144, 0], |p, _| {
        let codes = eight!(|i| W::or(high_nibble::<W>(p, i), W::splat8(8)));
        (codes, halves::<W>(p, 0), W::splat(0.0))
    }
);
divided!(
    /// q4_1 of both planes.
    Q4Both, Q4_1, [128, 32], |p, q| {
        let (middle, low) = (vector::<W>(W::at(p, 96), 0), vector::<W>(q, 0));
        let mut joined = [W::splat32(0); 4];
        for (b, joined) in joined.iter_mut().enumerate() {
            let high = vector::<W>(W::at(p, 32), b % 2);
            let high = W::and(if b < 2 { high } else { W::shl16(high, 2) }, W::splat8(-0x34));
            let lower = W::or(W::shl16(bits::<W>(middle, b, 0x11), 1), bits::<W>(low, b, 0x11));
            *joined = W::or(high, lower);
        }
        let codes = eight!(|i| bits::<W>(joined[i % 4], 4 * (i / 4), 15));
        (codes, halves::<W>(p, 0), halves::<W>(p, 16))
    }
);

/// The high four bits of code vector `i` of a block, in place, from its first plane.
#[inline(always)]
unsafe fn high_nibble<W: Width>(p: W::Place, i: usize) -> W::Int {
    // SAFETY: the caller's block has 144 bytes.
    unsafe {
        let both = vector::<W>(W::at(p, 16), i % 4);
        W::and(if i < 4 { W::shl16(both, 4) } else { both }, W::splat8(-16))
    }
}

/// The values of ggml's `kvalues_iq4nl` for 4-bit indices.
#[inline(always)]
unsafe fn look_up<W: Width>(codes: Codes<W>) -> Codes<W> {
    // SAFETY: the instructions are there by the caller's promise.
    unsafe {
        let table = W::splat128(_mm_setr_epi8(
            -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
        ));
        eight!(|i| W::shuffle(table, codes[i]))
    }
}

/// The top two bits of scale byte `at` of Q4_K and Q5_K as bits 4 and 5.
#[inline(always)]
unsafe fn top_two<W: Width>(p: W::Place, at: usize) -> W::Int {
    // SAFETY: the caller's block has 96 bytes here; at < 8.
    unsafe { W::shl32(W::shr32(bytes::<W>(p, 8 * at), 6), 4) }
}

/// `d` times the signed bytes at `p + at`, one per row.
#[inline(always)]
unsafe fn times_i8<W: Width>(d: W::Float, p: W::Place, at: usize) -> W::Float {
    // SAFETY: the caller's block has 8 bytes there.
    unsafe { W::mul(d, W::to_float(W::load_i8(W::at(p, at)))) }
}

/// `d` times scale j of Q3_K, 6 bits from the 12 scale bytes at `p`, less 32.
#[inline(always)]
unsafe fn times_q3_scale<W: Width>(d: W::Float, p: W::Place, j: usize) -> W::Float {
    // SAFETY: the caller's block has 96 bytes here; j < 16.
    unsafe {
        let low = bits::<W>(bytes::<W>(p, 8 * (j % 8)), j / 8 * 4, 15);
        let high = bits::<W>(bytes::<W>(p, 64 + 8 * (j % 4)), j / 4 * 2, 3);
        let code = W::or(low, W::shl32(high, 4));
        W::mul(d, W::to_float(W::sub(code, W::splat32(32))))
    }
}

/// Scale and offset codes of tile `t` of Q4_K and Q5_K, 6 bits each, from the 12 scale bytes at `p`.
#[inline(always)]
unsafe fn six_bit_pair<W: Width>(p: W::Place, t: usize) -> (W::Int, W::Int) {
    // SAFETY: the caller's block has 96 bytes here; t < 8.
    unsafe {
        if t < 4 {
            let six = W::splat32(63);
            return (W::and(bytes::<W>(p, 8 * t), six), W::and(bytes::<W>(p, 8 * t + 32), six));
        }
        let both = bytes::<W>(p, 8 * t + 32);
        let scale = W::or(W::and(both, W::splat32(15)), top_two::<W>(p, t - 4));
        (scale, W::or(W::shr32(both, 4), top_two::<W>(p, t)))
    }
}

/// Scale and negated offset of tile `t` of Q4_K and Q5_K.
#[inline(always)]
unsafe fn affine<W: Width>(p: W::Place, t: usize) -> (W::Float, W::Float) {
    // SAFETY: the caller's block begins with d, dmin and 12 scale bytes per row.
    unsafe {
        let (scale, min) = six_bit_pair::<W>(W::at(p, 32), t);
        let negative = W::negate(halves::<W>(p, 16));
        (W::mul(halves::<W>(p, 0), W::to_float(scale)), W::mul(negative, W::to_float(min)))
    }
}

/// Writes [`Expand`] for a 256-element block: `|block, t| (codes, scale, min)`.
macro_rules! super_block {
    ($name:ident, |$p:ident, $t:ident| $body:block) => {
        impl Expand for $name {
            #[inline(always)]
            unsafe fn tile<W: Width>($p: W::Place, $t: usize) -> Regs<W> {
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
    let quants = W::at(p, 128 + 256 * (t / 2));
    let codes = eight!(|i| bits::<W>(vector::<W>(quants, i), 4 * (t % 2), 15));
    let (scale, min) = affine::<W>(p, t);
    (codes, [scale; 2], [min; 2])
});
super_block!(Q5K, |p, t| {
    let quants = W::at(p, 384 + 256 * (t / 2));
    let codes = eight!(|i| {
        let high = W::shl16(bits::<W>(vector::<W>(W::at(p, 128), i), t, 1), 4);
        W::or(bits::<W>(vector::<W>(quants, i), 4 * (t % 2), 15), high)
    });
    let (scale, min) = affine::<W>(p, t);
    (codes, [scale; 2], [min; 2])
});
super_block!(Q6K, |p, t| {
    let low = W::at(p, 512 * (t / 4) + 256 * (t % 2));
    let high = W::at(p, 1024 + 256 * (t / 4));
    let codes = eight!(|i| {
        let top = W::shl16(bits::<W>(vector::<W>(high, i), 2 * (t % 4), 3), 4);
        W::or(bits::<W>(vector::<W>(low, i), t % 4 / 2 * 4, 15), top)
    });
    let d = halves::<W>(p, 1664);
    let scales = 1536 + 16 * t;
    let scale = [times_i8::<W>(d, p, scales), times_i8::<W>(d, p, scales + 8)];
    (codes, scale, [W::splat(0.0); 2])
});
super_block!(Q3K, |p, t| {
    let low = W::at(p, 256 + 256 * (t / 4));
    let codes = eight!(|i| {
        let top = W::shl16(bits::<W>(vector::<W>(p, i), t, 1), 2);
        W::or(bits::<W>(vector::<W>(low, i), 2 * (t % 4), 3), top)
    });
    let d = halves::<W>(p, 864);
    let scales = W::at(p, 768);
    let scale = [times_q3_scale::<W>(d, scales, 2 * t), times_q3_scale::<W>(d, scales, 2 * t + 1)];
    (codes, scale, [W::splat(0.0); 2])
});
super_block!(Q2K, |p, t| {
    let quants = W::at(p, 128 + 256 * (t / 4));
    let codes = eight!(|i| bits::<W>(vector::<W>(quants, i), 2 * (t % 4), 3));
    let d = halves::<W>(p, 640);
    let negative = W::negate(halves::<W>(p, 656));
    let (mut scale, mut min) = ([d; 2], [d; 2]);
    for h in 0..2 {
        let both = bytes::<W>(p, 8 * (2 * t + h));
        scale[h] = W::mul(d, W::to_float(W::and(both, W::splat32(15))));
        min[h] = W::mul(negative, W::to_float(W::shr32(both, 4)));
    }
    (codes, scale, min)
});
super_block!(Iq4Xs, |p, t| {
    let codes = look_up::<W>(nibbles::<W>(W::at(p, 64 + 128 * t)));
    let low = bits::<W>(bytes::<W>(p, 32 + 8 * (t / 2)), t % 2 * 4, 15);
    let high = W::shr32(W::load_u16(W::at(p, 16)), 2 * t as i32);
    let high = W::shl32(W::and(high, W::splat32(3)), 4);
    let code = W::sub(W::or(low, high), W::splat32(32));
    let scale = W::mul(halves::<W>(p, 0), W::to_float(code));
    (codes, [scale; 2], [W::splat(0.0); 2])
});

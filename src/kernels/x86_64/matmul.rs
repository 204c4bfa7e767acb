//! Integer matrix products with 256-bit vectors: eight rows per vector, one lane each.
//!
//! Few columns (decode) are multiplied straight from the packed bytes. For more, row groups are expanded
//! `SPAN` tiles at a time into [`Scratch`], which stays in the first cache while all columns are multiplied
//! with it, four at a time; the accumulators of each column wait in memory for the next span.

use std::arch::x86_64::*;

use super::expand::{Expand, Regs, Shape};
use super::scratch::Scratch;
use crate::kernels::backend::Activations;
use crate::kernels::encoding::TILE;
use crate::kernels::layout::{GROUP, Part};

/// How eight rows of four codes are multiplied with four codes of a column and summed.
pub trait Dot {
    /// Signed codes are used with 128 added, as unsigned ones.
    const BIASED: bool;

    /// Per row the sum of `codes[i] * a[4 i .. 4 i + 4]`, exact in i32.
    ///
    /// # Safety
    /// `a` has `4 * codes.len()` readable bytes; the processor has the instructions.
    unsafe fn dot<S: Shape>(codes: &[__m256i], a: *const i8) -> __m256i;
}

/// Four codes of a column in every lane.
#[inline(always)]
unsafe fn four(a: *const i8, i: usize) -> __m256i {
    // SAFETY: the caller's column has these codes.
    unsafe { _mm256_set1_epi32(a.cast::<i32>().add(i).read_unaligned()) }
}

/// Products by `vpmaddubsw`, collected in 16 bits as long as they cannot overflow.
pub struct Avx2;

impl Dot for Avx2 {
    const BIASED: bool = false;

    #[inline(always)]
    unsafe fn dot<S: Shape>(codes: &[__m256i], a: *const i8) -> __m256i {
        // SAFETY: as the caller promises.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let chain = (i16::MAX as i32 / (2 * 127 * S::LARGEST)).clamp(1, 8) as usize;
            let mut sum = _mm256_setzero_si256();
            for (block, codes) in codes.chunks(chain).enumerate() {
                let mut short = _mm256_setzero_si256();
                for (i, code) in codes.iter().enumerate() {
                    let x = four(a, block * chain + i);
                    let product = if S::SIGNED {
                        _mm256_maddubs_epi16(_mm256_abs_epi8(*code), _mm256_sign_epi8(x, *code))
                    } else {
                        _mm256_maddubs_epi16(*code, x)
                    };
                    short = if i == 0 { product } else { _mm256_add_epi16(short, product) };
                }
                let wide = _mm256_madd_epi16(short, ones);
                sum = if block == 0 { wide } else { _mm256_add_epi32(sum, wide) };
            }
            sum
        }
    }
}

/// Products by `vpdpbusd` of AVX-VNNI.
pub struct Vnni;

impl Dot for Vnni {
    const BIASED: bool = true;

    #[inline(always)]
    unsafe fn dot<S: Shape>(codes: &[__m256i], a: *const i8) -> __m256i {
        // SAFETY: as the caller promises.
        unsafe {
            let mut sum = _mm256_setzero_si256();
            for (i, code) in codes.iter().enumerate() {
                sum = _mm256_dpbusd_avx_epi32(sum, *code, four(a, i));
            }
            sum
        }
    }
}

/// Products by the `vpdpbusd` of AVX-512 VNNI with VL.
pub struct Vnni512;

impl Dot for Vnni512 {
    const BIASED: bool = true;

    #[inline(always)]
    unsafe fn dot<S: Shape>(codes: &[__m256i], a: *const i8) -> __m256i {
        // SAFETY: as the caller promises.
        unsafe {
            let mut sum = _mm256_setzero_si256();
            for (i, code) in codes.iter().enumerate() {
                sum = _mm256_dpbusd_epi32(sum, *code, four(a, i));
            }
            sum
        }
    }
}

/// The shift of the zero point that `dot`'s codes carry, 0 for none.
pub const fn zero_shift<S: Shape>(biased: bool) -> i32 {
    if S::SIGNED && biased { 7 } else { S::ZERO_SHIFT }
}

/// Adds 128 to signed codes where `dot` wants them unsigned.
#[inline(always)]
pub unsafe fn bias_codes<S: Shape>(biased: bool, codes: &mut [__m256i; 8]) {
    if S::SIGNED && biased {
        for code in codes {
            // SAFETY: AVX2 by the caller's promise.
            *code = unsafe { _mm256_xor_si256(*code, _mm256_set1_epi8(-128)) };
        }
    }
}

/// Pointers to one column of the activations.
#[derive(Clone, Copy)]
pub struct Column {
    pub codes: *const i8,
    pub scales: *const f32,
    pub sums: *const i32,
    pub offsets: *const f32,
}

impl Column {
    /// Column `c < x.n`, its sums and offsets per half tile or per tile.
    pub fn new(x: &Activations, c: usize, halves: bool) -> Self {
        let tiles = x.tiles();
        let (sums, offsets) = if halves {
            (&x.half_sums[2 * c * tiles..], &x.half_offsets[2 * c * tiles..])
        } else {
            (&x.sums[c * tiles..], &x.offsets[c * tiles..])
        };
        Self {
            codes: x.codes[c * tiles * TILE..].as_ptr(),
            scales: x.scales[c * tiles..].as_ptr(),
            sums: sums.as_ptr(),
            offsets: offsets.as_ptr(),
        }
    }
}

/// Accumulators of one column: products and offsets.
#[derive(Clone, Copy)]
struct Sums {
    products: __m256,
    offsets: __m256,
}

/// Tile `t` of eight rows times one column.
#[inline(always)]
unsafe fn step<S: Shape, D: Dot>(regs: &Regs, x: &Column, t: usize, sums: &mut Sums) {
    // SAFETY: the caller's column has tile t.
    unsafe {
        let scale = _mm256_broadcast_ss(&*x.scales.add(t));
        let parts = if S::HALVES { 2 } else { 1 };
        for h in 0..parts {
            let len = 8 / parts;
            let codes = &regs.codes[h * len..(h + 1) * len];
            let mut dot = D::dot::<S>(codes, x.codes.add(t * TILE + 4 * h * len));
            let at = t * parts + h;
            if zero_shift::<S>(D::BIASED) != 0 {
                let shift = _mm_cvtsi32_si128(zero_shift::<S>(D::BIASED));
                let sum = _mm256_set1_epi32(*x.sums.add(at));
                dot = _mm256_sub_epi32(dot, _mm256_sll_epi32(sum, shift));
            }
            let factor = _mm256_mul_ps(regs.scale[h], scale);
            sums.products = _mm256_fmadd_ps(factor, _mm256_cvtepi32_ps(dot), sums.products);
            if S::MIN {
                let offset = _mm256_broadcast_ss(&*x.offsets.add(at));
                sums.offsets = _mm256_fmadd_ps(regs.min[h], offset, sums.offsets);
            }
        }
    }
}

/// Adds the two accumulators and writes the results of group `g`, columns `c ..`.
#[inline(always)]
unsafe fn write<S: Shape, const N: usize>(part: &Part<'_>, g: usize, c: usize, sums: &[Sums; N]) {
    for (i, sum) in sums.iter().enumerate() {
        let mut result = [0.0; GROUP];
        // SAFETY: the caller owns these results; `result` has eight elements.
        unsafe {
            let total = if S::MIN { _mm256_add_ps(sum.products, sum.offsets) } else { sum.products };
            _mm256_storeu_ps(result.as_mut_ptr(), total);
            part.store(g, c + i, &result);
        }
    }
}

/// Bytes ahead of the current block that are asked for: what one core reads in a memory latency under load.
/// Measured: 2 kB give 29 GB/s with q4_k where 8 kB give 37, 12 kB no more.
const AHEAD: usize = 8192;

/// Asks for the bytes that lie `AHEAD` of a block of `len` bytes.
#[inline(always)]
fn prefetch(block: *const u8, len: usize) {
    for line in (0..len).step_by(64) {
        // SAFETY: a prefetch never faults, also beyond the mapping.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(block.wrapping_add(AHEAD + line).cast()) };
    }
}

/// The row groups of `part` times columns `c .. c + N`, straight from the packed bytes.
///
/// # Safety
/// `layout::is_sound` holds, the part is inside the product and owned, the instructions are there.
#[inline(always)]
pub unsafe fn direct<E: Expand, D: Dot, const N: usize>(part: &Part<'_>, x: &Activations, c: usize) {
    // SAFETY: `group` has blocks * BYTES bytes (checked by slicing), the columns have blocks * TILES tiles.
    unsafe {
        let columns: [Column; N] = std::array::from_fn(|i| Column::new(x, c + i, E::HALVES));
        for g in part.groups.clone() {
            let zero = _mm256_setzero_ps();
            let mut sums = [Sums { products: zero, offsets: zero }; N];
            for (b, block) in part.group(g).chunks_exact(E::BYTES).enumerate() {
                prefetch(block.as_ptr(), E::BYTES);
                for t in 0..E::TILES {
                    let mut regs = E::tile(block.as_ptr(), t);
                    bias_codes::<E>(D::BIASED, &mut regs.codes);
                    for (column, sum) in columns.iter().zip(&mut sums) {
                        step::<E, D>(&regs, column, b * E::TILES + t, sum);
                    }
                }
            }
            write::<E, N>(part, g, c, &sums);
        }
    }
}

/// `$body` for each of `$tiles` tiles of a block, one or eight: written out, so that the tile's number is a constant
/// in it and every shift that depends on it an immediate one (5% of a prefill; [`direct`] is faster without).
macro_rules! each_tile {
    ($tiles:expr, |$t:ident| $body:block) => {
        each_tile!(@ $tiles, $t, $body, 0 1 2 3 4 5 6 7)
    };
    (@ $tiles:expr, $t:ident, $body:block, $($index:literal)*) => {
        $(if $index < $tiles {
            let $t = $index;
            $body
        })*
    };
}

/// Expands `blocks`, whole blocks of one row group, into tiles `0 ..` of lane `lane` of `scratch`.
///
/// # Safety
/// As `Scratch::put`, for all tiles of the blocks.
#[inline(always)]
pub unsafe fn expand<E: Expand>(
    blocks: &[u8],
    lane: usize,
    lanes: usize,
    biased: bool,
    scratch: &mut Scratch,
) {
    for (b, block) in blocks.chunks_exact(E::BYTES).enumerate() {
        prefetch(block.as_ptr(), E::BYTES);
        each_tile!(E::TILES, |t| {
            // SAFETY: the block has BYTES bytes; the rest is the caller's promise.
            unsafe {
                let mut regs = E::tile(block.as_ptr(), t);
                bias_codes::<E>(biased, &mut regs.codes);
                scratch.put::<E>(b * E::TILES + t, lane, lanes, &regs);
            }
        });
    }
}

/// Tiles `first .. first + count` of one expanded group times columns `c .. c + N`, whose accumulators are
/// those of `column` on.
///
/// # Safety
/// `scratch` holds these tiles in one lane and has room for the columns; otherwise as [`direct`].
#[inline(always)]
pub unsafe fn expanded<S: Shape, D: Dot, const N: usize>(
    x: &Activations,
    c: usize,
    column: usize,
    [first, count]: [usize; 2],
    scratch: &mut Scratch,
) {
    // SAFETY: the scratch holds `count` tiles, the columns have `first + count` and more.
    unsafe {
        let columns: [Column; N] = std::array::from_fn(|i| Column::new(x, c + i, S::HALVES));
        let zero = _mm256_setzero_ps();
        let mut sums = [Sums { products: zero, offsets: zero }; N];
        let memory = scratch.sums::<__m256>(column, 1);
        if first > 0 {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = Sums { products: *memory.add(2 * i), offsets: *memory.add(2 * i + 1) };
            }
        }
        let (codes, floats) = (scratch.codes::<__m256i>(), scratch.floats::<__m256>());
        for t in 0..count {
            let mut regs = Regs { codes: [_mm256_setzero_si256(); 8], scale: [zero; 2], min: [zero; 2] };
            for i in 0..8 {
                regs.codes[i] = *codes.add(8 * t + i);
            }
            for h in 0..2 {
                regs.scale[h] = *floats.add(4 * t + 2 * h);
                regs.min[h] = *floats.add(4 * t + 2 * h + 1);
            }
            for (column, sum) in columns.iter().zip(&mut sums) {
                step::<S, D>(&regs, column, first + t, sum);
            }
        }
        for (i, sum) in sums.iter().enumerate() {
            *memory.add(2 * i) = sum.products;
            *memory.add(2 * i + 1) = sum.offsets;
        }
    }
}

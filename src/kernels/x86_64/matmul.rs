//! Integer matrix products: one lane per row, eight rows in 256 bits or sixteen in 512.
//!
//! Few columns (decode, the check of a draft) are multiplied straight from the packed bytes. For more, row groups are
//! expanded, a span of tiles at a time, into [`Scratch`], which stays in the first cache while all columns are multiplied
//! with it, four at a time; the accumulators of each column wait in memory for the next span.

use std::arch::x86_64::*;

use super::expand::{Codes, Divided, Expand, Regs};
use super::scratch::{Scratch, store};
use super::width::{Narrow, Wide, Width};
use crate::kernels::backend::Activations;
use crate::kernels::encoding::TILE;
use crate::kernels::layout::Part;
use crate::kernels::rows::Column;
use crate::kernels::shape::Shape;

/// How rows of four codes are multiplied with four codes of a column and summed.
pub trait Dot {
    /// The vectors.
    type Width: Width;
    /// Signed codes are used with 128 added, as unsigned ones.
    const BIASED: bool;

    /// Per row the sum of `codes[i] * a[4 i .. 4 i + 4]`, exact in i32.
    ///
    /// # Safety
    /// `a` has `4 * codes.len()` readable bytes; the processor has the instructions.
    unsafe fn dot<S: Shape>(codes: &[Int<Self>], a: *const i8) -> Int<Self>;
}

type Int<D> = <<D as Dot>::Width as Width>::Int;
type Float<D> = <<D as Dot>::Width as Width>::Float;

/// Four codes of a column.
#[inline(always)]
unsafe fn four(a: *const i8, i: usize) -> i32 {
    // SAFETY: the caller's column has these codes.
    unsafe { a.cast::<i32>().add(i).read_unaligned() }
}

/// Products by `vpmaddubsw`, collected in 16 bits as long as they cannot overflow.
pub struct Avx2;

impl Dot for Avx2 {
    type Width = Narrow;
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
                    let x = _mm256_set1_epi32(four(a, block * chain + i));
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

/// Declares a [`Dot`] by a `vpdpbusd`: name, vectors, zero, the instruction, four codes in every lane.
macro_rules! vnni {
    ($(#[$doc:meta])* $name:ident, $width:ident, $zero:ident, $dot:ident, $splat:ident) => {
        $(#[$doc])*
        pub struct $name;

        impl Dot for $name {
            type Width = $width;
            const BIASED: bool = true;

            #[inline(always)]
            unsafe fn dot<S: Shape>(codes: &[Int<Self>], a: *const i8) -> Int<Self> {
                // SAFETY: as the caller promises.
                unsafe {
                    let mut sum = $zero();
                    for (i, code) in codes.iter().enumerate() {
                        sum = $dot(sum, *code, $splat(four(a, i)));
                    }
                    sum
                }
            }
        }
    };
}

vnni!(
    /// Products by `vpdpbusd` of AVX-VNNI.
    Vnni, Narrow, _mm256_setzero_si256, _mm256_dpbusd_avx_epi32, _mm256_set1_epi32
);
vnni!(
    /// Products by the `vpdpbusd` of AVX-512 VNNI with VL.
    Vnni256, Narrow, _mm256_setzero_si256, _mm256_dpbusd_epi32, _mm256_set1_epi32
);
vnni!(
    /// Products by the `vpdpbusd` of AVX-512 VNNI.
    Vnni512, Wide, _mm512_setzero_si512, _mm512_dpbusd_epi32, _mm512_set1_epi32
);

/// The shift of the zero point that `dot`'s codes carry, 0 for none.
pub const fn zero_shift<S: Shape>(biased: bool) -> i32 {
    if S::SIGNED && biased { 7 } else { S::ZERO_SHIFT }
}

/// Adds 128 to signed codes where `dot` wants them unsigned.
#[inline(always)]
pub unsafe fn bias_codes<S: Shape, W: Width>(biased: bool, codes: &mut Codes<W>) {
    if S::SIGNED && biased {
        for code in codes {
            // SAFETY: the instructions are there by the caller's promise.
            *code = unsafe { W::xor(*code, W::splat8(-128)) };
        }
    }
}

/// Accumulators of one column: products and offsets.
struct Sums<D: Dot> {
    products: Float<D>,
    offsets: Float<D>,
}

impl<D: Dot> Clone for Sums<D> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<D: Dot> Copy for Sums<D> {}

impl<D: Dot> Sums<D> {
    /// Both 0.
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the instructions are there by the caller's promise.
        let zero = unsafe { D::Width::splat(0.0) };
        Self { products: zero, offsets: zero }
    }
}

/// Tile `t` of the rows of a vector times one column.
#[inline(always)]
unsafe fn step<S: Shape, D: Dot>(regs: &Regs<D::Width>, x: &Column, t: usize, sums: &mut Sums<D>) {
    // SAFETY: the caller's column has tile t.
    unsafe {
        let scale = D::Width::splat(*x.scales.add(t));
        let parts = if S::HALVES { 2 } else { 1 };
        for h in 0..parts {
            let len = 8 / parts;
            let codes = &regs.codes[h * len..(h + 1) * len];
            let mut dot = D::dot::<S>(codes, x.codes.add(t * TILE + 4 * h * len));
            let at = t * parts + h;
            let shift = zero_shift::<S>(D::BIASED);
            if shift != 0 {
                let sum = D::Width::splat32(*x.sums.add(at));
                dot = D::Width::sub(dot, D::Width::shl32(sum, shift));
            }
            let factor = D::Width::mul(regs.scale[h], scale);
            sums.products = D::Width::fma(factor, D::Width::to_float(dot), sums.products);
            if S::MIN {
                let offset = D::Width::splat(*x.offsets.add(at));
                sums.offsets = D::Width::fma(regs.min[h], offset, sums.offsets);
            }
        }
    }
}

/// Bytes ahead of the current block that are asked for: what one core reads in a memory latency under load. Less
/// leaves decoding a fifth slower, more gains nothing (`cargo bench --bench kernels`, one column).
const AHEAD: usize = 8192;

/// Asks for the bytes that lie `ahead` of tile `t` of a block: a share of the block, so that no more is asked for at
/// once than the processor can wait for.
#[inline(always)]
unsafe fn prefetch<E: Expand, W: Width>(block: W::Place, t: usize, ahead: usize) {
    let len = E::BYTES / E::TILES;
    for line in (0..len).step_by(64) {
        // SAFETY: the instructions are there by the caller's promise.
        unsafe { W::prefetch(block, ahead + t * len + line) };
    }
}

/// The row groups of `part` times columns `c .. c + N`, straight from the packed bytes.
///
/// # Safety
/// `layout::is_sound` holds, the part is inside the product and owned, the instructions are there.
#[inline(always)]
pub unsafe fn direct<E: Expand, D: Dot, const N: usize>(part: &Part<'_>, x: &Activations, c: usize) {
    let columns: [Column; N] = std::array::from_fn(|i| Column::new(x, c + i, E::HALVES));
    let blocks = x.tiles() / E::TILES;
    for g in part.groups.clone().step_by(D::Width::GROUPS) {
        let groups = pair(part, g);
        let place = D::Width::place(groups);
        let len = groups[0].len();
        let skip = (D::Width::GROUPS - 1) * len;
        // SAFETY: the groups have blocks * BYTES bytes by `is_sound`, the columns blocks * TILES tiles; the task
        // owns the results.
        unsafe {
            let mut sums = [Sums::<D>::zero(); N];
            for b in 0..blocks {
                let block = D::Width::at(place, b * E::BYTES);
                // Beyond a group's end come those after the other groups of the vector.
                let ahead = AHEAD / D::Width::GROUPS;
                let ahead = ahead + (b * E::BYTES + ahead) / len * skip;
                for t in 0..E::TILES {
                    prefetch::<E, D::Width>(block, t, ahead);
                    let mut regs = E::tile::<D::Width>(block, t);
                    bias_codes::<E, D::Width>(D::BIASED, &mut regs.codes);
                    for (column, sum) in columns.iter().zip(&mut sums) {
                        step::<E, D>(&regs, column, b * E::TILES + t, sum);
                    }
                }
            }
            for (i, sum) in sums.iter().enumerate() {
                let total = if E::MIN { D::Width::add(sum.products, sum.offsets) } else { sum.products };
                store::<D::Width>(part, g..part.groups.end, c + i, total);
            }
        }
    }
}

/// As [`direct`], of divided weights: `planes` are those of all rows of the matrix.
///
/// # Safety
/// As [`direct`]; the planes have the bytes of all row groups, as far as `E` reads them.
#[inline(always)]
pub unsafe fn direct_divided<E: Divided, D: Dot, const N: usize>(
    part: &Part<'_>,
    planes: [&[u8]; 2],
    x: &Activations,
    c: usize,
) {
    let columns: [Column; N] = std::array::from_fn(|i| Column::new(x, c + i, E::HALVES));
    let blocks = x.tiles();
    let lens = E::PLANES.map(|bytes| blocks * bytes);
    // Of both planes as much is asked for as of whole weights.
    let aheads = E::PLANES.map(|bytes| AHEAD / D::Width::GROUPS * bytes / (E::PLANES[0] + E::PLANES[1]));
    for g in part.groups.clone().step_by(D::Width::GROUPS) {
        let pair = [g, (g + 1).min(part.groups.end - 1)];
        let places = [0, 1].map(|k| D::Width::place(pair.map(|g| &planes[k][g * lens[k]..][..lens[k]])));
        // SAFETY: the groups have blocks * PLANES bytes, the columns a tile for each block; the task owns the results.
        unsafe {
            let mut sums = [Sums::<D>::zero(); N];
            // Beyond a group's end come those after the other groups of the vector.
            let mut ahead = aheads;
            let mut wraps = lens;
            for b in 0..blocks {
                let mut block = places;
                for (k, block) in block.iter_mut().enumerate().filter(|(k, _)| E::PLANES[*k] > 0) {
                    let (bytes, len) = (E::PLANES[k], lens[k]);
                    *block = D::Width::at(*block, b * bytes);
                    if b * bytes + aheads[k] >= wraps[k] {
                        ahead[k] += (D::Width::GROUPS - 1) * len;
                        wraps[k] += len;
                    }
                    for line in (0..bytes).step_by(64) {
                        D::Width::prefetch(*block, ahead[k] + line);
                    }
                }
                let mut regs = E::tile::<D::Width>(block[0], block[1]);
                bias_codes::<E, D::Width>(D::BIASED, &mut regs.codes);
                for (column, sum) in columns.iter().zip(&mut sums) {
                    step::<E, D>(&regs, column, b, sum);
                }
            }
            for (i, sum) in sums.iter().enumerate() {
                let total = if E::MIN { D::Width::add(sum.products, sum.offsets) } else { sum.products };
                store::<D::Width>(part, g..part.groups.end, c + i, total);
            }
        }
    }
}

/// The bytes of row group `g` of a part and of the one after it, or of `g` again where it is the last.
pub fn pair<'a>(part: &'a Part<'_>, g: usize) -> [&'a [u8]; 2] {
    [part.group(g), part.group((g + 1).min(part.groups.end - 1))]
}

/// `$body` for each of `$tiles` tiles of a block, one or eight: written out, so that the tile's number is a constant
/// in it and every shift that depends on it an immediate one ([`direct`] is faster without).
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

/// Expands whole blocks of the row groups of a vector into tiles `0 ..` of lanes `lane ..` of `scratch`.
///
/// # Safety
/// As `Scratch::put`, for all tiles of the blocks; `groups` are of one length.
#[inline(always)]
pub unsafe fn expand<E: Expand, D: Dot>(
    groups: [&[u8]; 2],
    lane: usize,
    lanes: usize,
    scratch: &mut Scratch,
) {
    let place = D::Width::place(groups);
    for b in 0..groups[0].len() / E::BYTES {
        // SAFETY: the groups have so many blocks of BYTES bytes; the rest is the caller's promise.
        unsafe {
            let block = D::Width::at(place, b * E::BYTES);
            each_tile!(E::TILES, |t| {
                prefetch::<E, D::Width>(block, t, AHEAD / D::Width::GROUPS);
                let mut regs = E::tile::<D::Width>(block, t);
                bias_codes::<E, D::Width>(D::BIASED, &mut regs.codes);
                scratch.put::<E, D::Width>(b * E::TILES + t, lane, lanes, &regs);
            });
        }
    }
}

/// Tiles `first .. first + count` of the expanded groups of one vector times columns `c .. c + N`, whose
/// accumulators are those of `column` on.
///
/// # Safety
/// `scratch` holds these tiles in as many lanes as the vector has groups and has room for the columns; otherwise
/// as [`direct`].
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
        let mut sums = [Sums::<D>::zero(); N];
        let memory = scratch.sums::<Float<D>>(column, D::Width::GROUPS);
        if first > 0 {
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = Sums { products: *memory.add(2 * i), offsets: *memory.add(2 * i + 1) };
            }
        }
        let (codes, floats) = (scratch.codes::<Int<D>>(), scratch.floats::<Float<D>>());
        for t in 0..count {
            let (mut code, zero) = ([D::Width::splat32(0); 8], [D::Width::splat(0.0); 2]);
            for (i, code) in code.iter_mut().enumerate() {
                *code = *codes.add(8 * t + i);
            }
            let mut regs = Regs { codes: code, scale: zero, min: zero };
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

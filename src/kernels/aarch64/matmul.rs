//! Integer matrix products: eight rows in two vectors, one 32-bit lane each.
//!
//! Few columns (decode) are multiplied straight from the packed bytes. For more, a row group is expanded `SPAN`
//! tiles at a time into [`Rows`], which stay in the first cache while all columns are multiplied with them, several
//! at a time; the accumulators of each column wait in memory for the next span.

use std::arch::aarch64::*;
use std::arch::asm;

use super::expand::{Codes, Expand, Floats, Regs};
use crate::kernels::backend::Activations;
use crate::kernels::encoding::TILE;
use crate::kernels::layout::{GROUP, Part};
use crate::kernels::rows::{Column, Rows};
use crate::kernels::shape::Shape;

/// How eight rows are multiplied with columns and summed.
pub trait Dot {
    /// Per column and row the sum of `codes(i) * x[4 i .. 4 i + 4]` over i below `len` (4 or 8), exact in i32.
    ///
    /// # Safety
    /// Each of `x` has `4 * len` readable bytes; the processor has the instructions.
    unsafe fn dot<S: Shape, const N: usize>(
        codes: impl Fn(usize) -> Codes,
        len: usize,
        x: [*const i8; N],
    ) -> [[int32x4_t; 2]; N];
}

/// Products by `SMLAL`, collected in 16 bits as long as they cannot overflow.
pub struct Neon;

impl Dot for Neon {
    #[inline(always)]
    unsafe fn dot<S: Shape, const N: usize>(
        codes: impl Fn(usize) -> Codes,
        len: usize,
        x: [*const i8; N],
    ) -> [[int32x4_t; 2]; N] {
        // SAFETY: as the caller promises.
        unsafe {
            let chain = (i16::MAX as i32 / (127 * S::LARGEST)).clamp(1, 8) as usize;
            let mut wide = [[vdupq_n_s32(0); 4]; N];
            for first in (0..len).step_by(chain) {
                let mut short = [[vdupq_n_s16(0); 4]; N];
                for i in first..len.min(first + chain) {
                    let [a, b] = codes(i);
                    for (short, x) in short.iter_mut().zip(x) {
                        let four = vdupq_n_s32(x.cast::<i32>().add(i).read_unaligned());
                        let four = vreinterpretq_s8_s32(four);
                        short[0] = vmlal_s8(short[0], vget_low_s8(a), vget_low_s8(four));
                        short[1] = vmlal_high_s8(short[1], a, four);
                        short[2] = vmlal_s8(short[2], vget_low_s8(b), vget_low_s8(four));
                        short[3] = vmlal_high_s8(short[3], b, four);
                    }
                }
                for (wide, short) in wide.iter_mut().zip(short) {
                    for (wide, short) in wide.iter_mut().zip(short) {
                        *wide = vpadalq_s16(*wide, short);
                    }
                }
            }
            let mut sums = [[vdupq_n_s32(0); 2]; N];
            for (sums, wide) in sums.iter_mut().zip(wide) {
                *sums = [vpaddq_s32(wide[0], wide[1]), vpaddq_s32(wide[2], wide[3])];
            }
            sums
        }
    }
}

/// Products by `SDOT`.
pub struct NeonDot;

/// `sum` plus, in each 32-bit lane, the four codes there times the four in lane `LANE` of `x`. The intrinsic
/// is not stable.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot<const LANE: usize>(sum: int32x4_t, codes: int8x16_t, x: int8x16_t) -> int32x4_t {
    let mut sum = sum;
    // SAFETY: reads and writes only the registers named; the function has the feature.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {codes:v}.16b, {x:v}.4b[{lane}]",
            sum = inout(vreg) sum,
            codes = in(vreg) codes,
            x = in(vreg) x,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// [`sdot`] of eight rows and lane `LANE` of each column.
#[inline(always)]
unsafe fn sdots<const LANE: usize, const N: usize>(
    sums: &mut [[int32x4_t; 2]; N],
    codes: Codes,
    x: &[int8x16_t; N],
) {
    for (sums, x) in sums.iter_mut().zip(x) {
        // SAFETY: the instruction is there by the caller's promise.
        unsafe {
            sums[0] = sdot::<LANE>(sums[0], codes[0], *x);
            sums[1] = sdot::<LANE>(sums[1], codes[1], *x);
        }
    }
}

impl Dot for NeonDot {
    #[inline(always)]
    unsafe fn dot<S: Shape, const N: usize>(
        codes: impl Fn(usize) -> Codes,
        len: usize,
        x: [*const i8; N],
    ) -> [[int32x4_t; 2]; N] {
        // SAFETY: as the caller promises.
        unsafe {
            let mut sums = [[vdupq_n_s32(0); 2]; N];
            for i in (0..len).step_by(4) {
                let x = std::array::from_fn(|n| vld1q_s8(x[n].add(4 * i)));
                sdots::<0, N>(&mut sums, codes(i), &x);
                sdots::<1, N>(&mut sums, codes(i + 1), &x);
                sdots::<2, N>(&mut sums, codes(i + 2), &x);
                sdots::<3, N>(&mut sums, codes(i + 3), &x);
            }
            sums
        }
    }
}

/// Where one tile of eight rows comes from.
trait Tile {
    /// Whether the zero point was subtracted from the codes.
    const CENTRED: bool;

    /// Pair `i` of code vectors.
    unsafe fn codes(&self, i: usize) -> Codes;
    /// Scales of half `h`.
    unsafe fn scale(&self, h: usize) -> Floats;
    /// Offsets of half `h`.
    unsafe fn min(&self, h: usize) -> Floats;
}

impl Tile for Regs {
    const CENTRED: bool = false;

    #[inline(always)]
    unsafe fn codes(&self, i: usize) -> Codes {
        self.codes[i]
    }

    #[inline(always)]
    unsafe fn scale(&self, h: usize) -> Floats {
        self.scale[h]
    }

    #[inline(always)]
    unsafe fn min(&self, h: usize) -> Floats {
        self.min[h]
    }
}

/// Eight floats.
#[inline(always)]
unsafe fn load(floats: &[f32; GROUP]) -> Floats {
    // SAFETY: there are two vectors.
    unsafe { [vld1q_f32(floats.as_ptr()), vld1q_f32(floats.as_ptr().add(4))] }
}

/// Writes eight floats.
#[inline(always)]
unsafe fn save(floats: &mut [f32; GROUP], from: Floats) {
    // SAFETY: there is room for two vectors.
    unsafe {
        vst1q_f32(floats.as_mut_ptr(), from[0]);
        vst1q_f32(floats.as_mut_ptr().add(4), from[1]);
    }
}

impl Tile for Rows {
    const CENTRED: bool = true;

    #[inline(always)]
    unsafe fn codes(&self, i: usize) -> Codes {
        let codes = self.codes[i].as_ptr().cast();
        // SAFETY: there are 32 codes.
        unsafe { [vld1q_s8(codes), vld1q_s8(codes.add(16))] }
    }

    #[inline(always)]
    unsafe fn scale(&self, h: usize) -> Floats {
        // SAFETY: NEON by the caller's promise.
        unsafe { load(&self.scale[h]) }
    }

    #[inline(always)]
    unsafe fn min(&self, h: usize) -> Floats {
        // SAFETY: NEON by the caller's promise.
        unsafe { load(&self.min[h]) }
    }
}

/// Accumulators of eight rows and one column, in memory.
#[derive(Clone, Copy, Debug)]
pub struct Accumulators {
    products: [f32; GROUP],
    offsets: [f32; GROUP],
}

impl Accumulators {
    pub const ZERO: Self = Self { products: [0.0; GROUP], offsets: [0.0; GROUP] };

    /// The results: with `min` both are added.
    pub fn total(&self, min: bool) -> [f32; GROUP] {
        let mut total = self.products;
        if min {
            total.iter_mut().zip(&self.offsets).for_each(|(total, offset)| *total += offset);
        }
        total
    }
}

/// The same in registers.
#[derive(Clone, Copy)]
struct Sums {
    products: Floats,
    offsets: Floats,
}

impl Sums {
    #[inline(always)]
    unsafe fn load(from: &Accumulators) -> Self {
        // SAFETY: NEON by the caller's promise.
        unsafe { Self { products: load(&from.products), offsets: load(&from.offsets) } }
    }

    #[inline(always)]
    unsafe fn save<S: Shape>(self, to: &mut Accumulators) {
        // SAFETY: NEON by the caller's promise.
        unsafe {
            save(&mut to.products, self.products);
            if S::MIN {
                save(&mut to.offsets, self.offsets);
            }
        }
    }
}

/// Part `h` of the `parts` of tile `t` of eight rows, times some columns.
#[inline(always)]
unsafe fn step<S: Shape, D: Dot, T: Tile, const N: usize>(
    tile: &T,
    x: &[Column; N],
    t: usize,
    (h, parts): (usize, usize),
    sums: &mut [Sums; N],
) {
    let (at, len) = (t * parts + h, 8 / parts);
    // SAFETY: the caller's columns have tile t.
    unsafe {
        let codes = std::array::from_fn(|n| x[n].codes.add(t * TILE + 4 * h * len));
        let dots = D::dot::<S, N>(|i| tile.codes(h * len + i), len, codes);
        let (scale, min) = (tile.scale(h), tile.min(h));
        for ((sums, mut dot), x) in sums.iter_mut().zip(dots).zip(x) {
            if S::ZERO_SHIFT != 0 && !T::CENTRED {
                let zero = vdupq_n_s32(*x.sums.add(at) << S::ZERO_SHIFT);
                dot = [vsubq_s32(dot[0], zero), vsubq_s32(dot[1], zero)];
            }
            let x_scale = *x.scales.add(t);
            for v in 0..2 {
                let factor = vmulq_n_f32(scale[v], x_scale);
                sums.products[v] = vfmaq_f32(sums.products[v], factor, vcvtq_f32_s32(dot[v]));
                if S::MIN {
                    sums.offsets[v] = vfmaq_n_f32(sums.offsets[v], min[v], *x.offsets.add(at));
                }
            }
        }
    }
}

/// Tile `t` of eight rows times some columns. Not a loop over halves: codes in registers need constant indices.
#[inline(always)]
unsafe fn steps<S: Shape, D: Dot, T: Tile, const N: usize>(
    tile: &T,
    x: &[Column; N],
    t: usize,
    sums: &mut [Sums; N],
) {
    // SAFETY: passed on to the caller.
    unsafe {
        if S::HALVES {
            step::<S, D, T, N>(tile, x, t, (0, 2), sums);
            step::<S, D, T, N>(tile, x, t, (1, 2), sums);
        } else {
            step::<S, D, T, N>(tile, x, t, (0, 1), sums);
        }
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
            let mut sums = [Sums::load(&Accumulators::ZERO); N];
            for (b, block) in part.group(g).chunks_exact(E::BYTES).enumerate() {
                for t in 0..E::TILES {
                    let regs = E::tile(block.as_ptr(), t);
                    steps::<E, D, Regs, N>(&regs, &columns, b * E::TILES + t, &mut sums);
                }
            }
            for (i, sums) in sums.iter().enumerate() {
                let mut memory = Accumulators::ZERO;
                sums.save::<E>(&mut memory);
                part.store(g, c + i, &memory.total(E::MIN));
            }
        }
    }
}

/// Expands `blocks`, whole blocks of one row group, zero points subtracted.
///
/// # Safety
/// The processor has NEON.
#[inline(always)]
pub unsafe fn expand<E: Expand>(blocks: &[u8], tiles: &mut [Rows]) {
    for (block, tiles) in blocks.chunks_exact(E::BYTES).zip(tiles.chunks_exact_mut(E::TILES)) {
        for (t, rows) in tiles.iter_mut().enumerate() {
            // SAFETY: the block has BYTES bytes; each row of codes takes two vectors.
            unsafe {
                let regs = E::tile(block.as_ptr(), t);
                let zero = vdupq_n_s8(if E::ZERO_SHIFT == 0 { 0 } else { 1 << E::ZERO_SHIFT });
                for (to, codes) in rows.codes.iter_mut().zip(regs.codes) {
                    let to = to.as_mut_ptr().cast::<i8>();
                    vst1q_s8(to, vsubq_s8(codes[0], zero));
                    vst1q_s8(to.add(16), vsubq_s8(codes[1], zero));
                }
                for h in 0..if E::HALVES { 2 } else { 1 } {
                    save(&mut rows.scale[h], regs.scale[h]);
                    if E::MIN {
                        save(&mut rows.min[h], regs.min[h]);
                    }
                }
            }
        }
    }
}

/// Expanded tiles, the first of which is tile `first` of its group, times columns `c .. c + N`, added to `memory`.
///
/// # Safety
/// The columns have these tiles; otherwise as [`direct`].
#[inline(always)]
pub unsafe fn expanded<S: Shape, D: Dot, const N: usize>(
    x: &Activations,
    c: usize,
    first: usize,
    tiles: &[Rows],
    memory: &mut [Accumulators; N],
) {
    // SAFETY: passed on to the caller.
    unsafe {
        let columns: [Column; N] = std::array::from_fn(|i| Column::new(x, c + i, S::HALVES));
        let mut sums: [Sums; N] = std::array::from_fn(|i| Sums::load(&memory[i]));
        for (t, rows) in tiles.iter().enumerate() {
            steps::<S, D, Rows, N>(rows, &columns, first + t, &mut sums);
        }
        for (memory, sums) in memory.iter_mut().zip(sums) {
            sums.save::<S>(memory);
        }
    }
}

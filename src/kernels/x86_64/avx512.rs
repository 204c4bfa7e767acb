//! Expanded integer products with 512-bit vectors: sixteen rows (two groups) per vector, one lane each.

use std::arch::x86_64::*;

use super::expand::Shape;
use super::matmul::{Column, Scratch, zero_shift};
use crate::kernels::backend::Activations;
use crate::kernels::encoding::TILE;
use crate::kernels::layout::{GROUP, Part};
use crate::kernels::panel::WIDTH;

/// The expanded groups `g` and, if it is in the part, `g + 1` times the eight columns `c ..` of one panel.
///
/// # Safety
/// As [`expanded`]; `x` has panels and `c` is a multiple of eight.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub unsafe fn paneled<S: Shape>(part: &Part<'_>, x: &Activations, g: usize, c: usize, scratch: &mut Scratch) {
    let tiles = x.tiles();
    let panels = &x.panels[c / WIDTH * tiles..][..tiles];
    let zero = _mm512_setzero_ps();
    let mut sums = [Sums { products: zero, offsets: zero }; WIDTH];
    let codes: *const __m512i = scratch.codes().cast_const().cast();
    let floats: *const __m512 = scratch.floats().cast_const().cast();
    let parts = if S::HALVES { 2 } else { 1 };
    let len = 8 / parts;
    for (t, panel) in panels.iter().enumerate() {
        for h in 0..parts {
            let mut dots = [_mm512_setzero_si512(); WIDTH];
            for i in h * len..(h + 1) * len {
                // SAFETY: the scratch holds `x.tiles()` tiles of eight vectors.
                let code = unsafe { _mm512_load_si512(codes.add(8 * t + i)) };
                for (dot, four) in dots.iter_mut().zip(&panel.codes[i]) {
                    let four = _mm512_set1_epi32(i32::from_ne_bytes(four.map(i8::cast_unsigned)));
                    *dot = _mm512_dpbusd_epi32(*dot, code, four);
                }
            }
            // SAFETY: the scratch holds four vectors of floats per tile.
            let (scale, min) = unsafe {
                (*floats.add(4 * t + 2 * h), if S::MIN { *floats.add(4 * t + 2 * h + 1) } else { zero })
            };
            let (code_sums, offsets) = if S::HALVES {
                (&panel.half_sums[h], &panel.half_offsets[h])
            } else {
                (&panel.sums, &panel.offsets)
            };
            for (i, sums) in sums.iter_mut().enumerate() {
                let mut dot = dots[i];
                if zero_shift::<S>(true) != 0 {
                    let shift = _mm_cvtsi32_si128(zero_shift::<S>(true));
                    dot = _mm512_sub_epi32(dot, _mm512_sll_epi32(_mm512_set1_epi32(code_sums[i]), shift));
                }
                let factor = _mm512_mul_ps(scale, _mm512_set1_ps(panel.scales[i]));
                sums.products = _mm512_fmadd_ps(factor, _mm512_cvtepi32_ps(dot), sums.products);
                if S::MIN {
                    sums.offsets = _mm512_fmadd_ps(min, _mm512_set1_ps(offsets[i]), sums.offsets);
                }
            }
        }
    }
    // SAFETY: passed on to the caller.
    unsafe { write::<S, WIDTH>(part, g, c, &sums) };
}

/// Writes the results of groups `g` and, if it is in the part, `g + 1`, columns `c ..`.
///
/// # Safety
/// The caller owns these results.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn write<S: Shape, const N: usize>(part: &Part<'_>, g: usize, c: usize, sums: &[Sums; N]) {
    for (i, sum) in sums.iter().enumerate() {
        let mut result = [[0.0; GROUP]; 2];
        let total = if S::MIN { _mm512_add_ps(sum.products, sum.offsets) } else { sum.products };
        // SAFETY: `result` has sixteen elements; the caller owns the group and column.
        unsafe {
            _mm512_storeu_ps(result.as_mut_ptr().cast(), total);
            part.store(g, c + i, &result[0]);
            if g + 1 < part.groups.end {
                part.store(g + 1, c + i, &result[1]);
            }
        }
    }
}

/// Accumulators of one column: products and offsets.
#[derive(Clone, Copy)]
struct Sums {
    products: __m512,
    offsets: __m512,
}

/// The expanded groups `g` and, if it is in the part, `g + 1` times columns `c .. c + N`.
///
/// # Safety
/// `scratch` holds the two groups as two lanes, with 128 added to signed codes; `layout::is_sound` holds, the
/// part is inside the product and owned.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub unsafe fn expanded<S: Shape, const N: usize>(
    part: &Part<'_>,
    x: &Activations,
    g: usize,
    c: usize,
    scratch: &mut Scratch,
) {
    let columns: [Column; N] = std::array::from_fn(|i| Column::new(x, c + i, S::HALVES));
    let zero = _mm512_setzero_ps();
    let mut sums = [Sums { products: zero, offsets: zero }; N];
    let codes: *const __m512i = scratch.codes().cast_const().cast();
    let floats: *const __m512 = scratch.floats().cast_const().cast();
    let parts = if S::HALVES { 2 } else { 1 };
    let len = 8 / parts;
    for t in 0..x.tiles() {
        for h in 0..parts {
            let mut dots = [_mm512_setzero_si512(); N];
            for i in h * len..(h + 1) * len {
                // SAFETY: the scratch holds `x.tiles()` tiles of eight vectors.
                let code = unsafe { _mm512_load_si512(codes.add(8 * t + i)) };
                for (dot, column) in dots.iter_mut().zip(&columns) {
                    // SAFETY: the column has 32 codes per tile.
                    let four = unsafe { column.codes.add(t * TILE + 4 * i).cast::<i32>().read_unaligned() };
                    *dot = _mm512_dpbusd_epi32(*dot, code, _mm512_set1_epi32(four));
                }
            }
            // SAFETY: the scratch holds four vectors of floats per tile.
            let (scale, min) = unsafe {
                (*floats.add(4 * t + 2 * h), if S::MIN { *floats.add(4 * t + 2 * h + 1) } else { zero })
            };
            let at = t * parts + h;
            for ((dot, column), sums) in dots.iter().zip(&columns).zip(&mut sums) {
                // SAFETY: the column has tile t and (half) tile `at`.
                let (da, sum, offset) =
                    unsafe { (*column.scales.add(t), *column.sums.add(at), *column.offsets.add(at)) };
                let mut dot = *dot;
                if zero_shift::<S>(true) != 0 {
                    let shift = _mm_cvtsi32_si128(zero_shift::<S>(true));
                    dot = _mm512_sub_epi32(dot, _mm512_sll_epi32(_mm512_set1_epi32(sum), shift));
                }
                let factor = _mm512_mul_ps(scale, _mm512_set1_ps(da));
                sums.products = _mm512_fmadd_ps(factor, _mm512_cvtepi32_ps(dot), sums.products);
                if S::MIN {
                    sums.offsets = _mm512_fmadd_ps(min, _mm512_set1_ps(offset), sums.offsets);
                }
            }
        }
    }
    // SAFETY: passed on to the caller.
    unsafe { write::<S, N>(part, g, c, &sums) };
}

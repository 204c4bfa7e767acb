//! Expanded integer products with 512-bit vectors: sixteen rows (two groups) per vector, one lane each.

use std::arch::x86_64::*;

use super::matmul::zero_shift;
use super::scratch::Scratch;
use crate::kernels::backend::Activations;
use crate::kernels::panel::{Panel, SPAN, WIDTH};
use crate::kernels::shape::Shape;

/// Tiles `first .. first + count` of `2 * R` expanded groups times columns `c .. c + N` of one panel, whose
/// accumulators are those of `column` on. Two vectors of rows share each load of a column.
///
/// # Safety
/// `scratch` holds these tiles as `2 * R` lanes, with 128 added to signed codes, and has room for the columns;
/// `layout::is_sound` holds, `x` has panels, and the columns do not cross the end of a panel.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub unsafe fn paneled<S: Shape, const R: usize, const N: usize>(
    x: &Activations,
    c: usize,
    column: usize,
    [first, count]: [usize; 2],
    scratch: &mut Scratch,
) {
    let panels = &x.panels[x.span_start(first / SPAN, c / WIDTH)..][..count];
    // SAFETY: passed on to the caller.
    unsafe {
        products::<S, R, N>(panels, c % WIDTH, column, first > 0, scratch);
        if S::MIN {
            // A pass of its own: the registers hold either accumulators, not both.
            offsets::<S, R, N>(panels, c % WIDTH, column, first > 0, scratch);
        }
    }
}

/// N columns times R vectors of rows.
type Sums<const R: usize, const N: usize> = [[__m512; R]; N];

/// Accumulators from memory, where column i is `2 * R * i` vectors further, or zeros.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn load<const R: usize, const N: usize>(memory: *const __m512, resume: bool) -> Sums<R, N> {
    let mut sums = [[_mm512_setzero_ps(); R]; N];
    if resume {
        for (i, sums) in sums.iter_mut().enumerate() {
            for (r, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's memory has these vectors.
                *sum = unsafe { *memory.add(2 * R * i + r) };
            }
        }
    }
    sums
}

/// The way back of [`load`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn store<const R: usize, const N: usize>(memory: *mut __m512, sums: &Sums<R, N>) {
    for (i, sums) in sums.iter().enumerate() {
        for (r, sum) in sums.iter().enumerate() {
            // SAFETY: the caller's memory has these vectors.
            unsafe { *memory.add(2 * R * i + r) = *sum };
        }
    }
}

/// The products of [`paneled`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn products<S: Shape, const R: usize, const N: usize>(
    panels: &[Panel],
    token: usize,
    column: usize,
    resume: bool,
    scratch: &mut Scratch,
) {
    // SAFETY: room was reserved; each column has R vectors of products and R of offsets.
    let memory = unsafe { scratch.sums::<__m512>(column, 2 * R) };
    // SAFETY: as above.
    let mut sums = unsafe { load::<R, N>(memory, resume) };
    let codes: *const __m512i = scratch.codes();
    let floats: *const __m512 = scratch.floats();
    let parts = if S::HALVES { 2 } else { 1 };
    let len = 8 / parts;
    for (t, panel) in panels.iter().enumerate() {
        let scales = &panel.scales[token..][..N];
        for h in 0..parts {
            let code_sums = if S::HALVES { &panel.negated_half_sums[h] } else { &panel.negated_sums };
            let mut dots = [[_mm512_setzero_si512(); R]; N];
            if zero_shift::<S>(true) != 0 {
                // The zero point is taken off first: exact in integers, in any order.
                let shift = _mm_cvtsi32_si128(zero_shift::<S>(true));
                for (dots, sum) in dots.iter_mut().zip(&code_sums[token..][..N]) {
                    *dots = [_mm512_sll_epi32(_mm512_set1_epi32(*sum), shift); R];
                }
            }
            for i in h * len..(h + 1) * len {
                let mut code = [_mm512_setzero_si512(); R];
                for (r, code) in code.iter_mut().enumerate() {
                    // SAFETY: the scratch holds `count` tiles of eight vectors for each of R pairs of groups.
                    *code = unsafe { *codes.add((8 * t + i) * R + r) };
                }
                for (dots, four) in dots.iter_mut().zip(&panel.codes[i][token..][..N]) {
                    let four = _mm512_set1_epi32(i32::from_ne_bytes(four.map(i8::cast_unsigned)));
                    for (dot, code) in dots.iter_mut().zip(&code) {
                        *dot = _mm512_dpbusd_epi32(*dot, *code, four);
                    }
                }
            }
            for r in 0..R {
                // SAFETY: the scratch holds four vectors of floats per tile and pair.
                let scale = unsafe { *floats.add((4 * t + 2 * h) * R + r) };
                for (i, sums) in sums.iter_mut().enumerate() {
                    let factor = _mm512_mul_ps(scale, _mm512_set1_ps(scales[i]));
                    sums[r] = _mm512_fmadd_ps(factor, _mm512_cvtepi32_ps(dots[i][r]), sums[r]);
                }
            }
        }
    }
    // SAFETY: as for the load.
    unsafe { store(memory, &sums) };
}

/// The offsets of [`paneled`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn offsets<S: Shape, const R: usize, const N: usize>(
    panels: &[Panel],
    token: usize,
    column: usize,
    resume: bool,
    scratch: &mut Scratch,
) {
    // SAFETY: room was reserved; a column's offsets follow its R vectors of products.
    let memory = unsafe { scratch.sums::<__m512>(column, 2 * R).add(R) };
    // SAFETY: as above.
    let mut sums = unsafe { load::<R, N>(memory, resume) };
    let floats: *const __m512 = scratch.floats();
    let parts = if S::HALVES { 2 } else { 1 };
    for (t, panel) in panels.iter().enumerate() {
        for h in 0..parts {
            let offsets = if S::HALVES { &panel.half_offsets[h] } else { &panel.offsets };
            for r in 0..R {
                // SAFETY: the scratch holds four vectors of floats per tile and pair, the scales first.
                let min = unsafe { *floats.add((4 * t + 2 * h + 1) * R + r) };
                for (sums, offset) in sums.iter_mut().zip(&offsets[token..][..N]) {
                    sums[r] = _mm512_fmadd_ps(min, _mm512_set1_ps(*offset), sums[r]);
                }
            }
        }
    }
    // SAFETY: as for the load.
    unsafe { store(memory, &sums) };
}

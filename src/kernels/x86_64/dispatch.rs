//! From an encoding and an instruction set to the functions that compute.

use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

use super::expand::{Divided, Expand, Q4Both, Q8Both, Q8First, Regs};
use super::matmul::{
    Avx2, Dot, Vnni, Vnni256, Vnni512, bias_codes, direct, direct_divided, expand, expanded, pair,
};
use super::scratch::Scratch;
use super::width::{Narrow, Width};
use super::{avx512, float};
use crate::kernels::backend::Activations;
use crate::kernels::cpu::Isa;
use crate::kernels::division::Form;
use crate::kernels::encoding::{Encoding, TILE};
use crate::kernels::layout::{self, GROUP, Part};
use crate::kernels::panel::{SPAN, WIDTH};
use crate::kernels::rows::each_tile;
use crate::kernels::shape::{Generic, Shape, by_encoding};

thread_local! {
    /// One expanded span of row groups, kept between tasks.
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// Columns `c ..` of a part, straight from the packed bytes.
type Direct = unsafe fn(&Part<'_>, &Activations, usize);
/// The same of divided weights, whose planes come beside the part.
type DirectDivided = unsafe fn(&Part<'_>, [&[u8]; 2], &Activations, usize);
/// Whole blocks of the row groups of a vector to lanes (from the first number on) of so many (the second).
type ExpandInto = unsafe fn(&Encoding, [&[u8]; 2], usize, usize, &mut Scratch);
/// An expanded span (first tile and tiles) times columns, the first number their place in the input, the
/// second that of their accumulators.
type Expanded = unsafe fn(&Activations, usize, usize, [usize; 2], &mut Scratch);

/// The accumulators of so many lanes (the last number) to the results of row groups.
type Write = unsafe fn(&mut Scratch, &Part<'_>, Range<usize>, usize);

/// Columns that are multiplied at a time with an expanded span.
const COLUMNS: usize = 4;

/// What multiplies one encoding on one instruction set.
struct Kernels {
    /// One column, two and so on straight from the packed bytes; none where the encoding has no vector form.
    direct: &'static [Direct],
    /// So many passes with them are still faster than to expand the weights.
    passes: usize,
    expand: ExpandInto,
    /// Row groups that make a vector.
    lanes: usize,
    /// Tiles of a row group that are expanded at a time: with [`SPAN`] as the unit, what the first cache holds of as
    /// many row groups as there are.
    span: usize,
    /// Up to [`COLUMNS`] columns times one span of that many row groups.
    columns: [Expanded; COLUMNS],
    /// The same for twice as many, where the registers hold them.
    twice: Option<[Expanded; COLUMNS]>,
    write: Write,
}

/// Whether so many columns are multiplied with one row group at a time: memory is read fastest in one stream, but where
/// the arithmetic takes longer than the reading wider vectors win.
const fn one_group<E: Expand>(columns: usize) -> bool {
    columns == 1 && E::BYTES / E::TILES >= 128 || columns == 2 && E::TILES == 1
}

/// The instances of a function for each number of columns.
macro_rules! by_columns {
    ($($function:ident)::+ < $($argument:tt),+ >) => {
        [$($function)::+::<$($argument),+, 1> as Expanded, $($function)::+::<$($argument),+, 2>,
         $($function)::+::<$($argument),+, 3>, $($function)::+::<$($argument),+, 4>]
    };
}

/// Wraps the generic bodies in functions with the target features of one instruction set. `$one` is for
/// [`one_group`] at a time.
macro_rules! wrap {
    ($module:ident, $features:literal, $dot:ty, $one:ty, $passes:literal, [$($direct:literal),+]) => {
        mod $module {
            use super::*;

            #[target_feature(enable = $features)]
            unsafe fn direct_columns<E: Expand, const N: usize>(part: &Part<'_>, x: &Activations, c: usize) {
                // SAFETY: passed on to the caller.
                unsafe {
                    if one_group::<E>(N) {
                        direct::<E, $one, N>(part, x, c);
                    } else {
                        direct::<E, $dot, N>(part, x, c);
                    }
                }
            }

            #[target_feature(enable = $features)]
            unsafe fn divided_columns<E: Divided, const N: usize>(
                part: &Part<'_>,
                planes: [&[u8]; 2],
                x: &Activations,
                c: usize,
            ) {
                // SAFETY: passed on to the caller.
                unsafe { direct_divided::<E, $dot, N>(part, planes, x, c) };
            }

            /// One column and so on of divided weights, and the passes that are faster than to join them first.
            pub fn divided<E: Divided>() -> (&'static [DirectDivided], usize) {
                (const { &[$(divided_columns::<E, $direct>),+] }, $passes)
            }

            pub fn of<E: Expand>() -> Kernels {
                with_form::<E>(const { &[$(direct_columns::<E, $direct>),+] }, expand_blocks::<E>)
            }

            pub fn generic() -> Kernels {
                with_form::<Generic>(&[], expand_any)
            }

            fn with_form<S: Shape>(direct: &'static [Direct], expand: ExpandInto) -> Kernels {
                let columns = by_columns!(columns<S>);
                let lanes = <$dot as Dot>::Width::GROUPS;
                // Unpacking two scales per tile a second time costs more than the scratch, but for the widest vectors.
                let passes = if S::HALVES && lanes == 1 { 1 } else { $passes };
                let (span, write) = (4 * SPAN / lanes, write::<S>);
                Kernels { direct, passes, expand, lanes, span, columns, twice: None, write }
            }

            #[target_feature(enable = $features)]
            unsafe fn expand_blocks<E: Expand>(
                _: &Encoding,
                groups: [&[u8]; 2],
                lane: usize,
                lanes: usize,
                scratch: &mut Scratch,
            ) {
                // SAFETY: passed on to the caller.
                unsafe { expand::<E, $dot>(groups, lane, lanes, scratch) };
            }

            #[target_feature(enable = $features)]
            unsafe fn expand_any(
                encoding: &Encoding,
                groups: [&[u8]; 2],
                lane: usize,
                lanes: usize,
                scratch: &mut Scratch,
            ) {
                for (i, group) in groups.iter().take(<$dot as Dot>::Width::GROUPS).enumerate() {
                    // SAFETY: passed on to the caller.
                    unsafe { expand_generic(encoding, group, lane + i, lanes, <$dot>::BIASED, scratch) };
                }
            }

            #[target_feature(enable = $features)]
            unsafe fn columns<S: Shape, const N: usize>(
                x: &Activations,
                c: usize,
                column: usize,
                span: [usize; 2],
                scratch: &mut Scratch,
            ) {
                // SAFETY: passed on to the caller.
                unsafe { expanded::<S, $dot, N>(x, c, column, span, scratch) };
            }

            #[target_feature(enable = $features)]
            unsafe fn write<S: Shape>(
                scratch: &mut Scratch,
                part: &Part<'_>,
                groups: Range<usize>,
                lanes: usize,
            ) {
                // SAFETY: passed on to the caller.
                unsafe { scratch.write::<S, <$dot as Dot>::Width>(part, groups, lanes) };
            }
        }
    };
}

wrap!(avx2, "avx2,fma,f16c", Avx2, Avx2, 2, [1, 2, 3]);
wrap!(avxvnni, "avx2,fma,f16c,avxvnni", Vnni, Vnni, 2, [1, 2, 3]);
wrap!(
    avx512vl,
    "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni",
    Vnni512,
    Vnni256,
    2,
    [1, 2, 3, 4, 5, 6, 7, 8]
);

/// Expands a packed group through `Encoding::tile`.
///
/// # Safety
/// As `Scratch::put`, for all tiles of the group.
#[inline(always)]
unsafe fn expand_generic(
    encoding: &Encoding,
    group: &[u8],
    lane: usize,
    lanes: usize,
    biased: bool,
    scratch: &mut Scratch,
) {
    each_tile(encoding, group, |t, rows| {
        // SAFETY: each load reads an array of 32 bytes; the rest is the caller's promise.
        unsafe {
            let floats = |from: &[[f32; GROUP]; 2]| from.map(|eight| _mm256_loadu_ps(eight.as_ptr()));
            let codes = rows.codes.map(|four| _mm256_loadu_si256(four.as_ptr().cast()));
            let mut regs = Regs::<Narrow> { codes, scale: floats(&rows.scale), min: floats(&rows.min) };
            bias_codes::<Generic, Narrow>(biased, &mut regs.codes);
            scratch.put::<Generic, Narrow>(t, lane, lanes, &regs);
        }
    });
}

/// The kernels for encoding `E` on `isa`, for activations that are `woven` into panels or not.
fn of<E: Expand>(isa: Isa, woven: bool) -> Kernels {
    match isa {
        Isa::Avx512 => paneled::<E>(avx512vl::of::<E>(), woven),
        Isa::AvxVnni => avxvnni::of::<E>(),
        _ => avx2::of::<E>(),
    }
}

/// The kernels for encodings without a vector form.
fn generic(isa: Isa, woven: bool) -> Kernels {
    match isa {
        Isa::Avx512 => paneled::<Generic>(avx512vl::generic(), woven),
        Isa::AvxVnni => avxvnni::generic(),
        _ => avx2::generic(),
    }
}

/// `kernels`, but with columns from panels where the activations are `woven`.
fn paneled<S: Shape>(kernels: Kernels, woven: bool) -> Kernels {
    if !woven {
        return kernels;
    }
    let columns = by_columns!(avx512::paneled<S, 1>);
    let twice = Some(by_columns!(avx512::paneled<S, 2>));
    Kernels { columns, twice, span: SPAN, ..kernels }
}

/// Computes `part` on `isa`.
///
/// # Safety
/// `layout::is_sound` holds, the part lies inside the product, no other task computes it, and the processor
/// has `isa`, which is not `Scalar`.
pub unsafe fn matmul(isa: Isa, part: &Part<'_>, x: &Activations) {
    if let Some(kind) = layout::float(part.weight.encoding) {
        // SAFETY: passed on to the caller.
        return unsafe { float::run(kind, part, x) };
    }
    let kernels = by_encoding!(part.weight.encoding, of, generic, (isa, !x.panels.is_empty()));
    let columns = part.columns.clone();
    if (1..=kernels.passes * kernels.direct.len()).contains(&columns.len()) {
        return in_passes(part, kernels.direct.len(), kernels.lanes, |part, c, n| {
            // SAFETY: the columns and groups are in the part; a pass has at most as many columns as there are forms.
            unsafe { kernels.direct[n - 1](part, x, c) };
        });
    }
    let most = if kernels.twice.is_some() { 2 * kernels.lanes } else { kernels.lanes };
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.reserve(most, kernels.span, columns.len());
        let mut g = part.groups.start;
        while g < part.groups.end {
            let left = part.groups.end - g;
            let (multiply, lanes) = match kernels.twice {
                Some(twice) if left > kernels.lanes => (twice, most),
                _ => (kernels.columns, kernels.lanes),
            };
            let groups = g..g + lanes.min(left);
            // SAFETY: the groups are in the part; room was reserved for them.
            unsafe { multiply_groups(&kernels, &multiply, part, x, groups.clone(), lanes, scratch) };
            g = groups.end;
        }
    });
}

/// Computes `part` straight from the planes of divided weights, where that is faster than to join them first; else does
/// nothing and says so.
///
/// # Safety
/// As [`matmul`]; `first` and `second` hold the planes of all rows.
pub unsafe fn matmul_divided(
    isa: Isa,
    part: &Part<'_>,
    first: &[u8],
    second: Option<&[u8]>,
    x: &Activations,
) -> bool {
    let form = part.weight.encoding.division.map(|division| division.form);
    let (direct, passes) = match (form, second) {
        (Some(Form::Q8_0), Some(_)) => divided::<Q8Both>(isa),
        (Some(Form::Q8_0), None) => divided::<Q8First>(isa),
        (Some(Form::Q4_1), Some(_)) => divided::<Q4Both>(isa),
        // The offsets of its coarse form are rounded.
        _ => return false,
    };
    if part.columns.len() > passes * direct.len() {
        return false;
    }
    in_passes(part, direct.len(), GROUPS_OF_A_PASS, |part, c, n| {
        // SAFETY: the columns and groups are in the part; a pass has at most as many columns as there are forms.
        unsafe { direct[n - 1](part, [first, second.unwrap_or_default()], x, c) };
    });
    true
}

/// Row groups that several passes take together, which stay in the first caches meanwhile.
const GROUPS_OF_A_PASS: usize = 2;

fn divided<E: Divided>(isa: Isa) -> (&'static [DirectDivided], usize) {
    match isa {
        Isa::Avx512 => avx512vl::divided::<E>(),
        Isa::AvxVnni => avxvnni::divided::<E>(),
        _ => avx2::divided::<E>(),
    }
}

/// Calls `multiply` with parts of `part`, a first column and a number of columns of at most `most`: with all row groups
/// where one pass does, else with `together` of them, over which it makes all passes.
fn in_passes(part: &Part<'_>, most: usize, together: usize, multiply: impl Fn(&Part<'_>, usize, usize)) {
    let Range { start, end } = part.columns;
    let passes = (end - start).div_ceil(most);
    let step = if passes > 1 { together } else { part.groups.len().max(1) };
    for g in part.groups.clone().step_by(step) {
        let part = Part { groups: g..(g + step).min(part.groups.end), ..part.clone() };
        let mut c = start;
        for left in (1..=passes).rev() {
            let n = (end - c).div_ceil(left);
            multiply(&part, c, n);
            c += n;
        }
    }
}

/// All columns of `part` times `groups`, at most `lanes`, span by span.
///
/// # Safety
/// As [`matmul`]; `scratch` has room for `lanes` row groups and all columns.
unsafe fn multiply_groups(
    kernels: &Kernels,
    multiply: &[Expanded; COLUMNS],
    part: &Part<'_>,
    x: &Activations,
    groups: Range<usize>,
    lanes: usize,
    scratch: &mut Scratch,
) {
    let encoding = part.weight.encoding;
    let span = kernels.span;
    let span_bytes = span * TILE / encoding.block_len * encoding.block_bytes * GROUP;
    for first in (0..x.tiles()).step_by(span) {
        let count = span.min(x.tiles() - first);
        for (lane, g) in groups.clone().enumerate().step_by(kernels.lanes) {
            let blocks = pair(part, g).map(|g| g.chunks(span_bytes).nth(first / span).unwrap_or_default());
            // SAFETY: a span's blocks are at most `span` tiles; lanes are a multiple of a vector's.
            unsafe { (kernels.expand)(encoding, blocks, lane, lanes, scratch) };
        }
        let mut column = 0;
        while column < part.columns.len() {
            let c = part.columns.start + column;
            // No step crosses the end of a panel, and steps are as equal as they can be: five are three and two.
            let left = (WIDTH - c % WIDTH).min(part.columns.len() - column);
            let n = left.div_ceil(left.div_ceil(COLUMNS));
            // SAFETY: the scratch holds the span; columns c .. c + n are in the part, room was reserved.
            unsafe { multiply[n - 1](x, c, column, [first, count], scratch) };
            column += n;
        }
    }
    // SAFETY: passed on to the caller.
    unsafe { (kernels.write)(scratch, part, groups, lanes) };
}

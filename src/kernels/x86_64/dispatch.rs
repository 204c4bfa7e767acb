//! From an encoding and an instruction set to the functions that compute.

use std::arch::x86_64::*;
use std::cell::RefCell;

use super::expand::{
    Expand, Generic, Iq4Nl, Iq4Xs, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Regs, Shape,
};
use super::matmul::{Avx2, Vnni, Vnni512, direct, expand, expanded};
use super::scratch::Scratch;
use super::{avx512, float};
use crate::kernels::backend::Activations;
use crate::kernels::cpu::Isa;
use crate::kernels::encoding::{Encoding, TILE, Tile};
use crate::kernels::layout::{self, GROUP, Part};
use crate::kernels::pack::gather_block;
use crate::kernels::panel::{DIRECT, SPAN, WIDTH};

thread_local! {
    /// One expanded span of row groups, kept between tasks.
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// Columns `c ..` of a part, straight from the packed bytes.
type Direct = unsafe fn(&Part<'_>, &Activations, usize);
/// Whole blocks of a row group to lane (the first number) of so many (the second).
type ExpandInto = unsafe fn(&Encoding, &[u8], usize, usize, &mut Scratch);
/// An expanded span (first tile and tiles) times columns, the first number their place in the input, the
/// second that of their accumulators.
type Expanded = unsafe fn(&Activations, usize, usize, [usize; 2], &mut Scratch);

/// Columns that are multiplied at a time with an expanded span.
const COLUMNS: usize = 4;

/// What multiplies one encoding on one instruction set.
struct Kernels {
    /// One, two and three columns straight from the packed bytes, where the encoding has a vector form.
    direct: Option<[Direct; DIRECT]>,
    expand: ExpandInto,
    /// Row groups that make a vector: one of 256 bits, two of 512.
    lanes: usize,
    /// Up to [`COLUMNS`] columns times one span of that many row groups.
    columns: [Expanded; COLUMNS],
    /// The same for twice as many, where the registers hold them.
    twice: Option<[Expanded; COLUMNS]>,
}

/// Wraps the generic bodies in functions with the target features of one instruction set.
macro_rules! wrap {
    ($module:ident, $features:literal, $dot:ty) => {
        mod $module {
            use super::*;

            const BIASED: bool = <$dot as super::super::matmul::Dot>::BIASED;

            #[target_feature(enable = $features)]
            pub unsafe fn direct_columns<E: Expand, const N: usize>(
                part: &Part<'_>,
                x: &Activations,
                c: usize,
            ) {
                // SAFETY: passed on to the caller.
                unsafe { direct::<E, $dot, N>(part, x, c) };
            }

            #[target_feature(enable = $features)]
            pub unsafe fn expand_blocks<E: Expand>(
                _: &Encoding,
                blocks: &[u8],
                lane: usize,
                lanes: usize,
                scratch: &mut Scratch,
            ) {
                // SAFETY: passed on to the caller.
                unsafe { expand::<E>(blocks, lane, lanes, BIASED, scratch) };
            }

            #[target_feature(enable = $features)]
            pub unsafe fn expand_any(
                encoding: &Encoding,
                blocks: &[u8],
                lane: usize,
                lanes: usize,
                scratch: &mut Scratch,
            ) {
                // SAFETY: passed on to the caller.
                unsafe { expand_generic(encoding, blocks, lane, lanes, BIASED, scratch) };
            }

            #[target_feature(enable = $features)]
            pub unsafe fn columns<S: Shape, const N: usize>(
                x: &Activations,
                c: usize,
                column: usize,
                span: [usize; 2],
                scratch: &mut Scratch,
            ) {
                // SAFETY: passed on to the caller.
                unsafe { expanded::<S, $dot, N>(x, c, column, span, scratch) };
            }
        }
    };
}

wrap!(avx2, "avx2,fma,f16c", Avx2);
wrap!(avxvnni, "avx2,fma,f16c,avxvnni", Vnni);
wrap!(avx512vl, "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", Vnni512);

/// The instances of a function for each number of columns.
macro_rules! by_columns {
    ($($function:ident)::+ < $($argument:tt),+ >) => {
        [$($function)::+::<$($argument),+, 1> as Expanded, $($function)::+::<$($argument),+, 2>,
         $($function)::+::<$($argument),+, 3>, $($function)::+::<$($argument),+, 4>]
    };
}

/// The [`Kernels`] of shape `$shape` on `$isa`; `$direct` and `$expand` are taken from the module named there.
macro_rules! kernels {
    ($isa:expr, $woven:expr, $shape:ident, |$module:ident| ($direct:expr, $expand:expr)) => {
        match $isa {
            Isa::Avx512 => {
                use avx512vl as $module;
                let (direct, expand) = ($direct, $expand);
                if $woven {
                    let columns = by_columns!(avx512::paneled<$shape, 1>);
                    let twice = Some(by_columns!(avx512::paneled<$shape, 2>));
                    Kernels { direct, expand, lanes: 2, columns, twice }
                } else {
                    let columns = by_columns!(avx512vl::columns<$shape>);
                    Kernels { direct, expand, lanes: 1, columns, twice: None }
                }
            }
            Isa::AvxVnni => {
                use avxvnni as $module;
                let columns = by_columns!(avxvnni::columns<$shape>);
                Kernels { direct: $direct, expand: $expand, lanes: 1, columns, twice: None }
            }
            _ => {
                use avx2 as $module;
                let columns = by_columns!(avx2::columns<$shape>);
                Kernels { direct: $direct, expand: $expand, lanes: 1, columns, twice: None }
            }
        }
    };
}

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
    let Some(decode) = encoding.tile else { return };
    let per_block = encoding.block_len / TILE;
    let mut rows = vec![0; encoding.block_bytes * GROUP];
    for (b, packed) in group.chunks_exact(encoding.block_bytes * GROUP).enumerate() {
        for (r, row) in rows.chunks_exact_mut(encoding.block_bytes).enumerate() {
            gather_block(encoding, packed, r, row);
        }
        for t in 0..per_block {
            let mut codes = [[[0i8; 4]; GROUP]; 8];
            let (mut scale, mut min) = ([[0.0f32; GROUP]; 2], [[0.0f32; GROUP]; 2]);
            for (r, row) in rows.chunks_exact(encoding.block_bytes).enumerate() {
                let mut tile = Tile { code: [0; TILE], scale: [0.0; 2], min: [0.0; 2] };
                decode(row, t, &mut tile);
                for (vector, four) in codes.iter_mut().zip(tile.code.chunks_exact(4)) {
                    vector[r].copy_from_slice(four);
                }
                for h in 0..2 {
                    scale[h][r] = tile.scale[h];
                    min[h][r] = tile.min[h];
                }
            }
            // SAFETY: each load reads an array of 32 bytes; the rest is the caller's promise.
            unsafe {
                let zero = _mm256_setzero_ps();
                let mut regs = Regs { codes: [_mm256_setzero_si256(); 8], scale: [zero; 2], min: [zero; 2] };
                for (to, from) in regs.codes.iter_mut().zip(&codes) {
                    *to = _mm256_loadu_si256(from.as_ptr().cast());
                }
                for h in 0..2 {
                    regs.scale[h] = _mm256_loadu_ps(scale[h].as_ptr());
                    regs.min[h] = _mm256_loadu_ps(min[h].as_ptr());
                }
                super::matmul::bias_codes::<Generic>(biased, &mut regs.codes);
                scratch.put::<Generic>(b * per_block + t, lane, lanes, &regs);
            }
        }
    }
}

/// The kernels for encoding `E` on `isa`.
fn of<E: Expand>(isa: Isa, woven: bool) -> Kernels {
    kernels!(isa, woven, E, |set| (
        Some([
            set::direct_columns::<E, 1> as Direct,
            set::direct_columns::<E, 2>,
            set::direct_columns::<E, 3>
        ]),
        set::expand_blocks::<E>
    ))
}

/// The kernels for encodings without a vector form.
fn generic(isa: Isa, woven: bool) -> Kernels {
    kernels!(isa, woven, Generic, |set| (None, set::expand_any))
}

/// The kernels for `encoding` on `isa`, for activations that are `woven` into panels or not.
fn select(encoding: &Encoding, isa: Isa, woven: bool) -> Kernels {
    match encoding.name {
        "q4_0" => of::<Q4_0>(isa, woven),
        "q4_1" => of::<Q4_1>(isa, woven),
        "q5_0" => of::<Q5_0>(isa, woven),
        "q5_1" => of::<Q5_1>(isa, woven),
        "q8_0" => of::<Q8_0>(isa, woven),
        "q2_k" => of::<Q2K>(isa, woven),
        "q3_k" => of::<Q3K>(isa, woven),
        "q4_k" => of::<Q4K>(isa, woven),
        "q5_k" => of::<Q5K>(isa, woven),
        "q6_k" => of::<Q6K>(isa, woven),
        "iq4_nl" => of::<Iq4Nl>(isa, woven),
        "iq4_xs" => of::<Iq4Xs>(isa, woven),
        _ => generic(isa, woven),
    }
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
    let kernels = select(part.weight.encoding, isa, !x.panels.is_empty());
    let columns = part.columns.clone();
    if let (Some(direct), 1..=DIRECT) = (kernels.direct, columns.len()) {
        // SAFETY: passed on to the caller.
        return unsafe { direct[columns.len() - 1](part, x, columns.start) };
    }
    let most = if kernels.twice.is_some() { 2 * kernels.lanes } else { kernels.lanes };
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.reserve(most, columns.len());
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

/// All columns of `part` times `groups`, at most `lanes`, span by span.
///
/// # Safety
/// As [`matmul`]; `scratch` has room for `lanes` row groups and all columns.
unsafe fn multiply_groups(
    kernels: &Kernels,
    multiply: &[Expanded; COLUMNS],
    part: &Part<'_>,
    x: &Activations,
    groups: std::ops::Range<usize>,
    lanes: usize,
    scratch: &mut Scratch,
) {
    let encoding = part.weight.encoding;
    let span_bytes = SPAN * TILE / encoding.block_len * encoding.block_bytes * GROUP;
    for first in (0..x.tiles()).step_by(SPAN) {
        let count = SPAN.min(x.tiles() - first);
        for (lane, g) in groups.clone().enumerate() {
            let blocks = part.group(g).chunks(span_bytes).nth(first / SPAN).unwrap_or_default();
            // SAFETY: a span's blocks are at most SPAN tiles; lane < lanes.
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
    let min = layout::scheme(encoding).min;
    // SAFETY: passed on to the caller.
    unsafe { scratch.write(part, groups, lanes, min) };
}

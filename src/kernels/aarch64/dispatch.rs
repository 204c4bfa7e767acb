//! From an encoding and an instruction set to the functions that compute.

use std::cell::RefCell;

use super::expand::Expand;
use super::matmul::{Accumulators, Neon, NeonDot, direct, expand, expanded};
use super::{float, vector};
use crate::kernels::backend::Activations;
use crate::kernels::cpu::Isa;
use crate::kernels::encoding::{Encoding, TILE};
use crate::kernels::layout::{self, GROUP, Part};
use crate::kernels::panel::SPAN;
use crate::kernels::rows::{Rows, each_tile};
use crate::kernels::shape::{Generic, Shape, by_encoding};
use crate::kernels::vector::Vector;

/// Memory of a thread, kept between tasks.
struct Scratch {
    /// One expanded span of a row group.
    tiles: [Rows; SPAN],
    /// Of each column.
    sums: Vec<Accumulators>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        const { RefCell::new(Scratch { tiles: [Rows::ZERO; SPAN], sums: Vec::new() }) };
}

/// Columns ahead of the one that is written whose place is asked for: columns lie far apart.
const AHEAD: usize = 12;

/// Columns `c ..` of a part, straight from the packed bytes.
type Direct = unsafe fn(&Part<'_>, &Activations, usize);
/// Columns from the first number on, as many as there are accumulators, times expanded tiles, whose first is the
/// second number's of its group.
type Expanded = unsafe fn(&Activations, usize, usize, &[Rows], &mut [Accumulators]);

/// What multiplies one encoding on one instruction set.
struct Kernels {
    /// One, two and three columns straight from the packed bytes, where the encoding has a vector form.
    direct: Option<[Direct; 3]>,
    /// Expands whole blocks of a row group.
    expand: unsafe fn(&Encoding, &[u8], &mut [Rows]),
    /// One column, two and so on times an expanded span: as many as the registers hold.
    columns: &'static [Expanded],
}

#[target_feature(enable = "neon")]
unsafe fn expand_blocks<E: Expand>(_: &Encoding, blocks: &[u8], tiles: &mut [Rows]) {
    // SAFETY: passed on to the caller.
    unsafe { expand::<E>(blocks, tiles) };
}

/// Expands whole blocks of a row group through `Encoding::tile`.
fn expand_any(encoding: &Encoding, blocks: &[u8], tiles: &mut [Rows]) {
    each_tile(encoding, blocks, |t, rows| tiles[t] = *rows);
}

/// Wraps the generic bodies in functions with the target features of one instruction set.
macro_rules! wrap {
    ($module:ident, $features:literal, $dot:ty, [$($columns:literal),+]) => {
        mod $module {
            use super::*;

            #[target_feature(enable = $features)]
            unsafe fn direct_columns<E: Expand, const N: usize>(part: &Part<'_>, x: &Activations, c: usize) {
                // SAFETY: passed on to the caller.
                unsafe { direct::<E, $dot, N>(part, x, c) };
            }

            #[target_feature(enable = $features)]
            unsafe fn columns<S: Shape, const N: usize>(
                x: &Activations,
                c: usize,
                first: usize,
                tiles: &[Rows],
                sums: &mut [Accumulators],
            ) {
                if let Ok(sums) = <&mut [Accumulators; N]>::try_from(sums) {
                    // SAFETY: passed on to the caller.
                    unsafe { expanded::<S, $dot, N>(x, c, first, tiles, sums) };
                }
            }

            pub fn of<E: Expand>() -> Kernels {
                let direct =
                    Some([direct_columns::<E, 1> as Direct, direct_columns::<E, 2>, direct_columns::<E, 3>]);
                let columns = const { &[$(columns::<E, $columns> as Expanded),+] };
                Kernels { direct, expand: expand_blocks::<E>, columns }
            }

            pub fn generic() -> Kernels {
                let columns = const { &[$(columns::<Generic, $columns> as Expanded),+] };
                Kernels { direct: None, expand: expand_any, columns }
            }
        }
    };
}

wrap!(neon, "neon", Neon, [1, 2]);
wrap!(neondot, "neon,dotprod", NeonDot, [1, 2, 3, 4]);

/// The kernels for encoding `E` on `isa`.
fn of<E: Expand>(isa: Isa) -> Kernels {
    if isa == Isa::NeonDot { neondot::of::<E>() } else { neon::of::<E>() }
}

/// The kernels for encodings without a vector form.
fn generic(isa: Isa) -> Kernels {
    if isa == Isa::NeonDot { neondot::generic() } else { neon::generic() }
}

/// Computes `part` on `isa`.
///
/// # Safety
/// `layout::is_sound` holds, the part lies inside the product, no other task computes it, and the processor
/// has `isa`, which is not `Scalar`.
pub unsafe fn matmul(isa: Isa, part: &Part<'_>, x: &Activations) {
    let encoding = part.weight.encoding;
    if let Some(kind) = layout::float(encoding) {
        // SAFETY: passed on to the caller.
        return unsafe { float::run(kind, part, x) };
    }
    let kernels = by_encoding!(encoding, of, generic, (isa));
    let columns = part.columns.clone();
    if let (Some(direct), 1..=3) = (kernels.direct, columns.len()) {
        // SAFETY: passed on to the caller.
        return unsafe { direct[columns.len() - 1](part, x, columns.start) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        for g in part.groups.clone() {
            // SAFETY: passed on to the caller; the group is in the part.
            unsafe { multiply_group(&kernels, part, x, g, scratch) };
        }
    });
}

/// All columns of `part` times group `g`, span by span.
///
/// # Safety
/// As [`matmul`]; the group is in the part.
unsafe fn multiply_group(
    kernels: &Kernels,
    part: &Part<'_>,
    x: &Activations,
    g: usize,
    scratch: &mut Scratch,
) {
    let encoding = part.weight.encoding;
    let Scratch { tiles, sums } = scratch;
    sums.clear();
    sums.resize(part.columns.len(), Accumulators::ZERO);
    let span_bytes = SPAN * TILE / encoding.block_len * encoding.block_bytes * GROUP;
    for (span, blocks) in part.group(g).chunks(span_bytes).enumerate() {
        let first = span * SPAN;
        let tiles = &mut tiles[..SPAN.min(x.tiles() - first)];
        // SAFETY: passed on to the caller.
        unsafe { (kernels.expand)(encoding, blocks, tiles) };
        let (mut c, mut sums) = (part.columns.start, &mut sums[..]);
        while !sums.is_empty() {
            // Steps are as equal as they can be: five are three and two.
            let n = sums.len().div_ceil(sums.len().div_ceil(kernels.columns.len()));
            let (now, rest) = std::mem::take(&mut sums).split_at_mut(n);
            // SAFETY: columns c .. c + n are in the part, and have the tiles that a group has.
            unsafe { kernels.columns[n - 1](x, c, first, tiles, now) };
            (c, sums) = (c + n, rest);
        }
    }
    let min = encoding.scheme.min;
    for (c, sums) in part.columns.clone().zip(sums) {
        // SAFETY: passed on to the caller; a prefetch may name any address.
        unsafe {
            vector::Neon::prefetch(part.place(g, c + AHEAD).cast());
            part.store(g, c, &sums.total(min));
        }
    }
}

//! From an encoding and an instruction set to the functions that compute.

use std::cell::RefCell;

use super::expand::Expand;
use super::float;
use super::matmul::{DIRECT, Dot, Neon, NeonDot, direct, expand, expanded};
use crate::kernels::backend::Activations;
use crate::kernels::cpu::Isa;
use crate::kernels::encoding::Encoding;
use crate::kernels::layout::{self, Part};
use crate::kernels::rows::{Rows, each_tile};
use crate::kernels::shape::{Generic, Shape, by_encoding};

thread_local! {
    /// One expanded row group, kept between tasks.
    static SCRATCH: RefCell<Vec<Rows>> = const { RefCell::new(Vec::new()) };
}

/// Columns `c ..` of a part, straight from the packed bytes.
type Direct = unsafe fn(&Part<'_>, &Activations, usize);
/// An expanded group (the first number) times columns from the second number on.
type Expanded = unsafe fn(&Part<'_>, &Activations, usize, usize, &[Rows]);

/// What multiplies one encoding on one instruction set.
struct Kernels {
    /// One, two and three columns straight from the packed bytes, where the encoding has a vector form.
    direct: Option<[Direct; DIRECT]>,
    /// Expands a group.
    expand: unsafe fn(&Encoding, &[u8], &mut [Rows]),
    /// Columns of `wide`.
    width: usize,
    /// An expanded group times `width` columns, and times one.
    wide: Expanded,
    narrow: Expanded,
}

#[target_feature(enable = "neon")]
unsafe fn expand_group<E: Expand>(_: &Encoding, group: &[u8], tiles: &mut [Rows]) {
    // SAFETY: passed on to the caller.
    unsafe { expand::<E>(group, tiles) };
}

/// Expands a packed group through `Encoding::tile`.
fn expand_any(encoding: &Encoding, group: &[u8], tiles: &mut [Rows]) {
    each_tile(encoding, group, |t, rows| tiles[t] = *rows);
}

/// Wraps the generic bodies in functions with the target features of one instruction set.
macro_rules! wrap {
    ($module:ident, $features:literal, $dot:ty) => {
        mod $module {
            use super::*;

            #[target_feature(enable = $features)]
            unsafe fn direct_columns<E: Expand, const N: usize>(part: &Part<'_>, x: &Activations, c: usize) {
                // SAFETY: passed on to the caller.
                unsafe { direct::<E, $dot, N>(part, x, c) };
            }

            #[target_feature(enable = $features)]
            unsafe fn columns<S: Shape, const N: usize>(
                part: &Part<'_>,
                x: &Activations,
                g: usize,
                c: usize,
                tiles: &[Rows],
            ) {
                // SAFETY: passed on to the caller.
                unsafe { expanded::<S, $dot, N>(part, x, g, c, tiles) };
            }

            const WIDTH: usize = <$dot as Dot>::WIDTH;

            pub fn of<E: Expand>() -> Kernels {
                let direct =
                    Some([direct_columns::<E, 1> as Direct, direct_columns::<E, 2>, direct_columns::<E, 3>]);
                let (wide, narrow) = (columns::<E, WIDTH>, columns::<E, 1>);
                Kernels { direct, expand: expand_group::<E>, width: WIDTH, wide, narrow }
            }

            pub fn generic() -> Kernels {
                let (wide, narrow) = (columns::<Generic, WIDTH>, columns::<Generic, 1>);
                Kernels { direct: None, expand: expand_any, width: WIDTH, wide, narrow }
            }
        }
    };
}

wrap!(neon, "neon", Neon);
wrap!(neondot, "neon,dotprod", NeonDot);

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
    let kernels = by_encoding!(encoding, of, generic, isa);
    let columns = part.columns.clone();
    if let (Some(direct), 1..=DIRECT) = (kernels.direct, columns.len()) {
        // SAFETY: passed on to the caller.
        return unsafe { direct[columns.len() - 1](part, x, columns.start) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let room = scratch.len().max(x.tiles());
        scratch.resize(room, Rows::ZERO);
        let tiles = &mut scratch[..x.tiles()];
        for g in part.groups.clone() {
            // SAFETY: passed on to the caller.
            unsafe { (kernels.expand)(encoding, part.group(g), tiles) };
            let mut c = columns.start;
            while c < columns.end {
                let wide = columns.end - c >= kernels.width;
                let multiply = if wide { kernels.wide } else { kernels.narrow };
                // SAFETY: the scratch holds the group; columns c .. c + width are in the part.
                unsafe { multiply(part, x, g, c, tiles) };
                c += if wide { kernels.width } else { 1 };
            }
        }
    });
}

//! Expanded row groups and the accumulators of their columns: memory of a thread, kept between tasks.

use std::arch::x86_64::*;
use std::ops::Range;

use super::expand::Regs;
use super::width::Width;
use crate::kernels::layout::{GROUP, Part};
use crate::kernels::shape::Shape;

/// Columns ahead of the one that is written whose place is asked for: columns lie far apart, each write alone
/// would wait for memory.
const AHEAD: usize = 12;

/// 64 aligned bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A span of tiles of `lanes` row groups, woven together vector by vector: codes as vectors, scales and
/// offsets as f32; and two accumulators, of products and of offsets, for each column and group.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Per tile eight vectors of codes of each lane.
    codes: Vec<Line>,
    /// Per tile, half and lane: scales, then the lanes' offsets.
    floats: Vec<Line>,
    /// Per column the products of all lanes, then the offsets.
    sums: Vec<Line>,
}

impl Scratch {
    /// Makes room for `span` tiles of `lanes` row groups times `columns` columns, zero where never written.
    pub fn reserve(&mut self, lanes: usize, span: usize, columns: usize) {
        let room = |lines: &mut Vec<Line>, vectors: usize| {
            let len = vectors.div_ceil(2);
            if lines.len() < len {
                lines.resize(len, Line([0; 64]));
            }
        };
        room(&mut self.codes, span * 8 * lanes);
        room(&mut self.floats, span * 4 * lanes);
        room(&mut self.sums, columns * 2 * lanes);
    }

    /// The codes, in units of a vector.
    #[inline(always)]
    pub fn codes<V>(&mut self) -> *mut V {
        self.codes.as_mut_ptr().cast()
    }

    /// Scales of half `h` of tile `t` begin at 256-bit vector `(4 t + 2 h) * lanes`, offsets `lanes` later.
    #[inline(always)]
    pub fn floats<V>(&mut self) -> *mut V {
        self.floats.as_mut_ptr().cast()
    }

    /// Accumulators of the columns from `column` on: per column `lanes` 256-bit vectors of products, then as
    /// many of offsets.
    ///
    /// # Safety
    /// `reserve` was called for more than `column` columns of `lanes` groups.
    #[inline(always)]
    pub unsafe fn sums<V>(&mut self, column: usize, lanes: usize) -> *mut V {
        // SAFETY: inside the buffer by the caller's promise.
        unsafe { self.sums.as_mut_ptr().cast::<__m256>().add(2 * lanes * column).cast() }
    }

    /// Writes tile `t` of lanes `lane ..` of `lanes`.
    ///
    /// # Safety
    /// `reserve` was called for `lanes` and more than `t` tiles, the lanes of a vector fit and are a multiple of its groups,
    /// the instructions of `W` are there.
    #[inline(always)]
    pub unsafe fn put<S: Shape, W: Width>(&mut self, t: usize, lane: usize, lanes: usize, regs: &Regs<W>) {
        let (lane, lanes) = (lane / W::GROUPS, lanes / W::GROUPS);
        // SAFETY: inside the buffers by the caller's promise.
        unsafe {
            for (i, code) in regs.codes.iter().enumerate() {
                *self.codes::<W::Int>().add((8 * t + i) * lanes + lane) = *code;
            }
            for h in 0..if S::HALVES { 2 } else { 1 } {
                let at = (4 * t + 2 * h) * lanes + lane;
                *self.floats::<W::Float>().add(at) = regs.scale[h];
                if S::MIN {
                    *self.floats::<W::Float>().add(at + lanes) = regs.min[h];
                }
            }
        }
    }

    /// Adds the two accumulators (with `MIN`) and writes the results of row groups `groups`, lane by lane of
    /// `lanes`, for all columns of `part`.
    ///
    /// # Safety
    /// `reserve` was called for `lanes` and the part's columns; the task owns the groups of these columns; the
    /// instructions of `W` are there.
    #[inline(always)]
    pub unsafe fn write<S: Shape, W: Width>(&mut self, part: &Part<'_>, groups: Range<usize>, lanes: usize) {
        for (i, c) in part.columns.clone().enumerate() {
            // SAFETY: inside the buffer by the caller's promise, which also covers `store`.
            unsafe {
                let sums = self.sums::<W::Float>(i, lanes);
                for (vector, g) in groups.clone().step_by(W::GROUPS).enumerate() {
                    W::prefetch_output(part.place(g, c + AHEAD));
                    let products = *sums.add(vector);
                    let total = if S::MIN {
                        W::add(products, *sums.add(vector + lanes / W::GROUPS))
                    } else {
                        products
                    };
                    store::<W>(part, g..groups.end, c, total);
                }
            }
        }
    }
}

/// Writes the results of the row groups of a vector, at most those of `groups`, for one column.
///
/// # Safety
/// As `Part::store` for each of them; the instructions of `W` are there.
#[inline(always)]
pub unsafe fn store<W: Width>(part: &Part<'_>, groups: Range<usize>, column: usize, total: W::Float) {
    let first = groups.start * GROUP;
    let whole =
        part.target.bias.is_none() && first + W::GROUPS * GROUP <= part.weight.rows.min(groups.end * GROUP);
    // SAFETY: passed on to the caller; `Cpu` checked that the output is `[n, rows]`.
    unsafe {
        if whole {
            let out = part
                .target
                .out
                .part(column * part.target.rows + part.target.first + first, W::GROUPS * GROUP);
            return W::store(out.as_mut_ptr(), total);
        }
        for (g, rows) in groups.zip(W::rows(total).iter().take(W::GROUPS)) {
            part.store(g, column, rows);
        }
    }
}

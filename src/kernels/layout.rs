//! What the kernels must know of packed data: strides, soundness, and the parts that
//! tasks write.

use super::backend::{Activations, Piece, Product};
use super::encoding::{Encoding, TILE};
use super::memory::make_room;
pub(super) use super::pack::GROUP;
use crate::error::Result;

/// Bytes of one packed group of eight rows of `cols` elements.
pub(super) fn group_bytes(encoding: &Encoding, cols: usize) -> usize {
    cols / encoding.block_len * encoding.block_bytes * GROUP
}

/// How a float encoding's elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Float {
    F32,
    F16,
    Bf16,
}

/// The float type of `encoding`, if it is one of the three that are not multiplied as integers.
pub(super) fn float(encoding: &Encoding) -> Option<Float> {
    match encoding.name {
        "f32" => Some(Float::F32),
        "f16" => Some(Float::F16),
        "bf16" => Some(Float::Bf16),
        _ => None,
    }
}

/// A packed weight matrix: rows in groups of [`GROUP`], see [`super::pack`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix<'a> {
    /// The encoding of every row.
    pub encoding: &'static Encoding,
    /// Output features.
    pub rows: usize,
    /// Input features (k).
    pub cols: usize,
    /// `pack::packed_len(encoding, rows, cols)` bytes.
    pub data: &'a [u8],
}

/// Whether `weight` is what a kernel may read: k of the activations, enough bytes, whole blocks, and an
/// encoding that has an integer form or is a float. Everything unsafe relies on it.
fn is_sound(weight: &Piece<'_>, x: &Activations) -> bool {
    let e = weight.encoding;
    let form = match float(e) {
        Some(f) => e.block_len == 1 && e.block_bytes == if f == Float::F32 { 4 } else { 2 },
        None => e.tile.is_some() && e.block_len.is_multiple_of(TILE),
    };
    form && weight.cols == x.k
        && weight.cols.is_multiple_of(e.block_len)
        && weight.planes.hold(e, weight.rows, weight.cols)
        && x.is_sound()
}

impl Product<'_> {
    /// Whether kernels may read its pieces and write their rows: each sound, by ascending rows, inside the output.
    pub(super) fn is_sound(&self, x: &Activations) -> bool {
        let mut end = 0;
        let mut in_order = |piece: &Piece<'_>| {
            let begin = std::mem::replace(&mut end, piece.first.saturating_add(piece.rows));
            piece.first.is_multiple_of(GROUP) && begin <= piece.first && end <= self.rows
        };
        self.rows.checked_mul(x.n) == Some(self.out.len())
            && self.bias.is_none_or(|bias| bias.len() == self.rows)
            && self.pieces.iter().all(|piece| is_sound(piece, x) && in_order(piece))
    }
}

impl Activations {
    /// Tiles of a row.
    pub(super) fn tiles(&self) -> usize {
        self.k.div_ceil(TILE)
    }

    /// Whether every buffer has the length that `n` and `k` demand.
    pub(super) fn is_sound(&self) -> bool {
        let tiles = self.n * self.tiles();
        self.values.len() == self.n * self.k
            && self.codes.len() == tiles * TILE
            && [self.scales.len(), self.offsets.len(), self.sums.len()] == [tiles; 3]
            && [self.half_offsets.len(), self.half_sums.len()] == [2 * tiles; 2]
            && (self.panels.is_empty() || self.panels.len() == self.panel_count())
    }

    /// Makes room for `n` rows of `k` elements and for `panels`, so that [`resize`](Self::resize) to them, or to
    /// less, allocates nothing. Where a buffer had less room, what it held is gone.
    ///
    /// # Errors
    /// [`crate::Error::Limit`] where the system has no memory for them.
    pub(super) fn reserve(&mut self, n: usize, k: usize, panels: usize) -> Result<()> {
        // What it held may be incomplete from here on.
        (self.n, self.k) = (0, 0);
        let tiles = n.saturating_mul(k.div_ceil(TILE));
        let halves = tiles.saturating_mul(2);
        make_room(&mut self.values, n.saturating_mul(k))?;
        make_room(&mut self.codes, tiles.saturating_mul(TILE))?;
        for floats in [&mut self.scales, &mut self.offsets] {
            make_room(floats, tiles)?;
        }
        make_room(&mut self.sums, tiles)?;
        make_room(&mut self.half_offsets, halves)?;
        make_room(&mut self.half_sums, halves)?;
        make_room(&mut self.panels, panels)
    }

    /// Gives every buffer the length that `n` rows of `k` elements demand.
    pub(super) fn resize(&mut self, n: usize, k: usize) {
        (self.n, self.k) = (n, k);
        let tiles = n * self.tiles();
        self.values.resize(n * k, 0.0);
        self.codes.resize(tiles * TILE, 0);
        self.scales.resize(tiles, 0.0);
        self.offsets.resize(tiles, 0.0);
        self.sums.resize(tiles, 0);
        self.half_offsets.resize(2 * tiles, 0.0);
        self.half_sums.resize(2 * tiles, 0);
    }
}

/// A mutable slice that several tasks write, each its own part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shared<T> {
    start: *mut T,
    len: usize,
}

// SAFETY: only `part` gives access, and its callers keep the parts disjoint.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as for `Send`.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Shares `slice`, whose borrow must outlive every use of the result.
    pub(super) fn new(slice: &mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len() }
    }

    /// The elements `from .. from + len`.
    ///
    /// # Safety
    /// The slice given to [`new`](Self::new) is still borrowed and no other live part overlaps this one.
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn part(&self, from: usize, len: usize) -> &mut [T] {
        assert!(from <= self.len && len <= self.len - from);
        // SAFETY: inside the slice by the assertion; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}

/// Where the results of a matrix belong.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    /// Of the whole output.
    pub bias: Option<&'a [f32]>,
    /// `[n, rows]`.
    pub out: Shared<f32>,
    pub rows: usize,
    /// Row of the output that the matrix' first row is.
    pub first: usize,
}

/// A part of one product: the row groups and columns (tokens) that one task computes.
#[derive(Clone, Debug)]
pub(super) struct Part<'a> {
    pub weight: Matrix<'a>,
    pub target: Target<'a>,
    /// Row groups of `weight`.
    pub groups: std::ops::Range<usize>,
    pub columns: std::ops::Range<usize>,
}

impl Part<'_> {
    /// Bytes of row group `g`.
    pub(super) fn group(&self, g: usize) -> &[u8] {
        let bytes = group_bytes(self.weight.encoding, self.weight.cols);
        &self.weight.data[g * bytes..][..bytes]
    }

    /// Calls `wide` with each row group and the first of `W` columns, `single` with those columns of it that are left.
    pub(super) fn each_block<const W: usize>(
        &self,
        mut wide: impl FnMut(usize, usize),
        mut single: impl FnMut(usize, usize),
    ) {
        let columns = &self.columns;
        let whole = columns.start + columns.len() / W * W;
        for g in self.groups.clone() {
            (columns.start..whole).step_by(W).for_each(|c| wide(g, c));
            (whole..columns.end).for_each(|c| single(g, c));
        }
    }

    /// Where the results of row group `g` for one column are written; any address beyond the output.
    pub(super) fn place(&self, g: usize, column: usize) -> *const f32 {
        let Target { out, rows, first, .. } = self.target;
        out.start.cast_const().wrapping_add(column * rows + first + g * GROUP)
    }

    /// Writes the results of row group `g` for one column, with the bias added.
    ///
    /// # Safety
    /// This task alone owns the group and column, and the output is still borrowed.
    #[inline(always)]
    pub(super) unsafe fn store(&self, g: usize, column: usize, result: &[f32; GROUP]) {
        let len = GROUP.min(self.weight.rows - g * GROUP);
        let first = self.target.first + g * GROUP;
        // SAFETY: passed on to the caller; `Cpu` checked that `out` is `[n, rows]` and has the matrix' rows.
        let out = unsafe { self.target.out.part(column * self.target.rows + first, len) };
        match (self.target.bias, <&mut [f32; GROUP]>::try_from(&mut *out)) {
            (Some(bias), _) => {
                out.iter_mut().zip(result).zip(&bias[first..]).for_each(|((o, v), b)| *o = v + b);
            }
            // A copy of known length is one store.
            (None, Ok(out)) => *out = *result,
            (None, Err(_)) => out.copy_from_slice(&result[..len]),
        }
    }
}

//! Activations of eight tokens, woven together for kernels that multiply eight columns at a time: everything
//! that a tile needs lies behind one pointer, at constant distances.

use super::backend::Activations;
use super::encoding::TILE;

/// Tokens of a panel.
pub(super) const WIDTH: usize = 8;

/// Tokens up to which kernels with panels read the packed weights directly, one row of activations at a time.
pub(super) const DIRECT: usize = 2 * WIDTH;

/// Tiles of a span, of which products multiply all tokens before they go on: a multiple of the eight tiles of
/// the longest block. Expanded, a span of 32 rows takes 20 kB, less than the first cache, and leaves room for
/// the panels that stream past.
pub(super) const SPAN: usize = 16;

/// One tile of eight tokens. In every array the token is the last index.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(super) struct Panel {
    /// Codes in fours, as a 32-bit lane of weights meets them.
    pub codes: [[[i8; 4]; WIDTH]; TILE / 4],
    /// Scale of the tile.
    pub scales: [f32; WIDTH],
    /// Sum of the codes, negated.
    pub negated_sums: [i32; WIDTH],
    /// Scale times sum.
    pub offsets: [f32; WIDTH],
    /// Sum of each 16 codes, negated.
    pub negated_half_sums: [[i32; WIDTH]; 2],
    /// Scale times sum of each 16 codes.
    pub half_offsets: [[f32; WIDTH]; 2],
}

impl Panel {
    pub(super) const ZERO: Self = Self {
        codes: [[[0; 4]; WIDTH]; TILE / 4],
        scales: [0.0; WIDTH],
        negated_sums: [0; WIDTH],
        offsets: [0.0; WIDTH],
        negated_half_sums: [[0; WIDTH]; 2],
        half_offsets: [[0.0; WIDTH]; 2],
    };
}

/// Panels of `n` tokens of `tiles` tiles each.
pub(super) fn panels(n: usize, tiles: usize) -> usize {
    n.div_ceil(WIDTH).saturating_mul(tiles.next_multiple_of(SPAN))
}

impl Activations {
    /// Blocks of eight tokens, the last of which may be short.
    pub(super) fn blocks(&self) -> usize {
        self.n.div_ceil(WIDTH)
    }

    /// Panels of all blocks: span by span, within a span block by block, whole spans only.
    pub(super) fn panel_count(&self) -> usize {
        panels(self.n, self.tiles())
    }

    /// Index of the panels of span `span` of block `block`, of which there are [`SPAN`].
    pub(super) fn span_start(&self, span: usize, block: usize) -> usize {
        (span * self.blocks() + block) * SPAN
    }
}

/// Weaves tokens `8 block ..`, tiles `SPAN span ..`, of `x` into `panels`. The rest of `x` is filled. Tokens
/// beyond the last keep what the panels held; nothing is computed of them.
pub(super) fn weave(x: &Activations, span: usize, block: usize, panels: &mut [Panel]) {
    let tiles = x.tiles();
    for token in 0..WIDTH.min(x.n - block * WIDTH) {
        let row = (block * WIDTH + token) * tiles;
        for (t, panel) in (span * SPAN..tiles).zip(&mut *panels) {
            let at = row + t;
            let codes = x.codes[at * TILE..][..TILE].chunks_exact(4);
            for (four, from) in panel.codes.iter_mut().zip(codes) {
                four[token].copy_from_slice(from);
            }
            panel.scales[token] = x.scales[at];
            panel.negated_sums[token] = -x.sums[at];
            panel.offsets[token] = x.offsets[at];
            for h in 0..2 {
                panel.negated_half_sums[h][token] = -x.half_sums[2 * at + h];
                panel.half_offsets[h][token] = x.half_offsets[2 * at + h];
            }
        }
    }
}

//! Activations of eight tokens, woven together for kernels that multiply eight columns at a time: everything
//! that a tile needs lies behind one pointer, at constant distances.

use super::backend::Activations;
use super::encoding::TILE;

/// Tokens of a panel.
pub(super) const WIDTH: usize = 8;

/// One tile of eight tokens. In every array the token is the last index.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(super) struct Panel {
    /// Codes in fours, as a 32-bit lane of weights meets them.
    pub codes: [[[i8; 4]; WIDTH]; TILE / 4],
    /// Scale of the tile.
    pub scales: [f32; WIDTH],
    /// Sum of the codes.
    pub sums: [i32; WIDTH],
    /// Scale times sum.
    pub offsets: [f32; WIDTH],
    /// Sum of each 16 codes.
    pub half_sums: [[i32; WIDTH]; 2],
    /// Scale times sum of each 16 codes.
    pub half_offsets: [[f32; WIDTH]; 2],
}

impl Panel {
    pub(super) const ZERO: Self = Self {
        codes: [[[0; 4]; WIDTH]; TILE / 4],
        scales: [0.0; WIDTH],
        sums: [0; WIDTH],
        offsets: [0.0; WIDTH],
        half_sums: [[0; WIDTH]; 2],
        half_offsets: [[0.0; WIDTH]; 2],
    };
}

/// Weaves tokens `8 block ..` of `x` into `panels`, one per tile. The rest of `x` is filled.
pub(super) fn weave(x: &Activations, block: usize, panels: &mut [Panel]) {
    let tiles = x.tiles();
    for token in 0..WIDTH {
        let row = (block * WIDTH + token) * tiles;
        for (t, panel) in panels.iter_mut().enumerate() {
            let at = row + t;
            let codes = x.codes[at * TILE..][..TILE].chunks_exact(4);
            for (four, from) in panel.codes.iter_mut().zip(codes) {
                four[token].copy_from_slice(from);
            }
            panel.scales[token] = x.scales[at];
            panel.sums[token] = x.sums[at];
            panel.offsets[token] = x.offsets[at];
            for h in 0..2 {
                panel.half_sums[h][token] = x.half_sums[2 * at + h];
                panel.half_offsets[h][token] = x.half_offsets[2 * at + h];
            }
        }
    }
}

//! Eight weight rows and one column of activations, as the vector kernels of every instruction set meet them.

use super::backend::Activations;
use super::encoding::{Encoding, TILE, Tile};
use super::layout::GROUP;
use super::pack::gather_block;

/// One tile of the eight rows of a group. In every array the row is the index before the last four codes.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Rows {
    /// Codes of k = 4 i .. 4 i + 4 at index i.
    pub codes: [[[i8; 4]; GROUP]; TILE / 4],
    /// Scales of the first and of the second half.
    pub scale: [[f32; GROUP]; 2],
    /// Offsets likewise.
    pub min: [[f32; GROUP]; 2],
}

impl Rows {
    /// Codes, scales and offsets of 0.
    pub const ZERO: Self =
        Self { codes: [[[0; 4]; GROUP]; TILE / 4], scale: [[0.0; GROUP]; 2], min: [[0.0; GROUP]; 2] };

    fn set(&mut self, r: usize, tile: &Tile) {
        for (rows, four) in self.codes.iter_mut().zip(tile.code.as_chunks().0) {
            rows[r] = *four;
        }
        for h in 0..2 {
            self.scale[h][r] = tile.scale[h];
            self.min[h][r] = tile.min[h];
        }
    }
}

/// Calls `put` with the index and the rows of each tile of the packed `group`, decoded by `Encoding::tile`.
pub fn each_tile(encoding: &Encoding, group: &[u8], mut put: impl FnMut(usize, &Rows)) {
    let Some(decode) = encoding.tile else { return };
    let per_block = encoding.block_len / TILE;
    let mut blocks = vec![0; encoding.block_bytes * GROUP];
    for (b, packed) in group.chunks_exact(encoding.block_bytes * GROUP).enumerate() {
        for (r, block) in blocks.chunks_exact_mut(encoding.block_bytes).enumerate() {
            gather_block(encoding, packed, r, block);
        }
        for t in 0..per_block {
            let mut rows = Rows::ZERO;
            for (r, block) in blocks.chunks_exact(encoding.block_bytes).enumerate() {
                let mut tile = Tile { code: [0; TILE], scale: [0.0; 2], min: [0.0; 2] };
                decode(block, t, &mut tile);
                rows.set(r, &tile);
            }
            put(b * per_block + t, &rows);
        }
    }
}

/// Pointers to one column of the activations.
#[derive(Clone, Copy)]
pub struct Column {
    pub codes: *const i8,
    pub scales: *const f32,
    pub sums: *const i32,
    pub offsets: *const f32,
}

impl Column {
    /// Column `c < x.n`, its sums and offsets per half tile or per tile.
    pub fn new(x: &Activations, c: usize, halves: bool) -> Self {
        let tiles = x.tiles();
        let (sums, offsets) = if halves {
            (&x.half_sums[2 * c * tiles..], &x.half_offsets[2 * c * tiles..])
        } else {
            (&x.sums[c * tiles..], &x.offsets[c * tiles..])
        };
        Self {
            codes: x.codes[c * tiles * TILE..].as_ptr(),
            scales: x.scales[c * tiles..].as_ptr(),
            sums: sums.as_ptr(),
            offsets: offsets.as_ptr(),
        }
    }
}

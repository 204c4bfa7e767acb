//! Matrix products, one row at a time.

use crate::kernels::backend::Activations;
use crate::kernels::encoding::Scheme;
use crate::kernels::encoding::{TILE, Tile};
use crate::kernels::layout::{Float, GROUP, Part, float};
use crate::kernels::math::{f16_to_f32, fma};
use crate::kernels::pack::gather_block;

/// Computes `part`.
///
/// # Safety
/// `layout::is_sound` holds, the part lies inside the product and no other task computes it.
pub unsafe fn run(part: &Part<'_>, x: &Activations) {
    let kind = float(part.weight.encoding);
    let mut tiles = Vec::new();
    let mut row = Vec::new();
    for g in part.groups.clone() {
        let mut results = vec![[0.0; GROUP]; part.columns.len()];
        for r in 0..GROUP.min(part.weight.rows - g * GROUP) {
            match kind {
                Some(kind) => float_row(part.group(g), r, kind, &mut row),
                None => tile_row(part, g, r, &mut tiles),
            }
            for (result, c) in results.iter_mut().zip(part.columns.clone()) {
                result[r] = match kind {
                    Some(_) => dot_float(&row, &x.values[c * x.k..][..x.k]),
                    None => dot(&tiles, x, c, part.weight.encoding.scheme),
                };
            }
        }
        for (result, c) in results.iter().zip(part.columns.clone()) {
            // SAFETY: passed on to the caller.
            unsafe { part.store(g, c, result) };
        }
    }
}

/// The tiles of row `r` of group `g`.
fn tile_row(part: &Part<'_>, g: usize, r: usize, tiles: &mut Vec<Tile>) {
    tiles.clear();
    let encoding = part.weight.encoding;
    let Some(decode) = encoding.tile else { return };
    let mut block = vec![0; encoding.block_bytes];
    for packed in part.group(g).chunks_exact(encoding.block_bytes * GROUP) {
        gather_block(encoding, packed, r, &mut block);
        for t in 0..encoding.block_len / TILE {
            let mut tile = Tile { code: [0; TILE], scale: [0.0; 2], min: [0.0; 2] };
            decode(&block, t, &mut tile);
            tiles.push(tile);
        }
    }
}

/// Row times column `c`: per tile or half tile an exact integer sum, then one fused step.
fn dot(tiles: &[Tile], x: &Activations, c: usize, scheme: Scheme) -> f32 {
    let first = c * x.tiles();
    let (mut sum, mut offset) = (0.0, 0.0);
    for (t, tile) in tiles.iter().enumerate() {
        let at = first + t;
        let codes = &x.codes[at * TILE..][..TILE];
        let scale = x.scales[at];
        let half = |h: usize| -> i32 {
            let (w, a) = (&tile.code[16 * h..][..16], &codes[16 * h..][..16]);
            w.iter().zip(a).map(|(w, a)| i32::from(*w) * i32::from(*a)).sum()
        };
        if scheme.halves {
            for h in 0..2 {
                sum = fma(tile.scale[h] * scale, half(h) as f32, sum);
                if scheme.min {
                    offset = fma(tile.min[h], x.half_offsets[2 * at + h], offset);
                }
            }
        } else {
            sum = fma(tile.scale[0] * scale, (half(0) + half(1)) as f32, sum);
            if scheme.min {
                offset = fma(tile.min[0], x.offsets[at], offset);
            }
        }
    }
    if scheme.min { sum + offset } else { sum }
}

/// The elements of row `r` of a group of floats.
fn float_row(group: &[u8], r: usize, kind: Float, row: &mut Vec<f32>) {
    row.clear();
    let half = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
    match kind {
        Float::F32 => row.extend(
            group
                .chunks_exact(32)
                .map(|c| f32::from_le_bytes([c[4 * r], c[4 * r + 1], c[4 * r + 2], c[4 * r + 3]])),
        ),
        Float::F16 => row.extend(group.chunks_exact(16).map(|c| f16_to_f32(half(&c[2 * r..])))),
        Float::Bf16 => {
            row.extend(group.chunks_exact(16).map(|c| f32::from_bits(u32::from(half(&c[2 * r..])) << 16)));
        }
    }
}

/// Four accumulators by k mod 4, then (0 + 1) + (2 + 3).
fn dot_float(row: &[f32], x: &[f32]) -> f32 {
    let mut sums = [0.0; 4];
    for (k, (w, x)) in row.iter().zip(x).enumerate() {
        sums[k % 4] = fma(*w, *x, sums[k % 4]);
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

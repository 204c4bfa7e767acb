//! IQ4_NL and IQ4_XS: four-bit codes that select one of sixteen unevenly spaced integers.

use super::basic::put_nibbles;
use super::{Encoding, SUPER, Scheme, TILE, Tile, f16_at, field, fit, put_f16, symmetric, u16_at};

/// The sixteen integers: ggml's published `kvalues_iq4nl`, ascending.
pub(crate) const VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// 32 elements with an f16 scale.
pub(super) static IQ4_NL: Encoding = Encoding {
    name: "iq4_nl",
    ggml_type: 20,
    block_len: TILE,
    block_bytes: 18,
    fields: &[field(2, 2), field(16, 4)],
    dequantize: |block, out| symmetric(block, out, tile_iq4_nl),
    quantize: Some(quantize_iq4_nl),
    tile: Some(tile_iq4_nl),
    scheme: Scheme::PLAIN,
    division: None,
};

/// 256 elements with a six-bit scale (minus 32) for each 32 and an f16 factor.
pub(super) static IQ4_XS: Encoding = Encoding {
    name: "iq4_xs",
    ggml_type: 23,
    block_len: SUPER,
    block_bytes: 136,
    fields: &[field(2, 2), field(2, 2), field(4, 1), field(128, 4)],
    dequantize: |block, out| symmetric(block, out, tile_iq4_xs),
    quantize: None,
    tile: Some(tile_iq4_xs),
    scheme: Scheme::PLAIN,
    division: None,
};

fn look_up(bytes: &[u8], out: &mut [i8; TILE]) {
    for (i, byte) in bytes[..16].iter().enumerate() {
        out[i] = VALUES[usize::from(byte & 15)];
        out[i + 16] = VALUES[usize::from(byte >> 4)];
    }
}

fn tile_iq4_nl(block: &[u8], _: usize, out: &mut Tile) {
    look_up(&block[2..], &mut out.code);
    out.scale = [f16_at(block, 0); 2];
    out.min = [0.0; 2];
}

fn tile_iq4_xs(block: &[u8], t: usize, out: &mut Tile) {
    look_up(&block[8 + 16 * t..], &mut out.code);
    let low = (block[4 + t / 2] >> (t % 2 * 4)) & 15;
    let high = ((u16_at(block, 2) >> (2 * t)) & 3) as u8;
    let scale = (low | (high << 4)) as i8 - 32;
    out.scale = [f16_at(block, 0) * f32::from(scale); 2];
    out.min = [0.0; 2];
}

fn quantize_iq4_nl(x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
    let (x, w) = fit::clean::<TILE>(x, importance);
    let (d, codes) = fit::table(&x, &w, &NEAREST);
    put_f16(block, 0, d);
    put_nibbles(&codes, &mut block[2..]);
}

/// The search's view of [`VALUES`].
static NEAREST: fit::Table = fit::Table::new(&VALUES);

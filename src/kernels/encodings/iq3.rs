//! IQ3_XXS and IQ3_S: four magnitudes are a point of a code book, signs are stored apart.

use super::grids::{self, even_signs, with_signs};
use super::{Encoding, SUPER, Scheme, Tile, f16_at, field, symmetric, u32_at};

/// 3.06 bits per element; for each 32, eight point numbers and a word of four sign indices and the scale.
pub(super) static IQ3_XXS: Encoding = Encoding {
    name: "iq3_xxs",
    ggml_type: 18,
    block_len: SUPER,
    block_bytes: 98,
    fields: &[field(2, 2), field(64, 4), field(32, 4)],
    dequantize: |block, out| symmetric(block, out, tile_iq3_xxs),
    quantize: None,
    tile: Some(tile_iq3_xxs),
    scheme: Scheme::GENERAL,
    division: None,
};

/// 3.44 bits per element; 9 bits of point number, free signs, a four-bit scale for each 32.
pub(super) static IQ3_S: Encoding = Encoding {
    name: "iq3_s",
    ggml_type: 21,
    block_len: SUPER,
    block_bytes: 110,
    fields: &[field(2, 2), field(64, 4), field(8, 1), field(32, 4), field(4, 1)],
    dequantize: |block, out| symmetric(block, out, tile_iq3_s),
    quantize: None,
    tile: Some(tile_iq3_s),
    scheme: Scheme::GENERAL,
    division: None,
};

fn tile_iq3_xxs(block: &[u8], t: usize, out: &mut Tile) {
    let word = u32_at(block, 66 + 4 * t);
    for (i, codes) in out.code.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        // An index stands for the signs of eight elements: of two points.
        let signs = even_signs((word >> (7 * (i / 2))) as u8) >> (4 * (i % 2));
        *codes = with_signs(&grids::IQ3_XXS[usize::from(block[2 + 8 * t + i])], signs);
    }
    out.scale = [f16_at(block, 0) * (0.5 + (word >> 28) as f32) * 0.5; 2];
    out.min = [0.0; 2];
}

fn tile_iq3_s(block: &[u8], t: usize, out: &mut Tile) {
    let high = block[66 + t];
    for (i, codes) in out.code.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let index = usize::from(block[2 + 8 * t + i]) | (usize::from((high >> i) & 1) << 8);
        let signs = block[74 + 4 * t + i / 2] >> (4 * (i % 2));
        *codes = with_signs(&grids::IQ3_S[index], signs);
    }
    let factor = (block[106 + t / 2] >> (4 * (t % 2))) & 15;
    out.scale = [f16_at(block, 0) * f32::from(1 + 2 * factor); 2];
    out.min = [0.0; 2];
}

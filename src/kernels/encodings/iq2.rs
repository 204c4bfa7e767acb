//! IQ2_XXS, IQ2_XS and IQ2_S: eight magnitudes are a point of a code book, signs are stored apart.

use super::grids::{self, even_signs, with_signs};
use super::{Encoding, SUPER, Scheme, Tile, f16_at, field, symmetric, u16_at, u32_at};

/// 2.06 bits per element; for each 32, four point numbers and a word of four sign indices and the scale.
pub(super) static IQ2_XXS: Encoding = Encoding {
    name: "iq2_xxs",
    ggml_type: 16,
    block_len: SUPER,
    block_bytes: 66,
    fields: &[field(2, 2), field(64, 4)],
    dequantize: |block, out| symmetric(block, out, tile_iq2_xxs),
    quantize: None,
    tile: Some(tile_iq2_xxs),
    scheme: Scheme::GENERAL,
    division: None,
};

/// 2.31 bits per element; 9 bits of point number and 7 of sign index, a scale for each 16.
pub(super) static IQ2_XS: Encoding = Encoding {
    name: "iq2_xs",
    ggml_type: 17,
    block_len: SUPER,
    block_bytes: 74,
    fields: &[field(2, 2), field(64, 2), field(8, 1)],
    dequantize: |block, out| symmetric(block, out, tile_iq2_xs),
    quantize: None,
    tile: Some(tile_iq2_xs),
    scheme: Scheme::GENERAL,
    division: None,
};

/// 2.56 bits per element; 10 bits of point number, eight free signs, a scale for each 16.
pub(super) static IQ2_S: Encoding = Encoding {
    name: "iq2_s",
    ggml_type: 22,
    block_len: SUPER,
    block_bytes: 82,
    fields: &[field(2, 2), field(32, 4), field(32, 4), field(8, 1), field(8, 1)],
    dequantize: |block, out| symmetric(block, out, tile_iq2_s),
    quantize: None,
    tile: Some(tile_iq2_s),
    scheme: Scheme::GENERAL,
    division: None,
};

/// The scale that a four-bit factor selects: `d (factor + 1/2) / 4`.
fn scale(d: f32, factor: u8) -> f32 {
    d * (0.5 + f32::from(factor)) * 0.25
}

fn tile_iq2_xxs(block: &[u8], t: usize, out: &mut Tile) {
    let at = 2 + 8 * t;
    let word = u32_at(block, at + 4);
    for (i, codes) in out.code.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let signs = even_signs((word >> (7 * i)) as u8);
        *codes = with_signs(&grids::IQ2_XXS[usize::from(block[at + i])], signs);
    }
    out.scale = [scale(f16_at(block, 0), (word >> 28) as u8); 2];
    out.min = [0.0; 2];
}

fn tile_iq2_xs(block: &[u8], t: usize, out: &mut Tile) {
    for (i, codes) in out.code.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let word = u16_at(block, 2 + 8 * t + 2 * i);
        *codes = with_signs(&grids::IQ2_XS[usize::from(word & 511)], even_signs((word >> 9) as u8));
    }
    let (d, factors) = (f16_at(block, 0), block[66 + t]);
    out.scale = [scale(d, factors & 15), scale(d, factors >> 4)];
    out.min = [0.0; 2];
}

fn tile_iq2_s(block: &[u8], t: usize, out: &mut Tile) {
    let high = block[66 + t];
    for (i, codes) in out.code.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let index = usize::from(block[2 + 4 * t + i]) | (usize::from((high >> (2 * i)) & 3) << 8);
        *codes = with_signs(&grids::IQ2_S[index], block[34 + 4 * t + i]);
    }
    let (d, factors) = (f16_at(block, 0), block[74 + t]);
    out.scale = [scale(d, factors & 15), scale(d, factors >> 4)];
    out.min = [0.0; 2];
}

//! IQ1_S and IQ1_M: eight elements are a point of [`grids::IQ1`] moved by plus or minus 1/8 along every axis.
//! In integer form a code is 8 times that, and the scale an eighth.

use super::{Encoding, SUPER, Scheme, Tile, f16_at, field, grids, symmetric, u16_at};
use half::f16;

/// 1.56 bits per element: 3-bit scale and the sign of the shift for each 32.
pub(super) static IQ1_S: Encoding = Encoding {
    name: "iq1_s",
    ggml_type: 19,
    block_len: SUPER,
    block_bytes: 50,
    fields: &[field(2, 2), field(32, 4), field(16, 2)],
    dequantize: |block, out| symmetric(block, out, tile_iq1_s),
    quantize: None,
    tile: Some(tile_iq1_s),
    scheme: Scheme::GENERAL,
    division: None,
};

/// 1.75 bits per element: 3-bit scale for each 16, sign of the shift for each 8.
pub(super) static IQ1_M: Encoding = Encoding {
    name: "iq1_m",
    ggml_type: 29,
    block_len: SUPER,
    block_bytes: 56,
    fields: &[field(32, 4), field(16, 2), field(8, 2)],
    dequantize: |block, out| symmetric(block, out, tile_iq1_m),
    quantize: None,
    tile: Some(tile_iq1_m),
    scheme: Scheme::GENERAL,
    division: None,
};

/// Writes the codes of the point `index` as eight codes; `down` shifts it by -1/8, else by +1/8.
fn place(out: &mut [i8], index: u16, down: bool) {
    let shift = if down { -1 } else { 1 };
    for (code, level) in out.iter_mut().zip(&grids::IQ1[usize::from(index)]) {
        *code = 8 * level + shift;
    }
}

fn tile_iq1_s(block: &[u8], t: usize, out: &mut Tile) {
    let high = u16_at(block, 34 + 2 * t);
    for (i, codes) in out.code.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let index = u16::from(block[2 + 4 * t + i]) | (((high >> (3 * i)) & 7) << 8);
        place(codes, index, high & 0x8000 != 0);
    }
    let factor = f32::from(2 * ((high >> 12) & 7) + 1);
    out.scale = [f16_at(block, 0) * factor * 0.125; 2];
    out.min = [0.0; 2];
}

fn tile_iq1_m(block: &[u8], t: usize, out: &mut Tile) {
    for (i, codes) in out.code.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let high = block[32 + 2 * t + i / 2] >> (4 * (i % 2));
        let index = u16::from(block[4 * t + i]) | (u16::from(high & 7) << 8);
        place(codes, index, high & 8 != 0);
    }
    // The f16 scale is spread over the top four bits of the four scale words, lowest bits first.
    let bits = (0..4).fold(0, |bits, word| bits | ((u16_at(block, 48 + 2 * word) >> 12) << (4 * word)));
    let scale = f16::from_bits(bits).to_f32();
    for half in 0..2 {
        let sub = 2 * t + half;
        let factor = (u16_at(block, 48 + sub / 4 * 2) >> (3 * (sub % 4))) & 7;
        out.scale[half] = scale * f32::from(2 * factor + 1) * 0.125;
    }
    out.min = [0.0; 2];
}

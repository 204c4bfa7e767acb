//! Q3_K and Q6_K: 256 elements in sub-blocks of 16, each with a small signed scale that one f16 factor
//! multiplies: `value = (d scale) code`.

use super::{Encoding, SUPER, Scheme, TILE, Tile, f16_at, field, fit, fit_k, put_f16, symmetric};

/// Three-bit codes minus 4, six-bit scales minus 32; the third bits apart.
pub(super) static Q3_K: Encoding = Encoding {
    name: "q3_k",
    ggml_type: 11,
    block_len: SUPER,
    block_bytes: 110,
    fields: &[field(32, 4), field(64, 4), field(12, 1), field(2, 2)],
    dequantize: |block, out| symmetric(block, out, tile_q3_k),
    quantize: Some(quantize_q3_k),
    tile: Some(tile_q3_k),
    scheme: Scheme::HALVES,
    division: None,
};

/// Six-bit codes minus 32, signed eight-bit scales; the upper two bits apart.
pub(super) static Q6_K: Encoding = Encoding {
    name: "q6_k",
    ggml_type: 14,
    block_len: SUPER,
    block_bytes: 210,
    fields: &[field(128, 4), field(64, 4), field(16, 1), field(2, 2)],
    dequantize: |block, out| symmetric(block, out, tile_q6_k),
    quantize: Some(quantize_q6_k),
    tile: Some(tile_q6_k),
    scheme: Scheme::HALVES,
    division: None,
};

/// Scale of sub-block `j` of 16 of Q3_K: bytes 0..8 hold the lower four bits, two to a byte, and 8..12 the
/// upper two, four to a byte.
fn q3_k_scale(bytes: &[u8], j: usize) -> i8 {
    let low = (bytes[j % 8] >> (j / 8 * 4)) & 15;
    let high = (bytes[8 + j % 4] >> (j / 4 * 2)) & 3;
    (low | (high << 4)) as i8 - 32
}

fn tile_q3_k(block: &[u8], t: usize, out: &mut Tile) {
    let (high, low) = (&block[..32], &block[32 + t / 4 * 32..][..32]);
    for ((code, low), high) in out.code.iter_mut().zip(low).zip(high) {
        // A set bit means 4, which the zero point then takes away again.
        *code = (((low >> (t % 4 * 2)) & 3) | (((high >> t) & 1) << 2)) as i8 - 4;
    }
    let (d, scales) = (f16_at(block, 108), &block[96..108]);
    out.scale = [0, 1].map(|half| d * f32::from(q3_k_scale(scales, 2 * t + half)));
    out.min = [0.0; 2];
}

fn tile_q6_k(block: &[u8], t: usize, out: &mut Tile) {
    let low = &block[t / 4 * 64 + t % 2 * 32..][..32];
    let high = &block[128 + t / 4 * 32..][..32];
    let (low_shift, high_shift) = (t % 4 / 2 * 4, t % 4 * 2);
    for ((code, low), high) in out.code.iter_mut().zip(low).zip(high) {
        *code = (((low >> low_shift) & 15) | (((high >> high_shift) & 3) << 4)) as i8 - 32;
    }
    let d = f16_at(block, 208);
    out.scale = [0, 1].map(|half| d * f32::from(block[192 + 2 * t + half] as i8));
    out.min = [0.0; 2];
}

fn quantize_q3_k(x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
    let (x, w) = fit::clean::<SUPER>(x, importance);
    let best = fit_k::symmetric(&x, &w, (-4, 3), (-32, 31));
    block.fill(0);
    for (e, code) in best.codes.iter().enumerate() {
        let (t, i, code) = (e / TILE, e % TILE, (code + 4) as u8);
        block[i] |= (code >> 2) << t;
        block[32 + t / 4 * 32 + i] |= (code & 3) << (t % 4 * 2);
    }
    for (j, scale) in best.scales.iter().enumerate() {
        let scale = (scale + 32) as u8;
        block[96 + j % 8] |= (scale & 15) << (j / 8 * 4);
        block[104 + j % 4] |= (scale >> 4) << (j / 4 * 2);
    }
    put_f16(block, 108, best.d);
}

fn quantize_q6_k(x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
    let (x, w) = fit::clean::<SUPER>(x, importance);
    let best = fit_k::symmetric(&x, &w, (-32, 31), (-128, 127));
    block.fill(0);
    for (e, code) in best.codes.iter().enumerate() {
        let (t, i, code) = (e / TILE, e % TILE, (code + 32) as u8);
        block[t / 4 * 64 + t % 2 * 32 + i] |= (code & 15) << (t % 4 / 2 * 4);
        block[128 + t / 4 * 32 + i] |= (code >> 4) << (t % 4 * 2);
    }
    for (byte, scale) in block[192..208].iter_mut().zip(best.scales) {
        *byte = scale as u8;
    }
    put_f16(block, 208, best.d);
}

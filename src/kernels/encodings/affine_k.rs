//! Q2_K, Q4_K and Q5_K: 256 elements in sub-blocks, each with a small integer scale and offset that two f16
//! factors multiply: `value = (d scale) code - dmin offset`.

use super::{Encoding, SUPER, Scheme, TILE, Tile, affine, f16_at, field, fit, fit_k, put_f16};

/// Two-bit codes, sub-blocks of 16 with four-bit scales and offsets.
pub(super) static Q2_K: Encoding = Encoding {
    name: "q2_k",
    ggml_type: 10,
    block_len: SUPER,
    block_bytes: 84,
    fields: &[field(16, 1), field(64, 4), field(2, 2), field(2, 2)],
    dequantize: |block, out| affine(block, out, tile_q2_k),
    quantize: Some(quantize_q2_k),
    tile: Some(tile_q2_k),
    scheme: Scheme::GENERAL,
    division: None,
};

/// Four-bit codes, sub-blocks of 32 with six-bit scales and offsets.
pub(super) static Q4_K: Encoding = Encoding {
    name: "q4_k",
    ggml_type: 12,
    block_len: SUPER,
    block_bytes: 144,
    fields: &[field(2, 2), field(2, 2), field(12, 1), field(128, 4)],
    dequantize: |block, out| affine(block, out, tile_q4_k),
    quantize: Some(quantize_q4_k),
    tile: Some(tile_q4_k),
    scheme: Scheme::OFFSET,
    division: None,
};

/// Five-bit codes, sub-blocks of 32 with six-bit scales and offsets; the fifth bits apart.
pub(super) static Q5_K: Encoding = Encoding {
    name: "q5_k",
    ggml_type: 13,
    block_len: SUPER,
    block_bytes: 176,
    fields: &[field(2, 2), field(2, 2), field(12, 1), field(32, 4), field(128, 4)],
    dequantize: |block, out| affine(block, out, tile_q5_k),
    quantize: Some(quantize_q5_k),
    tile: Some(tile_q5_k),
    scheme: Scheme::OFFSET,
    division: None,
};

/// Scale and offset of sub-block `j` of 8 in the twelve bytes of Q4_K and Q5_K. Bytes 0..4 and 4..8 hold six
/// bits for sub-blocks 0..4, and in their top bits the upper two for 4..8, whose lower four are in 8..12.
fn six_bits(bytes: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (bytes[j] & 63, bytes[4 + j] & 63)
    } else {
        let low = bytes[4 + j];
        ((low & 15) | (bytes[j - 4] >> 6 << 4), (low >> 4) | (bytes[j] >> 6 << 4))
    }
}

/// The inverse of [`six_bits`] for all sub-blocks.
fn put_six_bits(scales: &[u8; 8], offsets: &[u8; 8], bytes: &mut [u8]) {
    for j in 0..4 {
        let (scale, offset) = (scales[j + 4], offsets[j + 4]);
        bytes[j] = scales[j] | (scale >> 4 << 6);
        bytes[4 + j] = offsets[j] | (offset >> 4 << 6);
        bytes[8 + j] = (scale & 15) | (offset << 4);
    }
}

/// Scale and offset of tile `t` of Q4_K and Q5_K, whose first bytes are the same.
fn put_scale(block: &[u8], t: usize, out: &mut Tile) {
    let (scale, offset) = six_bits(&block[4..16], t);
    out.scale = [f16_at(block, 0) * f32::from(scale); 2];
    out.min = [-(f16_at(block, 2) * f32::from(offset)); 2];
}

fn tile_q2_k(block: &[u8], t: usize, out: &mut Tile) {
    for (code, byte) in out.code.iter_mut().zip(&block[16 + t / 4 * 32..][..32]) {
        *code = ((byte >> (t % 4 * 2)) & 3) as i8;
    }
    let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
    for half in 0..2 {
        let byte = block[2 * t + half];
        out.scale[half] = d * f32::from(byte & 15);
        out.min[half] = -(dmin * f32::from(byte >> 4));
    }
}

fn tile_q4_k(block: &[u8], t: usize, out: &mut Tile) {
    for (code, byte) in out.code.iter_mut().zip(&block[16 + t / 2 * 32..][..32]) {
        *code = ((byte >> (t % 2 * 4)) & 15) as i8;
    }
    put_scale(block, t, out);
}

fn tile_q5_k(block: &[u8], t: usize, out: &mut Tile) {
    let (high, low) = (&block[16..48], &block[48 + t / 2 * 32..][..32]);
    for ((code, low), high) in out.code.iter_mut().zip(low).zip(high) {
        *code = (((low >> (t % 2 * 4)) & 15) | (((high >> t) & 1) << 4)) as i8;
    }
    put_scale(block, t, out);
}

/// Four bits of each code: the codes of two tiles share 32 bytes.
fn put_low_nibbles(codes: &[u8; SUPER], bytes: &mut [u8]) {
    for (pair, bytes) in codes.as_chunks::<64>().0.iter().zip(bytes.as_chunks_mut::<TILE>().0) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = (pair[i] & 15) | (pair[i + 32] << 4);
        }
    }
}

fn quantize_q2_k(x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
    let (x, w) = fit::clean::<SUPER>(x, importance);
    let best = fit_k::affine::<16, 16>(&x, &w, 3, 15);
    for (j, byte) in block[..16].iter_mut().enumerate() {
        *byte = best.scales[j] | (best.offsets[j] << 4);
    }
    for (codes, bytes) in best.codes.as_chunks::<128>().0.iter().zip(block[16..80].as_chunks_mut::<TILE>().0)
    {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = codes[i] | (codes[i + 32] << 2) | (codes[i + 64] << 4) | (codes[i + 96] << 6);
        }
    }
    put_f16(block, 80, best.d);
    put_f16(block, 82, best.dmin);
}

fn quantize_q4_k(x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
    let (x, w) = fit::clean::<SUPER>(x, importance);
    let best = fit_k::affine::<32, 8>(&x, &w, 15, 63);
    put_f16(block, 0, best.d);
    put_f16(block, 2, best.dmin);
    put_six_bits(&best.scales, &best.offsets, &mut block[4..16]);
    put_low_nibbles(&best.codes, &mut block[16..144]);
}

fn quantize_q5_k(x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
    let (x, w) = fit::clean::<SUPER>(x, importance);
    let best = fit_k::affine::<32, 8>(&x, &w, 31, 63);
    put_f16(block, 0, best.d);
    put_f16(block, 2, best.dmin);
    put_six_bits(&best.scales, &best.offsets, &mut block[4..16]);
    for (i, byte) in block[16..48].iter_mut().enumerate() {
        *byte = (0..8).fold(0, |bits, t| bits | (best.codes[32 * t + i] >> 4 << t));
    }
    put_low_nibbles(&best.codes, &mut block[48..176]);
}

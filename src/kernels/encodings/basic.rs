//! Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: blocks of 32 elements with an f16 scale, and an f16 offset in the `_1` forms.

use super::super::division;
use super::{Encoding, Scheme, TILE, Tile, affine, f16_at, field, fit, put_f16, symmetric, u32_at};

/// Four-bit codes minus 8.
pub(super) static Q4_0: Encoding = Encoding {
    name: "q4_0",
    ggml_type: 2,
    block_len: TILE,
    block_bytes: 18,
    fields: &[field(2, 2), field(16, 4)],
    dequantize: |block, out| symmetric(block, out, tile_q4_0),
    quantize: Some(quantize_q4_0),
    tile: Some(tile_q4_0),
    scheme: Scheme::PLAIN,
    division: None,
};

/// Four-bit codes and an offset.
pub(super) static Q4_1: Encoding = Encoding {
    name: "q4_1",
    ggml_type: 3,
    block_len: TILE,
    block_bytes: 20,
    fields: &[field(2, 2), field(2, 2), field(16, 4)],
    dequantize: |block, out| affine(block, out, tile_q4_1),
    quantize: Some(quantize_q4_1),
    tile: Some(tile_q4_1),
    scheme: Scheme::OFFSET,
    division: Some(&division::Q4_1),
};

/// Five-bit codes minus 16; the fifth bits in a word of their own.
pub(super) static Q5_0: Encoding = Encoding {
    name: "q5_0",
    ggml_type: 6,
    block_len: TILE,
    block_bytes: 22,
    fields: &[field(2, 2), field(4, 4), field(16, 4)],
    dequantize: |block, out| symmetric(block, out, tile_q5_0),
    quantize: Some(quantize_q5_0),
    tile: Some(tile_q5_0),
    scheme: Scheme::PLAIN,
    division: None,
};

/// Five-bit codes and an offset.
pub(super) static Q5_1: Encoding = Encoding {
    name: "q5_1",
    ggml_type: 7,
    block_len: TILE,
    block_bytes: 24,
    fields: &[field(2, 2), field(2, 2), field(4, 4), field(16, 4)],
    dequantize: |block, out| affine(block, out, tile_q5_1),
    quantize: Some(quantize_q5_1),
    tile: Some(tile_q5_1),
    scheme: Scheme::OFFSET,
    division: None,
};

/// Eight-bit codes. The quantiser does not use -128.
pub(super) static Q8_0: Encoding = Encoding {
    name: "q8_0",
    ggml_type: 8,
    block_len: TILE,
    block_bytes: 34,
    fields: &[field(2, 2), field(32, 4)],
    dequantize: |block, out| symmetric(block, out, tile_q8_0),
    quantize: Some(quantize_q8_0),
    tile: Some(tile_q8_0),
    scheme: Scheme::PLAIN,
    division: Some(&division::Q8_0),
};

/// Sixteen bytes as 32 codes: low nibbles, then high nibbles.
pub(super) fn nibbles(bytes: &[u8], out: &mut [i8; TILE]) {
    for (i, byte) in bytes[..16].iter().enumerate() {
        out[i] = (byte & 15) as i8;
        out[i + 16] = (byte >> 4) as i8;
    }
}

/// The inverse of [`nibbles`]; only the low four bits of a code count.
pub(super) fn put_nibbles(codes: &[u8; TILE], bytes: &mut [u8]) {
    for (i, byte) in bytes[..16].iter_mut().enumerate() {
        *byte = (codes[i] & 15) | (codes[i + 16] << 4);
    }
}

/// Adds bit `i` of `word` to code `i` as its fifth bit.
fn add_fifth_bits(word: u32, codes: &mut [i8; TILE]) {
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= (((word >> i) & 1) << 4) as i8;
    }
}

/// The fifth bits of all codes as a little-endian word.
fn fifth_bits(codes: &[u8; TILE]) -> [u8; 4] {
    let word = codes.iter().enumerate().fold(0u32, |word, (i, code)| word | (u32::from(code >> 4 & 1) << i));
    word.to_le_bytes()
}

fn tile_q4_0(block: &[u8], _: usize, out: &mut Tile) {
    nibbles(&block[2..], &mut out.code);
    out.code.iter_mut().for_each(|code| *code -= 8);
    out.scale = [f16_at(block, 0); 2];
    out.min = [0.0; 2];
}

fn tile_q4_1(block: &[u8], _: usize, out: &mut Tile) {
    nibbles(&block[4..], &mut out.code);
    out.scale = [f16_at(block, 0); 2];
    out.min = [f16_at(block, 2); 2];
}

fn tile_q5_0(block: &[u8], _: usize, out: &mut Tile) {
    nibbles(&block[6..], &mut out.code);
    add_fifth_bits(u32_at(block, 2), &mut out.code);
    out.code.iter_mut().for_each(|code| *code -= 16);
    out.scale = [f16_at(block, 0); 2];
    out.min = [0.0; 2];
}

fn tile_q5_1(block: &[u8], _: usize, out: &mut Tile) {
    nibbles(&block[8..], &mut out.code);
    add_fifth_bits(u32_at(block, 4), &mut out.code);
    out.scale = [f16_at(block, 0); 2];
    out.min = [f16_at(block, 2); 2];
}

fn tile_q8_0(block: &[u8], _: usize, out: &mut Tile) {
    for (code, byte) in out.code.iter_mut().zip(&block[2..34]) {
        *code = *byte as i8;
    }
    out.scale = [f16_at(block, 0); 2];
    out.min = [0.0; 2];
}

fn quantize_q4_0(x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
    let (x, w) = fit::clean::<TILE>(x, importance);
    let (d, codes) = fit::symmetric(&x, &w, -8, 7);
    put_f16(block, 0, d);
    put_nibbles(&codes.map(|q| (q + 8) as u8), &mut block[2..]);
}

fn quantize_q4_1(x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
    let (x, w) = fit::clean::<TILE>(x, importance);
    let (d, m, codes) = fit::affine(&x, &w, 15);
    put_f16(block, 0, d);
    put_f16(block, 2, m);
    put_nibbles(&codes, &mut block[4..]);
}

fn quantize_q5_0(x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
    let (x, w) = fit::clean::<TILE>(x, importance);
    let (d, codes) = fit::symmetric(&x, &w, -16, 15);
    let codes = codes.map(|q| (q + 16) as u8);
    put_f16(block, 0, d);
    block[2..6].copy_from_slice(&fifth_bits(&codes));
    put_nibbles(&codes, &mut block[6..]);
}

fn quantize_q5_1(x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
    let (x, w) = fit::clean::<TILE>(x, importance);
    let (d, m, codes) = fit::affine(&x, &w, 31);
    put_f16(block, 0, d);
    put_f16(block, 2, m);
    block[4..8].copy_from_slice(&fifth_bits(&codes));
    put_nibbles(&codes, &mut block[8..]);
}

fn quantize_q8_0(x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
    let (x, w) = fit::clean::<TILE>(x, importance);
    let (d, codes) = fit::symmetric(&x, &w, -127, 127);
    put_f16(block, 0, d);
    for (byte, code) in block[2..34].iter_mut().zip(codes) {
        *byte = code as u8;
    }
}

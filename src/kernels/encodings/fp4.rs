//! MXFP4 (OCP Microscaling Formats 1.0) and NVFP4: four-bit floats (e2m1) with an eight-bit scale.

use super::{Encoding, Scheme, Tile, field, symmetric};

/// The sixteen e2m1 values, doubled to make them integers; scales are halved in return.
pub(crate) const E2M1_DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// 32 elements share a power of two.
pub(super) static MXFP4: Encoding = Encoding {
    name: "mxfp4",
    ggml_type: 39,
    block_len: 32,
    block_bytes: 17,
    fields: &[field(1, 1), field(16, 4)],
    dequantize: |block, out| symmetric(block, out, tile_mxfp4),
    quantize: None,
    tile: Some(tile_mxfp4),
    scheme: Scheme::GENERAL,
    division: None,
};

/// Each 16 elements share an unsigned e4m3 scale; a block holds four of them.
pub(super) static NVFP4: Encoding = Encoding {
    name: "nvfp4",
    ggml_type: 40,
    block_len: 64,
    block_bytes: 36,
    fields: &[field(4, 1), field(32, 4)],
    dequantize: |block, out| symmetric(block, out, tile_nvfp4),
    quantize: None,
    tile: Some(tile_nvfp4),
    scheme: Scheme::GENERAL,
    division: None,
};

/// Half of 2^(e - 127), the scale that the byte `e` stands for. Below 2^-126 the result is subnormal.
fn half_e8m0(e: u8) -> f32 {
    let bits = if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 };
    f32::from_bits(bits)
}

/// Half of the e4m3 value of the lower seven bits (bias 7); the all-ones code 0x7f is not a number and reads
/// as 0. The reference ignores the sign bit, except that 0xff then reads as 480.
fn half_e4m3(byte: u8) -> f32 {
    let exponent = (byte >> 3) & 15;
    let mantissa = f32::from(byte & 7);
    match (byte, exponent) {
        (0x7f, _) => 0.0,
        (_, 0) => mantissa * f32::from_bits((127 - 10) << 23),
        _ => (1.0 + mantissa / 8.0) * f32::from_bits((u32::from(exponent) + 127 - 8) << 23),
    }
}

fn tile_mxfp4(block: &[u8], _: usize, out: &mut Tile) {
    for (i, byte) in block[1..17].iter().enumerate() {
        out.code[i] = E2M1_DOUBLED[usize::from(byte & 15)];
        out.code[i + 16] = E2M1_DOUBLED[usize::from(byte >> 4)];
    }
    out.scale = [half_e8m0(block[0]); 2];
    out.min = [0.0; 2];
}

fn tile_nvfp4(block: &[u8], t: usize, out: &mut Tile) {
    for half in 0..2 {
        let sub = 2 * t + half;
        for (i, byte) in block[4 + 8 * sub..][..8].iter().enumerate() {
            out.code[16 * half + i] = E2M1_DOUBLED[usize::from(byte & 15)];
            out.code[16 * half + 8 + i] = E2M1_DOUBLED[usize::from(byte >> 4)];
        }
        out.scale[half] = half_e4m3(block[sub]);
    }
    out.min = [0.0; 2];
}

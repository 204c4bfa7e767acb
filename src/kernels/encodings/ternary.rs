//! TQ1_0 and TQ2_0: codes -1, 0 and 1 with one f16 scale per 256 elements.

use super::{Encoding, SUPER, Scheme, Tile, f16_at, field, symmetric};

/// Five ternary digits per byte (1.69 bits per element).
pub(super) static TQ1_0: Encoding = Encoding {
    name: "tq1_0",
    ggml_type: 34,
    block_len: SUPER,
    block_bytes: 54,
    fields: &[field(48, 4), field(4, 4), field(2, 2)],
    dequantize: |block, out| symmetric(block, out, tile_tq1_0),
    quantize: None,
    tile: Some(tile_tq1_0),
    scheme: Scheme::GENERAL,
    division: None,
};

/// Two bits per element.
pub(super) static TQ2_0: Encoding = Encoding {
    name: "tq2_0",
    ggml_type: 35,
    block_len: SUPER,
    block_bytes: 66,
    fields: &[field(64, 4), field(2, 2)],
    dequantize: |block, out| symmetric(block, out, tile_tq2_0),
    quantize: None,
    tile: Some(tile_tq2_0),
    scheme: Scheme::GENERAL,
    division: None,
};

/// Digit `i` of a byte that holds a number below 3^5 as a fraction of 256: multiplying by 3^i modulo 256 drops
/// the digits before it, and the integer part of three times the fraction is the digit.
fn digit(byte: u8, i: usize) -> i8 {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    let fraction = byte.wrapping_mul(POWERS[i]);
    ((u16::from(fraction) * 3) >> 8) as i8 - 1
}

fn tile_tq1_0(block: &[u8], t: usize, out: &mut Tile) {
    for (i, code) in out.code.iter_mut().enumerate() {
        // Digits of 32 bytes fill elements 0..160, those of 16 bytes 160..240, those of 4 bytes the rest.
        let element = t * 32 + i;
        *code = match element {
            0..160 => digit(block[element % 32], element / 32),
            160..240 => digit(block[32 + element % 16], (element - 160) / 16),
            _ => digit(block[48 + element % 4], (element - 240) / 4),
        };
    }
    out.scale = [f16_at(block, 52); 2];
    out.min = [0.0; 2];
}

fn tile_tq2_0(block: &[u8], t: usize, out: &mut Tile) {
    let bytes = &block[t / 4 * 32..][..32];
    for (code, byte) in out.code.iter_mut().zip(bytes) {
        *code = ((byte >> (t % 4 * 2)) & 3) as i8 - 1;
    }
    out.scale = [f16_at(block, 64); 2];
    out.min = [0.0; 2];
}

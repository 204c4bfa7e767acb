//! One file per encoding or per tight family. To add an encoding, write its file and name it in [`ALL`].
//!
//! Layouts are those of ggml (ggml-common.h); the PyPI package `gguf` is the reference for values. A decoder is
//! one function, the integer form of a tile: multiplying it out performs the very f32 operations of the
//! reference, because every scale there is applied as one f32 factor of an integer.

mod affine_k;
mod basic;
mod fit;
mod fit_k;
mod float;
mod fp4;
pub(crate) mod grids;
mod iq1;
mod iq2;
mod iq3;
pub(crate) mod iq4;
mod symmetric_k;
mod ternary;

#[cfg(test)]
mod quantize_tests;
#[cfg(test)]
mod tile_tests;

use super::encoding::{Encoding, Field, Scheme, TILE, Tile};
use half::f16;

/// Elements of a super-block: ggml's QK_K.
const SUPER: usize = 256;

/// Every encoding that the library computes with.
pub(super) static ALL: &[&Encoding] = &[
    &float::F32,
    &float::F16,
    &float::BF16,
    &basic::Q4_0,
    &basic::Q4_1,
    &basic::Q5_0,
    &basic::Q5_1,
    &basic::Q8_0,
    &affine_k::Q2_K,
    &symmetric_k::Q3_K,
    &affine_k::Q4_K,
    &affine_k::Q5_K,
    &symmetric_k::Q6_K,
    &ternary::TQ1_0,
    &ternary::TQ2_0,
    &fp4::MXFP4,
    &fp4::NVFP4,
    &iq2::IQ2_XXS,
    &iq2::IQ2_XS,
    &iq2::IQ2_S,
    &iq3::IQ3_XXS,
    &iq3::IQ3_S,
    &iq1::IQ1_S,
    &iq1::IQ1_M,
    &iq4::IQ4_NL,
    &iq4::IQ4_XS,
];

/// A field of `len` bytes interleaved in units of `unit` bytes.
const fn field(len: usize, unit: usize) -> Field {
    Field { len, unit }
}

/// The f16 at byte `at` of a block.
fn f16_at(block: &[u8], at: usize) -> f32 {
    f16::from_bits(u16_at(block, at)).to_f32()
}

/// The little-endian 16-bit number at byte `at`.
fn u16_at(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// The little-endian 32-bit number at byte `at`.
fn u32_at(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// Stores `value` as f16 at byte `at`.
fn put_f16(block: &mut [u8], at: usize, value: f16) {
    block[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

/// A tile to be filled in.
const EMPTY: Tile = Tile { code: [0; TILE], scale: [0.0; 2], min: [0.0; 2] };

/// Decodes a block of an encoding without offsets: `scale * code`.
fn symmetric(block: &[u8], out: &mut [f32], tile: fn(&[u8], usize, &mut Tile)) {
    let mut decoded = EMPTY;
    for (t, out) in out.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
        tile(block, t, &mut decoded);
        for (i, value) in out.iter_mut().enumerate() {
            *value = decoded.scale[i / 16] * f32::from(decoded.code[i]);
        }
    }
}

/// Decodes a block of an encoding with offsets: `scale * code + min`. Not used where there are none, because
/// adding 0 would turn -0 into +0.
fn affine(block: &[u8], out: &mut [f32], tile: fn(&[u8], usize, &mut Tile)) {
    let mut decoded = EMPTY;
    for (t, out) in out.as_chunks_mut::<TILE>().0.iter_mut().enumerate() {
        tile(block, t, &mut decoded);
        for (i, value) in out.iter_mut().enumerate() {
            *value = decoded.scale[i / 16] * f32::from(decoded.code[i]) + decoded.min[i / 16];
        }
    }
}

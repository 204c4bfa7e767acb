//! F32, F16 and BF16: blocks of one element, no integer form. Their `dequantize` and `quantize` take any number
//! of elements at once.

use super::{Encoding, Scheme, field};
use half::{bf16, f16};

/// IEEE 754 binary32, little-endian. Quantising copies the bits, NaN and infinities included.
pub(super) static F32: Encoding = Encoding {
    name: "f32",
    ggml_type: 0,
    block_len: 1,
    block_bytes: 4,
    fields: &[field(4, 4)],
    dequantize: |block, out| {
        for (out, bytes) in out.iter_mut().zip(block.as_chunks().0) {
            *out = f32::from_le_bytes(*bytes);
        }
    },
    quantize: Some(|x, _, block| {
        for (x, bytes) in x.iter().zip(block.as_chunks_mut().0) {
            *bytes = x.to_le_bytes();
        }
    }),
    tile: None,
    scheme: Scheme::PLAIN,
    division: None,
};

/// IEEE 754 binary16. Quantising rounds to the nearest, ties to even; NaN becomes 0 and what is out of range
/// the largest finite value.
pub(super) static F16: Encoding = Encoding {
    name: "f16",
    ggml_type: 1,
    block_len: 1,
    block_bytes: 2,
    fields: &[field(2, 2)],
    dequantize: |block, out| {
        for (out, bytes) in out.iter_mut().zip(block.as_chunks().0) {
            *out = f16::from_le_bytes(*bytes).to_f32();
        }
    },
    quantize: Some(|x, _, block| {
        for (x, bytes) in x.iter().zip(block.as_chunks_mut().0) {
            *bytes = f16::from_f32(bounded(*x, f16::MAX.to_f32())).to_le_bytes();
        }
    }),
    tile: None,
    scheme: Scheme::PLAIN,
    division: None,
};

/// The upper half of binary32. Quantising rounds to the nearest, ties to even; NaN becomes 0 and what is out of
/// range the largest finite value.
pub(super) static BF16: Encoding = Encoding {
    name: "bf16",
    ggml_type: 30,
    block_len: 1,
    block_bytes: 2,
    fields: &[field(2, 2)],
    dequantize: |block, out| {
        for (out, bytes) in out.iter_mut().zip(block.as_chunks().0) {
            *out = bf16::from_le_bytes(*bytes).to_f32();
        }
    },
    quantize: Some(|x, _, block| {
        for (x, bytes) in x.iter().zip(block.as_chunks_mut().0) {
            *bytes = bf16::from_f32(bounded(*x, bf16::MAX.to_f32())).to_le_bytes();
        }
    }),
    tile: None,
    scheme: Scheme::PLAIN,
    division: None,
};

/// `x` within `±limit`; 0 for NaN.
fn bounded(x: f32, limit: f32) -> f32 {
    if x.is_nan() { 0.0 } else { x.clamp(-limit, limit) }
}

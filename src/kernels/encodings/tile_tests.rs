//! The integer form says the same as the decoded values.

use super::*;
use proptest::prelude::*;

/// Encodings whose sub-blocks are of 16 elements: a tile has two scales there.
const TWO_SCALES: &[&str] = &["q2_k", "q3_k", "q6_k", "nvfp4", "iq2_xs", "iq2_s", "iq1_m"];

#[test]
fn floats_alone_have_no_tiles() {
    for enc in ALL {
        assert_eq!(enc.tile.is_none(), enc.block_len == 1, "{}", enc.name);
        assert!(enc.block_len == 1 || enc.block_len.is_multiple_of(TILE), "{}", enc.name);
    }
}

#[test]
fn names_and_numbers_are_unique() {
    for (i, a) in ALL.iter().enumerate() {
        for b in &ALL[..i] {
            assert!(a.name != b.name && a.ggml_type != b.ggml_type, "{} {}", a.name, b.name);
        }
    }
}

#[test]
fn sign_indices_have_even_parity() {
    for index in 0..128 {
        assert_eq!(grids::even_signs(index) & 0x7f, index);
        assert_eq!(grids::even_signs(index).count_ones() % 2, 0);
    }
}

proptest! {
    /// No tolerance: both forms round the same products and sums. Values that are not finite are left out.
    #[test]
    fn tiles_multiply_out_to_the_decoded_values(bytes in prop::collection::vec(any::<u8>(), 256)) {
        for enc in ALL {
            let Some(tile) = enc.tile else { continue };
            let block = &bytes[..enc.block_bytes];
            let mut values = vec![0.0; enc.block_len];
            (enc.dequantize)(block, &mut values);
            for (t, values) in values.chunks(TILE).enumerate() {
                let mut out = EMPTY;
                tile(block, t, &mut out);
                for (i, value) in values.iter().enumerate() {
                    let product = out.scale[i / 16] * f32::from(out.code[i]) + out.min[i / 16];
                    let same = product == *value || !value.is_finite();
                    prop_assert!(same, "{} tile {t} element {i}: {product} is not {value}", enc.name);
                }
                if !TWO_SCALES.contains(&enc.name) {
                    prop_assert_eq!(out.scale[0].to_bits(), out.scale[1].to_bits(), "{}", enc.name);
                    prop_assert_eq!(out.min[0].to_bits(), out.min[1].to_bits(), "{}", enc.name);
                }
            }
        }
    }
}

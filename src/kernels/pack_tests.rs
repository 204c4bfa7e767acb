//! Packing is undone exactly, for every encoding and any number of rows.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::kernels::encoding::all;
use proptest::prelude::*;

/// `n` bytes that no two rows, blocks or fields share by accident.
fn noise(n: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let step = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(step).take(n).collect()
}

/// The layout as the module's text defines it, one byte at a time.
fn packed_by_definition(enc: &Encoding, cols: usize, rows: &[u8]) -> Vec<u8> {
    let row = row_bytes(enc, cols).unwrap();
    let n = rows.len() / row;
    let mut out = vec![0; packed_len(enc, n, cols).unwrap()];
    for r in 0..n {
        for b in 0..cols / enc.block_len {
            let mut offset = 0;
            for field in enc.fields {
                for i in 0..field.len {
                    let (u, byte) = (i / field.unit, i % field.unit);
                    let at = r / GROUP * GROUP * row
                        + b * GROUP * enc.block_bytes
                        + GROUP * (offset + u * field.unit)
                        + r % GROUP * field.unit
                        + byte;
                    out[at] = rows[r * row + b * enc.block_bytes + offset + i];
                }
                offset += field.len;
            }
        }
    }
    out
}

#[test]
fn fields_cover_the_block() {
    for enc in all() {
        assert_eq!(enc.fields.iter().map(|f| f.len).sum::<usize>(), enc.block_bytes, "{}", enc.name);
        assert!(enc.fields.iter().all(|f| f.len % f.unit == 0), "{}", enc.name);
        assert!(enc.block_bytes <= BLOCK_ROOM, "{}", enc.name);
    }
}

#[test]
fn padding_rows_are_zero_bytes_and_decode_finite() {
    for enc in all() {
        let mut out = vec![f32::NAN; enc.block_len];
        (enc.dequantize)(&vec![0; enc.block_bytes], &mut out);
        assert!(out.iter().all(|v| v.is_finite()), "{}", enc.name);
    }
}

#[test]
fn wrong_lengths_are_refused() {
    let enc = crate::kernels::encoding::by_name("q4_k").unwrap();
    assert_eq!(row_bytes(enc, 255), None);
    assert_eq!(packed_len(enc, usize::MAX, 256), None);
    assert_eq!(packed_len(enc, 1 << 40, 1 << 40), None);
    let mut out = vec![0; 8 * 144];
    assert!(pack(enc, 256, &[0; 143], &mut out).is_err());
    assert!(pack(enc, 256, &[0; 144], &mut out[1..]).is_err());
    assert!(pack(enc, 100, &[0; 144], &mut out).is_err());
    assert!(unpack(enc, 256, 9, &out, &mut [0; 144 * 9]).is_err());
    assert!(unpack(enc, 256, 1, &out, &mut [0; 143]).is_err());
    assert!(unpack_block(enc, &out, 256, 8, 0, &mut [0; 144]).is_err());
    assert!(unpack_block(enc, &out, 256, 0, 1, &mut [0; 144]).is_err());
    assert!(dequantize_row(enc, &out, 8, 256, 8, &mut [0.0; 256]).is_err());
    assert!(dequantize_row(enc, &out, 8, 256, 0, &mut [0.0; 255]).is_err());
    assert!(pack(enc, 0, &[], &mut []).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn packing_is_undone(n in 1usize..20, blocks in 1usize..4, extra in 0usize..300, seed: u64) {
        for enc in all() {
            // Enough elements of the float encodings to cross the boundary of a gathered run.
            let cols = if enc.block_len == 1 { blocks + extra } else { blocks * enc.block_len };
            let row = row_bytes(enc, cols).unwrap();
            let rows = noise(n * row, seed);
            let mut packed = vec![0xa5; packed_len(enc, n, cols).unwrap()];
            pack(enc, cols, &rows, &mut packed).unwrap();
            prop_assert!(packed == packed_by_definition(enc, cols, &rows), "{}", enc.name);

            let mut back = vec![0; rows.len()];
            unpack(enc, cols, n, &packed, &mut back).unwrap();
            prop_assert!(back == rows, "{}", enc.name);

            let (r, b) = (seed as usize % n, seed as usize / 32 % (cols / enc.block_len));
            let group = &packed[r / GROUP * GROUP * row..][..GROUP * row];
            let mut block = vec![0; enc.block_bytes];
            unpack_block(enc, group, cols, r % GROUP, b, &mut block).unwrap();
            prop_assert_eq!(&block, &rows[r * row + b * enc.block_bytes..][..enc.block_bytes]);

            let (mut values, mut expected) = (vec![0.0; cols], vec![0.0; cols]);
            dequantize_row(enc, &packed, n, cols, r, &mut values).unwrap();
            enc.decode(&rows[r * row..][..row], &mut expected).unwrap();
            let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
            prop_assert!(values.iter().zip(&expected).all(same), "{}", enc.name);
        }
    }
}

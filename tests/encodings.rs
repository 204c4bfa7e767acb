//! Every encoding decodes to the bits that the PyPI package `gguf` decodes to. The file of expected values and its
//! format come from `tests/tools/gguf_golden.py`.
#![allow(clippy::unwrap_used)]

use capsulegraph::kernels::encoding::{all, by_ggml_type, by_name, ggml_type_name};

const GOLDEN: &[u8] = include_bytes!("data/encodings.golden");
/// Blocks under one digest.
const SERIES: usize = 32;

/// Reads the golden file front to back.
struct Reader(&'static [u8]);

impl Reader {
    fn take(&mut self, n: usize) -> &'static [u8] {
        let (head, tail) = self.0.split_at(n);
        self.0 = tail;
        head
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().unwrap())
    }
}

/// The bits of a value, the same for every NaN.
fn bits(value: f32) -> u32 {
    if value.is_nan() { 0x7fc0_0000 } else { value.to_bits() }
}

fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn values_equal_those_of_gguf() {
    let mut file = Reader(GOLDEN);
    assert_eq!(file.take(8), b"CGGOLD1\n");
    let mut seen = Vec::new();
    while !file.0.is_empty() {
        let number = file.u32();
        let enc = by_ggml_type(number).unwrap();
        assert_eq!(
            (file.u32() as usize, file.u32() as usize),
            (enc.block_len, enc.block_bytes),
            "{}",
            enc.name
        );
        seen.push(enc.name);

        let mut values = vec![0.0; enc.block_len];
        for n in 0..file.u32() {
            enc.decode(file.take(enc.block_bytes), &mut values).unwrap();
            for (i, value) in values.iter().enumerate() {
                let expected = f32::from_bits(file.u32());
                assert_eq!(
                    bits(*value),
                    bits(expected),
                    "{} block {n} element {i}: {value} {expected}",
                    enc.name
                );
            }
        }

        let digests = file.u32() as usize;
        let size = digests * SERIES * enc.block_bytes;
        let mut state = u64::from(number);
        let stream: Vec<u8> =
            (0..size.div_ceil(8)).flat_map(|_| splitmix64(&mut state).to_le_bytes()).collect();
        let mut values = vec![0.0; SERIES * enc.block_len];
        for (n, blocks) in stream[..size].chunks_exact(SERIES * enc.block_bytes).enumerate() {
            enc.decode(blocks, &mut values).unwrap();
            let fold =
                |state: u64, value: &f32| (state ^ u64::from(bits(*value))).wrapping_mul(0x100_0000_01b3);
            let digest = values.iter().fold(0xcbf2_9ce4_8422_2325, fold);
            assert_eq!(digest, file.u64(), "{} series {n}", enc.name);
        }
    }
    for enc in all() {
        assert!(seen.contains(&enc.name), "{} is not in the golden file", enc.name);
    }
}

#[test]
fn types_are_found_by_name_and_number() {
    assert_eq!(by_name("Q4_K").unwrap().ggml_type, 12);
    assert_eq!(by_ggml_type(30).unwrap().name, "bf16");
    assert_eq!(ggml_type_name(12), Some("q4_k"));
    assert_eq!(ggml_type_name(26), Some("i32"));
    assert!(by_ggml_type(26).is_none() && by_name("i32").is_none() && ggml_type_name(9999).is_none());
}

#[test]
fn lengths_that_do_not_belong_together_are_refused() {
    let enc = by_name("q4_0").unwrap();
    assert!(enc.decode(&[0; 18], &mut [0.0; 31]).is_err());
    assert!(enc.decode(&[0; 17], &mut [0.0; 32]).is_err());
    assert!(enc.encode(&[0.0; 32], Some(&[1.0; 31]), &mut [0; 18]).is_err());
    assert!(by_name("iq1_s").unwrap().encode(&[0.0; 256], None, &mut [0; 50]).is_err());
}

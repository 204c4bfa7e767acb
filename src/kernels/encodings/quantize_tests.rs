//! Quantisers: never worse than plain rounding, finite for any input, the same every time.
#![allow(clippy::unwrap_used)]

use super::super::encoding::by_name;
use super::*;
use proptest::prelude::*;

/// What plain rounding does with `block`: codes of `levels` steps between the ends of each `sub` elements.
struct Plain {
    name: &'static str,
    sub: usize,
    /// Codes lie in `lo..=hi`; the largest element gets `lo`. With `min`, codes start at the least element.
    lo: f32,
    hi: f32,
    min: bool,
    /// Largest sub-scale, where scales are integers times a factor.
    top: Option<f32>,
}

const PLAIN: &[Plain] = &[
    Plain { name: "q4_0", sub: 32, lo: -8.0, hi: 7.0, min: false, top: None },
    Plain { name: "q4_1", sub: 32, lo: 0.0, hi: 15.0, min: true, top: None },
    Plain { name: "q5_0", sub: 32, lo: -16.0, hi: 15.0, min: false, top: None },
    Plain { name: "q5_1", sub: 32, lo: 0.0, hi: 31.0, min: true, top: None },
    Plain { name: "q8_0", sub: 32, lo: -127.0, hi: 127.0, min: false, top: None },
    Plain { name: "q2_k", sub: 16, lo: 0.0, hi: 3.0, min: true, top: Some(15.0) },
    Plain { name: "q3_k", sub: 16, lo: -4.0, hi: 3.0, min: false, top: Some(32.0) },
    Plain { name: "q4_k", sub: 32, lo: 0.0, hi: 15.0, min: true, top: Some(63.0) },
    Plain { name: "q5_k", sub: 32, lo: 0.0, hi: 31.0, min: true, top: Some(63.0) },
    Plain { name: "q6_k", sub: 16, lo: -32.0, hi: 31.0, min: false, top: Some(128.0) },
    Plain { name: "iq4_nl", sub: 32, lo: -127.0, hi: 113.0, min: false, top: None },
];

impl Plain {
    /// Rounds 256 elements the plain way; scales and offsets are not even rounded to f16.
    fn round(&self, x: &[f32]) -> Vec<f32> {
        let line = |x: &[f32]| {
            let (low, high) = x.iter().fold((0f32, 0f32), |(l, h), v| (l.min(*v), h.max(*v)));
            let peak = if high > -low { high } else { low };
            if self.min { ((high - low) / self.hi, low) } else { (peak / self.lo, 0.0) }
        };
        let lines: Vec<_> = x.chunks(self.sub).map(line).collect();
        let steps = |pick: fn(&(f32, f32)) -> f32| {
            let top = lines.iter().map(pick).fold(0f32, |a, b| a.max(b.abs()));
            self.top.map_or(0.0, |levels| top / levels)
        };
        let (step, min_step) = (steps(|l| l.0), steps(|l| l.1));
        let snap = |v: f32, step: f32| if step > 0.0 { (v / step).round() * step } else { v };
        let mut out = Vec::new();
        for (x, (scale, min)) in x.chunks(self.sub).zip(&lines) {
            let (scale, min) = (snap(*scale, step), snap(*min, min_step));
            out.extend(x.iter().map(|x| {
                let q = if scale == 0.0 { 0.0 } else { (x - min) / scale };
                scale * self.code(q) + min
            }));
        }
        out
    }

    fn code(&self, q: f32) -> f32 {
        if self.name == "iq4_nl" {
            let distance = |v: &&i8| (q - f32::from(**v)).abs();
            return f32::from(
                *iq4::VALUES.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap(),
            );
        }
        q.round().clamp(self.lo, self.hi)
    }
}

/// Standard normal numbers from a fixed stream; with `heavy`, divided by a uniform number (a slash
/// distribution cut at 20), whose tails are those of outlier-laden weights.
fn sample(n: usize, heavy: bool) -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 + 0.5) / 16_777_216.0
    };
    let mut normal = move || {
        let sum: f32 = (0..12).map(|_| uniform()).sum();
        let value = sum - 6.0;
        if heavy { (value / uniform().max(0.05)) * 0.02 } else { value * 0.02 }
    };
    (0..n).map(|_| normal()).collect()
}

fn error(x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(x, y)| f64::from(x - y).powi(2)).sum()
}

fn round_trip(enc: &Encoding, x: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
    let mut bytes = vec![0; enc.row_bytes(x.len()).unwrap()];
    enc.encode(x, importance, &mut bytes).unwrap();
    let mut out = vec![0.0; x.len()];
    enc.decode(&bytes, &mut out).unwrap();
    out
}

#[test]
fn search_beats_plain_rounding() {
    for heavy in [false, true] {
        let x = sample(256 * 256, heavy);
        let energy = error(&x, &vec![0.0; x.len()]);
        for plain in PLAIN {
            let enc = by_name(plain.name).unwrap();
            let searched = error(&x, &round_trip(enc, &x, None));
            let rounded: Vec<f32> = x.chunks(256).flat_map(|x| plain.round(x)).collect();
            let rounded = error(&x, &rounded);
            let rmse = |error: f64| (error / energy).sqrt();
            println!("{} heavy {heavy}: {:.6}, plain {:.6}", plain.name, rmse(searched), rmse(rounded));
            // Plain rounding is given unrounded factors: at eight bits there is nothing else to gain.
            assert!(searched <= rounded, "{}: {searched} is worse than {rounded}", plain.name);
        }
    }
}

#[test]
fn important_elements_are_kept_better() {
    let x = sample(256 * 64, true);
    let importance: Vec<f32> = (0..x.len()).map(|i| if i % 5 == 0 { 100.0 } else { 1.0 }).collect();
    let weighted = |y: &[f32]| -> f64 {
        x.iter().zip(y).zip(&importance).map(|((x, y), w)| f64::from(*w) * f64::from(x - y).powi(2)).sum()
    };
    for plain in PLAIN {
        let enc = by_name(plain.name).unwrap();
        let (with, without) = (round_trip(enc, &x, Some(&importance)), round_trip(enc, &x, None));
        assert!(weighted(&with) < weighted(&without), "{}", plain.name);
    }
}

/// Blocks that a search may stumble over: nothing, one value, tiny, subnormal, huge, not numbers.
fn odd_blocks() -> Vec<Vec<f32>> {
    let ramp = |scale: f32| (0..256).map(|i| (i as f32 - 100.0) * scale).collect::<Vec<_>>();
    let mut spike = vec![0.0; 256];
    spike[7] = -3.0;
    let mut broken = ramp(1.0);
    broken[3] = f32::NAN;
    broken[40] = f32::INFINITY;
    broken[200] = f32::NEG_INFINITY;
    let constants = [0.0, -0.0, 1.0, -1.0, 1e-45, 1e-30, 3e-8, 65504.0, -1e9, f32::MAX, f32::MIN, f32::NAN];
    let mut blocks: Vec<_> = constants.iter().map(|v| vec![*v; 256]).collect();
    blocks.extend([1e-45, 1e-40, 1e-12, 1e-9, 1e-7, 1e-3, 1.0, 600.0, 1e6, 1e20, 1e36].map(ramp));
    blocks.extend([spike, broken]);
    blocks
}

#[test]
fn odd_blocks_stay_finite() {
    for enc in ALL.iter().filter(|enc| enc.quantize.is_some() && enc.name != "f32") {
        for x in odd_blocks() {
            for weight in [1.0, 0.0, 1e-38, f32::MAX, f32::NAN, f32::INFINITY, -1.0] {
                let mut importance = vec![weight; 256];
                importance[9] = 0.0;
                for importance in [None, Some(&importance[..])] {
                    let out = round_trip(enc, &x, importance);
                    assert!(out.iter().all(|v| v.is_finite()), "{} {weight} {:?}", enc.name, &x[..4]);
                }
            }
        }
    }
}

#[test]
fn zeros_stay_zeros_and_codes_in_reach_are_found() {
    for plain in PLAIN {
        let enc = by_name(plain.name).unwrap();
        assert!(round_trip(enc, &[0.0; 256], None).iter().all(|v| *v == 0.0), "{}", plain.name);
        // Three levels, of which the middle is zero, are in every encoding with codes around zero; scales are still rounded.
        if plain.name != "iq4_nl" && !plain.min {
            let x: Vec<f32> = (0..256).map(|i| (i % 3) as f32 - 1.0).collect();
            let left = error(&x, &round_trip(enc, &x, None));
            assert!(left < 1e-3, "{}: {left}", plain.name);
        }
    }
}

#[test]
fn floats_round_to_nearest_even_and_stay_in_range() {
    let f16 = by_name("f16").unwrap();
    let bf16 = by_name("bf16").unwrap();
    let x = [1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 1e9, -1e9, f32::NAN];
    assert_eq!(round_trip(f16, &x, None), [1.0, 1.0 + 4.0 / 2048.0, 65504.0, -65504.0, 0.0]);
    let x = [1.0 + 1.0 / 256.0, f32::MAX, f32::NEG_INFINITY];
    let top = half::bf16::MAX.to_f32();
    assert_eq!(round_trip(bf16, &x, None), [1.0, top, -top]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the magnitude, f16 scales in reach or not: never worse than storing zeros.
    #[test]
    fn any_block_is_finite_and_no_worse_than_zeros(
        x in prop::collection::vec(-1e4f32..1e4, 256),
        power in -30i32..30,
    ) {
        let x: Vec<f32> = x.iter().map(|v| v * 2f32.powi(power)).collect();
        for plain in PLAIN {
            let enc = by_name(plain.name).unwrap();
            let out = round_trip(enc, &x, None);
            prop_assert!(out.iter().all(|v| v.is_finite()), "{}", plain.name);
            prop_assert!(error(&x, &out) <= error(&x, &[0.0; 256]) * 1.0001, "{}", plain.name);
            prop_assert_eq!(&out, &round_trip(enc, &x, None));
        }
    }

    /// Any bit pattern as input.
    #[test]
    fn any_bits_stay_finite(x in prop::collection::vec(any::<u32>(), 256)) {
        let x: Vec<f32> = x.iter().map(|bits| f32::from_bits(*bits)).collect();
        for plain in PLAIN {
            let out = round_trip(by_name(plain.name).unwrap(), &x, None);
            prop_assert!(out.iter().all(|v| v.is_finite()), "{}", plain.name);
        }
    }
}

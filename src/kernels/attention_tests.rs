//! Tests of attention and of the element-wise operations, over all instruction sets of the machine.

use super::backend::{AttentionShape, Backend};
use super::cpu::{Cpu, Isa};
use super::math::{f16_to_f32, f32_to_f16};
use super::matmul_tests::{Random, cpu, isas, same};
use crate::pool::{Gate, Progress};

/// Inputs of an attention call.
struct Case {
    shape: AttentionShape,
    q: Vec<f32>,
    keys: Vec<u16>,
    values: Vec<u16>,
}

impl Case {
    fn random(shape: AttentionShape, random: &mut Random) -> Self {
        let q = random.floats(shape.n * shape.heads * shape.key_dim).iter().map(|v| v * 4.0).collect();
        let mut cache = |dim: usize| -> Vec<u16> {
            (0..shape.kv_heads * shape.capacity * dim).map(|_| f32_to_f16(random.float())).collect()
        };
        let keys = cache(shape.key_dim);
        let values = cache(shape.value_dim);
        Self { shape, q, keys, values }
    }

    fn run(&self, cpu: &Cpu) -> Vec<f32> {
        let s = &self.shape;
        let mut out = vec![f32::NAN; s.n * s.heads * s.value_dim];
        let progress = cpu.attention(&Gate::open(), 0, s, &self.q, &self.keys, &self.values, &mut out);
        assert_eq!(progress, Progress::Done);
        out
    }

    /// The call for token `t` alone.
    fn token(&self, t: usize) -> Self {
        let mut shape = self.shape;
        (shape.start, shape.n) = (shape.start + t, 1);
        let width = shape.heads * shape.key_dim;
        let q = self.q[t * width..][..width].to_vec();
        Self { shape, q, keys: self.keys.clone(), values: self.values.clone() }
    }

    fn exact(&self) -> Vec<f64> {
        let s = &self.shape;
        let mut out = Vec::new();
        for (i, q) in self.q.chunks(s.key_dim).enumerate() {
            let (t, kv) = (i / s.heads, i % s.heads / (s.heads / s.kv_heads));
            let seen = s.start + t + 1;
            let row = |cache: &[u16], j: usize, dim: usize| -> Vec<f64> {
                let row = &cache[(kv * s.capacity + j) * dim..][..dim];
                row.iter().map(|h| f64::from(f16_to_f32(*h))).collect()
            };
            let score = |j: usize| {
                let key = row(&self.keys, j, s.key_dim);
                q.iter().zip(key).map(|(q, k)| f64::from(*q) * k).sum::<f64>() * f64::from(s.scale)
            };
            let scores: Vec<f64> = (0..seen).map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|v| libm::exp(v - max)).collect();
            let sum: f64 = weights.iter().sum();
            let mut mixed = vec![0.0; s.value_dim];
            for (j, w) in weights.iter().enumerate() {
                mixed.iter_mut().zip(row(&self.values, j, s.value_dim)).for_each(|(m, v)| *m += w * v / sum);
            }
            out.extend(mixed);
        }
        out
    }
}

/// Heads, key heads, key and value dimension, start, tokens.
const SHAPES: [[usize; 6]; 9] = [
    [1, 1, 8, 8, 0, 1],
    [3, 1, 64, 64, 0, 70],
    [9, 3, 64, 64, 100, 1],
    [4, 4, 20, 12, 5, 9],
    [4, 2, 33, 47, 63, 6],
    [8, 1, 128, 96, 200, 3],
    [6, 2, 7, 5, 0, 19],
    [2, 2, 256, 64, 127, 2],
    [5, 1, 16, 16, 64, 33],
];

fn shape([heads, kv_heads, key_dim, value_dim, start, n]: [usize; 6]) -> AttentionShape {
    let scale = 1.0 / (key_dim as f32).sqrt();
    AttentionShape { heads, kv_heads, key_dim, value_dim, capacity: start + n + 3, start, n, scale }
}

#[test]
fn attention_is_right_and_the_same_everywhere() {
    let mut random = Random(11);
    for numbers in SHAPES {
        let case = Case::random(shape(numbers), &mut random);
        let expected = case.run(&cpu(1, Isa::Scalar));
        for (got, exact) in expected.iter().zip(case.exact()) {
            assert!((f64::from(*got) - exact).abs() < 1e-5, "{numbers:?}: {got} instead of {exact}");
        }
        for isa in isas() {
            for threads in [1, 2, 4] {
                assert!(
                    same(&expected, &case.run(&cpu(threads, isa))),
                    "{numbers:?} {isa} {threads} threads"
                );
            }
            let cpu = cpu(2, isa);
            let single: Vec<f32> = (0..case.shape.n).flat_map(|t| case.token(t).run(&cpu)).collect();
            assert!(same(&expected, &single), "{numbers:?} {isa} token by token");
        }
    }
}

#[test]
fn paused_attention_resumes_to_the_same_bits() {
    let mut random = Random(12);
    let case = Case::random(shape([9, 3, 64, 64, 30, 40]), &mut random);
    let s = &case.shape;
    for isa in isas() {
        let cpu = cpu(1, isa);
        let expected = case.run(&cpu);
        let mut out = vec![f32::NAN; expected.len()];
        let (mut from, mut pauses) = (0, 0u64);
        loop {
            let deadline = std::time::Instant::now() + std::time::Duration::from_micros(pauses % 5 * 10);
            let gate = Gate { deadline: Some(deadline), cancel: None };
            match cpu.attention(&gate, from, s, &case.q, &case.keys, &case.values, &mut out) {
                Progress::Done => break,
                Progress::Paused(next) => from = next,
            }
            pauses += 1;
        }
        assert!(pauses > 0 && same(&out, &expected), "{isa}");
    }
}

#[test]
fn infinities_and_nan_stay_with_their_token() {
    let mut random = Random(13);
    let mut case = Case::random(shape([4, 2, 16, 16, 3, 12]), &mut random);
    // The last position is infinite: no earlier token may notice.
    let last = case.shape.start + case.shape.n - 1;
    case.values[last * 16] = f32_to_f16(f32::INFINITY);
    case.keys[last * 16] = f32_to_f16(f32::NAN);
    let expected = case.run(&cpu(1, Isa::Scalar));
    let before = (case.shape.n - 1) * 4 * 16;
    assert!(expected[..before].iter().all(|v| v.is_finite()) && expected[before].is_nan());
    for isa in isas() {
        assert!(same(&expected, &case.run(&cpu(2, isa))), "{isa}");
    }
}

#[test]
fn norms_are_right_and_the_same_everywhere() {
    let mut random = Random(14);
    for (n, k) in [(1, 576), (3, 7), (2, 45), (70, 576)] {
        let (x, weight) = (random.floats(n * k), random.floats(k));
        let run = |isa: Isa| {
            let mut out = vec![0.0; n * k];
            cpu(2, isa).rms_norm(&x, &weight, 1e-5, &mut out);
            out
        };
        let expected = run(Isa::Scalar);
        for (x, out) in x.chunks(k).zip(expected.chunks(k)) {
            let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / k as f64;
            let factor = 1.0 / (mean + f64::from(1e-5f32)).sqrt();
            for ((x, w), o) in x.iter().zip(&weight).zip(out) {
                let exact = f64::from(*x) * f64::from(*w) * factor;
                assert!((f64::from(*o) - exact).abs() <= 3e-7 * exact.abs() + 1e-30);
            }
        }
        assert!(isas().all(|isa| same(&expected, &run(isa))));
    }
}

#[test]
fn rope_is_right_and_the_same_everywhere() {
    let mut random = Random(15);
    for (n, heads, dim, pairs) in
        [(1, 9, 64, 32), (5, 2, 64, 16), (3, 3, 10, 5), (90, 9, 64, 32), (2, 1, 12, 3)]
    {
        let x = random.floats(n * heads * dim);
        let (cos, sin) = (random.floats(n * pairs), random.floats(n * pairs));
        let run = |isa: Isa| {
            let mut out = x.clone();
            cpu(2, isa).rope(&mut out, heads, dim, &cos, &sin);
            out
        };
        let expected = run(Isa::Scalar);
        for (i, (v, o)) in x.iter().zip(&expected).enumerate() {
            let (t, d) = (i / (heads * dim), i % dim);
            if d >= 2 * pairs {
                assert_eq!(v, o);
                continue;
            }
            let (c, s) = (cos[t * pairs + d / 2], sin[t * pairs + d / 2]);
            let exact = if d % 2 == 0 { v * c - x[i + 1] * s } else { v * c + x[i - 1] * s };
            assert!((exact - o).abs() < 1e-6);
        }
        assert!(isas().all(|isa| same(&expected, &run(isa))), "{n} {heads} {dim} {pairs}");
    }
}

#[test]
fn caches_swiglu_and_sums_are_the_same_everywhere() {
    let mut random = Random(16);
    for (n, heads, dim) in [(1, 3, 64), (7, 2, 13), (200, 3, 64)] {
        let x: Vec<f32> = random.floats(n * heads * dim).iter().map(|v| v * 1000.0).collect();
        let y = random.floats(x.len());
        let run = |isa: Isa| {
            let cpu = cpu(2, isa);
            let capacity = n + 5;
            let mut cache = vec![0; heads * capacity * dim];
            cpu.store_kv(&x, heads, dim, capacity, 2, &mut cache);
            let (mut gate, mut sum) = (x.clone(), x.clone());
            cpu.swiglu(&mut gate, &y);
            cpu.add(&mut sum, &y);
            (cache, gate, sum)
        };
        let expected = run(Isa::Scalar);
        let (t, h, d) = (n - 1, heads - 1, dim - 1);
        let stored = expected.0[(h * (n + 5) + 2 + t) * dim + d];
        assert_eq!(stored, half::f16::from_f32(x[(t * heads + h) * dim + d]).to_bits());
        for ((x, y), g) in x.iter().zip(&y).zip(&expected.1) {
            let exact = f64::from(*x) / (1.0 + libm::exp(-f64::from(*x))) * f64::from(*y);
            assert!(
                (f64::from(*g) - exact).abs() <= 1e-6 * exact.abs() + 1e-30,
                "silu({x}) * {y} = {g}, not {exact}"
            );
        }
        for isa in isas() {
            let got = run(isa);
            assert!(got.0 == expected.0 && same(&got.1, &expected.1) && same(&got.2, &expected.2), "{isa}");
        }
    }
}

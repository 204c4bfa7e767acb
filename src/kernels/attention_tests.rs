//! Tests of attention and of the element-wise operations, over all instruction sets of the machine.

use super::attention::CHUNK;
use super::backend::{AttentionWork, Backend, Queries};
use super::cpu::{Cpu, Isa};
use super::kv::{KvFormat, KvLayer, KvShape};
use super::matmul_tests::{Random, cpu, isas, same};
use super::plan::{AttentionCut, AttentionSize};
use crate::pool::{Gate, Progress};

/// Inputs of an attention call.
struct Case {
    numbers: [usize; 6],
    q: Vec<f32>,
    /// `[positions, kv_heads * dim]`.
    keys: Vec<f32>,
    values: Vec<f32>,
    cache: KvLayer,
}

impl Case {
    fn random(numbers: [usize; 6], format: KvFormat, random: &mut Random) -> Self {
        let [heads, kv_heads, key_dim, value_dim, start, n] = numbers;
        let q = random.floats(n * heads * key_dim).iter().map(|v| v * 4.0).collect();
        let keys = random.floats((start + n) * kv_heads * key_dim);
        let values = random.floats((start + n) * kv_heads * value_dim);
        Self::new(numbers, format, q, keys, values)
    }

    fn new(numbers: [usize; 6], format: KvFormat, q: Vec<f32>, keys: Vec<f32>, values: Vec<f32>) -> Self {
        let [_, kv_heads, key_dim, value_dim, start, n] = numbers;
        let shape = KvShape { format, kv_heads, key_dim, value_dim, capacity: start + n + 3 };
        let mut cache = KvLayer::new(shape).expect("a small cache");
        cpu(1, Isa::Scalar).store_kv(0, &keys, &values, &mut cache);
        Self { numbers, q, keys, values, cache }
    }

    /// The query tokens `tokens`, of `n`.
    fn queries(&self, tokens: std::ops::Range<usize>) -> Queries<'_> {
        let [heads, _, key_dim, _, start, _] = self.numbers;
        let width = heads * key_dim;
        Queries {
            values: &self.q[tokens.start * width..tokens.end * width],
            n: tokens.len(),
            heads,
            start: start + tokens.start,
            scale: 1.0 / (key_dim as f32).sqrt(),
        }
    }

    /// The results, computed in batches of `batch` tokens.
    fn run(&self, cpu: &Cpu, batch: usize) -> Vec<f32> {
        let [heads, _, _, value_dim, _, n] = self.numbers;
        let width = heads * value_dim;
        let mut out = vec![f32::NAN; n * width];
        let mut work = AttentionWork::default();
        for (i, out) in out.chunks_mut(batch * width).enumerate() {
            let queries = self.queries(i * batch..((i + 1) * batch).min(n));
            let progress = cpu.attention(&Gate::open(), 0, &queries, &self.cache, &mut work, out);
            assert_eq!(progress, Progress::Done);
        }
        out
    }

    /// The results in f64, of the elements that the cache holds.
    fn exact(&self) -> Vec<f64> {
        let [heads, kv_heads, key_dim, value_dim, start, n] = self.numbers;
        let scale = f64::from(self.queries(0..n).scale);
        let mut out = Vec::new();
        let (mut key, mut value) = (vec![0.0; key_dim], vec![0.0; value_dim]);
        for (i, q) in self.q.chunks(key_dim).enumerate() {
            let (t, kv) = (i / heads, i % heads / (heads / kv_heads));
            let mut score = |j: usize| {
                self.cache.read_key(kv, j, &mut key);
                q.iter().zip(&key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum::<f64>() * scale
            };
            let scores: Vec<f64> = (0..start + t + 1).map(&mut score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|v| libm::exp(v - max)).collect();
            let sum: f64 = weights.iter().sum();
            let mut mixed = vec![0.0; value_dim];
            for (j, w) in weights.iter().enumerate() {
                self.cache.read_value(kv, j, &mut value);
                mixed.iter_mut().zip(&value).for_each(|(m, v)| *m += w * f64::from(*v) / sum);
            }
            out.extend(mixed);
        }
        out
    }
}

/// Heads, key heads, key and value dimension, start, tokens.
const SHAPES: [[usize; 6]; 14] = [
    [1, 1, 8, 8, 0, 1],
    [3, 1, 64, 64, 0, 70],
    [9, 3, 64, 64, 100, 1],
    [4, 4, 20, 12, 5, 9],
    [4, 2, 33, 47, 63, 6],
    [8, 1, 128, 96, 200, 3],
    [6, 2, 7, 5, 0, 19],
    [2, 2, 256, 64, 127, 2],
    [5, 1, 16, 16, 64, 33],
    // Several chunks: split among threads, and taken in order.
    [9, 3, 64, 64, 2 * CHUNK + 40, 1],
    [7, 1, 80, 100, 3 * CHUNK - 2, 4],
    [2, 1, 32, 40, CHUNK - 30, 60],
    [2, 2, 96, 112, 5 * CHUNK - 1, 1],
    [3, 1, 32, 48, 2 * CHUNK - 20, 50],
];

#[test]
fn attention_is_right_and_the_same_everywhere() {
    let mut random = Random(11);
    for (numbers, format) in SHAPES.iter().flat_map(|s| KvFormat::ALL.map(|format| (*s, format))) {
        let case = Case::random(numbers, format, &mut random);
        let n = numbers[5];
        let expected = case.run(&cpu(1, Isa::Scalar), n);
        for (got, exact) in expected.iter().zip(case.exact()) {
            assert!((f64::from(*got) - exact).abs() < 1e-5, "{numbers:?}: {got} instead of {exact}");
        }
        for isa in isas() {
            for threads in [1, 2, 5] {
                let cpu = cpu(threads, isa);
                for batch in [n, 1, 7] {
                    let name =
                        || format!("{numbers:?} {} {isa} {threads} threads, by {batch}", format.name());
                    assert!(same(&expected, &case.run(&cpu, batch)), "{}", name());
                }
            }
        }
    }
}

#[test]
fn paused_attention_resumes_to_the_same_bits() {
    let mut random = Random(12);
    for (numbers, threads) in
        [([9, 3, 64, 64, 30, 40], 1), ([4, 2, 32, 32, 3 * CHUNK, 70], 1), ([4, 2, 32, 32, 5 * CHUNK, 1], 2)]
    {
        let case = Case::random(numbers, KvFormat::F16, &mut random);
        let n = numbers[5];
        let mut total = 0;
        for isa in isas() {
            let cpu = cpu(threads, isa);
            let expected = case.run(&cpu, n);
            let (mut out, mut work) = (vec![f32::NAN; expected.len()], AttentionWork::default());
            let (mut from, mut pauses) = (0, 0u64);
            loop {
                let deadline = std::time::Instant::now() + std::time::Duration::from_micros(pauses % 5 * 10);
                let gate = Gate { deadline: Some(deadline), cancel: None };
                match cpu.attention(&gate, from, &case.queries(0..n), &case.cache, &mut work, &mut out) {
                    Progress::Done => break,
                    Progress::Paused(next) => from = next,
                }
                pauses += 1;
            }
            assert!(same(&out, &expected), "{numbers:?} {isa}");
            total += pauses;
        }
        assert!(total > 0, "{numbers:?}");
    }
}

#[test]
fn infinities_and_nan_stay_with_their_token() {
    let mut random = Random(13);
    for start in [3, CHUNK - 5, 2 * CHUNK] {
        let numbers = [4, 2, 16, 16, start, 12];
        for format in KvFormat::ALL {
            let Case { q, mut keys, mut values, .. } = Case::random(numbers, format, &mut random);
            // The last position is infinite: no earlier token may notice.
            let last = (start + 11) * 32;
            (values[last], keys[last]) = (f32::INFINITY, f32::NAN);
            let case = Case::new(numbers, format, q, keys, values);
            let expected = case.run(&cpu(1, Isa::Scalar), 12);
            let before = 11 * 4 * 16;
            assert!(expected[..before].iter().all(|v| v.is_finite()) && expected[before].is_nan());
            for isa in isas() {
                assert!(same(&expected, &case.run(&cpu(2, isa), 12)), "{start} {isa}");
            }
        }
    }
}

#[test]
fn a_chunk_of_infinitely_small_scores_weighs_nothing() {
    let numbers = [1, 1, 16, 16, 2 * CHUNK + 9, 1];
    let positions = 2 * CHUNK + 10;
    let mut random = Random(17);
    let mut keys = random.floats(positions * 16);
    // All of the second chunk and some of the last: minus infinity.
    let small = |position: usize| (CHUNK..2 * CHUNK + 4).contains(&position);
    (0..positions).filter(|p| small(*p)).for_each(|p| keys[p * 16] = f32::NEG_INFINITY);
    let q = vec![1.0; 16];
    let case = Case::new(numbers, KvFormat::F16, q, keys, random.floats(positions * 16));
    let expected = case.run(&cpu(1, Isa::Scalar), 1);
    for (got, exact) in expected.iter().zip(case.exact()) {
        assert!((f64::from(*got) - exact).abs() < 1e-5, "{got} instead of {exact}");
    }
    for isa in isas() {
        assert!(same(&expected, &case.run(&cpu(2, isa), 1)), "{isa}");
    }
}

#[test]
fn long_contexts_are_as_accurate_as_short_ones() {
    let mut random = Random(18);
    let isa = Isa::detect();
    // In f16, and against the exact result of what was stored: 1e-6 of values around 1.
    let case = Case::random([4, 1, 64, 64, 32 * 1024 - 1, 1], KvFormat::F16, &mut random);
    let worst = |got: &[f32]| {
        got.iter().zip(case.exact()).map(|(g, e)| (f64::from(*g) - e).abs()).fold(0.0, f64::max)
    };
    assert!(worst(&case.run(&cpu(2, isa), 1)) < 1e-6);
    // Codes of 8 bits are off by at most half of 1 / 127 of the largest of their block.
    let stored = |format| {
        let case = Case::new(case.numbers, format, case.q.clone(), case.keys.clone(), case.values.clone());
        case.run(&cpu(2, isa), 1)
    };
    let off = worst(&stored(KvFormat::Q8_0));
    assert!(off < 2e-3, "{off}");
}

#[test]
fn tasks_are_a_partition_and_none_is_too_long() {
    let sizes = [(3, 3, 128, 144), (8, 4, 256, 144), (3, 192, 128, 80), (8, 2048, 256, 144), (1, 7, 9, 32)];
    let cuts = sizes.into_iter().flat_map(|size| {
        [1, 300, CHUNK, 4096, 32_768].into_iter().flat_map(move |positions| {
            [1, 2, 3, 64].into_iter().flat_map(move |threads| {
                [1 << 17, 1 << 22, 1 << 24].map(move |budget| (size, positions, threads, budget))
            })
        })
    });
    for ((kv_heads, pairs, work, state), positions, threads, budget) in cuts {
        let cut =
            AttentionCut::new(AttentionSize { kv_heads, pairs, positions, work, state }, budget, threads);
        let name = || format!("{kv_heads} {pairs} {positions} {threads} {budget}: {cut:?}");
        let chunks = cut.chunks();
        let mut done = vec![0usize; kv_heads * pairs];
        let mut covered = 0;
        for task in 0..cut.tasks() {
            let part = cut.part(task);
            let positions = positions.min(part.chunks.end * CHUNK) - part.chunks.start * CHUNK;
            let single = part.pairs.len() == 1 && part.chunks.len() == 1;
            assert!(single || part.pairs.len() * positions * work <= budget, "{}", name());
            covered += part.pairs.len() * part.chunks.len();
            for pair in part.pairs.clone() {
                let done = &mut done[part.kv * pairs + pair];
                // In order, and where one task depends on another there is a barrier between them.
                assert_eq!(*done, part.chunks.start, "{}", name());
                assert!(part.chunks.start == 0 || cut.is_split() || cut.keeps_states(), "{}", name());
                *done = part.chunks.end;
            }
            assert!(cut.barrier(task) > task && cut.barrier(task) <= cut.tasks(), "{}", name());
        }
        assert!(covered == kv_heads * pairs * chunks && done.iter().all(|d| *d == chunks), "{}", name());
    }
}

#[test]
fn stored_elements_are_rounded_to_nearest() {
    let mut random = Random(19);
    for (n, kv_heads, key_dim, value_dim) in
        [(1, 3, 64, 64), (21, 2, 13, 40), (200, 3, 64, 33), (16, 1, 32, 100)]
    {
        for format in KvFormat::ALL {
            let shape = KvShape { format, kv_heads, key_dim, value_dim, capacity: n + 5 };
            let scaled = |x: Vec<f32>| -> Vec<f32> { x.iter().map(|v| v * 1000.0).collect() };
            let keys = scaled(random.floats(n * kv_heads * key_dim));
            let values = scaled(random.floats(n * kv_heads * value_dim));
            let run = |isa: Isa, batch: usize| {
                let (cpu, mut cache) = (cpu(2, isa), KvLayer::new(shape).expect("a small cache"));
                let rows =
                    keys.chunks(batch * kv_heads * key_dim).zip(values.chunks(batch * kv_heads * value_dim));
                for (i, (keys, values)) in rows.enumerate() {
                    cpu.store_kv(2 + i * batch, keys, values, &mut cache);
                }
                cache
            };
            let read = |cache: &KvLayer| -> Vec<f32> {
                let mut all = Vec::new();
                for (kv, position) in (0..kv_heads).flat_map(|kv| (0..n + 5).map(move |p| (kv, p))) {
                    let (mut key, mut value) = (vec![0.0; key_dim], vec![0.0; value_dim]);
                    cache.read_key(kv, position, &mut key);
                    cache.read_value(kv, position, &mut value);
                    all.extend(key.iter().chain(&value));
                }
                all
            };
            let rounded = |row: &[f32]| -> Vec<f32> {
                match format {
                    KvFormat::F16 => row.iter().map(|x| half::f16::from_f32(*x).to_f32()).collect(),
                    KvFormat::Q8_0 => row.chunks(32).flat_map(q8_0).collect(),
                }
            };
            let mut expected = Vec::new();
            for kv in 0..kv_heads {
                for position in 0..n + 5 {
                    let stored = (2..n + 2).contains(&position).then(|| (position - 2) * kv_heads + kv);
                    let row = |x: &[f32], dim: usize| match stored {
                        Some(at) => rounded(&x[at * dim..][..dim]),
                        None => vec![0.0; dim],
                    };
                    expected.extend(row(&keys, key_dim));
                    expected.extend(row(&values, value_dim));
                }
            }
            for (isa, batch) in isas().flat_map(|isa| [n, 1, 3].map(|batch| (isa, batch))) {
                assert!(
                    same(&expected, &read(&run(isa, batch))),
                    "{n} {kv_heads} {format:?} {isa} by {batch}"
                );
            }
        }
    }
}

/// A block as q8_0 holds it: d = amax / 127 in f16, codes round(x * (127 / amax)).
fn q8_0(block: &[f32]) -> Vec<f32> {
    let amax = block.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let d = half::f16::from_f32(amax / 127.0).to_f32();
    block.iter().map(|x| f32::from((x * (127.0 / amax)).round_ties_even() as i8) * d).collect()
}

#[test]
fn sizes_are_those_of_the_buffers() {
    for (kv_heads, key_dim, value_dim, capacity) in [(3, 64, 64, 4096), (8, 128, 128, 100), (2, 33, 47, 17)] {
        let shape = |format| KvShape { format, kv_heads, key_dim, value_dim, capacity };
        for format in KvFormat::ALL {
            let cache = KvLayer::new(shape(format)).expect("a small cache");
            assert_eq!(cache.buffer_bytes(), shape(format).bytes());
        }
    }
    let shape =
        |capacity| KvShape { format: KvFormat::F16, kv_heads: 3, key_dim: 64, value_dim: 64, capacity };
    assert_eq!(shape(4096).bytes(), 4096 * 3 * 128 * 2);
    for capacity in [usize::MAX, usize::MAX / 512, usize::MAX - 15] {
        assert!(KvLayer::new(shape(capacity)).is_err());
    }
    assert!(KvLayer::new(KvShape { kv_heads: 0, key_dim: 0, ..shape(usize::MAX) }).is_err());
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
fn swiglu_and_sums_are_the_same_everywhere() {
    let mut random = Random(16);
    for (n, heads, dim) in [(1, 3, 64), (7, 2, 13), (200, 3, 64)] {
        let x: Vec<f32> = random.floats(n * heads * dim).iter().map(|v| v * 1000.0).collect();
        let y = random.floats(x.len());
        let run = |isa: Isa| {
            let cpu = cpu(2, isa);
            let (mut gate, mut sum) = (x.clone(), x.clone());
            cpu.swiglu(&mut gate, &y);
            cpu.add(&mut sum, &y);
            (gate, sum)
        };
        let expected = run(Isa::Scalar);
        for ((x, y), g) in x.iter().zip(&y).zip(&expected.0) {
            let exact = f64::from(*x) / (1.0 + libm::exp(-f64::from(*x))) * f64::from(*y);
            assert!(
                (f64::from(*g) - exact).abs() <= 1e-6 * exact.abs() + 1e-30,
                "silu({x}) * {y} = {g}, not {exact}"
            );
        }
        for isa in isas() {
            let got = run(isa);
            assert!(same(&got.0, &expected.0) && same(&got.1, &expected.1), "{isa}");
        }
    }
}

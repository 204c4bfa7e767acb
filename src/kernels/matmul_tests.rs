//! Tests of matrix products and of the preparation of activations, over all instruction sets of the machine.

#![allow(clippy::expect_used)]

use std::io::Write;

use super::backend::{Activations, Backend, Piece, Product};
use super::cpu::{Cpu, Isa};
use super::division::Planes;
use super::encoding::{Encoding, all, by_name};
use super::pack;
use crate::pool::{CancelToken, Gate, Progress};

/// A small deterministic generator (xorshift64*).
pub(super) struct Random(pub u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// Somewhere in -1 .. 1.
    pub(super) fn float(&mut self) -> f32 {
        (self.next() & 0xffff) as f32 / 32768.0 - 1.0
    }

    pub(super) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

/// Every instruction set that this machine has.
pub(super) fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

#[test]
fn kernels_for_vectors_are_tested_where_there_are_such() {
    let tested: Vec<Isa> = isas().collect();
    // Not by println!, which shows nothing where the test passes.
    writeln!(std::io::stdout(), "instruction sets under test: {tested:?}").expect("an output");
    assert!(tested.contains(&Isa::Scalar));
    assert!(tested.len() > 1 || !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")));
}

pub(super) fn cpu(threads: usize, isa: Isa) -> Cpu {
    Cpu::with_isa(threads, isa).expect("an available instruction set")
}

/// Whether the floats are the same bits, any NaN counting as any other.
pub(super) fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()))
}

/// Random bytes as rows of blocks; with `tame` the scales are such that values stay moderate and finite.
fn random_rows(encoding: &Encoding, rows: usize, cols: usize, tame: bool, random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![0u8; rows * cols / encoding.block_len * encoding.block_bytes];
    bytes.iter_mut().for_each(|b| *b = random.next() as u8);
    let mut values = vec![0.0; encoding.block_len];
    for block in bytes.chunks_exact_mut(encoding.block_bytes) {
        loop {
            (encoding.dequantize)(block, &mut values);
            if !tame || values.iter().all(|v| v.abs() < 1e3) {
                break;
            }
            // Blocks differ in where their scales lie: draw again, wholly at first, then towards small bytes.
            block.iter_mut().for_each(|b| {
                *b = if random.next().is_multiple_of(4) { *b / 2 } else { random.next() as u8 }
            });
        }
    }
    bytes
}

/// A packed matrix with what it was packed from.
struct Weights {
    encoding: &'static Encoding,
    rows: usize,
    cols: usize,
    source: Vec<u8>,
    packed: Vec<u8>,
}

impl Weights {
    fn random(
        encoding: &'static Encoding,
        rows: usize,
        cols: usize,
        tame: bool,
        random: &mut Random,
    ) -> Self {
        let source = random_rows(encoding, rows, cols, tame, random);
        // One byte in front, so that nothing is aligned.
        let mut packed = vec![0; 1 + pack::packed_len(encoding, rows, cols).expect("a length")];
        pack::pack(encoding, cols, &source, &mut packed[1..]).expect("packed");
        Self { encoding, rows, cols, source, packed }
    }

    /// The rows `first ..` up to `end`.
    fn rows(&self, first: usize, end: usize) -> Piece<'_> {
        let at = |row: usize| pack::packed_len(self.encoding, row, self.cols).expect("a length");
        let data = &self.packed[1..][at(first)..at(end)];
        let (encoding, cols) = (self.encoding, self.cols);
        Piece { first, encoding, rows: end - first, cols, planes: Planes::Whole(data) }
    }

    fn piece(&self) -> Piece<'_> {
        self.rows(0, self.rows)
    }
}

fn prepare(cpu: &Cpu, x: &[f32], k: usize) -> Activations {
    let mut a = Activations::default();
    cpu.activations(x, k, &mut a);
    a
}

fn multiply(cpu: &Cpu, weights: &Weights, x: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let a = prepare(cpu, x, weights.cols);
    let mut out = vec![0.0; x.len() / weights.cols * weights.rows];
    let product = Product { pieces: &[weights.piece()], bias, rows: weights.rows, out: &mut out };
    assert_eq!(cpu.matmul(&Gate::open(), 0, &a, &mut [product]), Progress::Done);
    out
}

/// Columns of a test matrix: several blocks.
fn width(encoding: &Encoding) -> usize {
    match encoding.block_len {
        1 => 67,
        32 | 64 => 192,
        long => 2 * long,
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    let mut random = Random(1);
    for encoding in all() {
        let cases = [
            (1, 8, 1, true),
            (1, 21, 2, true),
            (1, 5, 3, false),
            (1, 40, 13, true),
            (1, 19, 20, false),
            (3, 51, 33, true),
        ];
        for (widths, rows, n, tame) in cases {
            let k = widths * width(encoding);
            let weights = Weights::random(encoding, rows, k, tame, &mut random);
            let mut x = random.floats(n * k);
            if !tame {
                x[k / 2] = f32::NAN;
                x[0] *= 1e-35;
            }
            let bias = random.floats(rows);
            let bias = (n % 2 == 0).then_some(&bias[..]);
            let expected = multiply(&cpu(1, Isa::Scalar), &weights, &x, bias);
            for isa in isas() {
                let got = multiply(&cpu(2, isa), &weights, &x, bias);
                assert!(same(&expected, &got), "{} {isa} [{rows}, {k}] x {n}", encoding.name);
            }
        }
    }
}

#[test]
fn batches_and_threads_do_not_change_bits() {
    let mut random = Random(2);
    for name in ["q4_1", "q8_0", "q4_0", "q4_k", "q6_k", "q5_1", "iq2_xs", "f16"] {
        let encoding = by_name(name).expect("known");
        let k = width(encoding);
        let weights = Weights::random(encoding, 35, k, true, &mut random);
        let x = random.floats(64 * k);
        for isa in isas() {
            let one = cpu(1, isa);
            let single: Vec<f32> = x.chunks(k).flat_map(|x| multiply(&one, &weights, x, None)).collect();
            for n in (2..=17).chain([64]) {
                for threads in [1, 2, 4] {
                    let got = multiply(&cpu(threads, isa), &weights, &x[..n * k], None);
                    assert!(same(&single[..n * weights.rows], &got), "{name} {isa} n {n} threads {threads}");
                }
            }
        }
    }
}

#[test]
fn products_are_right() {
    let mut random = Random(3);
    for encoding in all() {
        let (rows, k, n) = (24, width(encoding), 5);
        let weights = Weights::random(encoding, rows, k, true, &mut random);
        let x = random.floats(n * k);
        let got = multiply(&cpu(1, Isa::detect()), &weights, &x, None);
        let mut w = vec![0.0; rows * k];
        encoding.decode(&weights.source, &mut w).expect("decoded");
        for (t, x) in x.chunks(k).enumerate() {
            for (r, w) in w.chunks(k).enumerate() {
                let terms = || w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                let (exact, size) = (terms().sum::<f64>(), w.iter().map(|w| f64::from(w.abs())).sum::<f64>());
                // A code is off by at most half a step of 1 / 127; floats only round.
                let bound = size * if encoding.block_len == 1 { 1e-6 } else { 0.5 / 127.0 } + 1e-20;
                let got = f64::from(got[t * rows + r]);
                assert!((got - exact).abs() <= bound, "{} {got} instead of {exact}", encoding.name);
            }
        }
    }
}

#[test]
fn a_paused_product_resumes_to_the_same_bits() {
    let mut random = Random(4);
    let (k, n) = (1024, 48);
    let first = Weights::random(by_name("q4_1").expect("known"), 200, k, true, &mut random);
    let second = Weights::random(by_name("q6_k").expect("known"), 100, k, true, &mut random);
    let x = random.floats(n * k);
    for isa in isas() {
        let cpu = cpu(1, isa);
        let a = prepare(&cpu, &x, k);
        let expected = [multiply(&cpu, &first, &x, None), multiply(&cpu, &second, &x, None)];
        let mut outs = [vec![0.0; n * first.rows], vec![0.0; n * second.rows]];
        let (mut from, mut pauses) = (0, 0);
        loop {
            // A deadline that lies a moment ahead admits few tasks, sometimes none.
            let token = CancelToken::new();
            let deadline = std::time::Instant::now() + std::time::Duration::from_micros(pauses % 7 * 20);
            let gate = Gate { deadline: Some(deadline), cancel: Some(token) };
            let [one, two] = &mut outs;
            let mut products = [
                Product { pieces: &[first.piece()], bias: None, rows: first.rows, out: one },
                Product { pieces: &[second.piece()], bias: None, rows: second.rows, out: two },
            ];
            match cpu.matmul(&gate, from, &a, &mut products) {
                Progress::Done => break,
                Progress::Paused(next) => {
                    assert!(next >= from);
                    from = next;
                    pauses += 1;
                }
            }
        }
        assert!(pauses > 0 && same(&outs[0], &expected[0]) && same(&outs[1], &expected[1]), "{isa}");
    }
}

#[test]
fn pieces_give_the_bits_of_the_whole() {
    let mut random = Random(21);
    for name in ["q4_0", "q6_k", "q8_0", "f16", "iq2_xs"] {
        let weights = Weights::random(by_name(name).expect("known"), 85, 512, true, &mut random);
        let bias = random.floats(85);
        for (isa, n) in isas().flat_map(|isa| [(isa, 1), (isa, 5), (isa, 19)]) {
            let cpu = cpu(2, isa);
            let x = random.floats(n * 512);
            for bias in [None, Some(&bias[..])] {
                let expected = multiply(&cpu, &weights, &x, bias);
                let mut out = vec![7.0; expected.len()];
                let a = prepare(&cpu, &x, 512);
                for cuts in [&[0, 8, 72][..], &[24, 40], &[72, 85]] {
                    let pieces: Vec<_> = cuts.windows(2).map(|c| weights.rows(c[0], c[1])).collect();
                    let product = Product { pieces: &pieces, bias, rows: 85, out: &mut out };
                    assert_eq!(cpu.matmul(&Gate::open(), 0, &a, &mut [product]), Progress::Done);
                }
                assert!(same(&out, &expected), "{name}, {isa}, {n} columns");
            }
        }
    }
}

#[test]
fn odd_shapes_are_no_trouble() {
    let mut random = Random(5);
    let q4_1 = by_name("q4_1").expect("known");
    for isa in isas() {
        let cpu = cpu(2, isa);
        let weights = Weights::random(q4_1, 9, 32, true, &mut random);
        assert!(multiply(&cpu, &weights, &[], None).is_empty());
        let none = Weights::random(q4_1, 0, 32, true, &mut random);
        assert!(multiply(&cpu, &none, &random.floats(64), None).is_empty());
        assert_eq!(cpu.matmul(&Gate::open(), 0, &Activations::default(), &mut []), Progress::Done);
    }
}

/// A session may hold activations that another instruction set prepared, in another form of its own.
#[test]
fn activations_of_any_instruction_set_serve_any_other() {
    let mut random = Random(16);
    for name in ["q4_1", "q6_k", "iq2_xs"] {
        let weights = Weights::random(by_name(name).expect("known"), 21, 512, true, &mut random);
        let x = random.floats(19 * 512);
        let expected = multiply(&cpu(1, Isa::Scalar), &weights, &x, None);
        for preparing in isas() {
            let a = prepare(&cpu(1, preparing), &x, 512);
            for isa in isas() {
                let mut out = vec![0.0; expected.len()];
                let product =
                    Product { pieces: &[weights.piece()], bias: None, rows: weights.rows, out: &mut out };
                assert_eq!(cpu(2, isa).matmul(&Gate::open(), 0, &a, &mut [product]), Progress::Done);
                assert!(same(&out, &expected), "{name}: prepared by {preparing}, multiplied by {isa}");
            }
        }
    }
}

#[test]
fn activations_have_the_same_bits() {
    let mut random = Random(6);
    for k in [32, 96, 1, 45] {
        let mut x: Vec<f32> =
            (0..k * 9).map(|_| random.float() * 10f32.powi(random.next() as i32 % 40)).collect();
        x[0] = f32::INFINITY;
        x[8 * k..].fill(1e-31);
        // Ties: an amax of 127 makes the factor 1.
        let ties: Vec<f32> = (0..k).map(|i| if i == 0 { 127.0 } else { i as f32 % 90.0 - 45.5 }).collect();
        x[k..2 * k].copy_from_slice(&ties);
        let expected = prepare(&cpu(1, Isa::Scalar), &x, k);
        for isa in isas() {
            let got = prepare(&cpu(2, isa), &x, k);
            assert_eq!(got.codes, expected.codes);
            assert_eq!((&got.sums, &got.half_sums), (&expected.sums, &expected.half_sums));
            assert!(same(&got.scales, &expected.scales) && same(&got.offsets, &expected.offsets));
            assert!(same(&got.half_offsets, &expected.half_offsets));
        }
        assert!(expected.scales[0].is_nan() && expected.codes[0] == 0);
        let at = expected.tiles();
        assert!(k == 1 || (expected.codes[at * 32 + 1] == -44 && expected.scales[at] == 1.0));
        assert!(expected.codes[8 * at * 32..].iter().all(|c| *c == 0));
    }
}

#[test]
fn the_variable_names_an_instruction_set() {
    // Read-only: setting the variable would race with the other tests.
    match std::env::var(super::cpu::ISA_VARIABLE) {
        Ok(name) if !name.is_empty() => {
            assert_eq!(Cpu::new(1).expect("available").isa().name(), name.to_ascii_lowercase());
        }
        _ => assert_eq!(Cpu::new(1).expect("available").isa(), Isa::detect()),
    }
    assert_eq!(Isa::wanted("Scalar").ok(), Some(Isa::Scalar));
    let foreign = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
    for name in [foreign, "sse"] {
        let message = Isa::wanted(name).expect_err("not there").to_string();
        assert!(
            message.contains(&format!("CAPSULEGRAPH_ISA={name}: this processor has scalar")),
            "{message}"
        );
        assert!(message.contains(Isa::detect().name()), "{message}");
    }
    assert!(Cpu::new(0).expect("available").threads() >= 1);
    assert!(Cpu::with_isa(2, Isa::Scalar).expect("available").describe().contains("scalar, 2 threads"));
}

#[test]
fn every_buffer_of_activations_is_accounted_for() {
    let (n, k) = (3, 70);
    let a = prepare(&cpu(1, Isa::Scalar), &vec![1.0; n * k], k);
    let tiles = 3 * n;
    assert!(a.bytes() >= 4 * n * k + 32 * tiles + 3 * 4 * tiles + 2 * 8 * tiles, "{}", a.bytes());
}

#[test]
fn divided_weights_are_multiplied_as_if_they_were_whole() {
    let mut random = Random(21);
    for encoding in all() {
        let Some(division) = encoding.division else { continue };
        let (rows, cols) = (85, 96);
        let weights = Weights::random(encoding, rows, cols, true, &mut random);
        let packed = &weights.packed[1..];
        let groups = rows.div_ceil(pack::GROUP);
        let [mut first, mut second] = division.group_bytes(cols).map(|len| vec![0; groups * len]);
        division.divide(packed, &mut first, &mut second);
        let mut coarse = packed.to_vec();
        division.join(&first, None, &mut coarse);
        assert_ne!(coarse, packed);
        let piece = |planes| Piece { first: 0, encoding, rows, cols, planes };
        let pairs = [
            (Planes::Whole(packed), Planes::Both([&first, &second])),
            (Planes::Whole(&coarse), Planes::First(&first)),
        ];
        for (isa, threads) in isas().flat_map(|isa| [(isa, 1), (isa, 3)]) {
            let cpu = Cpu::with_isa(threads, isa).expect("available");
            for n in [1, 3, 40] {
                let x = random.floats(n * cols);
                let a = prepare(&cpu, &x, cols);
                for (whole, divided) in pairs {
                    let outs = [whole, divided].map(|planes| {
                        let mut out = vec![f32::NAN; n * rows];
                        let product = Product { pieces: &[piece(planes)], bias: None, rows, out: &mut out };
                        assert_eq!(cpu.matmul(&Gate::open(), 0, &a, &mut [product]), Progress::Done);
                        out.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
                    });
                    assert_eq!(outs[0], outs[1], "{} on {isa}, {n} columns", encoding.name);
                }
            }
        }
    }
}

//! Speed of the kernels and of the machine: `cargo bench --bench kernels [-- [instruction set] [encoding] [--json]
//! [--limits]]`.
//!
//! Of each encoding GB/s of packed weights and G multiply-adds/s for 1, 5 and 512 columns, with their share of what
//! the machine does at best (`kernels::roofline`); attention and element-wise operations in ms. One and two threads.
//! `--json` prints one object for the best instruction set (or the named one) instead, `--limits` that object with
//! what the machine does alone.

#![allow(clippy::expect_used)]

mod encodings;

use std::time::{Duration, Instant};

use capsulegraph::kernels::backend::{Activations, AttentionWork, Backend, Piece, Product, Queries};
use capsulegraph::kernels::cpu::{Cpu, Isa};
use capsulegraph::kernels::division::Planes;
use capsulegraph::kernels::encoding::{self, Encoding};
use capsulegraph::kernels::kv::{KvFormat, KvLayer, KvShape};
use capsulegraph::kernels::{pack, roofline};
use capsulegraph::pool::Gate;
use encodings::ENCODINGS;
use serde_json::{Value, json};

const THREADS: [usize; 2] = [1, 2];
/// Weights that no cache holds, in bytes.
const LARGE: usize = 160 << 20;
/// What the read bandwidth is measured over.
const BUFFER: usize = 1 << 30;

/// The shortest of several calls, in seconds: others may use the machine.
fn best(mut f: impl FnMut()) -> f64 {
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    let mut calls = 0;
    while calls < 3 || begin.elapsed() < Duration::from_millis(250) {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
        calls += 1;
    }
    best
}

/// What the machine does at best with that many threads.
#[derive(Clone, Copy)]
struct Limits {
    /// Bytes a second from memory.
    read: f64,
    /// Multiply-adds a second of int8 and of f32.
    int8: f64,
    f32: f64,
}

impl Limits {
    fn measure(cpu: &Cpu) -> Self {
        let read = roofline::read_bandwidth(cpu, BUFFER, None).expect("memory for the buffer");
        Self { read, int8: roofline::int8_rate(cpu), f32: roofline::f32_rate(cpu) }
    }

    /// The rate that bounds products with `encoding`: one without an integer form multiplies floats.
    fn rate(&self, encoding: &Encoding) -> f64 {
        if encoding.tile.is_none() { self.f32 } else { self.int8 }
    }
}

/// Products of one encoding.
struct Products {
    encoding: &'static Encoding,
    /// Weights in memory times 1 and 5 columns: bytes of weights a second.
    memory: [f64; 2],
    /// A layer of a small model, from the cache, times 1 column, likewise.
    cached: f64,
    /// A layer times 512 columns: multiply-adds a second.
    batch: f64,
}

impl Products {
    fn measure(cpu: &Cpu, name: &str) -> Self {
        let encoding = encoding::by_name(name).expect("an encoding");
        let k = 4096;
        let row = pack::row_bytes(encoding, k).expect("whole blocks");
        let rows = (LARGE / row).next_multiple_of(pack::GROUP);
        let memory = [1, 5].map(|n| (rows * row) as f64 / product(cpu, encoding, rows, k, n));
        let cached = (1536 * row * 768 / k) as f64 / product(cpu, encoding, 1536, 768, 1);
        let batch = (2048u64 * 2048 * 512) as f64 / product(cpu, encoding, 2048, 2048, 512);
        Self { encoding, memory, cached, batch }
    }

    fn print(&self, limits: &Limits) {
        let [one, five] = self.memory.map(|rate| (rate / 1e9, 100.0 * rate / limits.read));
        println!(
            "  {:8} n=1 {:6.1} GB/s {:3.0}%, cached {:6.1} GB/s; n=5 {:6.1} GB/s {:3.0}%; n=512 {:7.1} GMAC/s {:3.0}%",
            self.encoding.name,
            one.0,
            one.1,
            self.cached / 1e9,
            five.0,
            five.1,
            self.batch / 1e9,
            100.0 * self.batch / limits.rate(self.encoding)
        );
    }

    fn json(&self, threads: usize, limits: &Limits) -> Value {
        let encoding = self.encoding;
        json!({
            "encoding": encoding.name,
            "threads": threads,
            "bytes_per_weight": encoding.block_bytes as f64 / encoding.block_len as f64,
            "read_1": self.memory[0],
            "read_5": self.memory[1],
            "cached_1": self.cached,
            "multiply_adds_512": self.batch,
            "rate": limits.rate(encoding),
        })
    }
}

/// Seconds of one product of `rows * k` weights of that encoding and n columns.
fn product(cpu: &Cpu, encoding: &'static Encoding, rows: usize, k: usize, n: usize) -> f64 {
    let data = vec![0x2au8; pack::packed_len(encoding, rows, k).expect("whole blocks")];
    let piece = Piece { first: 0, encoding, rows, cols: k, planes: Planes::Whole(&data) };
    let x: Vec<f32> = (0..n * k).map(|i| (i % 97) as f32 - 48.0).collect();
    let mut prepared = Activations::default();
    cpu.activations(&x, k, &mut prepared);
    let mut out = vec![0.0; n * rows];
    best(|| {
        let product = Product { pieces: &[piece], bias: None, rows, out: &mut out };
        cpu.matmul(&Gate::open(), 0, &prepared, &mut [product]);
    })
}

/// Seconds of attention of n tokens after `start`, SmolLM's shape.
fn attention(cpu: &Cpu, start: usize, n: usize) -> f64 {
    let shape =
        KvShape { format: KvFormat::F16, kv_heads: 3, key_dim: 64, value_dim: 64, capacity: start + n };
    let mut cache = KvLayer::new(shape).expect("a small cache");
    let rows = vec![0.125; shape.capacity * 3 * 64];
    cpu.store_kv(0, &rows, &rows, &mut cache);
    let q = vec![0.5; n * 9 * 64];
    let queries = Queries { values: &q, n, heads: 9, start, scale: 0.125 };
    let mut work = AttentionWork::default();
    let mut out = vec![0.0; q.len()];
    best(|| {
        cpu.attention(&Gate::open(), 0, &queries, &cache, &mut work, &mut out);
    })
}

/// Attention and element-wise operations.
fn print_others(cpu: &Cpu) {
    let (prefill, decode) = (attention(cpu, 0, 512), attention(cpu, 2047, 1));
    println!("  attention: 512 tokens {:.2} ms, 1 after 2047 {:.3} ms", prefill * 1e3, decode * 1e3);
    let x = vec![0.5; 512 * 1536];
    let mut prepared = Activations::default();
    let ms = best(|| cpu.activations(&x, 1536, &mut prepared)) * 1e3;
    let mut gate = x.clone();
    let swiglu = best(|| cpu.swiglu(&mut gate, &x)) * 1e3;
    println!("  512 x 1536: activations {ms:.3} ms, swiglu {swiglu:.3} ms");
}

fn print(isa: Isa, names: &[&'static str]) {
    for threads in THREADS {
        let cpu = Cpu::with_isa(threads, isa).expect("available");
        let limits = Limits::measure(&cpu);
        let [read, int8, f32] = [limits.read, limits.int8, limits.f32].map(|limit| limit / 1e9);
        println!("{}: {read:.1} GB/s, int8 {int8:.0} GMAC/s, f32 {f32:.0} GMAC/s", cpu.describe());
        for name in names {
            Products::measure(&cpu, name).print(&limits);
        }
        print_others(&cpu);
    }
}

fn print_json(isa: Isa, names: &[&'static str]) {
    let (mut machine, mut kernels) = (Vec::new(), Vec::new());
    for threads in THREADS {
        let cpu = Cpu::with_isa(threads, isa).expect("available");
        let limits = Limits::measure(&cpu);
        machine
            .push(json!({ "threads": threads, "read": limits.read, "int8": limits.int8, "f32": limits.f32 }));
        kernels.extend(names.iter().map(|name| Products::measure(&cpu, name).json(threads, &limits)));
    }
    println!("{}", json!({ "isa": isa.name(), "limits": machine, "kernels": kernels }));
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let isa = Isa::ALL.into_iter().find(|isa| arguments.iter().any(|a| a == isa.name()));
    let chosen = |name: &&&str| arguments.iter().any(|a| a == **name);
    let mut names: Vec<&str> = ENCODINGS.iter().filter(chosen).copied().collect();
    if names.is_empty() {
        names = ENCODINGS.to_vec();
    }
    let has = |option: &str| arguments.iter().any(|a| a == option);
    if has("--limits") {
        names.clear();
    }
    if has("--limits") || has("--json") {
        return print_json(isa.unwrap_or_else(Isa::detect), &names);
    }
    let all = Isa::ALL.into_iter().filter(|i| i.is_available() && *i != Isa::Scalar);
    for isa in all.filter(|i| isa.is_none_or(|isa| isa == *i)) {
        print(isa, &names);
    }
}

//! Speed of the kernels: `cargo bench --bench kernels [-- [instruction set] [encoding]]`. GB/s of packed weights for one column,
//! G multiply-adds/s for 512, of each main encoding; attention and activations in ms. One and two threads.

#![allow(clippy::expect_used)]

use std::time::{Duration, Instant};

use capsulegraph::kernels::backend::{Activations, AttentionWork, Backend, Matrix, Product, Queries};
use capsulegraph::kernels::cpu::{Cpu, Isa};
use capsulegraph::kernels::kv::{KvFormat, KvLayer, KvShape};
use capsulegraph::kernels::{encoding, pack};
use capsulegraph::pool::Gate;

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

/// Seconds of one product of `rows * k` weights of that encoding and n columns.
fn product(cpu: &Cpu, name: &str, rows: usize, k: usize, n: usize) -> (f64, usize) {
    let encoding = encoding::by_name(name).expect("an encoding");
    let data = vec![0x2au8; pack::packed_len(encoding, rows, k).expect("whole blocks")];
    let weight = Matrix { encoding, rows, cols: k, data: &data };
    let x: Vec<f32> = (0..n * k).map(|i| (i % 97) as f32 - 48.0).collect();
    let mut prepared = Activations::default();
    cpu.activations(&x, k, &mut prepared);
    let mut out = vec![0.0; n * rows];
    let seconds = best(|| {
        let product = Product { weight, bias: None, out: &mut out };
        cpu.matmul(&Gate::open(), 0, &prepared, &mut [product]);
    });
    (seconds, data.len())
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

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let names =
        ["q4_1", "q8_0", "q4_0", "q4_k", "q6_k", "q5_k", "q5_0", "q3_k", "q2_k", "iq4_xs", "iq2_xs", "f16"];
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available() && *isa != Isa::Scalar) {
        if !chosen.is_empty() && !chosen.iter().any(|c| c == isa.name()) {
            continue;
        }
        let named =
            |name: &&&str| chosen.iter().all(|c| Isa::ALL.iter().any(|i| i.name() == c) || c == *name);
        for threads in [1, 2] {
            let cpu = Cpu::with_isa(threads, isa).expect("available");
            println!("{}", cpu.describe());
            for name in names.iter().filter(named) {
                // 128 MB and more in 4 bits: larger than the caches. And a layer of a small model, from the cache.
                let (large, bytes) = product(&cpu, name, 65536, 4096, 1);
                let (small, few) = product(&cpu, name, 1536, 768, 1);
                let (batch, _) = product(&cpu, name, 2048, 2048, 512);
                let rate = |bytes: usize, seconds: f64| bytes as f64 / seconds / 1e9;
                let speed = rate(2048 * 2048 * 512, batch);
                println!(
                    "  {name:8} n=1 {:6.1} GB/s, cached {:6.1} GB/s; n=512 {speed:7.1} GMAC/s",
                    rate(bytes, large),
                    rate(few, small)
                );
            }
            let (prefill, decode) = (attention(&cpu, 0, 512), attention(&cpu, 2047, 1));
            println!("  attention: 512 tokens {:.2} ms, 1 after 2047 {:.3} ms", prefill * 1e3, decode * 1e3);
            let x = vec![0.5; 512 * 1536];
            let mut prepared = Activations::default();
            let ms = best(|| cpu.activations(&x, 1536, &mut prepared)) * 1e3;
            let mut gate = x.clone();
            let swiglu = best(|| cpu.swiglu(&mut gate, &x)) * 1e3;
            println!("  512 x 1536: activations {ms:.3} ms, swiglu {swiglu:.3} ms");
        }
    }
}

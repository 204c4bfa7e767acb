//! Runs each main kernel once on fixed shapes, for counting its instructions under callgrind.
//!
//! `cargo xtask test` holds the counts against instructions.json, beside this file; `cargo xtask bless` rewrites it.
//! Prints the kernels' names in the order in which `counted` is called for them. AVX2 on one thread: valgrind
//! knows no AVX-512, and a count must not depend on how threads wait.

#![allow(clippy::expect_used)]

mod encodings;

use std::hint::black_box;

use capsulegraph::kernels::backend::{Activations, AttentionWork, Backend, Piece, Product, Queries};
use capsulegraph::kernels::cpu::{Cpu, Isa};
use capsulegraph::kernels::division::Planes;
use capsulegraph::kernels::kv::{KvFormat, KvLayer, KvShape};
use capsulegraph::kernels::{encoding, pack};
use capsulegraph::pool::Gate;
use encodings::ENCODINGS;

/// Decode, a verified draft, a prompt.
const COLUMNS: [usize; 3] = [1, 5, 64];
const ROWS: usize = 64;
const WIDTH: usize = 1024;

/// The function whose instructions are counted, those of what it calls included.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
    // Something must follow: a jump to `work` in place of a call would not come back here.
    black_box(work);
}

/// Runs `work` once uncounted, so that buffers exist, and once counted.
fn case(name: &str, mut work: impl FnMut()) {
    work();
    println!("{name}");
    counted(&mut work);
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i % 97) as f32 - 48.0).collect()
}

fn products(cpu: &Cpu) {
    for name in ENCODINGS {
        let encoding = encoding::by_name(name).expect("an encoding");
        let data = vec![0x2au8; pack::packed_len(encoding, ROWS, WIDTH).expect("whole blocks")];
        let piece = Piece { first: 0, encoding, rows: ROWS, cols: WIDTH, planes: Planes::Whole(&data) };
        for n in COLUMNS {
            let mut x = Activations::default();
            cpu.activations(&values(n * WIDTH), WIDTH, &mut x);
            let mut out = vec![0.0; n * ROWS];
            case(&format!("{name}, {n} columns"), || {
                let product = Product { pieces: &[piece], bias: None, rows: ROWS, out: &mut out };
                cpu.matmul(&Gate::open(), 0, &x, &mut [product]);
            });
        }
    }
}

fn attention(cpu: &Cpu) {
    let (heads, kv_heads, dim) = (8, 2, 64);
    for format in [KvFormat::F16, KvFormat::Q8_0] {
        for (start, n) in [(0, 64), (255, 1)] {
            let capacity = start + n;
            let shape = KvShape { format, kv_heads, key_dim: dim, value_dim: dim, capacity };
            let mut cache = KvLayer::new(shape).expect("a small cache");
            let rows = values(capacity * kv_heads * dim);
            let name = format.name();
            case(&format!("store_kv {name}, {capacity}"), || cpu.store_kv(0, &rows, &rows, &mut cache));
            let q = values(n * heads * dim);
            let queries = Queries { values: &q, n, heads, start, scale: 0.125 };
            let mut work = AttentionWork::default();
            let mut out = vec![0.0; q.len()];
            case(&format!("attention {name}, {n} after {start}"), || {
                cpu.attention(&Gate::open(), 0, &queries, &cache, &mut work, &mut out);
            });
        }
    }
}

fn element_wise(cpu: &Cpu) {
    let n = 16;
    let (x, weight) = (values(n * WIDTH), values(WIDTH));
    let mut out = vec![0.0; x.len()];
    case("rms_norm", || cpu.rms_norm(&x, &weight, 1e-5, &mut out));
    let mut prepared = Activations::default();
    case("activations", || cpu.activations(&x, WIDTH, &mut prepared));
    let mut gate = x.clone();
    case("swiglu", || cpu.swiglu(&mut gate, &x));
    case("add", || cpu.add(&mut gate, &x));
    let angles = vec![0.5; n * 32];
    case("rope", || cpu.rope(&mut gate, WIDTH / 64, 64, &angles, &angles));
}

fn main() {
    let cpu = Cpu::with_isa(1, Isa::Avx2).expect("AVX2");
    products(&cpu);
    attention(&cpu);
    element_wise(&cpu);
}

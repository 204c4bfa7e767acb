//! Kernels for x86-64 with AVX2, FMA and F16C, with VNNI or AVX-512 VNNI where the processor has them.
//!
//! Bodies are generic `#[inline(always)]` functions; `dispatch` wraps them in functions with the target
//! features of each instruction set, into which they are inlined. `vector` gives the kernels of `super::vector`
//! their vectors.

mod attention;
mod avx512;
mod dispatch;
mod division;
pub(super) mod elementwise;
mod expand;
mod float;
mod matmul;
mod scratch;
mod vector;
mod width;

pub(super) use attention::{attend, gather};
pub(super) use dispatch::{matmul, matmul_divided};
pub(super) use division::join;
pub(super) use vector::{add, swiglu};

use super::cpu::Isa;

/// Whether this processor has `isa`.
pub(super) fn is_available(isa: Isa) -> bool {
    let avx2 = || {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
    };
    match isa {
        Isa::Scalar => true,
        Isa::Avx2 => avx2(),
        Isa::AvxVnni => avx2() && is_x86_feature_detected!("avxvnni"),
        Isa::Avx512 => {
            avx2()
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
        }
        _ => false,
    }
}

//! Kernels for x86-64 with AVX2, FMA and F16C, with VNNI or AVX-512 VNNI where the processor has them.
//!
//! Bodies are generic `#[inline(always)]` functions; `dispatch` wraps them in functions with the target
//! features of each instruction set, into which they are inlined. `vector` gives the kernels of `super::vector`
//! their vectors.

mod attention;
mod avx512;
mod dispatch;
pub(super) mod elementwise;
mod expand;
mod float;
mod matmul;
mod scratch;
mod vector;
mod width;

pub(super) use attention::{attend, gather};
pub(super) use dispatch::matmul;
pub(super) use vector::{add, swiglu};

use super::cpu::Isa;
use super::division::Division;

/// [`Division::join`] with the vectors of `isa`.
pub(super) fn join(isa: Isa, division: &Division, first: &[u8], second: Option<&[u8]>, packed: &mut [u8]) {
    #[target_feature(enable = "avx2")]
    fn avx2(division: &Division, first: &[u8], second: Option<&[u8]>, packed: &mut [u8]) {
        division.join_inline(first, second, packed);
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn avx512(division: &Division, first: &[u8], second: Option<&[u8]>, packed: &mut [u8]) {
        division.join_inline(first, second, packed);
    }
    match isa {
        Isa::Scalar => division.join(first, second, packed),
        // SAFETY: a `Cpu` has only instruction sets that `is_available` found.
        Isa::Avx512 => unsafe { avx512(division, first, second, packed) },
        // SAFETY: as above.
        _ => unsafe { avx2(division, first, second, packed) },
    }
}

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

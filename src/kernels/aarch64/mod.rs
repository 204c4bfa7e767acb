//! Kernels for aarch64 with NEON, and with the SDOT instruction where the processor has it.
//!
//! Eight rows are two vectors of four. Bodies are generic `#[inline(always)]` functions; `dispatch` wraps them
//! in functions with the target features of each instruction set, into which they are inlined. `vector` gives the
//! kernels of `super::vector` their vectors.

mod attention;
mod dispatch;
pub(super) mod elementwise;
mod expand;
mod float;
mod half;
mod matmul;
mod vector;

pub(super) use attention::{attend, gather};
pub(super) use dispatch::matmul;
pub(super) use vector::{add, swiglu};

use super::backend::Activations;
use super::cpu::Isa;
use super::division::Division;
use super::layout::Part;

/// [`Division::join`]: every processor of this architecture has vectors that the compiler may use.
pub(super) fn join(_: Isa, division: &Division, first: &[u8], second: Option<&[u8]>, packed: &mut [u8]) {
    division.join(first, second, packed);
}

/// Whether it computed `part` straight from the planes of divided weights: there are no kernels that do.
///
/// # Safety
/// Always safe; unsafe where there are.
pub(super) unsafe fn matmul_divided(
    _: Isa,
    _: &Part<'_>,
    _: &[u8],
    _: Option<&[u8]>,
    _: &Activations,
) -> bool {
    false
}

/// Whether this processor has `isa`.
pub(super) fn is_available(isa: Isa) -> bool {
    let neon = || std::arch::is_aarch64_feature_detected!("neon");
    match isa {
        Isa::Scalar => true,
        Isa::Neon => neon(),
        Isa::NeonDot => neon() && std::arch::is_aarch64_feature_detected!("dotprod"),
        _ => false,
    }
}

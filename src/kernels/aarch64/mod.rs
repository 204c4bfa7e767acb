//! Kernels for aarch64 with NEON, and with the SDOT instruction where the processor has it.
//!
//! Eight rows are two vectors of four. Bodies are generic `#[inline(always)]` functions; `dispatch` wraps them
//! in functions with the target features of each instruction set, into which they are inlined.

mod dispatch;
pub(super) mod elementwise;
mod expand;
mod float;
mod half;
mod matmul;

pub(super) use dispatch::matmul;

pub(super) use super::scalar::attention;

use super::cpu::Isa;

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

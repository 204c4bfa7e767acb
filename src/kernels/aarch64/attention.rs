//! Attention: the register block of NEON.

use super::vector::Neon;
use crate::kernels::attention::{self, Call};
use crate::kernels::cpu::Isa;
use crate::kernels::plan::AttentionPart;
use crate::kernels::vector::attention::Blocked;

/// Sixteen accumulators of thirty-two registers, which also hold four vectors of keys.
type Block = Blocked<Neon, 4, 4>;

/// Computes one task.
///
/// # Safety
/// As for `attention::run`; the machine has NEON.
pub unsafe fn attend(_: Isa, call: &Call<'_>, part: &AttentionPart) {
    // SAFETY: passed on to the caller.
    unsafe { attention::run::<Block>(call, part) }
}

/// Merges the chunks of a pair.
///
/// # Safety
/// As for `attention::gather`; the machine has NEON.
pub unsafe fn gather(_: Isa, call: &Call<'_>, kv: usize, pair: usize) {
    // SAFETY: passed on to the caller.
    unsafe { attention::gather::<Block>(call, kv, pair) }
}

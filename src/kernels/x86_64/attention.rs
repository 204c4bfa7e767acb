//! Attention: the register blocks of each instruction set.

use super::vector::{Avx2, Avx512};
use crate::kernels::attention::{self, Call};
use crate::kernels::cpu::Isa;
use crate::kernels::plan::AttentionPart;
use crate::kernels::vector::attention::Blocked;

/// Eight accumulators of sixteen registers, which also hold two vectors of keys.
type Narrow = Blocked<Avx2, 2, 2>;
/// Sixteen accumulators of thirty-two registers.
type Wide = Blocked<Avx512, 4, 1>;

/// Computes one task.
///
/// # Safety
/// As for `attention::run`; the machine has `isa`, which is not scalar.
pub unsafe fn attend(isa: Isa, call: &Call<'_>, part: &AttentionPart) {
    // SAFETY: passed on to the caller.
    unsafe {
        match isa {
            Isa::Avx512 => attention::run::<Wide>(call, part),
            _ => attention::run::<Narrow>(call, part),
        }
    }
}

/// Merges the chunks of a pair.
///
/// # Safety
/// As for `attention::gather`; the machine has `isa`, which is not scalar.
pub unsafe fn gather(isa: Isa, call: &Call<'_>, kv: usize, pair: usize) {
    // SAFETY: passed on to the caller.
    unsafe {
        match isa {
            Isa::Avx512 => attention::gather::<Wide>(call, kv, pair),
            _ => attention::gather::<Narrow>(call, kv, pair),
        }
    }
}

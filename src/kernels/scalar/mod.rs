//! The reference: every kernel in plain Rust. The vector kernels give the same bits.

pub(super) mod attention;
pub(super) mod elementwise;
pub(super) mod matmul;

/// What stands in for vector kernels on architectures that have none, where no other instruction set is there to
/// ask for it.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) mod native {
    use super::attention::Scalar;
    pub use super::elementwise;
    use crate::kernels::attention::{self, Call};
    use crate::kernels::backend::Activations;
    use crate::kernels::cpu::Isa;
    use crate::kernels::division::Division;
    use crate::kernels::layout::Part;
    use crate::kernels::plan::AttentionPart;

    /// Whether there are kernels for `isa`.
    pub fn is_available(isa: Isa) -> bool {
        isa == Isa::Scalar
    }

    /// `Division::join`.
    pub fn join(_: Isa, division: &Division, first: &[u8], second: Option<&[u8]>, packed: &mut [u8]) {
        division.join(first, second, packed);
    }

    /// Whether it computed `part` straight from the planes of divided weights: there are no kernels that do.
    ///
    /// # Safety
    /// Always safe; unsafe where there are.
    pub unsafe fn matmul_divided(_: Isa, _: &Part<'_>, _: &[u8], _: Option<&[u8]>, _: &Activations) -> bool {
        false
    }

    /// Computes `part`.
    ///
    /// # Safety
    /// As `matmul::run`.
    pub unsafe fn matmul(_: Isa, part: &Part<'_>, x: &Activations) {
        // SAFETY: passed on to the caller.
        unsafe { super::matmul::run(part, x) }
    }

    /// `gate = silu(gate) * up`.
    ///
    /// # Safety
    /// Always safe; unsafe where there are vectors.
    pub unsafe fn swiglu(_: Isa, gate: &mut [f32], up: &[f32]) {
        elementwise::swiglu(gate, up);
    }

    /// `x += y`.
    ///
    /// # Safety
    /// As [`swiglu`].
    pub unsafe fn add(_: Isa, x: &mut [f32], y: &[f32]) {
        elementwise::add(x, y);
    }

    /// Computes one task of attention.
    ///
    /// # Safety
    /// As `attention::run`.
    pub unsafe fn attend(_: Isa, call: &Call<'_>, part: &AttentionPart) {
        // SAFETY: passed on to the caller.
        unsafe { attention::run::<Scalar>(call, part) }
    }

    /// Merges the chunks of a pair.
    ///
    /// # Safety
    /// As `attention::gather`.
    pub unsafe fn gather(_: Isa, call: &Call<'_>, kv: usize, pair: usize) {
        // SAFETY: passed on to the caller.
        unsafe { attention::gather::<Scalar>(call, kv, pair) }
    }
}

//! The reference: every kernel in plain Rust. The vector kernels give the same bits.

pub(super) mod attention;
pub(super) mod elementwise;
pub(super) mod matmul;

/// What stands in for vector kernels on architectures that have none, where no other instruction set is there to
/// ask for it.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) mod native {
    pub use super::{attention, elementwise};
    use crate::kernels::backend::Activations;
    use crate::kernels::cpu::Isa;
    use crate::kernels::layout::Part;

    /// Whether there are kernels for `isa`.
    pub fn is_available(isa: Isa) -> bool {
        isa == Isa::Scalar
    }

    /// Computes `part`.
    ///
    /// # Safety
    /// As `matmul::run`.
    pub unsafe fn matmul(_: Isa, part: &Part<'_>, x: &Activations) {
        // SAFETY: passed on to the caller.
        unsafe { super::matmul::run(part, x) }
    }
}

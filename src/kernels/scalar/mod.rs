//! The reference: every kernel in plain Rust. The vector kernels give the same bits.

pub(super) mod attention;
pub(super) mod elementwise;
pub(super) mod matmul;

//! Numeric kernels: encodings and their packing, matrix products, attention, norms.
//!
//! Lives here: everything that computes on slices and shapes, one folder per architecture, and the
//! [`backend::Backend`] interface through which the decoder reaches them. Calls `pool`
//! and `error` only.
//! Must not know: files, manifests, models.
//!
//! Invariant: a result element's bits depend on its inputs alone, never on how many columns or rows are
//! computed with it, on the thread count or on the instruction set. Each element has one fixed order of
//! accumulation; fused multiply-add is used (and emulated exactly where the CPU lacks it); no system libm.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod aligned;
mod attention;
#[cfg(test)]
mod attention_tests;
pub mod backend;
pub mod cpu;
pub mod division;
pub mod encoding;
pub(crate) mod encodings;
pub mod kv;
mod layout;
pub mod math;
#[cfg(test)]
mod matmul_tests;
pub(crate) mod memory;
pub mod pack;
mod panel;
mod plan;
pub mod roofline;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod rows;
mod scalar;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod shape;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod vector;
#[cfg(target_arch = "x86_64")]
mod x86_64;

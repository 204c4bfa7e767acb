//! Kernels written once for vectors of every width, over the [`Vector`] that each instruction set implements.
//!
//! Loops are [`Operation`]s: [`Vector::enter`] inlines one into a function that has the target features. Everything
//! around them is ordinary code.

pub(super) mod attention;
pub(super) mod elementwise;

use super::math::{EXP, LN2, LOG2_E, ROUNDER};

/// A loop over vectors `V`. All that it calls is `#[inline(always)]`, and so is `run`.
pub(super) trait Operation<V: Vector> {
    type Output;

    /// Does it.
    ///
    /// # Safety
    /// The machine has the instruction set of `V`; what pointers and lengths must hold, each operation says.
    unsafe fn run(self) -> Self::Output;
}

/// A vector of f32. A value exists only where its instruction set does, so that arithmetic on it is safe.
pub(super) trait Vector: Copy {
    /// Lanes; divides 16.
    const LANES: usize;

    /// Runs `operation` with the target features of the instruction set.
    ///
    /// # Safety
    /// That of the operation.
    unsafe fn enter<O: Operation<Self>>(operation: O) -> O::Output;

    /// `x` in every lane.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn splat(x: f32) -> Self;

    /// Reads `LANES` floats.
    ///
    /// # Safety
    /// The machine has the instruction set, and they are readable.
    unsafe fn load(from: *const f32) -> Self;

    /// Reads `LANES` f16.
    ///
    /// # Safety
    /// As for [`load`](Self::load).
    unsafe fn load_f16(from: *const u16) -> Self;

    /// Reads `LANES` int8.
    ///
    /// # Safety
    /// As for [`load`](Self::load).
    unsafe fn load_i8(from: *const i8) -> Self;

    /// Asks for the cache line at `address`, which may lie anywhere.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn prefetch(address: *const u8);

    /// Writes `LANES` floats.
    ///
    /// # Safety
    /// They are writable.
    unsafe fn store(self, to: *mut f32);

    /// `self * b + c`, rounded once.
    fn fma(self, b: Self, c: Self) -> Self;

    /// `self + b`.
    fn add(self, b: Self) -> Self;

    /// `self - b`.
    fn sub(self, b: Self) -> Self;

    /// `self * b`.
    fn mul(self, b: Self) -> Self;

    /// `self / b`.
    fn div(self, b: Self) -> Self;

    /// `if self > b { self } else { b }`: `b` where one is NaN.
    fn max(self, b: Self) -> Self;

    /// Adds the low bits of `n`, shifted to the place of the exponent, to the bits of `self`, as integers.
    fn add_exponent(self, n: Self) -> Self;

    /// Infinity where `x` is above `EXP_HIGHEST`, 0 where it is below `EXP_LOWEST`, `x` where it is NaN, else `self`.
    fn clip_exp(self, x: Self) -> Self;
}

/// `math::exp` in every lane, operation for operation.
#[inline(always)]
pub(super) fn exp<V: Vector>(x: V) -> V {
    // SAFETY: there is a vector, so there is the instruction set.
    unsafe {
        let rounder = V::splat(ROUNDER);
        let shifted = x.fma(V::splat(LOG2_E), rounder);
        let n = shifted.sub(rounder);
        let r = n.fma(V::splat(-LN2[1]), n.fma(V::splat(-LN2[0]), x));
        let mut tail = V::splat(EXP[4]);
        for c in EXP[..4].iter().rev() {
            tail = tail.fma(r, V::splat(*c));
        }
        let mantissa = r.mul(r).fma(tail, r).add(V::splat(1.0));
        mantissa.add_exponent(shifted).clip_exp(x)
    }
}

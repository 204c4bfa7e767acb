//! The vectors of NEON.

use std::arch::aarch64::*;
use std::arch::asm;

use super::half;
use crate::kernels::cpu::Isa;
use crate::kernels::math::{EXP_HIGHEST, EXP_LOWEST};
use crate::kernels::vector::elementwise::{Add, Swiglu};
use crate::kernels::vector::{Operation, Vector};

/// Four lanes.
#[derive(Clone, Copy)]
pub struct Neon(pub float32x4_t);

impl Vector for Neon {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn enter<O: Operation<Self>>(operation: O) -> O::Output {
        #[target_feature(enable = "neon")]
        unsafe fn inside<O: Operation<Neon>>(operation: O) -> O::Output {
            // SAFETY: passed on to the caller.
            unsafe { operation.run() }
        }
        // SAFETY: as above.
        unsafe { inside(operation) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: passed on to the caller, here and in the other functions that read or write memory.
        Self(unsafe { vdupq_n_f32(x) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as above.
        Self(unsafe { vld1q_f32(from) })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        // SAFETY: as above.
        Self(unsafe { half::four(vld1_u16(from)) })
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: as above.
        unsafe {
            let four = vreinterpret_s8_s32(vdup_n_s32(from.cast::<i32>().read_unaligned()));
            Self(vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(four)))))
        }
    }

    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        // SAFETY: a prefetch changes nothing and never faults. The intrinsic is not stable.
        unsafe {
            asm!("prfm pldl1keep, [{}]", in(reg) address, options(readonly, nostack, preserves_flags));
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { vst1q_f32(to, self.0) };
    }

    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: there is a vector, so there is the instruction set, here and below.
        Self(unsafe { vfmaq_f32(c.0, self.0, b.0) })
    }

    #[inline(always)]
    fn add(self, b: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { vaddq_f32(self.0, b.0) })
    }

    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { vsubq_f32(self.0, b.0) })
    }

    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { vmulq_f32(self.0, b.0) })
    }

    #[inline(always)]
    fn div(self, b: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { vdivq_f32(self.0, b.0) })
    }

    #[inline(always)]
    fn max(self, b: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { vbslq_f32(vcgtq_f32(self.0, b.0), self.0, b.0) })
    }

    #[inline(always)]
    fn add_exponent(self, n: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let power = vshlq_n_s32::<23>(vreinterpretq_s32_f32(n.0));
            Self(vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(self.0), power)))
        }
    }

    #[inline(always)]
    fn clip_exp(self, x: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let high = vcgtq_f32(x.0, vdupq_n_f32(EXP_HIGHEST));
            let low = vcltq_f32(x.0, vdupq_n_f32(EXP_LOWEST));
            let value = vbslq_f32(high, vdupq_n_f32(f32::INFINITY), self.0);
            let value = vbslq_f32(low, vdupq_n_f32(0.0), value);
            // A NaN does not equal itself.
            Self(vbslq_f32(vceqq_f32(x.0, x.0), value, x.0))
        }
    }
}

/// As the scalar form.
///
/// # Safety
/// The machine has NEON.
pub unsafe fn swiglu(_: Isa, gate: &mut [f32], up: &[f32]) {
    // SAFETY: passed on to the caller.
    unsafe { Neon::enter(Swiglu { gate, up }) }
}

/// As the scalar form.
///
/// # Safety
/// The machine has NEON.
pub unsafe fn add(_: Isa, x: &mut [f32], y: &[f32]) {
    // SAFETY: passed on to the caller.
    unsafe { Neon::enter(Add { x, y }) }
}

//! The vectors of AVX2 and AVX-512.

use std::arch::x86_64::*;

use crate::kernels::cpu::Isa;
use crate::kernels::math::{EXP_HIGHEST, EXP_LOWEST};
use crate::kernels::vector::elementwise::{Add, Swiglu};
use crate::kernels::vector::{Operation, Vector};

/// Eight lanes; AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub struct Avx2(pub __m256);

impl Vector for Avx2 {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn enter<O: Operation<Self>>(operation: O) -> O::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn inside<O: Operation<Avx2>>(operation: O) -> O::Output {
            // SAFETY: passed on to the caller.
            unsafe { operation.run() }
        }
        // SAFETY: as above.
        unsafe { inside(operation) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: passed on to the caller, here and in the other functions that read or write memory.
        Self(unsafe { _mm256_set1_ps(x) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) })
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) })
    }

    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(to, self.0) };
    }

    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: there is a vector, so there is the instruction set, here and below.
        Self(unsafe { _mm256_fmadd_ps(self.0, b.0, c.0) })
    }

    #[inline(always)]
    fn add(self, b: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_add_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_sub_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_mul_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn div(self, b: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_div_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn max(self, b: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm256_max_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn add_exponent(self, n: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let power = _mm256_slli_epi32::<23>(_mm256_castps_si256(n.0));
            Self(_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(self.0), power)))
        }
    }

    #[inline(always)]
    fn clip_exp(self, x: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let high = _mm256_cmp_ps::<_CMP_GT_OQ>(x.0, _mm256_set1_ps(EXP_HIGHEST));
            let low = _mm256_cmp_ps::<_CMP_LT_OQ>(x.0, _mm256_set1_ps(EXP_LOWEST));
            let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(x.0, x.0);
            let value = _mm256_blendv_ps(self.0, _mm256_set1_ps(f32::INFINITY), high);
            Self(_mm256_blendv_ps(_mm256_andnot_ps(low, value), x.0, nan))
        }
    }
}

/// Sixteen lanes; AVX-512 F and BW.
#[derive(Clone, Copy)]
pub struct Avx512(pub __m512);

impl Vector for Avx512 {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn enter<O: Operation<Self>>(operation: O) -> O::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
        unsafe fn inside<O: Operation<Avx512>>(operation: O) -> O::Output {
            // SAFETY: passed on to the caller.
            unsafe { operation.run() }
        }
        // SAFETY: as above.
        unsafe { inside(operation) }
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: passed on to the caller, here and in the other functions that read or write memory.
        Self(unsafe { _mm512_set1_ps(x) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) })
    }

    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(to, self.0) };
    }

    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: there is a vector, so there is the instruction set, here and below.
        Self(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
    }

    #[inline(always)]
    fn add(self, b: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_add_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn sub(self, b: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_sub_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn mul(self, b: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_mul_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn div(self, b: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_div_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn max(self, b: Self) -> Self {
        // SAFETY: as above.
        Self(unsafe { _mm512_max_ps(self.0, b.0) })
    }

    #[inline(always)]
    fn add_exponent(self, n: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let power = _mm512_slli_epi32::<23>(_mm512_castps_si512(n.0));
            Self(_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(self.0), power)))
        }
    }

    #[inline(always)]
    fn clip_exp(self, x: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let high = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x.0, _mm512_set1_ps(EXP_HIGHEST));
            let kept = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x.0, _mm512_set1_ps(EXP_LOWEST));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x.0, x.0);
            let value = _mm512_mask_mov_ps(self.0, high, _mm512_set1_ps(f32::INFINITY));
            Self(_mm512_mask_mov_ps(_mm512_maskz_mov_ps(kept, value), nan, x.0))
        }
    }
}

/// Runs `operation` on the vectors of `isa`.
///
/// # Safety
/// That of the operation; the machine has `isa`, which is not scalar.
unsafe fn enter<O, R>(isa: Isa, operation: O) -> R
where
    O: Operation<Avx2, Output = R> + Operation<Avx512, Output = R>,
{
    // SAFETY: passed on to the caller.
    unsafe {
        match isa {
            Isa::Avx512 => Avx512::enter(operation),
            _ => Avx2::enter(operation),
        }
    }
}

/// As the scalar form.
///
/// # Safety
/// The machine has `isa`, which is not scalar.
pub unsafe fn swiglu(isa: Isa, gate: &mut [f32], up: &[f32]) {
    // SAFETY: passed on to the caller.
    unsafe { enter(isa, Swiglu { gate, up }) }
}

/// As the scalar form.
///
/// # Safety
/// The machine has `isa`, which is not scalar.
pub unsafe fn add(isa: Isa, x: &mut [f32], y: &[f32]) {
    // SAFETY: passed on to the caller.
    unsafe { enter(isa, Add { x, y }) }
}

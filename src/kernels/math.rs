//! Scalar arithmetic whose every bit is known: fused multiply-add, exp, rounding, f16. No system libm.

use half::f16;

/// `a * b + c`, rounded once, on every target.
#[inline(always)]
#[must_use]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        a.mul_add(b, c)
    } else {
        fma_emulated(a, b, c)
    }
}

/// [`fma`] in f64 arithmetic: the product of two f32 is exact in f64; the sum is rounded to odd, after which
/// the rounding to f32 is the only one that counts (Boldo & Melquiond 2008, "Emulation of FMA").
#[inline]
pub(super) fn fma_emulated(a: f32, b: f32, c: f32) -> f32 {
    let product = f64::from(a) * f64::from(b);
    let addend = f64::from(c);
    let sum = product + addend;
    // TwoSum (Knuth): `sum + error` is the exact sum.
    let part = sum - product;
    let error = (product - (sum - part)) + (addend - part);
    if error == 0.0 || !sum.is_finite() || sum.to_bits() & 1 == 1 {
        return sum as f32;
    }
    // Inexact with an even last bit: the odd neighbour on the error's side. `sum` is not 0, as 0 would be exact.
    let outward = (error > 0.0) == (sum > 0.0);
    let odd = if outward { sum.to_bits() + 1 } else { sum.to_bits() - 1 };
    f64::from_bits(odd) as f32
}

/// Adding and subtracting it rounds a float of magnitude below 2^22 to the nearest integer, ties to even.
pub(super) const ROUNDER: f32 = 12_582_912.0;
/// 1 / ln 2.
pub(super) const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 rounded to f32, and the rest of it.
pub(super) const LN2: [f32; 2] = [std::f32::consts::LN_2, -1.904_654_2e-9];
/// Coefficients of r^2 .. r^6: interpolation of (exp(r) - 1 - r) / r^2 at the Chebyshev nodes of
/// -ln 2 / 2 .. ln 2 / 2, computed for this library in 40 digits; error 0.18 units of 2^-24.
pub(super) const EXP: [f32; 5] = [0.5, 0.166_665_76, 0.041_666_556, 0.008_363_203, 0.001_392_621_3];
/// Below this [`exp`] is 0: results would leave the normal floats.
pub(super) const EXP_LOWEST: f32 = -87.0;
/// Above this [`exp`] is infinite: ln of the largest f32.
pub(super) const EXP_HIGHEST: f32 = 88.722_83;

/// e^x within 1.5 ulp; 0 below -87. Reduction by multiples of ln 2 in two parts (Cody & Waite 1980), then a
/// polynomial; the vector kernels perform the same operations.
#[inline(always)]
#[must_use]
pub fn exp(x: f32) -> f32 {
    let shifted = fma(x, LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = fma(n, -LN2[1], fma(n, -LN2[0], x));
    let mut tail = EXP[4];
    for c in EXP[..4].iter().rev() {
        tail = fma(tail, r, *c);
    }
    let mantissa = fma(r * r, tail, r) + 1.0;
    // The low bits of `shifted` hold n; for x in range the sum of the exponents stays a valid one.
    let value = f32::from_bits(mantissa.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x > EXP_HIGHEST {
        f32::INFINITY
    } else if x < EXP_LOWEST {
        0.0
    } else if x.is_nan() {
        x
    } else {
        value
    }
}

/// How far below the greatest logit others hardly change a probability, for [`log_sum_exp`] where speed counts.
pub const NEGLIGIBLE: f32 = 16.0;

/// `ln(sum of exp(logit))` in f64, in a fixed order and the same on every system, over the logits that are less than
/// `reach` below the greatest one; infinite: over all.
#[must_use]
pub fn log_sum_exp(logits: &[f32], reach: f32) -> f64 {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let top = f64::from(best);
    let near = logits.iter().filter(|logit| **logit > best - reach);
    libm::log(near.map(|logit| libm::exp(f64::from(*logit) - top)).sum()) + top
}

/// Nearest integer, ties to even, of a float of magnitude below 2^22.
#[inline(always)]
pub(super) fn round_even(x: f32) -> f32 {
    (x + ROUNDER) - ROUNDER
}

/// The f32 of f16 bits; exact.
#[inline(always)]
#[must_use]
pub fn f16_to_f32(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32()
}

/// f16 bits of the nearest f16, ties to even.
#[inline(always)]
#[must_use]
pub fn f32_to_f16(x: f32) -> u16 {
    f16::from_f32(x).to_bits()
}

/// Sum of eight lanes in the order that every kernel uses.
#[inline(always)]
pub(super) fn sum_lanes(l: &[f32; 8]) -> f32 {
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}

/// Sum of sixteen lanes in the order that every kernel uses: the halves are added, then as [`sum_lanes`].
#[inline(always)]
pub(super) fn sum_lanes_16(l: &[f32; 16]) -> f32 {
    sum_lanes(&std::array::from_fn(|i| l[i] + l[i + 8]))
}

/// [`sum_lanes`] in f64.
#[inline(always)]
pub(super) fn sum_lanes_f64(l: &[f64; 8]) -> f64 {
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small deterministic generator (xorshift64*).
    fn random(state: &mut u64) -> u64 {
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    #[test]
    fn the_emulated_fma_rounds_once() {
        let mut state = 7;
        let float = |bits: u64| f32::from_bits(bits as u32);
        for i in 0..3_000_000 {
            let (a, b) = (float(random(&mut state)), float(random(&mut state)));
            // Half of the addends lie near the product, where double rounding would show.
            let near = -(a * b) * (1.0 + (random(&mut state) % 64) as f32 / 16.0e6);
            let c = if i % 2 == 0 { float(random(&mut state)) } else { near };
            let expected = libm::fmaf(a, b, c);
            let got = fma_emulated(a, b, c);
            let same = got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan());
            assert!(same, "{a:e} {b:e} {c:e}: {got:e} instead of {expected:e}");
        }
        // The exact result lies a hair above the middle of two floats; f64 alone would round to the even one.
        let (a, b) = (1.0 + f32::EPSILON, 1.0 + f32::EPSILON);
        assert_eq!(fma_emulated(a, b, 1e-30).to_bits(), libm::fmaf(a, b, 1e-30).to_bits());
        let c = f32::from_bits(1);
        assert_eq!(fma_emulated(4097.0, 4097.0, c), libm::fmaf(4097.0, 4097.0, c));
        assert!(fma_emulated(f32::INFINITY, 0.0, 1.0).is_nan());
        assert_eq!(fma_emulated(f32::MAX, f32::MAX, f32::NEG_INFINITY), f32::NEG_INFINITY);
        assert_eq!(fma_emulated(-1.0, 0.0, -0.0).to_bits(), (-0.0f32).to_bits());
    }

    #[test]
    fn exp_is_within_one_and_a_half_ulp() {
        let mut worst = 0.0f64;
        for i in 0..2_000_000 {
            let x = -87.0 + 175.7 * (i as f32 / 2_000_000.0);
            let exact = libm::exp(f64::from(x));
            let got = f64::from(exp(x));
            let ulp =
                f64::from(f32::from_bits((exact as f32).to_bits() & 0x7f80_0000)) * f64::from(f32::EPSILON);
            worst = worst.max((got - exact).abs() / ulp);
        }
        assert!(worst < 1.5, "{worst} ulp");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-88.0), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(89.0), f32::INFINITY);
        assert!(exp(EXP_HIGHEST).is_finite() && exp(f32::NAN).is_nan());
    }
}

//! Search for the two-level scales of the K encodings: small integers per sub-block times f16 factors.
//!
//! Sub-blocks are fitted alone first. The factor is then the one whose multiples come closest to the fitted
//! scales, each difference weighed by what it costs; codes are chosen anew at the decoded scales, neighbouring
//! integers are tried for every sub-block with the error that they truly give, and at last the factors are
//! solved for by least squares with all integers held, and kept if that helps.

use super::SUPER;
use super::fit::{self, error, f16_near, inverse, nearest};
use half::f16;
use std::array::from_fn;

/// Multiples of the smallest factor that reaches the largest scale, tried as factor.
const FACTORS: [f32; 8] = [0.9, 0.94, 0.97, 1.0, 1.03, 1.07, 1.12, 1.2];
/// Least-squares refits of the factors.
const REFITS: usize = 2;

/// The factor whose multiples `lo..=hi` best approximate `wanted`, differences squared weighing `stiffness`.
/// `reach` is the multiple that the largest wanted scale gets at first.
fn factor<const S: usize>(wanted: &[f32; S], stiffness: &[f32; S], reach: f32, lo: f32, hi: f32) -> f16 {
    let peak = wanted.iter().fold(0.0, |peak: f32, &v| if v.abs() > peak.abs() { v } else { peak });
    if peak == 0.0 {
        return f16::ZERO;
    }
    let mut best = (f16::ZERO, f32::INFINITY);
    for multiple in FACTORS {
        for candidate in f16_near(peak / reach * multiple) {
            let d = candidate.to_f32();
            let inverse = inverse(d);
            let mut cost = 0.0;
            for (value, stiffness) in wanted.iter().zip(stiffness) {
                let rest = value - d * nearest(value * inverse, lo, hi);
                cost += stiffness * rest * rest;
            }
            if cost < best.1 {
                best = (candidate, cost);
            }
        }
    }
    best.0
}

/// A block of Q2_K, Q4_K or Q5_K before its bits are laid out.
pub(super) struct Affine<const SUBS: usize> {
    /// Factor of the scales.
    pub(super) d: f16,
    /// Factor of the offsets.
    pub(super) dmin: f16,
    /// Scale of each sub-block.
    pub(super) scales: [u8; SUBS],
    /// Offset of each sub-block, subtracted.
    pub(super) offsets: [u8; SUBS],
    /// Codes of all elements.
    pub(super) codes: [u8; SUPER],
}

/// The factors and integers of an affine block, as f32 whole numbers.
#[derive(Clone, Copy)]
struct Lines<const SUBS: usize> {
    d: f16,
    dmin: f16,
    scales: [f32; SUBS],
    offsets: [f32; SUBS],
}

impl<const SUBS: usize> Lines<SUBS> {
    /// Fits every sub-block alone, then finds factors for the scales and offsets that came out.
    fn start<const LEN: usize>(x: &[[f32; LEN]], w: &[[f32; LEN]], hi: f32, top: f32) -> Self {
        let lines: [fit::Line; SUBS] = from_fn(|j| fit::line(&x[j], &w[j], hi, true));

        // The offset follows a change of the scale, which then costs only what the offset cannot make good.
        let wanted = lines.map(|l| l.scale);
        let stiffness = lines.map(|l| l.sums[2] - l.sums[1] * l.sums[1] / l.sums[0].max(f32::MIN_POSITIVE));
        let d = factor(&wanted, &stiffness, top, 0.0, top);
        let to_scale = inverse(d.to_f32());
        let scales = wanted.map(|scale| nearest(scale * to_scale, 0.0, top));

        let wanted = from_fn(|j| {
            let [ww, wq, _] = lines[j].sums;
            let shift = if ww > 0.0 { (d.to_f32() * scales[j] - lines[j].scale) * wq / ww } else { 0.0 };
            (shift - lines[j].min).max(0.0)
        });
        let dmin = factor(&wanted, &lines.map(|l| l.sums[0]), top, 0.0, top);
        let to_offset = inverse(dmin.to_f32());
        let offsets = wanted.map(|offset| nearest(offset * to_offset, 0.0, top));
        Self { d, dmin, scales, offsets }
    }

    /// Decoded scale and offset of sub-block `j`.
    fn line(&self, j: usize) -> (f32, f32) {
        (self.d.to_f32() * self.scales[j], -(self.dmin.to_f32() * self.offsets[j]))
    }

    /// Replaces each pair of integers by the best among itself and its neighbours; returns the total error.
    fn improve<const LEN: usize>(&mut self, x: &[[f32; LEN]], w: &[[f32; LEN]], hi: f32, top: f32) -> f32 {
        let mut sum = 0.0;
        for j in 0..SUBS {
            let (scale, offset) = (self.scales[j], self.offsets[j]);
            let mut least = error(&x[j], &w[j], self.line(j), (0.0, hi));
            for (ds, dm) in [(-1., -1.), (-1., 0.), (0., -1.), (0., 1.), (1., 0.), (1., 1.)] {
                let (s, m) = (scale + ds, offset + dm);
                if s < 0.0 || m < 0.0 || s > top || m > top {
                    continue;
                }
                let line = (self.d.to_f32() * s, -(self.dmin.to_f32() * m));
                let cost = error(&x[j], &w[j], line, (0.0, hi));
                if cost < least {
                    (least, self.scales[j], self.offsets[j]) = (cost, s, m);
                }
            }
            sum += least;
        }
        sum
    }

    /// The factors that least squares gives for the present integers and codes.
    fn refit<const LEN: usize>(&self, x: &[[f32; LEN]], w: &[[f32; LEN]], hi: f32) -> Option<(f16, f16)> {
        // Normal equations of x = d a - dmin b, with a = scale code and b = offset.
        let (mut aa, mut ab, mut bb, mut xa, mut xb) = (0f32, 0f32, 0f32, 0f32, 0f32);
        for j in 0..SUBS {
            let (scale, min) = self.line(j);
            let inverse = inverse(scale);
            let b = self.offsets[j];
            for (x, w) in x[j].iter().zip(&w[j]) {
                let a = self.scales[j] * nearest((x - min) * inverse, 0.0, hi);
                aa += w * a * a;
                ab += w * a * b;
                bb += w * b * b;
                xa += w * x * a;
                xb += w * x * b;
            }
        }
        let det = aa * bb - ab * ab;
        let (d, dmin) = if det > 1e-6 * aa * bb {
            ((xa * bb - xb * ab) / det, (xa * ab - xb * aa) / det)
        } else if aa > 0.0 {
            ((xa + self.dmin.to_f32() * ab) / aa, self.dmin.to_f32())
        } else {
            return None;
        };
        (d > 0.0 && dmin >= 0.0).then(|| (f16_near(d)[0], f16_near(dmin)[0]))
    }
}

/// Fits a block of `SUBS` sub-blocks of `LEN` elements with codes `0..=hi` and integers `0..=top`.
pub(super) fn affine<const LEN: usize, const SUBS: usize>(
    x: &[f32; SUPER],
    w: &[f32; SUPER],
    hi: u8,
    top: u8,
) -> Affine<SUBS> {
    let (hi, top) = (f32::from(hi), f32::from(top));
    let (x, w) = (x.as_chunks::<LEN>().0, w.as_chunks::<LEN>().0);
    let mut best = Lines::<SUBS>::start(x, w, hi, top);
    let mut least = best.improve(x, w, hi, top);
    for _ in 0..REFITS {
        let Some((d, dmin)) = best.refit(x, w, hi) else { break };
        let mut next = Lines { d, dmin, ..best };
        let cost = next.improve(x, w, hi, top);
        if cost >= least {
            break;
        }
        (best, least) = (next, cost);
    }
    let mut codes = [0; SUPER];
    for (j, (codes, x)) in codes.as_chunks_mut::<LEN>().0.iter_mut().zip(x).enumerate() {
        let (scale, min) = best.line(j);
        let inverse = inverse(scale);
        *codes = x.map(|x| nearest((x - min) * inverse, 0.0, hi) as u8);
    }
    let (scales, offsets) = (best.scales.map(|s| s as u8), best.offsets.map(|m| m as u8));
    Affine { d: best.d, dmin: best.dmin, scales, offsets, codes }
}

/// Sub-blocks of a symmetric block.
const SUBS: usize = 16;
/// Elements in each.
const LEN: usize = SUPER / SUBS;

/// A block of Q3_K or Q6_K before its bits are laid out.
pub(super) struct Symmetric {
    /// Factor of the scales.
    pub(super) d: f16,
    /// Scale of each sub-block.
    pub(super) scales: [i8; SUBS],
    /// Codes of all elements.
    pub(super) codes: [i8; SUPER],
}

/// Factor and integers of a symmetric block, as f32 whole numbers.
#[derive(Clone, Copy)]
struct Scales {
    d: f16,
    scales: [f32; SUBS],
}

impl Scales {
    /// Replaces each integer by the best among itself and its neighbours; returns the total error.
    fn improve(&mut self, x: &[[f32; LEN]], w: &[[f32; LEN]], range: (f32, f32), ends: (f32, f32)) -> f32 {
        let d = self.d.to_f32();
        let mut sum = 0.0;
        for ((scale, x), w) in self.scales.iter_mut().zip(x).zip(w) {
            let middle = *scale;
            let mut least = error(x, w, (d * middle, 0.0), range);
            for s in [middle - 1.0, middle + 1.0] {
                if s < ends.0 || s > ends.1 {
                    continue;
                }
                let cost = error(x, w, (d * s, 0.0), range);
                if cost < least {
                    (least, *scale) = (cost, s);
                }
            }
            sum += least;
        }
        sum
    }

    /// The factor that least squares gives for the present integers and codes.
    fn refit(&self, x: &[[f32; LEN]], w: &[[f32; LEN]], range: (f32, f32)) -> Option<f16> {
        let (mut aa, mut xa) = (0f32, 0f32);
        for ((scale, x), w) in self.scales.iter().zip(x).zip(w) {
            let inverse = inverse(self.d.to_f32() * scale);
            for (x, w) in x.iter().zip(w) {
                let a = scale * nearest(x * inverse, range.0, range.1);
                aa += w * a * a;
                xa += w * x * a;
            }
        }
        (aa > 0.0).then(|| f16_near(xa / aa)[0])
    }
}

/// Fits a block of sixteen sub-blocks with codes `range` and scales `ends`, both inclusive.
pub(super) fn symmetric(x: &[f32; SUPER], w: &[f32; SUPER], range: (i8, i8), ends: (i8, i8)) -> Symmetric {
    let range = (f32::from(range.0), f32::from(range.1));
    let ends = (f32::from(ends.0), f32::from(ends.1));
    let (x, w) = (x.as_chunks::<LEN>().0, w.as_chunks::<LEN>().0);
    let fits: [fit::Scale; SUBS] = from_fn(|j| fit::scale(&x[j], &w[j], range.0, range.1));
    let (wanted, stiffness) = (fits.map(|f| f.scale), fits.map(|f| f.stiffness));
    let d = factor(&wanted, &stiffness, ends.0, ends.0, ends.1);
    let to_scale = inverse(d.to_f32());
    let mut best = Scales { d, scales: wanted.map(|scale| nearest(scale * to_scale, ends.0, ends.1)) };
    let mut least = best.improve(x, w, range, ends);
    for _ in 0..REFITS {
        let Some(d) = best.refit(x, w, range) else { break };
        let mut next = Scales { d, ..best };
        let cost = next.improve(x, w, range, ends);
        if cost >= least {
            break;
        }
        (best, least) = (next, cost);
    }
    let mut codes = [0; SUPER];
    for ((codes, x), scale) in codes.as_chunks_mut::<LEN>().0.iter_mut().zip(x).zip(best.scales) {
        let inverse = inverse(best.d.to_f32() * scale);
        *codes = x.map(|x| nearest(x * inverse, range.0, range.1) as i8);
    }
    Symmetric { d: best.d, scales: best.scales.map(|s| s as i8), codes }
}

//! Search for the scale (and offset) of one block that minimises `sum of w (x - decoded)^2`.
//!
//! For given codes the best scale is a least-squares problem with a closed solution, and for a given scale the
//! best codes are the nearest ones. The sum has many local minima in the scale, so the search starts from a
//! fixed list of scales around the one that just reaches the largest element, solves for the best scale at each,
//! and improves the winner by alternating the two steps. Every sum runs in eight lanes in a fixed order: the
//! result is the same on every machine.

use half::f16;

/// Inputs are clamped to this magnitude, far beyond what an f16 scale can express, so that no sum overflows.
const LARGEST: f32 = 1e12;
/// Blocks whose largest magnitude is below this decode to zeros: it is less than half the least f16 scale.
const SMALLEST: f32 = f32::from_bits((127 - 26) << 23);
/// Adding and taking away 1.5 * 2^23 rounds an f32 below 2^22 to the nearest integer, ties to even.
const ROUNDING: f32 = 12_582_912.0;
/// How far the largest element may lie beyond the reach of the codes, as multiples of that reach.
const REACHES: [f32; 12] = [0.82, 0.88, 0.92, 0.95, 0.98, 1.01, 1.04, 1.08, 1.13, 1.2, 1.3, 1.45];
/// Codes whose range is wider than this get scales in proportion closer to one another: their errors vary faster
/// with the scale, and they gain less from putting the largest element out of reach.
const COARSE: f32 = 24.0;
/// Alternations of the two steps after the search.
const ROUNDS: usize = 2;
/// Steps that the ends of the range may be drawn inwards at the start of a search for scale and offset.
const CLIPS: [f32; 5] = [-0.5, -0.15, 0.15, 0.45, 0.8];

/// The block and its weights, fit for sums: NaN becomes 0, other values stay within [`LARGEST`]; weights are
/// relative to the largest one, and 1 where the importance is missing, all zero or not finite.
pub(super) fn clean<const N: usize>(x: &[f32], importance: Option<&[f32]>) -> ([f32; N], [f32; N]) {
    let mut values = [0.0; N];
    for (value, x) in values.iter_mut().zip(x) {
        *value = if x.is_nan() { 0.0 } else { x.clamp(-LARGEST, LARGEST) };
    }
    let mut weights = [1.0; N];
    if let Some(importance) = importance {
        let top = importance.iter().copied().fold(0.0, f32::max);
        // The reciprocal of a tiny number would overflow.
        if top > f32::MIN_POSITIVE && top.is_finite() {
            for (weight, value) in weights.iter_mut().zip(importance) {
                *weight = if *value > 0.0 { value / top } else { 0.0 };
            }
        }
    }
    (values, weights)
}

/// `v`, which is not NaN, rounded to the nearest integer in `lo..=hi`; both ends are below 2^22.
pub(super) fn nearest(v: f32, lo: f32, hi: f32) -> f32 {
    let low = if v < lo { lo } else { v };
    let within = if low > hi { hi } else { low };
    (within + ROUNDING) - ROUNDING
}

/// `1 / scale`, or 0 where that would not be finite: all codes are then those of 0.
pub(super) fn inverse(scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// The two f16 next to `scale`: the nearest, and the one after it away from zero; both finite. Rounding a tiny
/// scale down would put large elements out of reach.
pub(super) fn f16_near(scale: f32) -> [f16; 2] {
    let near = f16::from_f32(scale.clamp(-65504.0, 65504.0));
    let largest = f16::MAX.to_bits();
    let magnitude = near.to_bits() & 0x7fff;
    let sign = if scale < 0.0 { 0x8000 } else { 0 };
    [near, f16::from_bits((magnitude + 1).min(largest) | sign)]
}

/// Sum of eight lanes, pairwise.
fn total(lanes: [f32; 8]) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// Sums over `terms(x, w)` of all elements, each in eight lanes.
fn sums<const N: usize, const S: usize>(
    x: &[f32; N],
    w: &[f32; N],
    terms: impl Fn(f32, f32) -> [f32; S],
) -> [f32; S] {
    let mut lanes = [[0.0; 8]; S];
    for (x, w) in x.as_chunks::<8>().0.iter().zip(w.as_chunks::<8>().0) {
        for l in 0..8 {
            let add = terms(x[l], w[l]);
            for s in 0..S {
                lanes[s][l] += add[s];
            }
        }
    }
    lanes.map(total)
}

/// Best scale, with how much it lowers the error and its sum of `w code^2`.
#[derive(Clone, Copy, Default)]
pub(super) struct Scale {
    /// The least-squares scale for its codes.
    pub(super) scale: f32,
    /// Sum of `w code^2`: the error grows by this times the square of a change of the scale.
    pub(super) stiffness: f32,
    /// Sum of `w x^2` less the error.
    gain: f32,
}

/// The element of largest magnitude, with its sign.
fn peak<const N: usize>(x: &[f32; N]) -> f32 {
    x.iter().fold(0.0, |peak: f32, &v| if v.abs() > peak.abs() { v } else { peak })
}

/// Searches the scale for codes found by `code(x * inverse scale)`, whose extreme values are `lo` and `hi`;
/// about `steps` codes lie on either side of 0.
fn search<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    (lo, hi): (f32, f32),
    steps: f32,
    code: impl Fn(f32) -> f32,
) -> Scale {
    let peak = peak(x);
    if peak.abs() < SMALLEST {
        return Scale::default();
    }
    let solve = |inverse: f32| {
        let [xq, qq] = sums(x, w, |x, w| {
            let q = code(x * inverse);
            let wq = w * q;
            [wq * x, wq * q]
        });
        let scale = if qq > 0.0 { xq / qq } else { 0.0 };
        Scale { scale, stiffness: qq, gain: scale * xq }
    };
    // Where nothing of weight is left to fit, the plain scale serves the elements without weight.
    let mut best = Scale { scale: peak / lo, ..Scale::default() };
    let spread = (COARSE / steps).min(1.0);
    let sides: &[f32] = if lo == -hi { &[lo] } else { &[lo, hi] };
    for side in sides {
        for reach in REACHES {
            let reach = 1.0 + (reach - 1.0) * spread;
            let found = solve(side * reach / peak);
            if found.gain > best.gain {
                best = found;
            }
        }
    }
    for _ in 0..ROUNDS {
        let found = solve(inverse(best.scale));
        if found.gain <= best.gain {
            break;
        }
        best = found;
    }
    best
}

/// The best scale for integer codes `lo..=hi`.
pub(super) fn scale<const N: usize>(x: &[f32; N], w: &[f32; N], lo: f32, hi: f32) -> Scale {
    search(x, w, (lo, hi), hi, |v| nearest(v, lo, hi))
}

/// Error of integer codes `lo..=hi` at a scale and an offset.
pub(super) fn error<const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    (scale, min): (f32, f32),
    (lo, hi): (f32, f32),
) -> f32 {
    let inverse = inverse(scale);
    let [error] = sums(x, w, |x, w| {
        let rest = (x - min) - scale * nearest((x - min) * inverse, lo, hi);
        [w * rest * rest]
    });
    error
}

/// Scale and signed codes of a block.
pub(super) fn symmetric<const N: usize>(x: &[f32; N], w: &[f32; N], lo: i8, hi: i8) -> (f16, [i8; N]) {
    let range = (f32::from(lo), f32::from(hi));
    let best = scale(x, w, range.0, range.1);
    if best.scale == 0.0 {
        return (f16::ZERO, [0; N]);
    }
    let cost = |d: f16| error(x, w, (d.to_f32(), 0.0), range);
    let [near, far] = f16_near(best.scale);
    let d = if cost(far) < cost(near) { far } else { near };
    let inverse = inverse(d.to_f32());
    (d, x.map(|x| nearest(x * inverse, range.0, range.1) as i8))
}

/// The best line through a block: scale, offset and the sums that tell the price of a change of either.
#[derive(Clone, Copy, Default)]
pub(super) struct Line {
    /// Scale, not negative.
    pub(super) scale: f32,
    /// Value of code 0.
    pub(super) min: f32,
    /// Sum of `w`, of `w code` and of `w code^2`.
    pub(super) sums: [f32; 3],
    gain: f32,
}

/// The best line for codes `0..=hi`; with `below_zero` its offset is not above 0.
pub(super) fn line<const N: usize>(x: &[f32; N], w: &[f32; N], hi: f32, below_zero: bool) -> Line {
    let (mut low, mut high) = (x[0], x[0]);
    for &v in x {
        low = if v < low { v } else { low };
        high = if v > high { v } else { high };
    }
    if below_zero && low > 0.0 {
        low = 0.0;
    }
    let [ww, wy] = sums(x, w, |x, w| [w, w * (x - low)]);
    if high - low < SMALLEST {
        return Line { min: low, sums: [ww, 0.0, 0.0], ..Line::default() };
    }
    // Elements are taken relative to `low`, so that a large common offset does not eat up the sums' precision.
    let highest_min = if below_zero { -low } else { f32::INFINITY };
    let solve = |scale: f32, min: f32| {
        let inverse = inverse(scale);
        let [q, qq, yq] = sums(x, w, |x, w| {
            let y = x - low;
            let q = nearest((y - min) * inverse, 0.0, hi);
            let wq = w * q;
            [wq, wq * q, wq * y]
        });
        let det = ww * qq - q * q;
        let mut scale = if det > 0.0 { (ww * yq - q * wy) / det } else { 0.0 };
        let mut min = if det > 0.0 { (wy - scale * q) / ww } else { 0.0 };
        if det <= 0.0 || min > highest_min {
            min = min.min(highest_min);
            scale = if qq > 0.0 { (yq - min * q) / qq } else { 0.0 };
        }
        let gain = scale * (2.0 * yq - scale * qq - 2.0 * min * q) + min * (2.0 * wy - min * ww);
        let gain = if scale > 0.0 { gain } else { f32::NEG_INFINITY };
        Line { scale, min, sums: [ww, q, qq], gain }
    };
    let step = (high - low) / hi;
    // Of no weight at all, elements still get codes in reach.
    let mut best = Line { scale: step, sums: [ww, 0.0, 0.0], gain: f32::NEG_INFINITY, ..Line::default() };
    for below in CLIPS {
        for above in CLIPS {
            let (below, above) = (below * step, above * step);
            let min = below.min(highest_min);
            let found = solve((high - low - above - min) / hi, min);
            if found.gain > best.gain {
                best = found;
            }
        }
    }
    for _ in 0..ROUNDS {
        let found = solve(best.scale, best.min);
        if found.gain <= best.gain {
            break;
        }
        best = found;
    }
    best.min += low;
    best
}

/// Scale, offset and codes `0..=hi` of a block.
pub(super) fn affine<const N: usize>(x: &[f32; N], w: &[f32; N], hi: u8) -> (f16, f16, [u8; N]) {
    let hi = f32::from(hi);
    let best = line(x, w, hi, false);
    let m = f16_near(best.min)[0];
    let min = m.to_f32();
    // The offset was rounded: the scale makes up for what it can.
    let before = inverse(best.scale);
    let [qq, yq] = sums(x, w, |x, w| {
        let q = nearest((x - min) * before, 0.0, hi);
        [w * q * q, w * q * (x - min)]
    });
    let refit = if qq > 0.0 && yq > 0.0 { yq / qq } else { best.scale };
    let mut d = f16::ZERO;
    let mut least = f32::INFINITY;
    for candidate in f16_near(refit).into_iter().chain(f16_near(best.scale)) {
        let cost = error(x, w, (candidate.to_f32(), min), (0.0, hi));
        if cost < least {
            (d, least) = (candidate, cost);
        }
    }
    let inverse = inverse(d.to_f32());
    (d, m, x.map(|x| nearest((x - min) * inverse, 0.0, hi) as u8))
}

/// Sixteen ascending integers that four-bit codes select, with a fast way to the nearest one.
pub(super) struct Table {
    values: [f32; 16],
    /// Code of the integer nearest to `v`, at `floor(2 v) + 256`: midpoints of integers are multiples of 1/2.
    nearest: [u8; 512],
}

impl Table {
    /// Prepares the search among `values`.
    pub(super) const fn new(values: &[i8; 16]) -> Self {
        let mut table = Self { values: [0.0; 16], nearest: [0; 512] };
        let mut i = 0;
        while i < 16 {
            table.values[i] = values[i] as f32;
            i += 1;
        }
        let mut at = 0;
        while at < 512 {
            let mut code = 0;
            while code < 15 && at as i32 - 256 >= values[code] as i32 + values[code + 1] as i32 {
                code += 1;
            }
            table.nearest[at] = code as u8;
            at += 1;
        }
        table
    }

    /// Code of the table value nearest to `v`.
    fn code(&self, v: f32) -> u8 {
        let low = if v < -127.0 { -127.0 } else { v };
        let within = if low > 127.0 { 127.0 } else { low };
        // Rounding 2 v - 1/2 is the floor, or at an integer 2 v maybe one less: there both codes are as near.
        let at = (2.0 * within - 0.5 + ROUNDING).to_bits().wrapping_sub(ROUNDING.to_bits());
        self.nearest[(at.wrapping_add(256) & 511) as usize]
    }

    /// The table value nearest to `v`.
    fn value(&self, v: f32) -> f32 {
        self.values[usize::from(self.code(v) & 15)]
    }
}

/// Scale and codes of a block whose values are multiples of a table's integers.
pub(super) fn table<const N: usize>(x: &[f32; N], w: &[f32; N], table: &Table) -> (f16, [u8; N]) {
    let best = search(x, w, (table.values[0], table.values[15]), 8.0, |v| table.value(v));
    let cost = |d: f16| {
        let (scale, inverse) = (d.to_f32(), inverse(d.to_f32()));
        let [error] = sums(x, w, |x, w| {
            let rest = x - scale * table.value(x * inverse);
            [w * rest * rest]
        });
        error
    };
    let mut d = f16::ZERO;
    if best.scale != 0.0 {
        let [near, far] = f16_near(best.scale);
        d = if cost(far) < cost(near) { far } else { near };
    }
    let inverse = inverse(d.to_f32());
    (d, x.map(|x| table.code(x * inverse)))
}

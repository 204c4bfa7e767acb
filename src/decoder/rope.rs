//! Angles of the rotary position embedding.

use std::f64::consts::PI;

use crate::graph::params::{RopeParams, RopeScaling};

/// Angle per position of each rotated pair, and the factor on cosine and sine.
///
/// Pair i turns by `base^(-2i/d)` a position (Su et al. 2021), divided by the model's frequency factor i
/// where it has them (Llama 3), then scaled: linearly (Chen et al. 2023) or by YaRN (Peng et al. 2023,
/// section 3.2: a ramp between interpolated and original frequencies, and `0.1 ln(s) + 1` on the
/// temperature).
#[derive(Debug)]
pub struct RopeTable {
    step: Vec<f64>,
    magnitude: f64,
}

impl RopeTable {
    pub fn new(params: &RopeParams, factors: Option<&[f32]>) -> Self {
        let dims = f64::from(params.dimension_count);
        let base = f64::from(params.freq_base);
        let pairs = params.dimension_count as usize / 2;
        let plain = (0..pairs).map(|i| {
            let factor = factors.and_then(|f| f.get(i)).map_or(1.0, |f| f64::from(*f));
            libm::pow(base, -2.0 * i as f64 / dims) / factor
        });
        match &params.scaling {
            RopeScaling::None => Self { step: plain.collect(), magnitude: 1.0 },
            RopeScaling::Linear { factor } => {
                let factor = f64::from(*factor);
                Self { step: plain.map(|angle| angle / factor).collect(), magnitude: 1.0 }
            }
            RopeScaling::Yarn { factor, original_context_length, attn_factor, beta_fast, beta_slow } => {
                let factor = f64::from(*factor);
                let original = f64::from(*original_context_length);
                // The pair that makes `rotations` turns over the original context.
                let pair = |rotations: f32| {
                    dims * libm::log(original / (f64::from(rotations) * 2.0 * PI)) / (2.0 * libm::log(base))
                };
                let low = libm::floor(pair(*beta_fast)).max(0.0);
                let high = libm::ceil(pair(*beta_slow)).min(dims - 1.0);
                let step = plain.enumerate().map(|(i, angle)| {
                    let ramp = ((i as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                    angle / factor * ramp + angle * (1.0 - ramp)
                });
                let magnitude = f64::from(*attn_factor) * (1.0 + 0.1 * libm::log(factor));
                Self { step: step.collect(), magnitude }
            }
        }
    }

    /// Rotated pairs of a head.
    pub fn pairs(&self) -> usize {
        self.step.len()
    }

    /// Appends cosines and sines of positions `start .. start + n`, each `[n, pairs]`.
    pub fn extend(&self, start: usize, n: usize, cos: &mut Vec<f32>, sin: &mut Vec<f32>) {
        for position in start..start + n {
            for step in &self.step {
                let (s, c) = libm::sincos(position as f64 * step);
                cos.push((c * self.magnitude) as f32);
                sin.push((s * self.magnitude) as f32);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(scaling: RopeScaling) -> RopeParams {
        RopeParams { dimension_count: 8, freq_base: 10_000.0, scaling }
    }

    #[test]
    fn plain_angles_are_the_geometric_series() {
        let table = RopeTable::new(&params(RopeScaling::None), None);
        for (step, expected) in table.step.iter().zip([1.0, 0.1, 0.01, 0.001]) {
            assert!((step - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn linear_scaling_and_factors_divide() {
        let table = RopeTable::new(&params(RopeScaling::Linear { factor: 4.0 }), Some(&[1.0, 2.0, 4.0, 8.0]));
        for (step, expected) in table.step.iter().zip([0.25, 0.0125, 0.000_625, 0.000_031_25]) {
            assert!((step - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn yarn_keeps_fast_pairs_and_interpolates_slow_ones() {
        let yarn = RopeScaling::Yarn {
            factor: 4.0,
            original_context_length: 2048,
            attn_factor: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
        };
        let table = RopeTable::new(&params(yarn), None);
        assert!((table.step[0] - 1.0).abs() < 1e-12, "the fastest pair is left alone");
        assert!((table.step[3] - 0.001 / 4.0).abs() < 1e-9, "the slowest pair is interpolated");
        assert!((table.magnitude - (1.0 + 0.1 * 4f64.ln())).abs() < 1e-12);
    }
}

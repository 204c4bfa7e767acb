//! What each mode is expected to do in a given memory: bytes that stay, bytes a pass streams, tokens a second.
//!
//! A dense model's pass reads every weight once, so what does not stay is streamed: time is that of the disk or that
//! of reading memory, whichever is longer. Guesses multiply the tokens of a pass. Measured against reality in
//! docs/memory.md.

use serde::{Deserialize, Serialize};

use super::Mode;

/// Guesses of a round that are considered.
const GUESSES: u32 = 16;
/// Share of a pass that one more token in it takes, where memory is the limit.
const EACH: f64 = 0.04;

/// Bytes of a model's weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WeightSizes {
    /// What a pass at full precision reads.
    pub full: u64,
    /// Of it, what a mini holds only in a light form or not at all.
    pub beyond_mini: u64,
    /// What a draft reads; 0 where none is possible.
    pub draft: u64,
    /// How often the mini's most likely token is the full file's, 0 to 1.
    pub agreement: f64,
}

/// What the machine does, in bytes a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineRates {
    /// Direct reads from the disk.
    pub disk: f64,
    /// Weights computed with, from memory.
    pub memory: f64,
}

impl Default for MachineRates {
    /// A usual disk and two cores: only ratios matter where a mode is chosen before anything was measured.
    fn default() -> Self {
        Self { disk: 1e9, memory: 12e9 }
    }
}

/// What one mode is expected to do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// The mode.
    pub mode: Mode,
    /// Bytes of weights that stay in memory.
    pub pinned_bytes: u64,
    /// Bytes that a pass reads from the disk.
    pub streamed_bytes: u64,
    /// Tokens that a pass gives on average.
    pub tokens_per_pass: f64,
    /// Tokens a second.
    pub tokens_per_s: f64,
}

impl Forecast {
    /// Of a mode that cannot work.
    #[must_use]
    pub fn none(mode: Mode) -> Self {
        Self { mode, pinned_bytes: 0, streamed_bytes: 0, tokens_per_pass: 0.0, tokens_per_s: 0.0 }
    }
}

impl WeightSizes {
    /// Whether a mini's guesses can be verified: it holds all in some form, and not everything exactly.
    #[must_use]
    pub fn can_guess(&self) -> bool {
        self.draft > 0 && self.beyond_mini > 0
    }

    /// What `mode` does where weights have `room` bytes, of which buffers for reading take `ring`, 0 where all are mapped; `None` where it cannot
    /// work.
    #[must_use]
    pub fn forecast(&self, mode: Mode, room: u64, ring: u64, machine: &MachineRates) -> Option<Forecast> {
        match mode {
            Mode::Auto => None,
            Mode::Exact => Some(self.exact(room, ring, machine)),
            Mode::Speculative if self.can_guess() => self.speculative(room, ring, machine),
            Mode::Speculative => None,
            Mode::Fast => (self.draft > 0).then(|| self.fast(room, ring, machine)),
        }
    }

    fn exact(&self, room: u64, ring: u64, machine: &MachineRates) -> Forecast {
        let streamed = streamed(self.full, room, ring);
        let seconds = (streamed as f64 / machine.disk).max(self.full as f64 / machine.memory);
        Forecast {
            mode: Mode::Exact,
            pinned_bytes: self.full - streamed,
            streamed_bytes: streamed,
            tokens_per_pass: 1.0,
            tokens_per_s: 1.0 / seconds.max(f64::MIN_POSITIVE),
        }
    }

    /// Tokens a second of mode speculative where all but the mini is streamed.
    #[must_use]
    pub fn speculative_speed(&self, machine: &MachineRates) -> f64 {
        self.speculative(self.draft, 0, machine).map_or(0.0, |forecast| forecast.tokens_per_s)
    }

    /// `None` where the mini does not fit.
    fn speculative(&self, room: u64, ring: u64, machine: &MachineRates) -> Option<Forecast> {
        let rest = room.checked_sub(self.draft)?;
        let streamed = streamed(self.beyond_mini, rest, ring.min(rest));
        let guess = self.draft as f64 / machine.memory;
        let compute = self.full as f64 / machine.memory;
        let round = |n: u32| {
            let tokens = 1.0 + (1..=n).map(|i| self.agreement.powi(i as i32)).sum::<f64>();
            let pass = (streamed as f64 / machine.disk).max(compute * (1.0 + EACH * f64::from(n)));
            (tokens, tokens / (pass + f64::from(n) * guess).max(f64::MIN_POSITIVE))
        };
        let (tokens, rate) = (0..=GUESSES).map(round).max_by(|a, b| a.1.total_cmp(&b.1))?;
        Some(Forecast {
            mode: Mode::Speculative,
            pinned_bytes: self.draft + self.beyond_mini - streamed,
            streamed_bytes: streamed,
            tokens_per_pass: tokens,
            tokens_per_s: rate,
        })
    }

    fn fast(&self, room: u64, ring: u64, machine: &MachineRates) -> Forecast {
        let streamed = streamed(self.draft, room, ring);
        let seconds = (streamed as f64 / machine.disk).max(self.draft as f64 / machine.memory);
        Forecast {
            mode: Mode::Fast,
            pinned_bytes: self.draft - streamed,
            streamed_bytes: streamed,
            tokens_per_pass: 1.0,
            tokens_per_s: 1.0 / seconds.max(f64::MIN_POSITIVE),
        }
    }
}

/// Bytes of `weights` that do not stay in `room` beside the ring.
fn streamed(weights: u64, room: u64, ring: u64) -> u64 {
    weights.saturating_sub(room.saturating_sub(ring))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: WeightSizes = WeightSizes { full: 1000, beyond_mini: 600, draft: 600, agreement: 0.9 };
    const MACHINE: MachineRates = MachineRates { disk: 100.0, memory: 10_000.0 };

    fn of(mode: Mode, room: u64) -> Option<Forecast> {
        SIZES.forecast(mode, room, 50, &MACHINE)
    }

    #[test]
    fn what_does_not_stay_is_streamed() {
        let exact = of(Mode::Exact, 700).unwrap_or_else(|| unreachable!("always there"));
        assert_eq!((exact.pinned_bytes, exact.streamed_bytes), (650, 350));
        assert!((exact.tokens_per_s - 100.0 / 350.0).abs() < 1e-9);
        let mapped = |mode, room| SIZES.forecast(mode, room, 0, &MACHINE).map(|f| f.streamed_bytes);
        assert_eq!((mapped(Mode::Exact, 1000), mapped(Mode::Fast, 600)), (Some(0), Some(0)));
        assert_eq!(of(Mode::Exact, 1000).map(|f| f.streamed_bytes), Some(50));
    }

    #[test]
    fn guesses_pay_where_the_disk_is_slow_and_the_mini_fits() {
        assert_eq!(of(Mode::Speculative, 590), None);
        let [Some(exact), Some(guessed)] = [Mode::Exact, Mode::Speculative].map(|mode| of(mode, 700)) else {
            unreachable!("both can work")
        };
        assert_eq!(guessed.streamed_bytes, 550);
        assert!(guessed.tokens_per_pass > 5.0 && guessed.tokens_per_s > 2.0 * exact.tokens_per_s);
        let poor = WeightSizes { agreement: 0.2, ..SIZES };
        let rates = |mode| poor.forecast(mode, 700, 50, &MACHINE);
        assert!(
            rates(Mode::Speculative).map(|f| f.tokens_per_s) < rates(Mode::Exact).map(|f| f.tokens_per_s)
        );
    }
}

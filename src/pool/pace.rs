//! How often a thread looks at the clock while it takes tasks of a loop.

use std::time::{Duration, Instant};

use super::Gate;

/// How long tasks may begin without a reading of the clock; near the deadline half of what remains, where that is less.
const BETWEEN_READINGS: Duration = Duration::from_micros(20);
/// The same in tasks: one may take longer than those before it, where its weights have to come from the disk.
pub(super) const MOST: u32 = 8;
/// By how much that number grows at a reading.
const GROWTH: u32 = 4;

/// Reading the clock drains the processor's pipeline, and before each task of a microsecond took 3% of decoding. So it is
/// read as seldom as the tasks before it were short.
pub(super) struct Pace<'a> {
    gate: &'a Gate,
    /// The last reading, and how many tasks it was to hold for.
    read: Option<(Instant, u32)>,
    /// Tasks that may begin before the next reading.
    left: u32,
}

impl<'a> Pace<'a> {
    pub(super) fn new(gate: &'a Gate) -> Self {
        Self { gate, read: None, left: 0 }
    }

    /// Whether a further task may begin, which then counts as begun.
    pub(super) fn admits(&mut self) -> bool {
        if self.gate.is_cancelled() {
            return false;
        }
        let Some(deadline) = self.gate.deadline else { return true };
        if self.left == 0 {
            let now = Instant::now();
            let remaining = deadline.saturating_duration_since(now);
            if remaining.is_zero() {
                return false;
            }
            self.left = self.read.map_or(1, |(since, tasks)| {
                let each = now.saturating_duration_since(since).as_nanos() / u128::from(tasks);
                let fit = BETWEEN_READINGS.min(remaining / 2).as_nanos() / each.max(1);
                // At least 1 and at most MOST, which fits.
                fit.clamp(1, u128::from(MOST.min(tasks * GROWTH))) as u32
            });
            self.read = Some((now, self.left));
        }
        self.left -= 1;
        true
    }

    /// Tasks that may begin before the next reading.
    #[cfg(test)]
    pub(super) fn left(&self) -> u32 {
        self.left
    }
}

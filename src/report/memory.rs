//! What the process holds, as the operating system counts it.

use std::cell::Cell;

use crate::store::os::process_memory;

/// Most memory of the process so far; absent where the system does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeakMemory {
    /// Resident pages, those of mapped files included; the system keeps this peak itself.
    pub rss: Option<u64>,
    /// Anonymous pages at the moments of sampling.
    pub anonymous: Option<u64>,
}

/// Keeps the peak of what the system counts only for the present.
///
/// Linux keeps the peak of all resident pages (`VmHWM`) but not of the anonymous ones (`RssAnon`), so these are
/// sampled when the sampler is made, at each call of [`sample`](Self::sample) and at the end: a command samples
/// after opening, after the prompt and at the end, when the library's buffers are at their largest. On Windows the peak
/// is that of the working set, and what is committed to the process alone counts as anonymous, resident or not. Other
/// systems tell nothing here yet, and both are absent.
#[derive(Debug)]
pub struct MemorySampler {
    start: Option<u64>,
    anonymous: Cell<Option<u64>>,
}

impl Default for MemorySampler {
    fn default() -> Self {
        Self::new()
    }
}

impl MemorySampler {
    /// A sampler that has sampled once.
    #[must_use]
    pub fn new() -> Self {
        let start = process_memory().anonymous;
        Self { start, anonymous: Cell::new(start) }
    }

    /// Anonymous memory when the sampler was made.
    #[must_use]
    pub fn start(&self) -> Option<u64> {
        self.start
    }

    /// Takes a sample. Costs tens of microseconds.
    pub fn sample(&self) {
        self.anonymous.set(self.anonymous.get().max(process_memory().anonymous));
    }

    /// Takes a last sample and gives the peaks.
    #[must_use]
    pub fn peak(&self) -> PeakMemory {
        self.sample();
        PeakMemory { rss: process_memory().peak_resident, anonymous: self.anonymous.get() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(any(target_os = "linux", windows))] // others do not tell
    #[test]
    fn peaks_follow_what_is_held() {
        let sampler = MemorySampler::new();
        let held = vec![1u8; 32 << 20];
        sampler.sample();
        drop(std::hint::black_box(held));
        let peak = sampler.peak();
        assert!(peak.anonymous > Some(32 << 20) && peak.rss >= peak.anonymous, "{peak:?}");
    }
}

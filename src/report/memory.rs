//! What the process holds, as the operating system counts it.

use std::cell::Cell;

/// Most memory of the process so far; absent where the system does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeakMemory {
    /// Resident pages, those of mapped files included; the system keeps this peak itself.
    pub rss: Option<u64>,
    /// Anonymous resident pages at the moments of sampling.
    pub anonymous: Option<u64>,
}

/// Keeps the peak of what the system counts only for the present.
///
/// Linux keeps the peak of all resident pages (`VmHWM`) but not of the anonymous ones (`RssAnon`), so these are
/// sampled when the sampler is made, at each call of [`sample`](Self::sample) and at the end: a command samples
/// after opening, after the prompt and at the end, when the library's buffers are at their largest. Other
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
        let start = status().anonymous;
        Self { start, anonymous: Cell::new(start) }
    }

    /// Anonymous memory when the sampler was made.
    #[must_use]
    pub fn start(&self) -> Option<u64> {
        self.start
    }

    /// Takes a sample. Costs tens of microseconds.
    pub fn sample(&self) {
        self.anonymous.set(self.anonymous.get().max(status().anonymous));
    }

    /// Takes a last sample and gives the peaks.
    #[must_use]
    pub fn peak(&self) -> PeakMemory {
        self.sample();
        PeakMemory { rss: status().rss, anonymous: self.anonymous.get() }
    }
}

#[cfg(target_os = "linux")]
fn status() -> PeakMemory {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    PeakMemory { rss: field(&text, "VmHWM:"), anonymous: field(&text, "RssAnon:") }
}

#[cfg(not(target_os = "linux"))]
fn status() -> PeakMemory {
    PeakMemory::default()
}

/// A line such as `VmHWM:     1234 kB`, in bytes.
#[cfg(any(target_os = "linux", test))]
fn field(status: &str, name: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_bytes() {
        let text = "Name:\tx\nVmHWM:\t    2048 kB\nRssAnon:\t 3 kB\n";
        assert_eq!(field(text, "VmHWM:"), Some(2048 * 1024));
        assert_eq!(field(text, "RssAnon:"), Some(3072));
        assert_eq!(field(text, "RssFile:"), None);
        assert_eq!(field("VmHWM: much", "VmHWM:"), None);
    }

    #[cfg(target_os = "linux")]
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

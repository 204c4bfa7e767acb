//! How many reads under way at once a disk is worth: measured on a model's own weights when they begin to be streamed.
//!
//! The length of a read is not measured: a segment's is where longer ones bring nothing on any number of reads
//! (docs/memory.md).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Numbers of reads that are tried. Not one alone: its reader must get a processor beside those that compute before the
/// disk has something to do again.
pub(super) const DEPTHS: [usize; 2] = [2, 4];
/// Reads where nothing was measured, and at most.
pub(super) const MOST: usize = DEPTHS[DEPTHS.len() - 1];
/// Times that each number is tried: the best counts, since others use the disk too.
const ROUNDS: usize = 3;
/// Reads and time that one trial takes at most.
const READS: usize = 16;
const SPAN: Duration = Duration::from_millis(12);
/// When no further trial begins.
const ALL: Duration = Duration::from_millis(80);
/// Part of the best rate with which a smaller number of reads will do.
const ENOUGH: f64 = 0.95;

/// The number of reads at once that gets the most, or the smallest one that gets about as much; `None` where it took too
/// long to learn. `read` reads something else each time, with memory that is its own as long as it runs, and says how many
/// bytes; it fails to end the measurement.
pub(super) fn measure(read: &(dyn Fn() -> Option<u64> + Sync)) -> Option<usize> {
    let begun = Instant::now();
    let mut best = [0f64; DEPTHS.len()];
    for _ in 0..ROUNDS {
        for (best, depth) in best.iter_mut().zip(DEPTHS) {
            if begun.elapsed() >= ALL {
                return None;
            }
            *best = best.max(trial(depth, read)?);
        }
    }
    Some(smallest(&best))
}

fn smallest(rates: &[f64; DEPTHS.len()]) -> usize {
    let most = rates.iter().copied().fold(0.0, f64::max);
    let enough = rates.iter().zip(DEPTHS).find(|(rate, _)| **rate >= most * ENOUGH);
    enough.map_or(MOST, |(_, depth)| depth)
}

/// Bytes a second of `depth` reads at once.
fn trial(depth: usize, read: &(dyn Fn() -> Option<u64> + Sync)) -> Option<f64> {
    let (next, bytes, begun) = (AtomicUsize::new(0), Mutex::new(Some(0u64)), Instant::now());
    let read_on = || {
        // Each reads once at least: of slow disks that is all there is.
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= READS || number >= depth && begun.elapsed() >= SPAN {
                return;
            }
            let more = read();
            let mut bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
            *bytes = bytes.zip(more).map(|(sum, more)| sum + more);
            if bytes.is_none() {
                return;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..depth {
            // Where there is no thread the number measures worse, and is not taken.
            let builder =
                thread::Builder::new().name("capsulegraph-read".into()).stack_size(super::stream::STACK);
            let _ = builder.spawn_scoped(scope, read_on);
        }
        read_on();
    });
    let seconds = begun.elapsed().as_secs_f64().max(1e-9);
    bytes.into_inner().unwrap_or_else(PoisonError::into_inner).map(|bytes| bytes as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_number_that_is_fast_enough_is_taken() {
        assert_eq!(smallest(&[2.0, 2.1]), 2);
        assert_eq!(smallest(&[2.1, 2.0]), 2);
        assert_eq!(smallest(&[1.5, 2.0]), 4);
        assert_eq!(smallest(&[0.0; 2]), 2);
    }

    #[test]
    fn what_is_learnt_is_a_number_that_was_tried() {
        let waiting = || {
            thread::sleep(Duration::from_millis(1));
            Some(1 << 20)
        };
        assert!(measure(&waiting).is_none_or(|depth| DEPTHS.contains(&depth)));
        assert_eq!(measure(&|| None), None);
    }

    #[test]
    fn a_slow_disk_is_given_up_soon() {
        let begun = Instant::now();
        let slow = || {
            thread::sleep(Duration::from_millis(90));
            Some(1)
        };
        assert_eq!(measure(&slow), None);
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
}

//! Bringing weights that are not in memory yet from the disk ahead of their first use.
//!
//! A page fault brings a window around one page and lets the thread wait; asked for in time, the same bytes come
//! at the disk's speed while others are computed with. Only hints are given: nothing here can fail.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Store;
use super::mapped::Hint;

/// Bytes that are asked for in front of the capsule in use.
const AHEAD: u64 = 128 << 20;
/// Bytes of one request; the system ignores what exceeds its own bound on read-ahead.
const STEP: u64 = 4 << 20;
/// Pages that are looked at to learn whether the weights are in memory.
const SAMPLES: u64 = 64;

/// A capsule's bytes in the order of use.
#[derive(Debug)]
struct Place {
    capsule: usize,
    range: Range<usize>,
    /// Bytes of the capsules used before it.
    before: u64,
}

/// The first pass over weights that come from the disk.
#[derive(Debug)]
pub(super) struct ReadAhead {
    places: Vec<Place>,
    total: u64,
    /// Bytes asked for so far, in the order of use.
    asked: AtomicU64,
}

impl ReadAhead {
    /// Plans the first pass; `None` where the weights are in memory already. Until [`begin`](Self::begin) a page
    /// fault brings one page only, so that looking at small tensors here and there stays cheap.
    pub fn new(store: &Store) -> Option<Self> {
        let count = store.manifest().capsules.len();
        // The first capsule is read by row, but for an embedding that serves as the head as well.
        let tied = store.manifest().model.decoder.tied_embeddings;
        let order = (1..count).chain(tied.then_some(0));
        let mut total = 0;
        let mut places = Vec::new();
        for capsule in order {
            let Some(range) = store.mapped_range(capsule) else { continue };
            let before = total;
            total += range.len() as u64;
            places.push(Place { capsule, range, before });
        }
        let this = Self { places, total, asked: AtomicU64::new(0) };
        if total == 0 || this.is_in_memory(store) {
            return None;
        }
        this.hint_all(store, Hint::Random);
        Some(this)
    }

    /// Ends the time of single pages and asks for the first weights.
    pub fn begin(&self, store: &Store) {
        self.hint_all(store, Hint::Normal);
        self.ask(store, AHEAD);
    }

    /// Capsule `capsule` is about to be used: asks for what follows it.
    pub fn reach(&self, store: &Store, capsule: usize) {
        if self.asked.load(Ordering::Relaxed) < self.total
            && let Some(place) = self.places.iter().find(|place| place.capsule == capsule)
        {
            self.ask(store, place.before + place.range.len() as u64 + AHEAD);
        }
    }

    fn ask(&self, store: &Store, until: u64) {
        let until = until.min(self.total);
        let mut from = self.asked.load(Ordering::Relaxed);
        while from < until {
            match self.asked.compare_exchange_weak(from, from + STEP, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    self.hint(store, from..from + STEP, Hint::WillNeed);
                    from += STEP;
                }
                Err(other) => from = other,
            }
        }
    }

    fn hint_all(&self, store: &Store, hint: Hint) {
        self.hint(store, 0..self.total, hint);
    }

    /// Gives `hint` for `bytes` of the order of use, which may span capsules.
    fn hint(&self, store: &Store, bytes: Range<u64>, hint: Hint) {
        let first =
            self.places.partition_point(|place| place.before + place.range.len() as u64 <= bytes.start);
        for place in self.places[first..].iter().take_while(|place| place.before < bytes.end) {
            let from = bytes.start.saturating_sub(place.before) as usize;
            let to = place.range.len().min((bytes.end - place.before) as usize);
            let range = place.range.start + from..place.range.start + to;
            store.serving_file(place.capsule).hint(range, hint);
        }
    }

    fn is_in_memory(&self, store: &Store) -> bool {
        (0..SAMPLES).all(|sample| {
            let at = self.total / SAMPLES * sample;
            let index = self.places.partition_point(|place| place.before <= at) - 1;
            let place = &self.places[index];
            store.serving_file(place.capsule).is_in_memory(place.range.start + (at - place.before) as usize)
        })
    }
}

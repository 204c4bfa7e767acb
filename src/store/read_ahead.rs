//! Bringing weights that are not in memory yet from the disk ahead of their first use.
//!
//! A page fault brings a window around one page and lets the thread wait; asked for in time, the same bytes come
//! at the disk's speed while others are computed with. Only hints are given: nothing here can fail.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Store;

/// Bytes that are asked for behind those in use.
const AHEAD: u64 = 128 << 20;
/// Bytes that are looked at to learn whether the weights are in memory.
const SAMPLES: u64 = 64;

/// The first pass over the weights.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    plan: Plan,
    /// Bytes asked for so far, in the order of use.
    asked: AtomicU64,
}

impl ReadAhead {
    /// Plans the first pass: `uses` names the capsule that each use reads from end to end, `None` for a use that
    /// asks for its bytes itself. Nothing is asked for yet.
    pub fn new(store: &Store, uses: impl IntoIterator<Item = Option<usize>>) -> Self {
        let places = uses.into_iter().map(|capsule| capsule.map_or((0, 0), |c| (c, store.mapped_len(c))));
        Self { plan: Plan::new(places), asked: AtomicU64::new(0) }
    }

    /// Use number `position` is about to begin: asks for what it reads and what follows.
    pub fn reach(&self, store: &Store, position: usize) {
        let until = self.plan.until(position);
        // What another thread has asked for is not asked for again.
        if self.asked.load(Ordering::Relaxed) < until {
            let from = self.asked.fetch_max(until, Ordering::Relaxed);
            // Even what is there takes time to ask for: a tenth of that to the first token.
            if from == 0 && self.is_in_memory(store) {
                self.asked.store(u64::MAX, Ordering::Relaxed);
                return;
            }
            for (capsule, part) in self.plan.parts(from..until) {
                store.ask_for(capsule, part);
            }
        }
    }

    fn is_in_memory(&self, store: &Store) -> bool {
        self.plan.samples().all(|(capsule, at)| store.is_in_memory(capsule, at))
    }
}

/// What one use reads.
#[derive(Debug)]
struct Place {
    capsule: usize,
    len: usize,
    /// Bytes of this place and of all before it.
    end: u64,
}

/// The weights in the order of their use.
#[derive(Debug)]
struct Plan(Vec<Place>);

impl Plan {
    /// Of each use the capsule and its length.
    fn new(places: impl Iterator<Item = (usize, usize)>) -> Self {
        let mut end = 0;
        let place = |(capsule, len): (usize, usize)| {
            end = u64::saturating_add(end, len as u64);
            Place { capsule, len, end }
        };
        Self(places.map(place).collect())
    }

    fn total(&self) -> u64 {
        self.0.last().map_or(0, |place| place.end)
    }

    /// The end of the bytes, counted in the order of use, that must have been asked for when use number `position`
    /// begins.
    fn until(&self, position: usize) -> u64 {
        let total = self.total();
        self.0.get(position).map_or(total, |place| place.end.saturating_add(AHEAD).min(total))
    }

    /// Where `bytes`, counted in the order of use, lie: capsules and parts of them.
    fn parts(&self, bytes: Range<u64>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let first = self.0.partition_point(|place| place.end <= bytes.start);
        self.0[first..].iter().map_while(move |place| {
            let before = place.end - place.len as u64;
            let at = |offset: u64| offset.saturating_sub(before).min(place.len as u64) as usize;
            (before < bytes.end).then(|| (place.capsule, at(bytes.start)..at(bytes.end)))
        })
    }

    /// Bytes spread over all: capsules and offsets in them.
    fn samples(&self) -> impl Iterator<Item = (usize, usize)> {
        let total = self.total();
        let sample = move |i| self.parts(total / SAMPLES * i..total).next();
        (0..SAMPLES).filter_map(sample).map(|(capsule, part)| (capsule, part.start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: usize = 1 << 20;

    /// Two blocks: the embedding by row, then four capsules, then the head, which is `last` with `len` bytes.
    fn plan(last: usize, len: usize) -> Plan {
        let middle = [(1, 100 * MB), (2, 150 * MB), (3, 100 * MB), (4, 150 * MB)];
        Plan::new([(0, 0)].into_iter().chain(middle).chain([(last, len)]))
    }

    /// What each use asks for.
    fn asked(plan: &Plan) -> Vec<Vec<(usize, Range<usize>)>> {
        let mut from = 0;
        let ask = |position| {
            let until = plan.until(position);
            let parts = plan.parts(from..until).collect();
            from = until;
            parts
        };
        (0..plan.0.len()).map(ask).collect()
    }

    #[test]
    fn each_use_asks_for_what_follows_it_in_the_order_of_use() {
        let ahead = |mb: usize| mb * MB;
        let want = [
            vec![(1, 0..ahead(100)), (2, 0..ahead(28))],
            vec![(2, ahead(28)..ahead(128))],
            vec![(2, ahead(128)..ahead(150)), (3, 0..ahead(100)), (4, 0..ahead(28))],
            vec![(4, ahead(28)..ahead(128))],
            vec![(4, ahead(128)..ahead(150)), (5, 0..ahead(50))],
            vec![],
        ];
        assert_eq!(asked(&plan(5, 50 * MB)), want);
    }

    #[test]
    fn an_embedding_that_serves_as_the_head_comes_last() {
        let found = asked(&plan(0, 200 * MB));
        assert!(found[..4].iter().flatten().all(|(capsule, _)| *capsule != 0), "{found:?}");
        assert_eq!(found[4].last(), Some(&(0, 0..128 * MB)));
        assert_eq!(found[5], [(0, 128 * MB..200 * MB)]);
    }

    #[test]
    fn every_byte_is_asked_for_once() {
        let cases: [&[usize]; 5] = [&[], &[0, 0], &[1], &[0, 400 * MB, 0, 1, 65536, 0], &[usize::MAX / 4; 3]];
        for lens in cases {
            let plan = Plan::new(lens.iter().copied().enumerate());
            let mut reached = vec![0; lens.len()];
            for (capsule, part) in asked(&plan).into_iter().flatten() {
                assert_eq!(reached[capsule], part.start, "{lens:?}");
                reached[capsule] = part.end;
            }
            assert_eq!(reached, lens);
        }
    }

    #[test]
    fn uses_that_do_not_exist_ask_for_no_more_than_there_is() {
        let plan = plan(5, 50 * MB);
        assert_eq!(plan.until(99), 550 << 20);
        assert_eq!(plan.parts(550 << 20..u64::MAX).count(), 0);
        assert_eq!(Plan::new(std::iter::empty()).until(0), 0);
    }

    #[test]
    fn samples_are_spread_over_all_bytes() {
        let plan = plan(5, 140 * MB);
        let samples: Vec<_> = plan.samples().collect();
        assert_eq!(samples.len() as u64, SAMPLES);
        assert_eq!((samples[0], samples[32]), ((1, 0), (3, 70 * MB)));
        assert_eq!(samples[63], (5, 130 * MB));
        assert_eq!(Plan::new([(0, 0), (1, 0)].into_iter()).samples().count(), 0);
    }
}

//! The state of a stream: which segments are in memory, which of them may go, what is read next.
//!
//! Nothing here reads or waits.

use std::ops::Range;
use std::sync::Arc;

use super::direct::{Buffer, Loaded};
use super::segments::Segments;
use super::stream::{Lease, Stream};
use crate::error::{Error, Result};

/// Passes of others for which a segment is kept that a pass waits for.
const PATIENCE: u32 = 64;

/// What may stay in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Which segments are pinned.
    pub pinned: Vec<bool>,
    /// Buffers of the ring.
    pub buffers: usize,
}

/// A segment's state.
#[derive(Debug, Default)]
pub(super) enum Held {
    #[default]
    Away,
    Reading,
    Here {
        loaded: Arc<Loaded>,
        /// Whether its memory is a buffer of the ring.
        ring: bool,
    },
}

/// Positions count segments over all passes: pass * segments + index.
#[derive(Debug)]
pub(super) struct State {
    pub layout: Layout,
    pub held: Vec<Held>,
    /// What the pass in progress uses next; everything before is used up.
    pub cursor: u64,
    /// The end of what was ever read ahead.
    pub head: u64,
    /// Where the search for what is to be read goes on.
    pub search: u64,
    /// Segments that the pass in progress uses: its first ones.
    pub needed: usize,
    /// Segments of a pass.
    pub cycle: usize,
    /// Pinned segments that are read before all others.
    pub demanded: Range<usize>,
    /// Segments that a pass waited for when its gate closed, the oldest first, and how many passes have ended since: they
    /// stay through the passes of others, or two that take turns would never get on.
    pub kept: Vec<(usize, u32)>,
    /// Buffers of the ring that hold nothing, and those that exist.
    pub free: Vec<Buffer>,
    pub buffers: usize,
    pub reading: usize,
    /// Readers that sleep.
    pub idle: usize,
    /// Bytes of all memory that holds segments or is about to.
    pub memory: u64,
    pub peak: u64,
    /// What could not be read, and why; readers wait until a pass has looked at it.
    pub failure: Option<(usize, Error)>,
    /// No reader begins anything.
    pub halted: bool,
    pub stopped: bool,
    /// Reads under way at once, once that is known.
    pub depth: Option<usize>,
}

/// What a reader does next.
#[derive(Debug)]
pub(super) struct Job {
    pub index: usize,
    /// A buffer of the ring; `None` for a pinned segment, which gets memory of its own length.
    pub buffer: Option<Buffer>,
    pub ring: bool,
}

impl State {
    /// Of `count` segments, the first `cycle` of which a pass uses, where none is here yet.
    pub fn new(count: usize, cycle: usize) -> Self {
        Self {
            layout: Layout { pinned: vec![false; count], buffers: Stream::BUFFERS },
            held: (0..count).map(|_| Held::Away).collect(),
            cursor: 0,
            head: 0,
            search: 0,
            needed: cycle,
            cycle,
            demanded: 0..0,
            kept: Vec::new(),
            free: Vec::new(),
            buffers: 0,
            reading: 0,
            idle: 0,
            memory: 0,
            peak: 0,
            failure: None,
            halted: false,
            stopped: false,
            depth: None,
        }
    }

    /// Lends `count` buffers of the ring, of `size` bytes each, that nothing was read into yet; `None` where it has fewer.
    pub fn lend(&mut self, count: usize, size: u64) -> Option<()> {
        if self.buffers + count > self.layout.buffers {
            return None;
        }
        self.reading += 1;
        self.buffers += count;
        self.memory += count as u64 * size;
        self.peak = self.peak.max(self.memory);
        Some(())
    }

    /// Takes back what is left of `count` buffers of `size` bytes that were lent.
    pub fn take_back(&mut self, mut left: Vec<Buffer>, count: usize, size: u64) {
        self.reading -= 1;
        let lost = count - left.len();
        self.buffers -= lost;
        self.memory -= lost as u64 * size;
        self.free.append(&mut left);
    }

    fn count(&self) -> u64 {
        self.cycle as u64
    }

    pub fn index(&self, position: u64) -> usize {
        (position % self.count().max(1)) as usize
    }

    /// The next segment to read, where there is memory for it.
    pub fn next_index(&mut self) -> Option<usize> {
        let count = self.count();
        if self.halted || self.stopped || self.failure.is_some() {
            return None;
        }
        let away = |index: &usize| self.layout.pinned[*index] && matches!(self.held[*index], Held::Away);
        if let Some(index) = self.demanded.clone().find(away) {
            return Some(index);
        }
        self.demanded = 0..0;
        self.search = self.search.max(self.cursor);
        while self.search < self.cursor + count {
            let index = self.index(self.search);
            if index >= self.needed && self.search / count == self.cursor / count {
                // The pass in progress ends before; the next one begins anew.
                self.search = (self.search / count + 1) * count;
                continue;
            }
            if matches!(self.held[index], Held::Away) {
                let room = !self.free.is_empty() || self.buffers < self.layout.buffers;
                self.head = self.head.max(self.search + 1);
                return (room || self.layout.pinned[index]).then_some(index);
            }
            self.search += 1;
        }
        None
    }

    /// Begins to read a segment, into a buffer of the ring or new memory.
    pub fn next_job(&mut self, segments: &Segments, ring: u64) -> Option<Job> {
        let index = self.next_index()?;
        let pinned = self.layout.pinned[index];
        let buffer = if pinned { None } else { self.free.pop() };
        if buffer.is_none() {
            self.buffers += usize::from(!pinned);
            self.memory += if pinned { Stream::pinned_cost(&segments.all()[index]) } else { ring };
            self.peak = self.peak.max(self.memory);
        }
        self.held[index] = Held::Reading;
        self.reading += 1;
        Some(Job { index, buffer, ring: !pinned })
    }

    /// A read has ended.
    pub fn arrive(&mut self, index: usize, ring: bool, size: u64, read: Result<Loaded>) {
        self.reading -= 1;
        self.held[index] = Held::Away;
        match read {
            Ok(loaded) => {
                self.held[index] = Held::Here { loaded: Arc::new(loaded), ring };
                self.drop_unless_ahead(index);
            }
            Err(error) => {
                self.failure.get_or_insert((index, error));
                self.memory -= size;
                if ring {
                    self.buffers -= 1;
                }
            }
        }
    }

    /// Whether the segment comes between cursor and head.
    fn is_ahead(&self, index: usize) -> bool {
        let count = self.count().max(1);
        let next = self.cursor + (index as u64 + count - self.cursor % count) % count;
        next < self.head
    }

    /// Moves the cursor to the next use of segment `index`.
    pub fn advance(&mut self, index: usize) {
        let count = self.count();
        if count == 0 {
            return;
        }
        let target = self.cursor + (index as u64 + count - self.cursor % count) % count;
        for position in self.cursor..target {
            self.release(self.index(position));
        }
        self.cursor = target;
    }

    /// Keeps segment `index`, or its place while it is read, until it is taken: a pass waits for it. The ring needs a
    /// buffer beside those that are kept.
    pub fn keep(&mut self, index: usize) {
        if self.layout.pinned[index] || self.kept.iter().any(|(kept, _)| *kept == index) {
            return;
        }
        self.kept.push((index, 0));
        while self.kept.len() >= self.layout.buffers.max(1) {
            let (oldest, _) = self.kept.remove(0);
            self.drop_unless_ahead(oldest);
        }
    }

    /// A pass has ended: what was kept for one that never came back goes after a while.
    pub fn age(&mut self) {
        self.kept.iter_mut().for_each(|(_, age)| *age += 1);
        while self.kept.first().is_some_and(|(_, age)| *age > PATIENCE) {
            let (oldest, _) = self.kept.remove(0);
            self.drop_unless_ahead(oldest);
        }
    }

    fn drop_unless_ahead(&mut self, index: usize) {
        if !self.is_ahead(index) {
            self.release(index);
        }
    }

    /// The segment is used up: unless it is pinned or kept its memory is free.
    fn release(&mut self, index: usize) {
        let keep = match &self.held[index] {
            Held::Here { ring, .. } => self.layout.pinned[index] && !ring,
            _ => true,
        };
        let keep = keep || self.kept.iter().any(|(kept, _)| *kept == index);
        if keep {
            return;
        }
        let Held::Here { loaded, ring } = std::mem::take(&mut self.held[index]) else { return };
        let size = loaded.size();
        match Arc::into_inner(loaded) {
            Some(loaded) if ring && self.buffers <= self.layout.buffers => {
                self.free.push(loaded.into_buffer());
            }
            _ => {
                self.memory -= size;
                self.buffers -= usize::from(ring);
            }
        }
    }

    pub fn lease(&self, first: usize, end: usize, most: u64, segments: &Segments) -> Lease {
        let mut lease = Lease::new();
        let mut bytes = 0;
        for (held, segment) in self.held.iter().zip(segments.all()).take(end).skip(first) {
            bytes += segment.len();
            match held {
                Held::Here { loaded, .. } if lease.is_empty() || bytes <= most => {
                    lease.push(Arc::clone(loaded));
                }
                _ => break,
            }
        }
        lease
    }

    /// Holds what `layout` says, as far as it is here; nothing is being read. Whether the ring begins with new memory: one of
    /// another length does, since buffers that share a page go together.
    pub fn arrange(&mut self, layout: Layout) -> bool {
        let another = layout.buffers != self.layout.buffers;
        self.layout = layout;
        self.kept.clear();
        for index in 0..self.held.len() {
            let goes = match &self.held[index] {
                // What was pinned and is not any more; and what is in the ring, so that a shorter one holds.
                Held::Here { ring, .. } => *ring || !self.layout.pinned[index],
                _ => false,
            };
            if goes {
                self.release(index);
            }
        }
        if another {
            self.memory -= self.free.iter().map(Buffer::size).sum::<u64>();
            self.buffers -= self.free.len();
            self.free.clear();
        }
        another
    }
}

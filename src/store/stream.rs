//! Weights that do not stay in memory, read ahead of their use by threads of their own; and those that do, read once.
//!
//! Passes read the segments cyclically, so what comes next is known. A few buffers form a ring: a reader fills one with
//! the next segment that is not there, the pass empties it and gives it back. A pinned segment is read by the first
//! pass that comes by, into memory that it keeps. Readers sleep when the ring is full or no pass has begun yet.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::direct::{Buffer, DirectFile, Loaded};
use super::segments::{Segment, Segments};
use crate::error::{Error, Result};
use crate::pool::Gate;

/// Reads in flight: where more bring nothing (docs/memory.md).
const READERS: usize = 4;
/// How long a wait may last before its gate is looked at again.
const LOOK: Duration = Duration::from_micros(500);
/// Passes of others for which a segment is kept that a pass waits for.
const PATIENCE: u32 = 64;
/// Bytes a second that all reads together are held to, for tests.
const TEST_RATE: &str = "CAPSULEGRAPH_TEST_READ_RATE";

/// Where a capsule lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Index of the file.
    pub file: usize,
    /// First byte of the capsule's extent.
    pub offset: u64,
}

/// What may stay in memory.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Which segments are pinned.
    pub pinned: Vec<bool>,
    /// Buffers of the ring.
    pub buffers: usize,
}

/// A segment's state.
#[derive(Debug, Default)]
enum Held {
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
struct State {
    layout: Layout,
    held: Vec<Held>,
    /// What the pass in progress uses next; everything before is used up.
    cursor: u64,
    /// The end of what was ever read ahead.
    head: u64,
    /// Where the search for what is to be read goes on.
    search: u64,
    /// Segments that the pass in progress uses: its first ones.
    needed: usize,
    /// Segments of a pass.
    cycle: usize,
    /// Pinned segments that are read before all others.
    demanded: Range<usize>,
    /// Segments that a pass waited for when its gate closed, the oldest first, and how many passes have ended since: they
    /// stay through the passes of others, or two that take turns would never get on.
    kept: Vec<(usize, u32)>,
    /// Buffers of the ring that hold nothing, and those that exist.
    free: Vec<Buffer>,
    buffers: usize,
    reading: usize,
    /// Readers that sleep.
    idle: usize,
    /// Bytes of all memory that holds segments or is about to.
    memory: u64,
    peak: u64,
    /// What could not be read, and why; readers wait until a pass has looked at it.
    failure: Option<(usize, Error)>,
    /// No reader begins anything.
    halted: bool,
    stopped: bool,
}

/// What a reader does next.
#[derive(Debug)]
struct Job {
    index: usize,
    /// A buffer of the ring; `None` for a pinned segment, which gets memory of its own length.
    buffer: Option<Buffer>,
    ring: bool,
}

#[derive(Debug)]
struct Shared {
    segments: Segments,
    files: Arc<[DirectFile]>,
    /// Of each capsule.
    places: Vec<Place>,
    state: Mutex<State>,
    /// A segment came, or a reader failed.
    arrived: Condvar,
    /// There is something to read.
    wanted: Condvar,
    streamed: AtomicU64,
    stalled_ns: AtomicU64,
    throttle: Throttle,
}

/// Reads the segments of passes. One pass at a time: its owner's business.
#[derive(Debug)]
pub(super) struct Stream {
    shared: Arc<Shared>,
    readers: Mutex<Vec<JoinHandle<()>>>,
}

/// What a call may use: consecutive segments.
pub(super) type Lease = Vec<Arc<Loaded>>;

impl Stream {
    /// Buffers of the ring: those being read, and as many that wait to be used.
    pub const BUFFERS: usize = 2 * READERS;

    /// Nothing is read before the first pass.
    pub fn new(segments: Segments, files: Arc<[DirectFile]>, places: Vec<Place>) -> Self {
        let (count, cycle) = (segments.all().len(), segments.cycle());
        let state = State {
            layout: Layout { pinned: vec![false; count], buffers: Self::BUFFERS },
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
        };
        let shared = Shared {
            segments,
            files,
            places,
            state: Mutex::new(state),
            arrived: Condvar::new(),
            wanted: Condvar::new(),
            streamed: AtomicU64::new(0),
            stalled_ns: AtomicU64::new(0),
            throttle: Throttle::from_environment(),
        };
        Self { shared: Arc::new(shared), readers: Mutex::new(Vec::new()) }
    }

    /// The segments in the order of a pass.
    pub fn segments(&self) -> &Segments {
        &self.shared.segments
    }

    /// Segment `index`, where it is in memory by chance or pinned.
    pub fn peek(&self, index: usize) -> Option<Arc<Loaded>> {
        match self.shared.lock().held.get(index)? {
            Held::Here { loaded, .. } => Some(Arc::clone(loaded)),
            _ => None,
        }
    }

    /// Bytes that a pinned segment takes.
    pub fn pinned_cost(segment: &Segment) -> u64 {
        Buffer::size_for(segment.len())
    }

    /// Bytes of one buffer of the ring.
    pub fn buffer_cost(&self) -> u64 {
        self.shared.largest_buffer()
    }

    /// Buffers that a ring has: as many as bring something, and as few as work.
    pub fn buffers(&self) -> [usize; 2] {
        let cycle = self.segments().cycle();
        [Self::BUFFERS.min(cycle), 2.min(cycle)]
    }

    /// Holds from now on what `layout` says. Not while a pass computes: what it uses could go.
    pub fn arrange(&self, layout: Layout) {
        let mut state = self.shared.lock();
        state.halted = true;
        while state.reading > 0 {
            state = self.shared.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.halted = false;
        state.arrange(layout);
        state.search = state.cursor;
        self.shared.wake(&mut state);
    }

    /// Begins a pass over the first `needed` segments.
    pub fn begin(&self, needed: usize) {
        let mut state = self.shared.lock();
        state.needed = needed;
        state.search = state.cursor;
        // It may be mended by now.
        state.failure = None;
    }

    /// Waits for segment `first`, and takes it and as many of those behind it, up to `end`, as are there and together
    /// not longer than `most` bytes. They stay until a later one is taken. `None` where the gate closed first.
    ///
    /// # Errors
    /// The reader's; the next call tries again. [`Error::Limit`] where no reader could be started.
    pub fn take(&self, first: usize, end: usize, most: u64, gate: &Gate) -> Result<Option<Lease>> {
        self.start_readers()?;
        let shared = &*self.shared;
        let mut state = shared.lock();
        if first >= state.needed {
            state.needed = state.cycle;
            state.search = state.cursor;
        }
        state.kept.retain(|(index, _)| *index != first);
        state.advance(first);
        shared.wait_for(state, first, gate, |state| state.lease(first, end, most, &shared.segments))
    }

    /// Waits for segment `first`, which is pinned, and takes it and as many of those behind it, up to `end`, as are there.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn take_pinned(&self, first: usize, end: usize, gate: &Gate) -> Result<Option<Lease>> {
        self.start_readers()?;
        let shared = &*self.shared;
        let mut state = shared.lock();
        // What only drafts read is read at once, the first time.
        let until = if first < state.cycle { end } else { state.held.len() };
        state.demanded = first..until;
        shared.wait_for(state, first, gate, |state| state.lease(first, end, u64::MAX, &shared.segments))
    }

    /// The pass is through: what it used last can go, and the next one's beginning can be read.
    pub fn finish(&self) {
        let mut state = self.shared.lock();
        state.advance(0);
        state.age();
        state.needed = state.cycle;
        self.shared.wake(&mut state);
    }

    /// Bytes read so far.
    pub fn streamed_bytes(&self) -> u64 {
        self.shared.streamed.load(Ordering::Relaxed)
    }

    /// How long passes waited for segments.
    pub fn stalled(&self) -> Duration {
        Duration::from_nanos(self.shared.stalled_ns.load(Ordering::Relaxed))
    }

    /// Counts bytes that were read beside the segments.
    pub fn count_streamed(&self, bytes: u64) {
        self.shared.streamed.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of memory that hold segments, now and at most.
    pub fn memory(&self) -> [u64; 2] {
        let state = self.shared.lock();
        [state.memory, state.peak]
    }

    /// Bytes of the pinned segments.
    pub fn pinned_bytes(&self) -> u64 {
        let state = self.shared.lock();
        let all = self.segments().all().iter().zip(&state.layout.pinned);
        all.filter(|(_, pinned)| **pinned).map(|(segment, _)| segment.len()).sum()
    }

    /// Readers are started by the first pass: opening a model starts nothing.
    fn start_readers(&self) -> Result<()> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        while readers.len() < READERS {
            let shared = Arc::clone(&self.shared);
            let builder = thread::Builder::new().name("capsulegraph-read".into()).stack_size(128 << 10);
            match builder.spawn(move || shared.read_on()) {
                Ok(reader) => readers.push(reader),
                // One is enough to go on.
                Err(_) if !readers.is_empty() => break,
                Err(e) => {
                    return Err(Error::Limit(format!("cannot start a thread that reads weights: {e}")));
                }
            }
        }
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.wanted.notify_all();
        for reader in self.readers.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A reader does not panic; and if it did, there is nothing left to tell.
            let _ = reader.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn largest_buffer(&self) -> u64 {
        let longest = self.segments.all().iter().map(Segment::len).max().unwrap_or(0);
        Buffer::size_for(longest)
    }

    /// Wakes a reader where there is something to read; it wakes the next one.
    fn wake(&self, state: &mut State) {
        if state.idle > 0 && state.next_index().is_some() {
            self.wanted.notify_one();
        }
    }

    /// Waits until segment `first` is there, and takes what `take` says.
    fn wait_for(
        &self,
        mut state: MutexGuard<'_, State>,
        first: usize,
        gate: &Gate,
        take: impl Fn(&State) -> Lease,
    ) -> Result<Option<Lease>> {
        self.wake(&mut state);
        let mut waiting = None;
        let outcome = loop {
            if matches!(state.held.get(first), Some(Held::Here { .. })) {
                break Ok(Some(take(&state)));
            }
            match (state.failure.take(), state.held.get(first)) {
                (Some((index, error)), _) if index == first => {
                    state.search = state.cursor;
                    break Err(error);
                }
                // It is on its way: what failed further on is looked at when its turn comes.
                (failure, Some(Held::Reading)) => state.failure = failure,
                (Some(_), _) => {
                    state.search = state.cursor;
                    self.wake(&mut state);
                }
                (None, _) => {}
            }
            if gate.is_closed() {
                state.keep(first);
                break Ok(None);
            }
            waiting.get_or_insert_with(Instant::now);
            state = match gate {
                Gate { deadline: None, cancel: None } => {
                    self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner)
                }
                _ => self.arrived.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0,
            };
        };
        if let Some(since) = waiting {
            self.stalled_ns.fetch_add(since.elapsed().as_nanos() as u64, Ordering::Relaxed);
        }
        outcome
    }

    /// A reader's life.
    fn read_on(&self) {
        let ring = self.largest_buffer();
        let mut state = self.lock();
        loop {
            if state.stopped {
                return;
            }
            let Some(job) = state.next_job(&self.segments, ring) else {
                state.idle += 1;
                state = self.wanted.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
                continue;
            };
            self.wake(&mut state);
            drop(state);
            let Job { index, buffer, ring: in_ring } = job;
            let size = self.size_of(index, in_ring);
            let read = self.read(index, buffer, size);
            state = self.lock();
            state.arrive(index, in_ring, size, read);
            self.arrived.notify_all();
        }
    }

    fn size_of(&self, index: usize, in_ring: bool) -> u64 {
        if in_ring { self.largest_buffer() } else { Stream::pinned_cost(&self.segments.all()[index]) }
    }

    fn read(&self, index: usize, buffer: Option<Buffer>, size: u64) -> Result<Loaded> {
        let segment = &self.segments.all()[index];
        let buffer = match buffer {
            Some(buffer) => buffer,
            None => Buffer::of_size(size)?,
        };
        let lost = || Error::Internal(format!("segment {index} has no file"));
        let place = self.places.get(segment.capsule).ok_or_else(lost)?;
        let file = self.files.get(place.file).ok_or_else(lost)?;
        let [start, end] = [segment.bytes.start, segment.bytes.end].map(|at| place.offset.saturating_add(at));
        let (loaded, asked) = file.read(&(start..end), buffer)?;
        self.streamed.fetch_add(asked, Ordering::Relaxed);
        self.throttle.hold(asked);
        Ok(loaded)
    }
}

impl State {
    fn count(&self) -> u64 {
        self.cycle as u64
    }

    fn index(&self, position: u64) -> usize {
        (position % self.count().max(1)) as usize
    }

    /// The next segment to read, where there is memory for it.
    fn next_index(&mut self) -> Option<usize> {
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
    fn next_job(&mut self, segments: &Segments, ring: u64) -> Option<Job> {
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
    fn arrive(&mut self, index: usize, ring: bool, size: u64, read: Result<Loaded>) {
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
    fn advance(&mut self, index: usize) {
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
    fn keep(&mut self, index: usize) {
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
    fn age(&mut self) {
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

    fn lease(&self, first: usize, end: usize, most: u64, segments: &Segments) -> Lease {
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

    fn arrange(&mut self, layout: Layout) {
        self.layout = layout;
        self.kept.clear();
        while self.buffers > self.layout.buffers {
            let Some(buffer) = self.free.pop() else { break };
            self.memory -= buffer.size();
            self.buffers -= 1;
        }
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
    }
}

/// Holds reads back to a rate, for tests.
#[derive(Debug)]
struct Throttle {
    bytes_per_s: Option<f64>,
    /// When everything read so far would have been read at that rate.
    free: Mutex<Instant>,
}

impl Throttle {
    fn from_environment() -> Self {
        let rate = std::env::var(TEST_RATE).ok().and_then(|text| text.parse().ok());
        Self { bytes_per_s: rate.filter(|rate| *rate > 0.0), free: Mutex::new(Instant::now()) }
    }

    fn hold(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_s else { return };
        let until = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            *free = (*free).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / rate);
            *free
        };
        thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}

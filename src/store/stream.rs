//! Weights that do not stay in memory, read ahead of their use by threads of their own; and those that do, read once.
//!
//! Passes read the segments cyclically, so what comes next is known. A few buffers form a ring: a reader fills one with
//! the next segment that is not there, the pass empties it and gives it back. A pinned segment is read by the first
//! pass that comes by, into memory that it keeps. Readers sleep when the ring is full or no pass has begun yet.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::direct::{Buffer, DirectFile, Loaded, Supply};
use super::ring::{Held, Job, Layout, State};
use super::segments::{Segment, Segments};
use super::tune;
use crate::error::{Error, Result};
use crate::pool::Gate;

/// Bytes of a reader's stack.
pub(super) const STACK: usize = 128 << 10;
/// How long a wait may last before its gate is looked at again.
const LOOK: Duration = Duration::from_micros(500);
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
    supply: Supply,
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
    pub const BUFFERS: usize = 2 * tune::MOST;

    /// Nothing is read before the first pass.
    pub fn new(segments: Segments, files: Arc<[DirectFile]>, places: Vec<Place>) -> Self {
        let (count, cycle) = (segments.all().len(), segments.cycle());
        let shared = Shared {
            segments,
            files,
            places,
            state: Mutex::new(State::new(count, cycle)),
            arrived: Condvar::new(),
            wanted: Condvar::new(),
            streamed: AtomicU64::new(0),
            stalled_ns: AtomicU64::new(0),
            throttle: Throttle::from_environment(),
            supply: Supply::default(),
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
        segment.room()
    }

    /// Bytes of a read at most.
    pub fn read_bytes(&self) -> u64 {
        self.shared.longest()
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
        if state.arrange(layout) {
            self.shared.supply.clear();
        }
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
        // What a draft wanted first waits: this is what is wanted now.
        state.demanded = 0..0;
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

    /// Reads that are under way at once; `None` before any began.
    pub fn reads_in_flight(&self) -> Option<usize> {
        self.shared.lock().depth
    }

    /// Readers are started by the first pass: opening a model starts nothing.
    fn start_readers(&self) -> Result<()> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        // The first one learns how many it takes.
        let wanted = self.reads_in_flight().unwrap_or(1);
        while readers.len() < wanted {
            let shared = Arc::clone(&self.shared);
            let builder = thread::Builder::new().name("capsulegraph-read".into()).stack_size(STACK);
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
        Buffer::rounded(self.segments.all().iter().map(Segment::room).max().unwrap_or(0))
    }

    fn longest(&self) -> u64 {
        self.segments.all().iter().map(Segment::len).max().unwrap_or(0)
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
                    // Else readers would fail at the same segment for ever.
                    if !state.demanded.contains(&first) {
                        state.demanded = 0..0;
                    }
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
            if state.depth.is_none() && state.next_index().is_some() {
                state = self.tune(state, ring);
                continue;
            }
            let Some(job) = state.next_job(&self.segments, ring) else {
                state.idle += 1;
                state = self.wanted.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
                continue;
            };
            self.wake(&mut state);
            let count = state.layout.buffers;
            drop(state);
            let Job { index, buffer, ring: in_ring } = job;
            let size = self.size_of(index, in_ring);
            let buffer = match buffer {
                Some(buffer) => Ok(buffer),
                None if in_ring => self.supply.take(size, count),
                None => Buffer::of_size(size).map(Buffer::keep),
            };
            let read = buffer.and_then(|buffer| self.read_segment(index, buffer)).map(|(loaded, _)| loaded);
            state = self.lock();
            state.arrive(index, in_ring, size, read);
            self.arrived.notify_all();
        }
    }

    /// Learns how many reads to have under way, with buffers of the ring, of `size` bytes each; where it has fewer than can
    /// be of use they are the bound.
    fn tune<'a>(&'a self, mut state: MutexGuard<'a, State>, size: u64) -> MutexGuard<'a, State> {
        if state.lend(tune::MOST, size).is_none() {
            state.depth = Some(tune::MOST);
            return state;
        }
        // Not those that the pass waits for: they are not read twice.
        let all = state.cycle.max(1);
        let next = AtomicUsize::new(state.index(state.cursor) + all / 2);
        let count = state.layout.buffers;
        drop(state);
        let buffers: Result<Vec<Buffer>> = (0..tune::MOST).map(|_| self.supply.take(size, count)).collect();
        let buffers = Mutex::new(buffers.unwrap_or_default());
        let free = || buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let measured = tune::measure(&|| {
            let buffer = free().pop().filter(|_| !self.lock().stopped)?;
            let (loaded, asked) =
                self.read_segment(next.fetch_add(1, Ordering::Relaxed) % all, buffer).ok()?;
            free().push(loaded.into_buffer());
            Some(asked)
        });
        let left = buffers.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.lock();
        state.take_back(left, tune::MOST, size);
        // A disk that fails or is slow is not worth more waiting.
        state.depth = Some(measured.unwrap_or(tune::MOST));
        // Who rearranges the ring waits for reads to end.
        self.arrived.notify_all();
        state
    }

    fn size_of(&self, index: usize, in_ring: bool) -> u64 {
        if in_ring { self.largest_buffer() } else { Stream::pinned_cost(&self.segments.all()[index]) }
    }

    /// Reads a segment into memory that has room for it, and says how many bytes the disk was asked for.
    fn read_segment(&self, index: usize, buffer: Buffer) -> Result<(Loaded, u64)> {
        let segment = &self.segments.all()[index];
        let lost = || Error::Internal(format!("segment {index} has no file"));
        let place = self.places.get(segment.capsule).ok_or_else(lost)?;
        let file = self.files.get(place.file).ok_or_else(lost)?;
        let at = |offset: u64| place.offset.saturating_add(offset);
        let [first, second] = segment.planes.clone().map(|bytes| bytes.map(|b| at(b.start)..at(b.end)));
        let (loaded, asked) = file.read_planes([first.as_ref(), second.as_ref()], buffer)?;
        self.streamed.fetch_add(asked, Ordering::Relaxed);
        self.throttle.hold(asked);
        Ok((loaded, asked))
    }
}

/// How long a read is held back at most.
const LONGEST_HOLD: Duration = Duration::from_secs(3600);

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
            *free = (*free).max(Instant::now())
                + Duration::try_from_secs_f64(bytes as f64 / rate).unwrap_or(LONGEST_HOLD);
            *free
        };
        thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]

    use super::super::os::BLOCK;
    use super::super::segments::Source;
    use super::*;
    use crate::container::disk::{MemorySource, ReadAt};
    use crate::container::manifest::{Capsule, Extent, Layout as Stored, Plane, Tensor};

    /// A capsule whose row groups take `8 * columns / 32 * 34` bytes each.
    fn capsule(groups: u64, columns: u64) -> Capsule {
        let len = groups * columns / 4 * 34;
        let matrix = Tensor {
            name: "m".into(),
            shape: vec![8 * groups, columns],
            encoding: "q8_0".into(),
            layout: Stored::Packed8,
            division: None,
            planes: vec![Plane { offset: 0, len, xxh3: String::new() }],
        };
        Capsule {
            id: "c".into(),
            kind: "ffn".into(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            extent: Some(Extent { offset: 0, len }),
            tensors: vec![matrix],
            shared: Vec::new(),
            residence: None,
            link: None,
        }
    }

    /// A source of which a range cannot be read.
    #[derive(Debug)]
    struct Broken(std::ops::Range<u64>);

    impl ReadAt for Broken {
        fn len(&self) -> u64 {
            1 << 30
        }

        fn name(&self) -> String {
            "broken".into()
        }

        fn read_exact_at(&self, offset: u64, bytes: &mut [u8]) -> std::io::Result<()> {
            let end = offset + bytes.len() as u64;
            if offset < self.0.end && self.0.start < end {
                return Err(std::io::Error::other("a bad sector"));
            }
            bytes.fill(7);
            Ok(())
        }
    }

    #[test]
    fn a_pinned_segment_that_cannot_be_read_stops_only_who_needs_it() {
        let capsule = capsule(400, 1024);
        for depth in [1, 2, 4] {
            let segments = Segments::new(&[Source { capsule: &capsule, only_second: false }], &[0], &[])
                .expect("sound shapes");
            let count = segments.all().len();
            let bad = segments.all()[2].planes[0].clone().expect("a first plane");
            let file = DirectFile::new(Arc::new(Broken(bad)));
            let stream = Stream::new(segments, Arc::new([file]), vec![Place { file: 0, offset: 0 }]);
            stream.arrange(Layout { pinned: (0..count).map(|index| index < 4).collect(), buffers: 4 });
            stream.shared.lock().depth = Some(depth);
            let soon = || Gate { deadline: Some(Instant::now() + Duration::from_secs(20)), cancel: None };
            for _ in 0..3 {
                // A draft wants the first four; a pass, which has another mind, a later one.
                assert!(stream.take_pinned(0, 4, &soon()).is_ok_and(|lease| lease.is_some()));
                stream.begin(count);
                assert!(stream.take(count - 1, count, u64::MAX, &soon()).is_ok_and(|lease| lease.is_some()));
                let error = stream.take_pinned(2, 4, &soon()).expect_err("a bad sector");
                assert!(error.to_string().contains("bad sector"), "{error}");
                let error = stream.take(2, 3, u64::MAX, &soon()).expect_err("a bad sector");
                assert!(error.to_string().contains("bad sector"), "{error}");
                stream.finish();
            }
        }
    }

    /// Short segments, and ones that huge pages are taken for.
    #[test]
    fn any_number_of_reads_at_once_gives_the_same_bytes() {
        for (groups, columns) in [(400, 1024), (12, 200_000)] {
            let capsule = capsule(groups, columns);
            let len = capsule.extent.map_or(0, |extent| extent.len);
            let content: Vec<u8> = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
            for (depth, buffers) in [(Some(1), 2), (Some(2), 8), (Some(4), 8), (None, 2), (None, 8)] {
                let segments = Segments::new(&[Source { capsule: &capsule, only_second: false }], &[0], &[])
                    .expect("sound shapes");
                let count = segments.all().len();
                let file = DirectFile::new(Arc::new(MemorySource::new("memory", content.clone())));
                let stream = Stream::new(segments, Arc::new([file]), vec![Place { file: 0, offset: 0 }]);
                let pinned: Vec<bool> = (0..count).map(|index| index % 3 == 0).collect();
                stream.arrange(Layout { pinned, buffers });
                stream.shared.lock().depth = depth;
                for _ in 0..3 {
                    stream.begin(count);
                    for index in 0..count {
                        let lease = stream.take(index, index + 1, u64::MAX, &Gate::open()).expect("memory");
                        let bytes = stream.segments().all()[index].planes[0].clone().expect("a first plane");
                        let loaded = &lease.expect("an open gate")[0];
                        assert!(loaded.bytes() == &content[bytes.start as usize..bytes.end as usize]);
                    }
                    stream.finish();
                }
                let known = stream.reads_in_flight();
                assert!(if depth.is_some() { known == depth } else { known.is_some() }, "{known:?}");
                assert!(known.is_some_and(|known| known <= tune::MOST));
                let started = stream.readers.lock().map_or(0, |readers| readers.len());
                assert!(started <= known.unwrap_or(0), "{started} of {known:?}");
                let most =
                    stream.pinned_bytes() + count as u64 * 2 * BLOCK + buffers as u64 * stream.buffer_cost();
                let [now, peak] = stream.memory();
                assert!(now <= peak && peak <= most, "{peak} of {most}");
            }
        }
    }

    #[test]
    fn buffers_that_were_lent_and_lost_are_no_memory() {
        let mut state = State::new(9, 9);
        assert!(state.lend(20, 8192).is_none());
        state.lend(4, 8192).expect("buffers");
        assert_eq!((state.memory, state.buffers, state.reading), (4 * 8192, 4, 1));
        state.take_back(vec![Buffer::of_size(8192).expect("memory")], 4, 8192);
        assert_eq!((state.memory, state.buffers, state.reading, state.free.len()), (8192, 1, 0, 1));
    }
}

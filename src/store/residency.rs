//! Which weights stay in memory, and the turns of the passes that read the others.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::budget::Weights;
use super::direct::{Buffer, DirectFile};
use super::mapped::MappedFile;
use super::ring::Layout;
use super::segments::{Segment, Segments};
use super::stream::{Place, Stream};
use crate::pool::Gate;

/// Share of the room that the ring takes at most, where it needs less than all its buffers to work.
const RING_SHARE: u64 = 8;
/// How long a wait may last before its gate is looked at again.
const LOOK: Duration = Duration::from_millis(1);

/// A model's weights under a budget: all of them mapped where they fit, else pinned in part and streamed.
#[derive(Debug)]
pub(super) struct Residency {
    stream: Stream,
    /// Bytes of all weights, those too that are read by row.
    most: u64,
    /// Whether the map serves.
    mapped: AtomicBool,
    /// What was arranged last: whether the map serves, and what stays. One budget arranges at a time.
    arranged: Mutex<Option<(bool, Layout)>>,
    /// The files and what of each is weights.
    maps: Vec<(MappedFile, Range<usize>)>,
    /// Whether passes left pages of the maps in memory.
    touched: AtomicBool,
    turn: Turn,
}

impl Residency {
    /// `whole` is the length of the files' weights, which are mapped where there is as much room.
    pub fn new(
        segments: Segments,
        files: Arc<[DirectFile]>,
        places: Vec<Place>,
        maps: Vec<(MappedFile, Range<usize>)>,
        whole: u64,
    ) -> Self {
        Self {
            maps,
            touched: AtomicBool::new(false),
            stream: Stream::new(segments, files, places),
            most: whole,
            mapped: AtomicBool::new(false),
            arranged: Mutex::new(None),
            turn: Turn::default(),
        }
    }

    /// Bytes of the ring that a pass over `weights` bytes has in `room`.
    pub fn usual_ring(weights: u64, room: u64) -> u64 {
        Buffer::ring_size_for(Segments::usual(weights))
            .saturating_mul(Stream::BUFFERS as u64)
            .min(room / RING_SHARE)
    }

    /// A pass begins that reads from the map.
    pub fn touch(&self) {
        self.touched.store(true, Ordering::Release);
    }

    /// Lets the system drop the weights' pages of the maps. Who still reads them finds the same bytes, from the disk.
    fn give_back(&self) {
        for (file, range) in &self.maps {
            file.give_back(range.clone());
        }
    }

    /// Whether the map serves every tensor.
    pub fn is_mapped(&self) -> bool {
        self.mapped.load(Ordering::Acquire)
    }

    /// The stream and its account.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Waits for the turn of a pass that uses the first `needed` segments, or of a draft, which uses pinned ones only;
    /// `None` where the gate closed first.
    pub fn enter(&self, needed: Option<usize>, gate: &Gate) -> Option<TurnGuard<'_>> {
        let turn = self.turn.enter(gate)?;
        // A pass that was on its way when the map ceased to serve has read from it since.
        if !self.is_mapped() && self.touched.swap(false, Ordering::AcqRel) {
            self.give_back();
        }
        if let Some(needed) = needed {
            self.stream.begin(needed);
        }
        Some(turn)
    }

    /// The segments that hold `bytes` of capsule `index`, in planes number `plane`.
    pub fn segments(&self, index: usize, plane: usize, bytes: &Range<u64>) -> Range<usize> {
        self.stream.segments().overlapping(index, plane, bytes)
    }

    /// Segment number `index`.
    pub fn segment(&self, index: usize) -> Option<&Segment> {
        self.stream.segments().all().get(index)
    }
}

impl Weights for Residency {
    // Bytes without which it cannot work: the ring, and what a draft computes with.
    fn least(&self) -> u64 {
        let [_, fewest] = self.stream.buffers();
        let ring = fewest as u64 * self.stream.buffer_cost();
        ring.saturating_add(self.stream.segments().fixed(Stream::pinned_cost)).min(self.most)
    }

    // Bytes that it can use at most.
    fn most(&self) -> u64 {
        self.most
    }

    // Holds weights of at most `room` bytes from now on. Waits for a pass that computes, where that changes anything.
    fn arrange(&self, room: u64) {
        let mapped = room >= self.most;
        let segments = self.stream.segments();
        let layout = if mapped {
            Layout { pinned: vec![false; segments.all().len()], buffers: 0 }
        } else {
            let [usual, fewest] = self.stream.buffers();
            let buffer = self.stream.buffer_cost().max(1);
            // What drafts compute with stays, however much that is.
            let beside = room.saturating_sub(segments.fixed(Stream::pinned_cost)) / buffer;
            let buffers = usual.min((room / RING_SHARE / buffer).min(beside) as usize).max(fewest);
            let together = Buffer::in_one_page(buffer);
            // Whole huge pages, where that leaves any.
            let buffers = if buffers > together { buffers - buffers % together } else { buffers };
            let pins = room.saturating_sub(buffers as u64 * buffer);
            Layout { pinned: segments.pins(pins, Stream::pinned_cost), buffers }
        };
        let wanted = Some((mapped, layout.clone()));
        if *self.arranged.lock().unwrap_or_else(PoisonError::into_inner) == wanted {
            return;
        }
        let _turn = self.turn.enter(&Gate::open());
        self.stream.arrange(layout);
        self.mapped.store(mapped, Ordering::Release);
        *self.arranged.lock().unwrap_or_else(PoisonError::into_inner) = wanted;
        if !mapped && self.touched.load(Ordering::Acquire) {
            self.give_back();
        }
    }
}

/// One pass at a time: two at different places would take each other's buffers. Who waits first goes first.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    queue: Mutex<Queue>,
    free: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    taken: bool,
    waiting: VecDeque<u64>,
    next: u64,
}

impl Turn {
    /// Waits for the turn; `None` where the gate closed first.
    pub fn enter(&self, gate: &Gate) -> Option<TurnGuard<'_>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let own = queue.next;
        queue.next += 1;
        queue.waiting.push_back(own);
        while queue.taken || queue.waiting.front() != Some(&own) {
            if gate.is_closed() {
                queue.waiting.retain(|waiting| *waiting != own);
                self.free.notify_all();
                return None;
            }
            let wait =
                gate.deadline.map_or(LOOK, |at| LOOK.min(at.saturating_duration_since(Instant::now())));
            queue = self.free.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.waiting.pop_front();
        queue.taken = true;
        Some(TurnGuard(self))
    }
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct TurnGuard<'a>(&'a Turn);

impl Drop for TurnGuard<'_> {
    fn drop(&mut self) {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner).taken = false;
        self.0.free.notify_all();
    }
}

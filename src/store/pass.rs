//! Reading weights in the order of a pass: from the map where it serves, else from segments as they come.

use std::ops::Range;
use std::sync::Arc;

use super::direct::{Buffer, Loaded};
use super::fetch::rows_cols;
use super::residency::{Residency, TurnGuard};
use super::segments::group_bytes;
use super::{Store, TensorData, View};
use crate::container::manifest::{Capsule, Residence, Tensor};
use crate::error::{Error, Result};
use crate::kernels::pack::GROUP;
use crate::pool::Gate;

/// Bytes of segments that one call computes with at most: enough to share among threads, and the ring goes on being
/// filled meanwhile.
const CALL: u64 = 8 << 20;

/// How far a stage of a pass came: segments that are used up, those of the call that was interrupted, its task.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reach {
    through: usize,
    taken: usize,
    /// The task of the call to resume from.
    pub task: usize,
}

impl Reach {
    /// Whether nothing of the stage is computed.
    pub fn is_at_start(&self) -> bool {
        self.through == 0 && self.taken == 0 && self.task == 0
    }
}

/// The right to read weights; other passes wait meanwhile, where weights are streamed.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    store: &'a Store,
    view: View,
    streamed: Option<(&'a Residency, TurnGuard<'a>)>,
}

/// Weights that can be computed with now.
#[derive(Debug)]
pub(crate) struct Lease<'a> {
    store: &'a Store,
    view: View,
    capsule: usize,
    held: Held<'a>,
}

#[derive(Debug)]
enum Held<'a> {
    /// All that was asked for, in the map.
    Mapped,
    Segments {
        residency: &'a Residency,
        first: usize,
        loaded: Vec<Arc<Loaded>>,
        is_last: bool,
    },
}

/// Rows of a packed matrix that lie together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PackedRows<'a> {
    pub first: usize,
    pub rows: usize,
    pub bytes: &'a [u8],
}

/// Stored bytes, from the map or read for the occasion.
#[derive(Debug)]
pub(crate) enum StoredBytes<'a> {
    Mapped(&'a [u8]),
    Read(Loaded),
    Held(Arc<Loaded>, Range<usize>),
}

impl AsRef<[u8]> for StoredBytes<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Read(loaded) => loaded.bytes(),
            // The range was held against the segment's when it was made.
            Self::Held(loaded, range) => loaded.bytes().get(range.clone()).unwrap_or_default(),
        }
    }
}

impl Store {
    /// Waits for its turn to read the weights of a pass, whose last is tensor `last` of capsule `capsule`; `None` where
    /// the gate closed first.
    pub(crate) fn pass(&self, view: View, [capsule, last]: [usize; 2], gate: &Gate) -> Option<Pass<'_>> {
        let Some(residency) = self.residency().filter(|residency| !residency.is_mapped()) else {
            if let Some(residency) = self.residency() {
                residency.touch();
            }
            return Some(Pass { store: self, view, streamed: None });
        };
        let plane = self.capsule_in(view, capsule).ok().and_then(|(_, capsule)| plane(capsule, last));
        let end = plane.map(|bytes| residency.segments(self.number(view, capsule), &bytes).end);
        let turn = residency.enter(end.filter(|_| view == View::Promised), gate)?;
        Some(Pass { store: self, view, streamed: Some((residency, turn)) })
    }

    /// The number under which segments know capsule `index`: light forms of a draft come behind all capsules.
    pub(super) fn number(&self, view: View, index: usize) -> usize {
        let capsules = &self.manifest().capsules;
        let light = capsules.get(index).is_some_and(|capsule| capsule.residence == Some(Residence::Light));
        index + if view == View::Draft && light { capsules.len() } else { 0 }
    }

    /// Bytes `part` of the stored form of a tensor.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an index past the end, or a tensor without as many bytes; [`Error::Io`].
    pub(crate) fn stored(
        &self,
        view: View,
        capsule: usize,
        tensor: usize,
        part: Range<usize>,
    ) -> Result<StoredBytes<'_>> {
        let (file, served) = self.capsule_in(view, capsule)?;
        let beyond = || {
            let (id, len) = (&served.id, part.len());
            Error::NotFound(format!(
                "capsule {id}: tensor number {tensor} has no {len} bytes at {}",
                part.start
            ))
        };
        let in_memory = file.owned_bytes() > 0;
        let Some(limits) = self.limits.as_ref().filter(|limits| !in_memory && !limits.is_mapped()) else {
            let bytes = self.tensor_in(view, capsule, tensor)?.bytes;
            return bytes.get(part.clone()).map(StoredBytes::Mapped).ok_or_else(beyond);
        };
        let plane = plane(served, tensor).ok_or_else(beyond)?;
        let bytes = plane.start + part.start as u64..plane.start + part.end as u64;
        if bytes.end > plane.end {
            return Err(beyond());
        }
        if let Some(residency) = limits.residency.get()
            && let Some(held) = held(residency, self.number(view, capsule), &bytes)
        {
            return Ok(held);
        }
        let extent = served.extent.ok_or_else(beyond)?;
        let direct = &limits.files[self.file_number(file)];
        let place = extent.offset + bytes.start..extent.offset + bytes.end;
        let (loaded, asked) = direct.read(&place, Buffer::new(part.len() as u64)?)?;
        if let Some(residency) = limits.residency.get() {
            residency.stream().count_streamed(asked);
        }
        Ok(StoredBytes::Read(loaded))
    }
}

/// `bytes` of a capsule, where a segment that is in memory holds them all.
fn held(residency: &Residency, capsule: usize, bytes: &Range<u64>) -> Option<StoredBytes<'static>> {
    let index = residency.segments(capsule, bytes).next()?;
    let segment = residency.segment(index)?;
    let start = bytes.start.checked_sub(segment.bytes.start)? as usize;
    let end = (bytes.end <= segment.bytes.end).then(|| (bytes.end - segment.bytes.start) as usize)?;
    Some(StoredBytes::Held(residency.stream().peek(index)?, start..end))
}

/// Where a tensor lies in its capsule's extent.
fn plane(capsule: &Capsule, tensor: usize) -> Option<Range<u64>> {
    let plane = capsule.tensors.get(tensor)?.planes.first()?;
    Some(plane.offset..plane.offset.checked_add(plane.len)?)
}

impl<'a> Pass<'a> {
    /// Waits for the weights of `tensors` of capsule `capsule` that come next, according to `reach`; `None` where the
    /// gate closed first.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::NotFound`] for a tensor without stored bytes.
    pub fn take(
        &self,
        capsule: usize,
        tensors: &[usize],
        reach: &mut Reach,
        gate: &Gate,
    ) -> Result<Option<Lease<'a>>> {
        let (store, view) = (self.store, self.view);
        let mapped = Lease { store, view, capsule, held: Held::Mapped };
        let Some((residency, _)) = &self.streamed else {
            if reach.taken > 0 || reach.through > 0 {
                // It began with segments, which cut the work into other tasks.
                *reach = Reach::default();
            }
            return Ok(Some(mapped));
        };
        let (_, served) = store.capsule_in(view, capsule)?;
        let planes = tensors.iter().filter_map(|tensor| plane(served, *tensor));
        let bytes = planes.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).ok_or_else(|| {
            Error::NotFound(format!("capsule {}: a weight is not stored in this file", served.id))
        })?;
        let all = residency.segments(store.number(view, capsule), &bytes);
        if all.is_empty() {
            // A file that a host reads is in memory as a whole.
            return Ok(Some(mapped));
        }
        let first = all.start + reach.through;
        let end = if reach.taken > 0 { (first + reach.taken).min(all.end) } else { all.end };
        let taken = match view {
            View::Promised => residency.stream().take(first, end, CALL, gate)?,
            // A store that is limited drafts from what is pinned; single capsules are tried without a budget only.
            View::Draft | View::Only(_) => residency.stream().take_pinned(first, end, gate)?,
        };
        let Some(loaded) = taken else { return Ok(None) };
        if loaded.len() != reach.taken {
            // Other calls than before: tasks are counted anew, and what was computed is computed again.
            reach.task = 0;
        }
        reach.taken = loaded.len();
        let is_last = first + loaded.len() >= all.end;
        Ok(Some(Lease { held: Held::Segments { residency, first, loaded, is_last }, ..mapped }))
    }

    /// The pass is through.
    pub fn finish(self) {
        if let (Some((residency, _)), View::Promised) = (&self.streamed, self.view) {
            residency.stream().finish();
        }
    }
}

impl Lease<'_> {
    /// A tensor, and those of its rows that are here.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a tensor that is not stored; [`Error::Internal`] for shapes that the reader refuses.
    pub fn rows(&self, tensor: usize) -> Result<(&Tensor, Vec<PackedRows<'_>>)> {
        let (_, served) = self.store.capsule_in(self.view, self.capsule)?;
        let Held::Segments { residency, first, loaded, .. } = &self.held else {
            let TensorData { tensor, bytes } = self.store.tensor_in(self.view, self.capsule, tensor)?;
            return Ok((tensor, vec![PackedRows { first: 0, rows: rows_cols(tensor).0, bytes }]));
        };
        let lacking =
            || Error::NotFound(format!("capsule {}: there is no tensor number {tensor}", served.id));
        let stored: &Tensor = served.tensors.get(tensor).ok_or_else(lacking)?;
        let plane = plane(served, tensor).ok_or_else(lacking)?;
        let (group, (total, _)) = (group_bytes(stored)?, rows_cols(stored));
        let mut parts = Vec::with_capacity(loaded.len());
        for (segment, loaded) in (*first..).zip(loaded) {
            let Some(segment) = residency.segment(segment) else { break };
            let (start, end) = (segment.bytes.start.max(plane.start), segment.bytes.end.min(plane.end));
            if start >= end {
                continue;
            }
            let [first, last] = [start, end].map(|at| ((at - plane.start) / group) as usize * GROUP);
            let within = (start - segment.bytes.start) as usize..(end - segment.bytes.start) as usize;
            let bytes = loaded.bytes().get(within).unwrap_or_default();
            parts.push(PackedRows { first, rows: last.min(total).saturating_sub(first), bytes });
        }
        Ok((stored, parts))
    }

    /// What was taken is computed with. Whether that was all that the stage reads.
    pub fn is_through(&self, reach: &mut Reach) -> bool {
        match &self.held {
            Held::Segments { loaded, is_last: false, .. } => {
                *reach = Reach { through: reach.through + loaded.len(), taken: 0, task: 0 };
                false
            }
            _ => {
                *reach = Reach::default();
                true
            }
        }
    }
}

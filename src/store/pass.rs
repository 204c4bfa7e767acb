//! Reading weights in the order of a pass: from the map where it serves, else from segments as they come.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::direct::{Buffer, Loaded};
use super::fetch::{encoding_of, rows_cols};
use super::mapped::MappedFile;
use super::residency::{Residency, TurnGuard};
use super::segments::group_bytes;
use super::{Store, TensorData, View};
use crate::container::manifest::{Capsule, Layout, Residence, Tensor};
use crate::error::{Error, Result};
use crate::kernels::division::Planes;
use crate::kernels::pack::GROUP;
use crate::pool::Gate;

/// Bytes of segments that one call computes with at most: enough to share among threads, and the ring goes on being
/// filled meanwhile.
const CALL: u64 = 8 << 20;

/// How far a stage of a pass came: segments that are used up, those of the call that was interrupted, its task.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reach {
    through: usize,
    /// `None` where the map serves.
    taken: Option<usize>,
    /// The task of the call to resume from.
    pub task: usize,
}

impl Reach {
    /// The stage goes on from the map. Where it began with segments the work was cut into other tasks: it begins anew.
    fn turn_to_map(&mut self) {
        if self.taken.is_some() || self.through > 0 {
            *self = Self::default();
        }
    }

    /// Whether nothing of the stage is computed.
    pub fn is_at_start(&self) -> bool {
        self.through == 0 && self.taken.is_none_or(|taken| taken == 0) && self.task == 0
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
        /// First planes that a draft reads too, pinned; and the number of their first segment.
        coarse: (usize, Vec<Arc<Loaded>>),
        first: usize,
        loaded: Vec<Arc<Loaded>>,
        is_first: bool,
        is_last: bool,
    },
}

/// Rows of a packed matrix that lie together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PackedRows<'a> {
    pub first: usize,
    pub rows: usize,
    pub planes: Planes<'a>,
}

/// Stored bytes, from the map or read for the occasion.
#[derive(Debug)]
pub(crate) enum StoredBytes<'a> {
    Mapped(&'a [u8]),
    Read(Loaded),
    Held(Arc<Loaded>, usize, Range<usize>),
}

impl AsRef<[u8]> for StoredBytes<'_> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Mapped(bytes) => bytes,
            Self::Read(loaded) => loaded.bytes(),
            // The range was held against the segment's when it was made.
            Self::Held(loaded, plane, range) => loaded.plane(*plane).get(range.clone()).unwrap_or_default(),
        }
    }
}

impl Store {
    /// Waits for its turn to read the weights of a pass, whose last is tensor `last` of capsule `capsule`; `None` where
    /// the gate closed first.
    pub(crate) fn pass(&self, view: View, [capsule, last]: [usize; 2], gate: &Gate) -> Option<Pass<'_>> {
        let mapped = Pass { store: self, view, streamed: None };
        let Some(residency) = self.residency() else { return Some(mapped) };
        if residency.is_mapped() {
            residency.touch();
            return Some(mapped);
        }
        let end = self.segments_of(residency, view, capsule, &[last]).ok().map(|segments| segments.end);
        let turn = residency.enter(end.filter(|_| view == View::Promised), gate)?;
        if residency.is_mapped() {
            // While it waited a larger budget took the ring away.
            residency.touch();
            return Some(mapped);
        }
        Some(Pass { streamed: Some((residency, turn)), ..mapped })
    }

    /// The number under which segments know capsule `index`: what only the mini has comes behind all capsules.
    pub(super) fn number(&self, view: View, index: usize) -> usize {
        let capsules = &self.manifest().capsules;
        let residence = capsules.get(index).and_then(|capsule| capsule.residence);
        let own = matches!(residence, Some(Residence::Light | Residence::Nested));
        index + if view == View::Draft && own { capsules.len() } else { 0 }
    }

    /// Whether passes take the first planes of capsule `index` from what drafts read, and stream second ones only.
    pub(super) fn is_completed(&self, index: usize) -> bool {
        let residence = self.manifest().capsules.get(index).and_then(|capsule| capsule.residence);
        let files = std::iter::once(&self.primary).chain(&self.full);
        residence == Some(Residence::Nested)
            && self.drafts()
            && files.map(MappedFile::owned_bytes).all(|len| len == 0)
    }

    /// The segments that hold `tensors` of capsule `index`; of a capsule that is completed, their second planes.
    fn segments_of(
        &self,
        residency: &Residency,
        view: View,
        index: usize,
        tensors: &[usize],
    ) -> Result<Range<usize>> {
        let (_, served) = self.capsule_in(view, index)?;
        let number = usize::from(view == View::Promised && self.is_completed(index));
        let planes = tensors.iter().filter_map(|tensor| plane(served, *tensor, number));
        match planes.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)) {
            Some(bytes) => Ok(residency.segments(self.number(view, index), number, &bytes)),
            // None of them is divided: drafts read them whole.
            None if number > 0 => Ok(0..0),
            None => {
                Err(Error::NotFound(format!("capsule {}: a weight is not stored in this file", served.id)))
            }
        }
    }

    /// Row group `group` of the packed matrix `tensor` of capsule `capsule`, or row `group` of one that is not packed,
    /// as kernels read it.
    ///
    /// # Errors
    /// Those of [`stored`](Self::stored).
    pub(crate) fn row_group(
        &self,
        view: View,
        capsule: usize,
        tensor: usize,
        group: usize,
    ) -> Result<Cow<'_, [u8]>> {
        let stored = self.described(view, capsule, tensor)?;
        let (encoding, (rows, cols)) = (encoding_of(stored)?, rows_cols(stored));
        let part = |number: usize, len: usize| {
            self.stored(view, capsule, tensor, number, group * len..(group + 1) * len)
        };
        let Some(division) = encoding.division.filter(|_| stored.division.is_some()) else {
            let together = if stored.layout == Layout::Packed8 { GROUP } else { 1 };
            let all = stored.planes.first().map_or(0, |plane| plane.len as usize);
            return Ok(match part(0, all / rows.div_ceil(together).max(1))? {
                StoredBytes::Mapped(bytes) => Cow::Borrowed(bytes),
                read => Cow::Owned(read.as_ref().to_vec()),
            });
        };
        let [first, second] = division.group_bytes(cols);
        let mut joined = vec![0; first + second];
        let coarse = part(0, first)?;
        let fine = if stored.planes.len() > 1 { Some(part(1, second)?) } else { None };
        division.join(coarse.as_ref(), fine.as_ref().map(AsRef::as_ref), &mut joined);
        Ok(Cow::Owned(joined))
    }

    /// Bytes `part` of plane `number` of a tensor.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an index past the end, or a tensor without as many bytes; [`Error::Io`].
    pub(crate) fn stored(
        &self,
        view: View,
        capsule: usize,
        tensor: usize,
        number: usize,
        part: Range<usize>,
    ) -> Result<StoredBytes<'_>> {
        // What drafts have of it is in memory.
        let completed = number == 0 && self.is_completed(capsule) && !self.is_mapped();
        let view = if completed { View::Draft } else { view };
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
            let bytes = file.plane(served, served.tensors.get(tensor).ok_or_else(beyond)?, number)?;
            return bytes.get(part.clone()).map(StoredBytes::Mapped).ok_or_else(beyond);
        };
        let plane = plane(served, tensor, number).ok_or_else(beyond)?;
        let bytes = plane.start + part.start as u64..plane.start + part.end as u64;
        if bytes.end > plane.end {
            return Err(beyond());
        }
        if let Some(residency) = limits.residency.get()
            && let Some(held) = held(residency, self.number(view, capsule), number, &bytes)
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
fn held(
    residency: &Residency,
    capsule: usize,
    number: usize,
    bytes: &Range<u64>,
) -> Option<StoredBytes<'static>> {
    let index = residency.segments(capsule, number, bytes).next()?;
    let own = residency.segment(index)?.planes.get(number)?.as_ref()?;
    let start = bytes.start.checked_sub(own.start)? as usize;
    let end = (bytes.end <= own.end).then(|| (bytes.end - own.start) as usize)?;
    Some(StoredBytes::Held(residency.stream().peek(index)?, number, start..end))
}

/// Where plane `number` of a tensor lies in its capsule's extent.
fn plane(capsule: &Capsule, tensor: usize, number: usize) -> Option<Range<u64>> {
    let plane = capsule.tensors.get(tensor)?.planes.get(number)?;
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
            reach.turn_to_map();
            return Ok(Some(mapped));
        };
        let all = store.segments_of(residency, view, capsule, tensors)?;
        let completed = view == View::Promised && store.is_completed(capsule);
        if all.is_empty() && !completed {
            // A file that a host reads is in memory as a whole.
            reach.turn_to_map();
            return Ok(Some(mapped));
        }
        let coarse = if completed {
            let all = store.segments_of(residency, View::Draft, capsule, tensors)?;
            let Some(loaded) = pinned(residency, all.clone(), gate)? else { return Ok(None) };
            (all.start, loaded)
        } else {
            (0, Vec::new())
        };
        let first = all.start + reach.through;
        let end =
            reach.taken.filter(|taken| *taken > 0).map_or(all.end, |taken| (first + taken).min(all.end));
        let taken = match view {
            _ if all.is_empty() => Some(Vec::new()),
            View::Promised => residency.stream().take(first, end, CALL, gate)?,
            // A store that is limited drafts from what is pinned; single capsules are tried without a budget only.
            View::Draft | View::Only(_) => residency.stream().take_pinned(first, end, gate)?,
        };
        let Some(loaded) = taken else { return Ok(None) };
        if reach.taken != Some(loaded.len()) {
            // Other calls than before: tasks are counted anew, and what was computed is computed again.
            reach.task = 0;
        }
        reach.taken = Some(loaded.len());
        let (is_first, is_last) = (reach.through == 0, first + loaded.len() >= all.end);
        let held = Held::Segments { residency, coarse, first, loaded, is_first, is_last };
        Ok(Some(Lease { held, ..mapped }))
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
        let Held::Segments { residency, coarse, first, loaded, is_first, .. } = &self.held else {
            let TensorData { tensor, planes } = self.store.tensor_in(self.view, self.capsule, tensor)?;
            return Ok((tensor, vec![PackedRows { first: 0, rows: rows_cols(tensor).0, planes }]));
        };
        let lacking =
            || Error::NotFound(format!("capsule {}: there is no tensor number {tensor}", served.id));
        let stored: &Tensor = served.tensors.get(tensor).ok_or_else(lacking)?;
        let each = group_bytes(stored)?;
        let place = |number: usize, capsule: &Capsule| plane(capsule, tensor, number).ok_or_else(lacking);
        let total = rows_cols(stored).0;
        let rows = |groups: &Range<usize>| {
            (groups.start * GROUP, (groups.end * GROUP).min(total) - groups.start * GROUP)
        };
        let completed = !coarse.1.is_empty();
        let firsts = if completed {
            let (_, own) = self.store.capsule_in(View::Draft, self.capsule)?;
            plane_runs(residency, 0, &place(0, own)?, each[0], (coarse.0, &coarse.1))
        } else {
            plane_runs(residency, 0, &place(0, served)?, each[0], (*first, loaded))
        };
        if stored.planes.len() < 2 {
            // A matrix that drafts read whole is computed once, not with every call.
            let firsts = if completed && !is_first { Vec::new() } else { firsts };
            let parts = firsts.iter().map(|(groups, bytes)| {
                let ((first, rows), bytes) = (rows(groups), *bytes);
                let planes =
                    if stored.division.is_some() { Planes::First(bytes) } else { Planes::Whole(bytes) };
                PackedRows { first, rows, planes }
            });
            return Ok((stored, parts.collect()));
        }
        let seconds = plane_runs(residency, 1, &place(1, served)?, each[1], (*first, loaded));
        // Of both planes the same row groups.
        let each = each.map(|len| len as usize);
        let mut parts = Vec::with_capacity(loaded.len());
        for (fine, second) in seconds {
            for (coarse, first) in &firsts {
                let both = fine.start.max(coarse.start)..fine.end.min(coarse.end);
                if both.is_empty() {
                    continue;
                }
                let of = |bytes: &'_ [u8], from: usize, each: usize| {
                    (both.start - from) * each..((both.end - from) * each).min(bytes.len())
                };
                let planes = [
                    first.get(of(first, coarse.start, each[0])).unwrap_or_default(),
                    second.get(of(second, fine.start, each[1])).unwrap_or_default(),
                ];
                let (first, rows) = rows(&both);
                parts.push(PackedRows { first, rows, planes: Planes::Both(planes) });
            }
        }
        Ok((stored, parts))
    }

    /// What was taken is computed with. Whether that was all that the stage reads.
    pub fn is_through(&self, reach: &mut Reach) -> bool {
        match &self.held {
            Held::Segments { loaded, is_last: false, .. } => {
                *reach = Reach { through: reach.through + loaded.len(), taken: None, task: 0 };
                false
            }
            _ => {
                *reach = Reach::default();
                true
            }
        }
    }
}

/// All segments at `all`, which are pinned; `None` where the gate closed first.
fn pinned(residency: &Residency, all: Range<usize>, gate: &Gate) -> Result<Option<Vec<Arc<Loaded>>>> {
    let mut loaded = Vec::with_capacity(all.len());
    while all.start + loaded.len() < all.end {
        match residency.stream().take_pinned(all.start + loaded.len(), all.end, gate)? {
            Some(more) => loaded.extend(more),
            None => return Ok(None),
        }
    }
    Ok(Some(loaded))
}

/// Row groups and their bytes.
type Run<'a> = (Range<usize>, &'a [u8]);
/// The number of the first segment, and the segments.
type Numbered<'a> = (usize, &'a [Arc<Loaded>]);

/// What segments that were `loaded`, from number `first` on, hold of plane `number` of a matrix, which lies at `plane` of
/// its capsule and has `group` bytes a row group.
fn plane_runs<'a>(
    residency: &Residency,
    number: usize,
    plane: &Range<u64>,
    group: u64,
    (first, loaded): Numbered<'a>,
) -> Vec<Run<'a>> {
    let mut runs = Vec::with_capacity(loaded.len());
    for (segment, loaded) in (first..).zip(loaded) {
        let own = residency.segment(segment).and_then(|segment| segment.planes.get(number)?.as_ref());
        let Some(own) = own else { continue };
        let (start, end) = (own.start.max(plane.start), own.end.min(plane.end));
        if start >= end {
            continue;
        }
        let [from, to] = [start, end].map(|at| ((at - plane.start) / group) as usize);
        let within = (start - own.start) as usize..(end - own.start) as usize;
        runs.push((from..to, loaded.plane(number).get(within).unwrap_or_default()));
    }
    runs
}

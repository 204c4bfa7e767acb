//! How the weights of a pass are cut into segments, and which of them are pinned.
//!
//! A segment is read, kept and dropped as a whole: whole row groups of packed matrices, consecutive in one capsule.
//! Everything here is a pure function of the manifest and of numbers.

use std::ops::Range;

use super::direct::Buffer;
use super::fetch::{encoding_of, rows_cols};
use crate::container::manifest::{Capsule, Layout, Tensor};
use crate::error::{Error, Result};
use crate::kernels::pack;

/// Bytes of a segment at most, but for a single row group that is longer: what a huge page has room for, which is also
/// where longer ones bring nothing more (docs/memory.md).
const LARGEST: u64 = Buffer::ONE_PAGE;
/// Bytes of a segment at least, where a capsule has as many.
const SMALLEST: u64 = 128 << 10;
/// Segments that a pass is cut into where neither bound applies.
const USUAL: u64 = 256;

/// A run of row groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// The capsule's index.
    pub capsule: usize,
    /// Its bytes, from the beginning of the capsule's extent.
    pub bytes: Range<u64>,
}

impl Segment {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.bytes.end - self.bytes.start
    }
}

/// All segments in the order in which a pass reads them.
#[derive(Debug, Default)]
pub(super) struct Segments {
    list: Vec<Segment>,
    /// Segments of a pass: the first ones. The others are read by drafts alone.
    cycle: usize,
    /// Which must be pinned: what a draft reads.
    fixed: Vec<bool>,
    /// Of each capsule its segments; empty for one that is not read from end to end.
    of_capsule: Vec<Range<usize>>,
}

impl Segments {
    /// Cuts the packed matrices of the capsules at `uses`, which a pass reads in that order from end to end, and of those
    /// at `drafts`, which a draft reads: they must stay, whether a pass reads them too or not.
    ///
    /// # Errors
    /// [`Error::Internal`] for shapes that the reader refuses.
    pub fn new(capsules: &[&Capsule], uses: &[usize], drafts: &[usize]) -> Result<Self> {
        let alone = drafts.iter().filter(|index| !uses.contains(index));
        let used = || {
            let all = uses.iter().chain(alone.clone());
            all.filter_map(|index| Some((*index, *capsules.get(*index)?)))
        };
        let total: u64 = used().map(|(_, capsule)| packed_bytes(capsule)).sum();
        let wanted = Self::usual(total);
        let mut segments = Self { of_capsule: vec![0..0; capsules.len()], ..Self::default() };
        for (index, capsule) in used() {
            let first = segments.list.len();
            // Segments of one length, instead of a short one at the end.
            let bytes = packed_bytes(capsule);
            let largest = bytes.div_ceil(bytes.div_ceil(wanted).max(1));
            cut(capsule, largest, &mut |bytes| segments.list.push(Segment { capsule: index, bytes }))?;
            segments.of_capsule[index] = first..segments.list.len();
        }
        segments.cycle = segments.list.iter().take_while(|segment| uses.contains(&segment.capsule)).count();
        segments.fixed = segments.list.iter().map(|segment| drafts.contains(&segment.capsule)).collect();
        Ok(segments)
    }

    /// Bytes of a segment where there are `total` bytes of weights.
    pub fn usual(total: u64) -> u64 {
        (total / USUAL).clamp(SMALLEST, LARGEST)
    }

    /// How many segments a pass reads; those behind them only drafts do.
    pub fn cycle(&self) -> usize {
        self.cycle
    }

    /// What the segments take that must be pinned.
    pub fn fixed(&self, cost: impl Fn(&Segment) -> u64) -> u64 {
        self.list.iter().zip(&self.fixed).filter(|(_, fixed)| **fixed).map(|(segment, _)| cost(segment)).sum()
    }

    /// The segments in order.
    pub fn all(&self) -> &[Segment] {
        &self.list
    }

    /// The segments of capsule `index`.
    pub fn of_capsule(&self, index: usize) -> Range<usize> {
        self.of_capsule.get(index).cloned().unwrap_or_default()
    }

    /// The segments of capsule `index` that hold bytes of `bytes`, counted from the beginning of its extent.
    pub fn overlapping(&self, index: usize, bytes: &Range<u64>) -> Range<usize> {
        let all = self.of_capsule(index);
        let list = &self.list[all.clone()];
        let first = list.partition_point(|segment| segment.bytes.end <= bytes.start);
        let end = list.partition_point(|segment| segment.bytes.start < bytes.end);
        all.start + first..all.start + end.max(first)
    }

    /// Which segments are pinned where `room` bytes may be, one taking what `cost` says: those of drafts, and of the
    /// others as many bytes as fit, spread evenly over the pass, so that each read from the disk has computing beside it.
    pub fn pins(&self, room: u64, cost: impl Fn(&Segment) -> u64) -> Vec<bool> {
        let room = room.saturating_sub(self.fixed(&cost));
        let total: u64 = self.list.iter().map(&cost).sum::<u64>() - self.fixed(&cost);
        let mut pinned = self.fixed.clone();
        let (mut seen, mut taken) = (0u128, 0u64);
        for (pin, segment) in pinned.iter_mut().zip(&self.list).filter(|(pin, _)| !**pin) {
            let cost = cost(segment);
            seen += u128::from(cost);
            // What an even share of the segments so far would take.
            let due = (seen * u128::from(room)).checked_div(u128::from(total)).unwrap_or(0);
            if u128::from(taken + cost) <= due.min(u128::from(room)) {
                *pin = true;
                taken += cost;
            }
        }
        for (pin, segment) in pinned.iter_mut().zip(&self.list) {
            let cost = cost(segment);
            if !*pin && cost <= room - taken {
                *pin = true;
                taken += cost;
            }
        }
        pinned
    }
}

/// The packed matrices of a capsule that this file stores, with their place in its extent.
fn packed(capsule: &Capsule) -> impl Iterator<Item = (&Tensor, Range<u64>)> {
    capsule.tensors.iter().filter(|tensor| tensor.layout == Layout::Packed8).filter_map(|tensor| {
        let plane = tensor.planes.first()?;
        Some((tensor, plane.offset..plane.offset.checked_add(plane.len)?))
    })
}

fn packed_bytes(capsule: &Capsule) -> u64 {
    packed(capsule).map(|(_, bytes)| bytes.end - bytes.start).sum()
}

/// Bytes of a row group of a packed tensor.
pub(super) fn group_bytes(tensor: &Tensor) -> Result<u64> {
    let (_, cols) = rows_cols(tensor);
    pack::packed_len(encoding_of(tensor)?, pack::GROUP, cols)
        .filter(|len| *len > 0)
        .map(|len| len as u64)
        .ok_or_else(|| Error::Internal(format!("the shape of {} passed the reader", tensor.name)))
}

/// Cuts the packed matrices of `capsule` into runs of at most `largest` bytes, or one row group. What lies between two
/// matrices belongs to the run that holds both.
fn cut(capsule: &Capsule, largest: u64, put: &mut dyn FnMut(Range<u64>)) -> Result<()> {
    let mut run: Option<Range<u64>> = None;
    for (tensor, bytes) in packed(capsule) {
        let group = group_bytes(tensor)?;
        let mut at = bytes.start;
        while at < bytes.end {
            let open = run.clone().filter(|run| run.end <= at);
            let start = open.as_ref().map_or(at, |run| run.start);
            let fitting = largest.saturating_sub(at - start) / group;
            if fitting == 0 && open.is_some() || open.is_none() && run.is_some() {
                run.take().into_iter().for_each(&mut *put);
                continue;
            }
            at = at.saturating_add(fitting.max(1).saturating_mul(group)).min(bytes.end);
            run = Some(start..at);
        }
    }
    run.into_iter().for_each(put);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]

    use super::*;
    use crate::container::manifest::{Extent, Plane};

    /// A packed q8_0 matrix: a row group of 64 columns takes 544 bytes.
    fn matrix(name: &str, groups: u64, offset: u64) -> Tensor {
        Tensor {
            name: name.into(),
            shape: vec![8 * groups, 64],
            encoding: "q8_0".into(),
            layout: Layout::Packed8,
            planes: vec![Plane { offset, len: 544 * groups, xxh3: String::new() }],
        }
    }

    fn capsule(tensors: Vec<Tensor>) -> Capsule {
        Capsule {
            id: "c".into(),
            kind: "ffn".into(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            extent: Some(Extent { offset: 65536, len: 1 << 30 }),
            tensors,
            shared: Vec::new(),
            residence: None,
            link: None,
        }
    }

    fn runs(capsule: &Capsule, largest: u64) -> Vec<Range<u64>> {
        let mut runs = Vec::new();
        cut(capsule, largest, &mut |run| runs.push(run)).expect("sound shapes");
        runs
    }

    #[test]
    fn runs_end_at_row_groups_and_may_hold_several_matrices() {
        let two = capsule(vec![matrix("a", 3, 64), matrix("b", 2, 2048)]);
        assert_eq!(runs(&two, 10_000), vec![64..3136; 1]);
        assert_eq!(runs(&two, 1100), [64..1152, 1152..1696, 2048..3136]);
        assert_eq!(runs(&two, 1700), [64..1696, 2048..3136]);
        assert_eq!(runs(&two, 1), [64..608, 608..1152, 1152..1696, 2048..2592, 2592..3136]);
        // Matrices out of order are never joined.
        let crossed = capsule(vec![matrix("b", 2, 2048), matrix("a", 3, 64)]);
        assert_eq!(runs(&crossed, 10_000), [2048..3136, 64..1696]);
    }

    #[test]
    fn segments_follow_the_order_of_use() {
        let [a, b] = [capsule(vec![matrix("a", 400, 0)]), capsule(vec![matrix("b", 400, 64)])];
        let segments = Segments::new(&[&a, &b, &a], &[1, 0], &[]).expect("sound shapes");
        assert_eq!(segments.all().iter().map(Segment::len).sum::<u64>(), 800 * 544);
        assert_eq!((segments.of_capsule(1), segments.of_capsule(0)), (0..2, 2..4));
        assert_eq!(segments.of_capsule(2), 0..0);
        assert_eq!(segments.overlapping(1, &(64..65)), 0..1);
        assert_eq!(segments.overlapping(1, &(64..64 + 400 * 544)), 0..2);
        assert!(segments.overlapping(1, &(0..64)).is_empty());
        let covered = segments.all().iter().filter(|s| s.capsule == 0).map(Segment::len).sum::<u64>();
        assert_eq!(covered, 400 * 544);
    }

    #[test]
    fn what_drafts_read_is_pinned() {
        let parts: Vec<Capsule> = (0..3).map(|_| capsule(vec![matrix("m", 400, 0)])).collect();
        let refs: Vec<&Capsule> = parts.iter().collect();
        // A pass reads 0 and 1, a draft 1 as it is and 2 in place of 0.
        let segments = Segments::new(&refs, &[0, 1], &[2, 1]).expect("sound shapes");
        assert_eq!((segments.cycle(), segments.all().len()), (4, 6));
        assert_eq!(segments.fixed(Segment::len), 2 * 400 * 544);
        assert_eq!(segments.pins(0, Segment::len), [false, false, true, true, true, true]);
        let more = segments.fixed(Segment::len) + 200 * 544;
        assert_eq!(segments.pins(more, Segment::len).iter().filter(|pin| **pin).count(), 5);
    }

    #[test]
    fn pins_fill_the_room_and_are_spread() {
        let parts: Vec<Capsule> = (0..40).map(|i| capsule(vec![matrix("m", 100 + i % 7, 0)])).collect();
        let refs: Vec<&Capsule> = parts.iter().collect();
        let segments = Segments::new(&refs, &(0..40).collect::<Vec<_>>(), &[]).expect("sound shapes");
        let total: u64 = segments.all().iter().map(Segment::len).sum();
        for percent in [0, 1, 10, 25, 50, 75, 90, 99, 100, 200] {
            let room = total * percent / 100;
            let pins = segments.pins(room, Segment::len);
            let pinned = |half: &dyn Fn(usize) -> bool| -> u64 {
                let each = segments.all().iter().zip(&pins).enumerate();
                each.filter(|(i, (_, pin))| **pin && half(*i)).map(|(_, (s, _))| s.len()).sum()
            };
            let all = pinned(&|_| true);
            assert!(all <= room && all + 2 * 107 * 544 > room.min(total), "{percent}%: {all} of {room}");
            let first = pinned(&|i| i < 20);
            assert!(first.abs_diff(all - first) <= 3 * 107 * 544, "{percent}%: {first} of {all}");
        }
    }
}

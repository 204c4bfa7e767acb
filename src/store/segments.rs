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
    /// Its bytes in the first and in the second planes of the matrices, from the beginning of the capsule's extent: of the
    /// same rows. Where there is nothing of a plane, it is not part of the segment.
    pub planes: Places,
}

/// Bytes in the first and in the second planes of a capsule's matrices.
pub(super) type Places = [Option<Range<u64>>; 2];

impl Segment {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        length(&self.planes)
    }

    /// Bytes of a buffer that it is read into.
    pub fn room(&self) -> u64 {
        self.planes.iter().flatten().map(|bytes| Buffer::size_for(bytes.end - bytes.start)).sum()
    }
}

fn length(places: &Places) -> u64 {
    places.iter().flatten().map(|bytes| bytes.end - bytes.start).sum()
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
    pub fn new(capsules: &[Source<'_>], uses: &[usize], drafts: &[usize]) -> Result<Self> {
        let alone = drafts.iter().filter(|index| !uses.contains(index));
        let used = || {
            let all = uses.iter().chain(alone.clone());
            all.filter_map(|index| Some((*index, *capsules.get(*index)?)))
        };
        let total: u64 = used().map(|(_, source)| packed_bytes(&source)).sum();
        let wanted = Self::usual(total);
        let mut segments = Self { of_capsule: vec![0..0; capsules.len()], ..Self::default() };
        for (index, source) in used() {
            let first = segments.list.len();
            // Segments of one length, instead of a short one at the end.
            let bytes = packed_bytes(&source);
            let largest = bytes.div_ceil(bytes.div_ceil(wanted).max(1));
            cut(&source, largest, &mut |planes| segments.list.push(Segment { capsule: index, planes }))?;
            segments.of_capsule[index] = first..segments.list.len();
        }
        segments.cycle = segments.list.iter().take_while(|segment| uses.contains(&segment.capsule)).count();
        segments.fixed = segments.list.iter().map(|segment| drafts.contains(&segment.capsule)).collect();
        Ok(segments)
    }

    /// Bytes of a segment where there are `total` bytes of weights.
    pub fn usual(total: u64) -> u64 {
        Buffer::fitting((total / USUAL).clamp(SMALLEST, LARGEST))
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

    /// The segments of capsule `index` that hold bytes of `bytes`, counted from the beginning of its extent, in planes
    /// number `plane`.
    pub fn overlapping(&self, index: usize, plane: usize, bytes: &Range<u64>) -> Range<usize> {
        let all = self.of_capsule(index);
        let holds = |index: &usize| {
            let own = self.list[*index].planes.get(plane).and_then(Option::as_ref);
            own.is_some_and(|own| own.start < bytes.end && bytes.start < own.end)
        };
        let first = all.clone().find(holds).unwrap_or(all.start);
        let end = all.clone().rev().find(holds).map_or(first, |last| last + 1);
        first..end
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

/// A capsule, and which planes of it are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub capsule: &'a Capsule,
    /// Only second planes: the first ones are at hand.
    pub only_second: bool,
}

/// A packed matrix: where its planes lie, and the bytes of a row group in each.
struct Strip {
    places: Places,
    group: [u64; 2],
}

/// The packed matrices of a capsule that are read.
fn strips<'a>(source: &Source<'a>) -> impl Iterator<Item = (Strip, &'a Tensor)> + use<'a> {
    let only_second = source.only_second;
    let packed = source.capsule.tensors.iter().filter(|tensor| tensor.layout == Layout::Packed8);
    packed.filter_map(move |tensor| {
        let place = |number: usize| {
            let plane = tensor.planes.get(number)?;
            Some(plane.offset..plane.offset.checked_add(plane.len)?)
        };
        let places = [place(0).filter(|_| !only_second), place(1)];
        let is_there = places.iter().any(Option::is_some);
        is_there.then_some((Strip { places, group: [0; 2] }, tensor))
    })
}

fn packed_bytes(source: &Source<'_>) -> u64 {
    strips(source).map(|(strip, _)| length(&strip.places)).sum()
}

/// Bytes of a row group of a packed tensor in its first and in its second plane.
pub(super) fn group_bytes(tensor: &Tensor) -> Result<[u64; 2]> {
    let (encoding, (_, cols)) = (encoding_of(tensor)?, rows_cols(tensor));
    match (&tensor.division, encoding.division) {
        (Some(_), Some(division)) => Ok(division.group_bytes(cols).map(|len| len as u64)),
        _ => pack::packed_len(encoding, pack::GROUP, cols)
            .filter(|len| *len > 0)
            .map(|len| [len as u64, 0])
            .ok_or_else(|| Error::Internal(format!("the shape of {} passed the reader", tensor.name))),
    }
}

/// Cuts the packed matrices of a capsule into runs of at most `largest` bytes, or one row group. What lies between two
/// matrices belongs to the run that holds both.
fn cut(source: &Source<'_>, largest: u64, put: &mut dyn FnMut(Places)) -> Result<()> {
    let mut run: Option<Places> = None;
    for (mut strip, tensor) in strips(source) {
        strip.group = group_bytes(tensor)?;
        let read = [0, 1].map(|k| strip.places[k].clone().map(|place| (place, strip.group[k].max(1))));
        let groups =
            read.iter().flatten().map(|(place, group)| (place.end - place.start) / group).max().unwrap_or(0);
        let each: u64 = read.iter().flatten().map(|(_, group)| group).sum();
        let mut at = 0;
        while at < groups {
            // What the run becomes with the groups up to `to`; `None` where a plane would go backwards.
            let joined = |run: Option<&Places>, to: u64| -> Option<Places> {
                let mut places = run.cloned().unwrap_or_default();
                for (own, read) in places.iter_mut().zip(&read) {
                    let Some((place, group)) = read else { continue };
                    let [start, end] = [at, to].map(|group_number| place.start + group_number * group);
                    if own.as_ref().is_some_and(|own| own.end > start) {
                        return None;
                    }
                    *own = Some(own.as_ref().map_or(start, |own| own.start)..end);
                }
                Some(places)
            };
            let open = joined(run.as_ref(), at);
            let fitting = open.map_or(0, |open| largest.saturating_sub(length(&open)) / each);
            if fitting == 0 && run.is_some() {
                run.take().into_iter().for_each(&mut *put);
                continue;
            }
            let to = at.saturating_add(fitting.max(1)).min(groups);
            run = joined(run.as_ref(), to);
            at = to;
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
            division: None,
            planes: vec![Plane { offset, len: 544 * groups, xxh3: String::new() }],
        }
    }

    /// The same, divided: 288 and 256 bytes.
    fn divided(name: &str, groups: u64, offsets: [u64; 2]) -> Tensor {
        let plane = |k: usize| Plane { offset: offsets[k], len: [288, 256][k] * groups, xxh3: String::new() };
        Tensor { division: Some("4+4".into()), planes: vec![plane(0), plane(1)], ..matrix(name, groups, 0) }
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

    fn all_of(capsule: &Capsule) -> Source<'_> {
        Source { capsule, only_second: false }
    }

    fn runs(source: &Source<'_>, largest: u64) -> Vec<Places> {
        let mut runs = Vec::new();
        cut(source, largest, &mut |run| runs.push(run)).expect("sound shapes");
        runs
    }

    fn first_planes(source: &Capsule, largest: u64) -> Vec<Range<u64>> {
        runs(&all_of(source), largest).into_iter().flat_map(|[first, _]| first).collect()
    }

    #[test]
    fn both_planes_of_a_run_are_of_the_same_rows() {
        let tensors = vec![divided("a", 3, [64, 8192]), matrix("b", 2, 2048), divided("c", 2, [4096, 9216])];
        let mixed = capsule(tensors);
        let expected = [
            [Some(64..640), Some(8192..8704)],
            [Some(640..928), Some(8704..8960)],
            [Some(2048..3136), None],
            [Some(4096..4672), Some(9216..9728)],
        ];
        assert_eq!(runs(&all_of(&mixed), 1100), expected);
        let second = Source { capsule: &mixed, only_second: true };
        assert_eq!(
            runs(&second, 600),
            [[None, Some(8192..8704)], [None, Some(8704..8960)], [None, Some(9216..9728)]]
        );
        assert_eq!(packed_bytes(&second), 5 * 256);
    }

    #[test]
    fn runs_end_at_row_groups_and_may_hold_several_matrices() {
        let two = capsule(vec![matrix("a", 3, 64), matrix("b", 2, 2048)]);
        assert_eq!(first_planes(&two, 10_000), vec![64..3136; 1]);
        assert_eq!(first_planes(&two, 1100), [64..1152, 1152..1696, 2048..3136]);
        assert_eq!(first_planes(&two, 1700), [64..1696, 2048..3136]);
        assert_eq!(first_planes(&two, 1), [64..608, 608..1152, 1152..1696, 2048..2592, 2592..3136]);
        // Matrices out of order are never joined.
        let crossed = capsule(vec![matrix("b", 2, 2048), matrix("a", 3, 64)]);
        assert_eq!(first_planes(&crossed, 10_000), [2048..3136, 64..1696]);
    }

    #[test]
    fn segments_follow_the_order_of_use() {
        let [a, b] = [capsule(vec![matrix("a", 400, 0)]), capsule(vec![matrix("b", 400, 64)])];
        let segments = Segments::new(&[&a, &b, &a].map(all_of), &[1, 0], &[]).expect("sound shapes");
        assert_eq!(segments.all().iter().map(Segment::len).sum::<u64>(), 800 * 544);
        // How many there are of a capsule depends on the system's blocks.
        let each = segments.all().len() / 2;
        assert_eq!((segments.of_capsule(1), segments.of_capsule(0)), (0..each, each..2 * each));
        assert_eq!(segments.of_capsule(2), 0..0);
        assert_eq!(segments.overlapping(1, 0, &(64..65)), 0..1);
        assert_eq!(segments.overlapping(1, 0, &(64..64 + 400 * 544)), 0..each);
        assert!(segments.overlapping(1, 0, &(0..64)).is_empty());
        let covered = segments.all().iter().filter(|s| s.capsule == 0).map(Segment::len).sum::<u64>();
        assert_eq!(covered, 400 * 544);
    }

    #[test]
    fn what_drafts_read_is_pinned() {
        let parts: Vec<Capsule> = (0..3).map(|_| capsule(vec![matrix("m", 400, 0)])).collect();
        let refs: Vec<Source<'_>> = parts.iter().map(all_of).collect();
        // A pass reads 0 and 1, a draft 1 as it is and 2 in place of 0.
        let segments = Segments::new(&refs, &[0, 1], &[2, 1]).expect("sound shapes");
        let each = segments.of_capsule(0).len();
        assert_eq!((segments.cycle(), segments.all().len()), (2 * each, 3 * each));
        assert_eq!(segments.fixed(Segment::len), 2 * 400 * 544);
        assert_eq!(segments.pins(0, Segment::len), [vec![false; each], vec![true; 2 * each]].concat());
        let more = segments.fixed(Segment::len) + segments.all()[0].len();
        assert_eq!(segments.pins(more, Segment::len).iter().filter(|pin| **pin).count(), 2 * each + 1);
    }

    #[test]
    fn pins_fill_the_room_and_are_spread() {
        let parts: Vec<Capsule> = (0..40).map(|i| capsule(vec![matrix("m", 100 + i % 7, 0)])).collect();
        let refs: Vec<Source<'_>> = parts.iter().map(all_of).collect();
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

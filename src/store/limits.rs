//! What a budget makes of a store: how its weights are read, and what its tables claim.

use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::budget::{Budget, Claim, Weights};
use super::direct::{self, DirectFile};
use super::forecast::WeightSizes;
use super::mapped::MappedFile;
use super::open::weight_sizes;
use super::residency::Residency;
use super::segments::{Segments, Source};
use super::stream::Place;
use super::{Mode, Store, View};
use crate::container::manifest::Capsule;
use crate::error::{Error, Result};
use crate::pool::CancelToken;

/// Bytes of memory that a byte of the manifest takes once it is parsed.
const PARSED: u64 = 4;

/// A store's part in a budget.
#[derive(Debug)]
pub(super) struct Limits {
    pub budget: Arc<Budget>,
    /// The opened file, and the full one of a mini.
    pub files: Arc<[DirectFile]>,
    /// Bytes of the weights that the mode in force reads.
    pub whole: u64,
    /// From when the graph is known.
    pub residency: OnceLock<Arc<Residency>>,
    claims: Mutex<Vec<Claim>>,
}

/// What a model's weights take and did, under a budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightMemory {
    /// The bound on everything.
    pub budget: u64,
    /// Bytes of weights that stay in memory: all, where the map serves.
    pub pinned: u64,
    /// Bytes of memory that weights were read into, at most so far.
    pub peak: u64,
    /// Bytes read from the disk so far.
    pub streamed: u64,
    /// How long passes waited for the disk.
    pub stalled: std::time::Duration,
    /// Reads under way at once; `None` before weights were streamed.
    pub reads_in_flight: Option<usize>,
    /// Bytes of a read at most.
    pub read_bytes: u64,
}

/// What weights need of a budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WeightNeeds {
    /// Bytes without which nothing can be computed: the ring, and what drafts read.
    pub least: u64,
    /// Bytes with which nothing is streamed: the mapped files serve.
    pub most: u64,
}

impl Limits {
    /// Of a store that serves weights from `files`.
    pub fn new(budget: Arc<Budget>, files: &[&MappedFile], whole: u64) -> Self {
        let files = files.iter().map(|file| DirectFile::of(file)).collect();
        Self { budget, files, whole, residency: OnceLock::new(), claims: Mutex::new(Vec::new()) }
    }

    /// Whether the map serves every tensor.
    pub fn is_mapped(&self) -> bool {
        match self.residency.get() {
            // A pass asks, whose turn a claim may wait for: the budget is not locked here.
            Some(residency) => residency.is_mapped(),
            None => self.whole <= self.budget.available(),
        }
    }
}

impl Store {
    /// The residency that serves weights in place of the map.
    pub(super) fn residency(&self) -> Option<&Residency> {
        Some(self.limits.as_ref()?.residency.get()?)
    }

    /// Whether the map serves every tensor, so that passes read nothing from the disk themselves.
    pub(crate) fn is_mapped(&self) -> bool {
        self.limits.as_ref().is_none_or(Limits::is_mapped)
    }

    /// The budget, where there is one.
    #[must_use]
    pub fn budget(&self) -> Option<&Arc<Budget>> {
        self.limits.as_ref().map(|limits| &limits.budget)
    }

    /// What the weights take under the budget, where there is one.
    #[must_use]
    pub fn weight_memory(&self) -> Option<WeightMemory> {
        let limits = self.limits.as_ref()?;
        let budget = limits.budget.total();
        let Some(residency) = limits.residency.get() else {
            return Some(WeightMemory { budget, ..WeightMemory::default() });
        };
        let stream = residency.stream();
        let [_, peak] = stream.memory();
        Some(WeightMemory {
            budget,
            pinned: if residency.is_mapped() { limits.whole } else { stream.pinned_bytes() },
            peak,
            streamed: stream.streamed_bytes(),
            stalled: stream.stalled(),
            reads_in_flight: stream.reads_in_flight(),
            read_bytes: stream.read_bytes(),
        })
    }

    /// What passes and drafts read, which read the capsules at `uses` from end to end.
    pub(crate) fn weight_sizes(&self, uses: &[usize]) -> WeightSizes {
        let full = self.full.as_ref().unwrap_or(&self.primary);
        let mut sizes = weight_sizes(&self.primary, full, uses);
        if self.manifest().full.is_none() {
            sizes = WeightSizes { draft: 0, beyond_mini: 0, ..sizes };
        }
        sizes
    }

    /// Bytes of the buffers that a pass over `weights` bytes reads into, where weights have `room`.
    #[must_use]
    pub fn ring_bytes(weights: u64, room: u64) -> u64 {
        Residency::usual_ring(weights, room)
    }

    /// Bytes a second that the disk gives of the model's own file, read as passes read it: measured for a fraction of a
    /// second.
    ///
    /// # Errors
    /// [`crate::Error::InvalidArgument`] without a budget; those of reading; [`crate::Error::Cancelled`].
    pub fn disk_rate(&self, cancel: Option<&CancelToken>) -> Result<f64> {
        let Some(limits) = &self.limits else {
            return Err(Error::InvalidArgument(
                "a model without a budget reads nothing from the disk itself".into(),
            ));
        };
        let file = self.full().unwrap_or(&self.primary);
        let len = file.contents().header.file_len;
        direct::rate(&limits.files[self.file_number(file)], len, Segments::usual(len), cancel)
    }

    /// Divides the weights into what stays in memory and what is streamed, where there is a budget. A pass reads the
    /// capsules at `uses`, in that order; the model holds `tables` bytes beside them.
    ///
    /// # Errors
    /// [`crate::Error::Limit`] naming the smallest budget that would do, with `later` bytes for what comes later.
    pub(crate) fn limit(&self, uses: &[usize], tables: u64, later: u64) -> Result<()> {
        let Some(limits) = &self.limits else { return Ok(()) };
        let residency = Arc::new(self.residency_of(limits, uses)?);
        let weights = Arc::clone(&residency) as Arc<dyn Weights>;
        let claim = limits.budget.admit(weights, tables, later)?;
        limits.claims.lock().unwrap_or_else(PoisonError::into_inner).push(claim);
        // A store is limited once, by the one graph that is made of it.
        let _ = limits.residency.set(residency);
        Ok(())
    }

    /// What weights need of a budget in mode `mode`, where a pass reads the capsules at `uses`.
    pub(crate) fn weight_needs(&self, mode: Mode, uses: &[usize]) -> Result<WeightNeeds> {
        let other = self.in_mode(mode, String::new(), Some(Budget::new(0)));
        let Some(limits) = &other.limits else { return Ok(WeightNeeds::default()) };
        let residency = other.residency_of(limits, uses)?;
        Ok(WeightNeeds { least: residency.least(), most: residency.most() })
    }

    /// The weights of a pass over the capsules at `uses`, of which nothing is in memory yet.
    fn residency_of(&self, limits: &Limits, uses: &[usize]) -> Result<Residency> {
        let count = self.manifest().capsules.len();
        let mut served: Vec<(&MappedFile, &Capsule)> = Vec::with_capacity(2 * count);
        for (view, index) in
            [View::Promised, View::Draft].into_iter().flat_map(|v| (0..count).map(move |i| (v, i)))
        {
            served.push(self.capsule_in(view, index)?);
        }
        let sources: Vec<Source<'_>> = served
            .iter()
            .enumerate()
            .map(|(number, (_, capsule))| Source {
                capsule,
                only_second: number < count && self.is_completed(number),
            })
            .collect();
        let streamed = |index: &usize| served.get(*index).is_some_and(|(file, _)| file.owned_bytes() == 0);
        let numbers = |view: View| -> Vec<usize> {
            uses.iter().map(|index| self.number(view, *index)).filter(streamed).collect()
        };
        let drafts = if self.drafts() { numbers(View::Draft) } else { Vec::new() };
        let segments = Segments::new(&sources, &numbers(View::Promised), &drafts)?;
        let place = |(file, capsule): &(&MappedFile, &Capsule)| Place {
            file: self.file_number(file),
            offset: capsule.extent.map_or(0, |extent| extent.offset),
        };
        let places = served.iter().map(place).collect();
        let maps = self.weights_in_maps(&served);
        Ok(Residency::new(segments, Arc::clone(&limits.files), places, maps, limits.whole))
    }

    /// The files that serve capsules, and what of each lies between the first of them and the last.
    fn weights_in_maps(&self, served: &[(&MappedFile, &Capsule)]) -> Vec<(MappedFile, Range<usize>)> {
        let mut maps = Vec::new();
        for number in [0, 1] {
            let own = served.iter().filter(|(file, _)| self.file_number(file) == number);
            let ranges = own.filter_map(|(file, capsule)| Some((*file, file.mapped_range(capsule)?)));
            let all = ranges.reduce(|(file, a), (_, b)| (file, a.start.min(b.start)..a.end.max(b.end)));
            maps.extend(all.map(|(file, range)| (file.clone(), range)));
        }
        maps
    }

    /// The number of a file among those that are read directly.
    pub(super) fn file_number(&self, file: &MappedFile) -> usize {
        usize::from(!std::ptr::eq(file, &raw const self.primary))
    }

    /// Bytes that the files' manifests and the assets of the opened one take; those of a mini's full file are not read.
    pub(crate) fn held_bytes(&self) -> u64 {
        let file =
            |file: &MappedFile| file.contents().header.manifest_len * PARSED + file.owned_bytes() as u64;
        let assets: u64 = self.manifest().assets.iter().map(|asset| asset.len).sum();
        file(&self.primary) + self.full.as_ref().map_or(0, file) + assets
    }
}

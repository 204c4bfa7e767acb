//! Reaching weights: mapping, where each capsule comes from, fetch.
//!
//! Lives here: [`mapped::MappedFile`], a file in memory; [`Store`], which joins a mini and its full file
//! under a run mode and hands out tensors; [`fetch`], which takes a capsule's tensors out. Calls
//! `container`. May be called by `decoder` and above. Must not know: what a model computes.

pub mod budget;
mod direct;
pub mod fetch;
pub mod fetch_files;
pub mod fetch_job;
pub mod forecast;
mod limits;
mod link;
pub mod mapped;
mod open;
pub(crate) mod os;
mod pass;
mod read_ahead;
mod residency;
mod ring;
mod segments;
mod stream;
mod tune;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

pub use limits::WeightMemory;
pub(crate) use limits::WeightNeeds;
pub(crate) use link::other_model;
pub use open::{OpenOptions, Origin};

use crate::container::header::Kind;
use crate::container::manifest::{Capsule, Manifest, Residence, Tensor};
use crate::error::{Error, Result};
use crate::kernels::division::Planes;
use crate::kernels::pack;
use limits::Limits;
use mapped::MappedFile;
pub(crate) use pass::{Lease, PackedRows, Pass, Reach};
pub(crate) use read_ahead::ReadAhead;
pub(crate) use residency::{Turn, TurnGuard};

/// What computes (docs/format.md speaks of what is stored).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// `Exact`; of a mini in a budget that not all weights fit `Speculative`, where that is expected to be faster; `Fast`
    /// where the full file cannot be reached. The report says which and why.
    #[default]
    Auto,
    /// Every capsule at full precision.
    Exact,
    /// Only what the mini holds; the full file is never opened.
    Fast,
    /// The tokens of `Exact`: the mini drafts some, one pass at full precision verifies them all.
    Speculative,
}

/// Which weights a pass computes with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum View {
    /// Those that the mode promises: of every capsule those at full precision, in mode fast those of the mini.
    #[default]
    Promised,
    /// Those of the mini, for a draft.
    Draft,
    /// Of one capsule, by index, those of the mini, of all others those at full precision: to learn what the one costs.
    Only(usize),
}

impl Mode {
    /// The mode's name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Exact => "exact",
            Self::Fast => "fast",
            Self::Speculative => "speculative",
        }
    }
}

/// A tensor's description and its stored bytes.
#[derive(Clone, Copy, Debug)]
pub struct TensorData<'a> {
    /// Shape, encoding and layout.
    pub tensor: &'a Tensor,
    /// Its bytes.
    pub planes: Planes<'a>,
}

/// How many capsules come from where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapsuleCounts {
    /// All capsules.
    pub total: usize,
    /// Held by the mini bit for bit (in a full file: all of them).
    pub pinned: usize,
    /// Held by the mini in a light form.
    pub light: usize,
    /// Held by the mini as first planes.
    pub nested: usize,
    /// Only linked by the mini.
    pub linked: usize,
}

/// An opened model file, or a mini joined with its full file, under one run mode.
#[derive(Debug)]
pub struct Store {
    primary: MappedFile,
    full: Option<MappedFile>,
    mode: Mode,
    mode_reason: String,
    fetches: AtomicU64,
    hits: AtomicU64,
    limits: Option<Limits>,
    range: Range<usize>,
}

impl Store {
    /// The file that was opened: a full file or a mini.
    #[must_use]
    pub fn primary(&self) -> &MappedFile {
        &self.primary
    }

    /// The full file, where it is open: the primary itself or the one that the mini names.
    #[must_use]
    pub fn full(&self) -> Option<&MappedFile> {
        match self.primary.contents().header.kind {
            Kind::Full => Some(&self.primary),
            Kind::Mini => self.full.as_ref(),
        }
    }

    /// The manifest of the opened file.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.primary.contents().manifest
    }

    /// The capsules that the model was opened to compute with, by index.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The mode in force, never [`Mode::Auto`].
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Why that mode was taken.
    #[must_use]
    pub fn mode_reason(&self) -> &str {
        &self.mode_reason
    }

    /// Uses of a capsule so far that went to the full file through the link index.
    #[must_use]
    pub fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::Relaxed)
    }

    /// Uses of a capsule so far that the opened file itself served.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// Counts one use of capsule `index`: by a batch on its way through the graph, or by a fetch.
    pub(crate) fn count_use(&self, index: usize) {
        let own = self.manifest().capsules.get(index);
        let from_full = own.is_some_and(|capsule| self.is_from_full(index, capsule, View::Promised));
        let counter = if from_full { &self.fetches } else { &self.hits };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes of capsule `index` that are mapped: its extent, or none.
    fn mapped_len(&self, index: usize) -> usize {
        self.mapped_range(index).map_or(0, |(_, range)| range.len())
    }

    /// The file that serves capsule `index`, and where the capsule lies in its map.
    fn mapped_range(&self, index: usize) -> Option<(&MappedFile, Range<usize>)> {
        let (file, capsule) = self.capsule(index).ok()?;
        Some((file, file.mapped_range(capsule)?))
    }

    /// Asks the system for `part` of capsule `index`, which is about to be read, and does not wait for it. Only a
    /// hint: it can fail unseen and changes no result.
    fn ask_for(&self, index: usize, part: Range<usize>) {
        if !self.is_mapped() {
            // What the system would bring into its cache nobody reads.
            return;
        }
        if let Some((file, whole)) = self.mapped_range(index) {
            let at = |offset: usize| whole.start.saturating_add(offset).min(whole.end);
            file.ask_for(at(part.start)..at(part.end));
        }
    }

    /// Whether the byte at offset `at` of capsule `index` is known to be in memory.
    fn is_in_memory(&self, index: usize, at: usize) -> bool {
        self.mapped_range(index)
            .is_some_and(|(file, whole)| file.is_in_memory(whole.start.saturating_add(at)))
    }

    /// As [`ask_for`](Self::ask_for), for `part` of a plane of a tensor.
    pub(crate) fn ask_for_tensor(&self, capsule: usize, tensor: usize, plane: usize, part: Range<usize>) {
        let served = self.capsule(capsule).ok().and_then(|(_, capsule)| capsule.tensors.get(tensor));
        if let Some(plane) = served.and_then(|tensor| tensor.planes.get(plane)) {
            let at = |offset: usize| plane.offset.saturating_add(plane.len.min(offset as u64)) as usize;
            self.ask_for(capsule, at(part.start)..at(part.end));
        }
    }

    /// Whether the full file serves this capsule of the mini in the mode in force.
    fn is_from_full(&self, index: usize, own: &Capsule, view: View) -> bool {
        let exact = match view {
            View::Promised => self.mode != Mode::Fast,
            View::Draft => false,
            View::Only(one) => index != one,
        };
        exact && !matches!(own.residence, None | Some(Residence::Pinned))
    }

    /// Whether a draft can be computed, from the mini alone, where the mode promises more than that.
    #[must_use]
    pub fn drafts(&self) -> bool {
        let counts = self.counts();
        self.mode == Mode::Speculative && counts.light + counts.nested > 0 && counts.linked == 0
    }

    /// How many capsules the mini pins, holds light or as first planes, links.
    #[must_use]
    pub fn counts(&self) -> CapsuleCounts {
        let capsules = &self.manifest().capsules;
        let count = |wanted| capsules.iter().filter(|c| c.residence == Some(wanted)).count();
        let [light, nested, linked] = [Residence::Light, Residence::Nested, Residence::Linked].map(count);
        let total = capsules.len();
        CapsuleCounts { total, pinned: total - light - nested - linked, light, nested, linked }
    }

    /// The file that serves capsule `index` in the mode in force, and the capsule there.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an index past the end.
    pub fn capsule(&self, index: usize) -> Result<(&MappedFile, &Capsule)> {
        self.capsule_in(View::Promised, index)
    }

    /// As [`capsule`](Self::capsule), for a draft too.
    pub(crate) fn capsule_in(&self, view: View, index: usize) -> Result<(&MappedFile, &Capsule)> {
        let own = self.manifest().capsules.get(index).ok_or_else(|| {
            Error::NotFound(format!(
                "{}: there is no capsule number {index} (it has {})",
                self.primary.name(),
                self.manifest().capsules.len()
            ))
        })?;
        match (&self.full, self.is_from_full(index, own, view)) {
            (Some(full), true) => {
                // Opening held the link index against the full file: same capsules in the same order.
                let capsule = full
                    .contents()
                    .manifest
                    .capsules
                    .get(index)
                    .ok_or_else(|| Error::Internal(format!("the full file lacks capsule {}", own.id)))?;
                Ok((full, capsule))
            }
            _ => Ok((&self.primary, own)),
        }
    }

    /// Says that the capsules at these indices are needed next, so that the system may bring them in meanwhile. Only a
    /// hint, which changes no result; weights that are streamed come ahead of their use anyway.
    pub fn prefetch(&self, capsules: &[usize]) {
        for index in capsules {
            self.ask_for(*index, 0..usize::MAX);
        }
    }

    /// The index of the capsule called `id`.
    ///
    /// # Errors
    /// [`Error::NotFound`] that lists some of the ids there are.
    pub fn find(&self, id: &str) -> Result<usize> {
        let capsules = &self.manifest().capsules;
        capsules.iter().position(|c| c.id == id).ok_or_else(|| {
            let some: Vec<&str> = capsules.iter().take(4).map(|c| c.id.as_str()).collect();
            Error::NotFound(format!(
                "{}: there is no capsule \"{id}\"; it has {} ({}, ...)",
                self.primary.name(),
                capsules.len(),
                some.join(", ")
            ))
        })
    }

    /// Tensor `tensor` of capsule `capsule`, by index, as the mode in force serves it.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an index past the end or a tensor without stored bytes.
    pub fn tensor(&self, capsule: usize, tensor: usize) -> Result<TensorData<'_>> {
        self.tensor_in(View::Promised, capsule, tensor)
    }

    /// As [`tensor`](Self::tensor), for a draft too.
    pub(crate) fn tensor_in(&self, view: View, capsule: usize, tensor: usize) -> Result<TensorData<'_>> {
        let (file, capsule, tensor) = self.find_tensor(view, capsule, tensor)?;
        Ok(TensorData { tensor, planes: file.planes(capsule, tensor)? })
    }

    /// As [`tensor_in`](Self::tensor_in), of the description alone: nothing is mapped for it.
    pub(crate) fn described(&self, view: View, capsule: usize, tensor: usize) -> Result<&Tensor> {
        let (file, capsule, tensor) = self.find_tensor(view, capsule, tensor)?;
        file.check_stored(capsule, tensor)?;
        Ok(tensor)
    }

    fn find_tensor(
        &self,
        view: View,
        capsule: usize,
        tensor: usize,
    ) -> Result<(&MappedFile, &Capsule, &Tensor)> {
        let (file, capsule) = self.capsule_in(view, capsule)?;
        let tensor = capsule.tensors.get(tensor).ok_or_else(|| {
            Error::NotFound(format!("capsule {}: there is no tensor number {tensor}", capsule.id))
        })?;
        Ok((file, capsule, tensor))
    }

    /// Bytes of the longest row group of a divided matrix, joined; 0 where none is divided.
    pub(crate) fn longest_divided_group(&self) -> usize {
        let files = std::iter::once(&self.primary).chain(&self.full);
        let tensors =
            files.flat_map(|file| &file.contents().manifest.capsules).flat_map(|capsule| &capsule.tensors);
        let group = |tensor: &Tensor| {
            tensor.division.as_ref()?;
            pack::packed_len(fetch::encoding_of(tensor).ok()?, pack::GROUP, fetch::rows_cols(tensor).1)
        };
        tensors.filter_map(group).max().unwrap_or(0)
    }

    /// Bytes of an asset.
    ///
    /// # Errors
    /// [`Error::NotFound`] naming the asset.
    pub fn asset(&self, name: &str) -> Result<&[u8]> {
        self.primary.asset(name)
    }
}

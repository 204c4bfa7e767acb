//! Opening: which files serve a model in which mode, and whether a mini and its full file belong together.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::budget::Budget;
use super::forecast::WeightSizes;
use super::limits::Limits;
use super::link::check_link_index;
use super::mapped::MappedFile;
use super::{Mode, Store, View, os};
use crate::container::disk::{Disk, FileSource, ReadAt, SystemDisk};
use crate::container::header::Kind;
use crate::container::manifest::{Capsule, FullReference, Residence};
use crate::error::{Error, Result};

/// Where the bytes of a model come from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A file.
    Path(PathBuf),
    /// A part of a larger file: path, offset, length (0: to its end).
    Part(PathBuf, u64, u64),
    /// Anything else that can be read at a position.
    Source(Arc<dyn ReadAt>),
}

impl Origin {
    fn open(&self, disk: &dyn Disk) -> Result<Arc<dyn ReadAt>> {
        match self {
            Self::Path(path) => disk.open(path),
            Self::Part(path, offset, len) => Ok(Arc::new(FileSource::open_part(path, *offset, *len)?)),
            Self::Source(source) => Ok(Arc::clone(source)),
        }
    }
}

/// How to open a model.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Run mode.
    pub mode: Mode,
    /// The full file of a mini, where it is not the one that the mini names, beside it.
    pub full: Option<Origin>,
    /// Open a mini in mode fast even where it only links some capsules: others can still be fetched.
    pub partial: bool,
    /// Bound on the memory of this model and of those that share it; `None`: the map serves, and no bound holds.
    pub budget: Option<Arc<Budget>>,
    /// The capsules that are computed with, by index, where a model is divided among processes; `None`: all. A budget is
    /// laid out for these alone.
    pub range: Option<Range<usize>>,
    /// Where files live.
    pub disk: Arc<dyn Disk>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            full: None,
            partial: false,
            budget: None,
            range: None,
            disk: Arc::new(SystemDisk),
        }
    }
}

impl Store {
    /// Opens a full file, or a mini and (unless the mode is fast) its full file. Mode auto is exact wherever there is a
    /// full file: whether guesses pay depends on sessions too, and is decided by whoever makes them.
    ///
    /// # Errors
    /// Those of [`MappedFile::open`]; [`Error::Mismatch`] where mini and full do not belong together or the
    /// mode cannot be had from these files.
    pub fn open(origin: &Origin, options: &OpenOptions) -> Result<Self> {
        let primary = open_within(origin.open(options.disk.as_ref())?, options, 0)?;
        let (full, mode, mode_reason) = match primary.contents().header.kind {
            Kind::Full => {
                let (mode, reason) = mode_of_full(&primary, options.mode)?;
                (None, mode, reason)
            }
            Kind::Mini => resolve_mini(&primary, options)?,
        };
        let range = capsule_range(&primary, options.range.clone())?;
        Ok(Self::of(primary, full, range, (mode, mode_reason), options.budget.clone()))
    }

    fn of(
        primary: MappedFile,
        full: Option<MappedFile>,
        range: Range<usize>,
        (mode, mode_reason): (Mode, String),
        budget: Option<Arc<Budget>>,
    ) -> Self {
        let (fetches, hits) = (AtomicU64::new(0), AtomicU64::new(0));
        let mut store = Self { primary, full, mode, mode_reason, fetches, hits, limits: None, range };
        store.limits = budget.map(|budget| store.limits(budget));
        store
    }

    /// The same files in another mode, for `reason`, and in another budget.
    pub(crate) fn in_mode(&self, mode: Mode, reason: String, budget: Option<Arc<Budget>>) -> Self {
        Self::of(self.primary.clone(), self.full.clone(), self.range.clone(), (mode, reason), budget)
    }
}

impl Store {
    fn limits(&self, budget: Arc<Budget>) -> Limits {
        let views: &[View] = if self.drafts() { &[View::Promised, View::Draft] } else { &[View::Promised] };
        let capsules = &self.manifest().capsules;
        // A tied head reads the embedding's capsule, wherever the range begins.
        let tied = capsules
            .get(self.range.clone())
            .and_then(<[Capsule]>::last)
            .is_some_and(|c| !c.shared.is_empty());
        let used = move |index: usize| self.range.contains(&index) || tied && index == 0;
        let mapped = |view: View, index: usize| {
            let (file, capsule) = self.capsule_in(view, index).ok()?;
            // Pinned capsules serve both.
            let again = view == View::Draft && self.number(view, index) == index;
            capsule.extent.filter(|_| file.owned_bytes() == 0 && !again)
        };
        let each = views.iter().flat_map(|view| {
            (0..capsules.len()).filter(|index| used(*index)).filter_map(|index| mapped(*view, index))
        });
        let whole = each.map(|extent| extent.len).sum();
        let files: Vec<&MappedFile> = std::iter::once(&self.primary).chain(&self.full).collect();
        Limits::new(budget, &files, whole)
    }
}

/// Maps a file; one that must be held in memory as a whole only where the budget has room for it and for `beside` bytes that
/// another one holds.
fn open_within(source: Arc<dyn ReadAt>, options: &OpenOptions, beside: usize) -> Result<MappedFile> {
    if let (None, Some(budget)) = (source.mappable(), &options.budget) {
        let (len, room) = (source.len(), budget.available().saturating_sub(beside as u64));
        if len > room {
            return Err(Error::Limit(format!(
                "{}: the host supplies its {len} bytes, which must all be in memory, and the budget has room for \
                 {room}; open the model by its path, or name a budget of more than {} bytes",
                source.name(),
                budget.total().saturating_add(len - room)
            )));
        }
    }
    if os::MAP_HINDERS && options.budget.is_some() {
        return MappedFile::open_late(source);
    }
    MappedFile::open(source)
}

/// The range that was asked for, or all.
fn capsule_range(file: &MappedFile, wanted: Option<Range<usize>>) -> Result<Range<usize>> {
    let count = file.contents().manifest.capsules.len();
    match wanted {
        None => Ok(0..count),
        Some(range) if range.start < range.end && range.end <= count => Ok(range),
        Some(range) => Err(Error::InvalidArgument(format!(
            "{}: the capsules {} to {} are no range of the {count} that there are",
            file.name(),
            range.start,
            range.end
        ))),
    }
}

fn mode_of_full(file: &MappedFile, wanted: Mode) -> Result<(Mode, String)> {
    match wanted {
        Mode::Fast => Err(Error::Mismatch(format!(
            "{}: mode fast runs from a mini, and this is a full file; derive one with cgraph split, or use mode exact",
            file.name()
        ))),
        Mode::Exact | Mode::Speculative => Ok((wanted, "asked for".into())),
        Mode::Auto => Ok((Mode::Exact, "the file is a full one".into())),
    }
}

/// How often a mini is taken to agree with its full file where that was not measured.
const USUAL_AGREEMENT: f64 = 0.75;

/// Bytes of a capsule that passes read beside what the mini holds of it.
fn beyond_bytes(mini: &Capsule, full: &Capsule) -> u64 {
    let nested = mini.residence == Some(Residence::Nested);
    full.stored_bytes().saturating_sub(if nested { mini.stored_bytes() } else { 0 })
}

/// What passes and drafts of a mini and its full file read: the capsules at `uses`, from end to end.
pub(super) fn weight_sizes(mini: &MappedFile, full: &MappedFile, uses: &[usize]) -> WeightSizes {
    let (own, theirs) = (&mini.contents().manifest, &full.contents().manifest);
    let bytes =
        |all: &[Capsule]| uses.iter().filter_map(|index| all.get(*index)).map(Capsule::stored_bytes).sum();
    let pairs = uses.iter().filter_map(|index| own.capsules.get(*index).zip(theirs.capsules.get(*index)));
    let beyond = pairs.filter(|(own, _)| own.residence != Some(Residence::Pinned));
    let linked = own.capsules.iter().any(|capsule| capsule.residence == Some(Residence::Linked));
    WeightSizes {
        full: bytes(&theirs.capsules),
        beyond_mini: beyond.map(|(own, theirs)| beyond_bytes(own, theirs)).sum(),
        draft: if linked { 0 } else { bytes(&own.capsules) },
        agreement: own.plan.as_ref().and_then(|plan| plan.agreement).unwrap_or(USUAL_AGREEMENT),
    }
}

fn resolve_mini(mini: &MappedFile, options: &OpenOptions) -> Result<(Option<MappedFile>, Mode, String)> {
    match options.mode {
        Mode::Fast => {
            require_all_held(mini, options)?;
            Ok((None, Mode::Fast, "asked for".into()))
        }
        Mode::Exact | Mode::Speculative => {
            Ok((Some(open_full(mini, options)?), options.mode, "asked for".into()))
        }
        Mode::Auto => match open_full(mini, options) {
            Ok(full) => {
                let mut reason = format!("the full file {} is at hand", full.name());
                if options.budget.is_none() {
                    reason.push_str(" and no budget was set");
                }
                Ok((Some(full), Mode::Exact, reason))
            }
            // A full file that was named must be the right one; only the one beside the mini may be absent.
            Err(wrong) if options.full.is_some() => Err(wrong),
            Err(unreachable) => {
                require_all_held(mini, options).map_err(|linked| {
                    Error::Mismatch(format!("{linked}; and exact is not possible either: {unreachable}"))
                })?;
                Ok((None, Mode::Fast, format!("the full file cannot be used: {unreachable}")))
            }
        },
    }
}

/// `fast` needs every capsule pinned or light, to compute at least.
fn require_all_held(mini: &MappedFile, options: &OpenOptions) -> Result<()> {
    let capsules = &mini.contents().manifest.capsules;
    let linked: Vec<&str> =
        capsules.iter().filter(|c| c.residence == Some(Residence::Linked)).map(|c| c.id.as_str()).collect();
    if linked.is_empty() || options.partial {
        return Ok(());
    }
    let named = linked.iter().take(8).copied().collect::<Vec<_>>().join(", ");
    let more = if linked.len() > 8 { ", ..." } else { "" };
    Err(Error::Mismatch(format!(
        "{}: mode fast needs every capsule in the mini, and {} of {} are only linked ({named}{more}); use mode exact, or split with a larger --size",
        mini.name(),
        linked.len(),
        capsules.len()
    )))
}

fn open_full(mini: &MappedFile, options: &OpenOptions) -> Result<MappedFile> {
    let Some(reference) = &mini.contents().manifest.full else {
        return Err(Error::Internal("a mini without a full reference passed the reader".into()));
    };
    let origin = match &options.full {
        Some(origin) => origin.clone(),
        None => Origin::Path(beside(mini, reference)?),
    };
    let unreachable = |e| {
        Error::Mismatch(format!(
            "{}: its full file cannot be opened: {e}; put it beside the mini or name it with --full",
            mini.name()
        ))
    };
    let full =
        open_within(origin.open(options.disk.as_ref()).map_err(unreachable)?, options, mini.owned_bytes())?;
    check_link_index(mini, &full)?;
    Ok(full)
}

/// The path of the full file that a mini names: a plain file name beside the mini.
fn beside(mini: &MappedFile, reference: &FullReference) -> Result<PathBuf> {
    let name = Path::new(&reference.file_name);
    // A crafted mini must not make us open any path of its choice.
    if name.file_name() != Some(name.as_os_str()) {
        return Err(Error::malformed(
            mini.name(),
            format!("the full file's name \"{}\" is not a plain file name", reference.file_name),
        ));
    }
    let Some(path) = mini.source().path() else {
        return Err(Error::Mismatch(format!(
            "{}: a mini that is not a file of its own needs its full file ({}) to be named in the options",
            mini.name(),
            reference.file_name
        )));
    };
    Ok(path.with_file_name(name))
}

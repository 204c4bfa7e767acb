//! A `.cgraph` file in memory: mapped where it is a file, read where the host supplies it.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use memmap2::{Mmap, MmapOptions};

use super::os;
use crate::container::checksum::{Running, xxh3_hex};
use crate::container::disk::ReadAt;
use crate::container::manifest::{Asset, Capsule, Tensor};
use crate::container::reader::Contents;
use crate::error::{Error, Result};
use crate::kernels::division::Planes;
use crate::pool::{CancelToken, unless_cancelled};

/// Bytes that are held against a checksum between two looks at a token.
const CHECKED: usize = 4 << 20;

/// The bytes of a file.
#[derive(Debug)]
enum Bytes {
    Map(Mmap),
    /// Mapped when they are first wanted: where a map hinders other reads, and may never be needed.
    Late(Late),
    Owned(Vec<u8>),
}

/// A file that is not mapped yet.
#[derive(Debug)]
struct Late {
    source: Arc<dyn ReadAt>,
    len: usize,
    map: OnceLock<Mmap>,
    /// Each by itself, once it was asked for.
    assets: Vec<OnceLock<Arc<Bytes>>>,
}

impl Bytes {
    fn len(&self) -> usize {
        match self {
            Self::Map(map) => map.len(),
            Self::Late(late) => late.len,
            Self::Owned(bytes) => bytes.len(),
        }
    }

    /// The map, where there is one by now.
    fn map(&self) -> Option<&Mmap> {
        match self {
            Self::Map(map) => Some(map),
            Self::Late(late) => late.map.get(),
            Self::Owned(_) => None,
        }
    }

    /// All bytes; none of a file that is not mapped yet.
    fn present(&self) -> &[u8] {
        match self {
            Self::Owned(bytes) => bytes,
            mapped => mapped.map().map_or(&[], |map| map),
        }
    }

    /// All bytes, mapped by now.
    fn all(&self) -> Result<&[u8]> {
        match self {
            Self::Late(late) => late.map().map(|map| &**map),
            present => Ok(present.present()),
        }
    }
}

impl Late {
    fn map(&self) -> Result<&Mmap> {
        if let Some(map) = self.map.get() {
            return Ok(map);
        }
        let map = map(self.source.as_ref(), self.len, &self.source.name())?;
        let map = map.ok_or_else(|| Error::Internal("a source has no file any more".into()))?;
        Ok(self.map.get_or_init(|| map))
    }

    /// Asset number `number`, which lies at `range`, in memory of its own.
    fn asset(&self, number: usize, range: &Range<usize>) -> Result<Arc<Bytes>> {
        let Some(place) = self.assets.get(number) else {
            return Err(Error::Internal(format!("there is no asset number {number}")));
        };
        if let Some(bytes) = place.get() {
            return Ok(Arc::clone(bytes));
        }
        let bytes = read(self.source.as_ref(), range.start as u64, range.len(), &self.source.name())?;
        Ok(Arc::clone(place.get_or_init(|| Arc::new(Bytes::Owned(bytes)))))
    }
}

/// A `.cgraph` file in memory, every bound checked at open. Clones share the bytes.
#[derive(Clone, Debug)]
pub struct MappedFile {
    contents: Arc<Contents>,
    bytes: Arc<Bytes>,
    source: Arc<dyn ReadAt>,
}

/// The first `len` bytes of `source`, mapped; `None` where it is no file.
fn map(source: &dyn ReadAt, len: usize, name: &str) -> Result<Option<Mmap>> {
    let Some((file, offset)) = source.mappable().filter(|_| len > 0) else { return Ok(None) };
    // SAFETY: the map is read-only and private to its owner. The library's contract (docs/c-api.md) forbids truncating a
    // model file while it is open, which is the one thing that could make these pages fault; its length was asked for when it
    // was opened.
    let map = unsafe { MmapOptions::new().offset(offset).len(len).map(file) };
    map.map(Some).map_err(|e| Error::io("map", name, e))
}

/// Bytes of `source` in memory of their own.
fn read(source: &dyn ReadAt, offset: u64, len: usize, name: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // The length is the host's: too large a one must be an error, not an abort.
    bytes
        .try_reserve_exact(len)
        .map_err(|_| Error::Limit(format!("{name}: no memory for its {len} bytes")))?;
    bytes.resize(len, 0);
    source
        .read_exact_at(offset, &mut bytes)
        .map_err(|e| Error::io(format!("read {len} bytes of"), name, e))?;
    Ok(bytes)
}

fn length(source: &dyn ReadAt, name: &str) -> Result<usize> {
    usize::try_from(source.len())
        .map_err(|_| Error::Limit(format!("{name}: {} bytes exceed the address space", source.len())))
}

/// All bytes of `source`: mapped where it is a file, else read.
fn load(source: &dyn ReadAt, name: &str) -> Result<Bytes> {
    let len = length(source, name)?;
    Ok(match map(source, len, name)? {
        Some(map) => Bytes::Map(map),
        None => Bytes::Owned(read(source, 0, len, name)?),
    })
}

/// All bytes of a file of any kind: mapped where they can be, else read.
///
/// # Errors
/// [`Error::Io`]; [`Error::Limit`] where there is no memory for them.
pub fn whole(source: &dyn ReadAt) -> Result<SharedBytes> {
    let bytes = load(source, &source.name())?;
    let range = 0..bytes.len();
    Ok(SharedBytes { bytes: Arc::new(bytes), range })
}

/// A range of a mapped file that keeps it alive.
#[derive(Clone, Debug)]
pub struct SharedBytes {
    bytes: Arc<Bytes>,
    range: Range<usize>,
}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        // The range was checked against the same bytes when it was made.
        self.bytes.present().get(self.range.clone()).unwrap_or_default()
    }
}

impl MappedFile {
    /// Reads header and manifest, checks them, and maps the file.
    ///
    /// # Errors
    /// Those of [`Contents::read`], and [`Error::Io`] where the file cannot be mapped.
    pub fn open(source: Arc<dyn ReadAt>) -> Result<Self> {
        let contents = Contents::read(source.as_ref())?;
        let bytes = load(source.as_ref(), &contents.name)?;
        Ok(Self { contents: Arc::new(contents), bytes: Arc::new(bytes), source })
    }

    /// As [`open`](Self::open), but maps the file only when something of it is wanted that lies in a capsule: for weights
    /// that are read past the system's cache, where a map hinders that.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(super) fn open_late(source: Arc<dyn ReadAt>) -> Result<Self> {
        let contents = Contents::read(source.as_ref())?;
        if source.mappable().is_none() {
            return Self::open(source);
        }
        let assets = contents.manifest.assets.iter().map(|_| OnceLock::new()).collect();
        let len = length(source.as_ref(), &contents.name)?;
        let late = Late { source: Arc::clone(&source), len, map: OnceLock::new(), assets };
        Ok(Self { contents: Arc::new(contents), bytes: Arc::new(Bytes::Late(late)), source })
    }

    /// Whether the file is mapped now.
    pub(super) fn is_mapped(&self) -> bool {
        self.bytes.map().is_some()
    }

    /// Header, manifest and digest.
    #[must_use]
    pub fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The file's name for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.contents.name
    }

    /// Where the bytes come from.
    #[must_use]
    pub fn source(&self) -> &dyn ReadAt {
        self.source.as_ref()
    }

    /// As [`source`](Self::source), to be kept.
    pub(super) fn shared_source(&self) -> Arc<dyn ReadAt> {
        Arc::clone(&self.source)
    }

    /// Bytes that live in anonymous memory because the source cannot be mapped.
    #[must_use]
    pub fn owned_bytes(&self) -> usize {
        match &*self.bytes {
            Bytes::Map(_) | Bytes::Late(_) => 0,
            Bytes::Owned(bytes) => bytes.len(),
        }
    }

    /// Where the extent of `capsule` lies in the map; `None` where it has none or the file is not mapped.
    pub(crate) fn mapped_range(&self, capsule: &Capsule) -> Option<Range<usize>> {
        let extent = capsule.extent.filter(|_| !matches!(*self.bytes, Bytes::Owned(_)))?;
        self.range(extent.offset, extent.len)
    }

    /// Asks the system for `range`, which is about to be read, and does not wait for it; where the system does not
    /// listen nothing is lost.
    pub(crate) fn ask_for(&self, range: Range<usize>) {
        // Who cannot map it hears of that from the read.
        if let (Ok(_), Some(map)) = (self.bytes.all(), self.bytes.map()) {
            os::will_need(map, range);
        }
    }

    /// Lets the system drop the pages of `range`, from this process and from its cache. Only a hint; whoever reads them
    /// again gets the same bytes from the file.
    pub(crate) fn give_back(&self, range: Range<usize>) {
        if self.drop_pages(&range)
            && let Some((file, start)) = self.source.mappable()
        {
            os::uncache(file, start.saturating_add(range.start as u64), range.len());
        }
    }

    /// Takes the pages of `range` from this process; they may stay in the system's cache. Only a hint.
    pub(crate) fn let_go(&self, range: Range<usize>) {
        self.drop_pages(&range);
    }

    fn drop_pages(&self, range: &Range<usize>) -> bool {
        let map = self.bytes.map().filter(|map| range.start < range.end && range.end <= map.len());
        map.is_some_and(|map| os::let_go(map, range.clone()))
    }

    /// Whether byte `at` of the map can be read without waiting for the disk; `false` where the system does not say.
    pub(super) fn is_in_memory(&self, at: usize) -> bool {
        let place = self.source.mappable();
        place.is_some_and(|(file, start)| os::is_cached(file, start.saturating_add(at as u64)))
    }

    /// The stored planes of `tensor`, which belongs to `capsule` of this file.
    ///
    /// # Errors
    /// [`Error::NotFound`] where this file holds no plane of the tensor.
    pub fn planes(&self, capsule: &Capsule, tensor: &Tensor) -> Result<Planes<'_>> {
        let first = self.plane(capsule, tensor, 0)?;
        match (&tensor.division, tensor.planes.len()) {
            (None, _) => Ok(Planes::Whole(first)),
            (Some(_), 1) => Ok(Planes::First(first)),
            (Some(_), _) => Ok(Planes::Both([first, self.plane(capsule, tensor, 1)?])),
        }
    }

    /// The bytes of plane `number` of `tensor`, which belongs to `capsule` of this file.
    ///
    /// # Errors
    /// [`Error::NotFound`] where this file does not hold it.
    pub fn plane(&self, capsule: &Capsule, tensor: &Tensor, number: usize) -> Result<&[u8]> {
        let range = self.plane_range(capsule, tensor, number)?;
        Ok(self.bytes.all()?.get(range).unwrap_or_default())
    }

    fn plane_range(&self, capsule: &Capsule, tensor: &Tensor, number: usize) -> Result<Range<usize>> {
        let place = capsule.extent.zip(tensor.planes.get(number));
        place
            .and_then(|(extent, plane)| self.range(extent.offset.checked_add(plane.offset)?, plane.len))
            .ok_or_else(|| self.not_stored(capsule, tensor))
    }

    /// Refuses a tensor that this file does not hold, which belongs to `capsule` of it. Nothing is read or mapped.
    ///
    /// # Errors
    /// Those of [`planes`](Self::planes).
    pub(super) fn check_stored(&self, capsule: &Capsule, tensor: &Tensor) -> Result<()> {
        let second = tensor.division.is_some() && tensor.planes.len() > 1;
        (0..=usize::from(second)).try_for_each(|number| self.plane_range(capsule, tensor, number).map(drop))
    }

    pub(super) fn not_stored(&self, capsule: &Capsule, tensor: &Tensor) -> Error {
        Error::NotFound(format!(
            "{}: capsule {}: tensor {} is not stored in this file (a mini only links it: its full file is needed)",
            self.name(),
            capsule.id,
            tensor.name
        ))
    }

    /// As [`plane`](Self::plane), held against its checksum: for bytes that leave the file.
    ///
    /// # Errors
    /// Those of [`plane`](Self::plane); [`Error::Corrupt`] naming capsule and tensor.
    pub fn checked_plane(&self, capsule: &Capsule, tensor: &Tensor, number: usize) -> Result<&[u8]> {
        let bytes = self.plane(capsule, tensor, number)?;
        self.check_plane((capsule, tensor, number), bytes, None)?;
        Ok(bytes)
    }

    /// Holds `bytes`, read from where plane `number` of a tensor is stored, against its checksum; until `cancel` is
    /// cancelled, since bytes of the map may have to come from the disk first.
    pub(super) fn check_plane(
        &self,
        (capsule, tensor, number): (&Capsule, &Tensor, usize),
        bytes: &[u8],
        cancel: Option<&CancelToken>,
    ) -> Result<()> {
        let mut checksum = Running::default();
        for piece in bytes.chunks(CHECKED) {
            unless_cancelled(cancel)?;
            checksum.update(piece);
        }
        if tensor.planes.get(number).map(|p| &p.xxh3) == Some(&checksum.hex()) {
            return Ok(());
        }
        Err(self.damaged(&format!("capsule {}: tensor {}", capsule.id, tensor.name)))
    }

    /// As [`asset`](Self::asset), held against its checksum.
    ///
    /// # Errors
    /// Those of [`asset`](Self::asset); [`Error::Corrupt`] naming the asset.
    pub fn checked_asset(&self, asset: &Asset) -> Result<&[u8]> {
        let bytes = self.asset(&asset.name)?;
        if xxh3_hex(bytes) == asset.xxh3 {
            Ok(bytes)
        } else {
            Err(self.damaged(&format!("asset \"{}\"", asset.name)))
        }
    }

    fn damaged(&self, what: &str) -> Error {
        Error::Corrupt(format!(
            "{}: {what} does not match its checksum; convert the model again",
            self.name()
        ))
    }

    /// Bytes of the asset called `name`.
    ///
    /// # Errors
    /// [`Error::NotFound`] naming the asset.
    pub fn asset(&self, name: &str) -> Result<&[u8]> {
        let (number, range) = self.asset_place(name)?;
        match &*self.bytes {
            Bytes::Late(late) => {
                late.asset(number, &range)?;
                // It is there by now, and stays as long as the file does.
                let own = late.assets.get(number).and_then(OnceLock::get);
                Ok(own.map_or(&[], |bytes| bytes.present()))
            }
            bytes => Ok(bytes.present().get(range).unwrap_or_default()),
        }
    }

    /// The asset called `name` as bytes that keep the file alive.
    ///
    /// # Errors
    /// [`Error::NotFound`] naming the asset.
    pub fn shared_asset(&self, name: &str) -> Result<SharedBytes> {
        let (number, range) = self.asset_place(name)?;
        Ok(match &*self.bytes {
            Bytes::Late(late) => SharedBytes { bytes: late.asset(number, &range)?, range: 0..range.len() },
            _ => SharedBytes { bytes: Arc::clone(&self.bytes), range },
        })
    }

    /// `len` bytes at `offset` as bytes that keep the file alive; `None` where they leave it.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be mapped.
    pub(crate) fn shared_extent(&self, offset: u64, len: u64) -> Result<Option<SharedBytes>> {
        self.bytes.all()?;
        let range = self.range(offset, len);
        Ok(range.map(|range| SharedBytes { bytes: Arc::clone(&self.bytes), range }))
    }

    /// Number and place of the asset called `name`.
    fn asset_place(&self, name: &str) -> Result<(usize, Range<usize>)> {
        let mut assets = self.contents.manifest.assets.iter().enumerate();
        assets
            .find(|(_, asset)| asset.name == name)
            .and_then(|(number, asset)| Some((number, self.range(asset.offset, asset.len)?)))
            .ok_or_else(|| Error::NotFound(format!("{}: the file has no asset \"{name}\"", self.name())))
    }

    fn range(&self, offset: u64, len: u64) -> Option<Range<usize>> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        (end <= self.bytes.len()).then_some(start..end)
    }
}

//! A `.cgraph` file in memory: mapped where it is a file, read where the host supplies it.

use std::ops::{Deref, Range};
use std::sync::Arc;

#[cfg(target_os = "linux")]
use memmap2::UncheckedAdvice;
use memmap2::{Mmap, MmapOptions};

#[cfg(target_os = "linux")]
use super::direct;

use crate::container::checksum::{Running, xxh3_hex};
use crate::container::disk::ReadAt;
use crate::container::manifest::{Asset, Capsule, Tensor};
use crate::container::reader::Contents;
use crate::error::{Error, Result};
use crate::kernels::division::Planes;
use crate::pool::{CancelToken, unless_cancelled};

/// Bytes of one request to read ahead. Linux silently leaves out what exceeds its window of read-ahead or the
/// device's best length of a transfer, whichever is more: with nothing set that is 128 KiB.
#[cfg(unix)]
const REQUEST: usize = 128 << 10;

/// Bytes that are held against a checksum between two looks at a token.
const CHECKED: usize = 4 << 20;

/// The bytes of a file.
#[derive(Debug)]
enum Bytes {
    Map(Mmap),
    Owned(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Map(map) => map,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// A `.cgraph` file in memory, every bound checked at open. Clones share the bytes.
#[derive(Clone, Debug)]
pub struct MappedFile {
    contents: Arc<Contents>,
    bytes: Arc<Bytes>,
    source: Arc<dyn ReadAt>,
}

/// All bytes of `source`: mapped where it is a file, else read.
fn load(source: &dyn ReadAt, name: &str) -> Result<Bytes> {
    let len = usize::try_from(source.len())
        .map_err(|_| Error::Limit(format!("{name}: {} bytes exceed the address space", source.len())))?;
    if let Some((file, offset)) = source.mappable().filter(|_| len > 0) {
        // SAFETY: the map is read-only and private to this value. The library's contract (docs/c-api.md) forbids truncating a
        // model file while it is open, which is the one thing that could make these pages fault; its length was just asked
        // for.
        let map = unsafe { MmapOptions::new().offset(offset).len(len).map(file) };
        return Ok(Bytes::Map(map.map_err(|e| Error::io("map", name, e))?));
    }
    let mut bytes = Vec::new();
    // The length is the host's: too large a one must be an error, not an abort.
    bytes
        .try_reserve_exact(len)
        .map_err(|_| Error::Limit(format!("{name}: no memory for its {len} bytes")))?;
    bytes.resize(len, 0);
    source.read_exact_at(0, &mut bytes).map_err(|e| Error::io(format!("read {len} bytes of"), name, e))?;
    Ok(Bytes::Owned(bytes))
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
        self.bytes.get(self.range.clone()).unwrap_or_default()
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
            Bytes::Map(_) => 0,
            Bytes::Owned(bytes) => bytes.len(),
        }
    }

    /// Where the extent of `capsule` lies in the map; `None` where it has none or the file is not mapped.
    pub(crate) fn mapped_range(&self, capsule: &Capsule) -> Option<Range<usize>> {
        let extent = capsule.extent.filter(|_| matches!(*self.bytes, Bytes::Map(_)))?;
        self.range(extent.offset, extent.len)
    }

    /// Asks the system for `range`, which is about to be read, and does not wait for it; where the system does not
    /// listen nothing is lost.
    pub(crate) fn ask_for(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Bytes::Map(map) = &*self.bytes {
            for start in range.clone().step_by(REQUEST) {
                let len = REQUEST.min(range.end - start);
                let _ = map.advise_range(memmap2::Advice::WillNeed, start, len);
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// Lets the system drop the pages of `range`, from this process and from its cache. Only a hint; whoever reads them
    /// again gets the same bytes from the file.
    pub(crate) fn give_back(&self, range: Range<usize>) {
        #[cfg(target_os = "linux")]
        if let (Bytes::Map(map), Some((file, start))) = (&*self.bytes, self.source.mappable())
            && range.start < range.end
            && range.end <= map.len()
        {
            // SAFETY: the map is a shared and read-only one of a file: no byte of it is anywhere else than in the file, and
            // pages that are dropped come from there again. The range lies in it.
            let dropped =
                unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
            if dropped.is_ok() {
                direct::give_back(file, start.saturating_add(range.start as u64), range.len());
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = range;
    }

    /// Takes the pages of `range` from this process; they may stay in the system's cache. Only a hint.
    pub(crate) fn let_go(&self, range: Range<usize>) {
        #[cfg(target_os = "linux")]
        if let Bytes::Map(map) = &*self.bytes
            && range.start < range.end
            && range.end <= map.len()
        {
            // SAFETY: as in `give_back`.
            let _ =
                unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = range;
    }

    /// Whether byte `at` of the map can be read without waiting for the disk; `false` where the system does not say.
    /// Not by `mincore`: for a file that the process neither owns nor may write it answers that all is in memory.
    pub(super) fn is_in_memory(&self, at: usize) -> bool {
        #[cfg(target_os = "linux")]
        if let Some((file, start)) = self.source.mappable()
            && let Ok(offset) = libc::off_t::try_from(start.saturating_add(at as u64))
        {
            let mut byte = 0u8;
            let room = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
            let fd = std::os::fd::AsRawFd::as_raw_fd(file);
            // SAFETY: the file is open, and the one byte written is `byte`, which outlives the call.
            return unsafe { libc::preadv2(fd, &raw const room, 1, offset, libc::RWF_NOWAIT) } == 1;
        }
        let _ = at;
        false
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
        let place = capsule.extent.zip(tensor.planes.get(number));
        place
            .and_then(|(extent, plane)| self.slice(extent.offset.checked_add(plane.offset)?, plane.len))
            .ok_or_else(|| self.not_stored(capsule, tensor))
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
        let range = self.asset_range(name)?;
        Ok(self.bytes.get(range).unwrap_or_default())
    }

    /// The asset called `name` as bytes that keep the file alive.
    ///
    /// # Errors
    /// [`Error::NotFound`] naming the asset.
    pub fn shared_asset(&self, name: &str) -> Result<SharedBytes> {
        Ok(SharedBytes { bytes: Arc::clone(&self.bytes), range: self.asset_range(name)? })
    }

    /// `len` bytes at `offset` as bytes that keep the file alive; `None` where they leave it.
    pub(crate) fn shared_extent(&self, offset: u64, len: u64) -> Option<SharedBytes> {
        Some(SharedBytes { bytes: Arc::clone(&self.bytes), range: self.range(offset, len)? })
    }

    fn asset_range(&self, name: &str) -> Result<Range<usize>> {
        let asset = self.contents.manifest.asset(name);
        asset
            .and_then(|a| self.range(a.offset, a.len))
            .ok_or_else(|| Error::NotFound(format!("{}: the file has no asset \"{name}\"", self.name())))
    }

    fn slice(&self, offset: u64, len: u64) -> Option<&[u8]> {
        self.bytes.get(self.range(offset, len)?)
    }

    fn range(&self, offset: u64, len: u64) -> Option<Range<usize>> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        (end <= self.bytes.len()).then_some(start..end)
    }
}

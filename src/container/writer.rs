//! Writing a `.cgraph` file in one pass: extents, assets, manifest, and the header last.

use std::sync::Arc;

use super::checksum::{Running, xxh3_hex};
use super::disk::{ReadAt, WriteFile};
use super::header::{HEADER_LEN, Header, Kind, VERSION};
use super::manifest::{Asset, Extent, Manifest, Plane};
use super::{EXTENT_ALIGN, PLANE_ALIGN, align_up};
use crate::error::{Error, Result};

/// Bytes gathered before they are handed to the file.
const BUFFER: usize = 1 << 20;

/// Takes the bytes of a plane in pieces.
pub type Sink<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// A `.cgraph` file under construction. Calls come in file order: for each capsule `begin_capsule`, its
/// planes, `end_capsule`; then `asset`s; then `finish`. Dropped before, it leaves nothing behind.
#[derive(Debug)]
pub struct Writer {
    file: Box<dyn WriteFile>,
    position: u64,
    pending: Vec<u8>,
    extent_start: Option<u64>,
}

impl Writer {
    /// Begins a file.
    ///
    /// # Errors
    /// [`Error::Io`] naming the target.
    pub fn new(file: Box<dyn WriteFile>) -> Result<Self> {
        let mut writer =
            Self { file, position: 0, pending: Vec::with_capacity(BUFFER + 4096), extent_start: None };
        writer.pad_to(EXTENT_ALIGN)?;
        Ok(writer)
    }

    /// Begins the extent of the next capsule.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Internal`] inside another capsule.
    pub fn begin_capsule(&mut self) -> Result<()> {
        if self.extent_start.is_some() {
            return Err(Error::Internal("a capsule was begun inside another".into()));
        }
        self.pad_to(EXTENT_ALIGN)?;
        self.extent_start = Some(self.position);
        Ok(())
    }

    /// Writes one plane of the current capsule; `fill` is called with a sink that takes its bytes in pieces.
    ///
    /// # Errors
    /// [`Error::Io`], or what `fill` returns.
    pub fn plane(&mut self, fill: &mut dyn FnMut(&mut Sink<'_>) -> Result<()>) -> Result<Plane> {
        let Some(extent_start) = self.extent_start else {
            return Err(Error::Internal("a plane was written outside of a capsule".into()));
        };
        self.pad_to(PLANE_ALIGN)?;
        let start = self.position;
        let mut running = Running::default();
        fill(&mut |bytes| {
            running.update(bytes);
            self.put(bytes)
        })?;
        Ok(Plane { offset: start - extent_start, len: self.position - start, xxh3: running.hex() })
    }

    /// Ends the current capsule; `None` where it holds no bytes.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Internal`] outside of a capsule.
    pub fn end_capsule(&mut self) -> Result<Option<Extent>> {
        let Some(offset) = self.extent_start.take() else {
            return Err(Error::Internal("a capsule was ended that was not begun".into()));
        };
        self.pad_to(EXTENT_ALIGN)?;
        let len = self.position - offset;
        Ok((len > 0).then_some(Extent { offset, len }))
    }

    /// Writes an asset.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn asset(&mut self, name: &str, bytes: &[u8]) -> Result<Asset> {
        self.pad_to(PLANE_ALIGN)?;
        let offset = self.position;
        self.put(bytes)?;
        Ok(Asset { name: name.to_owned(), offset, len: bytes.len() as u64, xxh3: xxh3_hex(bytes) })
    }

    /// Bytes written so far.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Writes manifest and header and makes the file visible. Returns its length.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(self, kind: Kind, manifest: &Manifest) -> Result<u64> {
        self.seal(kind, manifest, 0)?.commit()
    }

    /// Writes manifest and header. The file is whole then, but does not have its name. The manifest may later become
    /// longer by `spare` bytes ([`Sealed::amend`]), which are spaces until then.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn seal(mut self, kind: Kind, manifest: &Manifest, spare: usize) -> Result<Sealed> {
        let mut text = manifest_bytes(manifest)?;
        text.resize(text.len() + spare, b' ');
        self.pad_to(PLANE_ALIGN)?;
        let manifest_offset = self.position;
        self.put(&text)?;
        self.flush()?;
        let header = Header {
            version: VERSION,
            kind,
            manifest_offset,
            manifest_len: text.len() as u64,
            manifest_blake3: *blake3::hash(&text).as_bytes(),
            file_len: self.position,
        };
        self.file.overwrite(0, &header.encode())?;
        Ok(Sealed { file: self.file, header })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.position += bytes.len() as u64;
        if self.pending.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() >= BUFFER {
            return self.file.append(bytes);
        }
        self.pending.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if !self.pending.is_empty() {
            self.file.append(&self.pending)?;
            self.pending.clear();
        }
        Ok(())
    }

    /// Fills with zeros up to the next multiple of `align`; at the very beginning past the header as well.
    fn pad_to(&mut self, align: u64) -> Result<()> {
        let from = self.position.max(HEADER_LEN as u64);
        let Some(to) = align_up(from, align) else {
            return Err(Error::Limit("the file would exceed the largest possible length".into()));
        };
        const ZEROS: [u8; 4096] = [0; 4096];
        while self.position < to {
            let len = (to - self.position).min(ZEROS.len() as u64) as usize;
            self.put(&ZEROS[..len])?;
        }
        Ok(())
    }
}

/// A whole `.cgraph` file without its name. Dropped before [`commit`](Self::commit), it leaves nothing behind.
#[derive(Debug)]
pub struct Sealed {
    file: Box<dyn WriteFile>,
    header: Header,
}

impl Sealed {
    /// The file, to be tried out. What is returned must be gone before [`commit`](Self::commit).
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn source(&self) -> Result<Arc<dyn ReadAt>> {
        self.file.written()
    }

    /// Puts another manifest in the place of the one that was written.
    ///
    /// # Errors
    /// [`Error::Internal`] where it is longer than that and what was spared; [`Error::Io`].
    pub fn amend(&mut self, manifest: &Manifest) -> Result<()> {
        let mut text = manifest_bytes(manifest)?;
        let room = self.header.manifest_len as usize;
        if text.len() > room {
            return Err(Error::Internal(format!("a manifest of {} bytes has room for {room}", text.len())));
        }
        text.resize(room, b' ');
        self.header.manifest_blake3 = *blake3::hash(&text).as_bytes();
        self.file.overwrite(self.header.manifest_offset, &text)?;
        self.file.overwrite(0, &self.header.encode())
    }

    /// Makes the file visible. Returns its length.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn commit(self) -> Result<u64> {
        self.file.commit()?;
        Ok(self.header.file_len)
    }
}

/// A manifest's bytes as they stand in the file.
///
/// # Errors
/// [`Error::Internal`] where it cannot be written as JSON.
pub fn manifest_bytes(manifest: &Manifest) -> Result<Vec<u8>> {
    serde_json::to_vec(manifest).map_err(|e| Error::Internal(format!("the manifest cannot be written: {e}")))
}

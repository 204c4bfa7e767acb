//! Disks for tests: one in memory, and one that fails at a chosen operation of another.
#![allow(dead_code, clippy::expect_used, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use capsulegraph::container::disk::{Disk, ReadAt, WriteFile};
use capsulegraph::{Error, Result};

/// Files in memory by path. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk(Arc<Mutex<BTreeMap<PathBuf, Arc<[u8]>>>>);

impl MemoryDisk {
    /// Gives a file its content.
    pub fn put(&self, path: impl AsRef<Path>, bytes: impl Into<Arc<[u8]>>) {
        self.0.lock().unwrap().insert(path.as_ref().to_owned(), bytes.into());
    }

    /// The content of a file.
    pub fn get(&self, path: impl AsRef<Path>) -> Option<Arc<[u8]>> {
        self.0.lock().unwrap().get(path.as_ref()).cloned()
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path) -> Result<Arc<dyn ReadAt>> {
        let bytes = self.get(path).ok_or_else(|| Error::io("open", path, io::ErrorKind::NotFound.into()))?;
        let len = bytes.len();
        Ok(Arc::new(View { path: path.to_owned(), bytes, len }))
    }

    fn create(&self, target: &Path) -> Result<Box<dyn WriteFile>> {
        Ok(Box::new(MemoryWrite { disk: self.clone(), target: target.to_owned(), bytes: Vec::new() }))
    }
}

/// The first `len` bytes of shared bytes, as a file.
#[derive(Clone, Debug)]
pub struct View {
    /// Name and place.
    pub path: PathBuf,
    /// The bytes.
    pub bytes: Arc<[u8]>,
    /// How many of them there are to see.
    pub len: usize,
}

impl ReadAt for View {
    fn len(&self) -> u64 {
        self.len as u64
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).ok().filter(|start| *start <= self.len);
        let part = start.and_then(|start| self.bytes[start..self.len].get(..buf.len()));
        buf.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }
}

#[derive(Debug)]
struct MemoryWrite {
    disk: MemoryDisk,
    target: PathBuf,
    bytes: Vec<u8>,
}

impl WriteFile for MemoryWrite {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn overwrite(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.bytes[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn written(&self) -> Result<Arc<dyn ReadAt>> {
        let (bytes, len) = (self.bytes.as_slice().into(), self.bytes.len());
        Ok(Arc::new(View { path: self.target.clone(), bytes, len }))
    }

    fn commit(self: Box<Self>) -> Result<()> {
        self.disk.put(&self.target, self.bytes);
        Ok(())
    }
}

/// A disk on which operation number `n` fails, counted over opening, creating, reading and writing.
#[derive(Clone, Debug)]
pub struct FailingDisk {
    disk: Arc<dyn Disk>,
    left: Arc<AtomicI64>,
}

impl FailingDisk {
    /// `disk`, with a failure after `successes` operations.
    pub fn new(disk: Arc<dyn Disk>, successes: i64) -> Self {
        Self { disk, left: Arc::new(AtomicI64::new(successes)) }
    }

    /// Whether the failure has come.
    pub fn has_failed(&self) -> bool {
        self.left.load(Ordering::Relaxed) < 0
    }

    fn count(&self) -> io::Result<()> {
        match self.left.fetch_sub(1, Ordering::Relaxed) {
            ..=0 => Err(io::Error::other("injected failure")),
            _ => Ok(()),
        }
    }
}

impl Disk for FailingDisk {
    fn open(&self, path: &Path) -> Result<Arc<dyn ReadAt>> {
        self.count().map_err(|e| Error::io("open", path, e))?;
        Ok(Arc::new(FailingRead { source: self.disk.open(path)?, disk: self.clone() }))
    }

    fn create(&self, target: &Path) -> Result<Box<dyn WriteFile>> {
        self.count().map_err(|e| Error::io("create", target, e))?;
        let file = self.disk.create(target)?;
        Ok(Box::new(FailingWrite { file, disk: self.clone(), target: target.to_owned() }))
    }
}

#[derive(Debug)]
struct FailingRead {
    source: Arc<dyn ReadAt>,
    disk: FailingDisk,
}

impl ReadAt for FailingRead {
    fn len(&self) -> u64 {
        self.source.len()
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.disk.count()?;
        self.source.read_exact_at(offset, buf)
    }

    fn name(&self) -> String {
        self.source.name()
    }

    fn path(&self) -> Option<&Path> {
        self.source.path()
    }
}

#[derive(Debug)]
struct FailingWrite {
    file: Box<dyn WriteFile>,
    disk: FailingDisk,
    target: PathBuf,
}

impl FailingWrite {
    fn count(&self) -> Result<()> {
        self.disk.count().map_err(|e| Error::io("write", &self.target, e))
    }
}

impl WriteFile for FailingWrite {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.count()?;
        self.file.append(bytes)
    }

    fn overwrite(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.count()?;
        self.file.overwrite(offset, bytes)
    }

    fn written(&self) -> Result<Arc<dyn ReadAt>> {
        self.count()?;
        Ok(Arc::new(FailingRead { source: self.file.written()?, disk: self.disk.clone() }))
    }

    fn commit(self: Box<Self>) -> Result<()> {
        self.count()?;
        self.file.commit()
    }
}

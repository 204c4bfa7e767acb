//! The one interface through which the library reaches files; tests put a faulty disk in its place.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use super::os;
use super::paths::{directory_of, file_to_write, refuse_other_than_file};
use crate::error::{Error, Result};

/// A source of bytes that can be read at any position, from any thread.
pub trait ReadAt: Send + Sync + Debug {
    /// Length in bytes, fixed when the source was opened.
    fn len(&self) -> u64;

    /// Whether there are no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from `offset`; an error where the source ends before.
    ///
    /// # Errors
    /// The system's or the host's answer, or `UnexpectedEof`.
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;

    /// The file and the offset of this source's first byte in it, where it can be mapped.
    fn mappable(&self) -> Option<(&File, u64)> {
        None
    }

    /// Name for messages.
    fn name(&self) -> String;

    /// Path, where the source is a file of its own.
    fn path(&self) -> Option<&Path> {
        None
    }
}

/// A file under construction: appended to, patched at its beginning, and then made visible at once.
pub trait WriteFile: Debug {
    /// Appends `bytes`.
    ///
    /// # Errors
    /// [`Error::Io`] naming the target.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;

    /// Overwrites bytes that were appended before.
    ///
    /// # Errors
    /// [`Error::Io`] naming the target.
    fn overwrite(&mut self, offset: u64, bytes: &[u8]) -> Result<()>;

    /// The bytes so far, to be read before they have the target's name. What is returned must be gone before the
    /// commit: some systems rename closed files only.
    ///
    /// # Errors
    /// [`Error::Io`] naming the target.
    fn written(&self) -> Result<Arc<dyn ReadAt>>;

    /// Syncs the bytes and gives them the target's name. A file dropped before leaves nothing behind.
    ///
    /// # Errors
    /// [`Error::Io`] naming the target.
    fn commit(self: Box<Self>) -> Result<()>;
}

/// Where files live.
pub trait Disk: Send + Sync + Debug {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// [`Error::Io`] naming the path.
    fn open(&self, path: &Path) -> Result<Arc<dyn ReadAt>>;

    /// Begins a file that will replace `target`, or what `target` links to, when committed.
    ///
    /// # Errors
    /// [`Error::Io`] naming the path, also where something is there that is no file.
    fn create(&self, target: &Path) -> Result<Box<dyn WriteFile>>;
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn open(&self, path: &Path) -> Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(FileSource::open(path)?))
    }

    fn create(&self, target: &Path) -> Result<Box<dyn WriteFile>> {
        Ok(Box::new(AtomicFile::create(target)?))
    }
}

/// An open file, or a part of one that lies inside a larger file (a game's archive).
#[derive(Debug)]
pub struct FileSource {
    file: File,
    path: PathBuf,
    offset: u64,
    len: u64,
    whole: bool,
}

impl FileSource {
    /// Opens a whole file.
    ///
    /// # Errors
    /// [`Error::Io`] naming the path; directories, devices and pipes are refused.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, len) = open_regular(path)?;
        Ok(Self { file, path: path.to_owned(), offset: 0, len, whole: true })
    }

    /// Opens `len` bytes at `offset` of a larger file; a `len` of 0 means up to its end.
    ///
    /// # Errors
    /// [`Error::Io`] naming the path; [`Error::InvalidArgument`] where the part leaves the file.
    pub fn open_part(path: &Path, offset: u64, len: u64) -> Result<Self> {
        let (file, file_len) = open_regular(path)?;
        let rest = file_len.checked_sub(offset).filter(|rest| len <= *rest).ok_or_else(|| {
            Error::InvalidArgument(format!(
                "{}: a part of {len} bytes at offset {offset} leaves the file of {file_len} bytes",
                path.display()
            ))
        })?;
        let len = if len == 0 { rest } else { len };
        Ok(Self { file, path: path.to_owned(), offset, len, whole: false })
    }
}

fn open_regular(path: &Path) -> Result<(File, u64)> {
    let refused = |e| Error::io("open", path, e);
    // Asked before: opening a pipe would wait for somebody who writes to it.
    refuse_other_than_file(fs::metadata(path).map_err(refused)?.file_type()).map_err(refused)?;
    let file = File::open(path).map_err(refused)?;
    let meta = file.metadata().map_err(|e| Error::io("read the size of", path, e))?;
    Ok((file, meta.len()))
}

/// Of a file that has become shorter than it was when it was opened, or that was shorter from the start.
fn ends_early(present: u64, offset: u64, len: usize) -> io::Error {
    let needed = offset.saturating_add(len as u64);
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        format!("the file ends early: it has {present} bytes where {needed} are needed; copy it again"),
    )
}

impl ReadAt for FileSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.len);
        if end.is_none() {
            return Err(ends_early(self.len, offset, buf.len()));
        }
        let len = buf.len();
        os::read_exact_at(&self.file, self.offset + offset, buf).map_err(|e| {
            match (e.kind(), self.file.metadata()) {
                (io::ErrorKind::UnexpectedEof, Ok(meta)) => ends_early(meta.len(), self.offset + offset, len),
                _ => e,
            }
        })
    }

    fn mappable(&self) -> Option<(&File, u64)> {
        Some((&self.file, self.offset))
    }

    fn name(&self) -> String {
        if self.whole {
            self.path.display().to_string()
        } else {
            format!("{} at offset {}", self.path.display(), self.offset)
        }
    }

    fn path(&self) -> Option<&Path> {
        self.whole.then_some(self.path.as_path())
    }
}

/// Bytes in memory as a source, for tests and for models that a host already holds.
#[derive(Clone, Debug)]
pub struct MemorySource {
    name: String,
    bytes: Arc<[u8]>,
}

impl MemorySource {
    /// A source over `bytes`, called `name` in messages.
    pub fn new(name: impl Into<String>, bytes: impl Into<Arc<[u8]>>) -> Self {
        Self { name: name.into(), bytes: bytes.into() }
    }
}

impl ReadAt for MemorySource {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let wanted = buf.len();
        let part = usize::try_from(offset)
            .ok()
            .and_then(|start| self.bytes.get(start..start.checked_add(wanted)?))
            .ok_or_else(|| ends_early(self.len(), offset, wanted))?;
        buf.copy_from_slice(part);
        Ok(())
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

/// How the names of temporary files end.
const TEMPORARY_END: &str = ".tmp";

/// Removes what killed processes left beside `target`: temporary files whose names begin with `start` and whose
/// locks, which end with their owner, are gone. What cannot be read or removed is left alone.
fn remove_abandoned(target: &Path, start: &std::ffi::OsStr) {
    let Ok(entries) = fs::read_dir(directory_of(target)) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let middle = name
            .strip_prefix(start.as_encoded_bytes())
            .and_then(|rest| rest.strip_suffix(TEMPORARY_END.as_bytes()));
        // PID-SERIAL and nothing else: never a file of another's naming.
        let ours =
            middle.is_some_and(|m| !m.is_empty() && m.iter().all(|b| b.is_ascii_digit() || *b == b'-'));
        let Some(file) = ours.then(|| File::open(&path).ok()).flatten() else { continue };
        // Locked until it is gone: its owner may be about to lock it.
        if file.try_lock().is_ok() {
            let _ = fs::remove_file(&path);
        }
    }
}

/// Makes a temporary file beside `target` whose name begins with `start` and that no other process has: two
/// containers that share a volume may well have the same process id.
fn create_temporary(target: &Path, start: &std::ffi::OsStr) -> Result<(File, PathBuf)> {
    loop {
        let mut name = start.to_owned();
        let serial = TEMPORARIES.fetch_add(1, Ordering::Relaxed);
        name.push(format!("{}-{serial}{TEMPORARY_END}", std::process::id()));
        let temporary = target.with_file_name(name);
        match OpenOptions::new().read(true).write(true).create_new(true).open(&temporary) {
            // The lock says to `remove_abandoned` that the file is in use. One that came between has it, or had it and removed
            // the file. Where locks do not exist nothing is ever removed.
            Ok(file) => {
                let taken = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
                if !taken && temporary.exists() {
                    return Ok((file, temporary));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io("create", &temporary, e)),
        }
    }
}

/// Distinguishes the temporary files of one process.
static TEMPORARIES: AtomicU64 = AtomicU64::new(0);

/// Bytes appended between two requests to bring the file to the disk.
const SYNC_STEP: u64 = 32 << 20;

/// A thread that brings a file to the disk while more of it is written: left to itself the system begins only when
/// gigabytes are waiting, and the disk idles until then.
#[derive(Debug)]
struct Syncer {
    requests: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl Syncer {
    /// `None` where the system refuses; syncing at the end is enough.
    fn of(file: &File) -> Option<Self> {
        let file = file.try_clone().ok()?;
        Self::start(move || file.sync_data())
    }

    /// Calls `sync` once a request or less often, until it fails.
    fn start(mut sync: impl FnMut() -> io::Result<()> + Send + 'static) -> Option<Self> {
        let (requests, wanted) = sync_channel(1);
        let run = move || wanted.iter().try_for_each(|()| sync());
        let thread = thread::Builder::new().name("capsulegraph-sync".into()).spawn(run).ok()?;
        Some(Self { requests, thread })
    }

    /// Asks for what is written so far; nothing happens where such a request is waiting or syncing has failed.
    fn request(&self) {
        let _ = self.requests.try_send(());
    }

    /// Ends the thread, whose handle of the file is closed then, and returns its failure. The system reports lost
    /// bytes once for all handles of an open file: a later sync by another handle says that all is well.
    fn end(self) -> io::Result<()> {
        drop(self.requests);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the syncing thread panicked")))
    }
}

/// A temporary file beside its target, renamed over it on commit and removed on drop.
#[derive(Debug)]
struct AtomicFile {
    file: Option<File>,
    syncer: Option<Syncer>,
    /// Bytes appended since the last request to the syncer.
    unsynced: u64,
    temporary: PathBuf,
    target: PathBuf,
    renamed: bool,
    /// Whether the file was lent to a reader: on some systems reading at a position moves the one that is written at.
    lent: AtomicBool,
}

impl AtomicFile {
    fn create(target: &Path) -> Result<Self> {
        let target = file_to_write(target)?;
        let mut temporary_name = std::ffi::OsString::from(".");
        temporary_name.push(target.file_name().unwrap_or_default());
        temporary_name.push(".");
        remove_abandoned(&target, &temporary_name);
        let (file, temporary) = create_temporary(&target, &temporary_name)?;
        Ok(Self {
            file: Some(file),
            syncer: None,
            unsynced: 0,
            temporary,
            target,
            renamed: false,
            lent: AtomicBool::new(false),
        })
    }

    /// Closes every handle: some systems remove closed files only.
    fn close(&mut self) {
        // A file that is closed before it is committed is given up, whatever became of its bytes.
        let _ = self.end_syncer();
        self.file = None;
    }

    fn end_syncer(&mut self) -> Result<()> {
        let ended = self.syncer.take().map_or(Ok(()), Syncer::end);
        ended.map_err(|e| Error::io("sync", &self.target, e))
    }

    fn with_file<T>(&mut self, action: &str, f: impl FnOnce(&mut File) -> io::Result<T>) -> Result<T> {
        let file =
            self.file.as_mut().ok_or_else(|| Error::Internal("a committed file was written to".into()))?;
        f(file).map_err(|e| Error::io(action, &self.target, e))
    }
}

impl WriteFile for AtomicFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let lent = self.lent.load(Ordering::Relaxed);
        self.with_file("write", |file| {
            if lent {
                file.seek(SeekFrom::End(0))?;
            }
            file.write_all(bytes)
        })?;
        self.unsynced += bytes.len() as u64;
        if self.unsynced >= SYNC_STEP {
            self.unsynced = 0;
            if self.syncer.is_none() {
                self.syncer = self.file.as_ref().and_then(Syncer::of);
            }
            if let Some(syncer) = &self.syncer {
                syncer.request();
            }
        }
        Ok(())
    }

    fn overwrite(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.with_file("write", |file| {
            file.seek(SeekFrom::Start(offset))?;
            file.write_all(bytes)?;
            file.seek(SeekFrom::End(0)).map(drop)
        })
    }

    fn written(&self) -> Result<Arc<dyn ReadAt>> {
        let Some(file) = &self.file else {
            return Err(Error::Internal("a committed file was read".into()));
        };
        self.lent.store(true, Ordering::Relaxed);
        // The same open file: on some systems the lock keeps out everybody who opens it anew.
        let again = file.try_clone().and_then(|file| Ok((file.metadata()?.len(), file)));
        let (len, file) = again.map_err(|e| Error::io("read", &self.target, e))?;
        Ok(Arc::new(FileSource { file, path: self.target.clone(), offset: 0, len, whole: true }))
    }

    fn commit(mut self: Box<Self>) -> Result<()> {
        self.end_syncer()?;
        self.with_file("sync", |file| file.sync_all())?;
        // Open and locked until it has its name: another writer of the target removes what nobody has locked.
        let first = os::replace(&self.temporary, &self.target);
        self.close();
        // Some file systems rename closed files only.
        let replaced = first.or_else(|_| os::replace(&self.temporary, &self.target));
        replaced.map_err(|e| Error::io("replace", &self.target, e))?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        self.close();
        // After a commit the temporary name is free, and may be another process's by now.
        if !self.renamed {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault<T>(error: impl std::fmt::Display) -> T {
        panic!("{error}")
    }

    // On Windows a file that cannot be renamed open is closed first, and is nobody's for that moment: there a writer may be refused.
    #[cfg(unix)]
    #[test]
    fn writers_of_one_target_do_not_disturb_each_other() {
        let dir = tempfile::tempdir().unwrap_or_else(fault);
        let target = dir.path().join("m.cgraph");
        thread::scope(|scope| {
            for number in 0..4u8 {
                let target = &target;
                scope.spawn(move || {
                    for _ in 0..50 {
                        let mut file = Box::new(AtomicFile::create(target).unwrap_or_else(fault));
                        file.append(&[number; 100]).unwrap_or_else(fault);
                        file.commit().unwrap_or_else(fault);
                    }
                });
            }
        });
        let found = fs::read(&target).unwrap_or_else(fault);
        assert!(found.len() == 100 && found.iter().all(|byte| *byte == found[0]), "{found:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap_or_else(fault).count(), 1);
    }

    #[test]
    fn a_temporary_file_of_another_process_is_left_alone() {
        let dir = tempfile::tempdir().unwrap_or_else(fault);
        let target = dir.path().join("m.cgraph");
        let first = AtomicFile::create(&target).unwrap_or_else(fault);
        // Another container's process of the same id has taken the names that come next.
        let next = TEMPORARIES.load(Ordering::Relaxed);
        let foreign: Vec<(PathBuf, File)> = (next..next + 64)
            .map(|serial| {
                let path = dir.path().join(format!(".m.cgraph.{}-{serial}.tmp", std::process::id()));
                let mut file = File::create(&path).unwrap_or_else(fault);
                file.write_all(b"theirs").and_then(|()| Ok(file.try_lock()?)).unwrap_or_else(fault);
                (path, file)
            })
            .collect();
        let mut second = Box::new(AtomicFile::create(&target).unwrap_or_else(fault));
        second.append(b"ours").unwrap_or_else(fault);
        assert_ne!(first.temporary, second.temporary);
        second.commit().unwrap_or_else(fault);
        drop(first);
        assert_eq!(fs::read(&target).ok(), Some(b"ours".to_vec()));
        assert!(foreign.iter().all(|(path, _)| fs::read(path).is_ok_and(|bytes| bytes == b"theirs")));
    }

    #[test]
    fn what_is_written_can_be_read_before_it_has_its_name() {
        let dir = tempfile::tempdir().unwrap_or_else(fault);
        let target = dir.path().join("m.cgraph");
        let mut file = Box::new(AtomicFile::create(&target).unwrap_or_else(fault));
        file.append(b"ours").unwrap_or_else(fault);
        file.overwrite(0, b"y").unwrap_or_else(fault);
        let mut found = [0; 4];
        let source = file.written().unwrap_or_else(fault);
        source.read_exact_at(0, &mut found).unwrap_or_else(fault);
        assert_eq!((&found, source.len(), source.path()), (b"yurs", 4, Some(target.as_path())));
        assert!(!target.exists());
        drop(source);
        file.append(b"!").unwrap_or_else(fault);
        file.commit().unwrap_or_else(fault);
        assert_eq!(fs::read(&target).ok(), Some(b"yurs!".to_vec()));
    }

    #[test]
    fn a_file_that_has_become_shorter_says_so() {
        let dir = tempfile::tempdir().unwrap_or_else(fault);
        let path = dir.path().join("m.gguf");
        fs::write(&path, [7; 100]).unwrap_or_else(fault);
        let source = FileSource::open(&path).unwrap_or_else(fault);
        let told = |from: u64| {
            let read = source.read_exact_at(from, &mut [0; 20]);
            read.map_or_else(|e| e.to_string(), |()| String::new())
        };
        assert_eq!(told(80), "");
        let early = |has: u32, needs: u32| {
            format!("the file ends early: it has {has} bytes where {needs} are needed; copy it again")
        };
        assert_eq!(told(90), early(100, 110));
        let cut = OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(85));
        cut.unwrap_or_else(fault);
        assert_eq!(told(80), early(85, 100));
    }

    #[test]
    fn bytes_that_were_lost_on_the_way_are_not_committed() {
        let dir = tempfile::tempdir().unwrap_or_else(fault);
        let target = dir.path().join("m.cgraph");
        let mut file = Box::new(AtomicFile::create(&target).unwrap_or_else(fault));
        // As the system does it: the first sync after the loss says so, every later one succeeds.
        let mut outcomes = [Ok(()), Err(io::Error::other("lost"))].into_iter();
        file.syncer = Syncer::start(move || outcomes.next().unwrap_or(Ok(())));
        file.append(b"ours").unwrap_or_else(fault);
        let syncer = file.syncer.as_ref().unwrap_or_else(|| fault("no thread"));
        for _ in 0..3 {
            // Unlike `request`, waits until the one before is taken up.
            let _ = syncer.requests.send(());
        }
        let error = file.commit().map_or_else(|e| e.to_string(), |()| String::new());
        assert_eq!(error, format!("cannot sync {}: lost", target.display()));
        assert_eq!(fs::read_dir(dir.path()).unwrap_or_else(fault).count(), 0, "something was left behind");
    }
}

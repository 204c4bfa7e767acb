//! Reading parts of a file into memory of our own, past the page cache where the system can.
//!
//! By a handle of its own, in whole blocks; where the system or the file system has no such reads, buffered ones whose pages
//! are given back at once. Sources that are no file are asked.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::mapped::MappedFile;
use super::os::{self, BLOCK, DirectHandle, HUGE_PAGES, Kept, Pages};
use crate::container::disk::ReadAt;
use crate::error::{Error, Result};
use crate::pool::{CancelToken, unless_cancelled};

/// Bytes of a huge page. Read into one, two megabytes are one request of the disk instead of several, and the system has a
/// five-hundredth of the pages to look after (docs/memory.md).
const HUGE: u64 = 2 << 20;

/// Page-aligned memory that a read fills; whole huge pages where its size is a multiple of theirs and the system has
/// some.
#[derive(Debug)]
pub(crate) struct Buffer {
    /// Goes first, before the memory.
    kept: Option<Kept>,
    map: Arc<Pages>,
    /// Its part of the map, which no other buffer has a byte of.
    range: Range<usize>,
    /// Where its part goes back to, if it is one of several of a page.
    home: Option<Weak<Mutex<Vec<Part>>>>,
}

/// A part of a map that no buffer has.
type Part = (Arc<Pages>, Range<usize>);

impl Buffer {
    /// Bytes of the longest read, or two together, that a single huge page has room for.
    pub const ONE_PAGE: u64 = HUGE - 4 * BLOCK;

    /// Room for reads of up to `len` bytes.
    ///
    /// # Errors
    /// [`Error::Limit`] where the system has no memory for it.
    pub fn new(len: u64) -> Result<Self> {
        Self::of_size(Self::size_for(len))
    }

    /// `size` bytes of memory.
    ///
    /// # Errors
    /// [`Error::Limit`] where the system has no memory for them.
    pub fn of_size(size: u64) -> Result<Self> {
        let refused = || Error::Limit(format!("the system refuses {size} bytes to read weights into"));
        // A huge page begins where a multiple of its size does. What lies before and behind is never touched, and no memory.
        let is_huge = HUGE_PAGES && size > 0 && size.is_multiple_of(HUGE);
        let beside = if is_huge { HUGE } else { 0 };
        let sizes = [size, size.saturating_add(beside)].map(usize::try_from);
        let [Ok(size), Ok(reserved)] = sizes else { return Err(refused()) };
        let map = Pages::new(reserved).map_err(|_| refused())?;
        let start = if is_huge { map.as_ptr().align_offset(HUGE as usize) } else { 0 };
        let range = start..start.saturating_add(size);
        if range.end > reserved {
            return Err(refused());
        }
        if is_huge {
            map.be_huge(&range);
        }
        Ok(Self { kept: None, map: Arc::new(map), range, home: None })
    }

    /// Has the system keep the memory from being taken for others, where it does that: for what stays.
    pub fn keep(mut self) -> Self {
        self.kept = Kept::new(&self.map, self.range.clone());
        self
    }

    /// How many buffers of `size` bytes share a huge page; 1 where they would leave a part of it over.
    pub fn in_one_page(size: u64) -> usize {
        let several = HUGE.checked_div(size).unwrap_or(0).max(1);
        if several > 1 && HUGE - several * size < several * BLOCK { several as usize } else { 1 }
    }

    /// Bytes of a buffer for reads of up to `len` bytes: they begin and end anywhere in a block.
    pub fn size_for(len: u64) -> u64 {
        len.saturating_add(2 * BLOCK - 1) / BLOCK * BLOCK
    }

    /// As [`size_for`](Self::size_for), rounded up as [`rounded`](Self::rounded) says.
    pub fn ring_size_for(len: u64) -> u64 {
        Self::rounded(Self::size_for(len))
    }

    /// `size` rounded up to huge pages, or to a half, a quarter... of one, where little is lost with that: for what is read
    /// into again and again.
    pub fn rounded(size: u64) -> u64 {
        let huge = match HUGE.checked_div(size).unwrap_or(0) {
            0 => size.next_multiple_of(HUGE),
            several => HUGE >> several.ilog2(),
        };
        if size >= huge / 4 * 3 { huge } else { size }
    }

    /// The longest read of at most `len` bytes, or two together, for which [`rounded`](Self::rounded) loses nothing.
    pub fn fitting(len: u64) -> u64 {
        let several = HUGE.div_ceil(len.saturating_add(4 * BLOCK).max(1)).next_power_of_two();
        (HUGE / several).saturating_sub(4 * BLOCK).max(BLOCK)
    }

    /// Bytes of memory.
    pub fn size(&self) -> u64 {
        self.range.len() as u64
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the range was held against the map when it was made; the map is readable, lives as long as the buffer, and
        // nobody but the buffer's owner writes to this part of it.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(self.range.start), self.range.len()) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; the map is writable, and no other buffer has these bytes.
        unsafe {
            std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(self.range.start), self.range.len())
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(home) = self.home.take().and_then(|home| home.upgrade()) {
            let part = (Arc::clone(&self.map), self.range.clone());
            home.lock().unwrap_or_else(PoisonError::into_inner).push(part);
        }
    }
}

/// Where the buffers of a ring come from: several of one huge page where they are shorter.
#[derive(Debug, Default)]
pub(super) struct Supply {
    /// Parts of pages that no buffer has. One that was dropped comes back: a page that is partly used would else stay, and a
    /// new one be taken, in no account.
    parts: Arc<Mutex<Vec<Part>>>,
}

impl Supply {
    /// A buffer of `size` bytes, for a ring that has `count` of them. Only where these fill whole huge pages they share any:
    /// memory that nothing is read into would be in no account.
    ///
    /// # Errors
    /// [`Error::Limit`] where the system has no memory for it.
    pub fn take(&self, size: u64, count: usize) -> Result<Buffer> {
        let together = Buffer::in_one_page(size);
        if together < 2 || !count.is_multiple_of(together) {
            return Buffer::of_size(size);
        }
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if parts.is_empty() {
            let page = Buffer::of_size(HUGE)?;
            let part = |number: usize| {
                let start = page.range.start + number * size as usize;
                (Arc::clone(&page.map), start..start + size as usize)
            };
            parts.extend((0..together).map(part));
        }
        let (map, range) = parts.pop().ok_or_else(|| Error::Internal("a page has no parts".into()))?;
        Ok(Buffer { kept: None, map, range, home: Some(Arc::downgrade(&self.parts)) })
    }

    /// Gives the memory that no buffer has to the system.
    pub fn clear(&self) {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Bytes that were read: of one place, or of two planes.
#[derive(Debug)]
pub(crate) struct Loaded {
    buffer: Buffer,
    ranges: [Range<usize>; 2],
}

impl Loaded {
    /// The bytes of the first place that was asked for.
    pub fn bytes(&self) -> &[u8] {
        self.plane(0)
    }

    /// The bytes of place `number` of those that were asked for; none where it was not.
    pub fn plane(&self, number: usize) -> &[u8] {
        // The ranges were made with the buffer.
        let range = self.ranges.get(number).cloned();
        range.and_then(|range| self.buffer.bytes().get(range)).unwrap_or_default()
    }

    /// Bytes of memory.
    pub fn size(&self) -> u64 {
        self.buffer.size()
    }

    /// The memory, to be filled anew.
    pub fn into_buffer(self) -> Buffer {
        self.buffer
    }
}

/// A file that is read past the page cache.
#[derive(Debug)]
pub(super) struct DirectFile {
    source: Arc<dyn ReadAt>,
    /// Reads whole blocks past the page cache.
    direct: Option<DirectHandle>,
    /// The same file, which may be mapped.
    map: Option<MappedFile>,
}

impl DirectFile {
    /// Of `source`, which is asked for bytes where the system has no better way.
    pub fn new(source: Arc<dyn ReadAt>) -> Self {
        let direct = source.mappable().and_then(|(file, _)| DirectHandle::of(file));
        Self { source, direct, map: None }
    }

    /// Of the file of a map.
    pub fn of(map: &MappedFile) -> Self {
        Self { map: Some(map.clone()), ..Self::new(map.shared_source()) }
    }

    /// Reads `range` of the source into `buffer`, which has room for it. Also says how many bytes the disk was asked
    /// for.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn read(&self, range: &Range<u64>, buffer: Buffer) -> Result<(Loaded, u64)> {
        self.read_planes([Some(range), None], buffer)
    }

    /// As [`read`](Self::read), of two places at once.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_planes(&self, places: [Option<&Range<u64>>; 2], mut buffer: Buffer) -> Result<(Loaded, u64)> {
        let (mut ranges, mut total, mut at) = ([0..0, 0..0], 0, 0);
        for (place, range) in places.into_iter().zip(&mut ranges) {
            let Some(place) = place else { continue };
            let len = place.end.saturating_sub(place.start);
            let room = buffer.bytes_mut().get_mut(at..).unwrap_or_default();
            let (read, asked) = self.read_into(place, room).map_err(|e| {
                Error::io(format!("read {len} bytes at {} of", place.start), self.source.name(), e)
            })?;
            *range = at + read.start..at + read.end;
            at += Buffer::size_for(len) as usize;
            total += asked;
        }
        Ok((Loaded { buffer, ranges }, total))
    }

    fn read_into(&self, range: &Range<u64>, buffer: &mut [u8]) -> io::Result<(Range<usize>, u64)> {
        if let (Some(direct), Some((_, offset))) = (&self.direct, self.source.mappable()) {
            let file = range.start.saturating_add(offset)..range.end.saturating_add(offset);
            let is_mapped = self.map.as_ref().is_some_and(MappedFile::is_mapped);
            if let Some(read) = read_blocks(direct, is_mapped, &file, buffer)? {
                return Ok(read);
            }
        }
        let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let part = buffer.get_mut(..len).ok_or_else(|| io::Error::other("the buffer is too short"))?;
        self.source.read_exact_at(range.start, part)?;
        if let Some((file, offset)) = self.source.mappable() {
            os::uncache(file, range.start.saturating_add(offset), len);
        }
        Ok((0..len, len as u64))
    }
}

/// Reads in flight and the time that a measurement of the disk takes.
const MEASURED: (usize, Duration) = (4, Duration::from_millis(250));

/// Bytes a second of reads of `length` bytes spread over the first `len` bytes of `file`.
///
/// # Errors
/// Those of reading; [`Error::Cancelled`] after the reads that are under way.
pub(super) fn rate(file: &DirectFile, len: u64, length: u64, cancel: Option<&CancelToken>) -> Result<f64> {
    let (readers, most) = MEASURED;
    let supply = Supply::default();
    let length = length.min(len);
    let (next, begun) = (AtomicU64::new(0), Instant::now());
    let read_on = || -> Result<()> {
        let size = Buffer::ring_size_for(length);
        let mut buffer = Some(supply.take(size, Buffer::in_one_page(size))?);
        while let Some(free) = buffer.take().filter(|_| begun.elapsed() < most) {
            unless_cancelled(cancel)?;
            // Not again where it was read before: a disk has caches of its own.
            let start = next.fetch_add(1, Ordering::Relaxed) * length;
            if start + length > len {
                next.fetch_sub(1, Ordering::Relaxed);
                break;
            }
            buffer = Some(file.read(&(start..start + length), free)?.0.into_buffer());
        }
        Ok(())
    };
    thread::scope(|scope| {
        let others: Vec<_> =
            (1..readers).filter_map(|_| thread::Builder::new().spawn_scoped(scope, read_on).ok()).collect();
        let own = read_on();
        let all = others.into_iter().map(|other| {
            other.join().unwrap_or_else(|_| Err(Error::Internal("a reading thread panicked".into())))
        });
        all.fold(own, Result::and)
    })?;
    let bytes = next.load(Ordering::Relaxed) * length;
    Ok(bytes as f64 / begun.elapsed().as_secs_f64().max(1e-9))
}

/// Reads the blocks that hold `range` and says where it lies in `buffer`; `None` where the file system takes no such
/// read after all.
fn read_blocks(
    file: &DirectHandle,
    is_mapped: bool,
    range: &Range<u64>,
    buffer: &mut [u8],
) -> io::Result<Option<(Range<usize>, u64)>> {
    let first = range.start / BLOCK * BLOCK;
    let skip = (range.start - first) as usize;
    let short = || io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends early; copy it again");
    let needed = usize::try_from(range.end.saturating_sub(first)).map_err(|_| short())?;
    let whole = needed.next_multiple_of(BLOCK as usize);
    let blocks = buffer.get_mut(..whole).ok_or_else(|| io::Error::other("the buffer is too short"))?;
    let mut done = 0;
    while done < needed {
        match file.read_at(&mut blocks[done..], first + done as u64, is_mapped) {
            Ok(0) => return Err(short()),
            // Only the file's end may cut a block.
            Ok(n) if done + n < needed && !n.is_multiple_of(BLOCK as usize) => return Err(short()),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if os::is_refusal(&e) && done == 0 => return Ok(None),
            Err(e) => return Err(e),
        }
    }
    Ok(Some((skip..needed, whole as u64)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]

    use super::*;
    use crate::container::disk::{FileSource, MemorySource};

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
    }

    fn check(file: &DirectFile, content: &[u8]) {
        let len = content.len() as u64;
        for range in [0..len, 0..1, 4095..4097, 4096..8192, len - 1..len, 5000..5000, 123..len - 77] {
            let buffer = Buffer::new(range.end - range.start).expect("memory");
            let (loaded, asked) = file.read(&range, buffer).expect("a good range");
            assert_eq!(loaded.bytes(), &content[range.start as usize..range.end as usize], "{range:?}");
            assert!(asked >= range.end - range.start && asked <= loaded.size(), "{range:?}: {asked}");
        }
        let beyond = file.read(&(len - 1..len + 1), Buffer::new(2).expect("memory"));
        assert!(beyond.is_err_and(|e| e.to_string().contains("ends early")));
    }

    #[test]
    fn every_way_of_reading_gives_the_same_bytes() {
        let content = bytes(100_001);
        let folder = std::env::temp_dir().join(format!("capsulegraph-direct-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("part.bin");
        std::fs::write(&path, &content).expect("a file");
        check(&DirectFile::new(Arc::new(FileSource::open(&path).expect("there"))), &content);
        // A part that begins on no block.
        let part = FileSource::open_part(&path, 100, 0).expect("there");
        check(&DirectFile::new(Arc::new(part)), &content[100..]);
        let mut refused = DirectFile::new(Arc::new(FileSource::open(&path).expect("there")));
        refused.direct = None;
        check(&refused, &content);
        drop(refused);
        check(&DirectFile::new(Arc::new(MemorySource::new("memory", content.clone()))), &content);
        std::fs::remove_dir_all(&folder).expect("ours");
    }

    #[test]
    fn buffers_of_huge_pages_begin_where_those_do_and_are_taken_where_little_is_lost() {
        for pages in [1, 3] {
            let mut buffer = Buffer::of_size(pages * HUGE).expect("memory");
            assert_eq!((buffer.size(), buffer.bytes().len() as u64), (pages * HUGE, pages * HUGE));
            if HUGE_PAGES {
                assert_eq!(buffer.bytes().as_ptr().align_offset(HUGE as usize), 0);
            }
            buffer.bytes_mut().fill(7);
        }
        assert_eq!(Buffer::ring_size_for(Buffer::ONE_PAGE), HUGE);
        assert_eq!(Buffer::ring_size_for(HUGE * 3 / 4), HUGE);
        assert_eq!(Buffer::ring_size_for(HUGE / 8 - 2 * BLOCK), HUGE / 8);
        assert_eq!(Buffer::ring_size_for(HUGE / 8), Buffer::size_for(HUGE / 8));
        assert_eq!(Buffer::ring_size_for(HUGE + 1), Buffer::size_for(HUGE + 1));
    }

    #[test]
    fn a_ring_of_short_buffers_has_whole_huge_pages_and_no_byte_twice() {
        for len in [HUGE, HUGE - 1, 1_000_000, 600_000, 200_000, 5000, 1] {
            let longest = Buffer::fitting(len);
            assert_eq!(Buffer::fitting(longest), longest);
            assert!(longest <= len.max(BLOCK) && longest <= Buffer::ONE_PAGE, "{len}: {longest}");
            // Two planes, each of which begins and ends anywhere in a block.
            let size = Buffer::rounded(longest + 4 * BLOCK);
            assert!(longest == BLOCK || size - longest < 5 * BLOCK, "{len}: {longest} in {size}");
        }
        assert_eq!(Buffer::fitting(Buffer::ONE_PAGE), Buffer::ONE_PAGE);
        assert_eq!([740_000, HUGE / 2 + 1, HUGE, 0].map(Buffer::in_one_page), [1; 4]);
        let size = Buffer::rounded(HUGE / 4 - BLOCK);
        assert_eq!((size, Buffer::in_one_page(size)), (HUGE / 4, 4));
        let supply = Supply::default();
        let mut ring: Vec<Buffer> = (0..8).map(|_| supply.take(size, 8).expect("memory")).collect();
        for (number, buffer) in (1..).zip(&mut ring) {
            buffer.bytes_mut().fill(number);
        }
        for (number, buffer) in (1..).zip(&ring) {
            assert!(buffer.size() == size && buffer.bytes().iter().all(|byte| *byte == number), "{number}");
        }
        for four in ring.chunks(4) {
            assert!(four.iter().all(|buffer| Arc::ptr_eq(&buffer.map, &four[0].map)));
        }
        assert!(!Arc::ptr_eq(&ring[0].map, &ring[4].map));
        // One that is dropped is taken again; where they would leave a part of a page over, and after what was left was
        // given up, memory is new.
        let place = ring.pop().map(|buffer| buffer.bytes().as_ptr());
        assert_eq!(Some(supply.take(size, 8).expect("memory").bytes().as_ptr()), place);
        assert_eq!(Arc::strong_count(&supply.take(size, 6).expect("memory").map), 1);
        supply.clear();
        let new = supply.take(size, 8).expect("memory");
        assert!(ring.iter().all(|old| !Arc::ptr_eq(&old.map, &new.map)));
    }

    #[test]
    fn a_buffer_too_short_is_an_error() {
        let file = DirectFile::new(Arc::new(MemorySource::new("memory", bytes(300_000))));
        assert!(file.read(&(0..200_000), Buffer::new(10).expect("memory")).is_err());
    }
}

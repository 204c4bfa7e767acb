//! Memory and files on Linux: `madvise`, `O_DIRECT`, `posix_fadvise`, /proc.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use memmap2::{Advice, Mmap, MmapMut, MmapRaw, UncheckedAdvice};

use super::ProcessMemory;

/// What begin, length and memory of a direct read are multiples of: every disk's block divides it.
pub(in super::super) const BLOCK: u64 = 4096;
/// Whether there are huge pages.
pub(in super::super) const HUGE_PAGES: bool = true;
/// Whether a file's map stands in the way of reads past the cache.
pub(in super::super) const MAP_HINDERS: bool = false;

/// Bytes of one request to read ahead. Linux silently leaves out what exceeds its window of read-ahead or the
/// device's best length of a transfer, whichever is more: with nothing set that is 128 KiB.
const REQUEST: usize = 128 << 10;

/// Memory of its own, page by page; zeros at first.
#[derive(Debug)]
pub(in super::super) struct Pages(MmapRaw);

impl Pages {
    pub fn new(len: usize) -> io::Result<Self> {
        MmapMut::map_anon(len).map(|map| Self(map.into()))
    }

    /// Asks for huge pages, which `range` is a multiple of. Refused, it has pages of the usual size.
    pub fn be_huge(&self, range: &Range<usize>) {
        let _ = self.0.advise_range(Advice::HugePage, range.start, range.len());
    }

    pub fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }

    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.0.as_mut_ptr()
    }
}

/// Memory that the system does not take for others as long as this lives. Linux takes it only where it has no other choice,
/// and allows few bytes to be locked.
#[derive(Debug)]
pub(in super::super) enum Kept {}

impl Kept {
    pub fn new(_: &Pages, _: Range<usize>) -> Option<Self> {
        None
    }
}

/// A handle that reads whole blocks of a file past the page cache.
#[derive(Debug)]
pub(in super::super) struct DirectHandle(File);

impl DirectHandle {
    /// Another handle of an open file, whatever its name is by now; `None` where its file system has no such reads.
    pub fn of(file: &File) -> Option<Self> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).ok().map(Self)
    }

    /// Reads whole blocks at `offset`; fewer bytes at the file's end.
    pub fn read_at(&self, buf: &mut [u8], offset: u64, _is_mapped: bool) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
}

/// Whether a file system that gave a handle takes no direct reads after all.
pub(in super::super) fn is_refusal(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}

/// Asks for `range` of a map, which is about to be read, and does not wait for it.
pub(in super::super) fn will_need(map: &Mmap, range: Range<usize>) {
    for start in range.clone().step_by(REQUEST) {
        let len = REQUEST.min(range.end - start);
        let _ = map.advise_range(Advice::WillNeed, start, len);
    }
}

/// Takes the pages of `range`, which lies in the map, from this process; they may stay in the system's cache. Whether it
/// did.
pub(in super::super) fn let_go(map: &Mmap, range: Range<usize>) -> bool {
    // SAFETY: the map is a shared and read-only one of a file: no byte of it is anywhere else than in the file, and pages that
    // are dropped come from there again. The range lies in it.
    unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) }.is_ok()
}

/// Lets the system drop pages of a file from its cache. Only a hint.
pub(in super::super) fn uncache(file: &File, offset: u64, len: usize) {
    if let (Ok(offset), Ok(len)) = (libc::off_t::try_from(offset), libc::off_t::try_from(len)) {
        // SAFETY: the file is open; the call touches no memory of ours.
        let _ = unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, len, libc::POSIX_FADV_DONTNEED) };
    }
}

/// Whether a byte of a file is known to be in the system's cache. Not by `mincore`: for a file that the process neither owns
/// nor may write it answers that all is in memory.
pub(in super::super) fn is_cached(file: &File, offset: u64) -> bool {
    let Ok(offset) = libc::off_t::try_from(offset) else { return false };
    let mut byte = 0u8;
    let room = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: the file is open, and the one byte written is `byte`, which outlives the call.
    unsafe { libc::preadv2(file.as_raw_fd(), &raw const room, 1, offset, libc::RWF_NOWAIT) == 1 }
}

/// What the system counts of this process.
pub(crate) fn process_memory() -> ProcessMemory {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ProcessMemory { peak_resident: field(&text, "VmHWM:"), anonymous: field(&text, "RssAnon:") }
}

/// A line such as `VmHWM:     1234 kB`, in bytes.
fn field(status: &str, name: &str) -> Option<u64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Anonymous memory of the process in bytes, at less cost than all that the system counts; 0 where it does not tell.
pub(crate) fn anonymous_bytes() -> u64 {
    // Pages: whole size, resident, of these shared with files or others.
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut fields = text.split_whitespace().skip(1).map(|field| field.parse::<u64>().unwrap_or(0));
    let (resident, shared) = (fields.next().unwrap_or(0), fields.next().unwrap_or(0));
    resident.saturating_sub(shared).saturating_mul(page_bytes())
}

/// How much of `len` bytes at `start`, which are in use, is in memory: pages that nobody has written yet are not.
pub(crate) fn touched_bytes(start: *const u8, len: usize) -> u64 {
    let page = page_bytes() as usize;
    let begin = start.addr() & !(page - 1);
    let pages = (start.addr() + len - begin).div_ceil(page);
    let mut present = vec![0u8; pages];
    // SAFETY: it looks at the tables of pages alone, and writes one byte for each.
    let told = unsafe { libc::mincore(begin as *mut libc::c_void, pages * page, present.as_mut_ptr()) };
    let touched = present.iter().filter(|page| **page & 1 == 1).count() * page;
    if told == 0 { touched.min(len) as u64 } else { len as u64 }
}

fn page_bytes() -> u64 {
    // SAFETY: asks for a number.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096)
}

/// Has the C library give free memory back to the system: copies of weights that went are large, and it keeps them for the
/// next ones otherwise.
pub(crate) fn return_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn fields_are_read_in_bytes() {
        let text = "Name:\tx\nVmHWM:\t    2048 kB\nRssAnon:\t 3 kB\n";
        assert_eq!(field(text, "VmHWM:"), Some(2048 * 1024));
        assert_eq!(field(text, "RssAnon:"), Some(3072));
        assert_eq!(field(text, "RssFile:"), None);
        assert_eq!(field("VmHWM: much", "VmHWM:"), None);
    }
}

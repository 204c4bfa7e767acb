//! Memory and files on a Unix of which no more is known: plain reads, and what the process holds is not told.

use std::fs::File;
use std::io;
use std::ops::Range;

use memmap2::{Advice, Mmap, MmapMut, MmapRaw};

use super::ProcessMemory;

/// What begin, length and memory of a direct read are multiples of: every disk's block divides it.
pub(in super::super) const BLOCK: u64 = 4096;
/// Whether there are huge pages.
pub(in super::super) const HUGE_PAGES: bool = false;
/// Whether a file's map stands in the way of reads past the cache.
pub(in super::super) const MAP_HINDERS: bool = false;

/// Bytes of one request to read ahead.
const REQUEST: usize = 128 << 10;

/// Memory of its own, page by page; zeros at first.
#[derive(Debug)]
pub(in super::super) struct Pages(MmapRaw);

impl Pages {
    pub fn new(len: usize) -> io::Result<Self> {
        MmapMut::map_anon(len).map(|map| Self(map.into()))
    }

    pub fn be_huge(&self, _: &Range<usize>) {}

    pub fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }

    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.0.as_mut_ptr()
    }
}

/// Memory that the system does not take for others as long as this lives: there is none.
#[derive(Debug)]
pub(in super::super) enum Kept {}

impl Kept {
    pub fn new(_: &Pages, _: Range<usize>) -> Option<Self> {
        None
    }
}

/// A handle that reads whole blocks of a file past the page cache: there is none.
#[derive(Debug)]
pub(in super::super) enum DirectHandle {}

impl DirectHandle {
    pub fn of(_: &File) -> Option<Self> {
        None
    }

    pub fn read_at(&self, _: &mut [u8], _: u64, _: bool) -> io::Result<usize> {
        match *self {}
    }
}

/// Whether a file system that gave a handle takes no direct reads after all.
pub(in super::super) fn is_refusal(_: &io::Error) -> bool {
    false
}

/// Asks for `range` of a map, which is about to be read, and does not wait for it.
pub(in super::super) fn will_need(map: &Mmap, range: Range<usize>) {
    for start in range.clone().step_by(REQUEST) {
        let _ = map.advise_range(Advice::WillNeed, start, REQUEST.min(range.end - start));
    }
}

/// Takes the pages of a range from this process. Whether it did.
pub(in super::super) fn let_go(_: &Mmap, _: Range<usize>) -> bool {
    false
}

/// Lets the system drop pages of a file from its cache.
pub(in super::super) fn uncache(_: &File, _: u64, _: usize) {}

/// Whether a byte of a file is known to be in the system's cache.
pub(in super::super) fn is_cached(_: &File, _: u64) -> bool {
    false
}

/// What the system counts of this process.
pub(crate) fn process_memory() -> ProcessMemory {
    ProcessMemory::default()
}

/// Anonymous memory of the process in bytes; 0 where the system does not tell.
pub(crate) fn anonymous_bytes() -> u64 {
    0
}

/// How much of `len` bytes at `start`, which are in use, is in memory: all, as far as is known here.
pub(crate) fn touched_bytes(_start: *const u8, len: usize) -> u64 {
    len as u64
}

/// Has the C library give free memory back to the system.
pub(crate) fn return_free_memory() {}

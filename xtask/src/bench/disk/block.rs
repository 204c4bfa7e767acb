//! Memory that files are read into and written from past the page cache.

use std::io;

use memmap2::{Advice, MmapMut};

use crate::bench::reads::Pages;

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Memory that begins with a page, huge or not. Its own mapping: what an allocator hands out again keeps its pages.
pub struct Block {
    memory: MmapMut,
    start: usize,
    size: usize,
}

impl Block {
    pub fn new(size: usize, pages: Pages) -> io::Result<Self> {
        let memory = MmapMut::map_anon(size.next_multiple_of(HUGE) + HUGE)?;
        // Where the system refuses, pages are as it likes.
        let _ = memory.advise(match pages {
            Pages::Small => Advice::NoHugePage,
            Pages::Huge => Advice::HugePage,
        });
        let mut block = Self { start: memory.as_ptr().align_offset(HUGE), memory, size };
        // Pages that nothing was written to are all one page; and some disks keep bytes that are all alike without
        // writing them.
        block.bytes().iter_mut().enumerate().for_each(|(i, byte)| *byte = ((i * i) >> 7) as u8);
        Ok(block)
    }

    pub fn len(&self) -> usize {
        self.size
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.size]
    }
}

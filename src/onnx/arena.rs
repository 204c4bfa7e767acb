//! The memory that the runtime computes in: one allocator for all its sessions, so that each does not keep activations of
//! its own, and so that what they take is known.
//!
//! Runs repeat: large blocks that a run gave back are kept for the next, by their length. What is kept and in use together is
//! never more than what was in use at once at most.

use std::cell::UnsafeCell;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ort::sys;

/// Bytes before a block that hold its length; blocks are aligned as the runtime's own are.
const HEADER: usize = 64;
/// Blocks of fewer bytes are left to the C library.
const KEPT: usize = 64 << 10;
/// Lengths of blocks that are kept are multiples of this.
const PAGE: usize = 4 << 10;
/// The version of the allocator's table: from 18 on weights are asked for by a function of their own.
const VERSION: u32 = 18;

/// The allocator, and after it what it needs: the runtime gives back the address of the first field.
#[repr(C)]
pub(super) struct Arena {
    table: UnsafeCell<sys::OrtAllocator>,
    info: *const sys::OrtMemoryInfo,
    /// The runtime's own allocator, which raises its exception where there is no memory.
    source: *mut sys::OrtAllocator,
    kept: Mutex<Kept>,
    in_use: AtomicU64,
    most: AtomicU64,
}

// SAFETY: the pointers live as long as the process and may be used from any thread by the runtime's contract; the table is not
// changed after it was made; all else is atomic or locked.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

/// Free blocks by length, and their bytes.
#[derive(Default)]
struct Kept {
    blocks: BTreeMap<usize, Vec<Block>>,
    bytes: u64,
    /// Bytes in use and kept, at most.
    bound: u64,
}

/// A block that nobody uses.
struct Block(*mut u8);

// SAFETY: nobody but who takes it out of the list uses its memory.
unsafe impl Send for Block {}

impl Arena {
    /// An allocator in memory that `info` describes, which takes blocks from `source`. It is never freed.
    pub fn leaked(info: *const sys::OrtMemoryInfo, source: *mut sys::OrtAllocator) -> &'static Self {
        // SAFETY: the functions differ from those of the table only in that exceptions of the runtime, which calls them,
        // may pass through them.
        let table = unsafe {
            let mut table = sys::OrtAllocator::default();
            table.version = VERSION;
            table.Alloc = Some(std::mem::transmute::<Alloc, PlainAlloc>(alloc));
            table.Free = Some(free);
            table.Info = Some(info_of);
            table.Reserve = Some(std::mem::transmute::<Reserve, PlainReserve>(reserve));
            table
        };
        Box::leak(Box::new(Self {
            table: UnsafeCell::new(table),
            info,
            source,
            kept: Mutex::default(),
            in_use: AtomicU64::new(0),
            most: AtomicU64::new(0),
        }))
    }

    /// What the runtime is given.
    pub fn as_ptr(&self) -> *mut sys::OrtAllocator {
        self.table.get()
    }

    /// Bytes of activations in use; from now on [`most`](Self::most) counts anew.
    pub fn mark(&self) -> u64 {
        let now = self.in_use.load(Ordering::Relaxed);
        self.most.store(now, Ordering::Relaxed);
        now
    }

    /// Bytes of activations in use, at most since the last [`mark`](Self::mark).
    pub fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    /// Gives all blocks back that nobody uses.
    pub fn trim(&self) {
        let mut kept = self.lock();
        kept.bound = 0;
        let blocks = std::mem::take(&mut *kept).blocks;
        drop(kept);
        blocks.into_values().flatten().for_each(|block| self.give_back(block));
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A block of `len` bytes that nobody uses, its header included.
    fn block(&self, len: usize) -> *mut u8 {
        let (found, superfluous) = self.lock().take(len, self.in_use.load(Ordering::Relaxed));
        superfluous.into_iter().for_each(|block| self.give_back(block));
        match found {
            Some(block) => block.0,
            None => self.take(len),
        }
    }

    /// A block from the source; what that raises where it has none passes through.
    fn take(&self, len: usize) -> *mut u8 {
        // SAFETY: the source lives as long as the process. Its function may raise an exception of the runtime; those that are
        // on the way hold nothing that would have to be dropped.
        unsafe {
            let Some(alloc) = (*self.source).Alloc else { return std::ptr::null_mut() };
            let alloc = std::mem::transmute::<PlainAlloc, Alloc>(alloc);
            alloc(self.source, len).cast()
        }
    }

    fn give_back(&self, block: Block) {
        // SAFETY: it came from the source.
        unsafe {
            if let Some(free) = (*self.source).Free {
                free(self.source, block.0.cast());
            }
        }
    }

    fn alloc(&self, size: usize) -> *mut c_void {
        let Some(len) = size.checked_add(HEADER) else { return self.take(usize::MAX).cast() };
        let len = if len < KEPT { Some(len) } else { len.checked_next_multiple_of(PAGE) };
        let Some(len) = len else { return self.take(usize::MAX).cast() };
        let block = if len < KEPT { self.take(len) } else { self.block(len) };
        let now = self.in_use.fetch_add(len as u64, Ordering::Relaxed) + len as u64;
        self.most.fetch_max(now, Ordering::Relaxed);
        begin(block, len, Kind::Activations)
    }

    /// Weights are counted with their session, by what of them is touched: the runtime asks for memory that it then leaves.
    fn reserve(&self, size: usize) -> *mut c_void {
        let len = size.saturating_add(HEADER);
        begin(self.take(len), len, Kind::Weights)
    }

    /// # Safety
    /// `data` is NULL or came from here, and is not used any more.
    unsafe fn free(&self, data: *mut c_void) {
        if data.is_null() {
            return;
        }
        // SAFETY: the header is before what was handed out.
        let (block, Header { len, kind }) = unsafe {
            let block = data.cast::<u8>().sub(HEADER);
            (Block(block), block.cast::<Header>().read())
        };
        if kind == Kind::Weights {
            return self.give_back(block);
        }
        self.in_use.fetch_sub(len as u64, Ordering::Relaxed);
        if len < KEPT {
            self.give_back(block);
        } else {
            self.lock().put(len, block);
        }
    }
}

impl Kept {
    /// A block of `len` bytes, where there is one; else those that must go so that a new one stays within the bound, `in_use`
    /// being in use.
    fn take(&mut self, len: usize, in_use: u64) -> (Option<Block>, Vec<Block>) {
        if let Some(block) = self.blocks.get_mut(&len).and_then(Vec::pop) {
            self.bytes -= len as u64;
            return (Some(block), Vec::new());
        }
        let wanted = in_use.saturating_add(len as u64);
        self.bound = self.bound.max(wanted);
        let mut superfluous = Vec::new();
        while self.bytes > 0 && wanted.saturating_add(self.bytes) > self.bound {
            let Some(mut longest) = self.blocks.last_entry() else { break };
            match longest.get_mut().pop() {
                Some(block) => {
                    self.bytes -= *longest.key() as u64;
                    superfluous.push(block);
                }
                None => drop(longest.remove()),
            }
        }
        (None, superfluous)
    }

    fn put(&mut self, len: usize, block: Block) {
        self.blocks.entry(len).or_default().push(block);
        self.bytes += len as u64;
    }
}

/// What a block is for.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
enum Kind {
    Activations,
    Weights,
}

/// What stands before a block's data.
#[repr(C)]
struct Header {
    len: usize,
    kind: Kind,
}

/// Writes a block's header; where its data begins.
fn begin(block: *mut u8, len: usize, kind: Kind) -> *mut c_void {
    if block.is_null() {
        return std::ptr::null_mut();
    }
    // SAFETY: the block is longer than its header, and aligned for it.
    unsafe {
        block.cast::<Header>().write(Header { len, kind });
        block.add(HEADER).cast()
    }
}

type Alloc = unsafe extern "system-unwind" fn(*mut sys::OrtAllocator, usize) -> *mut c_void;
type Reserve = unsafe extern "system-unwind" fn(*const sys::OrtAllocator, usize) -> *mut c_void;
type PlainAlloc = unsafe extern "system" fn(*mut sys::OrtAllocator, usize) -> *mut c_void;
type PlainReserve = unsafe extern "system" fn(*const sys::OrtAllocator, usize) -> *mut c_void;

/// # Safety
/// `this` is the table of an arena.
unsafe fn arena<'a>(this: *const sys::OrtAllocator) -> &'a Arena {
    // SAFETY: the table is the arena's first field, and arenas are never freed.
    unsafe { &*this.cast::<Arena>() }
}

unsafe extern "system-unwind" fn alloc(this: *mut sys::OrtAllocator, size: usize) -> *mut c_void {
    // SAFETY: the runtime hands over what it was given.
    unsafe { arena(this) }.alloc(size)
}

unsafe extern "system-unwind" fn reserve(this: *const sys::OrtAllocator, size: usize) -> *mut c_void {
    // SAFETY: as above.
    unsafe { arena(this) }.reserve(size)
}

unsafe extern "system" fn free(this: *mut sys::OrtAllocator, data: *mut c_void) {
    // SAFETY: as above; the runtime gives back what it got.
    unsafe { arena(this).free(data) }
}

unsafe extern "system" fn info_of(this: *const sys::OrtAllocator) -> *const sys::OrtMemoryInfo {
    // SAFETY: as above.
    unsafe { arena(this) }.info
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_blocks_never_take_more_than_was_in_use_at_once() {
        let mut kept = Kept::default();
        let block = || Block(std::ptr::null_mut());
        // Two blocks in use at once, and given back.
        assert!(kept.take(100, 0).0.is_none() && kept.take(50, 100).0.is_none());
        kept.put(100, block());
        kept.put(50, block());
        assert_eq!((kept.bytes, kept.bound), (150, 150));
        // One of their lengths is there; another one takes the place of the longest.
        assert!(kept.take(50, 0).0.is_some());
        let (found, superfluous) = kept.take(60, 50);
        assert!(found.is_none());
        assert_eq!((superfluous.len(), kept.bytes), (1, 0));
        // Where more than ever is in use, nothing is kept beside it.
        kept.put(60, block());
        let (found, superfluous) = kept.take(500, 50);
        assert!(found.is_none());
        assert_eq!((superfluous.len(), kept.bytes, kept.bound), (1, 0, 550));
    }
}

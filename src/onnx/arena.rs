//! The memory that the runtime computes in: one allocator for all its sessions, so that each does not keep activations of
//! its own, and so that what they take is known: a run, and the making of a session, count what their thread asks for.
//!
//! Runs repeat: large blocks that a run gave back are kept for the next, which takes them again where they are not much too
//! long. What is kept and in use together, whole blocks, is never more than what was in use at once at most; so large blocks are
//! pages of their own, which leave memory when they are given back, where those of a heap may leave holes. Fresh pages take as
//! much time as what is computed into them: before one block goes for another, one that is longer still is taken. Of small ones
//! a few are kept too, up to a megabyte: the C library's aligned blocks take longer than many a node of a small model.

use std::cell::{Cell, UnsafeCell};
use std::collections::{BTreeMap, HashMap};
use std::ffi::c_void;
use std::ops::RangeInclusive;
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::MmapMut;
use ort::sys;

use crate::store::os::touched_bytes;

/// Bytes before a block that hold its length; blocks are aligned as the runtime's own are.
const HEADER: usize = 64;
/// Blocks of fewer bytes are left to the C library.
const KEPT: usize = 64 << 10;
/// Lengths of blocks that are kept are multiples of this.
const PAGE: usize = 4 << 10;
/// How many times as long as it was wanted a block that is used again may be, at once and where another one would have to go for
/// fresh pages; in a budget, which counts the whole block, and without one. With four times as the most a detector of text in a
/// session for each capsule had 3 MB of fresh pages a run; with eight it counted up to a third more on a large image. What a session
/// asks for while it is made may stay as long as that does.
const LONGER_BOUNDED: [usize; 2] = [2, 4];
const LONGER: [usize; 2] = [2, 8];
const EXACT: [usize; 2] = [1, 1];
/// The logarithms to the base 2 of the lengths of small blocks, and how many of each are kept at most.
const SMALL: RangeInclusive<u32> = 7..=14;
const MOST_SMALL: usize = 32;
const SMALLEST: usize = 1 << *SMALL.start();
const LARGEST_SMALL: usize = 1 << *SMALL.end();
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
    /// Small blocks that nobody uses, by the logarithms of their lengths.
    small: [Mutex<Vec<Block>>; (*SMALL.end() - *SMALL.start() + 1) as usize],
    in_use: AtomicU64,
}

/// Models that are open: without one, no block is kept. And those of them that have a budget.
static OPEN: AtomicUsize = AtomicUsize::new(0);
static BOUNDED: AtomicUsize = AtomicUsize::new(0);

/// One of the models that are open.
#[derive(Debug)]
pub(super) struct Opened {
    bounded: bool,
}

impl Opened {
    /// bounded: it has a budget.
    pub fn new(bounded: bool) -> Self {
        OPEN.fetch_add(1, Ordering::AcqRel);
        BOUNDED.fetch_add(usize::from(bounded), Ordering::AcqRel);
        Self { bounded }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::AcqRel);
        BOUNDED.fetch_sub(usize::from(self.bounded), Ordering::AcqRel);
    }
}

/// Bytes that were asked for while it counted and are not given back yet, now and at most, whoever gives them back.
#[derive(Debug, Default)]
pub(super) struct Meter {
    now: AtomicU64,
    most: AtomicU64,
    /// Where the large blocks among them are, and their lengths, where that is wanted.
    large: Option<Mutex<HashMap<usize, usize>>>,
}

thread_local! {
    /// What counts on this thread: NULL, or a meter that [`Meter::count`] borrows.
    static METER: Cell<*const Meter> = const { Cell::new(ptr::null()) };
}

impl Meter {
    /// One that can tell what of it is in memory: the runtime asks for room for weights that it then leaves.
    pub fn that_looks() -> Self {
        Self { large: Some(Mutex::default()), ..Self::default() }
    }

    /// Bytes in use that are in memory, of one that looks; else all.
    pub fn touched(&self) -> u64 {
        let Some(large) = &self.large else { return self.now() };
        let large = large.lock().unwrap_or_else(PoisonError::into_inner);
        let asked: u64 = large.values().map(|len| *len as u64).sum();
        let touched: u64 = large.iter().map(|(at, len)| touched_bytes(*at as *const u8, *len)).sum();
        self.now().saturating_sub(asked).saturating_add(touched)
    }

    /// Counts what this thread asks for in `work`. Threads that help it ask for nothing that lasts.
    pub fn count<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        struct Restored(*const Meter);
        impl Drop for Restored {
            fn drop(&mut self) {
                METER.set(self.0);
            }
        }
        let _restored = Restored(METER.replace(Arc::as_ptr(self)));
        work()
    }

    /// Bytes that are in use.
    fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    /// Bytes that were in use at most.
    pub fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }

    fn add(&self, block: *mut u8, len: usize) {
        let now = self.now.fetch_add(len as u64, Ordering::Relaxed) + len as u64;
        self.most.fetch_max(now, Ordering::Relaxed);
        if let Some(large) = self.large.as_ref().filter(|_| len >= KEPT) {
            large.lock().unwrap_or_else(PoisonError::into_inner).insert(block.addr(), len);
        }
    }

    fn take(&self, block: *mut u8, len: usize) {
        self.now.fetch_sub(len as u64, Ordering::Relaxed);
        if let Some(large) = self.large.as_ref().filter(|_| len >= KEPT) {
            large.lock().unwrap_or_else(PoisonError::into_inner).remove(&block.addr());
        }
    }
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
            small: Default::default(),
            in_use: AtomicU64::new(0),
        }))
    }

    /// What the runtime is given.
    pub fn as_ptr(&self) -> *mut sys::OrtAllocator {
        self.table.get()
    }

    /// Gives all blocks back that nobody uses.
    pub fn trim(&self) {
        let mut kept = self.lock();
        kept.bound = 0;
        let blocks = std::mem::take(&mut *kept).blocks;
        drop(kept);
        blocks.into_values().flatten().for_each(|block| self.give_back(block));
        for small in &self.small {
            let blocks = std::mem::take(&mut *small.lock().unwrap_or_else(PoisonError::into_inner));
            blocks.into_iter().for_each(|block| self.give_back(block));
        }
    }

    /// The kept blocks of a length, if it is one of those of small blocks.
    fn small(&self, len: usize) -> Option<MutexGuard<'_, Vec<Block>>> {
        let logarithm = len.is_power_of_two().then(|| len.trailing_zeros()).filter(|l| SMALL.contains(l))?;
        let small = self.small.get((logarithm - SMALL.start()) as usize)?;
        Some(small.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the data begins of a block of `len` bytes, its header included.
    fn block(&self, len: usize) -> *mut c_void {
        let bounded = BOUNDED.load(Ordering::Acquire) > 0;
        let longer = if makes_session() {
            EXACT
        } else if bounded {
            LONGER_BOUNDED
        } else {
            LONGER
        };
        let (found, superfluous) = self.lock().take(len, self.in_use.load(Ordering::Relaxed), longer);
        superfluous.into_iter().for_each(|block| self.give_back(block));
        match found {
            Some(block) => begin_again(block),
            None => self.fresh(len, Purpose::Activations),
        }
    }

    /// As [`Self::block`], of fewer bytes than are kept by their lengths.
    fn small_block(&self, len: usize) -> *mut c_void {
        // Not asked for under the lock: what the source raises would leave it taken.
        let found = self.small(len).and_then(|mut blocks| blocks.pop());
        let block = found.map_or_else(|| self.take(len), |block| block.0);
        begin(block, len, Purpose::Activations, ptr::null_mut())
    }

    /// A block from the source; what that raises where it has none passes through.
    fn take(&self, len: usize) -> *mut u8 {
        // SAFETY: the source lives as long as the process. Its function may raise an exception of the runtime; those that are
        // on the way hold nothing that would have to be dropped.
        unsafe {
            let Some(alloc) = (*self.source).Alloc else { return ptr::null_mut() };
            let alloc = std::mem::transmute::<PlainAlloc, Alloc>(alloc);
            alloc(self.source, len).cast()
        }
    }

    fn give_back(&self, block: Block) {
        // SAFETY: its header stands as it was written, and owned the pages; nobody uses them any more. What is not in pages
        // came from the source.
        unsafe {
            let pages = block.0.cast::<Header>().read().pages;
            if !pages.is_null() {
                return drop(Box::from_raw(pages));
            }
            if let Some(free) = (*self.source).Free {
                free(self.source, block.0.cast());
            }
        }
    }

    /// A block of `len` bytes in fresh pages of its own; from the source where there are none.
    fn fresh(&self, len: usize, purpose: Purpose) -> *mut c_void {
        match MmapMut::map_anon(len) {
            Ok(mut map) => begin(map.as_mut_ptr(), len, purpose, Box::into_raw(Box::new(map))),
            Err(_) => begin(self.take(len), len, purpose, ptr::null_mut()),
        }
    }

    fn alloc(&self, size: usize) -> *mut c_void {
        let Some(len) = size.checked_add(HEADER) else { return self.take(usize::MAX).cast() };
        let len = if len <= LARGEST_SMALL {
            Some(len.next_power_of_two().max(SMALLEST))
        } else if len < KEPT {
            Some(len)
        } else {
            len.checked_next_multiple_of(PAGE)
        };
        let Some(len) = len else { return self.take(usize::MAX).cast() };
        let data = if len < KEPT { self.small_block(len) } else { self.block(len) };
        if !data.is_null() {
            // SAFETY: a block's data begin there. It may be longer than what was asked for.
            let (_, header) = unsafe { begun(data) };
            self.in_use.fetch_add(header.len as u64, Ordering::Relaxed);
        }
        data
    }

    /// Memory for weights, which a session holds as long as it lives. Large blocks are fresh pages here too: the runtime asks
    /// for more than it fills, and what was used before would be in memory for nothing.
    fn reserve(&self, size: usize) -> *mut c_void {
        match size.saturating_add(HEADER) {
            len @ KEPT.. => self.fresh(len, Purpose::Weights),
            len => begin(self.take(len), len, Purpose::Weights, ptr::null_mut()),
        }
    }

    /// # Safety
    /// `data` is NULL or came from here, and is not used any more.
    unsafe fn free(&self, data: *mut c_void) {
        if data.is_null() {
            return;
        }
        // SAFETY: it came from here.
        let (block, Header { len, purpose, meter, .. }) = unsafe { begun(data) };
        if !meter.is_null() {
            // SAFETY: the header owned a count of it.
            let meter = unsafe { Arc::from_raw(meter) };
            meter.take(block.0, len);
        }
        if purpose == Purpose::Weights {
            return self.give_back(block);
        }
        self.in_use.fetch_sub(len as u64, Ordering::Relaxed);
        if OPEN.load(Ordering::Acquire) == 0 {
            return self.give_back(block);
        }
        if len >= KEPT {
            return self.lock().put(len, block);
        }
        match self.small(len) {
            Some(mut blocks) if blocks.len() < MOST_SMALL => blocks.push(block),
            _ => self.give_back(block),
        }
    }
}

impl Kept {
    /// A block of `len` bytes or more, where there is one not too long; else those that must go so that a new one stays within the bound,
    /// `in_use` being in use. longer: how many times as long it may be, and where others would have to go.
    fn take(&mut self, len: usize, in_use: u64, longer: [usize; 2]) -> (Option<Block>, Vec<Block>) {
        if let Some(block) = self.shortest(len, longer[0]) {
            return (Some(block), Vec::new());
        }
        let wanted = in_use.saturating_add(len as u64);
        let bound = self.bound.max(wanted);
        let crowded = |kept: u64| kept > 0 && wanted.saturating_add(kept) > bound;
        if let Some(block) = crowded(self.bytes).then(|| self.shortest(len, longer[1])).flatten() {
            return (Some(block), Vec::new());
        }
        self.bound = bound;
        let mut superfluous = Vec::new();
        while crowded(self.bytes) {
            let longest = self.blocks.last_key_value().map(|(len, _)| *len);
            let Some(block) = longest.and_then(|len| self.pop(len)) else { break };
            superfluous.push(block);
        }
        (None, superfluous)
    }

    /// The shortest kept block of `len` bytes up to so many times as many.
    fn shortest(&mut self, len: usize, times: usize) -> Option<Block> {
        let (found, _) = self.blocks.range(len..=len.saturating_mul(times)).next()?;
        self.pop(*found)
    }

    /// A kept block of that length. A length without blocks is not remembered: runs may have ever new ones.
    fn pop(&mut self, len: usize) -> Option<Block> {
        let blocks = self.blocks.get_mut(&len)?;
        let block = blocks.pop();
        if blocks.is_empty() {
            self.blocks.remove(&len);
        }
        self.bytes -= block.as_ref().map_or(0, |_| len as u64);
        block
    }

    fn put(&mut self, len: usize, block: Block) {
        self.blocks.entry(len).or_default().push(block);
        self.bytes += len as u64;
    }
}

/// What a block is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Activations,
    Weights,
}

/// What stands before a block's data.
struct Header {
    len: usize,
    purpose: Purpose,
    /// The pages that the block is and owns; NULL of one from the source.
    pages: *mut MmapMut,
    /// What counted it, NULL or a count of its own of an [`Arc`].
    meter: *const Meter,
}

const _: () = assert!(size_of::<Header>() <= HEADER && align_of::<Header>() <= HEADER);

/// Writes a block's header; where its data begins.
fn begin(block: *mut u8, len: usize, purpose: Purpose, pages: *mut MmapMut) -> *mut c_void {
    if block.is_null() {
        return ptr::null_mut();
    }
    let meter = METER.get();
    // SAFETY: the meter is borrowed for as long as it stands there, from an `Arc`; the block is longer than its header, and
    // aligned for it.
    unsafe {
        if let Some(counting) = meter.as_ref() {
            Arc::increment_strong_count(meter);
            counting.add(block, len);
        }
        block.cast::<Header>().write(Header { len, purpose, pages, meter });
        block.add(HEADER).cast()
    }
}

/// Whether this thread's memory is counted for a session that is made.
fn makes_session() -> bool {
    // SAFETY: the meter is borrowed for as long as it stands there.
    unsafe { METER.get().as_ref() }.is_some_and(|meter| meter.large.is_some())
}

/// The block whose data begin there, and its header.
///
/// # Safety
/// [`begin`] gave `data`, and the block lives.
unsafe fn begun(data: *mut c_void) -> (Block, Header) {
    // SAFETY: the header is before what was handed out.
    unsafe {
        let block = data.cast::<u8>().sub(HEADER);
        (Block(block), block.cast::<Header>().read())
    }
}

/// As [`begin`], of a block that was used before.
fn begin_again(block: Block) -> *mut c_void {
    // SAFETY: its header stands as it was written; nobody else has the block.
    let Header { len, purpose, pages, .. } = unsafe { block.0.cast::<Header>().read() };
    begin(block.0, len, purpose, pages)
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
    fn meters_count_their_own_thread_and_what_is_given_back_anywhere() {
        // Blocks without a source: only headers are written.
        let mut memory = [[0u64; 64]; 3];
        let [first, second, other] = &mut memory;
        let block = |of: &mut [u64; 64]| of.as_mut_ptr().cast::<u8>();
        let (outer, inner) = (Arc::new(Meter::default()), Arc::new(Meter::default()));
        let a = outer.count(|| {
            let a = begin(block(first), 100, Purpose::Activations, ptr::null_mut());
            inner.count(|| begin(block(second), 30, Purpose::Weights, ptr::null_mut()));
            // Another thread has none.
            let at = block(other) as usize;
            std::thread::scope(|scope| {
                scope
                    .spawn(move || begin(at as *mut u8, 500, Purpose::Activations, ptr::null_mut()) as usize);
            });
            a
        });
        assert_eq!((outer.now(), outer.most(), inner.now()), (100, 100, 30));
        assert_eq!((Arc::strong_count(&outer), Arc::strong_count(&inner)), (2, 2));
        // SAFETY: the header was written above.
        let header = unsafe { a.cast::<u8>().sub(HEADER).cast::<Header>().read() };
        assert_eq!((header.len, header.meter), (100, Arc::as_ptr(&outer)));
        assert!(METER.get().is_null());
        // SAFETY: the counts that the headers own.
        unsafe {
            Arc::decrement_strong_count(header.meter);
            Arc::decrement_strong_count(Arc::as_ptr(&inner));
        }
    }

    #[test]
    fn kept_blocks_never_take_more_than_was_in_use_at_once() {
        let mut kept = Kept::default();
        let block = || Block(ptr::null_mut());
        // Two blocks in use at once, and given back.
        assert!(kept.take(100, 0, LONGER).0.is_none() && kept.take(50, 100, LONGER).0.is_none());
        kept.put(100, block());
        kept.put(50, block());
        assert_eq!((kept.bytes, kept.bound), (150, 150));
        // The shortest that is long enough.
        assert!(kept.take(49, 0, LONGER).0.is_some());
        assert_eq!(kept.bytes, 100);
        // One that is much too long, where it would have to go; where it is longer still, it goes.
        assert!(kept.take(13, 50, LONGER).0.is_some());
        assert_eq!(kept.bytes, 0);
        kept.put(100, block());
        let (found, superfluous) = kept.take(12, 50, LONGER);
        assert!(found.is_none());
        assert_eq!((superfluous.len(), kept.bytes, kept.bound), (1, 0, 150));
        // Where there is room, a new one.
        kept.put(100, block());
        let (found, superfluous) = kept.take(20, 30, LONGER);
        assert!(found.is_none());
        assert_eq!((superfluous.len(), kept.bytes, kept.bound), (0, 100, 150));
        // Where more than ever is in use, nothing is kept beside it.
        let (found, superfluous) = kept.take(500, 50, LONGER);
        assert!(found.is_none());
        assert_eq!((superfluous.len(), kept.bytes, kept.bound), (1, 0, 550));
        assert!(kept.blocks.is_empty());
    }

    /// Memory that is never given back.
    unsafe extern "system" fn memory(_: *mut sys::OrtAllocator, len: usize) -> *mut c_void {
        let memory: &'static mut [u128] = vec![0; len.div_ceil(16)].leak();
        memory.as_mut_ptr().cast()
    }

    #[test]
    fn what_is_in_use_is_counted_in_whole_blocks() {
        unsafe extern "system" fn free(_: *mut sys::OrtAllocator, _: *mut c_void) {}
        // SAFETY: a table of no functions, of which the arena calls those that are set here.
        let mut source = unsafe { sys::OrtAllocator::default() };
        source.Alloc = Some(memory);
        source.Free = Some(free);
        let arena = Arena::leaked(ptr::null(), Box::leak(Box::new(source)));
        let _open = Opened::new(false);
        let used = || arena.in_use.load(Ordering::Relaxed);
        let (long, short) = (1 << 20, 700 << 10);
        let first = arena.alloc(long);
        let whole = used();
        assert!(whole >= long as u64);
        // SAFETY: each came from here and is given back once.
        unsafe {
            arena.free(first);
            assert_eq!(used(), 0);
            let again = arena.alloc(short);
            assert_eq!((again, used()), (first, whole));
            arena.free(again);
            // A session that is made gets no more than it asks for. Its block may be where the long one was.
            let made = Arc::new(Meter::that_looks()).count(|| arena.alloc(short));
            assert!(used() < whole);
            arena.free(made);
        }
        assert_eq!(used(), 0);
        arena.trim();
    }
}

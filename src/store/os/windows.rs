//! Memory and files on Windows: unbuffered reads, `PrefetchVirtualMemory`, the working set.

use std::fs::File;
use std::io;
use std::mem;
use std::ops::Range;
use std::os::windows::fs::FileExt;
use std::os::windows::io::{AsRawHandle, FromRawHandle};
use std::ptr::{self, NonNull};
use std::sync::{Mutex, PoisonError};

use memmap2::Mmap;
use windows_sys::Win32::Foundation::{ERROR_INVALID_PARAMETER, GENERIC_READ, INVALID_HANDLE_VALUE};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_NO_BUFFERING, FILE_SHARE_DELETE, FILE_SHARE_READ, FILE_SHARE_WRITE, ReOpenFile,
};
use windows_sys::Win32::System::Memory::{
    GetProcessWorkingSetSizeEx, MEM_COMMIT, MEM_RELEASE, MEM_RESERVE, PAGE_READWRITE, PrefetchVirtualMemory,
    QUOTA_LIMITS_HARDWS_MAX_ENABLE, SetProcessWorkingSetSizeEx, VirtualAlloc, VirtualFree, VirtualLock,
    VirtualUnlock, WIN32_MEMORY_RANGE_ENTRY,
};
use windows_sys::Win32::System::ProcessStatus::{
    K32GetProcessMemoryInfo, K32QueryWorkingSetEx, PROCESS_MEMORY_COUNTERS, PROCESS_MEMORY_COUNTERS_EX,
    PSAPI_WORKING_SET_EX_INFORMATION,
};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

use super::ProcessMemory;

/// What begin, length and memory of an unbuffered read are multiples of: every disk's sector divides it. Capsules begin and
/// end at multiples of 64 KiB, but segments of them do not, and in such blocks they would take up to a sixth more memory.
pub(in super::super) const BLOCK: u64 = 4096;
/// Whether there are huge pages that need no privilege.
pub(in super::super) const HUGE_PAGES: bool = false;
/// Whether a file's map stands in the way of reads past the cache: the system keeps the two coherent, page by page.
pub(in super::super) const MAP_HINDERS: bool = true;

/// Memory of its own, page by page; zeros at first.
#[derive(Debug)]
pub(in super::super) struct Pages {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory belongs to no thread; whoever reads or writes it says why that is sound.
unsafe impl Send for Pages {}
// SAFETY: as for `Send`: the methods give its place alone.
unsafe impl Sync for Pages {}

impl Pages {
    pub fn new(len: usize) -> io::Result<Self> {
        // SAFETY: the system chooses a place that nobody has.
        let start = unsafe { VirtualAlloc(ptr::null(), len, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE) };
        match NonNull::new(start.cast()) {
            Some(start) => Ok(Self { start, len }),
            None => Err(io::Error::last_os_error()),
        }
    }

    pub fn be_huge(&self, _: &Range<usize>) {}

    pub fn as_ptr(&self) -> *const u8 {
        self.start.as_ptr()
    }

    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the memory is that of `VirtualAlloc`, and nobody has it any more.
        unsafe { VirtualFree(self.start.as_ptr().cast(), 0, MEM_RELEASE) };
    }
}

/// Memory that stays in the working set as long as this lives. It must go before the memory does.
#[derive(Debug)]
pub(in super::super) struct Kept {
    start: usize,
    len: usize,
}

/// The working set is read and set by one at a time.
static WORKING_SET: Mutex<()> = Mutex::new(());

impl Kept {
    /// Of `range` of `pages`; `None` where the system refuses it: it is a help, no need.
    pub fn new(pages: &Pages, range: Range<usize>) -> Option<Self> {
        let len = range.end.min(pages.len).checked_sub(range.start).filter(|len| *len > 0)?;
        let start = (pages.as_ptr() as usize).checked_add(range.start)?;
        let _one = WORKING_SET.lock().unwrap_or_else(PoisonError::into_inner);
        // No more can be locked than what the working set has at least.
        if !grow_working_set(len as isize) {
            return None;
        }
        // SAFETY: the memory is committed, and stays so during the call.
        if unsafe { VirtualLock(start as *const _, len) } == 0 {
            grow_working_set(-(len as isize));
            return None;
        }
        Some(Self { start, len })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _one = WORKING_SET.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the memory, which was locked, is still there: whoever has both lets this go first.
        unsafe { VirtualUnlock(self.start as *const _, self.len) };
        grow_working_set(-(self.len as isize));
    }
}

/// Moves both bounds of the process's working set, unless the upper one is a hard limit, which is for the program to set.
fn grow_working_set(by: isize) -> bool {
    let (mut least, mut most, mut flags) = (0usize, 0usize, 0u32);
    // SAFETY: the handle is the process's own; the three results are ours.
    let known = unsafe {
        GetProcessWorkingSetSizeEx(GetCurrentProcess(), &raw mut least, &raw mut most, &raw mut flags)
    };
    let bounds = least.checked_add_signed(by).zip(most.checked_add_signed(by));
    let movable = known != 0 && flags & QUOTA_LIMITS_HARDWS_MAX_ENABLE == 0;
    let Some((least, most)) = bounds.filter(|_| movable) else { return false };
    // SAFETY: the handle is the process's own; numbers alone are given.
    unsafe { SetProcessWorkingSetSizeEx(GetCurrentProcess(), least, most, flags) != 0 }
}

/// Handles that read a file at positions: the system lets a handle have one read at a time, so each thread that reads has
/// its own meanwhile.
#[derive(Debug)]
pub(in super::super) struct DirectHandle {
    /// Keeps the file from being another one under the same name: the others are opened through it.
    file: File,
    unbuffered: Mutex<Vec<File>>,
    buffered: Mutex<Vec<File>>,
}

impl DirectHandle {
    /// Of an open file, whatever its name is by now; `None` where the system gives no such handle.
    pub fn of(file: &File) -> Option<Self> {
        let first = reopen(file, FILE_FLAG_NO_BUFFERING).ok()?;
        let file = file.try_clone().ok()?;
        Some(Self { file, unbuffered: Mutex::new(vec![first]), buffered: Mutex::new(Vec::new()) })
    }

    /// Reads whole blocks at `offset`, past the cache where the file is not mapped; fewer bytes at the file's end.
    pub fn read_at(&self, buf: &mut [u8], offset: u64, is_mapped: bool) -> io::Result<usize> {
        let (free, flags) =
            if is_mapped { (&self.buffered, 0) } else { (&self.unbuffered, FILE_FLAG_NO_BUFFERING) };
        let own = free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Ok(own) = own.map_or_else(|| reopen(&self.file, flags), Ok) else {
            // One that is to be deleted, say, is not opened again. The one handle that there is from the start serves all.
            return self.file.seek_read(buf, offset);
        };
        let read = own.seek_read(buf, offset);
        free.lock().unwrap_or_else(PoisonError::into_inner).push(own);
        read
    }
}

/// Another handle of an open file, which others may read, replace and delete meanwhile.
fn reopen(file: &File, flags: u32) -> io::Result<File> {
    let share = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
    // SAFETY: the handle is open.
    let handle = unsafe { ReOpenFile(file.as_raw_handle(), GENERIC_READ, share, flags) };
    if handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle is new, and nobody else's.
    Ok(unsafe { File::from_raw_handle(handle) })
}

/// Whether a file system that gave a handle takes no unbuffered reads after all.
pub(in super::super) fn is_refusal(error: &io::Error) -> bool {
    error.raw_os_error() == Some(ERROR_INVALID_PARAMETER as i32)
}

/// Asks for `range` of a map, which is about to be read, and does not wait for it.
pub(in super::super) fn will_need(map: &Mmap, range: Range<usize>) {
    let Some(bytes) = map.get(range) else { return };
    let entry = WIN32_MEMORY_RANGE_ENTRY {
        VirtualAddress: bytes.as_ptr().cast_mut().cast(),
        NumberOfBytes: bytes.len(),
    };
    // SAFETY: the one entry lives during the call, and names memory of the map, which nothing is written to.
    unsafe { PrefetchVirtualMemory(GetCurrentProcess(), 1, &raw const entry, 0) };
}

/// Takes the pages of `range` from this process's working set; they may stay in the system's cache. Whether it did.
pub(in super::super) fn let_go(map: &Mmap, range: Range<usize>) -> bool {
    let Some(bytes) = map.get(range) else { return false };
    // Unlocking pages that were never locked fails, and takes them from the working set.
    // SAFETY: the range lies in the map, whose bytes are the file's and come from there again.
    unsafe { VirtualUnlock(bytes.as_ptr().cast(), bytes.len()) };
    true
}

/// Lets the system drop pages of a file from its cache: there is no way to ask for that.
pub(in super::super) fn uncache(_: &File, _: u64, _: usize) {}

/// Whether a byte of a file is known to be in the system's cache: it does not tell.
pub(in super::super) fn is_cached(_: &File, _: u64) -> bool {
    false
}

/// What the system counts of this process: as anonymous what is committed to it alone, resident or not.
pub(crate) fn process_memory() -> ProcessMemory {
    // SAFETY: a struct of numbers, of which zeros are a value.
    let mut counted: PROCESS_MEMORY_COUNTERS_EX = unsafe { mem::zeroed() };
    let size = size_of::<PROCESS_MEMORY_COUNTERS_EX>() as u32;
    let place = (&raw mut counted).cast::<PROCESS_MEMORY_COUNTERS>();
    // SAFETY: the handle is the process's own; the system fills the struct, which begins with the other and is as long as
    // said.
    if unsafe { K32GetProcessMemoryInfo(GetCurrentProcess(), place, size) } == 0 {
        return ProcessMemory::default();
    }
    ProcessMemory {
        peak_resident: Some(counted.PeakWorkingSetSize as u64),
        // The same number since Windows 8; wine has the second alone.
        anonymous: Some(counted.PrivateUsage.max(counted.PagefileUsage) as u64),
    }
}

/// Anonymous memory of the process in bytes; 0 where the system does not tell.
pub(crate) fn anonymous_bytes() -> u64 {
    process_memory().anonymous.unwrap_or(0)
}

/// How much of `len` bytes at `start`, which are in use, is in memory: pages that nobody has written yet are not.
pub(crate) fn touched_bytes(start: *const u8, len: usize) -> u64 {
    const PAGE: usize = 4096;
    /// The lowest bit of what is told of a page: it is in the working set.
    const VALID: usize = 1;
    let begin = start.addr() & !(PAGE - 1);
    // SAFETY: a struct of numbers, of which zeros are a value.
    let unknown: PSAPI_WORKING_SET_EX_INFORMATION = unsafe { mem::zeroed() };
    let mut told = vec![unknown; (start.addr() + len - begin).div_ceil(PAGE)];
    for (number, page) in told.iter_mut().enumerate() {
        page.VirtualAddress = (begin + number * PAGE) as *mut _;
    }
    let Ok(size) = u32::try_from(size_of_val(told.as_slice())) else { return len as u64 };
    // SAFETY: the handle is the process's own; the system looks at its tables of pages and fills the structs, `size` bytes.
    if unsafe { K32QueryWorkingSetEx(GetCurrentProcess(), told.as_mut_ptr().cast(), size) } == 0 {
        return len as u64;
    }
    // SAFETY: both views of the union are numbers.
    let valid = told.iter().filter(|page| unsafe { page.VirtualAttributes.Flags } & VALID != 0).count();
    (valid * PAGE).min(len) as u64
}

/// Has the C library give free memory back to the system: large blocks go back as they are freed.
pub(crate) fn return_free_memory() {}

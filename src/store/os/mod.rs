//! What each system does its own way with memory: mapped files, reads past its cache, memory that is read into, and what the
//! process holds.
//!
//! Each file here has all of it under the same names.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(all(unix, not(target_os = "linux")))]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
use linux as system;
#[cfg(all(unix, not(target_os = "linux")))]
use unix as system;
#[cfg(windows)]
use windows as system;

pub(super) use system::{
    BLOCK, DirectHandle, HUGE_PAGES, Kept, MAP_HINDERS, Pages, is_cached, is_refusal, let_go, uncache,
    will_need,
};
pub(crate) use system::{anonymous_bytes, process_memory, return_free_memory, touched_bytes};

/// What the system counts of the process, in bytes; absent where it does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProcessMemory {
    /// Most resident memory so far, pages of mapped files included.
    pub peak_resident: Option<u64>,
    /// Memory that is no file's.
    pub anonymous: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_zeros_that_can_be_written_and_kept() {
        let pages = Pages::new(3 << 16).unwrap();
        // SAFETY: the pages are ours alone, and so long.
        let bytes = unsafe { std::slice::from_raw_parts_mut(pages.as_mut_ptr(), 3 << 16) };
        assert!(bytes.iter().all(|byte| *byte == 0) && pages.as_ptr() == bytes.as_ptr());
        assert_eq!(bytes.as_ptr().align_offset(4096), 0);
        bytes.fill(7);
        // Where the system keeps it, it does so again once it was let go.
        let kept = Kept::new(&pages, 1 << 16..2 << 16).is_some();
        assert_eq!(Kept::new(&pages, 1 << 16..2 << 16).is_some(), kept);
        assert!(bytes.iter().all(|byte| *byte == 7));
        assert!(Pages::new(isize::MAX as usize - 4096).is_err());
    }

    #[test]
    fn pages_that_nobody_wrote_are_not_in_memory() {
        let pages = Pages::new(1 << 20).unwrap();
        let touched = touched_bytes(pages.as_ptr(), 1 << 20);
        // SAFETY: the pages are ours alone, and so long.
        unsafe { std::slice::from_raw_parts_mut(pages.as_mut_ptr(), 1 << 18) }.fill(1);
        let written = touched_bytes(pages.as_ptr(), 1 << 20);
        assert!(written >= 1 << 18 && touched <= written, "{touched} {written}");
        if cfg!(any(target_os = "linux", windows)) {
            assert!(touched == 0 && written <= 1 << 19, "{touched} {written}");
        }
    }

    #[test]
    fn memory_that_is_taken_is_seen() {
        let whole = process_memory();
        if whole.anonymous.is_none() {
            return;
        }
        assert!(whole.peak_resident >= Some(1 << 20), "{whole:?}");
        // Other tests of the process give memory back at the same time.
        let seen = (0..50).any(|_| {
            let before = anonymous_bytes();
            // Of the system: an allocator keeps what it got.
            let held = Pages::new(32 << 20).unwrap();
            // SAFETY: the pages are ours alone, and so long.
            unsafe { std::slice::from_raw_parts_mut(held.as_mut_ptr(), 32 << 20) }.fill(1);
            let after = anonymous_bytes();
            drop(held);
            after >= before + (24 << 20)
        });
        assert!(seen);
    }
}

//! An allocator that counts what each thread allocates, so that a test can bound it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Clone, Copy)]
struct Counts {
    live: isize,
    peak: isize,
    largest: usize,
}

thread_local! {
    // Const and without a destructor, so reading it never allocates.
    static COUNTS: Cell<Counts> = const { Cell::new(Counts { live: 0, peak: 0, largest: 0 }) };
}

fn count(freed: usize, allocated: usize) {
    COUNTS.with(|cell| {
        let mut counts = cell.get();
        // Sizes are bounded by isize::MAX: the rule of `Layout`.
        counts.live += allocated as isize - freed as isize;
        counts.peak = counts.peak.max(counts.live);
        counts.largest = counts.largest.max(allocated);
        cell.set(counts);
    });
}

// SAFETY: every call is passed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(layout.size(), 0);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(layout.size(), new_size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

/// Runs `f` and fails where this thread allocated more than `cap` bytes at once or in all.
pub fn bounded<T>(cap: usize, what: &dyn Fn() -> String, f: impl FnOnce() -> T) -> T {
    let before = COUNTS.get().live;
    COUNTS.set(Counts { live: before, peak: before, largest: 0 });
    let result = f();
    let after = COUNTS.get();
    let peak = after.peak - before;
    assert!(
        after.largest <= cap && peak <= cap as isize,
        "{}: allocated {} bytes at once and held {peak}; the cap is {cap}",
        what(),
        after.largest
    );
    result
}

#[test]
fn the_allocator_counts() {
    let within = || bounded(1 << 20, &|| "small".into(), || vec![1u8; 1000].len());
    assert_eq!(within(), 1000);
    let above = || bounded(1 << 10, &|| "large".into(), || vec![1u8; 5000].len());
    assert!(std::panic::catch_unwind(above).is_err());
}

//! The `.cgraph` file: header, manifest, extents, checksums, reader and atomic writer (docs/format.md).
//!
//! Lives here: bytes and manifests, and [`disk`], the one interface through which files are reached. Calls
//! `graph` for plain types and `kernels` for the sizes of encodings. May be called by `store` and above.
//! Must not know: what a model computes, memory maps, budgets.
//!
//! A long file is synced by a thread of [`disk`]'s own while it is written: the thread sleeps in system calls, and a
//! loop of `pool` would lend it one of the processors for the whole time.

pub mod checksum;
pub mod disk;
pub mod header;
pub mod manifest;
pub mod npy;
mod os;
pub mod paths;
pub mod reader;
pub mod writer;

/// Alignment of capsule extents, in bytes: the Windows mapping granularity.
pub const EXTENT_ALIGN: u64 = 64 * 1024;
/// Alignment of planes and assets, in bytes: a cache line, the widest vector.
pub const PLANE_ALIGN: u64 = 64;

/// Rounds `offset` up to a multiple of `align`, a power of two; `None` on overflow.
#[must_use]
pub fn align_up(offset: u64, align: u64) -> Option<u64> {
    Some(offset.checked_add(align - 1)? & !(align - 1))
}

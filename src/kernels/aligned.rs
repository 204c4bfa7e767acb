//! Buffers that begin at a cache line, so that no aligned vector of them crosses one.

use std::ops::{Deref, DerefMut};

use super::memory::{Zero, zeros};
use crate::error::Result;

/// Bytes of a cache line, and of the widest vector.
const LINE: usize = 64;

/// A buffer of zeros at first. Pages of a large one come from the system when they are first written.
#[derive(Debug, Default)]
pub(super) struct Aligned<T> {
    /// Never moved, so that `skip` stays right.
    data: Vec<T>,
    /// Elements before the first cache line.
    skip: usize,
    len: usize,
}

impl<T: Zero> Aligned<T> {
    /// `len` elements.
    ///
    /// # Errors
    /// [`crate::Error::Limit`] where the system has no memory for them.
    pub(super) fn new(len: usize) -> Result<Self> {
        Ok(Self::of(zeros(len.saturating_add(Self::spare(len)))?, len))
    }

    /// Makes room for `len` elements, so that [`at_least`](Self::at_least) allocates nothing for them.
    ///
    /// # Errors
    /// As [`new`](Self::new); the buffer is then empty.
    pub(super) fn reserve(&mut self, len: usize) -> Result<()> {
        if self.len < len {
            // The old memory goes first: both are never needed.
            *self = Self::default();
            *self = Self::new(len)?;
        }
        Ok(())
    }

    /// The first `len` elements, zeros and in a new buffer where there were fewer. For lengths that no host chooses,
    /// or for which there is room: the system must not refuse the memory.
    pub(super) fn at_least(&mut self, len: usize) -> &mut [T] {
        if self.len < len {
            *self = Self::of(vec![T::default(); len + Self::spare(len)], len);
        }
        &mut self[..len]
    }

    /// Elements by which the first cache line may lie behind the beginning of `len`.
    fn spare(len: usize) -> usize {
        if len == 0 { 0 } else { LINE / size_of::<T>().max(1) }
    }

    /// `len` elements of `data`, which has [`spare`](Self::spare) more.
    fn of(data: Vec<T>, len: usize) -> Self {
        // `align_offset` may know no offset; then the buffer is only slower.
        let skip = data.as_ptr().align_offset(LINE).min(Self::spare(len));
        Self { data, skip, len }
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> usize {
        self.data.capacity() * size_of::<T>()
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.data[self.skip..][..self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.skip..][..self.len]
    }
}

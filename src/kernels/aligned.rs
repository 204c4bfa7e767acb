//! Buffers that begin at a cache line, so that no aligned vector of them crosses one.

use std::ops::{Deref, DerefMut};

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

impl<T: Copy + Default> Aligned<T> {
    /// `len` elements.
    pub(super) fn new(len: usize) -> Self {
        let room = if len == 0 { 0 } else { LINE / size_of::<T>().max(1) };
        let data = vec![T::default(); len + room];
        // `align_offset` may know no offset; then the buffer is only slower.
        let skip = data.as_ptr().align_offset(LINE).min(room);
        Self { data, skip, len }
    }

    /// The first `len` elements, zeros and in a new buffer where there were fewer.
    pub(super) fn at_least(&mut self, len: usize) -> &mut [T] {
        if self.len < len {
            *self = Self::new(len);
        }
        &mut self[..len]
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

//! Buffers of sizes that a host chooses: the system may refuse the memory, and that is an answer, no abort.

use std::alloc::{Layout, alloc_zeroed};

use crate::error::{Error, Result};

/// Types of which zero bytes are a value.
///
/// # Safety
/// They are one.
pub(super) unsafe trait Zero: Copy + Default {}

// SAFETY: a number.
unsafe impl Zero for i8 {}
// SAFETY: a number.
unsafe impl Zero for u16 {}
// SAFETY: a number.
unsafe impl Zero for f32 {}

/// Makes room for `len` elements, so that growing `buffer` to them allocates nothing. Where it had less room, the
/// elements in it are gone.
///
/// # Errors
/// [`Error::Limit`] where the system has no memory for them; the buffer is then empty.
pub(crate) fn make_room<T>(buffer: &mut Vec<T>, len: usize) -> Result<()> {
    if buffer.capacity() < len {
        // The old memory goes first: both are never needed.
        *buffer = Vec::new();
        buffer.try_reserve_exact(len).map_err(|_| refused::<T>(len))?;
    }
    Ok(())
}

/// `len` zeros, in pages that the system commits when they are first written.
///
/// # Errors
/// [`Error::Limit`] where it refuses them.
pub(super) fn zeros<T: Zero>(len: usize) -> Result<Vec<T>> {
    let layout = Layout::array::<T>(len).map_err(|_| refused::<T>(len))?;
    if layout.size() == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the size is not 0.
    let start = unsafe { alloc_zeroed(layout) }.cast::<T>();
    if start.is_null() {
        return Err(refused::<T>(len));
    }
    // SAFETY: the memory is the global allocator's, of the layout of `len` elements, and all zeros, which `T` allows.
    Ok(unsafe { Vec::from_raw_parts(start, len, len) })
}

fn refused<T>(len: usize) -> Error {
    Error::Limit(format!("the system refuses {} bytes of memory", len.saturating_mul(size_of::<T>())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_an_error() {
        assert_eq!(zeros::<u16>(5).ok(), Some(vec![0; 5]));
        assert_eq!(zeros::<f32>(0).ok(), Some(Vec::new()));
        for len in [usize::MAX, usize::MAX / 8, isize::MAX as usize / 4] {
            assert!(zeros::<f32>(len).is_err_and(|e| e.to_string().contains("bytes")), "{len}");
            let mut buffer = vec![1.0f32; 3];
            assert!(make_room(&mut buffer, len).is_err());
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn room_that_is_there_keeps_what_it_holds() {
        let mut buffer = Vec::with_capacity(10);
        buffer.extend([1u32, 2]);
        assert!(make_room(&mut buffer, 10).is_ok());
        assert_eq!(buffer, [1, 2]);
        assert!(make_room(&mut buffer, 1000).is_ok());
        assert!(buffer.is_empty() && buffer.capacity() >= 1000);
    }
}

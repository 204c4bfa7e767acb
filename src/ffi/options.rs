//! Structs that carry their own size, so that fields can be appended without breaking a host.

use std::mem::MaybeUninit;
use std::ptr::NonNull;

use super::error::Failure;
use super::status::CAPG_ERROR_UNSUPPORTED;

/// No struct of the API will ever be larger; a larger `struct_size` is a mistake, and its bytes are not read.
const MAX_SIZE: usize = 4096;

/// A struct whose first field is its `struct_size`.
///
/// # Safety
/// `repr(C)`; the first field is a `usize`; every bit pattern is valid for every field; there is no padding.
pub(super) unsafe trait Versioned: Copy {
    /// Its name in the header.
    const NAME: &'static str;
    /// Its size when it was first published.
    const FIRST_SIZE: usize;
}

/// Reads an options struct of the host; NULL means that every field is its default.
///
/// # Safety
/// `options` is NULL or valid for reading the bytes that its `struct_size` says.
pub(super) unsafe fn read<T: Versioned>(options: *const T) -> Result<T, Failure> {
    // SAFETY: every bit pattern is valid for a `Versioned`, zeros too.
    let mut value: T = unsafe { MaybeUninit::zeroed().assume_init() };
    if options.is_null() {
        return Ok(value);
    }
    let bytes = options.cast::<u8>();
    // SAFETY: passed on.
    let size = unsafe { checked_size::<T>(bytes) }?;
    let known = size_of::<T>();
    // SAFETY: the host's struct has `size` bytes and ours `known`; every bit pattern is valid.
    unsafe { std::ptr::copy_nonoverlapping(bytes, (&raw mut value).cast::<u8>(), size.min(known)) };
    if size > known {
        // SAFETY: bytes `known..size` of the host's struct.
        let newer = unsafe { std::slice::from_raw_parts(bytes.add(known), size - known) };
        if let Some(at) = newer.iter().position(|b| *b != 0) {
            return Err(Failure::new(
                CAPG_ERROR_UNSUPPORTED,
                format!(
                    "{}: byte {} is set, and this version of the library knows {known}; update the library or \
                     leave the newer option at 0",
                    T::NAME,
                    known + at
                ),
            ));
        }
    }
    Ok(value)
}

/// The `struct_size` of the struct that begins at `bytes`, held against what is possible.
///
/// # Safety
/// `bytes` is valid for reading a `usize`.
unsafe fn checked_size<T: Versioned>(bytes: *const u8) -> Result<usize, Failure> {
    // SAFETY: by this function's contract; the struct need not be aligned.
    let size = unsafe { bytes.cast::<usize>().read_unaligned() };
    if (T::FIRST_SIZE..=MAX_SIZE).contains(&size) {
        return Ok(size);
    }
    Err(Failure::invalid(format!(
        "{}: struct_size is {size}; set it to sizeof({}), {} in this version",
        T::NAME,
        T::NAME,
        size_of::<T>()
    )))
}

/// A struct of the host that the library fills on success.
pub(super) struct StructOut<T> {
    place: NonNull<u8>,
    size: usize,
    known: std::marker::PhantomData<T>,
}

impl<T: Versioned> StructOut<T> {
    /// Checks the struct's size.
    ///
    /// # Safety
    /// `place` is NULL or valid for reading and writing the bytes that its `struct_size` says, until
    /// [`set`](Self::set).
    pub unsafe fn required(place: *mut T, parameter: &str) -> Result<Self, Failure> {
        let place = NonNull::new(place.cast::<u8>()).ok_or_else(|| Failure::null(parameter))?;
        // SAFETY: passed on.
        let size = unsafe { checked_size::<T>(place.as_ptr()) }?;
        Ok(Self { place, size, known: std::marker::PhantomData })
    }

    /// Writes all fields that the host knows but `struct_size`; what the library does not know becomes 0.
    pub fn set(self, value: T) {
        const HEAD: usize = size_of::<usize>();
        let known = self.size.min(size_of::<T>());
        let place = self.place.as_ptr();
        // SAFETY: the host's struct has `size` bytes by the constructor's contract and ours at least `known`;
        // both are at least HEAD long, as FIRST_SIZE is.
        unsafe {
            let from = (&raw const value).cast::<u8>();
            std::ptr::copy_nonoverlapping(from.add(HEAD), place.add(HEAD), known - HEAD);
            std::ptr::write_bytes(place.add(known), 0, self.size - known);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::status::CAPG_ERROR_INVALID_ARGUMENT;

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Grown {
        struct_size: usize,
        first: u64,
        appended: u64,
    }

    // SAFETY: integers only, no padding.
    unsafe impl Versioned for Grown {
        const NAME: &'static str = "grown";
        const FIRST_SIZE: usize = 16;
    }

    fn read_words(words: &[u64]) -> Result<(u64, u64), (u32, String)> {
        // SAFETY: the tests' sizes never exceed the array where they are possible ones.
        let read = unsafe { read(words.as_ptr().cast::<Grown>()) };
        read.map(|g| (g.first, g.appended)).map_err(|f| (f.status, f.message))
    }

    #[test]
    fn every_age_of_host_is_understood() {
        // SAFETY: NULL is allowed.
        assert!(unsafe { read::<Grown>(std::ptr::null()) }.is_ok_and(|g| g.first == 0 && g.struct_size == 0));
        assert_eq!(read_words(&[24, 5, 6]), Ok((5, 6)));
        assert_eq!(read_words(&[16, 5, 6]), Ok((5, 0)), "an older host's struct ends before the new field");
        assert_eq!(read_words(&[32, 5, 6, 0]), Ok((5, 6)), "a newer host that asks for nothing new");
        assert!(read_words(&[32, 5, 6, 1 << 40]).is_err_and(|(status, message)| {
            status == CAPG_ERROR_UNSUPPORTED && message.contains("byte 29")
        }));
        for size in [0, 1, 8, 15, 4097, u64::MAX] {
            assert!(
                read_words(&[size, 5, 6]).is_err_and(|(s, _)| s == CAPG_ERROR_INVALID_ARGUMENT),
                "{size}"
            );
        }
    }

    #[test]
    fn outputs_stay_inside_the_hosts_struct() {
        let value = Grown { struct_size: 0, first: 7, appended: 8 };
        for (size, want) in [(16, [16, 7, 1, 1]), (24, [24, 7, 8, 1]), (32, [32, 7, 8, 0])] {
            let mut words = [size, 1, 1, 1u64];
            // SAFETY: the array has 32 bytes.
            let out = unsafe { StructOut::required(words.as_mut_ptr().cast::<Grown>(), "out") };
            out.unwrap_or_else(|f| panic!("{}", f.message)).set(value);
            assert_eq!(words, want);
        }
    }
}

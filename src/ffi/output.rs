//! What goes out by pointer: handles, values, views.

use std::marker::PhantomData;
use std::ptr::{NonNull, null_mut};

use super::error::Failure;
use super::handle::{Handle, give};

/// A place for a value, written on success only.
pub(super) struct Out<T>(Option<NonNull<T>>);

impl<T: Copy> Out<T> {
    /// A place that must be given.
    ///
    /// # Safety
    /// `place` is NULL or valid for writing until [`set`](Self::set).
    pub unsafe fn required(place: *mut T, parameter: &str) -> Result<Self, Failure> {
        match NonNull::new(place) {
            Some(place) => Ok(Self(Some(place))),
            None => Err(Failure::null(parameter)),
        }
    }

    /// A place that may be NULL where the value is not wanted.
    ///
    /// # Safety
    /// As [`required`](Self::required).
    pub unsafe fn nullable(place: *mut T) -> Self {
        Self(NonNull::new(place))
    }

    /// Writes the value.
    pub fn set(self, value: T) {
        if let Some(place) = self.0 {
            // SAFETY: valid for writing by the constructors' contract; the host's place need not be aligned.
            unsafe { place.as_ptr().write_unaligned(value) };
        }
    }
}

/// A place for a handle: NULL from the start of the call until success.
pub(super) struct HandleOut<T> {
    place: Out<*mut T>,
    handle: PhantomData<T>,
}

impl<T: Handle> HandleOut<T> {
    /// A place that must be given.
    ///
    /// # Safety
    /// `place` is NULL or valid for writing until [`set`](Self::set).
    pub unsafe fn required(place: *mut *mut T, parameter: &str) -> Result<Self, Failure> {
        // SAFETY: passed on, twice for the same place.
        unsafe {
            Out::required(place, parameter)?.set(null_mut());
            Ok(Self { place: Out::required(place, parameter)?, handle: PhantomData })
        }
    }

    /// A place that may be NULL where the handle is not wanted.
    ///
    /// # Safety
    /// As [`required`](Self::required).
    pub unsafe fn nullable(place: *mut *mut T) -> Self {
        // SAFETY: passed on, twice for the same place.
        unsafe {
            Out::nullable(place).set(null_mut());
            Self { place: Out::nullable(place), handle: PhantomData }
        }
    }

    /// Whether the host wants the handle.
    pub fn is_wanted(&self) -> bool {
        self.place.0.is_some()
    }

    /// Gives the object to the host, or drops it where it is not wanted. The last thing that a call does.
    pub fn set(self, object: T) {
        if self.is_wanted() {
            self.place.set(give(object));
        }
    }
}

/// Places for a view.
pub(super) struct ViewOut<T> {
    data: Out<*const T>,
    len: Out<usize>,
}

impl<T> ViewOut<T> {
    /// Both places must be given.
    ///
    /// # Safety
    /// Each is NULL or valid for writing until [`set`](Self::set).
    pub unsafe fn required(data: *mut *const T, len: *mut usize, names: [&str; 2]) -> Result<Self, Failure> {
        // SAFETY: passed on.
        unsafe { Ok(Self { data: Out::required(data, names[0])?, len: Out::required(len, names[1])? }) }
    }

    /// Writes the view.
    pub fn set(self, (data, len): (*const T, usize)) {
        self.data.set(data);
        self.len.set(len);
    }
}

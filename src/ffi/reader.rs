//! Files that the host reads for the library.

use std::ffi::{c_char, c_void};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread::{self, ThreadId};

use super::error::Failure;
use super::input::optional_text;
use super::options::{Versioned, read};
use super::status::CAPG_ERROR_HOST;
use crate::container::disk::ReadAt;

/// Fills all of buffer, len bytes, from offset of the host's file and returns 0; any other number is a failure,
/// which the message of the error names. offset + len never exceeds the reader's size.
pub type capg_read_callback =
    Option<unsafe extern "C" fn(user_data: *mut c_void, offset: u64, buffer: *mut c_void, len: usize) -> i32>;

/// A file that the host reads: out of its archive, decrypted, from a network. Used only inside the call that it
/// is given to, and only on that thread.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct capg_reader {
    /// sizeof(capg_reader).
    pub struct_size: usize,
    /// Reads; required.
    pub read: capg_read_callback,
    /// Handed to read.
    pub user_data: *mut c_void,
    /// The file's name for messages, UTF-8. Default: "the host's file".
    pub name: *const c_char,
    /// Its length in bytes.
    pub name_len: usize,
    /// The file's length in bytes.
    pub size: u64,
}

// SAFETY: integers, nullable pointers and nullable function pointers, without padding.
unsafe impl Versioned for capg_reader {
    const NAME: &'static str = "capg_reader";
    const FIRST_SIZE: usize = size_of::<Self>();
}

/// A host's file as a source of bytes, until the call that it was given to ends.
#[derive(Debug)]
pub(super) struct HostSource {
    read: unsafe extern "C" fn(*mut c_void, u64, *mut c_void, usize) -> i32,
    user_data: *mut c_void,
    name: String,
    size: u64,
    thread: ThreadId,
    open: AtomicBool,
    failure: AtomicI32,
}

// SAFETY: `user_data` is only handed to `read`, and `read_exact_at` does that on the thread that made the source
// only, and only while it is open.
unsafe impl Send for HostSource {}
// SAFETY: as for `Send`.
unsafe impl Sync for HostSource {}

impl HostSource {
    /// The source that a reader describes.
    ///
    /// # Safety
    /// `reader` is NULL or valid with what it points to.
    pub unsafe fn new(reader: *const capg_reader, parameter: &str) -> Result<Arc<Self>, Failure> {
        if reader.is_null() {
            return Err(Failure::null(parameter));
        }
        // SAFETY: passed on.
        let (reader, name) = unsafe {
            let reader = read(reader)?;
            (reader, optional_text(reader.name, reader.name_len, "reader.name")?)
        };
        Ok(Arc::new(Self {
            read: reader.read.ok_or_else(|| Failure::null("reader.read"))?,
            user_data: reader.user_data,
            name: name.unwrap_or("the host's file").to_owned(),
            size: reader.size,
            thread: thread::current().id(),
            open: AtomicBool::new(true),
            failure: AtomicI32::new(0),
        }))
    }

    /// Ends the source: the callback is not called again. Returns the failure that it reported, if it did.
    pub fn close(&self) -> Option<Failure> {
        self.open.store(false, Ordering::Relaxed);
        match self.failure.load(Ordering::Relaxed) {
            0 => None,
            code => {
                let text = format!("{}: the host's read callback returned {code}", self.name);
                Some(Failure::new(CAPG_ERROR_HOST, text))
            }
        }
    }
}

impl ReadAt for HostSource {
    fn len(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if !self.open.load(Ordering::Relaxed) || thread::current().id() != self.thread {
            return Err(io::Error::other("the host's file can be read only while it is opened"));
        }
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.size) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "read past the end"));
        }
        // SAFETY: the host's function on the host's thread inside its call, with a buffer of that length.
        let code = unsafe { (self.read)(self.user_data, offset, buf.as_mut_ptr().cast(), buf.len()) };
        if code != 0 {
            self.failure.store(code, Ordering::Relaxed);
            return Err(io::Error::other(format!("the host's read callback returned {code}")));
        }
        Ok(())
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

//! Owned results: text and tokens.

use std::ffi::c_char;

use super::error::capg_error;
use super::handle::{Handle, release, share};
use super::output::ViewOut;
use super::panic::guard;
use super::status::capg_status;

/// UTF-8 followed by a NUL that its length does not count.
#[derive(Clone, Debug)]
pub(super) struct Utf8(Vec<u8>);

impl Utf8 {
    /// Pointer and length; valid until the value is changed or dropped.
    pub fn view(&self) -> (*const c_char, usize) {
        (self.0.as_ptr().cast(), self.0.len() - 1) // never empty: there is the NUL
    }
}

impl Default for Utf8 {
    fn default() -> Self {
        Self(vec![0])
    }
}

impl From<String> for Utf8 {
    fn from(text: String) -> Self {
        let mut bytes = text.into_bytes();
        bytes.push(0);
        Self(bytes)
    }
}

impl From<&str> for Utf8 {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// A text that a call returned. Owned by the host, immutable.
pub struct capg_text(Utf8);

impl Handle for capg_text {}

impl From<String> for capg_text {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

/// A view of a text: UTF-8, NUL-terminated (len does not count the NUL), valid until the text is freed.
/// Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_text_view(
    text: *const capg_text,
    data: *mut *const c_char,
    len: *mut usize,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, text) = unsafe { (ViewOut::required(data, len, ["data", "len"])?, share(text, "text")?) };
        out.set(text.0.view());
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Frees a text; does nothing for NULL. Thread class: free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_text_free(text: *mut capg_text) {
    // SAFETY: NULL or a handle that the host gives back, by contract.
    unsafe { release(text) };
}

/// Token ids that a call returned. Owned by the host, immutable.
pub struct capg_tokens(Vec<u32>);

impl Handle for capg_tokens {}

impl From<Vec<u32>> for capg_tokens {
    fn from(ids: Vec<u32>) -> Self {
        Self(ids)
    }
}

/// A view of the ids, valid until the tokens are freed. Thread class: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_tokens_view(
    tokens: *const capg_tokens,
    ids: *mut *const u32,
    count: *mut usize,
    error: *mut *mut capg_error,
) -> capg_status {
    let body = || {
        // SAFETY: the contract of every function: pointers are NULL or valid, handles live.
        let (out, tokens) =
            unsafe { (ViewOut::required(ids, count, ["ids", "count"])?, share(tokens, "tokens")?) };
        out.set((tokens.0.as_ptr(), tokens.0.len()));
        Ok(())
    };
    // SAFETY: as above.
    unsafe { guard(error, body) }
}

/// Frees tokens; does nothing for NULL. Thread class: free.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn capg_tokens_free(tokens: *mut capg_tokens) {
    // SAFETY: NULL or a handle that the host gives back, by contract.
    unsafe { release(tokens) };
}

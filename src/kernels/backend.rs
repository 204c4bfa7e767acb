//! The one interface through which the decoder reaches arithmetic. A plug-in may take the CPU's place.

use super::encoding::Encoding;
use crate::pool::{Gate, Progress};

/// A packed weight matrix: rows in groups of [`super::pack::GROUP`], see [`super::pack`].
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// The encoding of every row.
    pub encoding: &'static Encoding,
    /// Output features.
    pub rows: usize,
    /// Input features (k), a multiple of the encoding's block length.
    pub cols: usize,
    /// `packed_len(encoding, rows, cols)` bytes; no alignment is demanded.
    pub data: &'a [u8],
}

//! NumPy's `.npy` format (version 1.0) for f32 arrays, written piece by piece.

use std::path::Path;

use super::disk::{Disk, WriteFile};
use crate::error::{Error, Result};

/// The header of a little-endian f32 array of `shape` in C order.
#[must_use]
pub fn header(shape: &[u64]) -> Vec<u8> {
    let mut dims: String = shape.iter().map(|d| format!("{d}, ")).collect();
    if shape.len() > 1 {
        dims.truncate(dims.len() - 2); // a tuple of one keeps its comma
    }
    let mut dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({dims}), }}");
    // Magic, version and length take 10 bytes; with the line feed the data starts on a multiple of 64.
    let padding = (64 - (10 + dict.len() + 1) % 64) % 64;
    dict.push_str(&" ".repeat(padding));
    dict.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    // A shape has a handful of dimensions: the dictionary is far shorter than 64 KiB.
    out.extend((dict.len() as u16).to_le_bytes());
    out.extend(dict.bytes());
    out
}

/// An f32 array under construction. Nothing has the target's name before [`finish`](Self::finish).
#[derive(Debug)]
pub struct NpyWriter {
    file: Box<dyn WriteFile>,
    name: String,
    left: u64,
    bytes: Vec<u8>,
}

impl NpyWriter {
    /// Begins an array of `shape` at `target`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Limit`] where the shape's product overflows.
    pub fn create(disk: &dyn Disk, target: &Path, shape: &[u64]) -> Result<Self> {
        let elements = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d));
        let left =
            elements.ok_or_else(|| Error::Limit(format!("an array of shape {shape:?} is too large")))?;
        let mut file = disk.create(target)?;
        file.append(&header(shape))?;
        Ok(Self { file, name: target.display().to_string(), left, bytes: Vec::new() })
    }

    /// Appends the next elements.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::InvalidArgument`] for more elements than the shape holds.
    pub fn push(&mut self, values: &[f32]) -> Result<()> {
        self.left = self.left.checked_sub(values.len() as u64).ok_or_else(|| {
            Error::InvalidArgument(format!("{}: more elements than the array's shape holds", self.name))
        })?;
        for part in values.chunks(64 << 10) {
            self.bytes.clear();
            self.bytes.extend(part.iter().flat_map(|v| v.to_le_bytes()));
            self.file.append(&self.bytes)?;
        }
        Ok(())
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::InvalidArgument`] where elements are missing.
    pub fn finish(self) -> Result<()> {
        if self.left > 0 {
            return Err(Error::InvalidArgument(format!("{}: {} elements are missing", self.name, self.left)));
        }
        self.file.commit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_those_of_numpy() {
        for (shape, tuple) in
            [(&[3u64][..], "(3, )"), (&[2, 5], "(2, 5)"), (&[], "()"), (&[1, 2, 3], "(1, 2, 3)")]
        {
            let bytes = header(shape);
            assert!(bytes.len().is_multiple_of(64) && bytes.ends_with(b"\n"));
            assert_eq!(usize::from(u16::from_le_bytes([bytes[8], bytes[9]])), bytes.len() - 10);
            let dict = String::from_utf8_lossy(&bytes[10..]).into_owned();
            assert!(dict.contains(&format!("'shape': {tuple}, }}")), "{dict}");
        }
    }
}

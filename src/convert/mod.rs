//! Importers: other formats to a full `.cgraph` file.
//!
//! Lives here: the GGUF reader ([`gguf`]) and the conversion ([`import`]). Calls `container`, `kernels` and
//! `graph`. May be called by `split` and above. Must not know: how a model is run, what a mini is.
//!
//! Tensors are read and packed by threads of `weights`' own: they feed the calling thread, which writes piece after
//! piece in order, while a loop of `pool` would let reading and writing take turns.

use std::path::Path;

use crate::container::disk::Disk;
use crate::error::{Error, Result};

pub mod gguf;
pub mod import;
pub mod metadata;
pub mod onnx;
mod weights;

/// Formats of models that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// ggml's.
    Gguf,
    /// ONNX.
    Onnx,
}

impl Format {
    /// The format of the file at `path`.
    ///
    /// # Errors
    /// [`Error::Malformed`] where it is neither, with what was looked for; [`Error::Io`].
    pub fn of(path: &Path, disk: &dyn Disk) -> Result<Self> {
        if gguf::is_gguf(path, disk)? {
            return Ok(Self::Gguf);
        }
        if onnx::is_onnx(path, disk)? {
            return Ok(Self::Onnx);
        }
        let source = disk.open(path)?;
        let mut front = vec![0; source.len().min(4) as usize];
        source
            .read_exact_at(0, &mut front)
            .map_err(|e| Error::io("read the first bytes of", source.name(), e))?;
        let why = match front.as_slice() {
            b"\x8bCGR" => "this is a .cgraph file already, not a GGUF or ONNX model".to_owned(),
            b"FUGG" | b"ggml" | b"ggjt" => {
                "an older or big-endian ggml file; convert it to GGUF version 3 with its own tools".to_owned()
            }
            [] => "the file is empty; copy the model again".to_owned(),
            _ => format!(
                "it is neither a GGUF model nor an ONNX model: its first bytes are {front:02x?}, where GGUF has \"GGUF\" and \
                 ONNX 08 and the format's version, and its name does not end in .onnx; convert a model of another format to \
                 one of these with its own tools, and name an ONNX model that begins otherwise .onnx"
            ),
        };
        Err(Error::malformed(source.name(), why))
    }
}

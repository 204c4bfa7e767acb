//! ONNX models to `.cgraph` files and back (format: ONNX's published schema).
//!
//! Nothing is trusted: nesting, counts and lengths are held against what is there before anything is allocated, names
//! are resolved before anything is written, and caps bound what a crafted file can make us hold.

mod calls;
pub mod cut;
pub mod export;
mod functions;
pub mod graph;
pub mod import;
pub mod join;
mod ports;
pub mod proto;
mod ranks;
mod scope;
pub mod segment;
pub mod source;
pub mod subgraph;
pub mod tensor;
mod types;
pub mod wire;
pub mod write;

use std::path::Path;

use crate::container::disk::Disk;
use crate::error::Result;

/// Whether the file is an ONNX model: named as one, or beginning as their writers begin them, with `ir_version`.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io) naming the path.
pub fn is_onnx(path: &Path, disk: &dyn Disk) -> Result<bool> {
    let source = disk.open(path)?;
    let mut front = [0; 4];
    let len = source.len().min(front.len() as u64) as usize;
    let read = source.read_exact_at(0, &mut front[..len]).is_ok();
    let named = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"));
    // Field 1, a varint of one byte, and a field behind it.
    let begins = matches!(front, [0x08, 1..=0x7f, 0x12..=0x7a, _]);
    Ok(read && front != *b"GGUF" && (named || begins))
}

//! Streaming one tensor's weights from the source into the stored layout.

use super::gguf::{Gguf, TensorInfo};
use crate::container::manifest::Layout;
use crate::error::{Error, Result};
use crate::kernels::pack;

/// Bytes of source rows that are in memory at a time.
const CHUNK: usize = 4 << 20;

/// Reads `tensor` in runs of whole row groups and hands the bytes to `sink` in the order in which they are
/// stored. Memory use is bounded by two chunks, or two groups of rows where one group is larger.
pub fn stream(
    gguf: &Gguf,
    tensor: &TensorInfo,
    layout: Layout,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let cols = tensor.shape.last().copied().unwrap_or(0) as usize;
    let row = pack::row_bytes(tensor.encoding, cols)
        .filter(|row| *row > 0)
        .ok_or_else(|| Error::Internal(format!("the shape of {} passed the reader", tensor.name)))?;
    let rows = tensor.len / row as u64;
    let step = match layout {
        Layout::Rows => (CHUNK / row).max(1),
        Layout::Packed8 => (CHUNK / row / pack::GROUP).max(1) * pack::GROUP,
    };
    let (mut source, mut packed) = (Vec::new(), Vec::new());
    let mut done = 0;
    while done < rows {
        let n = (rows - done).min(step as u64) as usize;
        source.resize(n * row, 0);
        gguf.read_tensor(tensor, done * row as u64, &mut source)?;
        match layout {
            Layout::Rows => sink(&source)?,
            Layout::Packed8 => {
                packed.resize(n.next_multiple_of(pack::GROUP) * row, 0);
                pack::pack(tensor.encoding, cols, &source, &mut packed)?;
                sink(&packed)?;
            }
        }
        done += n as u64;
    }
    Ok(())
}

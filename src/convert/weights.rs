//! Streaming one tensor's weights from the source into the stored layout.

use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::{self, Scope};

use super::gguf::{Gguf, TensorInfo};
use crate::container::manifest::Layout;
use crate::error::{Error, Result};
use crate::kernels::pack;

/// Bytes of source rows of a piece: read, packed and written while they are in the second cache.
const PIECE: usize = 512 << 10;
/// Pieces from which on several threads read and pack.
const SHARED_PIECES: usize = 8;
/// Threads that read and pack at most; the calling one, which writes, comes on top.
const MAX_PACKERS: usize = 4;

/// One tensor, cut into pieces of whole row groups.
#[derive(Clone, Copy)]
struct Pieces<'a> {
    gguf: &'a Gguf,
    tensor: &'a TensorInfo,
    layout: Layout,
    cols: usize,
    /// Bytes of a row.
    row: usize,
    rows: usize,
    /// Rows of a piece.
    step: usize,
}

/// Reads `tensor` piece by piece and hands the bytes to `sink`, on the calling thread, in the order in which they
/// are stored. Large tensors are read and packed on several threads. Memory use is bounded by four pieces a
/// thread, or as many groups of rows where one group is larger.
pub fn stream(
    gguf: &Gguf,
    tensor: &TensorInfo,
    layout: Layout,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let pieces = Pieces::new(gguf, tensor, layout)?;
    let packers = thread::available_parallelism().map_or(1, |n| n.get().min(MAX_PACKERS));
    if packers == 1 || pieces.count() < SHARED_PIECES {
        let mut buffers = Buffers::default();
        return (0..pieces.count()).try_for_each(|i| {
            pieces.read(i, &mut buffers)?;
            sink(&buffers.stored)
        });
    }
    thread::scope(|scope| {
        let packers: Vec<_> = (0..packers).map(|p| pieces.start(scope, p, packers)).collect();
        (0..pieces.count()).try_for_each(|i| {
            let (packed, used) = &packers[i % packers.len()];
            let gone = |_| Error::Internal("a packing thread has ended early".into());
            let stored = packed.recv().map_err(gone)??;
            sink(&stored)?;
            // A packer that is through needs no buffers back.
            let _ = used.send(stored);
            Ok(())
        })
    })
}

/// Memory of a thread, used piece after piece.
#[derive(Default)]
struct Buffers {
    source: Vec<u8>,
    /// A piece as it is stored.
    stored: Vec<u8>,
}

impl<'a> Pieces<'a> {
    fn new(gguf: &'a Gguf, tensor: &'a TensorInfo, layout: Layout) -> Result<Self> {
        let cols = tensor.shape.last().copied().unwrap_or(0) as usize;
        let row = pack::row_bytes(tensor.encoding, cols)
            .filter(|row| *row > 0)
            .ok_or_else(|| Error::Internal(format!("the shape of {} passed the reader", tensor.name)))?;
        let rows = usize::try_from(tensor.len / row as u64)
            .map_err(|_| Error::Limit(format!("{} has more rows than fit the address space", tensor.name)))?;
        let step = (PIECE / row / pack::GROUP).max(1) * pack::GROUP;
        Ok(Self { gguf, tensor, layout, cols, row, rows, step })
    }

    fn count(&self) -> usize {
        self.rows.div_ceil(self.step)
    }

    /// Brings piece `i` into `buffers.stored`.
    fn read(&self, i: usize, buffers: &mut Buffers) -> Result<()> {
        let first = i * self.step;
        let n = self.step.min(self.rows - first);
        let source = match self.layout {
            Layout::Rows => &mut buffers.stored,
            Layout::Packed8 => &mut buffers.source,
        };
        source.resize(n * self.row, 0);
        self.gguf.read_tensor(self.tensor, first as u64 * self.row as u64, source)?;
        if self.layout == Layout::Packed8 {
            buffers.stored.resize(n.next_multiple_of(pack::GROUP) * self.row, 0);
            pack::pack(self.tensor.encoding, self.cols, &buffers.source, &mut buffers.stored)?;
        }
        Ok(())
    }

    /// Starts packer `p` of `packers`, which reads every piece whose number leaves remainder p. Returns where its
    /// pieces arrive in order, at most two ahead, and where the buffers go back.
    fn start<'s>(
        self,
        scope: &'s Scope<'s, '_>,
        p: usize,
        packers: usize,
    ) -> (Receiver<Result<Vec<u8>>>, std::sync::mpsc::Sender<Vec<u8>>)
    where
        'a: 's,
    {
        let (pieces, packed): (SyncSender<Result<Vec<u8>>>, _) = sync_channel(1);
        let (used, returned) = channel();
        scope.spawn(move || {
            let mut buffers = Buffers::default();
            for i in (p..self.count()).step_by(packers) {
                buffers.stored = returned.try_recv().unwrap_or_default();
                let outcome = self.read(i, &mut buffers);
                let failed = outcome.is_err();
                let stored = std::mem::take(&mut buffers.stored);
                // The receiver is gone where writing failed.
                if pieces.send(outcome.map(|()| stored)).is_err() || failed {
                    return;
                }
            }
        });
        (packed, used)
    }
}

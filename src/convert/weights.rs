//! Streaming one tensor's weights from the source into the stored layout.

use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{self, Builder, Scope};

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

/// Takes the stored bytes in order.
type Sink<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;
/// Brings the piece of a given number into the buffers' `stored`.
type Read<'a> = dyn Fn(usize, &mut Buffers) -> Result<()> + Sync + 'a;

/// Reads `tensor` piece by piece and hands the bytes to `sink`, on the calling thread, in the order in which they
/// are stored. Large tensors are read and packed on several threads. Memory use is bounded by four pieces a
/// thread, or as many groups of rows where one group is larger.
pub fn stream(gguf: &Gguf, tensor: &TensorInfo, layout: Layout, sink: &mut Sink<'_>) -> Result<()> {
    let pieces = Pieces::new(gguf, tensor, layout)?;
    let read = |i: usize, buffers: &mut Buffers| pieces.read(i, buffers);
    let packers = thread::available_parallelism().map_or(1, |n| n.get().min(MAX_PACKERS));
    if packers == 1 || pieces.count() < SHARED_PIECES {
        return alone(pieces.count(), &read, sink);
    }
    let packer = || Builder::new().name("capsulegraph-pack".into());
    shared(pieces.count(), packers, &packer, &read, sink)
}

/// Memory of a thread, used piece after piece.
#[derive(Default)]
struct Buffers {
    source: Vec<u8>,
    /// A piece as it is stored.
    stored: Vec<u8>,
}

/// Reads `count` pieces on the calling thread.
fn alone(count: usize, read: &Read<'_>, sink: &mut Sink<'_>) -> Result<()> {
    let mut buffers = Buffers::default();
    (0..count).try_for_each(|i| {
        read(i, &mut buffers)?;
        sink(&buffers.stored)
    })
}

/// As [`alone`], with `packers` threads of `builder`'s that read; in fact alone where the system refuses one.
fn shared(
    count: usize,
    packers: usize,
    builder: &dyn Fn() -> Builder,
    read: &Read<'_>,
    sink: &mut Sink<'_>,
) -> Result<()> {
    thread::scope(|scope| {
        let start = |p| Packer::start(scope, builder(), (p..count).step_by(packers), read).ok();
        let packers: Option<Vec<_>> = (0..packers).map(start).collect();
        // Those that were started before a refusal end: nobody receives what they send.
        let Some(packers) = packers else { return alone(count, read, sink) };
        (0..count).try_for_each(|i| {
            let packer = &packers[i % packers.len()];
            let gone = |_| Error::Internal("a packing thread has ended early".into());
            let stored = packer.packed.recv().map_err(gone)??;
            sink(&stored)?;
            // A packer that is through needs no buffers back.
            let _ = packer.used.send(stored);
            Ok(())
        })
    })
}

/// A thread that reads some of the pieces.
struct Packer {
    /// Its pieces in order, at most two ahead.
    packed: Receiver<Result<Vec<u8>>>,
    /// Where the buffers go back.
    used: Sender<Vec<u8>>,
}

impl Packer {
    /// Starts a packer of the pieces of the given numbers, in their order.
    fn start<'s>(
        scope: &'s Scope<'s, '_>,
        builder: Builder,
        numbers: impl Iterator<Item = usize> + Send + 's,
        read: &'s Read<'_>,
    ) -> io::Result<Self> {
        let (pieces, packed): (SyncSender<Result<Vec<u8>>>, _) = sync_channel(1);
        let (used, returned) = channel();
        let run = move || {
            let mut buffers = Buffers::default();
            for i in numbers {
                buffers.stored = returned.try_recv().unwrap_or_default();
                let outcome = read(i, &mut buffers);
                let failed = outcome.is_err();
                let stored = std::mem::take(&mut buffers.stored);
                // The receiver is gone where writing failed.
                if pieces.send(outcome.map(|()| stored)).is_err() || failed {
                    return;
                }
            }
        };
        builder.spawn_scoped(scope, run)?;
        Ok(Self { packed, used })
    }
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
            Layout::Rows | Layout::Plain => &mut buffers.stored,
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
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Reads 100 pieces through `packers` threads, of which the first `allowed` are not refused.
    fn packed(packers: usize, allowed: usize, read: &Read<'_>) -> Result<Vec<u8>> {
        let started = Cell::new(0);
        let builder = || {
            started.set(started.get() + 1);
            // No address space holds such a stack.
            let size = if started.get() > allowed { isize::MAX as usize & !0xffff } else { 1 << 20 };
            Builder::new().stack_size(size)
        };
        let mut all = Vec::new();
        shared(100, packers, &builder, read, &mut |bytes| {
            all.extend_from_slice(bytes);
            Ok(())
        })?;
        assert_eq!(started.get(), packers.min(allowed + 1));
        Ok(all)
    }

    fn read(i: usize, buffers: &mut Buffers) -> Result<()> {
        buffers.stored.clear();
        buffers.stored.extend([i as u8; 3]);
        Ok(())
    }

    #[test]
    fn pieces_come_in_order_with_and_without_threads() {
        let want: Vec<u8> = (0..100).flat_map(|i| [i; 3]).collect();
        for (packers, allowed) in [(1, 1), (3, 3), (4, 4), (3, 0), (3, 1), (3, 2)] {
            let found = packed(packers, allowed, &read);
            assert_eq!(found.ok().as_ref(), Some(&want), "{allowed} of {packers} threads");
        }
    }

    #[test]
    fn what_fails_in_a_thread_is_told() {
        let broken = |i: usize, buffers: &mut Buffers| match i {
            50 => Err(Error::Internal("piece 50".into())),
            _ => read(i, buffers),
        };
        for allowed in [3, 1] {
            assert!(matches!(packed(3, allowed, &broken), Err(Error::Internal(why)) if why == "piece 50"));
        }
    }
}

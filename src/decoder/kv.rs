//! The KV cache: keys and values of all positions so far, in f16.

use crate::error::{Error, Result};
use crate::graph::params::DecoderParams;

/// Keys and values of one layer, `[kv_heads, capacity, dim]`, f16 bits.
#[derive(Debug)]
pub(super) struct KvLayer {
    pub keys: Vec<u16>,
    pub values: Vec<u16>,
}

/// Keys and values of every layer, for one sequence.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<KvLayer>,
    capacity: usize,
    len: usize,
}

impl KvCache {
    /// A cache with room for `capacity` positions. Pages are committed by the system as they are used.
    ///
    /// # Errors
    /// [`Error::Limit`] where it would exceed the address space or the system has no memory for it.
    pub fn new(params: &DecoderParams, capacity: usize) -> Result<Self> {
        probe(params, capacity)?;
        let layers = (0..params.block_count)
            .map(|_| {
                Ok(KvLayer {
                    keys: zeroed(params.k_width(), capacity)?,
                    values: zeroed(params.v_width(), capacity)?,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { layers, capacity, len: 0 })
    }

    /// Bytes of a cache of `capacity` positions.
    #[must_use]
    pub fn bytes_for(params: &DecoderParams, capacity: usize) -> u64 {
        let position = (params.k_width() + params.v_width()) as u64 * 2 * u64::from(params.block_count);
        position.saturating_mul(capacity as u64)
    }

    /// Positions that there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Positions that are filled.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is filled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets every position from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub(super) fn layer(&mut self, index: usize) -> &mut KvLayer {
        &mut self.layers[index]
    }

    pub(super) fn advance(&mut self, n: usize) {
        self.len += n;
    }
}

fn limit(capacity: usize) -> Error {
    Error::Limit(format!("a KV cache of {capacity} positions does not fit; ask for a smaller context"))
}

/// Asks the system for the whole cache once and gives it back, so that a refusal is an error.
///
/// Once for all layers: an allocator keeps the room of a small probe and would have to clear, and so commit,
/// every page that the next layer gets from it.
fn probe(params: &DecoderParams, capacity: usize) -> Result<()> {
    let bytes = usize::try_from(KvCache::bytes_for(params, capacity)).map_err(|_| limit(capacity))?;
    Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| limit(capacity))
}

fn zeroed(width: usize, capacity: usize) -> Result<Vec<u16>> {
    let elements = width.checked_mul(capacity).filter(|n| *n <= isize::MAX as usize / 2);
    // `vec![0; n]` takes pages that the system zeroes on first use, so untouched positions cost nothing.
    Ok(vec![0; elements.ok_or_else(|| limit(capacity))?])
}

//! The KV cache: keys and values of all positions so far, in f16.

use crate::error::{Error, Result};
use crate::graph::params::DecoderParams;

/// Keys and values of one layer, `[kv_heads, capacity, dim]`, f16 bits.
#[derive(Debug)]
pub(super) struct KvLayer {
    pub keys: Vec<u16>,
    pub values: Vec<u16>,
}

/// Sizes above this are probed before they are taken.
const PROBED_BYTES: usize = 256 << 20;

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
        let limit = || {
            Error::Limit(format!(
                "a KV cache of {capacity} positions does not fit the memory; ask for a smaller context"
            ))
        };
        let bytes = usize::try_from(Self::bytes_for(params, capacity)).map_err(|_| limit())?;
        // Asked for at once and given back, so that an impossible size is an answer and not an abort. Small
        // sizes are not probed: giving them back would make the allocator clear (and so commit) them later.
        if bytes > PROBED_BYTES {
            Vec::<u8>::new().try_reserve_exact(bytes).map_err(|_| limit())?;
        }
        let layer = |_| KvLayer {
            // Zeroed pages come from the system on first use, so positions never reached cost nothing.
            keys: vec![0; params.k_width() * capacity],
            values: vec![0; params.v_width() * capacity],
        };
        Ok(Self { layers: (0..params.block_count).map(layer).collect(), capacity, len: 0 })
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

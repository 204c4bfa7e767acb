//! The KV cache: keys and values of all positions so far.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::graph::params::DecoderParams;
use crate::kernels::kv::{KvFormat, KvLayer, KvShape};

/// Sizes above this are probed before they are taken.
const PROBED_BYTES: u64 = 256 << 20;

/// Bytes of a page of memory, about.
const PAGE: u64 = 4096;

/// Keys and values of every layer that a sequence passes.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<KvLayer>,
    /// The block of the first of them.
    first: usize,
    shape: KvShape,
    len: usize,
    /// Most positions that were ever filled.
    most: usize,
}

/// What a KV cache takes.
#[derive(Clone, Copy, Debug)]
pub struct KvSizes {
    /// Of each layer.
    pub shape: KvShape,
    /// Bytes of all layers.
    pub bytes: u64,
}

impl KvCache {
    /// A cache with room for `capacity` positions. The system commits its pages as positions are first used.
    ///
    /// # Errors
    /// [`Error::Limit`] where it would exceed the address space or the system has no memory for it.
    pub fn new(params: &DecoderParams, capacity: usize, format: KvFormat) -> Result<Self> {
        Self::of_blocks(params, 0..params.block_count as usize, capacity, format)
    }

    /// As [`new`](Self::new), for a sequence that passes only these blocks here.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of_blocks(
        params: &DecoderParams,
        blocks: Range<usize>,
        capacity: usize,
        format: KvFormat,
    ) -> Result<Self> {
        let shape = shape(params, capacity, format);
        let bytes = shape.bytes().saturating_mul(blocks.len() as u64);
        let limit = || {
            Error::Limit(format!(
                "the system has no memory for a KV cache of {capacity} positions, which takes {bytes} bytes; ask for \
                 a smaller context"
            ))
        };
        // Asked for at once and given back: a system may promise each layer what it would not promise all of them.
        // Small sizes are not probed: giving them back would make the allocator clear (and so commit) them later.
        if bytes > PROBED_BYTES {
            let whole = usize::try_from(bytes).map_err(|_| limit())?;
            Vec::<u8>::new().try_reserve_exact(whole).map_err(|_| limit())?;
        }
        let layer = |_| KvLayer::new(shape).map_err(|_| limit());
        let first = blocks.start;
        let layers = blocks.map(layer).collect::<Result<_>>()?;
        Ok(Self { layers, first, shape, len: 0, most: 0 })
    }

    /// What a cache of `capacity` positions takes, which is not made.
    #[must_use]
    pub fn sizes_for(params: &DecoderParams, capacity: usize, format: KvFormat) -> KvSizes {
        let shape = shape(params, capacity, format);
        KvSizes { shape, bytes: Self::bytes_for(params, capacity, format) }
    }

    /// What it takes.
    #[must_use]
    pub fn sizes(&self) -> KvSizes {
        KvSizes { shape: self.shape, bytes: self.bytes() }
    }

    /// Bytes of a cache of `capacity` positions.
    #[must_use]
    pub fn bytes_for(params: &DecoderParams, capacity: usize, format: KvFormat) -> u64 {
        shape(params, capacity, format).bytes().saturating_mul(u64::from(params.block_count))
    }

    /// Bytes of this cache.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.shape.bytes().saturating_mul(self.layers.len() as u64)
    }

    /// How elements are stored.
    #[must_use]
    pub fn format(&self) -> KvFormat {
        self.shape.format
    }

    /// Sizes of each layer's cache.
    pub(super) fn shape(&self) -> &KvShape {
        &self.shape
    }

    /// Positions that there is room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shape.capacity
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

    /// The blocks whose keys and values it holds.
    pub(super) fn blocks(&self) -> Range<usize> {
        self.first..self.first + self.layers.len()
    }

    /// The cache of block `index`, which must be one of [`blocks`](Self::blocks).
    pub(super) fn layer(&mut self, index: usize) -> &mut KvLayer {
        &mut self.layers[index - self.first]
    }

    /// Bytes that were ever written, in whole pages: the system commits no others.
    #[must_use]
    pub fn touched_bytes(&self) -> u64 {
        let (most, capacity) = (self.most as u64, self.shape.capacity.max(1) as u64);
        let part = u128::from(self.bytes()) * u128::from(most) / u128::from(capacity);
        // Keys and values of each head lie by themselves.
        let pages = 2 * PAGE * (self.layers.len() * self.shape.kv_heads) as u64;
        (part as u64).saturating_add(if most > 0 { pages } else { 0 }).min(self.bytes())
    }

    pub(super) fn advance(&mut self, n: usize) {
        self.len += n;
        self.most = self.most.max(self.len);
    }
}

/// Sizes of each layer's cache.
fn shape(params: &DecoderParams, capacity: usize, format: KvFormat) -> KvShape {
    KvShape {
        format,
        kv_heads: params.head_count_kv as usize,
        key_dim: params.key_length as usize,
        value_dim: params.value_length as usize,
        capacity,
    }
}

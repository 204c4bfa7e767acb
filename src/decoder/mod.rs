//! The transformer forward pass and its KV cache.
//!
//! Lives here: [`Decoder`] (an opened model's graph), [`kv::KvCache`], [`forward::Forward`] (one batch in
//! progress, which can pause anywhere and resume). Reads weights only through `store` and computes only
//! through [`Backend`]. May be called by `generate` and above. Must not know: text, sampling.

pub mod forward;
pub mod kv;
mod rope;
mod weights;

use std::sync::Arc;

use crate::error::Result;
use crate::graph::params::DecoderParams;
use crate::kernels::backend::Backend;
use crate::kernels::division::joined_bytes;
use crate::store::forecast::WeightSizes;
use crate::store::{Mode, ReadAhead, Store};
use rope::RopeTable;
use weights::Weights;

/// A decoder-only model, ready to compute. Immutable and shared between sessions.
#[derive(Debug)]
pub struct Decoder {
    store: Arc<Store>,
    backend: Arc<dyn Backend>,
    params: DecoderParams,
    weights: Weights,
    rope: RopeTable,
    read_ahead: ReadAhead,
    /// The capsules that a pass reads, in that order.
    uses: Vec<usize>,
}

impl Decoder {
    /// Resolves every tensor of the graph against the store. Norms, biases and frequency factors are decoded
    /// to f32; nothing else is copied.
    ///
    /// # Errors
    /// [`crate::Error::Malformed`] naming a capsule or tensor that the architecture needs and the file lacks;
    /// [`crate::Error::Limit`] where the store's budget has no room for tables and buffers.
    pub fn new(store: Arc<Store>, backend: Arc<dyn Backend>) -> Result<Self> {
        Self::beside(store, backend, |_| Ok(0))
    }

    /// As [`new`](Self::new); an error names a budget that has room for the bytes that `later` says, too.
    ///
    /// # Errors
    /// Those of [`new`](Self::new) and of `later`.
    pub(crate) fn beside(
        store: Arc<Store>,
        backend: Arc<dyn Backend>,
        later: impl FnOnce(&Self) -> Result<u64>,
    ) -> Result<Self> {
        let params = store.manifest().model.decoder.clone();
        let weights = Weights::resolve(&store, &params)?;
        let rope = RopeTable::new(&params.rope, weights.rope_factors.as_deref());
        // Of a range of the capsules only these are computed with: no other is asked for or held.
        let range = store.range();
        let used = weights.capsules_in_use().enumerate();
        let used: Vec<_> = used.map(|(index, capsule)| capsule.filter(|_| range.contains(&index))).collect();
        let read_ahead = ReadAhead::new(&store, used.iter().copied());
        let uses: Vec<usize> = used.into_iter().flatten().collect();
        let joined = joined_bytes(store.longest_divided_group()).saturating_mul(backend.threads());
        let tables = weights.vector_bytes().saturating_add(joined) as u64;
        let decoder = Self { store, backend, params, weights, rope, read_ahead, uses };
        let later = if decoder.store.budget().is_some() { later(&decoder)? } else { 0 };
        decoder.store.limit(&decoder.uses, tables, later)?;
        Ok(decoder)
    }

    /// Bytes without which weights cannot be computed with in mode `mode` under a budget.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for shapes that the reader refuses.
    pub(crate) fn least_weights(&self, mode: Mode) -> Result<u64> {
        self.store.least_weights(mode, &self.uses)
    }

    /// What passes and drafts read.
    #[must_use]
    pub fn weight_sizes(&self) -> WeightSizes {
        self.store.weight_sizes(&self.uses)
    }

    /// The hyper-parameters.
    #[must_use]
    pub fn params(&self) -> &DecoderParams {
        &self.params
    }

    /// Where the weights come from.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What computes.
    #[must_use]
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// Bytes of tables that are held in memory beside the mapped weights.
    #[must_use]
    pub fn table_bytes(&self) -> usize {
        self.weights.vector_bytes()
    }
}

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
use crate::store::{Mode, ReadAhead, Store, WeightNeeds};
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
    /// Bytes of a budget that are claimed beside weights and sessions.
    tables: u64,
}

impl Decoder {
    /// Resolves every tensor of the graph against the store. Norms, biases and frequency factors are decoded
    /// to f32; nothing else is copied.
    ///
    /// # Errors
    /// [`crate::Error::Malformed`] naming a capsule or tensor that the architecture needs and the file lacks;
    /// [`crate::Error::Limit`] where the store's budget has no room for tables and buffers.
    pub fn new(store: Arc<Store>, backend: Arc<dyn Backend>) -> Result<Self> {
        let decoder = Self::unlimited(store, backend)?;
        decoder.limit(0)?;
        Ok(decoder)
    }

    /// As [`new`](Self::new), before the store's budget is asked: [`limit`](Self::limit) does that, and nothing is computed
    /// before.
    ///
    /// # Errors
    /// [`crate::Error::Malformed`] as for [`new`](Self::new); [`crate::Error::Unsupported`] of an ONNX model.
    pub(crate) fn unlimited(store: Arc<Store>, backend: Arc<dyn Backend>) -> Result<Self> {
        let params = store.primary().contents().decoder()?.clone();
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
        let tables = tables.saturating_add(store.held_bytes());
        Ok(Self { store, backend, params, weights, rope, read_ahead, uses, tables })
    }

    /// Has the store's budget hold tables and weights, where there is one.
    ///
    /// # Errors
    /// [`crate::Error::Limit`] that names a budget with room for `later` bytes, too.
    pub(crate) fn limit(&self, later: u64) -> Result<()> {
        self.store.limit(&self.uses, self.tables, later)
    }

    /// The same graph in another mode at full precision, for `reason`; unlimited again.
    #[must_use]
    pub(crate) fn in_mode(mut self, mode: Mode, reason: String) -> Self {
        let budget = self.store.budget().cloned();
        self.store = Arc::new(self.store.in_mode(mode, reason, budget));
        self
    }

    /// Bytes of a budget that are claimed beside weights and sessions.
    pub(crate) fn claimed_tables(&self) -> u64 {
        self.tables
    }

    /// What weights need of a budget in mode `mode`.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] for shapes that the reader refuses.
    pub(crate) fn weight_needs(&self, mode: Mode) -> Result<WeightNeeds> {
        self.store.weight_needs(mode, &self.uses)
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

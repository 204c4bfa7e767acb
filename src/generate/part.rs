//! A part of a model: the capsules of one process among several that share the work.

use std::ops::Range;
use std::sync::Arc;

use super::model::Model;
use super::session::SessionOptions;
use crate::decoder::forward::{Forward, Input, Logits, blocks_of};
use crate::decoder::kv::KvCache;
use crate::error::{Error, Result};
use crate::pool::{CancelToken, Gate, Progress};
use crate::store::budget::Claim;

/// A sequence on a range of a model's capsules: activations come in, and go out to whoever has the capsules behind. The
/// last part gives logits, with the bits that one process would have. Belongs to one thread at a time.
#[derive(Debug)]
pub struct Part {
    model: Arc<Model>,
    capsules: Range<usize>,
    cache: KvCache,
    forward: Forward,
    claim: Option<Claim>,
}

/// What a part gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Output<'a> {
    /// `[n, embedding_length]`: the input of the next part.
    Hidden(&'a [f32]),
    /// `[1, vocab]` or `[n, vocab]`, of the part that has the head.
    Logits(&'a [f32]),
}

impl Part {
    /// A sequence on the capsules that the model was opened for. Of the options `batch` means nothing here.
    ///
    /// # Errors
    /// [`Error::Limit`] as for a session.
    pub fn new(model: Arc<Model>, options: &SessionOptions) -> Result<Self> {
        let decoder = model.decoder();
        let capsules = model.store().range();
        let blocks = blocks_of(&capsules, decoder.capsule_count());
        let context = super::session::context_of(&model, options);
        let cache = KvCache::of_blocks(decoder.params(), blocks, context, options.kv_format)?;
        let claim = match model.store().budget() {
            Some(budget) => Some(budget.claim("the KV cache", cache.bytes())?),
            None => None,
        };
        Ok(Self { model, capsules, cache, forward: Forward::default(), claim })
    }

    /// The capsules, by index.
    #[must_use]
    pub fn capsules(&self) -> Range<usize> {
        self.capsules.clone()
    }

    /// Positions that are evaluated.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cache.len()
    }

    /// Whether nothing is evaluated.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cache.is_empty()
    }

    /// Forgets every position from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.cache.truncate(len);
    }

    /// Evaluates the positions that follow: token ids where the part begins with the first capsule, else the activations
    /// of the part before. With `all` the head gives the logits of every position, else of the last.
    ///
    /// # Errors
    /// Those of [`Decoder::begin_part`](crate::decoder::Decoder::begin_part); [`Error::Limit`] where the budget has no
    /// room for the activations; [`Error::Cancelled`]. After any the part is as it was.
    pub fn eval(&mut self, input: Input<'_>, all: bool, cancel: Option<&CancelToken>) -> Result<Output<'_>> {
        let decoder = self.model.decoder();
        let wanted = if all { Logits::All } else { Logits::Last };
        let width = decoder.params().embedding_length as usize;
        let n = match input {
            Input::Tokens(tokens) => tokens.len(),
            Input::Hidden(hidden) => hidden.len() / width,
        };
        if let Some(claim) = &mut self.claim {
            let needed = self.cache.bytes().saturating_add(decoder.batch_bytes(&self.cache, n, wanted)?);
            if needed > claim.bytes() {
                claim.resize(needed)?;
            }
        }
        decoder.begin_part(&mut self.forward, &self.cache, input, self.capsules.clone(), wanted)?;
        let gate = Gate { deadline: None, cancel: cancel.cloned() };
        if let Progress::Paused(_) = decoder.advance(&mut self.forward, &mut self.cache, &gate)? {
            self.forward.abandon();
            return Err(Error::Cancelled);
        }
        Ok(if self.capsules.end == decoder.capsule_count() {
            Output::Logits(self.forward.logits())
        } else {
            Output::Hidden(self.forward.hidden())
        })
    }
}

//! A part of a model: the capsules of one process among several that share the work.

use std::ops::Range;
use std::sync::Arc;

use super::model::Model;
use super::session::{SessionOptions, check_logits, context_of};
use crate::decoder::forward::{Forward, Input, Logits, blocks_of, check_room};
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
    /// Whether `forward` holds the output of the last evaluation.
    given: bool,
    claim: Option<Claim>,
    /// Tokens of the largest batches so far, of which the last and of which all logits were wanted: buffers keep their room.
    largest: [usize; 2],
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
        let context = context_of(decoder, options);
        let cache = KvCache::of_blocks(decoder.params(), blocks, context, options.kv_format)?;
        let claim = match model.store().budget() {
            Some(budget) => Some(budget.claim("the KV cache", cache.bytes())?),
            None => None,
        };
        Ok(Self { model, capsules, cache, forward: Forward::default(), given: false, claim, largest: [0; 2] })
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
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
        self.given = false;
    }

    /// Evaluates the positions that follow: token ids where the part begins with the first capsule, else the activations
    /// of the part before. With `all` the head gives the logits of every position, else of the last.
    ///
    /// # Errors
    /// Those of [`Decoder::begin_part`](crate::decoder::Decoder::begin_part); [`Error::InvalidArgument`] for activations
    /// that are not finite; [`Error::Limit`] where the budget has no room for the activations or the logits of all exceed
    /// 4 GiB; [`Error::Cancelled`]. After any the part has the positions that it had, and no output.
    pub fn eval(&mut self, input: Input<'_>, all: bool, cancel: Option<&CancelToken>) -> Result<Output<'_>> {
        self.given = false;
        let decoder = self.model.decoder();
        let wanted = if all { Logits::All } else { Logits::Last };
        let width = decoder.params().embedding_length as usize;
        let n = match input {
            Input::Tokens(tokens) => tokens.len(),
            Input::Hidden(hidden) => hidden.len() / width,
        };
        check_room(&self.cache, n)?;
        if all && self.gives_logits() {
            check_logits(&self.model, n)?;
        }
        if let Input::Hidden(hidden) = input {
            check_finite(hidden, width)?;
        }
        if let Some(claim) = &mut self.claim {
            let mut largest = self.largest;
            let own = &mut largest[usize::from(wanted == Logits::All)];
            *own = n.max(*own);
            let batches = [(largest[0], Logits::Last), (largest[1], Logits::All)];
            let needed =
                self.cache.bytes().saturating_add(decoder.batch_bytes(&self.cache.sizes().shape, &batches)?);
            if needed > claim.bytes() {
                claim.resize(needed)?;
            }
            self.largest = largest;
        }
        decoder.begin_part(&mut self.forward, &self.cache, input, self.capsules.clone(), wanted)?;
        let gate = Gate { deadline: None, cancel: cancel.cloned() };
        if let Progress::Paused(_) = decoder.advance(&mut self.forward, &mut self.cache, &gate)? {
            self.forward.abandon();
            return Err(Error::Cancelled);
        }
        self.given = true;
        Ok(self.output())
    }

    /// What the last evaluation gave; no rows before the first, after one that failed, and after
    /// [`truncate`](Self::truncate).
    #[must_use]
    pub fn output(&self) -> Output<'_> {
        match (self.gives_logits(), self.given) {
            (true, true) => Output::Logits(self.forward.logits()),
            (true, false) => Output::Logits(&[]),
            (false, true) => Output::Hidden(self.forward.hidden()),
            (false, false) => Output::Hidden(&[]),
        }
    }

    fn gives_logits(&self) -> bool {
        self.capsules.end == self.model.decoder().capsule_count()
    }
}

/// Activations that are no numbers would stay in the KV cache and spoil every later position.
fn check_finite(hidden: &[f32], width: usize) -> Result<()> {
    match hidden.iter().position(|x| !x.is_finite()) {
        Some(at) => Err(Error::InvalidArgument(format!(
            "activation {} of row {} is {}, no finite number; they must arrive as the part before gave them",
            at % width,
            at / width,
            hidden[at]
        ))),
        None => Ok(()),
    }
}

//! What a session demands of its model's budget.

use super::model::Model;
use super::speculate;
use crate::decoder::Decoder;
use crate::decoder::forward::Logits;
use crate::decoder::kv::{KvCache, KvSizes};
use crate::error::{Error, Result};
use crate::kernels::kv::KvFormat;
use crate::store::Mode;
use crate::store::budget::Claim;

/// Share of a budget that the activations of a batch take at most, where its size is the library's choice.
const BATCH_SHARE: u64 = 32;

/// The same of a batch of up to [`SMALL_BATCH`] tokens: each batch of a prompt is a pass over all that is streamed, so short
/// ones cost more than the pins that they leave room for.
const SMALL_SHARE: u64 = 8;
const SMALL_BATCH: usize = 64;

/// Share of a budget that the logits of guesses take at most, but for a few.
const GUESSES_SHARE: u64 = 40;

/// Sizes of a session's batches, and the bytes of its KV cache and of buffers that have room for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Demand {
    /// Tokens of a batch at most; 0, without a budget: as many as suit the machine.
    pub batch: usize,
    /// Guesses of a round at most.
    pub guesses: usize,
    /// Tokens of a round of guesses, of which all logits are wanted; `None` without guesses or without a budget.
    pub round: Option<usize>,
    /// The bytes; 0 without a budget.
    pub bytes: u64,
}

impl Demand {
    /// Of a session without a budget: as much as suits the machine.
    pub fn unbounded(cache: &KvSizes, batch: usize) -> Self {
        Self {
            batch,
            guesses: speculate::MOST.min(cache.shape.capacity.saturating_sub(1)),
            round: None,
            bytes: 0,
        }
    }

    /// What a session in mode `mode` can do with in a budget of `total` bytes, best first. Batches have `batch` tokens; 0:
    /// as many as suit the machine, or fewer.
    ///
    /// # Errors
    /// [`Error::Limit`] where the system has no memory for the buffers.
    pub fn choices(
        decoder: &Decoder,
        mode: Mode,
        cache: &KvSizes,
        batch: usize,
        total: u64,
    ) -> Result<Vec<Self>> {
        let bytes_of = |tokens: usize, wanted: Logits| decoder.batch_bytes(&cache.shape, &[(tokens, wanted)]);
        let largest = decoder.backend().max_batch(false);
        let mut n = if batch == 0 { largest } else { batch.min(largest) }.min(cache.shape.capacity).max(1);
        let most = |n: usize| total / if n > SMALL_BATCH { BATCH_SHARE } else { SMALL_SHARE };
        while batch == 0 && n > 1 && bytes_of(n, Logits::Last)? > most(n) {
            n = n.div_ceil(2);
        }
        let guessing = mode == Mode::Speculative;
        let mut guesses = speculate::MOST.min(cache.shape.capacity.saturating_sub(1));
        let fewest = guesses.min(speculate::FEWEST);
        while guessing && guesses > fewest && bytes_of(guesses + 1, Logits::All)? > total / GUESSES_SHARE {
            guesses -= 1;
        }
        let demand = |batch: usize, guesses: usize| -> Result<Self> {
            let round = guessing.then_some(guesses + 1);
            Ok(Self { batch, guesses, round, bytes: needed_bytes(decoder, cache, batch, round, None)? })
        };
        let mut choices = vec![demand(n, guesses)?];
        while batch == 0 && n > SMALL_BATCH {
            n = n.div_ceil(2);
            choices.push(demand(n, guesses)?);
        }
        // Rather shorter rounds than batches so short.
        while guessing && guesses > fewest {
            guesses = (guesses / 2).max(fewest);
            choices.push(demand(n, guesses)?);
        }
        while batch == 0 && n > 1 {
            n = n.div_ceil(2);
            choices.push(demand(n, guesses)?);
        }
        Ok(choices)
    }

    /// Bytes without which no session with that cache can work in mode `mode`.
    ///
    /// # Errors
    /// As [`choices`](Self::choices).
    pub fn least(decoder: &Decoder, mode: Mode, cache: &KvSizes, batch: usize) -> Result<u64> {
        let choices = Self::choices(decoder, mode, cache, batch, 0)?;
        Ok(choices.last().map_or(0, |demand| demand.bytes))
    }
}

/// Bytes of a KV cache and of buffers that have room for batches of `batch` tokens, for rounds of `round` of which all
/// logits are wanted, for the guesses that these verify, and for one batch more.
///
/// # Errors
/// [`Error::Limit`] where the system has no memory for the buffers.
pub(super) fn needed_bytes(
    decoder: &Decoder,
    cache: &KvSizes,
    batch: usize,
    round: Option<usize>,
    more: Option<(usize, Logits)>,
) -> Result<u64> {
    let own = round.map(|round| (round, Logits::All));
    let batches: Vec<_> = [Some((batch.max(1), Logits::Last)), own, more].into_iter().flatten().collect();
    let drafts = if round.is_some() { decoder.batch_bytes(&cache.shape, &[(1, Logits::Last)])? } else { 0 };
    Ok(cache.bytes.saturating_add(decoder.batch_bytes(&cache.shape, &batches)?).saturating_add(drafts))
}

/// What a session has of its model's budget, which holds that from now on; a claim where there is a budget.
pub(super) fn share(model: &Model, cache: &KvCache, batch: usize) -> Result<(Demand, Option<Claim>)> {
    let Some(budget) = model.store().budget() else {
        return Ok((Demand::unbounded(&cache.sizes(), batch), None));
    };
    let mode = model.store().mode();
    let mut refused = None;
    for demand in Demand::choices(model.decoder(), mode, &cache.sizes(), batch, budget.total())? {
        match budget.claim("the KV cache and activations", demand.bytes) {
            Ok(claim) => return Ok((demand, Some(claim))),
            // The last one refused needs the least.
            Err(error @ Error::Limit(_)) => refused = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(match refused {
        Some(Error::Limit(why)) => {
            Error::Limit(format!("{why}; {}", cures(cache, batch, model.store().drafts())))
        }
        _ => Error::Internal("a session has no demand".into()),
    })
}

/// What makes a session smaller.
fn cures(cache: &KvCache, batch: usize, drafts: bool) -> String {
    let mut text = format!("or make the session smaller: a context below {} positions", cache.capacity());
    if cache.format() == KvFormat::F16 {
        text.push_str(", a KV cache of type q8_0");
    }
    if batch > 1 {
        text.push_str(&format!(", batches of fewer than {batch} tokens"));
    }
    if drafts {
        text.push_str(", or mode exact, which needs no room for the mini");
    }
    text
}

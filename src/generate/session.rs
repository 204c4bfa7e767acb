//! A session: one sequence of tokens, its KV cache, and the generation in progress.

mod rounds;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::demand::{Demand, needed_bytes, share};
use super::model::Model;
use super::speculate::{SpeculationStats, Speculator};
use super::{Sampler, SamplingOptions, StopMatcher};
use crate::decoder::Decoder;
use crate::decoder::forward::{Forward, Logits};
use crate::decoder::kv::KvCache;
use crate::error::{Error, Result};
use crate::kernels::kv::KvFormat;
use crate::pool::{CancelToken, Gate, Progress, StandardFloats};
use crate::store::Mode;
use crate::store::budget::Claim;
use crate::text::Detokenizer;

/// Context length where neither caller nor model ask for less.
const DEFAULT_CONTEXT: usize = 4096;

/// Bytes of logits that one evaluation may return.
const MAX_LOGITS: u64 = 4 << 30;

/// How to make a session.
#[derive(Clone, Debug, Default)]
pub struct SessionOptions {
    /// Positions that the KV cache has room for; 0: the model's own context, at most 4096.
    pub context: usize,
    /// Tokens that are evaluated together while a prompt is read; 0: what suits the machine. It never
    /// changes a bit of the results.
    pub batch: usize,
    /// How the KV cache stores its elements; `Q8_0` takes about half the memory of `F16`.
    pub kv_format: KvFormat,
    /// In mode speculative: leave out guesses that repeated text goes on as before, and have the mini guess alone.
    pub without_lookup: bool,
}

/// What to generate.
#[derive(Clone, Debug, Default)]
pub struct GenerateOptions {
    /// How the next token is chosen.
    pub sampling: SamplingOptions,
    /// Tokens at most; 0: as many as the context has room for.
    pub max_tokens: usize,
    /// The text ends before the first of these.
    pub stop: Vec<String>,
    /// Go on after an end-of-generation token (for measurements).
    pub ignore_end: bool,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended its text.
    End,
    /// A stop string came.
    Stop,
    /// `max_tokens` were generated.
    Length,
    /// The context is full.
    Context,
}

impl FinishReason {
    /// The reason's name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::End => "end",
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Context => "context",
        }
    }
}

/// What one step of a generation gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The gate closed; call again to go on.
    Paused,
    /// A token and the text that is now complete (it may be empty). The token that ends a text comes too.
    Token {
        /// The token.
        id: u32,
        /// Text that became complete with it.
        text: String,
    },
    /// The generation is over: every token and all text was given before.
    Finished(FinishReason),
}

/// Times and counts of the last generation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timings {
    /// Tokens of the prompt that were evaluated (a kept prefix is not).
    pub prompt_tokens: usize,
    /// Computing time of the prompt.
    pub prefill: Duration,
    /// From the start of the generation to its first token.
    pub first_token: Duration,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// Computing time of the tokens after the first.
    pub decode: Duration,
}

/// A sequence of tokens on a model. Belongs to one thread at a time.
#[derive(Debug)]
pub struct Session {
    model: Arc<Model>,
    cache: KvCache,
    forward: Forward,
    batch: usize,
    /// Tokens of a round of guesses that the claim has room for.
    round: Option<usize>,
    /// What the KV cache and the buffers take of the model's budget, where it has one.
    claim: Option<Claim>,
    /// In mode speculative.
    speculator: Option<Speculator>,
    tokens: Vec<u32>,
    pending: Vec<u32>,
    in_flight: usize,
    generation: Option<Generation>,
    timings: Timings,
    /// Passes that the prompt has taken.
    prompt_passes: u32,
    /// Of no two states of any sessions alike: a group goes on with a batch only where nothing else happened to its
    /// sessions.
    version: u64,
}

/// A number that no session had before.
fn new_version() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[derive(Debug)]
struct Generation {
    sampler: Sampler,
    detokenizer: Option<Detokenizer>,
    stop: StopMatcher,
    max_tokens: usize,
    ignore_end: bool,
    begun: Instant,
    finished: Option<FinishReason>,
}

impl Session {
    /// Makes a session.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the model was opened for a range of its capsules; [`Error::Limit`] where the system has no memory for the KV cache or the model's budget no room; it names the
    /// smallest budget that would do.
    pub fn new(model: Arc<Model>, options: &SessionOptions) -> Result<Self> {
        let (opened, count) = (model.store().range(), model.decoder().capsule_count());
        if opened != (0..count) {
            return Err(Error::InvalidArgument(format!(
                "{}: the model was opened for its capsules {} to {} of {count}, and a session passes all; make a part, or \
                 open the model without a range",
                model.store().primary().name(),
                opened.start,
                opened.end
            )));
        }
        let context = context_of(model.decoder(), options);
        let cache = KvCache::new(model.decoder().params(), context, options.kv_format)?;
        let store = model.store();
        let (Demand { batch, guesses, round, .. }, claim) = share(&model, &cache, options.batch)?;
        let speculator = (store.mode() == Mode::Speculative).then(|| {
            Speculator::new(
                store.drafts().then(Forward::draft),
                !options.without_lookup,
                guesses,
                !store.is_mapped(),
            )
        });
        Ok(Self {
            model,
            cache,
            forward: Forward::default(),
            batch,
            round,
            claim,
            speculator,
            tokens: Vec::new(),
            pending: Vec::new(),
            in_flight: 0,
            generation: None,
            timings: Timings::default(),
            prompt_passes: 0,
            version: new_version(),
        })
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Tokens whose keys and values the cache holds.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Positions that the cache has room for.
    #[must_use]
    pub fn context(&self) -> usize {
        self.cache.capacity()
    }

    /// Bytes of the KV cache.
    #[must_use]
    pub fn kv_bytes(&self) -> u64 {
        self.cache.bytes()
    }

    /// How the KV cache stores its elements.
    #[must_use]
    pub fn kv_format(&self) -> KvFormat {
        self.cache.format()
    }

    /// Bytes of the activations' buffers.
    #[must_use]
    pub fn buffer_bytes(&self) -> u64 {
        let draft = self.speculator.as_ref().and_then(|speculator| speculator.draft.as_ref());
        (self.forward.buffer_bytes() + draft.map_or(0, Forward::buffer_bytes)) as u64
    }

    /// Counts of guesses and passes so far, in mode speculative.
    #[must_use]
    pub fn speculation(&self) -> Option<SpeculationStats> {
        self.speculator.as_ref().map(|speculator| speculator.stats)
    }

    /// Times and counts of the last generation.
    #[must_use]
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// Forgets every token from position `len` on, and a generation in progress.
    pub fn truncate(&mut self, len: usize) {
        self.version = new_version();
        self.generation = None;
        self.pending.clear();
        self.forward.abandon();
        if let Some(speculator) = &mut self.speculator {
            speculator.abandon();
        }
        self.in_flight = 0;
        self.cache.truncate(len);
        self.tokens.truncate(len);
    }

    /// Evaluates `tokens` after those that the session holds and returns the logits: of every token,
    /// `[n, vocab]`, where `all` is set, else of the last, `[1, vocab]`. With `all` they are one batch.
    ///
    /// # Errors
    /// Those of [`Decoder::begin`](crate::decoder::Decoder::begin); [`Error::Limit`] where the logits of all
    /// exceed 4 GiB; [`Error::Cancelled`]. After any the session holds the tokens of the batches that were
    /// through, and can be used on.
    pub fn eval(&mut self, tokens: &[u32], all: bool, cancel: Option<&CancelToken>) -> Result<&[f32]> {
        self.truncate(self.tokens.len());
        self.check_room(tokens)?;
        if all {
            check_logits(&self.model, tokens.len())?;
        }
        let gate = Gate { deadline: None, cancel: cancel.cloned() };
        self.pending.extend_from_slice(tokens);
        let wanted = if all { Logits::All } else { Logits::Last };
        while !self.pending.is_empty() {
            let size = if all { self.pending.len() } else { self.batch_size(false) };
            match self.run_batch(size, wanted, &gate) {
                Ok(Progress::Done) => {}
                Ok(Progress::Paused(_)) => {
                    self.truncate(self.tokens.len());
                    return Err(Error::Cancelled);
                }
                Err(error) => {
                    self.truncate(self.tokens.len());
                    return Err(error);
                }
            }
        }
        Ok(self.forward.logits())
    }

    /// Logits of the last evaluation.
    #[must_use]
    pub fn logits(&self) -> &[f32] {
        self.forward.logits()
    }

    /// Bytes of the KV cache that positions were ever written to: the system commits no others.
    #[must_use]
    pub fn kv_touched_bytes(&self) -> u64 {
        self.cache.touched_bytes()
    }

    /// Begins a generation after `prompt`. What the session holds of the same prefix is kept.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an empty prompt, a token out of range or sampling options out of
    /// range; [`Error::Limit`] where the prompt does not fit the context.
    pub fn start(&mut self, prompt: &[u32], options: &GenerateOptions) -> Result<()> {
        let sampler = Sampler::new(options.sampling)?;
        let stop = StopMatcher::new(&options.stop)?;
        if prompt.is_empty() {
            return Err(Error::InvalidArgument("the prompt has no tokens".into()));
        }
        let common = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        // The last token is evaluated again where all are known: its logits are needed.
        let kept = common.min(prompt.len() - 1);
        let rest = &prompt[kept..];
        self.check_ids(rest)?;
        if prompt.len() >= self.cache.capacity() {
            return Err(Error::Limit(format!(
                "a prompt of {} tokens leaves no room in a context of {}; ask for a larger context or shorten it",
                prompt.len(),
                self.cache.capacity()
            )));
        }
        self.truncate(kept);
        self.pending.extend_from_slice(rest);
        self.timings = Timings { prompt_tokens: rest.len(), ..Timings::default() };
        self.prompt_passes = 0;
        self.generation = Some(Generation {
            sampler,
            detokenizer: self.model.tokenizer().ok().map(|_| Detokenizer::continuing(false)),
            stop,
            max_tokens: options.max_tokens,
            ignore_end: options.ignore_end,
            begun: Instant::now(),
            finished: None,
        });
        Ok(())
    }

    /// Goes on with the generation until the next token, its end, or until `gate` closes.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where no generation is in progress; [`Error::Cancelled`] where the gate's
    /// token was cancelled (the generation can be continued after a reset); those of the store.
    pub fn step(&mut self, gate: &Gate) -> Result<Step> {
        let Some(generation) = &self.generation else {
            return Err(Error::InvalidArgument("no generation is in progress; start one first".into()));
        };
        if let Some(reason) = generation.finished {
            return Ok(Step::Finished(reason));
        }
        let begun = Instant::now();
        let first = self.timings.generated_tokens == 0;
        let outcome = if self.speculator.is_some() && !first {
            self.speculate(gate)
        } else {
            self.compute_pending(gate)
        };
        let spent = if first { &mut self.timings.prefill } else { &mut self.timings.decode };
        *spent += begun.elapsed();
        let outcome = outcome?;
        if let (true, Progress::Done, Some(speculator)) = (first, outcome, &mut self.speculator) {
            speculator.expect_pass(self.timings.prefill / self.prompt_passes.max(1));
        }
        match outcome {
            Progress::Done => self.choose(),
            Progress::Paused(_) if gate.cancel.as_ref().is_some_and(CancelToken::is_cancelled) => {
                Err(Error::Cancelled)
            }
            Progress::Paused(_) => Ok(Step::Paused),
        }
    }

    fn compute_pending(&mut self, gate: &Gate) -> Result<Progress> {
        while !self.pending.is_empty() {
            let size = self.batch_size(gate.deadline.is_some());
            if let Progress::Paused(task) = self.run_batch(size, Logits::Last, gate)? {
                return Ok(Progress::Paused(task));
            }
        }
        Ok(Progress::Done)
    }

    /// A step that needs no pass: the end of the generation. Otherwise tokens wait to be evaluated.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub(super) fn step_without_computing(&mut self) -> Result<Option<Step>> {
        let Some(generation) = &self.generation else {
            return Err(Error::InvalidArgument("no generation is in progress; start one first".into()));
        };
        if let Some(reason) = generation.finished {
            return Ok(Some(Step::Finished(reason)));
        }
        // A batch or a round of the session's own that was interrupted begins anew, in company.
        self.forward.abandon();
        self.in_flight = 0;
        if let Some(speculator) = &mut self.speculator {
            speculator.abandon();
        }
        self.cache.truncate(self.tokens.len());
        Ok(None)
    }

    /// Another one after everything that happens to the session but a group's batch in progress.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Tokens of a batch at most, as its budget allows; `None`: as many as suit the machine.
    pub(super) fn largest_batch(&self) -> Option<usize> {
        (self.batch > 0).then_some(self.batch)
    }

    /// Tokens that wait to be evaluated.
    pub(super) fn waiting(&self) -> &[u32] {
        &self.pending
    }

    pub(super) fn cache(&self) -> &KvCache {
        &self.cache
    }

    pub(super) fn cache_mut(&mut self) -> &mut KvCache {
        &mut self.cache
    }

    /// The first `n` of the tokens that waited are evaluated. Whether none is left.
    pub(super) fn evaluated(&mut self, n: usize) -> bool {
        self.version = new_version();
        self.tokens.extend(self.pending.drain(..n));
        self.pending.is_empty()
    }

    /// Samples the next token from the last evaluation and decides whether the generation goes on.
    fn choose(&mut self) -> Result<Step> {
        let vocab = self.model.decoder().params().vocab_size as usize;
        let first = self.row() * vocab;
        let mut forward = std::mem::take(&mut self.forward);
        let step = self.choose_from(forward.logits_mut().get_mut(first..first + vocab).unwrap_or_default());
        self.forward = forward;
        step
    }

    /// Samples the next token from its logits and decides whether the generation goes on.
    pub(super) fn choose_from(&mut self, logits: &mut [f32]) -> Result<Step> {
        let _floats = StandardFloats::enter();
        let position = self.tokens.len();
        let room = self.cache.capacity() - position;
        let Some(generation) = &mut self.generation else {
            return Err(Error::Internal("a token was chosen outside of a generation".into()));
        };
        let id = generation.sampler.sample(logits, &self.tokens, position as u64)?;
        if self.timings.generated_tokens == 0 {
            self.timings.first_token = generation.begun.elapsed();
        }
        self.timings.generated_tokens += 1;
        let tokenizer = self.model.tokenizer().ok();
        let ended = tokenizer.is_some_and(|t| t.is_end_of_generation(id)) && !generation.ignore_end;
        let (mut text, mut stopped) = (String::new(), false);
        if !ended && let (Some(detokenizer), Some(tokenizer)) = (&mut generation.detokenizer, tokenizer) {
            let piece = detokenizer.push(tokenizer, id);
            let released = generation.stop.push(&piece);
            (text, stopped) = (released.text, released.stopped_by.is_some());
        }
        let reason = if ended {
            Some(FinishReason::End)
        } else if stopped {
            Some(FinishReason::Stop)
        } else if generation.max_tokens > 0 && self.timings.generated_tokens >= generation.max_tokens {
            Some(FinishReason::Length)
        } else if room == 0 {
            Some(FinishReason::Context)
        } else {
            None
        };
        generation.finished = reason;
        if reason.is_none() {
            self.pending.push(id);
        }
        if reason.is_some() && !stopped {
            text.push_str(&flush(generation));
        }
        // The last token is reported like any other; the end comes with the next step.
        Ok(Step::Token { id, text })
    }

    /// Runs the next `size` pending tokens, or goes on with the batch in flight.
    fn run_batch(&mut self, size: usize, wanted: Logits, gate: &Gate) -> Result<Progress> {
        if self.in_flight == 0 {
            let n = size.clamp(1, self.pending.len());
            let last = n == self.pending.len();
            let wanted = if last || wanted == Logits::All { wanted } else { Logits::None };
            self.version = new_version();
            self.claim_batch(n, wanted)?;
            self.model.decoder().begin(&mut self.forward, &self.cache, &self.pending[..n], wanted)?;
            self.in_flight = n;
        }
        let progress = self.model.decoder().advance(&mut self.forward, &mut self.cache, gate);
        if progress.is_err() {
            self.in_flight = 0;
        }
        let progress = progress?;
        if progress == Progress::Done {
            self.tokens.extend(self.pending.drain(..self.in_flight));
            self.in_flight = 0;
            self.prompt_passes += 1;
        }
        Ok(progress)
    }

    /// Has the budget hold what a batch needs beyond what the session claimed.
    fn claim_batch(&mut self, n: usize, wanted: Logits) -> Result<()> {
        let Some(claim) = &mut self.claim else { return Ok(()) };
        let claimed = match wanted {
            Logits::All => self.round.is_some_and(|round| n <= round),
            Logits::Last | Logits::None => n <= self.batch,
        };
        if claimed {
            return Ok(());
        }
        let decoder = self.model.decoder();
        let needed = needed_bytes(decoder, &self.cache.sizes(), self.batch, self.round, Some((n, wanted)))?;
        if needed > claim.bytes() { claim.resize(needed) } else { Ok(()) }
    }

    fn batch_size(&self, sliced: bool) -> usize {
        let machine = self.model.decoder().backend().max_batch(sliced);
        if self.batch == 0 { machine } else { self.batch.min(machine) }
    }

    fn check_ids(&self, tokens: &[u32]) -> Result<()> {
        let vocab = self.model.decoder().params().vocab_size;
        match tokens.iter().find(|id| **id >= vocab) {
            Some(id) => Err(Error::InvalidArgument(format!(
                "token id {id} is out of range; the model has {vocab} tokens"
            ))),
            None => Ok(()),
        }
    }

    /// Whether one evaluation may return the logits of so many tokens.
    fn check_room(&self, tokens: &[u32]) -> Result<()> {
        self.check_ids(tokens)?;
        if tokens.is_empty() {
            return Err(Error::InvalidArgument("there are no tokens to evaluate".into()));
        }
        if tokens.len() > self.cache.capacity() - self.tokens.len() {
            return Err(Error::Limit(format!(
                "{} tokens after {} do not fit a context of {}; ask for a larger context",
                tokens.len(),
                self.tokens.len(),
                self.cache.capacity()
            )));
        }
        Ok(())
    }
}

/// Whether the logits of that many tokens may be returned.
pub(super) fn check_logits(model: &Model, tokens: usize) -> Result<()> {
    let vocab = u64::from(model.decoder().params().vocab_size);
    if (tokens as u64).saturating_mul(4 * vocab) > MAX_LOGITS {
        return Err(Error::Limit(format!(
            "the logits of {tokens} tokens over a vocabulary of {vocab} exceed 4 GiB; evaluate fewer tokens at a time"
        )));
    }
    Ok(())
}

/// Positions that a sequence has room for.
pub(super) fn context_of(decoder: &Decoder, options: &SessionOptions) -> usize {
    let trained = decoder.params().context_length as usize;
    if options.context == 0 { trained.min(DEFAULT_CONTEXT) } else { options.context }
}

/// Text that detokenizer and stop matcher still hold back when a generation ends without a stop string.
fn flush(generation: &mut Generation) -> String {
    let rest = generation.detokenizer.as_mut().map(Detokenizer::finish).unwrap_or_default();
    let mut text = generation.stop.push(&rest).text;
    text.push_str(&generation.stop.finish());
    text
}

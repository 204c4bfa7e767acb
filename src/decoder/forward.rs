//! One batch of tokens on its way through the graph: a state machine that can pause and resume anywhere.

mod stages;

use std::collections::BTreeMap;
use std::ops::Range;

use super::Decoder;
use super::kv::KvCache;
use crate::error::{Error, Result};
use crate::kernels::backend::{Activations, AttentionWork, BatchSize};
use crate::kernels::kv::KvShape;
use crate::kernels::memory::make_room;
use crate::pool::{Gate, Progress, StandardFloats};
use crate::store::{Reach, View};

/// Whose logits a batch computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// Nobody's: the batch only fills the cache.
    None,
    /// The last token's; of several sequences each one's.
    Last,
    /// Every token's.
    All,
}

/// The operation that comes next, in order within a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Embed,
    AttnNorm,
    Qkv,
    Rope,
    Attention,
    AttnPrepare,
    AttnOutput,
    FfnNorm,
    GateUp,
    Activate,
    Down,
    HeadNorm,
    Head,
    /// The end of a batch that does not pass the head.
    Sum,
    Done,
}

/// Sums of squares, column by column, by capsule and tensor.
type Squares = BTreeMap<[usize; 2], Vec<f64>>;

/// What enters a batch.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Token ids, at the first capsule.
    Tokens(&'a [u32]),
    /// `[n, embedding_length]`: the activations that the capsule before gave, at any other.
    Hidden(&'a [f32]),
}

/// The tokens of one sequence in a batch.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// The first of its rows.
    first: usize,
    rows: usize,
    /// Position of the first.
    start: usize,
}

/// One batch in progress, and the buffers that every batch of a session reuses.
#[derive(Debug)]
pub struct Forward {
    view: View,
    tokens: Vec<u32>,
    /// Tokens of the batch, whether they are known here or not.
    n: usize,
    /// The capsules that the batch passes.
    capsules: Range<usize>,
    /// Whether `hidden` is complete: nothing waits in `branch` to be added.
    complete: bool,
    /// Rows that are still computed: all tokens, or in the last block only those whose logits are wanted.
    rows: usize,
    /// The sequences that the tokens belong to, one after the other.
    parts: Vec<Part>,
    /// The part whose attention is computed.
    part: usize,
    wanted: Logits,
    stage: Stage,
    block: usize,
    /// The task of attention to resume from.
    task: usize,
    /// How far the products of the stage came.
    reach: Reach,
    hidden: Vec<f32>,
    normed: Vec<f32>,
    branch: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    cos: Vec<f32>,
    sin: Vec<f32>,
    logits: Vec<f32>,
    input: Activations,
    attention: AttentionWork,
    /// Sums of the squares of what matrices are multiplied with, by capsule and tensor; `None`: nobody asks.
    recorded: Option<Squares>,
}

impl Default for Forward {
    fn default() -> Self {
        Self {
            view: View::Promised,
            tokens: Vec::new(),
            n: 0,
            capsules: 0..0,
            complete: true,
            rows: 0,
            parts: Vec::new(),
            part: 0,
            wanted: Logits::None,
            stage: Stage::Done,
            block: 0,
            task: 0,
            reach: Reach::default(),
            hidden: Vec::new(),
            normed: Vec::new(),
            branch: Vec::new(),
            q: Vec::new(),
            k: Vec::new(),
            v: Vec::new(),
            attended: Vec::new(),
            gate: Vec::new(),
            up: Vec::new(),
            cos: Vec::new(),
            sin: Vec::new(),
            logits: Vec::new(),
            input: Activations::default(),
            attention: AttentionWork::default(),
            recorded: None,
        }
    }
}

impl Forward {
    /// One that computes with the weights of the mini in a store that promises more: its logits are a guess.
    #[must_use]
    pub fn draft() -> Self {
        Self { view: View::Draft, ..Self::default() }
    }

    /// One that adds up the squares of what each matrix is multiplied with, column by column.
    pub(crate) fn recording() -> Self {
        Self { recorded: Some(BTreeMap::new()), ..Self::default() }
    }

    /// The sums so far, by capsule and tensor index.
    pub(crate) fn recorded(&self) -> impl Iterator<Item = (&[usize; 2], &Vec<f64>)> {
        self.recorded.iter().flatten()
    }

    /// One that computes with the mini's form of one capsule, and with all others at full precision.
    pub(crate) fn probe(capsule: usize) -> Self {
        Self { view: View::Only(capsule), ..Self::default() }
    }

    /// Whether the last batch is through.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// Logits of the last batch that is through, `[sequences, vocab]` or `[n, vocab]` as it was asked for.
    #[must_use]
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Activations after the last capsule of a batch that is through and did not pass the head: `[n, embedding_length]`.
    #[must_use]
    pub fn hidden(&self) -> &[f32] {
        &self.hidden
    }

    /// The logits, for a sampler that changes them.
    pub fn logits_mut(&mut self) -> &mut [f32] {
        &mut self.logits
    }

    /// Gives the current batch up; the cache keeps what was there before it.
    pub fn abandon(&mut self) {
        self.stage = Stage::Done;
        self.tokens.clear();
    }

    /// Bytes of the buffers.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        let floats = [
            &self.hidden,
            &self.normed,
            &self.branch,
            &self.q,
            &self.k,
            &self.v,
            &self.attended,
            &self.gate,
            &self.up,
            &self.cos,
            &self.sin,
            &self.logits,
        ];
        floats.iter().map(|v| v.capacity() * 4).sum::<usize>() + self.input.bytes() + self.attention.bytes()
    }
}

impl Decoder {
    /// Begins a batch: `tokens` follow the positions that `cache` holds.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for no tokens or a token id out of range; [`Error::Limit`] where the cache
    /// has no room for them, or the system no memory for what they need: smaller batches then still work.
    pub fn begin(
        &self,
        forward: &mut Forward,
        cache: &KvCache,
        tokens: &[u32],
        wanted: Logits,
    ) -> Result<()> {
        self.begin_many(forward, &[(cache, tokens)], wanted)
    }

    /// As [`begin`](Self::begin) for several sequences, each with its cache and its tokens, which share the pass over the
    /// weights. None has another bit for it.
    ///
    /// # Errors
    /// Those of [`begin`](Self::begin).
    pub fn begin_many(
        &self,
        forward: &mut Forward,
        sequences: &[(&KvCache, &[u32])],
        wanted: Logits,
    ) -> Result<()> {
        for (_, tokens) in sequences {
            self.check_ids(tokens)?;
        }
        let sizes: Vec<_> = sequences.iter().map(|(cache, tokens)| (*cache, tokens.len())).collect();
        self.prepare(forward, &sizes, 0..self.capsule_count(), wanted)?;
        sequences.iter().for_each(|(_, tokens)| forward.tokens.extend_from_slice(tokens));
        Ok(())
    }

    /// Begins a batch that passes `capsules` only; `cache` holds at least their blocks. With the head among them the
    /// logits that are `wanted` come out ([`Forward::logits`]), else activations ([`Forward::hidden`]): the input of a
    /// batch that passes the capsules behind, here or elsewhere. The bits are those of a batch that passes all.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for capsules that do not exist, that this model was not opened for, or that do not take
    /// this input; those of [`begin`](Self::begin).
    pub fn begin_part(
        &self,
        forward: &mut Forward,
        cache: &KvCache,
        input: Input<'_>,
        capsules: Range<usize>,
        wanted: Logits,
    ) -> Result<()> {
        let (count, width) = (self.capsule_count(), self.params.embedding_length as usize);
        let opened = self.store.range();
        let wrong = |why: String| Err(Error::InvalidArgument(why));
        if capsules.is_empty() || capsules.end > count {
            let (first, end) = (capsules.start, capsules.end);
            return wrong(format!("the capsules {first} to {end} are no range of the model's {count}"));
        }
        if capsules.start < opened.start || capsules.end > opened.end {
            return wrong(format!(
                "the model was opened for its capsules {} to {} only",
                opened.start, opened.end
            ));
        }
        let blocks = blocks_of(&capsules, count);
        let held = cache.blocks();
        if !blocks.is_empty() && (blocks.start < held.start || blocks.end > held.end) {
            return wrong("the KV cache was made for other blocks".into());
        }
        let n = match (input, capsules.start) {
            (Input::Tokens(tokens), 0) => {
                self.check_ids(tokens)?;
                tokens.len()
            }
            (Input::Hidden(hidden), 1..) if hidden.len().is_multiple_of(width) => hidden.len() / width,
            (Input::Hidden(hidden), 1..) => {
                return wrong(format!("{} activations are no rows of {width}", hidden.len()));
            }
            (Input::Tokens(_), _) => return wrong("token ids enter at the first capsule only".into()),
            (Input::Hidden(_), 0) => return wrong("the first capsule takes token ids".into()),
        };
        // Behind the last attention nothing reads the rows whose logits are not wanted.
        let only_last = wanted == Logits::Last
            && capsules.start >= 2 * self.weights.blocks.len()
            && capsules.end == count;
        self.prepare(forward, &[(cache, n)], capsules, wanted)?;
        match input {
            Input::Tokens(tokens) => forward.tokens.extend_from_slice(tokens),
            Input::Hidden(hidden) => {
                forward.rows = if only_last { 1 } else { n };
                forward.hidden.clear();
                forward.hidden.extend_from_slice(&hidden[(n - forward.rows) * width..]);
                self.angles(forward);
            }
        }
        Ok(())
    }

    /// Capsules of the graph.
    #[must_use]
    pub fn capsule_count(&self) -> usize {
        2 * self.weights.blocks.len() + 2
    }

    /// Makes room for a batch of sequences, each with its cache and its number of tokens, and puts it at its first stage.
    fn prepare(
        &self,
        forward: &mut Forward,
        sequences: &[(&KvCache, usize)],
        capsules: Range<usize>,
        wanted: Logits,
    ) -> Result<()> {
        if sequences.is_empty() {
            return Err(Error::InvalidArgument("a batch needs at least one token".into()));
        }
        for (cache, n) in sequences {
            check_room(cache, *n)?;
        }
        forward.abandon();
        let sizes: Vec<_> = sequences.iter().map(|(cache, n)| (*cache.shape(), cache.len(), *n)).collect();
        if let Err(refused) = self.reserve(forward, &sizes, wanted) {
            // What was granted before the refusal is given back.
            *forward = Forward { view: forward.view, ..Forward::default() };
            return Err(refused);
        }
        forward.parts.clear();
        forward.n = 0;
        for (cache, rows) in sequences {
            forward.parts.push(Part { first: forward.n, rows: *rows, start: cache.len() });
            forward.n += rows;
        }
        let last = self.capsule_count() - 1;
        forward.stage = match capsules.start {
            0 => Stage::Embed,
            head if head == last => Stage::HeadNorm,
            attn if attn % 2 == 1 => Stage::AttnNorm,
            _ => Stage::FfnNorm,
        };
        forward.block = (capsules.start.saturating_sub(1) / 2).min(self.weights.blocks.len() - 1);
        (forward.rows, forward.wanted, forward.capsules, forward.complete) =
            (forward.n, wanted, capsules, true);
        (forward.part, forward.task, forward.reach) = (0, 0, Reach::default());
        Ok(())
    }

    fn check_ids(&self, tokens: &[u32]) -> Result<()> {
        let vocab = self.params.vocab_size;
        match tokens.iter().find(|id| **id >= vocab) {
            Some(id) => {
                Err(Error::InvalidArgument(format!("token id {id} is out of range; the model has {vocab}")))
            }
            None => Ok(()),
        }
    }

    /// Bytes of the buffers that have room for each of `batches`, so many tokens and their logits, wherever in a KV
    /// cache of that shape they begin.
    ///
    /// # Errors
    /// [`Error::Limit`] where the system has no memory for them.
    pub fn batch_bytes(&self, cache: &KvShape, batches: &[(usize, Logits)]) -> Result<u64> {
        let mut forward = Forward::default();
        for (n, wanted) in batches.iter().filter(|(n, _)| *n > 0) {
            // Reserved memory is no memory yet: the system commits it when it is written.
            self.reserve(&mut forward, &[(*cache, cache.capacity.saturating_sub(*n), *n)], *wanted)?;
        }
        Ok(forward.buffer_bytes() as u64)
    }

    /// Makes room in every buffer for a batch of sequences, each with its cache's sizes, its first position and its
    /// number of tokens, so that no stage needs memory that the system could refuse.
    fn reserve(&self, f: &mut Forward, sequences: &[(KvShape, usize, usize)], wanted: Logits) -> Result<()> {
        let p = &self.params;
        let n = sequences.iter().map(|(.., n)| n).sum();
        let [width, ffn, vocab] =
            [p.embedding_length, p.feed_forward_length, p.vocab_size].map(|size| size as usize);
        let [heads, kv_heads] = [p.head_count, p.head_count_kv].map(|size| size as usize);
        let [key, value] = [p.key_length, p.value_length].map(|size| size as usize);
        let rows = match wanted {
            Logits::None => 0,
            Logits::Last => sequences.len(),
            Logits::All => n,
        };
        let pairs = self.rope.pairs();
        // The largest, which is most likely refused, first.
        let buffers = [
            (&mut f.logits, rows, vocab),
            (&mut f.hidden, n, width),
            (&mut f.normed, n, width),
            (&mut f.branch, n, width),
            (&mut f.q, n, heads * key),
            (&mut f.k, n, kv_heads * key),
            (&mut f.v, n, kv_heads * value),
            (&mut f.attended, n, heads * value),
            (&mut f.gate, n, ffn),
            (&mut f.up, n, ffn),
            (&mut f.cos, n, pairs),
            (&mut f.sin, n, pairs),
        ];
        let k = width.max(heads * value).max(ffn);
        let attention = &mut f.attention;
        let input = &mut f.input;
        buffers
            .into_iter()
            .try_for_each(|(buffer, rows, columns)| make_room(buffer, rows.saturating_mul(columns)))
            .and_then(|()| make_room(&mut f.tokens, n))
            .and_then(|()| {
                // Attention is computed by sequence, products of all together.
                sequences.iter().try_for_each(|(cache, start, own)| {
                    let batch = BatchSize { n, attended: *own, k, heads, start: *start, cache };
                    self.backend.reserve(&batch, input, attention)
                })
            })
            .map_err(|refused| {
                Error::Limit(format!(
                    "no room to evaluate {n} tokens together: {refused}; evaluate fewer at a time, or leave the \
                     process more memory"
                ))
            })
    }

    /// Computes on until the batch is through or `gate` closes. On [`Progress::Done`] the cache holds the
    /// batch's positions.
    ///
    /// # Errors
    /// Those of the store; the batch is then given up.
    pub fn advance(&self, forward: &mut Forward, cache: &mut KvCache, gate: &Gate) -> Result<Progress> {
        self.advance_many(forward, &mut [cache], gate)
    }

    /// As [`advance`](Self::advance), with the caches of all sequences in the order in which they were begun.
    ///
    /// # Errors
    /// Those of [`advance`](Self::advance); [`Error::Internal`] for another number of caches.
    pub fn advance_many(
        &self,
        forward: &mut Forward,
        caches: &mut [&mut KvCache],
        gate: &Gate,
    ) -> Result<Progress> {
        if forward.stage != Stage::Done && forward.parts.len() != caches.len() {
            let (parts, caches) = (forward.parts.len(), caches.len());
            return Err(Error::Internal(format!("{caches} caches for a batch of {parts} sequences")));
        }
        // The embedding of one token is no loop that looks.
        if gate.is_cancelled() {
            return Ok(Progress::Paused(forward.task));
        }
        let _floats = StandardFloats::enter();
        let Some(pass) = self.store.pass(forward.view, self.last_weights(forward), gate) else {
            return Ok(Progress::Paused(forward.task));
        };
        while forward.stage != Stage::Done {
            match self.stage(forward, caches, &pass, gate) {
                Ok(Progress::Done) => {
                    forward.task = 0;
                    self.next(forward);
                }
                Ok(Progress::Paused(task)) => {
                    forward.task = task;
                    return Ok(Progress::Paused(task));
                }
                Err(error) => {
                    forward.abandon();
                    return Err(error);
                }
            }
        }
        pass.finish();
        for (cache, part) in caches.iter_mut().zip(&forward.parts) {
            cache.advance(part.rows);
        }
        forward.tokens.clear();
        forward.parts.clear();
        Ok(Progress::Done)
    }

    /// The last weights that a batch reads: capsule and tensor.
    fn last_weights(&self, f: &Forward) -> [usize; 2] {
        let last = match (f.capsules.end.saturating_sub(1), self.weights.blocks.last()) {
            (0, _) => self.weights.embedding,
            (capsule, _) if capsule < 2 * self.weights.blocks.len() + 1 => {
                let block = &self.weights.blocks[(capsule - 1) / 2];
                if capsule % 2 == 1 { block.attn_output.weight } else { block.down.weight }
            }
            (_, Some(block)) if f.wanted == Logits::None => block.v.weight,
            _ => self.weights.head.weight,
        };
        [last.capsule(), last.tensor()]
    }

    fn next(&self, f: &mut Forward) {
        let ends_after = |capsule: usize| f.capsules.end == capsule + 1;
        f.stage = match f.stage {
            Stage::Embed if ends_after(0) => Stage::Done,
            Stage::Embed => Stage::AttnNorm,
            Stage::AttnNorm => Stage::Qkv,
            Stage::Qkv => Stage::Rope,
            // Past the last block's keys and values only logits are still to be computed.
            Stage::Rope if self.gives_logits(f) && self.is_last(f) && f.wanted == Logits::None => Stage::Done,
            Stage::Rope => Stage::Attention,
            Stage::Attention => Stage::AttnPrepare,
            Stage::AttnPrepare => Stage::AttnOutput,
            Stage::AttnOutput if ends_after(1 + 2 * f.block) => Stage::Sum,
            Stage::AttnOutput => Stage::FfnNorm,
            Stage::FfnNorm => Stage::GateUp,
            Stage::GateUp => Stage::Activate,
            Stage::Activate => Stage::Down,
            Stage::Down if ends_after(2 + 2 * f.block) => Stage::Sum,
            Stage::Down if self.is_last(f) => Stage::HeadNorm,
            Stage::Down => {
                f.block += 1;
                Stage::AttnNorm
            }
            Stage::HeadNorm => Stage::Head,
            Stage::Head | Stage::Sum | Stage::Done => Stage::Done,
        };
    }

    /// Whether the batch passes the head.
    fn gives_logits(&self, f: &Forward) -> bool {
        f.capsules.end == self.capsule_count()
    }

    fn is_last(&self, f: &Forward) -> bool {
        f.block + 1 == self.weights.blocks.len()
    }
}

/// The blocks of a model of `count` capsules of which `capsules` are parts.
pub(crate) fn blocks_of(capsules: &Range<usize>, count: usize) -> Range<usize> {
    let (start, end) = (capsules.start.max(1), capsules.end.min(count - 1));
    if start < end { (start - 1) / 2..end / 2 } else { 0..0 }
}

/// Whether a batch of `n` tokens fits the cache.
///
/// # Errors
/// [`Error::InvalidArgument`] for none, [`Error::Limit`] for more than there is room for.
pub(crate) fn check_room(cache: &KvCache, n: usize) -> Result<()> {
    if n == 0 {
        return Err(Error::InvalidArgument("a batch needs at least one token".into()));
    }
    if n > cache.capacity() - cache.len() {
        return Err(Error::Limit(format!(
            "{n} tokens do not fit a context of {} positions of which {} are used; ask for a larger context",
            cache.capacity(),
            cache.len()
        )));
    }
    Ok(())
}

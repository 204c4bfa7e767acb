//! Several sessions of one model stepped together: one pass over the weights for all of them.

use std::sync::Arc;

use super::session::{Session, Step};
use crate::decoder::forward::{Forward, Logits};
use crate::decoder::kv::KvCache;
use crate::error::{Error, Result};
use crate::pool::{CancelToken, Gate, Progress};
use crate::store::budget::{Budget, Claim};

/// Steps sessions of one model together. Where weights are streamed or memory is the limit, so many tokens cost little
/// more than one. Each session has the tokens that it would have alone.
#[derive(Debug, Default)]
pub struct Group {
    forward: Forward,
    /// The batch in progress: of each session that is part of it the version, and how many of its tokens.
    batch: Vec<(u64, usize)>,
    /// What the buffers take of a budget.
    claim: Option<(Arc<Budget>, Claim)>,
    /// What ended a step in which some sessions had their tokens already: the next call tells.
    failure: Option<Error>,
}

impl Group {
    /// A group that is about no sessions yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A step of each session, as [`Session::step`] gives it, in their order. Where `gate` closes first, or something fails,
    /// those that have none yet are [`Step::Paused`]; the next call goes on with them if it names the same sessions, or tells
    /// what failed. A session in mode speculative does not guess here: the others already share the pass.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where a session has no generation in progress, or not all are of one model;
    /// [`Error::Cancelled`]; [`Error::Limit`] where the model's budget has no room for the activations; those of the store.
    /// After any each session can be stepped again, and none has lost a token.
    pub fn step(&mut self, sessions: &mut [&mut Session], gate: &Gate) -> Result<Vec<Step>> {
        check(sessions)?;
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let mut steps: Vec<Option<Step>> = Vec::with_capacity(sessions.len());
        for session in sessions.iter_mut() {
            steps.push(session.step_without_computing()?);
        }
        while steps.iter().any(Option::is_none) {
            let failure = match self.advance(sessions, &mut steps, gate) {
                Ok(Progress::Done) => continue,
                // What some sessions chose already is theirs; the others go on with the next call.
                Ok(Progress::Paused(_)) if steps.iter().any(Option::is_some) => break,
                Ok(Progress::Paused(_)) if !gate.cancel.as_ref().is_some_and(CancelToken::is_cancelled) => {
                    break;
                }
                Ok(Progress::Paused(_)) => Error::Cancelled,
                Err(error) => error,
            };
            if steps.iter().all(Option::is_none) {
                return Err(failure);
            }
            self.failure = Some(failure);
            break;
        }
        Ok(steps.into_iter().map(|step| step.unwrap_or(Step::Paused)).collect())
    }

    /// One batch: the sessions whose tokens are all evaluated then have their steps.
    fn advance(
        &mut self,
        sessions: &mut [&mut Session],
        steps: &mut [Option<Step>],
        gate: &Gate,
    ) -> Result<Progress> {
        let wanting: Vec<usize> = (0..sessions.len()).filter(|i| steps[*i].is_none()).collect();
        let progress = match self.compute(sessions, &wanting, gate) {
            Ok(Progress::Done) => Progress::Done,
            paused_or_failed => {
                if paused_or_failed.is_err() {
                    self.abandon();
                }
                return paused_or_failed;
            }
        };
        let vocab = sessions.first().map_or(0, |s| s.model().decoder().params().vocab_size as usize);
        let batch = std::mem::take(&mut self.batch);
        let places = places(sessions, &batch).unwrap_or_default();
        let mut failure = None;
        let rows = self.forward.logits_mut().chunks_exact_mut(vocab.max(1));
        for ((index, (_, n)), row) in places.into_iter().zip(batch).zip(rows) {
            if sessions[index].evaluated(n) {
                match sessions[index].choose_from(row) {
                    Ok(step) => steps[index] = Some(step),
                    Err(error) => failure = Some(error),
                }
            }
        }
        failure.map_or(Ok(progress), Err)
    }

    fn abandon(&mut self) {
        self.forward.abandon();
        self.batch.clear();
    }

    /// Evaluates the next tokens of the sessions at `wanting`, or goes on with the batch in progress.
    fn compute(&mut self, sessions: &mut [&mut Session], wanting: &[usize], gate: &Gate) -> Result<Progress> {
        let Some(first) = sessions.first() else { return Ok(Progress::Done) };
        let model = Arc::clone(first.model());
        let decoder = model.decoder();
        let goes_on =
            places(sessions, &self.batch).is_some_and(|places| places.iter().all(|i| wanting.contains(i)));
        if !goes_on {
            self.abandon();
        }
        if self.batch.is_empty() {
            let share = self.share(sessions, wanting, gate)?;
            let begin = |i: &usize| (sessions[*i].version(), sessions[*i].waiting().len().min(share));
            self.batch = wanting.iter().map(begin).collect();
            let part = |(i, (_, n)): (&usize, &(u64, usize))| {
                (sessions[*i].cache(), sessions[*i].waiting().get(..*n).unwrap_or_default())
            };
            let parts: Vec<(&KvCache, &[u32])> = wanting.iter().zip(&self.batch).map(part).collect();
            decoder.begin_many(&mut self.forward, &parts, Logits::Last)?;
        }
        let lost = || Error::Internal("a session of a group's batch is not there".into());
        let places = places(sessions, &self.batch).ok_or_else(lost)?;
        let mut all: Vec<Option<&mut KvCache>> =
            sessions.iter_mut().map(|session| Some(session.cache_mut())).collect();
        let mut caches = Vec::with_capacity(places.len());
        for place in places {
            caches.push(all[place].take().ok_or_else(lost)?);
        }
        decoder.advance_many(&mut self.forward, &mut caches, gate)
    }

    /// Tokens that each of the sessions at `wanting` may have evaluated in a batch: as the machine and their budget allow,
    /// which has room for the buffers from then on.
    fn share(&mut self, sessions: &[&mut Session], wanting: &[usize], gate: &Gate) -> Result<usize> {
        let Some(first) = sessions.first() else { return Ok(1) };
        let (decoder, store) = (first.model().decoder(), first.model().store());
        let machine = decoder.backend().max_batch(gate.deadline.is_some());
        let smallest = wanting.iter().filter_map(|i| sessions[*i].largest_batch()).min();
        let most = smallest.map_or(machine, |smallest| smallest.min(machine));
        let mut share = (most / wanting.len().max(1)).max(1);
        let Some(budget) = store.budget() else { return Ok(share) };
        loop {
            // Attention is cut for the longest of the sequences; logits are of the last token of each.
            let longest = wanting.iter().map(|i| sessions[*i].cache()).max_by_key(|cache| cache.capacity());
            let Some(cache) = longest else { return Ok(share) };
            let all = share * wanting.len();
            let batches = [(all, Logits::Last), (wanting.len(), Logits::All)];
            let needed =
                decoder.batch_bytes(&cache.sizes().shape, &batches)?.max(self.forward.buffer_bytes() as u64);
            let outcome = match &mut self.claim {
                Some((own, claim)) if Arc::ptr_eq(own, budget) => {
                    if needed > claim.bytes() {
                        claim.resize(needed)
                    } else {
                        Ok(())
                    }
                }
                claim => {
                    *claim = None;
                    budget.claim("a group's activations", needed).map(|new| {
                        *claim = Some((Arc::clone(budget), new));
                    })
                }
            };
            match outcome {
                Ok(()) => return Ok(share),
                Err(Error::Limit(_)) if share > 1 => share = share.div_ceil(2),
                Err(error) => return Err(error),
            }
        }
    }
}

/// The index of each session of a batch; `None` where one is not there, or something else happened to it meanwhile.
fn places(sessions: &[&mut Session], batch: &[(u64, usize)]) -> Option<Vec<usize>> {
    let place = |(version, _): &(u64, usize)| sessions.iter().position(|s| s.version() == *version);
    batch.iter().map(place).collect()
}

/// Whether the sessions can be stepped together.
fn check(sessions: &[&mut Session]) -> Result<()> {
    let Some((first, rest)) = sessions.split_first() else { return Ok(()) };
    if rest.iter().any(|session| !Arc::ptr_eq(session.model(), first.model())) {
        return Err(Error::InvalidArgument(
            "the sessions belong to several models; step those of one model together".into(),
        ));
    }
    Ok(())
}

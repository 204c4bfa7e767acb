//! Several sessions of one model stepped together: one pass over the weights for all of them.

use std::sync::Arc;

use super::session::{Session, Step};
use crate::decoder::forward::{Forward, Logits};
use crate::decoder::kv::KvCache;
use crate::error::{Error, Result};
use crate::pool::{CancelToken, Gate, Progress};

/// Steps sessions of one model together. Where weights are streamed or memory is the limit, so many tokens cost little
/// more than one. Each session has the tokens that it would have alone.
#[derive(Debug, Default)]
pub struct Group {
    forward: Forward,
    /// Of the batch in progress: how many tokens of each session that is part of it, by index.
    batch: Vec<(usize, usize)>,
}

impl Group {
    /// A group that is about no sessions yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes of the buffers.
    #[must_use]
    pub fn buffer_bytes(&self) -> u64 {
        self.forward.buffer_bytes() as u64
    }

    /// A step of each session, as [`Session::step`] gives it, in their order. Where `gate` closes first those
    /// that have none yet are [`Step::Paused`]; the next call goes on with them if it names the same sessions. A session in mode
    /// speculative does not guess here: the others already share the pass.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where a session has no generation in progress, or not all are of one model;
    /// [`Error::Cancelled`]; those of the store. After any each session can be stepped again.
    pub fn step(&mut self, sessions: &mut [&mut Session], gate: &Gate) -> Result<Vec<Step>> {
        check(sessions)?;
        let mut steps: Vec<Option<Step>> = Vec::with_capacity(sessions.len());
        for session in sessions.iter_mut() {
            steps.push(session.step_without_computing()?);
        }
        while steps.iter().any(Option::is_none) {
            let wanting: Vec<usize> = (0..sessions.len()).filter(|i| steps[*i].is_none()).collect();
            match self.compute(sessions, &wanting, gate) {
                Ok(Progress::Done) => {}
                Ok(Progress::Paused(_)) if gate.cancel.as_ref().is_some_and(CancelToken::is_cancelled) => {
                    return Err(Error::Cancelled);
                }
                // What some sessions chose already is theirs; the others go on with the next call.
                Ok(Progress::Paused(_)) => break,
                Err(error) => {
                    self.abandon();
                    return Err(error);
                }
            }
            let vocab = sessions.first().map_or(0, |s| s.model().decoder().params().vocab_size as usize);
            let batch = std::mem::take(&mut self.batch);
            for ((index, n), row) in
                batch.into_iter().zip(self.forward.logits_mut().chunks_exact_mut(vocab.max(1)))
            {
                let session = &mut *sessions[index];
                if session.evaluated(n) {
                    steps[index] = Some(session.choose_from(row)?);
                }
            }
        }
        Ok(steps.into_iter().map(|step| step.unwrap_or(Step::Paused)).collect())
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
        if !self.batch.iter().all(|(index, n)| {
            sessions
                .get(*index)
                .is_some_and(|session| session.waiting().len() >= *n && wanting.contains(index))
        }) {
            self.abandon();
        }
        if self.batch.is_empty() {
            let share = (decoder.backend().max_batch(gate.deadline.is_some()) / wanting.len().max(1)).max(1);
            self.batch = wanting.iter().map(|i| (*i, sessions[*i].waiting().len().min(share))).collect();
            let parts: Vec<(&KvCache, &[u32])> = self
                .batch
                .iter()
                .map(|(i, n)| (sessions[*i].cache(), &sessions[*i].waiting()[..*n]))
                .collect();
            if let Err(error) = decoder.begin_many(&mut self.forward, &parts, Logits::Last) {
                self.abandon();
                return Err(error);
            }
        }
        let part_of_batch = |index: &usize| self.batch.iter().any(|(i, _)| i == index);
        let mut caches: Vec<&mut KvCache> = sessions
            .iter_mut()
            .enumerate()
            .filter(|(index, _)| part_of_batch(index))
            .map(|(_, session)| session.cache_mut())
            .collect();
        decoder.advance_many(&mut self.forward, &mut caches, gate)
    }
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

//! Mode speculative: rounds of guesses, each verified by one pass with the token that is pending.

use std::time::Instant;

use super::{Session, new_version};
use crate::decoder::forward::Logits;
use crate::error::{Error, Result};
use crate::generate::speculate::{self, Phase};
use crate::pool::{Gate, Progress};

impl Session {
    /// Has the logits of the next position ready: from the pass before, where its guess held, or from a new round.
    pub(super) fn speculate(&mut self, gate: &Gate) -> Result<Progress> {
        let Some(speculator) = &mut self.speculator else { return self.compute_pending(gate) };
        if let (Phase::Draining(row), Some(id)) = (speculator.phase, self.pending.first()) {
            if speculator.held(row, *id) {
                speculator.phase = Phase::Draining(row + 1);
                self.tokens.append(&mut self.pending);
                return Ok(Progress::Done);
            }
            speculator.phase = Phase::Idle;
            self.cache.truncate(self.tokens.len());
        }
        let outcome = self.round(gate);
        if outcome.is_err() {
            if let Some(speculator) = &mut self.speculator {
                speculator.abandon();
            }
            self.in_flight = 0;
            self.cache.truncate(self.tokens.len());
        }
        outcome
    }

    /// Goes on with a round: guesses, and the pass that verifies them with the token that is pending.
    fn round(&mut self, gate: &Gate) -> Result<Progress> {
        let (Some(speculator), Some(generation)) = (&mut self.speculator, &mut self.generation) else {
            return Err(Error::Internal("a round outside of a generation".into()));
        };
        let (decoder, known) = (self.model.decoder(), self.tokens.len());
        let mut room = self.cache.capacity() - known - self.pending.len();
        if generation.max_tokens > 0 {
            // The last token that is wanted needs no pass of its own.
            room = room.min(generation.max_tokens.saturating_sub(self.timings.generated_tokens + 1));
        }
        // The guesses' history: it ends with the token that is pending.
        self.tokens.extend_from_slice(&self.pending);
        if speculator.phase == Phase::Idle {
            speculator.begin(&self.tokens, room);
        }
        let begun = Instant::now();
        while speculator.phase == Phase::Drafting {
            let Some(draft) = speculator.draft.as_mut().filter(|_| speculator.guesses.len() < room) else {
                break;
            };
            let guessed = speculator.guesses.len();
            self.tokens.truncate(known + self.pending.len());
            self.tokens.extend_from_slice(&speculator.guesses);
            let last = self.tokens.last().copied().unwrap_or_default();
            let outcome = match draft.is_done() {
                true => decoder.begin(draft, &self.cache, &[last], Logits::Last),
                false => Ok(()),
            };
            let progress = outcome.and_then(|()| decoder.advance(draft, &mut self.cache, gate));
            let drafted = match progress {
                Ok(Progress::Done) => {
                    let logits = draft.logits_mut();
                    let id = generation.sampler.sample(logits, &self.tokens, self.tokens.len() as u64);
                    id.map(|id| Some((id, speculate::probability(logits, id))))
                }
                Ok(Progress::Paused(_)) => Ok(None),
                Err(error) => Err(error),
            };
            self.tokens.truncate(known);
            self.tokens.extend_from_slice(&self.pending);
            match drafted {
                Ok(Some((id, confidence))) => speculator.guess(id, confidence, begun.elapsed()),
                Ok(None) => {
                    self.tokens.truncate(known);
                    speculator.spend(begun.elapsed());
                    return Ok(Progress::Paused(guessed));
                }
                Err(error) => {
                    self.tokens.truncate(known);
                    return Err(error);
                }
            }
            if !speculator.goes_on(room) {
                break;
            }
        }
        self.tokens.truncate(known);
        if speculator.phase == Phase::Drafting {
            speculator.spend(begun.elapsed());
            speculator.verify();
            self.cache.truncate(known);
        }
        self.verify(gate)
    }

    /// The pass over the pending token and the guesses.
    fn verify(&mut self, gate: &Gate) -> Result<Progress> {
        let begun = Instant::now();
        let guesses = self.speculator.as_ref().map(|s| s.guesses.clone()).unwrap_or_default();
        if self.in_flight == 0 {
            let tokens: Vec<u32> = self.pending.iter().chain(&guesses).copied().collect();
            self.version = new_version();
            self.claim_batch(tokens.len(), Logits::All)?;
            self.model.decoder().begin(&mut self.forward, &self.cache, &tokens, Logits::All)?;
            self.in_flight = tokens.len();
        }
        let progress = self.model.decoder().advance(&mut self.forward, &mut self.cache, gate)?;
        let Some(speculator) = &mut self.speculator else { return Ok(progress) };
        speculator.spend(begun.elapsed());
        if progress == Progress::Done {
            self.in_flight = 0;
            self.tokens.append(&mut self.pending);
            speculator.verified();
        }
        Ok(progress)
    }

    /// The row of the last pass's logits that chooses the next token.
    pub(super) fn row(&self) -> usize {
        match self.speculator.as_ref().map(|speculator| speculator.phase) {
            Some(Phase::Draining(row)) => row,
            _ => 0,
        }
    }
}

//! A bound on memory: who claims how much of it, and what is left for weights.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::residency::Residency;
use crate::error::{Error, Result};

/// A bound on all memory that the library holds for a model, or for several that share it.
///
/// KV caches, activations and tables claim what they need; what is left holds weights, and is divided anew with every
/// claim.
#[derive(Debug)]
pub struct Budget {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    total: u64,
    claimed: u64,
    weights: Vec<Weak<Residency>>,
}

impl Budget {
    /// A budget of `total` bytes.
    #[must_use]
    pub fn new(total: u64) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State { total, ..State::default() }) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bound in bytes.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.lock().total
    }

    /// Bytes that are claimed for everything but weights.
    #[must_use]
    pub fn claimed(&self) -> u64 {
        self.lock().claimed
    }

    /// Bytes that further claims can have at most: what the weights can do without.
    #[must_use]
    pub fn available(&self) -> u64 {
        let state = self.lock();
        state.total.saturating_sub(state.claimed.saturating_add(state.least()))
    }

    /// Takes `bytes` for `what`, which weights give up where they must.
    ///
    /// # Errors
    /// [`Error::Limit`] that says what would be enough.
    pub fn claim(self: &Arc<Self>, what: &'static str, bytes: u64) -> Result<Claim> {
        let mut claim = Claim { budget: Arc::clone(self), what, bytes: 0 };
        claim.resize(bytes)?;
        Ok(claim)
    }

    /// Another bound from now on; weights are dropped, or kept once they are read again.
    ///
    /// # Errors
    /// [`Error::Limit`] where it is less than what is claimed and what weights need at least; nothing changes then.
    pub fn resize(&self, total: u64) -> Result<()> {
        let mut state = self.lock();
        let least = state.claimed.saturating_add(state.least());
        if total < least {
            return Err(Error::Limit(format!(
                "a budget of {total} bytes is too small for the models and sessions that are open; the smallest \
                 possible one is {least} bytes"
            )));
        }
        state.total = total;
        state.divide();
        Ok(())
    }

    /// Lets `weights` have a share of what is left beside `tables` bytes, which are claimed.
    ///
    /// # Errors
    /// [`Error::Limit`] where nothing can work in what is left: it names the smallest budget that leaves room for `later`
    /// bytes, too.
    pub(super) fn admit(self: &Arc<Self>, weights: &Arc<Residency>, tables: u64, later: u64) -> Result<Claim> {
        let mut state = self.lock();
        let taken = state.claimed.saturating_add(state.least());
        let least = weights.least();
        let needed = taken.saturating_add(tables).saturating_add(least);
        if needed > state.total {
            let others = if taken > 0 { format!("what is open already takes {taken}, ") } else { String::new() };
            let session = if later > 0 { format!(" and a session at least {later}") } else { String::new() };
            return Err(Error::Limit(format!(
                "a memory budget of {} bytes has no room for the model: {others}tables take {tables}, buffers and \
                 weights that must stay at least {least}{session}; the smallest possible one is {} bytes",
                state.total,
                needed.saturating_add(later)
            )));
        }
        state.claimed = state.claimed.saturating_add(tables);
        state.weights.push(Arc::downgrade(weights));
        state.divide();
        Ok(Claim { budget: Arc::clone(self), what: "tables", bytes: tables })
    }
}

impl State {
    /// Bytes that the weights of all models need at least.
    fn least(&self) -> u64 {
        self.weights.iter().filter_map(Weak::upgrade).map(|weights| weights.least()).sum()
    }

    /// Whether `claimed` and `more` leave the weights enough.
    fn fits(&self, what: &str, claimed: u64, more: u64) -> Result<()> {
        let needed = claimed.saturating_add(self.least()).saturating_add(more);
        if needed <= self.total {
            return Ok(());
        }
        Err(Error::Limit(format!(
            "a memory budget of {} bytes has no room for {what} ({more} bytes); the smallest possible one is {needed} \
             bytes",
            self.total
        )))
    }

    /// Divides what is left among the models by the length of their weights; what one cannot use the others get.
    fn divide(&mut self) {
        self.weights.retain(|weights| weights.strong_count() > 0);
        let mut models: Vec<Arc<Residency>> = self.weights.iter().filter_map(Weak::upgrade).collect();
        // By ascending length: whoever gets all that it can use leaves its rest to those that follow.
        models.sort_by_key(|model| model.most());
        let mut room = self.total.saturating_sub(self.claimed);
        let mut wanted: u128 = models.iter().map(|model| u128::from(model.most())).sum();
        let mut least: u64 = models.iter().map(|model| model.least()).sum();
        for model in models {
            let (most, own) = (model.most(), model.least());
            least -= own;
            let share = (u128::from(room) * u128::from(most)).checked_div(wanted).unwrap_or(0) as u64;
            let share = share.clamp(own, most.max(own)).min(room.saturating_sub(least)).max(own);
            model.arrange(share);
            room = room.saturating_sub(share);
            wanted -= u128::from(most);
        }
    }
}

/// A part of a budget, given back when it is dropped.
#[derive(Debug)]
pub struct Claim {
    budget: Arc<Budget>,
    what: &'static str,
    bytes: u64,
}

impl Claim {
    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Another size from now on.
    ///
    /// # Errors
    /// [`Error::Limit`] that says what would be enough; the claim is then as it was.
    pub fn resize(&mut self, bytes: u64) -> Result<()> {
        let mut state = self.budget.lock();
        let others = state.claimed.saturating_sub(self.bytes);
        if bytes > self.bytes {
            state.fits(self.what, others, bytes)?;
        }
        state.claimed = others.saturating_add(bytes);
        self.bytes = bytes;
        state.divide();
        Ok(())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        state.claimed = state.claimed.saturating_sub(self.bytes);
        state.divide();
    }
}

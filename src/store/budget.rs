//! A bound on memory: who claims how much of it, and what is left for weights.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::error::{Error, Result};

/// A model's weights, which share what claims leave of a budget.
pub(crate) trait Weights: Debug + Send + Sync {
    /// Bytes without which they cannot work.
    fn least(&self) -> u64;
    /// Bytes that they can use at most.
    fn most(&self) -> u64;
    /// Hold at most `room` bytes from now on. The budget is locked meanwhile.
    fn arrange(&self, room: u64);
}

/// A bound on all memory that the library holds for a model, or for several that share it.
///
/// KV caches, activations and tables claim what they need; what is left holds weights, and is divided anew with every
/// claim.
#[derive(Debug)]
pub struct Budget {
    /// Locked for as long as weights are divided, which waits for passes to end, and these for the disk.
    state: Mutex<State>,
    told: Arc<Told>,
}

#[derive(Debug, Default)]
struct State {
    total: u64,
    claimed: u64,
    weights: Vec<Weak<dyn Weights>>,
    told: Arc<Told>,
}

/// The state's numbers for those who only ask: a host that shows them between two frames must not wait for the disk.
/// Written by [`State::divide`] alone, under the lock and before it waits, so they are never older than the last change
/// that was decided. Relaxed: each number stands for itself, and no memory is reached through it.
#[derive(Debug, Default)]
struct Told {
    total: AtomicU64,
    claimed: AtomicU64,
}

impl Budget {
    /// A budget of `total` bytes.
    #[must_use]
    pub fn new(total: u64) -> Arc<Self> {
        let told = Arc::new(Told { total: AtomicU64::new(total), ..Told::default() });
        let state = State { total, told: Arc::clone(&told), ..State::default() };
        Arc::new(Self { state: Mutex::new(state), told })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bound in bytes: the new one from when a [`resize`](Self::resize) was granted, though that may still wait for
    /// weights to go. Never waits.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.told.total.load(Ordering::Relaxed)
    }

    /// Bytes that are claimed for everything but weights, from when the claim was granted. Never waits.
    #[must_use]
    pub fn claimed(&self) -> u64 {
        self.told.claimed.load(Ordering::Relaxed)
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
    pub(crate) fn admit(
        self: &Arc<Self>,
        weights: Arc<dyn Weights>,
        tables: u64,
        later: u64,
    ) -> Result<Claim> {
        let mut state = self.lock();
        let taken = state.claimed.saturating_add(state.least());
        let least = weights.least();
        let needed = taken.saturating_add(tables).saturating_add(least);
        if needed > state.total {
            let others =
                if taken > 0 { format!("what is open already takes {taken}, ") } else { String::new() };
            let session = match later {
                0 => String::new(),
                _ => format!(" and a session of the length asked for at least {later}"),
            };
            return Err(Error::Limit(format!(
                "a memory budget of {} bytes has no room for the model: {others}tables and first activations take {tables}, buffers and \
                 weights that must stay at least {least}{session}; the smallest possible one is {} bytes",
                state.total,
                needed.saturating_add(later)
            )));
        }
        state.claimed = state.claimed.saturating_add(tables);
        state.weights.push(Arc::downgrade(&weights));
        state.divide();
        Ok(Claim { budget: Arc::clone(self), what: "tables and activations", bytes: tables })
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
            "a memory budget of {} bytes has no room for {what} ({more} bytes) beside {claimed} bytes of other claims and {} \
             of buffers and weights that must stay; the smallest possible one is {needed} bytes",
            self.total,
            self.least()
        )))
    }

    /// Divides what is left among the models by the length of their weights; what one cannot use the others get. Every
    /// change of the state ends with it.
    fn divide(&mut self) {
        self.told.total.store(self.total, Ordering::Relaxed);
        self.told.claimed.store(self.claimed, Ordering::Relaxed);
        self.weights.retain(|weights| weights.strong_count() > 0);
        let mut models: Vec<Arc<dyn Weights>> = self.weights.iter().filter_map(Weak::upgrade).collect();
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

    /// Divides what is left again, after the weights of a model came to need more.
    ///
    /// # Errors
    /// [`Error::Limit`] that says what would be enough, where that is more than there is.
    pub(crate) fn recheck(&self) -> Result<()> {
        let mut state = self.budget.lock();
        state.fits(self.what, state.claimed.saturating_sub(self.bytes), self.bytes)?;
        state.divide();
        Ok(())
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

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]

    use super::*;

    #[test]
    fn numbers_are_told_while_somebody_waits() {
        let budget = Budget::new(100);
        let mut claim = budget.claim("a test", 7).expect("there is room");
        // As a resize that waits for a pass holds it.
        let held = budget.lock();
        let (asked, (tell, told)) = (Arc::clone(&budget), std::sync::mpsc::channel());
        std::thread::spawn(move || tell.send([asked.total(), asked.claimed()]));
        let numbers = told.recv_timeout(std::time::Duration::from_secs(60));
        drop(held);
        assert_eq!(numbers, Ok([100, 7]));
        claim.resize(30).expect("there is room");
        budget.resize(60).expect("there is room");
        assert_eq!([budget.total(), budget.claimed()], [60, 30]);
        assert!(budget.resize(29).is_err() && claim.resize(61).is_err());
        assert_eq!([budget.total(), budget.claimed()], [60, 30]);
        drop(claim);
        assert_eq!([budget.total(), budget.claimed(), budget.available()], [60, 0, 60]);
    }
}

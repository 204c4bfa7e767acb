//! What of a model stays in memory: sessions and the pages of weights, under a budget or without one.
//!
//! All is counted by units: capsules, or neighbours that one session computes. They are used in a circle, so what is used
//! least recently is what comes next: under a budget a fixed set stays, spread evenly, and the pages of the others go after
//! each use, while those of the next are asked for as one computes.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::api::Runtime;
use super::arena::{Meter, Opened};
use super::options::Prepack;
use super::plan::OnnxPlanChoice;
use super::slot::{Change, Ready, Slot};
use super::submodel::Part;
use super::wiring::{Unit, Wiring};
use crate::container::manifest::Capsule;
use crate::error::{Error, Result};
use crate::pool::{CancelToken, Gate};
use crate::store::budget::{Budget, Claim, Weights};
use crate::store::mapped::MappedFile;
use crate::store::os::return_free_memory;
use crate::store::{Store, Turn, TurnGuard};

/// Memory of a session beside weights that is counted with; what is measured beyond it is counted in addition.
const SESSION: u64 = 256 << 10;
/// Activations that are counted with until they were measured.
const ACTIVATIONS: u64 = 8 << 20;
/// Activations are claimed in steps of this.
const STEP: u64 = 1 << 20;
/// Share of the room that sessions of units whose weights do not stay may take.
const SESSION_SHARE: u64 = 4;
/// Rows from which on prepacked weights pay (docs/onnx.md has the measurements).
const ROWS_THAT_PAY: u64 = 4;

/// Pages that a unit reads its weights from.
#[derive(Debug)]
struct Pages {
    /// The unit that stores them.
    home: usize,
    file: MappedFile,
    range: Range<usize>,
}

/// What stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Layout {
    /// All of it.
    whole: bool,
    pinned: Vec<bool>,
    /// Whether there is room for the pages of the next unit while one computes.
    ahead: bool,
    /// Whether sessions stay where weights do not.
    sessions: bool,
    /// Whether there is room to copy weights that need not be.
    copies: bool,
}

impl Layout {
    fn keeps(&self, index: usize) -> bool {
        self.whole || self.pinned.get(index).copied().unwrap_or(false)
    }
}

/// The part of it that the budget arranges.
#[derive(Debug)]
pub(super) struct Share {
    slots: Vec<Slot>,
    /// Capsules of each unit.
    capsules: Vec<usize>,
    /// The pages of each unit, and their bytes.
    pages: Vec<Vec<Pages>>,
    sizes: Vec<u64>,
    /// What is known of each unit's session.
    sessions_of: Mutex<Vec<SessionOf>>,
    /// Whether weights that stay may be copied.
    may_copy: AtomicBool,
    layout: Mutex<Arc<Layout>>,
    /// Whether the pages of a unit are taken to be in memory, and the bytes of all that are.
    resident: Mutex<(Vec<bool>, u64)>,
    /// Anonymous memory of all sessions.
    sessions: AtomicU64,
}

/// What a unit's session holds beside the pages of its weights.
#[derive(Clone, Copy, Debug, Default)]
struct SessionOf {
    /// How often the weights are there while it is made, beside their pages, even where they do not stay.
    copies: u64,
    /// What it was measured to hold beyond [`SESSION`], where it copies no weights.
    more: u64,
}

/// A model's memory.
#[derive(Debug)]
pub(super) struct Residency {
    /// Goes last: what its sessions hold is not kept for other models.
    share: Arc<Share>,
    _opened: Opened,
    budget: Option<Arc<Budget>>,
    claim: Mutex<Option<Claim>>,
    tables: u64,
    activations: AtomicU64,
    peak: AtomicU64,
    streamed: AtomicU64,
    copies_all: AtomicBool,
    turn: Turn,
}

/// What a model's memory came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnnxMemory {
    /// The budget, where there is one.
    pub budget: Option<u64>,
    /// The library's own account at its highest: tables, sessions, activations, and under a budget weights in memory.
    pub peak: u64,
    /// Bytes of weights that stay in memory under a budget; without one all.
    pub pinned: u64,
    /// Capsules that stay.
    pub pinned_capsules: usize,
    /// Anonymous memory of the sessions now, copies of weights included.
    pub sessions: u64,
    /// Activations at their most.
    pub activations: u64,
    /// Bytes of weights that were read again because they did not stay.
    pub streamed: u64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Residency {
    /// Of the units of `wiring`, whose weights are in `store`, which holds `tables` bytes beside them.
    ///
    /// # Errors
    /// [`Error::Limit`] naming the smallest budget that would do.
    pub fn new(
        store: &Store,
        wiring: &Wiring,
        tables: u64,
        budget: Option<Arc<Budget>>,
        prepack: Prepack,
    ) -> Result<Self> {
        let units = &wiring.units;
        let count = units.len();
        let pages: Vec<Vec<Pages>> =
            units.iter().map(|unit| pages_of(store, units, unit)).collect::<Result<_>>()?;
        let bytes = |pages: &Vec<Pages>| pages.iter().map(|pages| pages.range.len() as u64).sum();
        let copies = u64::from(prepack == Prepack::On);
        let mut sessions_of = vec![SessionOf { copies, more: 0 }; count];
        if budget.is_some() && prepack == Prepack::Auto {
            for (unit, session) in units.iter().zip(&mut sessions_of) {
                // One that the mini only links is found out about when it is needed.
                let part = Part::read(store, unit.capsules.clone(), &[]);
                session.copies = u64::from(part.is_ok_and(|part| part.has_few_bits));
            }
        }
        let share = Arc::new(Share {
            slots: (0..count).map(|_| Slot::default()).collect(),
            capsules: units.iter().map(|unit| unit.capsules.len()).collect(),
            may_copy: AtomicBool::new(prepack != Prepack::Off),
            sizes: pages.iter().map(bytes).collect(),
            pages,
            sessions_of: Mutex::new(sessions_of),
            layout: Mutex::new(Arc::new(Layout {
                whole: true,
                ahead: true,
                sessions: true,
                copies: true,
                ..Layout::default()
            })),
            resident: Mutex::new((vec![false; count], 0)),
            sessions: AtomicU64::new(0),
        });
        let residency = Self {
            share,
            _opened: Opened::new(budget.is_some()),
            budget,
            claim: Mutex::new(None),
            tables,
            activations: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            streamed: AtomicU64::new(0),
            copies_all: AtomicBool::new(prepack == Prepack::On),
            turn: Turn::default(),
        };
        if let Some(budget) = &residency.budget {
            let weights = Arc::clone(&residency.share) as Arc<dyn Weights>;
            let claim = budget.admit(weights, tables.saturating_add(ACTIVATIONS), 0)?;
            *locked(&residency.claim) = Some(claim);
        }
        Ok(residency)
    }

    /// What a budget of `total` bytes would do, with nothing else in it.
    pub fn forecast(&self, total: u64) -> OnnxPlanChoice {
        let claimed = self.tables.saturating_add(ACTIVATIONS);
        let smallest = claimed.saturating_add(self.share.least());
        let sizes = &self.share.sizes;
        let mut choice = OnnxPlanChoice {
            smallest_budget_bytes: smallest,
            whole_budget_bytes: claimed.saturating_add(self.share.most()),
            claimed_bytes: claimed,
            fits: total >= smallest,
            copy_bytes: self.share.copied_at_once(),
            ..OnnxPlanChoice::default()
        };
        if choice.fits {
            let layout = self.share.layout(total - claimed);
            for (index, size) in sizes.iter().enumerate() {
                if layout.keeps(index) {
                    choice.pinned_bytes += size;
                    choice.pinned_capsules += self.share.capsules[index];
                } else {
                    choice.streamed_bytes += size;
                }
            }
        }
        choice
    }

    /// The place of a unit's session.
    pub fn slot(&self, index: usize) -> &Slot {
        &self.share.slots[index]
    }

    /// The runtime copies all weights, being an old one: it has them twice while it makes a session.
    ///
    /// # Errors
    /// [`Error::Limit`] where that does not fit the budget.
    pub fn copies_weights(&self) -> Result<()> {
        if self.copies_all.load(Ordering::Acquire) {
            return Ok(());
        }
        let could = self.share.may_copy.swap(true, Ordering::AcqRel);
        self.share.change(
            |sessions| sessions.iter_mut().for_each(|session| session.copies = 2),
            || {
                let checked = self.recheck();
                if checked.is_err() {
                    self.share.may_copy.store(could, Ordering::Release);
                }
                checked
            },
        )?;
        self.copies_all.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes room for what the session of unit `index`, just made, was measured to hold.
    ///
    /// # Errors
    /// [`Error::Limit`] where there is none; the session is gone then.
    pub fn settle(&self, index: usize, ready: &Ready) -> Result<()> {
        let more = if self.is_copy(ready) { 0 } else { ready.sure_bytes.saturating_sub(SESSION) };
        if self.budget.is_none() || more <= locked(&self.share.sessions_of)[index].more {
            return Ok(());
        }
        let settled = self.share.change(|sessions| sessions[index].more = more, || self.recheck());
        if settled.is_err() {
            self.share.drop_bytes(self.slot(index).drop_session());
        }
        settled
    }

    fn recheck(&self) -> Result<()> {
        match &*locked(&self.claim) {
            Some(claim) => claim.recheck(),
            None => Ok(()),
        }
    }

    /// After a run that ended early: what was asked for ahead and does not stay goes.
    pub fn tidy(&self) {
        let (layout, resident) =
            (Arc::clone(&locked(&self.share.layout)), locked(&self.share.resident).0.clone());
        let left =
            resident.iter().enumerate().filter(|(index, is_there)| **is_there && !layout.keeps(*index));
        if self.budget.is_some() {
            left.for_each(|(index, _)| self.release(index));
        }
    }

    /// Under a budget one run at a time: two at different places would take each other's room.
    ///
    /// # Errors
    /// [`Error::Cancelled`] where `cancel` was cancelled while it waited.
    pub fn enter(&self, cancel: Option<&CancelToken>) -> Result<Option<TurnGuard<'_>>> {
        if self.budget.is_none() {
            return Ok(None);
        }
        let gate = Gate { deadline: None, cancel: cancel.cloned() };
        self.turn.enter(&gate).map(Some).ok_or(Error::Cancelled)
    }

    /// Whether the weights of a unit that computes so many rows at once are worth a copy, for which there is room.
    pub fn wants_copy(&self, index: usize, rows: impl Fn() -> u64, has_few_bits: bool) -> bool {
        let may = |layout: &Layout| layout.copies && layout.keeps(index);
        has_few_bits || may(&locked(&self.share.layout)) && rows() >= ROWS_THAT_PAY
    }

    /// Before unit `index` computes: counts its pages.
    pub fn begin(&self, index: usize, ready: &Ready) {
        if !self.is_copy(ready) {
            self.share.set_resident(index, true);
        }
        self.note();
    }

    /// The session of unit `index` was made, or went: where a new one copied the weights, their pages can go.
    pub fn account(&self, index: usize, change: Change<'_>) {
        let ready = match change {
            Change::Went(bytes) => return self.share.drop_bytes(bytes),
            Change::Made(ready) => ready,
        };
        self.share.sessions.fetch_add(ready.own_bytes, Ordering::Relaxed);
        self.share.set_resident(index, true);
        self.note();
        if self.is_copy(ready) {
            self.release(index);
        }
    }

    fn is_copy(&self, ready: &Ready) -> bool {
        ready.prepacked || self.copies_all.load(Ordering::Acquire)
    }

    /// The next unit whose pages should be asked for while another computes.
    pub fn wants_ahead(&self, next: usize) -> bool {
        let layout = Arc::clone(&locked(&self.share.layout));
        let missing = !locked(&self.share.resident).0.get(next).copied().unwrap_or(true);
        let copied = self.slot(next).current().is_some_and(|ready| self.is_copy(&ready));
        layout.ahead && missing && !copied
    }

    /// Asks for the pages of a unit, without waiting for them.
    pub fn ask_for(&self, next: usize) {
        self.share.set_resident(next, true);
        for pages in &self.share.pages[next] {
            pages.file.ask_for(pages.range.clone());
        }
    }

    /// After unit `index` computed, or failed to: what does not stay goes.
    pub fn end(&self, index: usize, ready: Arc<Ready>, computed: bool) {
        self.note();
        let layout = Arc::clone(&locked(&self.share.layout));
        if self.budget.is_none() || layout.keeps(index) {
            return;
        }
        if computed {
            self.streamed.fetch_add(self.share.sizes[index], Ordering::Relaxed);
        }
        let is_large = locked(&self.share.sessions_of)[index].more > 0;
        let is_copy = self.is_copy(&ready);
        if is_copy || is_large || !layout.sessions {
            self.share.drop_bytes(self.slot(index).drop_session());
            drop(ready);
            if is_copy {
                return_free_memory();
            }
        }
        self.release(index);
    }

    /// Lets the pages of a unit go, but for those of another one that stays.
    fn release(&self, index: usize) {
        let layout = Arc::clone(&locked(&self.share.layout));
        for pages in &self.share.pages[index] {
            if self.budget.is_none() {
                pages.file.let_go(pages.range.clone());
            } else if pages.home == index || !layout.keeps(pages.home) {
                pages.file.give_back(pages.range.clone());
            }
        }
        self.share.set_resident(index, false);
    }

    /// Counts the activations of a run so far.
    ///
    /// # Errors
    /// [`Error::Limit`] where the budget has no room for them.
    pub fn measure(&self, meter: &Meter) -> Result<()> {
        let held = meter.most();
        self.activations.fetch_max(held, Ordering::Relaxed);
        self.note();
        let Some(claim) = &mut *locked(&self.claim) else { return Ok(()) };
        // What was refused once is asked for again by the next run.
        let wanted = self.tables.saturating_add(held.next_multiple_of(STEP));
        if held <= ACTIVATIONS || wanted <= claim.bytes() {
            return Ok(());
        }
        let note = "activations of this run so far, which may need more as it goes on";
        claim.resize(wanted).map_err(|why| why.with_note(note))
    }

    fn note(&self) {
        let pages = if self.budget.is_some() { locked(&self.share.resident).1 } else { 0 };
        let now = self.tables
            + self.share.sessions.load(Ordering::Relaxed)
            + self.activations.load(Ordering::Relaxed)
            + pages;
        self.peak.fetch_max(now, Ordering::Relaxed);
    }

    /// What it came to so far.
    pub fn memory(&self) -> OnnxMemory {
        let layout = Arc::clone(&locked(&self.share.layout));
        let kept = |index: &usize| layout.keeps(*index);
        let all = 0..self.share.sizes.len();
        OnnxMemory {
            budget: self.budget.as_ref().map(|budget| budget.total()),
            peak: self.peak.load(Ordering::Relaxed),
            pinned: all.clone().filter(kept).map(|index| self.share.sizes[index]).sum(),
            pinned_capsules: all.filter(kept).map(|index| self.share.capsules[index]).sum(),
            sessions: self.share.sessions.load(Ordering::Relaxed),
            activations: self.activations.load(Ordering::Relaxed),
            streamed: self.streamed.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Residency {
    fn drop(&mut self) {
        // What it computed in may have been more than others need.
        give_blocks_back();
    }
}

/// Gives back what the runtime keeps for runs to come.
pub(super) fn give_blocks_back() {
    if let Some(runtime) = Runtime::started() {
        runtime.arena().trim();
    }
}

impl Share {
    /// Takes the pages of a unit as being in memory or not.
    fn set_resident(&self, index: usize, now: bool) {
        let mut resident = locked(&self.resident);
        let before = std::mem::replace(&mut resident.0[index], now);
        match (before, now) {
            (false, true) => resident.1 += self.sizes[index],
            (true, false) => resident.1 -= self.sizes[index],
            _ => {}
        }
    }

    fn drop_bytes(&self, bytes: u64) {
        let less = |held: u64| Some(held.saturating_sub(bytes));
        let _ = self.sessions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Changes what is known of sessions, unless what that leads to is `checked` to fail.
    fn change(&self, how: impl FnOnce(&mut [SessionOf]), checked: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = locked(&self.sessions_of).clone();
        how(&mut locked(&self.sessions_of));
        let result = checked();
        if result.is_err() {
            *locked(&self.sessions_of) = before;
        }
        result
    }

    /// Room that unit `index` needs while it computes: where its weights are copied, pages and copies while these are made.
    fn needs(&self, index: usize) -> u64 {
        let session = locked(&self.sessions_of).get(index).copied().unwrap_or_default();
        self.sizes[index].saturating_mul(1 + session.copies).saturating_add(session.more)
    }

    /// Bytes of copies that are there while one is made: of one unit after the other.
    fn copied_at_once(&self) -> u64 {
        let may_copy = self.may_copy.load(Ordering::Acquire);
        let one = if may_copy { self.sizes.iter().copied().max().unwrap_or(0) } else { 0 };
        one.max(self.forced_copies())
    }

    /// As [`copied_at_once`](Self::copied_at_once), of units whose weights are always copied.
    fn forced_copies(&self) -> u64 {
        let sessions = locked(&self.sessions_of);
        let copies = |(size, session): (&u64, &SessionOf)| size.saturating_mul(session.copies);
        self.sizes.iter().zip(sessions.iter()).map(copies).max().unwrap_or(0)
    }

    /// Bytes of all weights and sessions with `copies` beside them.
    fn held_with(&self, copies: u64) -> u64 {
        let all: u64 = self.sizes.iter().sum();
        let more: u64 = locked(&self.sessions_of).iter().map(|session| session.more).sum();
        let sessions = SESSION.saturating_mul(self.sizes.len() as u64);
        all.saturating_add(more).saturating_add(copies).saturating_add(sessions)
    }

    /// What of `room` bytes stays.
    fn layout(&self, room: u64) -> Layout {
        let count = self.sizes.len();
        let whole = Layout { whole: true, ahead: true, sessions: true, ..Layout::default() };
        if room >= self.most() {
            return Layout { copies: true, ..whole };
        }
        if room >= self.held_with(self.forced_copies()) {
            return whole;
        }
        let sessions = SESSION.saturating_mul(count as u64);
        let (sessions, keep) =
            if sessions <= room / SESSION_SHARE { (sessions, true) } else { (SESSION, false) };
        let one = (0..count).map(|index| self.needs(index)).max().unwrap_or(0);
        let next = |index: usize| if index + 1 < count { self.needs(index + 1) } else { self.needs(0) };
        let two = (0..count).map(|index| self.needs(index).saturating_add(next(index))).max().unwrap_or(0);
        let ahead = two.saturating_add(sessions) <= room / 2;
        let window = if ahead { two } else { one };
        let pins = room.saturating_sub(sessions).saturating_sub(window);
        let held: Vec<u64> = self
            .sizes
            .iter()
            .zip(locked(&self.sessions_of).iter())
            .map(|(size, own)| size + own.more)
            .collect();
        Layout { pinned: spread(&held, pins), ahead, sessions: keep, copies: true, ..Layout::default() }
    }
}

/// Which of items of these sizes stay in `room`, spread evenly.
fn spread(sizes: &[u64], room: u64) -> Vec<bool> {
    let total: u128 = sizes.iter().map(|size| u128::from(*size)).sum();
    let (mut seen, mut taken) = (0u128, 0u128);
    let mut pinned = vec![false; sizes.len()];
    for (size, pinned) in sizes.iter().map(|size| u128::from(*size)).zip(&mut pinned) {
        seen += size;
        // As much of what was seen is taken as the room is of the whole.
        if (taken + size) * total <= seen * u128::from(room) {
            *pinned = true;
            taken += size;
        }
    }
    pinned
}

impl Weights for Share {
    fn least(&self) -> u64 {
        let one = (0..self.sizes.len()).map(|index| self.needs(index)).max().unwrap_or(0);
        one.saturating_add(SESSION).min(self.most())
    }

    fn most(&self) -> u64 {
        // While weights are copied, their pages are there too.
        self.held_with(self.copied_at_once())
    }

    fn arrange(&self, room: u64) {
        let layout = Arc::new(self.layout(room));
        let before = std::mem::replace(&mut *locked(&self.layout), Arc::clone(&layout));
        for index in (0..self.sizes.len()).filter(|index| before.keeps(*index) && !layout.keeps(*index)) {
            // A run that computes with it keeps the session, and reads its pages again.
            self.drop_bytes(self.slots[index].drop_session());
            if locked(&self.resident).0[index] {
                for pages in self.pages[index].iter().filter(|pages| !layout.keeps(pages.home)) {
                    pages.file.give_back(pages.range.clone());
                }
                self.set_resident(index, false);
            }
        }
    }
}

/// The pages that a unit reads, as the store's mode serves it: those of its capsules, and of tensors that these share with
/// capsules of other units.
fn pages_of(store: &Store, units: &[Unit], unit: &Unit) -> Result<Vec<Pages>> {
    let unit_of = |capsule: usize| units.partition_point(|unit| unit.capsules.end <= capsule);
    let mut pages: Vec<Pages> = Vec::new();
    for index in unit.capsules.clone() {
        let (file, capsule) = store.capsule(index)?;
        let home = unit_of(index);
        pages.extend(file.mapped_range(capsule).map(|range| Pages { home, file: file.clone(), range }));
        for shared in &capsule.shared {
            let stored = store.find(&shared.capsule)?;
            if unit.capsules.contains(&stored) {
                continue;
            }
            let (file, stores) = store.capsule(stored)?;
            let range =
                file.mapped_range(stores).and_then(|extent| plane_in(&extent, stores, &shared.tensor));
            let known = |range: &Range<usize>| pages.iter().any(|pages| pages.range == *range);
            if let Some(range) = range.filter(|range| !known(range)) {
                pages.push(Pages { home: unit_of(stored), file: file.clone(), range });
            }
        }
    }
    Ok(pages)
}

/// Where in the map a tensor of a capsule lies.
fn plane_in(extent: &Range<usize>, capsule: &Capsule, tensor: &str) -> Option<Range<usize>> {
    let plane = capsule.tensors.iter().find(|t| t.name == tensor)?.planes.first()?;
    let start = extent.start.checked_add(usize::try_from(plane.offset).ok()?)?;
    let end = start.checked_add(usize::try_from(plane.len).ok()?)?;
    (end <= extent.end).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn what_stays_is_spread_and_fits() {
        let sizes = [10u64; 12];
        for room in [0, 9, 10, 35, 60, 119, 120, 500] {
            let pinned = spread(&sizes, room);
            let kept = pinned.iter().filter(|p| **p).count() as u64;
            assert_eq!(kept, (room / 10).min(12), "{room}");
            if room == 60 {
                assert!(pinned.windows(2).all(|pair| pair[0] != pair[1]), "{pinned:?}");
            }
        }
        assert_eq!(spread(&[100, 1, 1, 1], 3), [false, true, true, true]);
        assert!(spread(&[], 7).is_empty());
    }
}

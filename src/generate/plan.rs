//! What each mode can do in a budget, and which one mode auto takes.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::demand::Demand;
use super::model::ModelOptions;
use super::session::{SessionOptions, context_of};
use crate::decoder::Decoder;
use crate::decoder::kv::{KvCache, KvSizes};
use crate::error::{Error, Result};
use crate::kernels::backend::Backend;
use crate::kernels::cpu::Cpu;
use crate::kernels::roofline::read_bandwidth;
use crate::pool::CancelToken;
use crate::store::budget::Budget;
use crate::store::forecast::{Forecast, MachineRates, WeightSizes};
use crate::store::{Mode, OpenOptions, Origin, Store};

/// Bytes that are read to learn how fast memory is: more than caches hold, and read in a fraction of a second.
const MEMORY: usize = 256 << 20;
/// Share of the memory's speed that decoding reaches (docs/performance.md).
const REACHED: f64 = 0.85;
/// How much faster guessing must be expected to be to be worth its memory.
const WORTH: f64 = 1.1;
/// Weights that stay in memory take their length and up to one part in so many more: segments begin and end in whole pages.
const PIN_OVERHEAD: u64 = 32;

/// A budget, what takes it, and what is expected of the modes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BudgetPlan {
    /// The bound in bytes.
    pub budget_bytes: u64,
    /// Positions of the session.
    pub context: usize,
    /// The weights.
    pub weights: WeightSizes,
    /// The machine.
    pub machine: MachineRates,
    /// The smallest budget in which no weights of mode exact are streamed.
    pub whole_budget_bytes: u64,
    /// The longest mini (`--size`) that guesses in the budget beside the session, with the usual buffers; 0 where there is
    /// no room for one.
    pub longest_mini_bytes: u64,
    /// The mode that auto takes; none where the budget has no room for the session in it.
    pub taken: Option<Mode>,
    /// Why.
    pub reason: String,
    /// The modes of which something is expected: of a full file alone exact.
    pub modes: Vec<ModePlan>,
}

/// What a mode can do in a budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModePlan {
    /// The mode.
    pub mode: Mode,
    /// The smallest budget in which a session works in it, with what is open in the budget already; of mode fast, where the
    /// full file is open too, somewhat more than that.
    pub smallest_budget_bytes: u64,
    /// Whether it works in the budget.
    pub fits: bool,
    /// Bytes that tables, KV cache and activations take.
    pub claimed_bytes: u64,
    /// Bytes that are left for weights.
    pub weights_room_bytes: u64,
    /// Of them, the buffers of weights that are streamed.
    pub ring_bytes: u64,
    /// Bytes of weights that stay in memory.
    pub pinned_bytes: u64,
    /// Bytes that a pass reads from the disk.
    pub streamed_bytes: u64,
    /// Tokens that a pass gives on average.
    pub tokens_per_pass: f64,
    /// Tokens a second; 0 where the mode does not fit.
    pub tokens_per_s: f64,
}

/// Plans for a session with `session` on the model at `origin`, in the budget of the model's options. The disk gives
/// `disk` bytes a second; `None`: it is measured, by reads of the model's own file. Takes a fraction of a second. The mode
/// in the options has no influence.
///
/// # Errors
/// [`Error::InvalidArgument`] where there is no budget, or for a range of the capsules; those of opening and of reading;
/// [`Error::Cancelled`].
pub fn budget_plan(
    origin: &Origin,
    options: &ModelOptions,
    session: &SessionOptions,
    disk: Option<f64>,
    cancel: Option<&CancelToken>,
) -> Result<BudgetPlan> {
    let Some(budget) = &options.store.budget else {
        return Err(Error::InvalidArgument("there is no budget to plan for; name one".into()));
    };
    if options.store.range.is_some() {
        return Err(Error::InvalidArgument(
            "a plan is of a whole model, not of a range of its capsules".into(),
        ));
    }
    let store = Store::open(origin, &OpenOptions { mode: Mode::Auto, ..options.store.clone() })?;
    let cpu = Arc::new(Cpu::new(options.threads.clone())?);
    let settled = (store.mode() == Mode::Fast || store.manifest().full.is_none())
        .then(|| (store.mode(), store.mode_reason().to_owned()));
    let decoder = Decoder::unlimited(Arc::new(store), Arc::clone(&cpu) as Arc<dyn Backend>)?;
    let survey = Survey::new(&decoder, session, budget);
    let (taken, reason) = match settled {
        Some(settled) => settled,
        None => survey.choose()?,
    };
    let disk = match disk {
        Some(rate) => rate,
        None => decoder.store().disk_rate(cancel)?,
    };
    let machine = MachineRates { disk, memory: REACHED * read_bandwidth(&cpu, MEMORY, cancel)? };
    let modes = survey.modes(&machine)?;
    let own = modes.iter().find(|plan| plan.mode == taken);
    let works = own.is_some_and(|plan| plan.fits);
    let smallest = own.map_or(0, |plan| plan.smallest_budget_bytes);
    let reason = match works {
        true => reason,
        false => format!("the budget is too small: {}", survey.needs(taken, smallest)),
    };
    Ok(BudgetPlan {
        budget_bytes: survey.total,
        context: survey.cache.shape.capacity,
        weights: survey.sizes,
        machine,
        whole_budget_bytes: survey.whole()?,
        longest_mini_bytes: survey.longest_mini()?,
        taken: works.then_some(taken),
        reason,
        modes,
    })
}

/// The mode that auto takes for a mini whose full file is at hand, and why. `decoder` is the model in mode exact, which is
/// about to be limited by `budget`.
///
/// # Errors
/// [`Error::Limit`] where the system has no memory for the session.
pub(super) fn auto(decoder: &Decoder, session: &SessionOptions, budget: &Budget) -> Result<(Mode, String)> {
    Survey::new(decoder, session, budget).choose()
}

/// A model and a session, of which every mode is weighed.
struct Survey<'a> {
    decoder: &'a Decoder,
    sizes: WeightSizes,
    cache: KvSizes,
    batch: usize,
    total: u64,
    /// Bytes of the budget that others have, and that the model's tables take.
    others: u64,
    tables: u64,
}

impl<'a> Survey<'a> {
    fn new(decoder: &'a Decoder, session: &SessionOptions, budget: &Budget) -> Self {
        let context = context_of(decoder, session);
        let cache = KvCache::sizes_for(decoder.params(), context, session.kv_format);
        let tables = decoder.claimed_tables();
        let total = budget.total();
        let others = total.saturating_sub(budget.available());
        Self { decoder, sizes: decoder.weight_sizes(), cache, batch: session.batch, total, others, tables }
    }

    /// The mode that is expected to be the fastest of those that keep the promise of exact, and why.
    fn choose(&self) -> Result<(Mode, String)> {
        if self.decoder.weight_needs(Mode::Exact)?.most == 0 {
            let why = "the host supplies the bytes of the model, which are all in memory";
            return Ok((Mode::Exact, why.to_owned()));
        }
        let machine = MachineRates::default();
        let exact = self.mode(Mode::Exact, &machine)?;
        let full = self.sizes.full;
        if exact.fits && exact.streamed_bytes == 0 {
            return Ok((Mode::Exact, format!("all {full} bytes of weights fit the budget")));
        }
        let streamed = format!("{full} bytes of weights do not fit the budget");
        let why = if !exact.fits {
            self.needs(Mode::Exact, exact.smallest_budget_bytes)
        } else if !self.sizes.can_guess() {
            "the mini cannot guess, as it only links some capsules or holds all exactly".to_owned()
        } else {
            let guessing = self.mode(Mode::Speculative, &machine)?;
            let ratio = guessing.tokens_per_s / exact.tokens_per_s;
            if guessing.fits && ratio > WORTH {
                let share = 100.0 * self.sizes.agreement;
                let why = format!(
                    "{streamed}; with the mini's guesses (agreement {share:.0}%) streaming is expected to give \
                     {ratio:.1} times the tokens"
                );
                return Ok((Mode::Speculative, why));
            }
            match guessing.fits {
                true => format!(
                    "the mini's guesses are expected to give {ratio:.1} times the tokens, not worth their memory"
                ),
                false => self.needs(Mode::Speculative, guessing.smallest_budget_bytes),
            }
        };
        Ok((Mode::Exact, format!("{streamed} and are streamed; {why}")))
    }

    /// The smallest budget in which nothing is streamed.
    fn whole(&self) -> Result<u64> {
        let most = self.decoder.weight_needs(Mode::Exact)?.most;
        let beside = self.others.saturating_add(self.tables).saturating_add(most);
        // Batches grow with the budget, until they suit the machine.
        let mut total = beside;
        loop {
            let choices = Demand::choices(self.decoder, Mode::Exact, &self.cache, self.batch, total)?;
            let needed = beside.saturating_add(choices.first().map_or(0, |demand| demand.bytes));
            if needed <= total {
                return Ok(total);
            }
            total = needed;
        }
    }

    /// The longest mini that guesses beside a session with full rounds, and the usual ring.
    fn longest_mini(&self) -> Result<u64> {
        let choices = Demand::choices(self.decoder, Mode::Speculative, &self.cache, self.batch, self.total)?;
        let demand = choices.first().map_or(0, |demand| demand.bytes);
        let room = self.total.saturating_sub(self.others).saturating_sub(self.tables).saturating_sub(demand);
        let room = room.saturating_sub(Store::ring_bytes(self.sizes.full, room));
        let full = self.decoder.store().full().unwrap_or(self.decoder.store().primary());
        let length = full.contents().header.file_len;
        // Tokenizer, manifest and an embedding that is read by row lie in the file, and what stays in memory takes somewhat
        // more than its length there.
        let beside = length.saturating_sub(self.sizes.full);
        let room = room - room / PIN_OVERHEAD;
        Ok(if room == 0 { 0 } else { length.min(room + beside) })
    }

    fn needs(&self, mode: Mode, smallest: u64) -> String {
        let (context, name) = (self.cache.shape.capacity, mode.name());
        format!("in mode {name} a session of {context} positions needs a budget of {smallest} bytes")
    }

    /// The modes of which something is expected.
    fn modes(&self, machine: &MachineRates) -> Result<Vec<ModePlan>> {
        let alone = self.decoder.store().mode() == Mode::Fast;
        let exact = (!alone).then_some(Mode::Exact);
        let guessing = (!alone && self.sizes.can_guess()).then_some(Mode::Speculative);
        let fast = (self.sizes.draft > 0).then_some(Mode::Fast);
        [exact, guessing, fast].into_iter().flatten().map(|mode| self.mode(mode, machine)).collect()
    }

    fn mode(&self, mode: Mode, machine: &MachineRates) -> Result<ModePlan> {
        let needs = self.decoder.weight_needs(mode)?;
        let taken = self.tables.saturating_add(needs.least);
        let least = Demand::least(self.decoder, mode, &self.cache, self.batch)?;
        let choices = Demand::choices(self.decoder, mode, &self.cache, self.batch, self.total)?;
        let own = self.total.saturating_sub(self.others);
        let fitting = choices.iter().find(|demand| taken.saturating_add(demand.bytes) <= own);
        let demand = fitting.or(choices.last()).map_or(0, |demand| demand.bytes);
        let claimed = self.tables.saturating_add(demand);
        let left = own.saturating_sub(claimed);
        // Where the mapped files serve there is no ring, and nothing is streamed.
        let (room, ring) = match left >= needs.most {
            true => (left.max(self.sizes.full + self.sizes.draft), 0),
            false => (left, Store::ring_bytes(self.sizes.full, left)),
        };
        let forecast = fitting.and_then(|_| self.sizes.forecast(mode, room, ring, machine));
        let Forecast { pinned_bytes, streamed_bytes, tokens_per_pass, tokens_per_s, .. } =
            forecast.unwrap_or(Forecast::none(mode));
        Ok(ModePlan {
            mode,
            smallest_budget_bytes: self.others.saturating_add(taken).saturating_add(least),
            fits: fitting.is_some(),
            claimed_bytes: claimed,
            weights_room_bytes: left,
            ring_bytes: ring,
            pinned_bytes,
            streamed_bytes,
            tokens_per_pass,
            tokens_per_s,
        })
    }
}

/// Bytes that a session with `options` needs at least in the model's mode; none of a range of the capsules, which has no
/// sessions.
pub(super) fn least_session(decoder: &Decoder, options: &SessionOptions) -> Result<u64> {
    if decoder.store().range() != (0..decoder.capsule_count()) {
        return Ok(0);
    }
    let context = context_of(decoder, options);
    let cache = KvCache::sizes_for(decoder.params(), context, options.kv_format);
    Demand::least(decoder, decoder.store().mode(), &cache, options.batch)
}

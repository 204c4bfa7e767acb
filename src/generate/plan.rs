//! What each mode can do in a budget, and which one mode auto takes.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::demand::Demand;
use super::model::ModelOptions;
use super::session::{SessionOptions, context_of};
use crate::decoder::Decoder;
use crate::decoder::kv::KvCache;
use crate::error::{Error, Result};
use crate::kernels::backend::Backend;
use crate::kernels::cpu::Cpu;
use crate::kernels::roofline::read_bandwidth;
use crate::pool::CancelToken;
use crate::store::budget::Budget;
use crate::store::forecast::{Forecast, MachineRates, WeightSizes};
use crate::store::{Mode, Origin, Store};

/// Bytes that are read to learn how fast memory is: more than caches hold, and read in a fraction of a second.
const MEMORY: usize = 256 << 20;
/// Share of the memory's speed that decoding reaches (docs/performance.md).
const REACHED: f64 = 0.85;
/// How much faster guessing must be expected to be to be worth its memory.
const WORTH: f64 = 1.1;
/// A budget that everything fits.
pub(super) fn ample() -> Arc<Budget> {
    Budget::new(u64::MAX >> 1)
}

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
    /// The mode that auto takes; none where the budget is too small.
    pub taken: Option<Mode>,
    /// Why.
    pub reason: String,
    /// Every mode that the files allow.
    pub modes: Vec<ModePlan>,
}

/// What a mode can do in a budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModePlan {
    /// The mode.
    pub mode: Mode,
    /// The smallest budget in which a session works in it.
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
/// [`Error::InvalidArgument`] where there is no budget; those of opening and of reading; [`Error::Cancelled`].
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
    let mut trial = options.clone();
    trial.store.budget = Some(ample());
    trial.store.mode = Mode::Auto;
    let store = Store::open(origin, &trial.store)?;
    let cpu = Arc::new(Cpu::new(options.threads.clone())?);
    let fallback = (store.mode() == Mode::Fast).then(|| store.mode_reason().to_owned());
    let decoder = Decoder::new(Arc::new(store), Arc::clone(&cpu) as Arc<dyn Backend>)?;
    let survey = Survey::new(&decoder, session, budget.available())?;
    let usual = survey.modes(&MachineRates::default())?;
    let (taken, reason) = match fallback {
        Some(reason) => (Mode::Fast, reason),
        None if survey.is_mini() => choose(&usual, &survey),
        None => (Mode::Exact, "the file is a full one".to_owned()),
    };
    let disk = match disk {
        Some(rate) => rate,
        None => decoder.store().disk_rate(cancel)?,
    };
    let machine = MachineRates { disk, memory: REACHED * read_bandwidth(&cpu, MEMORY, cancel)? };
    let modes = survey.modes(&machine)?;
    let works = modes.iter().any(|plan| plan.mode == taken && plan.fits);
    Ok(BudgetPlan {
        budget_bytes: budget.total(),
        context: survey.cache.capacity(),
        weights: survey.sizes,
        machine,
        taken: works.then_some(taken),
        reason: if works { reason } else { survey.too_small(taken, &modes) },
        modes,
    })
}

/// The mode that auto takes for a mini whose full file is at hand, and why. `decoder` is the model in mode exact, in a budget
/// that everything fits; a session may have `room` bytes with the model.
///
/// # Errors
/// [`Error::Limit`] where the system has no memory for the session.
pub(super) fn auto(decoder: &Decoder, session: &SessionOptions, room: u64) -> Result<(Mode, String)> {
    let survey = Survey::new(decoder, session, room)?;
    Ok(choose(&survey.modes(&MachineRates::default())?, &survey))
}

/// The mode that is expected to be the fastest of those that keep the promise of exact, and why.
fn choose(plans: &[ModePlan], survey: &Survey<'_>) -> (Mode, String) {
    let of = |mode: Mode| plans.iter().find(|plan| plan.mode == mode);
    let full = survey.sizes.full;
    let Some(exact) = of(Mode::Exact).filter(|plan| plan.fits && plan.streamed_bytes > 0) else {
        return (Mode::Exact, format!("all {full} bytes of weights fit the budget"));
    };
    let why = match of(Mode::Speculative) {
        None => "the mini cannot guess: it only links some capsules, or holds all exactly".to_owned(),
        Some(guessing) if !guessing.fits => format!(
            "to guess, the mini and a session of {} positions need a budget of {} bytes",
            survey.cache.capacity(),
            guessing.smallest_budget_bytes
        ),
        Some(guessing) => {
            let ratio = guessing.tokens_per_s / exact.tokens_per_s;
            if ratio > WORTH {
                let share = 100.0 * survey.sizes.agreement;
                let why = format!(
                    "{full} bytes of weights do not fit the budget; with the mini's guesses (agreement {share:.0}%) \
                     streaming is expected to give {ratio:.1} times the tokens"
                );
                return (Mode::Speculative, why);
            }
            format!(
                "the mini's guesses are expected to give {ratio:.1} times the tokens, not worth their memory"
            )
        }
    };
    (Mode::Exact, format!("{full} bytes of weights do not fit the budget and are streamed; {why}"))
}

/// A model and a session, of which every mode is weighed.
struct Survey<'a> {
    decoder: &'a Decoder,
    sizes: WeightSizes,
    cache: KvCache,
    batch: usize,
    /// Bytes that model and session may have.
    room: u64,
    tables: u64,
}

impl<'a> Survey<'a> {
    fn new(decoder: &'a Decoder, session: &SessionOptions, room: u64) -> Result<Self> {
        let store = decoder.store();
        let cache = KvCache::new(decoder.params(), context_of(decoder, session), session.kv_format)?;
        let tables = store.budget().map_or(0, |budget| budget.claimed());
        Ok(Self { decoder, sizes: store.weight_sizes(), cache, batch: session.batch, room, tables })
    }

    fn is_mini(&self) -> bool {
        self.decoder.store().manifest().full.is_some()
    }

    /// The modes that the files allow.
    fn modes(&self, machine: &MachineRates) -> Result<Vec<ModePlan>> {
        let store = self.decoder.store();
        let alone = store.mode() == Mode::Fast;
        let exact = (!alone).then_some(Mode::Exact);
        let guessing = (!alone && self.sizes.can_guess()).then_some(Mode::Speculative);
        let fast = (self.sizes.draft > 0).then_some(Mode::Fast);
        [exact, guessing, fast].into_iter().flatten().map(|mode| self.mode(mode, machine)).collect()
    }

    fn mode(&self, mode: Mode, machine: &MachineRates) -> Result<ModePlan> {
        let least = self.decoder.least_weights(mode)?;
        let taken = self.tables.saturating_add(least);
        let smallest = taken.saturating_add(Demand::least(self.decoder, mode, &self.cache, self.batch)?);
        let choices = Demand::choices(self.decoder, mode, &self.cache, self.batch, self.room)?;
        let demand = choices.iter().find(|demand| taken.saturating_add(demand.bytes) <= self.room);
        let claimed = self.tables.saturating_add(demand.or(choices.last()).map_or(0, |demand| demand.bytes));
        let left = self.room.saturating_sub(claimed);
        let ring = self.decoder.store().ring_bytes(left);
        let forecast = demand.and_then(|_| self.sizes.forecast(mode, left, ring, machine));
        let Forecast { pinned_bytes, streamed_bytes, tokens_per_pass, tokens_per_s, .. } =
            forecast.unwrap_or(Forecast::none(mode));
        Ok(ModePlan {
            mode,
            smallest_budget_bytes: smallest,
            fits: forecast.is_some(),
            claimed_bytes: claimed,
            weights_room_bytes: left,
            ring_bytes: ring,
            pinned_bytes,
            streamed_bytes,
            tokens_per_pass,
            tokens_per_s,
        })
    }

    /// Why not even mode `mode` works.
    fn too_small(&self, mode: Mode, plans: &[ModePlan]) -> String {
        let smallest =
            plans.iter().find(|plan| plan.mode == mode).map_or(0, |plan| plan.smallest_budget_bytes);
        format!(
            "the budget is too small: a session of {} positions in mode {} needs {smallest} bytes",
            self.cache.capacity(),
            mode.name()
        )
    }
}

/// Bytes that a session with `options` needs at least in the model's mode.
pub(super) fn least_session(decoder: &Decoder, options: &SessionOptions) -> Result<u64> {
    let cache = KvCache::new(decoder.params(), context_of(decoder, options), options.kv_format)?;
    Demand::least(decoder, decoder.store().mode(), &cache, options.batch)
}

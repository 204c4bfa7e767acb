//! What each mode is expected to do in a session's budget, on this machine.

use serde::{Deserialize, Serialize};

use super::session::Session;
use crate::error::{Error, Result};
use crate::kernels::cpu::Cpu;
use crate::kernels::roofline::read_bandwidth;
use crate::pool::CancelToken;
use crate::store::forecast::{Forecast, MachineRates, WeightSizes};

/// Bytes that are read to learn how fast memory is: more than caches hold, and read in a fraction of a second.
const MEMORY: usize = 256 << 20;
/// Share of the memory's speed that decoding reaches (docs/performance.md).
const REACHED: f64 = 0.85;

/// A budget, what takes it, and what is expected of the modes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BudgetPlan {
    /// The bound in bytes.
    pub budget_bytes: u64,
    /// Bytes that the KV cache, activations and tables take.
    pub claimed_bytes: u64,
    /// Bytes that are left for weights.
    pub weights_room_bytes: u64,
    /// Of them, the buffers of weights that are streamed.
    pub ring_bytes: u64,
    /// The weights.
    pub weights: WeightSizes,
    /// The machine.
    pub machine: MachineRates,
    /// The modes that can work.
    pub modes: Vec<Forecast>,
}

/// Plans for `session`, whose model has a budget. The disk gives `disk` bytes a second; `None`: it is measured, by reads
/// of the model's own file. Takes a fraction of a second.
///
/// # Errors
/// [`Error::InvalidArgument`] where there is no budget; those of reading.
pub fn budget_plan(session: &Session, disk: Option<f64>) -> Result<BudgetPlan> {
    budget_plan_until(session, disk, None)
}

/// As [`budget_plan`], until `cancel` is cancelled.
///
/// # Errors
/// Those of [`budget_plan`]; [`Error::Cancelled`].
pub fn budget_plan_until(
    session: &Session,
    disk: Option<f64>,
    cancel: Option<&CancelToken>,
) -> Result<BudgetPlan> {
    let model = session.model();
    let store = model.store();
    let Some(budget) = store.budget() else {
        return Err(Error::InvalidArgument("there is no budget to plan for; name one".into()));
    };
    let (total, claimed) = (budget.total(), budget.claimed());
    let room = total.saturating_sub(claimed);
    let weights = store.weight_sizes();
    let ring = store.ring_bytes(room);
    let disk = match disk {
        Some(rate) => rate,
        None => store.disk_rate(cancel)?,
    };
    let cpu = Cpu::new(model.decoder().backend().threads())?;
    let machine = MachineRates { disk, memory: REACHED * read_bandwidth(&cpu, MEMORY, cancel)? };
    let modes = weights.forecasts(room, ring, &machine);
    Ok(BudgetPlan {
        budget_bytes: total,
        claimed_bytes: claimed,
        weights_room_bytes: room,
        ring_bytes: ring,
        weights,
        machine,
        modes,
    })
}

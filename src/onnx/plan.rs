//! What a memory budget would do to an ONNX model.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::model::{OnnxModel, OnnxOptions, Prepack};
use crate::error::{Error, Result};
use crate::store::budget::Budget;
use crate::store::{Mode, OpenOptions, Origin, Store};

/// A budget, and what stays in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnnxPlan {
    /// The bound in bytes.
    pub budget_bytes: u64,
    /// The mode that the model would run in, and why.
    pub mode: Mode,
    /// Why.
    pub mode_reason: String,
    /// Bytes of the weights, in whole pages.
    pub weights_bytes: u64,
    /// Number of capsules.
    pub capsules: usize,
    /// What each choice of prepacking does: `off`, `auto`, `on`.
    pub choices: Vec<OnnxPlanChoice>,
}

/// What stays with one choice of prepacking.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnnxPlanChoice {
    /// The choice: `off`, `auto` or `on`.
    pub prepack: String,
    /// The smallest budget in which it works, with the activations that are counted with until they are measured.
    pub smallest_budget_bytes: u64,
    /// The smallest budget in which nothing is read again.
    pub whole_budget_bytes: u64,
    /// What tables and first activations take.
    pub claimed_bytes: u64,
    /// Whether the budget is one in which it works; what follows is 0 where it is not.
    pub fits: bool,
    /// Bytes of weights that stay in memory.
    pub pinned_bytes: u64,
    /// Their capsules.
    pub pinned_capsules: usize,
    /// Bytes of weights that each run reads again.
    pub streamed_bytes: u64,
    /// Bytes of room for weights that a copy beside them takes while it is made: with `off` none.
    pub copy_bytes: u64,
}

/// What a budget of `options` would do to the model at `origin`, with nothing else open in it. ONNX Runtime is not needed; one
/// that copies weights (before 1.31) needs as much as with `on`.
///
/// # Errors
/// Those of [`OnnxModel::open`], but for a budget that is too small; [`Error::InvalidArgument`] where there is none.
pub fn onnx_plan(origin: &Origin, options: &OnnxOptions) -> Result<OnnxPlan> {
    let Some(budget) = &options.store.budget else {
        return Err(Error::InvalidArgument("there is no budget to plan for; name one".into()));
    };
    let total = budget.total();
    let mut plan: Option<OnnxPlan> = None;
    for prepack in [Prepack::Off, Prepack::Auto, Prepack::On] {
        // In a budget that is never full, the model says what it needs of another.
        let store = OpenOptions { budget: Some(Budget::new(u64::MAX)), ..options.store.clone() };
        let options = OnnxOptions { store, prepack, ..options.clone() };
        let opened = Store::open(origin, &options.store)?;
        let model = OnnxModel::with_store(opened, &options, Instant::now())?;
        let choice = OnnxPlanChoice { prepack: prepack.name().to_owned(), ..model.forecast(total) };
        let plan = plan.get_or_insert_with(|| OnnxPlan {
            budget_bytes: total,
            mode: model.store().mode(),
            mode_reason: model.store().mode_reason().to_owned(),
            weights_bytes: model.memory().pinned,
            capsules: model.store().manifest().capsules.len(),
            choices: Vec::new(),
        });
        plan.choices.push(choice);
    }
    plan.ok_or_else(|| Error::Internal("nothing was planned".into()))
}

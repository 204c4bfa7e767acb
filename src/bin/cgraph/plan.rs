//! `cgraph plan`: what each mode would do in a budget.

use capsulegraph::Error;
use capsulegraph::generate::plan::{BudgetPlan, budget_plan};

use crate::args::ForecastArgs;
use crate::failure::Failure;
use crate::outputs::Outputs;
use crate::size::human;
use crate::ui::{self, Ui};

pub fn plan(args: &ForecastArgs, ui: &Ui) -> Result<(), Failure> {
    if args.compute.memory.is_none() {
        return Err(
            Error::InvalidArgument("name the budget to plan for, such as --memory 1GiB".into()).into()
        );
    }
    let inputs = [Some(args.file.as_path()), args.compute.file.full.as_deref()];
    let outputs = Outputs::checked(&[], &inputs)?;
    let model = args.compute.open(&args.file, &outputs, ui)?;
    let session = args.compute.session(model, 0)?;
    let plan = budget_plan(&session, args.disk.map(|rate| rate * 1e9))?;
    if args.json {
        return ui::print_json(&plan);
    }
    ui::print(&table(&plan))
}

fn table(plan: &BudgetPlan) -> String {
    let mut text = format!(
        "budget {}: {} for the KV cache, activations and tables, {} for weights\nweights {}",
        human(plan.budget_bytes),
        human(plan.claimed_bytes),
        human(plan.weights_room_bytes),
        human(plan.weights.full)
    );
    if plan.weights.draft > 0 {
        let share = 100.0 * plan.weights.agreement;
        text.push_str(&format!(", of the mini {} (agreement {share:.0}%)", human(plan.weights.draft)));
    }
    let [disk, memory] = [plan.machine.disk, plan.machine.memory].map(|rate| rate / 1e9);
    text.push_str(&format!("\ndisk {disk:.2} GB/s, weights from memory {memory:.1} GB/s\n\n"));
    text.push_str(&format!(
        "{:12}{:>12}{:>18}{:>16}{:>12}\n",
        "mode", "stays", "streamed a pass", "tokens a pass", "tokens/s"
    ));
    for mode in &plan.modes {
        text.push_str(&format!(
            "{:12}{:>12}{:>18}{:>16.1}{:>12.2}\n",
            mode.mode.name(),
            human(mode.pinned_bytes),
            human(mode.streamed_bytes),
            mode.tokens_per_pass,
            mode.tokens_per_s
        ));
    }
    text
}

//! `cgraph plan`: what each mode would do in a budget; of an ONNX model each choice of prepacking.

use capsulegraph::Error;
use capsulegraph::generate::plan::{BudgetPlan, ModePlan, budget_plan};
use capsulegraph::onnx::model::OnnxOptions;
use capsulegraph::onnx::plan::{OnnxPlan, OnnxPlanChoice, onnx_plan};
use capsulegraph::pool::CancelToken;
use capsulegraph::store::Origin;

use crate::args::{ForecastArgs, Given};
use crate::failure::Failure;
use crate::session::refuse_gguf;
use crate::size::human;
use crate::tensors;
use crate::ui::{self, counted};

pub fn plan(args: &ForecastArgs, given: &Given, cancel: &CancelToken) -> Result<(), Failure> {
    if args.compute.memory.is_none() {
        return Err(
            Error::InvalidArgument("name the budget to plan for, such as --memory 1GiB".into()).into()
        );
    }
    if tensors::is_onnx(&args.file)? {
        given.refuse_for_onnx(&args.file)?;
        return tensors_plan(args);
    }
    refuse_gguf(&args.file)?;
    let (model, session) = (args.compute.model_options(0), args.compute.session_options(0));
    let disk = args.disk.map(|rate| rate * 1e9);
    let plan = budget_plan(&Origin::Path(args.file.clone()), &model, &session, disk, Some(cancel))?;
    if args.json {
        return ui::print_json(&plan);
    }
    ui::print(&table(&plan))
}

/// The plan of an ONNX model.
fn tensors_plan(args: &ForecastArgs) -> Result<(), Failure> {
    let store = args.compute.model_options(0).store;
    let options = OnnxOptions { store, ..OnnxOptions::default() };
    let plan = onnx_plan(&Origin::Path(args.file.clone()), &options)?;
    if args.json {
        return ui::print_json(&plan);
    }
    ui::print(&tensors_table(&plan))
}

fn tensors_table(plan: &OnnxPlan) -> String {
    let mut text = format!(
        "budget {}, mode {} ({}), weights {} in {}\n\n{:12}{:>14}{:>12}{:>12}{:>18}{:>16}\n",
        human(plan.budget_bytes),
        plan.mode.name(),
        plan.mode_reason,
        human(plan.weights_bytes),
        counted(plan.capsules, "capsule"),
        "prepack",
        "least, bytes",
        "others",
        "weights",
        "streamed a run",
        "all stay from"
    );
    let row = |choice: &OnnxPlanChoice| {
        let least = choice.smallest_budget_bytes;
        let stays = if choice.fits {
            format!("{:>12}{:>18}", human(choice.pinned_bytes), human(choice.streamed_bytes))
        } else {
            format!("{:>30}", "does not fit")
        };
        let (others, whole) = (human(choice.claimed_bytes), choice.whole_budget_bytes);
        format!("{:12}{least:>14}{others:>12}{stays}{whole:>16}\n", choice.prepack)
    };
    text.extend(plan.choices.iter().map(row));
    text.push_str(
        "\nleast: the smallest budget; others: tables and first activations; weights: what stays of them; prepacked\n\
         weights are copies as long as they are, and while one is made both are there\n",
    );
    text
}

fn table(plan: &BudgetPlan) -> String {
    let mut text = format!(
        "budget {}, a context of {} tokens, weights {}",
        human(plan.budget_bytes),
        plan.context,
        human(plan.weights.full)
    );
    if plan.weights.draft > 0 {
        let share = 100.0 * plan.weights.agreement;
        text.push_str(&format!(", of the mini {} (agreement {share:.0}%)", human(plan.weights.draft)));
    }
    let [disk, memory] = [plan.machine.disk, plan.machine.memory].map(|rate| rate / 1e9);
    text.push_str(&format!("\ndisk {disk:.2} GB/s, weights from memory {memory:.1} GB/s\n\n"));
    text.push_str(&format!(
        "{:12}{:>14}{:>12}{:>12}{:>18}{:>15}{:>10}\n",
        "mode", "least, bytes", "others", "weights", "streamed a pass", "tokens a pass", "tokens/s"
    ));
    plan.modes.iter().for_each(|mode| text.push_str(&row(mode)));
    text.push_str(&format!(
        "\nleast: the smallest budget; others: tables, KV cache, activations; weights: what stays of them\n\
         nothing is streamed from {} bytes on\n",
        plan.whole_budget_bytes
    ));
    if plan.longest_mini_bytes > 0 {
        text.push_str(&format!(
            "a mini of up to {} bytes (--size) has room to guess\n",
            plan.longest_mini_bytes
        ));
    }
    match plan.taken {
        Some(mode) => text.push_str(&format!("mode auto takes {}: {}\n", mode.name(), plan.reason)),
        None => text.push_str(&format!("{}\n", plan.reason)),
    }
    text
}

fn row(mode: &ModePlan) -> String {
    let mut text =
        format!("{:12}{:>14}{:>12}", mode.mode.name(), mode.smallest_budget_bytes, human(mode.claimed_bytes));
    if mode.fits {
        text.push_str(&format!(
            "{:>12}{:>18}{:>15.1}{:>10.2}\n",
            human(mode.pinned_bytes),
            human(mode.streamed_bytes),
            mode.tokens_per_pass,
            mode.tokens_per_s
        ));
    } else {
        text.push_str("  does not fit\n");
    }
    text
}

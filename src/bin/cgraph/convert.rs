//! `cgraph convert`: a source model to a full file and its mini.

use std::path::Path;

use capsulegraph::convert::import::{ConvertOptions, Planes};
use capsulegraph::kernels::encoding;
use capsulegraph::pool::CancelToken;
use capsulegraph::split::job::{Phase, Targets, default_mini, produce};

use crate::args::ConvertArgs;
use crate::failure::Failure;
use crate::outputs::Outputs;
use crate::size::human;
use crate::split;
use crate::ui::{self, Ui, counted};

pub fn convert(args: ConvertArgs, ui: &Ui, cancel: &CancelToken) -> Result<(), Failure> {
    let targets = Targets::new(&args.source, args.output.as_deref(), args.mini.as_deref(), args.no_mini);
    let mut inputs = vec![Some(args.source.as_path())];
    inputs.extend(args.plan.calibrate_files().into_iter().map(Some));
    Outputs::checked(&[Some(targets.full.as_path()), targets.mini.as_deref()], &inputs)?;
    let options = ConvertOptions {
        planes: args.planes,
        cut: args.cut.options(),
        cancel: Some(cancel.clone()),
        ..ConvertOptions::default()
    };
    let split_options = split::options(args.plan, cancel)?;
    let bar = ui.bytes_bar("converting");
    let produced = produce(&args.source, &targets, &options, &split_options, &mut |phase, done, total| {
        if phase == Phase::Split {
            bar.set_message("splitting");
        }
        ui::show(&bar, done, total);
    });
    bar.finish_and_clear();
    let produced = produced?;
    if args.planes == Planes::Divided && produced.full.divided == 0 {
        ui.note(&nothing_divided());
    }
    if let Some(why) = &produced.without_mini {
        let older = targets.mini.as_ref().filter(|path| path.exists());
        let older = older.map(|path| format!("; {} is of an earlier conversion", path.display()));
        ui.note(&format!("no mini was made: {why}{}", older.unwrap_or_default()));
    }
    let beside = default_mini(&targets.full);
    if args.no_mini && beside.exists() {
        ui.note(&format!(
            "{} is of an earlier conversion: where the full file is no more the one it was made of, it answers alone (mode fast); \
             make it again with cgraph split, or remove it",
            beside.display()
        ));
    }
    if args.json {
        return ui::print_json(&produced);
    }
    if ui.is_quiet() {
        return Ok(());
    }
    let full = &produced.full;
    ui::print(&format!(
        "full  {}  {}, {}, {}\n",
        name(&full.path),
        human(full.bytes),
        counted(full.capsules, "capsule"),
        counted(full.tensors, "tensor")
    ))?;
    match &produced.mini {
        Some(mini) => split::print_summary(mini, ui),
        None => Ok(()),
    }
}

/// Why `--planes divided` divided nothing.
fn nothing_divided() -> String {
    let possible = encoding::all().iter().filter(|encoding| encoding.division.is_some());
    let names: Vec<&str> = possible.map(|encoding| encoding.name).collect();
    format!(
        "no weight is divided: only those in {} can be, and this model has none; the file is as with --planes whole",
        names.join(" and ")
    )
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

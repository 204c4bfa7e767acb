//! `cgraph fetch`: a capsule's tensors as files.

use std::path::{Path, PathBuf};

use capsulegraph::container::disk::SystemDisk;
use capsulegraph::convert::onnx::export::{ExportOptions, export_served};
use capsulegraph::convert::onnx::write::WrittenModel;
use capsulegraph::pool::CancelToken;
use capsulegraph::store::fetch_files::{DESCRIPTION, safe_name};
use capsulegraph::store::{Mode, OpenOptions, Origin, Store};

use crate::args::FetchArgs;
use crate::failure::Failure;
use crate::session::refuse_gguf;
use crate::size::human;
use crate::ui::{self, Ui};

pub fn fetch(args: FetchArgs, ui: &Ui, cancel: &CancelToken) -> Result<(), Failure> {
    let options = OpenOptions { partial: true, ..args.source.open_options() };
    refuse_gguf(&args.file)?;
    let wanted = options.mode;
    let store = Store::open(&Origin::Path(args.file), &options)?;
    if wanted == Mode::Auto && store.mode() == Mode::Fast {
        ui.note(&format!("in mode fast, as the mini holds it: {}", store.mode_reason()));
    }
    let capsule = store.fetch_until(&args.capsule, args.layout.into(), Some(cancel))?;
    let directory = args.output.unwrap_or_else(|| PathBuf::from(safe_name(capsule.id)));
    let files = capsule.write_to(&directory, &SystemDisk, Some(cancel))?;
    let model = sub_model(&store, &files.id, &directory, cancel)?;
    if args.json {
        return ui::print_json(&files);
    }
    if ui.is_quiet() {
        return Ok(());
    }
    let mut text =
        format!("{} ({}) from {} to {}\n", files.id, files.precision, files.source, directory.display());
    for tensor in &files.tensors {
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        text.push_str(&format!(
            "  {:32} {:>14} {:8} {:>10}\n",
            tensor.file,
            shape.join("x"),
            tensor.encoding,
            human(tensor.bytes)
        ));
    }
    text.push_str(&format!("  {DESCRIPTION}\n"));
    for path in model.iter().flat_map(|model| std::iter::once(&model.path).chain(&model.data)) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        text.push_str(&format!("  {name}\n"));
    }
    ui::print(&text)
}

/// Of a capsule of an ONNX model: writes what it computes as a model of its own; in mode fast as the mini holds it.
fn sub_model(
    store: &Store,
    capsule: &str,
    directory: &Path,
    cancel: &CancelToken,
) -> Result<Option<WrittenModel>, Failure> {
    if store.manifest().model.onnx.is_none() {
        return Ok(None);
    }
    let target = directory.join(format!("{}.onnx", safe_name(capsule)));
    let options = ExportOptions { cancel: Some(cancel.clone()), ..ExportOptions::default() };
    Ok(Some(export_served(store, capsule, &target, &options, &mut |_, _| {})?))
}

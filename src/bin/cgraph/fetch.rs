//! `cgraph fetch`: a capsule's tensors as files.

use std::path::PathBuf;

use capsulegraph::container::disk::SystemDisk;
use capsulegraph::pool::CancelToken;
use capsulegraph::store::fetch_files::{DESCRIPTION, safe_name};
use capsulegraph::store::{OpenOptions, Origin, Store};

use crate::args::FetchArgs;
use crate::failure::Failure;
use crate::session::refuse_gguf;
use crate::size::human;
use crate::ui::{self, Ui};

pub fn fetch(args: FetchArgs, ui: &Ui, cancel: &CancelToken) -> Result<(), Failure> {
    let options = OpenOptions { partial: true, ..args.source.open_options() };
    refuse_gguf(&args.file)?;
    let store = Store::open(&Origin::Path(args.file), &options)?;
    let capsule = store.fetch_until(&args.capsule, args.layout.into(), Some(cancel))?;
    let directory = args.output.unwrap_or_else(|| PathBuf::from(safe_name(capsule.id)));
    let files = capsule.write_to(&directory, &SystemDisk, Some(cancel))?;
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
    ui::print(&text)
}

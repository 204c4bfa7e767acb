//! `cgraph export`: back to an ONNX model.

use capsulegraph::convert::onnx::export::{ExportOptions, export as write_back};
use capsulegraph::convert::onnx::write::data_path;
use capsulegraph::pool::CancelToken;

use crate::args::ExportArgs;
use crate::failure::Failure;
use crate::outputs::Outputs;
use crate::size::human;
use crate::ui::{self, Ui};

pub fn export(args: &ExportArgs, ui: &Ui, cancel: &CancelToken) -> Result<(), Failure> {
    let data = data_path(&args.output);
    Outputs::checked(&[Some(&args.output), Some(&data)], &[Some(&args.file)])?;
    let options = ExportOptions { cancel: Some(cancel.clone()), ..ExportOptions::default() };
    let bar = ui.bytes_bar("exporting");
    let written =
        write_back(&args.file, &args.output, &options, &mut |done, total| ui::show(&bar, done, total));
    bar.finish_and_clear();
    let written = written?;
    if args.json {
        return ui::print_json(&written);
    }
    if ui.is_quiet() {
        return Ok(());
    }
    let mut text = format!("model  {}  {}\n", written.path.display(), human(written.bytes));
    if let Some(data) = &written.data {
        text.push_str(&format!("data   {}  {}\n", data.display(), human(written.weight_bytes)));
    }
    ui::print(&text)
}

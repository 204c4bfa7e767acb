//! Options about ONNX models.

use std::path::PathBuf;

use capsulegraph::convert::onnx::cut::{CAPSULE_BYTES, CutOptions};
use clap::Args;

use super::positive;
use crate::size;

/// How an ONNX model is cut.
#[derive(Args, Debug)]
#[command(next_help_heading = "Capsules of an ONNX model")]
pub struct CutArgs {
    /// Weights that a capsule has at most, such as 8MiB [default: 32MiB]
    #[arg(long, value_name = "SIZE", value_parser = size::parse, conflicts_with = "capsules")]
    pub capsule_size: Option<u64>,
    /// Number of capsules, in place of a size; as many as possible where there are fewer nodes
    #[arg(long, value_name = "N", value_parser = positive)]
    pub capsules: Option<usize>,
}

impl CutArgs {
    /// The library's options.
    pub fn options(&self) -> CutOptions {
        CutOptions { capsule_bytes: self.capsule_size.unwrap_or(CAPSULE_BYTES), capsules: self.capsules }
    }
}

/// Write the ONNX model again that a file was converted from
///
/// Its inputs, outputs and weights are the source's. Weights lie in the model up to about 1.8 GB, else beside it in
/// OUT.onnx.data, as ONNX allows for no longer files.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cgraph export model.cgraph -o again.onnx")]
pub struct ExportArgs {
    /// A full file that was converted from an ONNX model
    pub file: PathBuf,
    /// The model to write
    #[arg(short, value_name = "OUT.onnx")]
    pub output: PathBuf,
    /// Print what was written as JSON
    #[arg(long)]
    pub json: bool,
}

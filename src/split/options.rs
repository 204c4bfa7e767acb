//! How to split.

use std::path::PathBuf;
use std::sync::Arc;

use super::plan::Light;
use crate::container::disk::{Disk, SystemDisk};
use crate::pool::CancelToken;

/// How to split.
#[derive(Clone, Debug)]
pub struct SplitOptions {
    /// Length of the mini at most, in bytes; 0: by the full file's precision ([`default_size`](super::plan::default_size)),
    /// or as short as possible where no mini is that short.
    pub size: u64,
    /// Light forms that may be used.
    pub light: Light,
    /// Text on which agreement with the full file is measured; `None`: a bundled sample, for files small
    /// enough to run it in seconds. Of an ONNX model lines of `NAME=FILE.npy`, one or more for each of its inputs; `None`: random
    /// inputs of the right shape.
    pub calibrate: Option<String>,
    /// Of an ONNX model: how far a mini's outputs may be from the full file's, relative to their own; `None`: 0.05.
    pub max_error: Option<f64>,
    /// Of an ONNX model: ONNX Runtime's library or its folder, to measure with; `None`: it is looked for.
    pub runtime: Option<PathBuf>,
    /// Where files live.
    pub disk: Arc<dyn Disk>,
    /// Stops the split; nothing is left under the target's name.
    pub cancel: Option<CancelToken>,
}

impl Default for SplitOptions {
    fn default() -> Self {
        Self {
            size: 0,
            light: Light::Auto,
            calibrate: None,
            max_error: None,
            runtime: None,
            disk: Arc::new(SystemDisk),
            cancel: None,
        }
    }
}

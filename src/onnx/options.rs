//! How an ONNX model is opened.

use std::path::PathBuf;

use crate::store::OpenOptions;

/// Whether weights are copied into the form that the runtime's kernels like best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prepack {
    /// Of each capsule where it pays and the budget has room; where kernels are useless without, always.
    #[default]
    Auto,
    /// Of every capsule.
    On,
    /// Of none.
    Off,
}

impl Prepack {
    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

/// Bytes of weights up to which neighbouring capsules are computed by one session, where nothing else is asked for. A run of
/// a session costs some 5 microseconds whatever it computes, and the session itself memory; reading 4 MiB of weights takes
/// a hundred times as long.
pub const JOINED_BYTES: u64 = 4 << 20;

/// How to open an ONNX model.
#[derive(Clone, Debug)]
pub struct OnnxOptions {
    /// Run mode, files, budget.
    pub store: OpenOptions,
    /// Threads that compute; 0: one per processor. All ONNX models of a process share those of the first that runs.
    pub threads: usize,
    /// ONNX Runtime's library, or the folder that it is in; `None`: it is looked for (docs/onnx.md). A process has one.
    pub runtime: Option<PathBuf>,
    /// Whether weights are prepacked.
    pub prepack: Prepack,
    /// Whether graphs are optimised: faster; without, the results of a model are the same bits however it is cut.
    pub optimization: bool,
    /// Bytes of weights up to which neighbouring capsules are computed by one session; 0: each has its own.
    pub joined_bytes: u64,
}

impl Default for OnnxOptions {
    fn default() -> Self {
        Self {
            store: OpenOptions::default(),
            threads: 0,
            runtime: None,
            prepack: Prepack::Auto,
            optimization: true,
            joined_bytes: JOINED_BYTES,
        }
    }
}

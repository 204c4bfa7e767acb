//! An opened ONNX model.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::api::Runtime;
use super::value::{Input, Value};
use crate::error::{Error, Result};
use crate::graph::onnx::{OnnxInfo, OnnxPort};
use crate::pool::CancelToken;
use crate::store::{OpenOptions, Origin, Store};

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
}

impl Default for OnnxOptions {
    fn default() -> Self {
        Self {
            store: OpenOptions::default(),
            threads: 0,
            runtime: None,
            prepack: Prepack::Auto,
            optimization: true,
        }
    }
}

/// An opened ONNX model. Shared by any number of threads, which may run it at the same time.
#[derive(Debug)]
pub struct OnnxModel {
    store: Store,
    info: OnnxInfo,
    options: OnnxOptions,
    open_time: Duration,
}

impl OnnxModel {
    /// Opens a full file, or a mini and (unless the mode is fast) its full file. ONNX Runtime is not needed before the model
    /// runs.
    ///
    /// # Errors
    /// Those of [`Store::open`]; [`Error::Unsupported`] where it is no ONNX model.
    pub fn open(origin: &Origin, options: &OnnxOptions) -> Result<Self> {
        let begun = Instant::now();
        let store = Store::open(origin, &options.store)?;
        let info = OnnxInfo { ir_version: 0, opsets: Vec::new(), inputs: Vec::new(), outputs: Vec::new() };
        Ok(Self { store, info, options: options.clone(), open_time: begun.elapsed() })
    }

    /// Where the weights come from.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What the model takes, in its own order.
    #[must_use]
    pub fn inputs(&self) -> &[OnnxPort] {
        &self.info.inputs
    }

    /// What the model gives, in its own order.
    #[must_use]
    pub fn outputs(&self) -> &[OnnxPort] {
        &self.info.outputs
    }

    /// How long opening took.
    #[must_use]
    pub fn open_time(&self) -> Duration {
        self.open_time
    }

    /// The runtime, which is loaded and started now where it was not yet. Values of one's own are made with it.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Unsupported`] that says what was looked for, where, which version is needed and what to
    /// do; [`Error::InvalidArgument`] where the process has another one already.
    pub fn runtime(&self) -> Result<&'static Runtime> {
        Runtime::get(self.options.runtime.as_deref(), self.options.threads)
    }

    /// Makes the model ready to run, as far as that can be without inputs: the first run is then no slower than others. Only a
    /// hint; running does it as well.
    ///
    /// # Errors
    /// Those of [`run`](Self::run) but for inputs and outputs.
    pub fn prepare(&self, cancel: Option<&CancelToken>) -> Result<()> {
        crate::pool::unless_cancelled(cancel)?;
        self.runtime().map(|_| ())
    }

    /// Computes the outputs called `outputs`, in that order (none: all, in the model's order), from values by name.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for names, types and shapes that are not the model's; those of
    /// [`runtime`](Self::runtime); [`Error::Mismatch`] with the runtime's message where it fails; [`Error::Limit`] naming the
    /// smallest budget; [`Error::Cancelled`].
    pub fn run(
        &self,
        inputs: &[(&str, Input<'_>)],
        outputs: &[&str],
        cancel: Option<&CancelToken>,
    ) -> Result<Vec<Value>> {
        let _ = (inputs, outputs);
        self.prepare(cancel)?;
        Err(Error::Unsupported("running comes with the next commit".into()))
    }
}

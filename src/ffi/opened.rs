//! What a model handle holds: a language model or an ONNX model.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::Failure;
use super::status::CAPG_ERROR_UNSUPPORTED;
use crate::error::Result;
use crate::generate::model::{Model, ModelOptions};
use crate::onnx::model::{OnnxModel, OnnxOptions, Prepack};
use crate::pool::{Priority, ThreadOptions};
use crate::store::{Origin, Store};

/// What only ONNX models ask of the options.
#[derive(Clone, Debug)]
pub(super) struct OnnxChoices {
    pub runtime: Option<std::path::PathBuf>,
    pub prepack: Prepack,
    pub unoptimized: bool,
    pub joined_bytes: u64,
}

/// An opened model. Clones share it.
#[derive(Clone)]
pub(super) enum Opened {
    Language(Arc<Model>),
    Onnx(Arc<OnnxModel>),
}

impl AsRef<Store> for Opened {
    fn as_ref(&self) -> &Store {
        match self {
            Self::Language(model) => model.store(),
            Self::Onnx(model) => model.store(),
        }
    }
}

impl Opened {
    /// Opens what the file holds.
    pub fn open(origin: &Origin, options: &ModelOptions, onnx: &OnnxChoices) -> Result<Self, Failure> {
        let begun = Instant::now();
        let store = Store::open(origin, &options.store)?;
        if store.manifest().model.onnx.is_none() {
            return Ok(Self::Language(Arc::new(Model::with_store(store, options, begun)?)));
        }
        refuse_what_onnx_has_not(&store, options)?;
        let options = OnnxOptions {
            store: options.store.clone(),
            threads: options.threads.count,
            runtime: onnx.runtime.clone(),
            prepack: onnx.prepack,
            optimization: !onnx.unoptimized,
            joined_bytes: onnx.joined_bytes,
        };
        Ok(Self::Onnx(Arc::new(OnnxModel::with_store(store, &options, begun)?)))
    }

    /// Where the weights come from.
    pub fn store(&self) -> &Store {
        self.as_ref()
    }

    /// The language model.
    ///
    /// # Errors
    /// That it is an ONNX model, and what such a one is for.
    pub fn language(&self) -> Result<&Arc<Model>, Failure> {
        match self {
            Self::Language(model) => Ok(model),
            Self::Onnx(model) => Err(unsupported(
                model.store(),
                "this is an ONNX model, not a language model: it has neither tokens nor sessions; it takes named tensors: \
                 run it with them",
            )),
        }
    }

    /// The ONNX model.
    ///
    /// # Errors
    /// That it is a language model, and what such a one is for.
    pub fn onnx(&self) -> Result<&Arc<OnnxModel>, Failure> {
        match self {
            Self::Onnx(model) => Ok(model),
            Self::Language(model) => Err(unsupported(
                model.store(),
                "this is a language model, not an ONNX model: it has no named tensors; make a session of it, which has \
                 text, tokens and a report",
            )),
        }
    }

    /// How it computes, for the log.
    pub fn backend(&self) -> String {
        match self {
            Self::Language(model) => model.decoder().backend().describe(),
            Self::Onnx(model) => format!("ONNX, prepacking {}", model.options().prepack.name()),
        }
    }

    /// Anonymous memory that the model holds itself.
    pub fn held_bytes(&self) -> u64 {
        match self {
            Self::Language(model) => model.held_bytes(),
            Self::Onnx(model) => {
                let store = model.store();
                let full = store.full().filter(|file| !std::ptr::eq(*file, store.primary()));
                let owned = store.primary().owned_bytes() + full.map_or(0, |file| file.owned_bytes());
                owned as u64 + model.memory().sessions
            }
        }
    }

    /// How long opening took.
    pub fn open_time(&self) -> Duration {
        match self {
            Self::Language(model) => model.open_time(),
            Self::Onnx(model) => model.open_time(),
        }
    }

    /// Threads that compute, the caller's included.
    pub fn threads(&self) -> Result<usize, Failure> {
        Ok(match self {
            Self::Language(model) => model.decoder().backend().threads(),
            Self::Onnx(model) => model.runtime()?.threads(),
        })
    }
}

fn unsupported(store: &Store, why: &str) -> Failure {
    Failure::new(CAPG_ERROR_UNSUPPORTED, format!("{}: {why}", store.primary().name()))
}

/// ONNX Runtime has threads of its own, and its models no parts.
fn refuse_what_onnx_has_not(store: &Store, options: &ModelOptions) -> Result<(), Failure> {
    let ThreadOptions { processors, priority, host, .. } = &options.threads;
    let set = [
        (!processors.is_empty(), "options.processors"),
        (*priority != Priority::Inherited, "options.priority"),
        (host.is_some(), "options.parallel_for"),
        (options.store.range.is_some(), "options.first_capsule and options.end_capsule"),
    ];
    match set.iter().find(|(is_set, _)| *is_set) {
        None => Ok(()),
        Some((_, name)) => Err(unsupported(
            store,
            &format!("this is an ONNX model, and {name} can only be set for a language model; leave it out"),
        )),
    }
}

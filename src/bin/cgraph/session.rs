//! From the shared options to an opened model and a session.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use capsulegraph::container::disk::SystemDisk;
use capsulegraph::convert::gguf::is_gguf;
use capsulegraph::generate::model::{Model, ModelOptions};
use capsulegraph::generate::session::{Session, SessionOptions};
use capsulegraph::pool::{ThreadOptions, place_this_thread};
use capsulegraph::store::budget::Budget;
use capsulegraph::store::{Mode, OpenOptions, Origin, Store};
use capsulegraph::{Error, Result};

use crate::args::{ComputeArgs, FileArgs, ModeArg};
use crate::outputs::Outputs;
use crate::quote::quoted;
use crate::ui::{Ui, converted_name};

impl FileArgs {
    /// The library's open options.
    pub fn open_options(&self) -> OpenOptions {
        let mode = match self.mode {
            ModeArg::Auto => Mode::Auto,
            ModeArg::Exact => Mode::Exact,
            ModeArg::Fast => Mode::Fast,
            ModeArg::Speculative => Mode::Speculative,
        };
        OpenOptions { mode, full: self.full.clone().map(Origin::Path), ..OpenOptions::default() }
    }
}

impl ComputeArgs {
    /// The library's options, for a session with `context` positions where `--ctx` says nothing.
    pub fn model_options(&self, context: usize) -> ModelOptions {
        let threads = ThreadOptions {
            count: self.threads,
            processors: self.processors.clone().map(|list| list.0).unwrap_or_default(),
            priority: self.priority,
            host: None,
        };
        let store = OpenOptions { budget: self.memory.map(Budget::new), ..self.file.open_options() };
        ModelOptions { store, threads, session: self.session_options(context) }
    }

    /// The library's options of a session with `context` positions where `--ctx` says nothing (0: the library's choice).
    pub fn session_options(&self, context: usize) -> SessionOptions {
        SessionOptions {
            context: self.ctx.unwrap_or(context),
            batch: self.batch,
            kv_format: self.kv_type,
            without_lookup: self.no_lookup,
        }
    }

    /// Opens the model at `file`, whose full file `outputs` must spare too, for a session with `context` positions where
    /// `--ctx` says nothing.
    pub fn open(&self, file: &Path, context: usize, outputs: &Outputs<'_>, ui: &Ui) -> Result<Arc<Model>> {
        let options = self.model_options(context);
        refuse_gguf(file)?;
        // The main thread computes too, and here it is this program's own.
        place_this_thread(&options.threads)?;
        let model = Arc::new(Model::open(&Origin::Path(file.to_owned()), &options)?);
        let store = model.store();
        if let Some(full) = full_file(file, store) {
            outputs.spare(&[&full])?;
        }
        if options.store.mode == Mode::Auto && store.mode() == Mode::Fast {
            ui.note(&format!("mode fast, from the mini alone: {}", store.mode_reason()));
        }
        let trained = model.decoder().params().context_length as usize;
        if let Some(context) = self.ctx.filter(|context| *context > trained) {
            ui.note(&format!(
                "a context of {context} tokens was asked for, and the model was trained for {trained}: what it writes \
                 beyond them may make no sense"
            ));
        }
        ui.remark(&format!(
            "mode {} ({}), {}, opened in {:.1} ms",
            store.mode().name(),
            store.mode_reason(),
            model.decoder().backend().describe(),
            model.open_time().as_secs_f64() * 1e3
        ));
        Ok(model)
    }

    /// Makes a session on `model` with `context` positions where `--ctx` says nothing (0: the library's choice).
    pub fn session(&self, model: Arc<Model>, context: usize) -> Result<Session> {
        Session::new(model, &self.session_options(context))
    }

    /// Makes a session on `model` with exactly `context` positions.
    pub fn session_of(&self, model: Arc<Model>, context: usize) -> Result<Session> {
        Session::new(model, &SessionOptions { context, ..self.session_options(context) })
    }
}

/// The full file that the mini at `file` names, in mode fast too, where it is not opened.
pub fn full_file(file: &Path, store: &Store) -> Option<PathBuf> {
    let reference = store.manifest().full.as_ref()?;
    Some(file.with_file_name(Path::new(&reference.file_name).file_name()?))
}

/// Says of a GGUF model how to make it a file that can be run.
///
/// # Errors
/// [`Error::InvalidArgument`] with the command line.
pub fn refuse_gguf(file: &Path) -> Result<()> {
    if is_gguf(file, &SystemDisk)? {
        let target = converted_name(file);
        return Err(Error::InvalidArgument(format!(
            "{} is a GGUF model; convert it once with: cgraph convert {} -o {}",
            file.display(),
            quoted(file),
            quoted(&target)
        )));
    }
    Ok(())
}

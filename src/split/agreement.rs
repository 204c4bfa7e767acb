//! How well a mini agrees with its full file, measured by running both on a text.

use std::path::Path;
use std::sync::Arc;

use super::options::SplitOptions;
use crate::container::disk::ReadAt;
use crate::error::{Error, Result};
use crate::generate::model::{Model, ModelOptions};
use crate::generate::session::{Session, SessionOptions};
use crate::store::mapped::MappedFile;
use crate::store::{Mode, OpenOptions, Origin};

/// Plain prose of the project's own, on which agreement is measured where no text is given.
const SAMPLE: &str = include_str!("sample.txt");

/// Full files above this length are measured only where a text is given: it would take minutes.
const MAX_UNASKED: u64 = 1 << 30;
/// Tokens that are compared at most.
const MAX_TOKENS: usize = 1024;

/// The text that is measured on, and the full file that runs on this machine.
#[derive(Debug)]
pub(super) struct Text {
    pub exact: Arc<Model>,
    /// Its tokens, at least one.
    pub tokens: Vec<u32>,
}

impl Text {
    /// `None` where nothing can be measured (no tokenizer), or was not asked for and would take long.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the text has no tokens; those of [`Model::open`].
    pub(super) fn prepare(
        full_path: &Path,
        full: &MappedFile,
        options: &SplitOptions,
    ) -> Result<Option<Self>> {
        if options.calibrate.is_none() && full.contents().header.file_len > MAX_UNASKED {
            return Ok(None);
        }
        let exact = open(Origin::Path(full_path.to_owned()), None, Mode::Exact, options)?;
        if exact.tokenizer().is_err() {
            return Ok(None);
        }
        let text = options.calibrate.as_deref().unwrap_or(SAMPLE);
        let mut tokens = exact.tokenizer()?.encode(text, true, false)?;
        tokens.truncate(MAX_TOKENS.min(exact.decoder().params().context_length as usize));
        if tokens.is_empty() {
            let why = "the text to measure the agreement on has no tokens; give another or none";
            return Err(Error::InvalidArgument(why.into()));
        }
        Ok(Some(Self { exact, tokens }))
    }

    /// Share of the tokens after which `mini` and its full file think the same one most likely.
    ///
    /// # Errors
    /// [`Error::Cancelled`]; those of running both.
    pub(super) fn agreement(self, mini: Arc<dyn ReadAt>, options: &SplitOptions) -> Result<f64> {
        let fast = open(Origin::Source(mini), None, Mode::Fast, options)?;
        let exact = most_likely(self.exact, &self.tokens, options)?;
        let fast = most_likely(fast, &self.tokens, options)?;
        let same = exact.iter().zip(&fast).filter(|(x, y)| x == y).count();
        Ok(same as f64 / self.tokens.len() as f64)
    }
}

/// Opens a model; a mini with the full file at `full`.
pub(super) fn open(
    origin: Origin,
    full: Option<&Path>,
    mode: Mode,
    options: &SplitOptions,
) -> Result<Arc<Model>> {
    let full = full.map(|path| Origin::Path(path.to_owned()));
    let store = OpenOptions { mode, full, disk: Arc::clone(&options.disk), ..OpenOptions::default() };
    Model::open(&origin, &ModelOptions { store, ..ModelOptions::default() }).map(Arc::new)
}

/// The most likely next token after each of `tokens`.
fn most_likely(model: Arc<Model>, tokens: &[u32], options: &SplitOptions) -> Result<Vec<usize>> {
    let vocab = model.decoder().params().vocab_size as usize;
    let mut session =
        Session::new(model, &SessionOptions { context: tokens.len(), ..SessionOptions::default() })?;
    let mut best = Vec::with_capacity(tokens.len());
    for part in tokens.chunks(32) {
        let logits = session.eval(part, true, options.cancel.as_ref())?;
        for row in logits.chunks_exact(vocab) {
            let top = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            best.push(top.map_or(0, |(id, _)| id));
        }
    }
    Ok(best)
}

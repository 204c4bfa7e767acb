//! An opened model: its graph, its tokenizer, its chat template.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::plan;
use super::session::SessionOptions;
use crate::container::disk::Disk;
use crate::convert::gguf::{Gguf, is_gguf};
use crate::convert::import::assets;
use crate::convert::metadata;
use crate::decoder::Decoder;
use crate::error::{Error, Result};
use crate::graph::vocab;
use crate::kernels::backend::Backend;
use crate::kernels::cpu::Cpu;
use crate::pool::ThreadOptions;
use crate::store::mapped::MappedFile;
use crate::store::{Mode, OpenOptions, Origin, Store};
use crate::text::{ChatMessage, ChatTemplate, Tokenizer};

/// How to open a model.
#[derive(Clone, Debug, Default)]
pub struct ModelOptions {
    /// Run mode and files.
    pub store: OpenOptions,
    /// Threads that compute.
    pub threads: ThreadOptions,
    /// The session that mode auto leaves room for in a budget, and that errors of opening count with; others are possible.
    pub session: SessionOptions,
}

/// An opened model. Immutable; shared by any number of sessions on any threads.
#[derive(Debug)]
pub struct Model {
    decoder: Decoder,
    tokenizer: Option<Tokenizer>,
    template: Option<String>,
    open_time: Duration,
}

impl Model {
    /// Opens a full file, or a mini and (unless the mode is fast) its full file.
    ///
    /// # Errors
    /// Those of [`Store::open`] and [`Decoder::new`]; [`Error::InvalidArgument`] for too many threads; [`Error::Limit`]
    /// naming the smallest budget.
    pub fn open(origin: &Origin, options: &ModelOptions) -> Result<Self> {
        let begun = Instant::now();
        Self::with_store(Store::open(origin, &options.store)?, options, begun)
    }

    /// As [`open`](Self::open), of files that are open already since `begun`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_store(store: Store, options: &ModelOptions, begun: Instant) -> Result<Self> {
        let store = Arc::new(store);
        let backend: Arc<dyn Backend> = Arc::new(Cpu::new(options.threads.clone())?);
        let mut decoder = Decoder::unlimited(store, backend)?;
        if options.store.mode == Mode::Auto {
            decoder = settle(decoder, &options.session)?;
        }
        let limit = |decoder: &Decoder| match decoder.store().budget() {
            Some(_) => decoder.limit(plan::least_session(decoder, &options.session)?),
            None => Ok(()),
        };
        match limit(&decoder) {
            // Somebody else took the room in the meantime.
            Err(Error::Limit(why))
                if options.store.mode == Mode::Auto && decoder.store().mode() == Mode::Speculative =>
            {
                decoder = decoder.in_mode(Mode::Exact, format!("guesses have no room: {why}"));
                limit(&decoder)?;
            }
            limited => limited?,
        }
        let store = Arc::clone(decoder.store());
        let manifest = store.manifest();
        let tokenizer = match manifest.asset(assets::VOCAB) {
            Some(_) => Some(Tokenizer::new(Arc::new(store.primary().shared_asset(assets::VOCAB)?))?),
            None => None,
        };
        let template = match manifest.asset(assets::CHAT_TEMPLATE) {
            Some(_) => Some(template_text(&store)?),
            None => None,
        };
        Ok(Self { decoder, tokenizer, template, open_time: begun.elapsed() })
    }

    /// The graph.
    #[must_use]
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Where the weights come from.
    #[must_use]
    pub fn store(&self) -> &Store {
        self.decoder.store()
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the model has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(|| {
            Error::Unsupported(format!(
                "{}: the model has no tokenizer; give token ids instead of text",
                self.store().primary().name()
            ))
        })
    }

    /// A conversation as the model's own chat template writes it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the model has no template; [`Error::Malformed`] where it fails.
    pub fn render_chat(&self, messages: &[ChatMessage], add_generation_prompt: bool) -> Result<String> {
        let Some(source) = &self.template else {
            return Err(Error::Unsupported(format!(
                "{}: the model has no chat template; give a plain prompt",
                self.store().primary().name()
            )));
        };
        let tokenizer = self.tokenizer()?;
        let text = |id: Option<u32>| id.map(|id| tokenizer.decode(&[id], true)).unwrap_or_default();
        let template = ChatTemplate::new(source, &text(tokenizer.bos()), &text(tokenizer.eos()))?;
        template.render(messages, add_generation_prompt)
    }

    /// The tokens of a conversation, ready to be answered: [`render_chat`](Self::render_chat) with the
    /// generation prompt, and the BOS token where the model demands one that the template left out.
    ///
    /// # Errors
    /// Those of [`render_chat`](Self::render_chat) and [`Tokenizer::encode`].
    pub fn chat_tokens(&self, messages: &[ChatMessage]) -> Result<Vec<u32>> {
        let text = self.render_chat(messages, true)?;
        let tokenizer = self.tokenizer()?;
        let mut tokens = tokenizer.encode(&text, false, true)?;
        if let Some(bos) = tokenizer.leading_bos().filter(|bos| tokens.first() != Some(bos)) {
            tokens.insert(0, bos);
        }
        Ok(tokens)
    }

    /// Whether the model has a chat template.
    #[must_use]
    pub fn has_chat_template(&self) -> bool {
        self.template.is_some()
    }

    /// How long opening took.
    #[must_use]
    pub fn open_time(&self) -> Duration {
        self.open_time
    }

    /// Bytes of anonymous memory that the model holds itself: decoded vectors, and the file where the host
    /// supplies its bytes.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        let store = self.store();
        let full = store.full().filter(|f| !std::ptr::eq(*f, store.primary()));
        let owned = store.primary().owned_bytes() + full.map_or(0, |f| f.owned_bytes());
        (self.decoder.table_bytes() + owned) as u64
    }
}

/// In a budget, the model in the mode that is expected to be the fastest; any other as it is.
fn settle(decoder: Decoder, session: &SessionOptions) -> Result<Decoder> {
    let store = decoder.store();
    let is_whole = store.range() == (0..decoder.capsule_count());
    let Some(budget) = store.budget().filter(|_| store.mode() == Mode::Exact && is_whole) else {
        return Ok(decoder);
    };
    if store.manifest().full.is_none() {
        return Ok(decoder);
    }
    let (mode, reason) = plan::auto(&decoder, session, budget)?;
    Ok(decoder.in_mode(mode, reason))
}

/// The tokenizer of a `.cgraph` file or a GGUF model, one without tensors too.
///
/// # Errors
/// [`Error::Unsupported`] where the model has no tokenizer or one that is not known; those of opening.
pub fn open_tokenizer(path: &Path, disk: &dyn Disk) -> Result<Tokenizer> {
    let none = |name: &str| Error::Unsupported(format!("{name}: the model has no tokenizer"));
    if is_gguf(path, disk)? {
        let gguf = Gguf::open(disk, path)?;
        let source = metadata::vocab(&gguf)?.ok_or_else(|| none(&gguf.name()))?;
        return Tokenizer::new(Arc::new(vocab::compile(&source)?));
    }
    let file = MappedFile::open(disk.open(path)?)?;
    if file.contents().manifest.asset(assets::VOCAB).is_none() {
        return Err(none(file.name()));
    }
    Tokenizer::new(Arc::new(file.shared_asset(assets::VOCAB)?))
}

fn template_text(store: &Store) -> Result<String> {
    let bytes = store.asset(assets::CHAT_TEMPLATE)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| {
        Error::malformed(store.primary().name(), "the chat template is not UTF-8; verify --deep tells more")
    })
}

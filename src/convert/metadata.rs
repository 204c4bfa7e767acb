//! GGUF metadata to hyper-parameters, vocabulary and the preserved rest.

use serde_json::{Map, Value as Json};

use super::gguf::{Array, Gguf, Value};
use crate::error::{Error, Result};
use crate::graph::arch;
use crate::graph::params::{DecoderParams, RopeParams, RopeScaling};
use crate::graph::vocab::{TokenizerModel, VocabSource};

/// Longest array that is kept in the asset `gguf_metadata`; longer ones are the vocabulary's.
const KEPT_ARRAY: usize = 1024;

/// A model's metadata under its architecture's prefix.
pub(super) struct Metadata<'a> {
    gguf: &'a Gguf,
    arch: &'a str,
}

impl<'a> Metadata<'a> {
    /// # Errors
    /// [`Error::Unsupported`] where the architecture is not in the registry.
    pub fn new(gguf: &'a Gguf) -> Result<Self> {
        let arch = gguf.metadata("general.architecture").and_then(Value::as_str).unwrap_or_default();
        if arch::by_name(arch).is_none() {
            let known: Vec<&str> = arch::ARCHITECTURES.iter().map(|a| a.name).collect();
            return Err(Error::Unsupported(format!(
                "{}: architecture \"{arch}\" cannot be run yet; supported: {}",
                gguf.name(),
                known.join(", ")
            )));
        }
        Ok(Self { gguf, arch })
    }

    /// The architecture's name.
    pub fn arch(&self) -> &str {
        self.arch
    }

    /// The model's name, else its file's.
    pub fn model_name(&self) -> String {
        match self.gguf.metadata("general.name").and_then(Value::as_str) {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => std::path::Path::new(&self.gguf.name())
                .file_stem()
                .map(|s| s.to_string_lossy().into_owned())
                .unwrap_or_default(),
        }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.gguf.metadata(&format!("{}.{key}", self.arch))
    }

    fn wrong(&self, key: &str, value: Option<&Value>, wanted: &str) -> Error {
        let found = value.map_or("missing".to_owned(), |v| v.to_json(16).to_string());
        Error::malformed(self.gguf.name(), format!("{}.{key} is {found}; it must be {wanted}", self.arch))
    }

    fn integer(&self, key: &str, default: Option<u32>) -> Result<u32> {
        let value = self.get(key);
        match (value, default) {
            (None, Some(default)) => Ok(default),
            _ => value
                .and_then(Value::as_u64)
                .and_then(|v| u32::try_from(v).ok())
                .ok_or_else(|| self.wrong(key, value, "a 32-bit unsigned integer")),
        }
    }

    fn number(&self, key: &str, default: Option<f32>) -> Result<f32> {
        let value = self.get(key);
        match (value, default) {
            (None, Some(default)) => Ok(default),
            _ => value
                .and_then(Value::as_f64)
                .map(|v| v as f32)
                .ok_or_else(|| self.wrong(key, value, "a number")),
        }
    }

    /// Hyper-parameters of a decoder-only model; the vocabulary's size is that of the embedding.
    pub fn decoder_params(&self) -> Result<DecoderParams> {
        let experts = self.integer("expert_count", Some(0))?;
        if experts > 0 {
            return Err(Error::Unsupported(format!(
                "{}: mixtures of experts ({experts} here) cannot be run yet",
                self.gguf.name()
            )));
        }
        let embedding = self
            .gguf
            .tensor("token_embd.weight")
            .ok_or_else(|| Error::malformed(self.gguf.name(), "tensor token_embd.weight is missing"))?;
        let vocab_size = u32::try_from(embedding.shape[0])
            .map_err(|_| Error::malformed(self.gguf.name(), "token_embd.weight has too many rows"))?;
        let embedding_length = self.integer("embedding_length", None)?;
        let head_count = self.integer("attention.head_count", None)?;
        let head_dim = embedding_length.checked_div(head_count).unwrap_or(0);
        let key_length = self.integer("attention.key_length", Some(head_dim))?;
        let params = DecoderParams {
            vocab_size,
            context_length: self.integer("context_length", None)?,
            embedding_length,
            block_count: self.integer("block_count", None)?,
            feed_forward_length: self.integer("feed_forward_length", None)?,
            head_count,
            head_count_kv: self.integer("attention.head_count_kv", Some(head_count))?,
            key_length,
            value_length: self.integer("attention.value_length", Some(head_dim))?,
            rms_epsilon: self.number("attention.layer_norm_rms_epsilon", None)?,
            rope: self.rope_params(key_length)?,
            tied_embeddings: self.gguf.tensor("output.weight").is_none(),
        };
        params.validate()?;
        Ok(params)
    }

    fn rope_params(&self, key_length: u32) -> Result<RopeParams> {
        let kind = match self.get("rope.scaling.type") {
            None => "",
            Some(value) => {
                value.as_str().ok_or_else(|| self.wrong("rope.scaling.type", Some(value), "a string"))?
            }
        };
        // Files of before 2023-10 have `rope.scale_linear` alone.
        let old = self.number("rope.scale_linear", Some(1.0))?;
        let factor = || self.number("rope.scaling.factor", Some(old));
        let scaling = match kind {
            "none" => RopeScaling::None,
            "" if old == 1.0 && self.get("rope.scaling.factor").is_none() => RopeScaling::None,
            "" | "linear" => RopeScaling::Linear { factor: factor()? },
            "yarn" => RopeScaling::Yarn {
                factor: factor()?,
                original_context_length: self.integer(
                    "rope.scaling.original_context_length",
                    Some(self.integer("context_length", None)?),
                )?,
                attn_factor: self.number("rope.scaling.attn_factor", Some(1.0))?,
                beta_fast: self.number("rope.scaling.yarn_beta_fast", Some(32.0))?,
                beta_slow: self.number("rope.scaling.yarn_beta_slow", Some(1.0))?,
            },
            other => {
                return Err(Error::Unsupported(format!(
                    "{}: RoPE scaling \"{other}\" cannot be run; none, linear and yarn can",
                    self.gguf.name()
                )));
            }
        };
        Ok(RopeParams {
            dimension_count: self.integer("rope.dimension_count", Some(key_length))?,
            freq_base: self.number("rope.freq_base", Some(10_000.0))?,
            scaling,
        })
    }

    /// The tokenizer; `None` where the model has none.
    pub fn vocab(&self) -> Result<Option<VocabSource>> {
        vocab(self.gguf)
    }

    /// The chat template; `None` where the model has none.
    pub fn chat_template(&self) -> Option<&str> {
        self.gguf.metadata("tokenizer.chat_template").and_then(Value::as_str).filter(|t| !t.is_empty())
    }

    /// The metadata as JSON, without the vocabulary's arrays.
    pub fn preserved(&self) -> Json {
        preserved(self.gguf, KEPT_ARRAY)
    }
}

/// A model's metadata as JSON; of arrays with more than `max_array` elements only their length.
#[must_use]
pub fn preserved(gguf: &Gguf, max_array: usize) -> Json {
    let entries = gguf.all_metadata().iter();
    Json::Object(entries.map(|(k, v)| (k.clone(), v.to_json(max_array))).collect::<Map<_, _>>())
}

/// The tokenizer of a GGUF model, one without tensors too; `None` where it has none.
///
/// # Errors
/// [`Error::Unsupported`] for a tokenizer model that is not known, [`Error::Malformed`] for wrong types.
pub fn vocab(gguf: &Gguf) -> Result<Option<VocabSource>> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let Some(model) = gguf.metadata(&key("model")).and_then(Value::as_str) else { return Ok(None) };
    let model = match model {
        "gpt2" => TokenizerModel::Bpe,
        "llama" => TokenizerModel::Spm,
        "none" | "no_vocab" => return Ok(None),
        other => {
            return Err(Error::Unsupported(format!(
                "{}: tokenizer model \"{other}\" cannot be run; \"gpt2\" (byte-level BPE) and \"llama\" (SentencePiece) can",
                gguf.name()
            )));
        }
    };
    let wrong = |name: &str| Error::malformed(gguf.name(), format!("{} has the wrong type", key(name)));
    let array =
        |name: &str| gguf.metadata(&key(name)).map(|v| v.as_array().ok_or_else(|| wrong(name))).transpose();
    let texts = |name: &str| -> Result<Vec<Vec<u8>>> {
        let Some(array) = array(name)? else { return Ok(Vec::new()) };
        Ok(array.texts().ok_or_else(|| wrong(name))?.into_iter().map(<[u8]>::to_vec).collect())
    };
    let id = |name: &str| -> Result<Option<u32>> {
        let Some(value) = gguf.metadata(&key(name)) else { return Ok(None) };
        let raw = value.as_u64().and_then(|v| u32::try_from(v).ok()).ok_or_else(|| wrong(name))?;
        // Some converters write -1 as an unsigned number for "none".
        Ok((raw != u32::MAX).then_some(raw))
    };
    let flag = |name: &str| -> Result<Option<bool>> {
        gguf.metadata(&key(name)).map(|v| v.as_bool().ok_or_else(|| wrong(name))).transpose()
    };
    let types = match array("token_type")? {
        None => Vec::new(),
        Some(array) => {
            let numbers = array.integers().ok_or_else(|| wrong("token_type"))?;
            numbers
                .into_iter()
                .map(|v| i32::try_from(v).map_err(|_| wrong("token_type")))
                .collect::<Result<_>>()?
        }
    };
    let scores = match array("scores")? {
        None => Vec::new(),
        Some(array) => array.floats().ok_or_else(|| wrong("scores"))?,
    };
    let text = |name: &str| gguf.metadata(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Some(VocabSource {
        model,
        pre: text(&key("pre")),
        model_name: text("general.name"),
        tokens: texts("tokens")?,
        scores,
        types,
        merges: texts("merges")?,
        bos: id("bos_token_id")?,
        eos: id("eos_token_id")?,
        eot: id("eot_token_id")?,
        eom: id("eom_token_id")?,
        unk: id("unknown_token_id")?,
        sep: id("seperator_token_id")?,
        pad: id("padding_token_id")?,
        mask: id("mask_token_id")?,
        fim_pre: id("fim_pre_token_id")?,
        fim_suf: id("fim_suf_token_id")?,
        fim_mid: id("fim_mid_token_id")?,
        fim_pad: id("fim_pad_token_id")?,
        fim_rep: id("fim_rep_token_id")?,
        fim_sep: id("fim_sep_token_id")?,
        add_bos: flag("add_bos_token")?,
        add_eos: flag("add_eos_token")?,
        add_space_prefix: flag("add_space_prefix")?,
    }))
}

/// Length of a vocabulary in a GGUF model, for `inspect`.
#[must_use]
pub fn vocab_len(gguf: &Gguf) -> usize {
    gguf.metadata("tokenizer.ggml.tokens").and_then(Value::as_array).map_or(0, Array::len)
}

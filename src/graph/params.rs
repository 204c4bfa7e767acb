//! Hyper-parameters of a decoder-only transformer, under GGUF's own names where it has one.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Hyper-parameters of a decoder-only transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DecoderParams {
    /// Rows of the token embedding and of the logits.
    pub vocab_size: u32,
    /// Context length that the model was trained for, in tokens.
    pub context_length: u32,
    /// Width of the residual stream.
    pub embedding_length: u32,
    /// Transformer blocks.
    pub block_count: u32,
    /// Width of the feed-forward layer.
    pub feed_forward_length: u32,
    /// Query heads.
    pub head_count: u32,
    /// Key and value heads; divides `head_count`.
    pub head_count_kv: u32,
    /// Elements of a query or key per head.
    pub key_length: u32,
    /// Elements of a value per head.
    pub value_length: u32,
    /// Epsilon of the root-mean-square norms.
    pub rms_epsilon: f32,
    /// Rotary position embedding.
    pub rope: RopeParams,
    /// Whether the head reuses the token embedding's rows.
    pub tied_embeddings: bool,
}

/// Rotary position embedding (Su et al. 2021) and its scaling to longer contexts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RopeParams {
    /// Leading elements of each head that are rotated; even.
    pub dimension_count: u32,
    /// Base of the geometric series of frequencies.
    pub freq_base: f32,
    /// How positions beyond the trained context are mapped.
    pub scaling: RopeScaling,
}

/// Kinds of RoPE scaling that GGUF names. Llama 3's kind needs none: its per-frequency divisors come as the
/// tensor `rope_freqs.weight`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RopeScaling {
    /// Positions as they are.
    None,
    /// Position interpolation (Chen et al. 2023): positions divided by `factor`.
    Linear {
        /// Divisor of positions.
        factor: f32,
    },
    /// YaRN (Peng et al. 2023).
    Yarn {
        /// Ratio of the wanted context to the original one.
        factor: f32,
        /// Context length before scaling, in tokens.
        original_context_length: u32,
        /// Factor on the attention temperature, 1 unless the model says otherwise.
        attn_factor: f32,
        /// Rotations above which a frequency is left alone.
        beta_fast: f32,
        /// Rotations below which a frequency is interpolated fully.
        beta_slow: f32,
    },
}

/// Bounds that keep every product of two hyper-parameters far from overflow.
const MAX_DIM: u32 = 1 << 20;

impl DecoderParams {
    /// Checks every field against the others.
    ///
    /// # Errors
    /// [`Error::Unsupported`] or [`Error::InvalidArgument`] naming the field and its value.
    pub fn validate(&self) -> Result<()> {
        let dims = [
            ("vocab_size", self.vocab_size, 1 << 24),
            ("context_length", self.context_length, 1 << 30),
            ("embedding_length", self.embedding_length, MAX_DIM),
            ("block_count", self.block_count, 4096),
            ("feed_forward_length", self.feed_forward_length, MAX_DIM),
            ("head_count", self.head_count, 4096),
            ("head_count_kv", self.head_count_kv, 4096),
            ("key_length", self.key_length, 4096),
            ("value_length", self.value_length, 4096),
        ];
        for (name, value, max) in dims {
            if value == 0 || value > max {
                return Err(invalid(format!("{name} is {value}; it must be 1 to {max}")));
            }
        }
        if !self.head_count.is_multiple_of(self.head_count_kv) {
            return Err(invalid(format!(
                "head_count {} is no multiple of head_count_kv {}",
                self.head_count, self.head_count_kv
            )));
        }
        if !(self.rms_epsilon.is_finite() && self.rms_epsilon >= 0.0) {
            return Err(invalid(format!("rms_epsilon is {}", self.rms_epsilon)));
        }
        self.rope.validate(self.key_length)
    }

    /// Width of all queries of a token.
    #[must_use]
    pub fn q_width(&self) -> usize {
        self.head_count as usize * self.key_length as usize
    }

    /// Width of all keys of a token.
    #[must_use]
    pub fn k_width(&self) -> usize {
        self.head_count_kv as usize * self.key_length as usize
    }

    /// Width of all values of a token.
    #[must_use]
    pub fn v_width(&self) -> usize {
        self.head_count_kv as usize * self.value_length as usize
    }
}

impl RopeParams {
    fn validate(&self, key_length: u32) -> Result<()> {
        if !self.dimension_count.is_multiple_of(2) || self.dimension_count > key_length {
            return Err(invalid(format!(
                "rope.dimension_count is {}; it must be even and at most key_length {key_length}",
                self.dimension_count
            )));
        }
        let positive = |name: &str, value: f32| {
            if value.is_finite() && value > 0.0 {
                Ok(())
            } else {
                Err(invalid(format!("{name} is {value}; it must be a positive number")))
            }
        };
        positive("rope.freq_base", self.freq_base)?;
        match &self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("rope.scaling.factor", *factor),
            RopeScaling::Yarn { factor, original_context_length, attn_factor, beta_fast, beta_slow } => {
                positive("rope.scaling.factor", *factor)?;
                positive("rope.scaling.original_context_length", *original_context_length as f32)?;
                positive("rope.scaling.attn_factor", *attn_factor)?;
                positive("rope.scaling.beta_fast", *beta_fast)?;
                positive("rope.scaling.beta_slow", *beta_slow)
            }
        }
    }
}

fn invalid(detail: String) -> Error {
    Error::Unsupported(format!("the model's hyper-parameters cannot be used: {detail}"))
}

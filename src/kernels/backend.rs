//! The one interface through which the decoder reaches arithmetic. A plug-in may take the CPU's place.
//!
//! Shapes: activations are row-major `[n, features]`, n tokens. Operations that can take longer than a
//! millisecond take a [`Gate`] and the task index to resume `from`, and return [`Progress`]; whether and
//! where they were interrupted never changes a bit of the result.

use super::aligned::Aligned;
use super::division::Planes;
use super::encoding::Encoding;
use super::kv::{KvLayer, KvShape};
use super::panel::Panel;
use crate::error::Result;
use crate::pool::{Gate, Progress};

/// Input of matrix products, prepared once and shared by every product that reads it: the f32 values
/// (for f32, f16 and bf16 weights) and their int8 form (for all others), one scale per 32 elements.
/// `kp` is k rounded up to a multiple of 32; the codes beyond k are 0.
#[derive(Debug, Default)]
pub struct Activations {
    /// Tokens.
    pub(super) n: usize,
    /// Features.
    pub(super) k: usize,
    /// `[n, k]`.
    pub(super) values: Vec<f32>,
    /// `[n, kp]` int8 codes, -127..=127.
    pub(super) codes: Vec<i8>,
    /// `[n, kp / 32]`: scale of each 32 codes.
    pub(super) scales: Vec<f32>,
    /// `[n, kp / 32]`: integer sum of each 32 codes.
    pub(super) sums: Vec<i32>,
    /// `[n, kp / 16]`: integer sum of each 16 codes.
    pub(super) half_sums: Vec<i32>,
    /// `[n, kp / 32]`: scale times sum of each 32 codes, what a tile's `min` is multiplied with.
    pub(super) offsets: Vec<f32>,
    /// `[n, kp / 16]`: scale times sum of each 16 codes.
    pub(super) half_offsets: Vec<f32>,
    /// `[ceil(n / 8), kp / 32]`: the above once more, eight tokens woven together tile by tile, where the kernels
    /// read them so ([`super::panel`]); else empty.
    pub(super) panels: Vec<Panel>,
}

impl Activations {
    /// Tokens.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.n
    }

    /// Adds the squares of each feature over all tokens to `sums`, which becomes `[k]`.
    pub(crate) fn add_squares(&self, sums: &mut Vec<f64>) {
        sums.resize(self.k, 0.0);
        for row in self.values.chunks_exact(self.k.max(1)) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += f64::from(*value) * f64::from(*value);
            }
        }
    }

    /// Bytes of the buffers.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let floats = [&self.values, &self.scales, &self.offsets, &self.half_offsets];
        let integers = [&self.sums, &self.half_sums];
        self.codes.capacity()
            + self.panels.capacity() * size_of::<Panel>()
            + floats.iter().map(|v| v.capacity() * size_of::<f32>()).sum::<usize>()
            + integers.iter().map(|v| v.capacity() * size_of::<i32>()).sum::<usize>()
    }
}

/// Consecutive rows of a product's weights, as far as they lie together.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// The first of them, a multiple of [`super::pack::GROUP`].
    pub first: usize,
    /// The encoding of every row.
    pub encoding: &'static Encoding,
    /// So many rows, `[rows, k]`.
    pub rows: usize,
    /// Input features (k), a multiple of the encoding's block length.
    pub cols: usize,
    /// Their bytes; no alignment is demanded.
    pub planes: Planes<'a>,
}

/// One product of a [`Backend::matmul`] call: `out[t, r] = sum over c of weight[r, c] * x[t, c] (+ bias[r])` for the
/// rows r of its pieces; the others stay as they are.
#[derive(Debug)]
pub struct Product<'a> {
    /// The weights, by ascending rows.
    pub pieces: &'a [Piece<'a>],
    /// Added to each output row where given, `[rows]`.
    pub bias: Option<&'a [f32]>,
    /// Output features.
    pub rows: usize,
    /// `[n, rows]`.
    pub out: &'a mut [f32],
}

/// The queries of one attention call.
#[derive(Clone, Copy, Debug)]
pub struct Queries<'a> {
    /// `[n, heads * key_dim]`.
    pub values: &'a [f32],
    /// Query tokens.
    pub n: usize,
    /// Query heads; a multiple of the cache's `kv_heads`.
    pub heads: usize,
    /// Position of the first token; token t sees the positions `0 ..= start + t`.
    pub start: usize,
    /// Factor on the scores, usually `1 / sqrt(key_dim)`.
    pub scale: f32,
}

/// What the operations on a batch of tokens need room for.
#[derive(Clone, Copy, Debug)]
pub struct BatchSize<'a> {
    /// Tokens.
    pub n: usize,
    /// Those of them that one call of attention takes.
    pub attended: usize,
    /// Features of the widest input of a product.
    pub k: usize,
    /// Query heads.
    pub heads: usize,
    /// Position of the first token.
    pub start: usize,
    /// Sizes of each layer's cache.
    pub cache: &'a KvShape,
}

/// What an attention call that was paused keeps until it is resumed; its buffer is reused by later calls.
#[derive(Debug, Default)]
pub struct AttentionWork {
    pub(super) states: Aligned<f32>,
}

impl AttentionWork {
    /// Bytes of the buffer.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.states.bytes()
    }
}

/// Arithmetic for the decoder. Implementations are immutable and shared between sessions; every method
/// may use all threads of the implementation.
pub trait Backend: Send + Sync + std::fmt::Debug {
    /// What computes, for reports: "avx2, 2 threads".
    fn describe(&self) -> String;

    /// Threads that share the work.
    fn threads(&self) -> usize;

    /// How many tokens one prefill batch may hold so that no task outlasts about half a millisecond.
    /// `sliced` is true where a time slice was asked for; a smaller batch changes no bits.
    fn max_batch(&self, sliced: bool) -> usize;

    /// Makes room for what [`activations`](Self::activations) and [`attention`](Self::attention) write of such a
    /// batch, so that they need no memory that the system could refuse. What the buffers held may be gone.
    ///
    /// # Errors
    /// [`crate::Error::Limit`] where the system has no memory for it.
    fn reserve(&self, batch: &BatchSize<'_>, input: &mut Activations, work: &mut AttentionWork)
    -> Result<()>;

    /// Root-mean-square norm of each row: `out = x / sqrt(mean(x^2) + eps) * weight` (Zhang & Sennrich 2019).
    /// `x` and `out` are `[n, weight.len()]`. The mean is accumulated in f64 or in a fixed lane order.
    fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);

    /// Prepares `x`, `[n, k]`, as input of matrix products; reuses the buffers of `out`.
    fn activations(&self, x: &[f32], k: usize, out: &mut Activations);

    /// All `products` of the same input in one parallel loop.
    fn matmul(&self, gate: &Gate, from: usize, x: &Activations, products: &mut [Product<'_>]) -> Progress;

    /// Rotates pairs (2i, 2i+1) of the first `2 * pairs` elements of each head in place (RoPE, Su et al. 2021).
    /// `x` is `[n, heads * head_dim]`, `cos` and `sin` are `[n, pairs]`.
    fn rope(&self, x: &mut [f32], heads: usize, head_dim: usize, cos: &[f32], sin: &[f32]);

    /// Rounds `keys`, `[n, kv_heads * key_dim]`, and `values`, `[n, kv_heads * value_dim]`, to the format of `cache`
    /// (to nearest, ties to even) and stores them at the positions `start .. start + n`.
    fn store_kv(&self, start: usize, keys: &[f32], values: &[f32], cache: &mut KvLayer);

    /// Causal softmax attention; `out` is `[n, heads * value_dim]`. `work` must be the same when a call is resumed.
    fn attention(
        &self,
        gate: &Gate,
        from: usize,
        queries: &Queries<'_>,
        cache: &KvLayer,
        work: &mut AttentionWork,
        out: &mut [f32],
    ) -> Progress;

    /// `gate[i] = silu(gate[i]) * up[i]`, silu(x) = x / (1 + exp(-x)).
    fn swiglu(&self, gate: &mut [f32], up: &[f32]);

    /// `x[i] += y[i]`.
    fn add(&self, x: &mut [f32], y: &[f32]);
}

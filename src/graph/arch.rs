//! The registry of architectures: which capsules a model is cut into and which tensors each holds.
//!
//! A new architecture of the decoder family is one more entry here (and, where it computes differently, a
//! branch in `decoder`). Tensor names are GGUF's own.

use super::params::DecoderParams;

/// Where a tensor belongs and how it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorKind {
    /// A weight matrix `[out, in]` that is multiplied: packed layout, may take a light form.
    Matrix,
    /// A matrix that is only read by row (an untied token embedding): row layout, may take a light form.
    Table,
    /// A vector (norm, bias, frequency factors): row layout, always kept bit for bit.
    Vector,
}

/// One tensor that a capsule may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorRule {
    /// GGUF name of the tensor.
    pub name: String,
    /// Storage class.
    pub kind: TensorKind,
    /// Whether a model without it is broken.
    pub required: bool,
    /// Expected shape, outermost first.
    pub shape: Vec<usize>,
}

/// One capsule of an architecture's graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapsuleRule {
    /// Identifier: `embed`, `block.3.attn`, `block.3.ffn`, `head`.
    pub id: String,
    /// Kind: `embed`, `attn`, `ffn`, `head`.
    pub kind: &'static str,
    /// Values read.
    pub inputs: Vec<String>,
    /// Values made.
    pub outputs: Vec<String>,
    /// Tensors, in the order of use.
    pub tensors: Vec<TensorRule>,
    /// Tensors of other capsules that this one reads too: `(capsule, tensor)`.
    pub shared: Vec<(String, String)>,
}

/// A decoder-only architecture.
#[derive(Debug)]
pub struct Architecture {
    /// `general.architecture` of a GGUF file.
    pub name: &'static str,
    /// The capsules for given hyper-parameters, in the order of computation.
    pub capsules: fn(&DecoderParams) -> Vec<CapsuleRule>,
}

/// Every architecture that can be imported and run.
pub static ARCHITECTURES: &[Architecture] = &[Architecture { name: "llama", capsules: llama }];

/// Looks an architecture up by its GGUF name.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|a| a.name == name)
}

/// The graph's input value.
pub const INPUT: &str = "tokens";
/// The graph's output value.
pub const OUTPUT: &str = "logits";

fn matrix(name: String, out: usize, input: usize) -> TensorRule {
    TensorRule { name, kind: TensorKind::Matrix, required: true, shape: vec![out, input] }
}

fn vector(name: String, len: usize, required: bool) -> TensorRule {
    TensorRule { name, kind: TensorKind::Vector, required, shape: vec![len] }
}

fn capsule(
    id: String,
    kind: &'static str,
    input: &str,
    output: &str,
    tensors: Vec<TensorRule>,
) -> CapsuleRule {
    CapsuleRule {
        id,
        kind,
        inputs: vec![input.to_owned()],
        outputs: vec![output.to_owned()],
        tensors,
        shared: Vec::new(),
    }
}

/// Llama 2 and 3, Mistral, SmolLM, TinyLlama: pre-norm blocks, grouped-query attention, RoPE, SwiGLU.
fn llama(p: &DecoderParams) -> Vec<CapsuleRule> {
    let (vocab, width) = (p.vocab_size as usize, p.embedding_length as usize);
    let ffn = p.feed_forward_length as usize;
    let mut embedding = matrix("token_embd.weight".into(), vocab, width);
    if !p.tied_embeddings {
        embedding.kind = TensorKind::Table;
    }
    let factors = vector("rope_freqs.weight".into(), p.rope.dimension_count as usize / 2, false);
    let mut all = vec![capsule("embed".into(), "embed", INPUT, "hidden", vec![embedding, factors])];
    let mut value = String::from("hidden");
    for n in 0..p.block_count {
        let name = |part: &str| format!("blk.{n}.{part}");
        let after_attn = format!("block.{n}.attn.out");
        let after_ffn = format!("block.{n}.ffn.out");
        let attn = vec![
            vector(name("attn_norm.weight"), width, true),
            matrix(name("attn_q.weight"), p.q_width(), width),
            matrix(name("attn_k.weight"), p.k_width(), width),
            matrix(name("attn_v.weight"), p.v_width(), width),
            vector(name("attn_q.bias"), p.q_width(), false),
            vector(name("attn_k.bias"), p.k_width(), false),
            vector(name("attn_v.bias"), p.v_width(), false),
            matrix(name("attn_output.weight"), width, p.head_count as usize * p.value_length as usize),
            vector(name("attn_output.bias"), width, false),
        ];
        let feed_forward = vec![
            vector(name("ffn_norm.weight"), width, true),
            matrix(name("ffn_gate.weight"), ffn, width),
            matrix(name("ffn_up.weight"), ffn, width),
            vector(name("ffn_gate.bias"), ffn, false),
            vector(name("ffn_up.bias"), ffn, false),
            matrix(name("ffn_down.weight"), width, ffn),
            vector(name("ffn_down.bias"), width, false),
        ];
        all.push(capsule(format!("block.{n}.attn"), "attn", &value, &after_attn, attn));
        all.push(capsule(format!("block.{n}.ffn"), "ffn", &after_attn, &after_ffn, feed_forward));
        value = after_ffn;
    }
    let mut tensors = vec![vector("output_norm.weight".into(), width, true)];
    if !p.tied_embeddings {
        tensors.push(matrix("output.weight".into(), vocab, width));
    }
    let mut head = capsule("head".into(), "head", &value, OUTPUT, tensors);
    if p.tied_embeddings {
        head.shared.push(("embed".into(), "token_embd.weight".into()));
    }
    all.push(head);
    all
}

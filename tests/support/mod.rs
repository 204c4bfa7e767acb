//! Tiny random models as GGUF files, for tests: the same seed always gives the same bytes.
//!
//! [`TinyModel`] has the hyper-parameters; [`TinyModel::gguf`] gives the file. The vocabulary is byte-level BPE:
//! one token a byte, a few merges, and the special tokens of ChatML. Written from ggml's published format, without
//! the library's own reader. Each test file uses its own part of this.
#![allow(dead_code, clippy::expect_used, clippy::unwrap_used)]

use std::path::Path;

use capsulegraph::kernels::encoding::{Encoding, by_name};

/// Merges of the vocabulary, by rank; a space is GPT-2's U+0120.
const MERGES: &[&str] = &[
    "h e", "i n", "Ġ t", "Ġt he", "e r", "Ġ a", "o n", "r e", "a t", "n d", "Ġ s", "o u", "Ġ w", "in g",
    "i s", "e n", "Ġa nd", "o r", "Ġ o", "e s", "l l", "i t", "a r", "Ġo f", "e d", "Ġ h", "l o", "Ġw or",
    "l d", "s t",
];

/// Special tokens, by id: they come first, as in SmolLM2.
pub const SPECIALS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
/// Id of the token that begins a message, and the BOS token.
pub const IM_START: u32 = 1;
/// Id of the token that ends a message, and the EOS token.
pub const IM_END: u32 = 2;

/// ChatML with a default system message.
pub const CHAT_TEMPLATE: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + message['role'] + '\n' + \
message['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Alignment of tensor data, GGUF's default.
const ALIGNMENT: usize = 32;

/// A tiny llama model. Change what a test is about and leave the rest.
#[derive(Clone, Debug)]
pub struct TinyModel {
    /// Chooses the weights.
    pub seed: u64,
    /// GGUF version, 2 or 3.
    pub version: u32,
    /// `general.name`.
    pub name: String,
    /// Width of the residual stream, a multiple of the encoding's block.
    pub width: usize,
    /// Transformer blocks.
    pub blocks: usize,
    /// Width of the feed-forward layer, a multiple of the encoding's block.
    pub ffn: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of a query, key or value a head.
    pub head_dim: usize,
    /// Context length.
    pub context: u32,
    /// Whether the head reuses the token embedding.
    pub tied: bool,
    /// Whether projections have biases.
    pub biases: bool,
    /// Whether there are frequency factors (Llama 3's `rope_freqs.weight`).
    pub rope_factors: bool,
    /// Encoding of the blocks' matrices and of an untied head.
    pub encoding: &'static str,
    /// Encoding of the token embedding.
    pub embedding: &'static str,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: bool,
    /// Whether there is a tokenizer and a chat template.
    pub tokenizer: bool,
    /// Whether there are tensors.
    pub tensors: bool,
}

impl Default for TinyModel {
    fn default() -> Self {
        Self {
            seed: 1,
            version: 3,
            name: "Tiny".into(),
            width: 64,
            blocks: 2,
            ffn: 128,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            context: 256,
            tied: true,
            biases: false,
            rope_factors: false,
            encoding: "q4_1",
            embedding: "q8_0",
            add_bos: false,
            tokenizer: true,
            tensors: true,
        }
    }
}

/// One tensor of a model under construction.
#[derive(Clone, Debug)]
pub struct TinyTensor {
    /// GGUF name.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// How it is stored.
    pub encoding: &'static Encoding,
    /// Its bytes, row after row.
    pub bytes: Vec<u8>,
}

impl TinyModel {
    /// A model wide and deep enough for minis of which some capsules are held in a coarser form, or only linked.
    pub fn for_minis(encoding: &'static str, embedding: &'static str, tied: bool) -> Self {
        Self {
            width: 256,
            ffn: 512,
            blocks: 4,
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            tied,
            encoding,
            embedding,
            ..Self::default()
        }
    }

    /// Writes the file.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.gguf()).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
    }

    /// Tokens of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        vocabulary().len()
    }

    /// The whole file.
    pub fn gguf(&self) -> Vec<u8> {
        let mut metadata = Metadata::default();
        self.hyper_parameters(&mut metadata);
        if self.tokenizer {
            self.tokenizer(&mut metadata);
        }
        let tensors = if self.tensors { self.tensor_data() } else { Vec::new() };
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((tensors.len() as u64).to_le_bytes());
        out.extend(metadata.count.to_le_bytes());
        out.extend(&metadata.bytes);
        let mut offset = 0u64;
        for tensor in &tensors {
            put_text(&mut out, tensor.name.as_bytes());
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            for dim in tensor.shape.iter().rev() {
                out.extend((*dim as u64).to_le_bytes());
            }
            out.extend(tensor.encoding.ggml_type.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += tensor.bytes.len().next_multiple_of(ALIGNMENT) as u64;
        }
        for tensor in &tensors {
            out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
            out.extend(&tensor.bytes);
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out
    }

    /// Every tensor, in file order.
    pub fn tensor_data(&self) -> Vec<TinyTensor> {
        let mut random = Random(self.seed);
        let (width, q, kv) = (self.width, self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut tensors = vec![random.matrix("token_embd.weight", self.embedding, self.vocab_size(), width)];
        if self.rope_factors {
            tensors.push(random.vector("rope_freqs.weight", self.head_dim / 2, 2.0));
        }
        for block in 0..self.blocks {
            let name = |part: &str| format!("blk.{block}.{part}");
            let matrices = [
                ("attn_q", q, width),
                ("attn_k", kv, width),
                ("attn_v", kv, width),
                ("attn_output", width, q),
                ("ffn_gate", self.ffn, width),
                ("ffn_up", self.ffn, width),
                ("ffn_down", width, self.ffn),
            ];
            tensors.push(random.vector(&name("attn_norm.weight"), width, 1.0));
            tensors.push(random.vector(&name("ffn_norm.weight"), width, 1.0));
            for (part, rows, cols) in matrices {
                tensors.push(random.matrix(&name(&format!("{part}.weight")), self.encoding, rows, cols));
                if self.biases {
                    tensors.push(random.vector(&name(&format!("{part}.bias")), rows, 0.0));
                }
            }
        }
        tensors.push(random.vector("output_norm.weight", width, 1.0));
        if !self.tied {
            tensors.push(random.matrix("output.weight", self.encoding, self.vocab_size(), width));
        }
        tensors
    }

    fn hyper_parameters(&self, metadata: &mut Metadata) {
        metadata.text("general.architecture", "llama");
        metadata.text("general.name", &self.name);
        for (key, value) in [
            ("context_length", self.context),
            ("embedding_length", self.width as u32),
            ("block_count", self.blocks as u32),
            ("feed_forward_length", self.ffn as u32),
            ("attention.head_count", self.heads as u32),
            ("attention.head_count_kv", self.kv_heads as u32),
            ("attention.key_length", self.head_dim as u32),
            ("attention.value_length", self.head_dim as u32),
            ("rope.dimension_count", self.head_dim as u32),
        ] {
            metadata.u32(&format!("llama.{key}"), value);
        }
        metadata.f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
        metadata.f32("llama.rope.freq_base", 10_000.0);
    }

    fn tokenizer(&self, metadata: &mut Metadata) {
        let tokens = vocabulary();
        metadata.text("tokenizer.ggml.model", "gpt2");
        metadata.text("tokenizer.ggml.pre", "smollm");
        let types = (0..tokens.len()).map(|id| if id < SPECIALS.len() { 3i32 } else { 1 });
        metadata.texts("tokenizer.ggml.tokens", &tokens);
        metadata.i32s("tokenizer.ggml.token_type", types);
        metadata.texts("tokenizer.ggml.merges", MERGES);
        metadata.u32("tokenizer.ggml.bos_token_id", IM_START);
        metadata.u32("tokenizer.ggml.eos_token_id", IM_END);
        metadata.bool("tokenizer.ggml.add_bos_token", self.add_bos);
        metadata.text("tokenizer.chat_template", CHAT_TEMPLATE);
    }
}

/// The vocabulary: special tokens, bytes, merges.
pub fn vocabulary() -> Vec<String> {
    let specials = SPECIALS.iter().map(|text| (*text).to_owned());
    let bytes = (0..=255).map(|byte| byte_character(byte).to_string());
    specials.chain(bytes).chain(MERGES.iter().map(|pair| pair.replace(' ', ""))).collect()
}

/// GPT-2's printable stand-in of a byte: itself where it prints, else the next free character from U+0100.
fn byte_character(byte: u8) -> char {
    let prints = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if prints(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|b| !prints(*b)).count();
    char::from_u32(256 + before as u32).expect("the range has no surrogates")
}

/// A GGUF file's metadata under construction.
#[derive(Debug, Default)]
struct Metadata {
    bytes: Vec<u8>,
    count: u64,
}

impl Metadata {
    /// Key and type number.
    fn begin(&mut self, key: &str, kind: u32) -> &mut Vec<u8> {
        self.count += 1;
        put_text(&mut self.bytes, key.as_bytes());
        self.bytes.extend(kind.to_le_bytes());
        &mut self.bytes
    }

    fn u32(&mut self, key: &str, value: u32) {
        self.begin(key, 4).extend(value.to_le_bytes());
    }

    fn f32(&mut self, key: &str, value: f32) {
        self.begin(key, 6).extend(value.to_le_bytes());
    }

    fn bool(&mut self, key: &str, value: bool) {
        self.begin(key, 7).push(u8::from(value));
    }

    fn text(&mut self, key: &str, value: &str) {
        put_text(self.begin(key, 8), value.as_bytes());
    }

    fn texts(&mut self, key: &str, values: &[impl AsRef<str>]) {
        let out = self.begin(key, 9);
        out.extend(8u32.to_le_bytes());
        out.extend((values.len() as u64).to_le_bytes());
        for value in values {
            put_text(out, value.as_ref().as_bytes());
        }
    }

    fn i32s(&mut self, key: &str, values: impl ExactSizeIterator<Item = i32>) {
        let out = self.begin(key, 9);
        out.extend(5u32.to_le_bytes());
        out.extend((values.len() as u64).to_le_bytes());
        out.extend(values.flat_map(i32::to_le_bytes));
    }
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

/// Random numbers from a seed: SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from -1 to 1.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// A matrix whose products keep the size of what they multiply.
    fn matrix(&mut self, name: &str, encoding: &str, rows: usize, cols: usize) -> TinyTensor {
        let encoding = by_name(encoding).unwrap_or_else(|| panic!("there is no encoding {encoding}"));
        let len = encoding.row_bytes(rows * cols).unwrap_or_else(|| panic!("{cols} columns do not suit it"));
        let mut bytes = vec![0; len];
        if encoding.quantize.is_some() {
            let scale = (3.0 / cols as f32).sqrt();
            let values: Vec<f32> = (0..rows * cols).map(|_| scale * self.unit()).collect();
            encoding.encode(&values, None, &mut bytes).expect("the lengths belong together");
        } else {
            bytes.chunks_exact_mut(encoding.block_bytes).for_each(|block| self.block(encoding, block));
        }
        TinyTensor { name: name.to_owned(), shape: vec![rows, cols], encoding, bytes }
    }

    /// A random block of an encoding without a quantiser that decodes to numbers of a sensible size.
    fn block(&mut self, encoding: &Encoding, block: &mut [u8]) {
        let mut values = vec![0.0; encoding.block_len];
        for _ in 0..100_000 {
            block.iter_mut().for_each(|byte| *byte = self.bits() as u8);
            encoding.decode(block, &mut values).expect("one block");
            let largest = values.iter().fold(0.0f32, |most, v| most.max(v.abs()));
            if (0.001..0.5).contains(&largest) && values.iter().all(|v| v.is_finite()) {
                return;
            }
        }
        panic!("no sensible block of {} was found", encoding.name);
    }

    /// A vector of f32 near `centre`.
    fn vector(&mut self, name: &str, len: usize, centre: f32) -> TinyTensor {
        let bytes = (0..len).flat_map(|_| (centre + 0.2 * self.unit()).to_le_bytes()).collect();
        let encoding = by_name("f32").expect("f32 is an encoding");
        TinyTensor { name: name.to_owned(), shape: vec![len], encoding, bytes }
    }
}

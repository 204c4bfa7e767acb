//! The registry of weight encodings: one [`Encoding`] per ggml tensor type, each defined in its own file.

/// Elements that share one tile: the unit along k in which weights meet int8 activations.
pub const TILE: usize = 32;

/// One tile of one weight row in integer form: `value[i] = scale[i / 16] * code[i] + min[i / 16]`.
#[derive(Clone, Debug)]
pub struct Tile {
    /// Signed codes, zero point already subtracted, each in -128..=127.
    pub code: [i8; TILE],
    /// Scale of the first and of the second 16 codes (equal where the encoding has one per tile).
    pub scale: [f32; 2],
    /// Offset of the first and of the second 16 codes (0 where the encoding has none).
    pub min: [f32; 2],
}

/// A run of bytes inside an encoded block, and the unit in which eight rows interleave it when packed.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Bytes of the field; the fields of a block follow each other without gaps.
    pub len: usize,
    /// Interleave unit in bytes; divides `len`.
    pub unit: usize,
}

/// How a weight tensor's elements are stored. Blocks run along k, the tensor's innermost dimension.
#[derive(Debug)]
pub struct Encoding {
    /// GGUF's own name in lower case: `q4_1`.
    pub name: &'static str,
    /// ggml's type number, as in a GGUF file.
    pub ggml_type: u32,
    /// Elements in a block.
    pub block_len: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// The block's bytes as fields, in order; their lengths add up to `block_bytes`.
    pub fields: &'static [Field],
    /// Decodes one block (`block_bytes` in, `block_len` f32 out), bit-equal to the PyPI package `gguf`.
    pub dequantize: fn(block: &[u8], out: &mut [f32]),
    /// Encodes one block (`block_len` f32 in, optional importance weight per element, `block_bytes` out)
    /// with a search for the scale that minimises the weighted squared error.
    pub quantize: Option<fn(x: &[f32], importance: Option<&[f32]>, block: &mut [u8])>,
    /// Integer form of tile `t` (elements `32 t ..`) of a block; `None` for f32, f16 and bf16.
    pub tile: Option<fn(block: &[u8], t: usize, out: &mut Tile)>,
}

impl PartialEq for Encoding {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other) || self.name == other.name
    }
}

//! The registry of weight encodings: one [`Encoding`] per ggml tensor type, each defined in its own file.

use super::division::Division;
use super::encodings::ALL;
use crate::error::{Error, Result};

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

/// How products with an encoding accumulate: a fixed property, as it decides the bits of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// Two scales per tile, hence two steps of the accumulator per tile; one otherwise.
    pub halves: bool,
    /// A second accumulator collects the offsets.
    pub min: bool,
}

impl Scheme {
    /// One scale per tile and no offset.
    pub(super) const PLAIN: Self = Self { halves: false, min: false };
    /// One scale and one offset per tile.
    pub(super) const OFFSET: Self = Self { halves: false, min: true };
    /// Two scales per tile and no offset.
    pub(super) const HALVES: Self = Self { halves: true, min: false };
    /// Two scales and two offsets per tile: right for all encodings, and what those without a vector form take.
    pub(super) const GENERAL: Self = Self { halves: true, min: true };
}

/// Encodes one block: elements, importance weight of each, bytes of the block. See [`Encoding::quantize`].
pub type Quantize = fn(x: &[f32], importance: Option<&[f32]>, block: &mut [u8]);

/// How a weight tensor's elements are stored. Blocks run along k, the tensor's innermost dimension.
///
/// Only the registry makes them: vector kernels are chosen by name and rely on that encoding's block sizes.
#[derive(Debug)]
#[non_exhaustive]
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
    /// Decodes one block (`block_bytes` in, `block_len` f32 out), bit-equal to the PyPI package `gguf`. Of an
    /// encoding with `block_len` 1, any number of blocks at once. Slices that are too short may panic; see
    /// [`Encoding::decode`] for the checked form.
    pub dequantize: fn(block: &[u8], out: &mut [f32]),
    /// Encodes one block (`block_len` f32 in, optional importance weight per element, `block_bytes` out)
    /// with a search for the scale that minimises the weighted squared error. Deterministic; decodes to finite
    /// values whatever the input: NaN counts as 0, what is out of range goes to the end of the range (f32 alone
    /// keeps NaN and infinities). Weights that are negative or NaN count as 0. See [`Encoding::encode`].
    pub quantize: Option<Quantize>,
    /// Integer form of tile `t` (elements `32 t ..`) of a block; `None` for f32, f16 and bf16.
    pub tile: Option<fn(block: &[u8], t: usize, out: &mut Tile)>,
    /// How products with it accumulate.
    pub scheme: Scheme,
    /// How its packed bytes are divided into two planes, where that serves drafts.
    pub division: Option<&'static Division>,
}

impl PartialEq for Encoding {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other) || self.name == other.name
    }
}

impl Encoding {
    /// Bytes of a row of `cols` elements: `None` where `cols` is not a multiple of the block length, or on
    /// overflow.
    #[must_use]
    pub fn row_bytes(&self, cols: usize) -> Option<usize> {
        cols.is_multiple_of(self.block_len).then_some(cols / self.block_len)?.checked_mul(self.block_bytes)
    }

    /// Decodes consecutive blocks in source order (not packed): `out.len()` elements of `bytes`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the lengths do not belong together.
    pub fn decode(&self, bytes: &[u8], out: &mut [f32]) -> Result<()> {
        self.check(bytes.len(), out.len())?;
        if self.block_len == 1 {
            (self.dequantize)(bytes, out);
            return Ok(());
        }
        for (block, out) in bytes.chunks_exact(self.block_bytes).zip(out.chunks_exact_mut(self.block_len)) {
            (self.dequantize)(block, out);
        }
        Ok(())
    }

    /// Encodes consecutive blocks in source order (not packed). `importance` has as many elements as `x`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the lengths do not belong together; [`Error::Unsupported`] where the
    /// library cannot quantise to this encoding.
    pub fn encode(&self, x: &[f32], importance: Option<&[f32]>, bytes: &mut [u8]) -> Result<()> {
        self.check(bytes.len(), x.len())?;
        if let Some(importance) = importance
            && importance.len() != x.len()
        {
            return Err(Error::InvalidArgument(format!(
                "{} importance weights were given for {} elements; give one per element",
                importance.len(),
                x.len()
            )));
        }
        let Some(quantize) = self.quantize else {
            return Err(Error::Unsupported(format!(
                "tensors cannot be quantised to {}, only read",
                self.name
            )));
        };
        for (i, block) in bytes.chunks_exact_mut(self.block_bytes).enumerate() {
            let elements = i * self.block_len..(i + 1) * self.block_len;
            quantize(&x[elements.clone()], importance.map(|w| &w[elements]), block);
        }
        Ok(())
    }

    fn check(&self, bytes: usize, elements: usize) -> Result<()> {
        if self.row_bytes(elements) == Some(bytes) {
            return Ok(());
        }
        Err(Error::InvalidArgument(format!(
            "{elements} elements do not fit {bytes} bytes of {}, whose blocks hold {} elements in {} bytes",
            self.name, self.block_len, self.block_bytes
        )))
    }
}

/// Every encoding that the library computes with.
#[must_use]
pub fn all() -> &'static [&'static Encoding] {
    ALL
}

/// The encoding of that name, in any case: "q4_k", "Q4_K".
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Encoding> {
    ALL.iter().copied().find(|encoding| encoding.name.eq_ignore_ascii_case(name))
}

/// The encoding that a GGUF file means by a tensor type number.
#[must_use]
pub fn by_ggml_type(number: u32) -> Option<&'static Encoding> {
    ALL.iter().copied().find(|encoding| encoding.ggml_type == number)
}

/// ggml's tensor types that the library does not compute with: integers, f64, activation formats, types that
/// ggml has withdrawn (repacked forms) and newer ones (numbers from ggml.h and the package `gguf`).
const OTHER_TYPES: &[(u32, &str)] = &[
    (4, "q4_2"),
    (5, "q4_3"),
    (9, "q8_1"),
    (15, "q8_k"),
    (24, "i8"),
    (25, "i16"),
    (26, "i32"),
    (27, "i64"),
    (28, "f64"),
    (31, "q4_0_4_4"),
    (32, "q4_0_4_8"),
    (33, "q4_0_8_8"),
    (36, "iq4_nl_4_4"),
    (37, "iq4_nl_4_8"),
    (38, "iq4_nl_8_8"),
    (41, "q1_0"),
];

/// The name of a ggml tensor type, supported or not, so that a message can name it; `None` where the number is
/// unknown.
#[must_use]
pub fn ggml_type_name(number: u32) -> Option<&'static str> {
    let other = || OTHER_TYPES.iter().find(|(known, _)| *known == number).map(|(_, name)| *name);
    by_ggml_type(number).map(|encoding| encoding.name).or_else(other)
}

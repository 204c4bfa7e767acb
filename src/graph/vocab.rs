//! The compiled vocabulary: a block of bytes that is looked up where it lies.
//!
//! [`compile`] turns a GGUF tokenizer's arrays into this block once, at conversion. Afterwards
//! [`VocabIndex::open`] reads the fixed header only, so a vocabulary of any size opens in constant time
//! and allocates nothing; every lookup checks its own bounds and treats nonsense as absent.
//!
//! # Layout
//! Little-endian throughout. The header is 256 bytes; the sections follow without gaps in the order below,
//! and their sizes follow from the header's counts, so the total length is known and must fit exactly.
//!
//! | at | type | meaning |
//! |---|---|---|
//! | 0 | 8 bytes | `CGVOCAB1` |
//! | 8 | u32 | model: 1 byte-level BPE, 2 SentencePiece |
//! | 12 | u32 | flags: bits 0-1 `add_bos`, 2-3 `add_eos`, 4-5 `add_space_prefix` (0 unset, 1 false, 2 true) |
//! | 16 | u32 | n: number of tokens |
//! | 20 | u32 | number of symbols: tokens, then merge parts that are no token |
//! | 24 | u32 | longest stored token, bytes |
//! | 28 | u32 | t: slots of the text table, a power of two |
//! | 32 | u32 | longest probe sequence in the text table, slots |
//! | 36 | u32 | m: slots of the merge table, 0 or a power of two |
//! | 40 | u32 | longest probe sequence in the merge table, slots |
//! | 44 | u32 | s: number of distinct lengths of special tokens |
//! | 48 | u32 | e: number of tokens that end a generation |
//! | 52 | u32 | p: length of the pre-tokenizer's name, bytes |
//! | 56 | u32 | b: length of the token bytes |
//! | 60 | u32 | c: number of scores, 0 or n |
//! | 64 | 32 bytes | bit set: bytes with which a special token starts |
//! | 96 | 14 × u32 | ids in the order of [`SpecialToken`]; `0xFFFFFFFF` means none |
//! | 152 | 104 bytes | zero |
//!
//! | section | size | meaning |
//! |---|---|---|
//! | bytes | 256 × u32 | the symbol of each single byte, or `0xFFFFFFFF` |
//! | ends | (n + 1) × u32 | token i is the bytes `ends[i]..ends[i + 1]` of the last section |
//! | scores | c × f32 | SentencePiece scores |
//! | texts | t × (u32, u32) | high half of XXH3-64 of the token's bytes; id + 1, or 0 for an empty slot |
//! | merges | m × 4 × u32 | left, right, rank, result; left is `0xFFFFFFFF` in an empty slot |
//! | lengths | s × u32 | lengths of special tokens in bytes, descending |
//! | ends of generation | e × u32 | ids, ascending |
//! | info | n bytes | bits 0-2 the type, bit 3 swallows spaces after it, bit 4 may be a word of plain text |
//! | pre | p bytes | the pre-tokenizer's name, UTF-8 |
//! | token bytes | b bytes | one after the other |
//!
//! Both tables are open-addressing with linear probing. The text table starts at the low bits of XXH3-64
//! (seed 0); the merge table at the low bits of SplitMix64's finaliser over `left << 32 | right`.
//!
//! Tokens of a byte-level BPE vocabulary are stored with GPT-2's byte alphabet undone; special tokens, byte
//! tokens and the whole of a SentencePiece vocabulary are stored as written (`▁` stands for a space).

mod compile;
mod names;

pub use compile::{VocabSource, compile};

use crate::error::{Error, Result};
use std::borrow::Cow;
use std::ops::Range;

/// The id that means "none" in the compiled form.
pub const NONE: u32 = u32::MAX;
/// Most tokens a vocabulary may have.
pub const MAX_TOKENS: usize = 1 << 21;
/// Most merges a vocabulary may have.
pub const MAX_MERGES: usize = 1 << 22;
/// Longest token, in bytes.
pub const MAX_TOKEN_BYTES: usize = 1 << 16;
/// Most bytes of all tokens together.
pub const MAX_BLOB_BYTES: usize = 1 << 28;
/// Longest probe sequence a table may need; keeps lookups in a hostile file short.
const MAX_PROBE: u32 = 1024;
/// Most distinct lengths of special tokens; keeps the search for them short.
const MAX_SPECIAL_LENGTHS: u32 = 1024;

const MAGIC: &[u8; 8] = b"CGVOCAB1";
const HEADER_BYTES: usize = 256;
const TYPE_MASK: u8 = 0b111;
const STRIPS_RIGHT: u8 = 1 << 3;
const IS_WORD: u8 = 1 << 4;
const TEXT_SLOT: usize = 8;
const MERGE_SLOT: usize = 16;

/// The algorithm that turns text into tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenizerModel {
    /// Byte-level byte-pair encoding with ranked merges (GGUF `gpt2`).
    #[default]
    Bpe,
    /// SentencePiece-style merging by score with byte fallback (GGUF `llama`).
    Spm,
}

impl TokenizerModel {
    /// The model that GGUF's `tokenizer.ggml.model` names.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for every other name.
    pub fn from_gguf(name: &str) -> Result<Self> {
        match name {
            "gpt2" => Ok(Self::Bpe),
            "llama" => Ok(Self::Spm),
            _ => Err(Error::Unsupported(format!(
                "the tokenizer model `{name}` is not supported; supported are `gpt2` (byte-level BPE) and \
                 `llama` (SentencePiece)"
            ))),
        }
    }
}

/// What a token is for, as GGUF's `tokenizer.ggml.token_type` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// No known meaning; prints nothing.
    Undefined = 0,
    /// A piece of text.
    Normal = 1,
    /// Stands for text that no token covers.
    Unknown = 2,
    /// Steers the model; printed on request only.
    Control = 3,
    /// A piece of text that is cut out before tokenizing.
    UserDefined = 4,
    /// Reserved; prints nothing.
    Unused = 5,
    /// A single byte.
    Byte = 6,
}

impl TokenType {
    /// The type with GGUF's number; numbers without a meaning are [`TokenType::Undefined`].
    pub fn from_gguf(number: i32) -> Self {
        match number {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Undefined,
        }
    }

    /// Whether such tokens are cut out of the text before the rest is tokenized.
    pub fn is_special(self) -> bool {
        matches!(self, Self::Unknown | Self::Control | Self::UserDefined)
    }

    /// Whether such tokens print nothing unless special tokens are asked for.
    pub fn is_hidden(self) -> bool {
        matches!(self, Self::Unknown | Self::Control)
    }
}

/// Tokens with a role; the discriminant is the index in the compiled header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are GGUF's own: tokenizer.ggml.<name>_token_id
pub enum SpecialToken {
    Bos = 0,
    Eos,
    Eot,
    Eom,
    Unk,
    Sep,
    Pad,
    Mask,
    FimPre,
    FimSuf,
    FimMid,
    FimPad,
    FimRep,
    FimSep,
}

const SPECIAL_TOKENS: usize = 14;

/// The result of merging two symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merge {
    /// Position in the merge list; lower merges come first.
    pub rank: u32,
    /// The symbol that replaces the two.
    pub symbol: u32,
}

/// Where everything lies in one compiled vocabulary. Owns no bytes: pair it with them by [`VocabIndex::view`].
#[derive(Clone, Debug)]
pub struct VocabIndex {
    model: TokenizerModel,
    flags: u32,
    n_tokens: u32,
    n_symbols: u32,
    max_token_len: usize,
    text_slots: usize,
    text_probe: u32,
    merge_slots: usize,
    merge_probe: u32,
    starts: [u8; 32],
    special: [u32; SPECIAL_TOKENS],
    byte_ids: Range<usize>,
    ends: Range<usize>,
    scores: Range<usize>,
    texts: Range<usize>,
    merges: Range<usize>,
    lengths: Range<usize>,
    eog: Range<usize>,
    info: Range<usize>,
    pre: Range<usize>,
    blob: Range<usize>,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let raw = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(raw.try_into().ok()?))
}

fn malformed(detail: impl Into<String>) -> Error {
    Error::malformed("compiled vocabulary", detail)
}

/// Slot and tag of a token's bytes in the text table.
fn text_hash(text: &[u8]) -> (usize, u32) {
    let hash = xxhash_rust::xxh3::xxh3_64(text);
    (hash as u32 as usize, (hash >> 32) as u32)
}

/// Slot of a pair in the merge table: SplitMix64's finaliser (Steele, Lea and Flood, 2014).
fn merge_hash(left: u32, right: u32) -> usize {
    let mut z = u64::from(left) << 32 | u64::from(right);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as u32 as usize
}

/// Hands out consecutive ranges.
struct Cursor(usize);

impl Cursor {
    fn take(&mut self, count: usize, size: usize) -> Option<Range<usize>> {
        let start = self.0;
        self.0 = start.checked_add(count.checked_mul(size)?)?;
        Some(start..self.0)
    }
}

impl VocabIndex {
    /// Reads the header and checks that every section lies inside `bytes`, in constant time.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the header is wrong or the length does not fit it.
    pub fn open(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < HEADER_BYTES || !bytes.starts_with(MAGIC) {
            return Err(malformed(
                "it does not start with a CGVOCAB1 header of 256 bytes; convert the model again",
            ));
        }
        let field = |at| u32_at(bytes, at).unwrap_or(0);
        let model = match field(8) {
            1 => TokenizerModel::Bpe,
            2 => TokenizerModel::Spm,
            other => return Err(malformed(format!("unknown tokenizer model {other} at offset 8"))),
        };
        Self::check(&field)?;
        let mut special = [NONE; SPECIAL_TOKENS];
        for (i, slot) in special.iter_mut().enumerate() {
            *slot = field(96 + 4 * i);
        }
        let mut starts = [0; 32];
        starts.copy_from_slice(&bytes[64..96]); // 256 bytes are there: checked above
        let ranges = Self::ranges(&field).ok_or_else(|| malformed("its sections are too large"))?;
        let [byte_ids, ends, scores, texts, merges, lengths, eog, info, pre, blob] = ranges;
        if blob.end != bytes.len() {
            let (want, have) = (blob.end, bytes.len());
            return Err(malformed(format!("the header asks for {want} bytes but {have} are there")));
        }
        Ok(Self {
            model,
            flags: field(12),
            n_tokens: field(16),
            n_symbols: field(20),
            max_token_len: field(24) as usize,
            text_slots: field(28) as usize,
            text_probe: field(32),
            merge_slots: field(36) as usize,
            merge_probe: field(40),
            starts,
            special,
            byte_ids,
            ends,
            scores,
            texts,
            merges,
            lengths,
            eog,
            info,
            pre,
            blob,
        })
    }

    /// Checks the header's numbers, each by itself.
    fn check(field: &impl Fn(usize) -> u32) -> Result<()> {
        let (n_tokens, text_slots, merge_slots) = (field(16), field(28), field(36));
        let checks = [
            (n_tokens as usize <= MAX_TOKENS, 16, "too many tokens"),
            (field(20) >= n_tokens && field(20) < NONE, 20, "wrong number of symbols"),
            (field(24) as usize <= MAX_TOKEN_BYTES, 24, "longest token too long"),
            (text_slots.is_power_of_two(), 28, "text table is no power of two"),
            (field(32) <= MAX_PROBE, 32, "text probes too long"),
            (merge_slots == 0 || merge_slots.is_power_of_two(), 36, "merge table is no power of two"),
            (field(40) <= MAX_PROBE, 40, "merge probes too long"),
            (field(44) <= MAX_SPECIAL_LENGTHS, 44, "too many lengths of special tokens"),
            (field(56) as usize <= MAX_BLOB_BYTES, 56, "token bytes too long"),
            (field(60) == 0 || field(60) == n_tokens, 60, "wrong number of scores"),
        ];
        match checks.iter().find(|(good, ..)| !good) {
            Some((_, at, what)) => Err(malformed(format!("{what} (header offset {at})"))),
            None => Ok(()),
        }
    }

    fn ranges(field: &impl Fn(usize) -> u32) -> Option<[Range<usize>; 10]> {
        let count = |at| field(at) as usize;
        let mut cursor = Cursor(HEADER_BYTES);
        Some([
            cursor.take(256, 4)?,
            cursor.take(count(16) + 1, 4)?,
            cursor.take(count(60), 4)?,
            cursor.take(count(28), TEXT_SLOT)?,
            cursor.take(count(36), MERGE_SLOT)?,
            cursor.take(count(44), 4)?,
            cursor.take(count(48), 4)?,
            cursor.take(count(16), 1)?,
            cursor.take(count(52), 1)?,
            cursor.take(count(56), 1)?,
        ])
    }

    /// Pairs this index with the bytes it was opened from. Other bytes give other answers, never a panic.
    pub fn view<'a>(&'a self, bytes: &'a [u8]) -> Vocab<'a> {
        Vocab { index: self, bytes }
    }
}

/// A compiled vocabulary, ready to be looked up.
#[derive(Clone, Copy, Debug)]
pub struct Vocab<'a> {
    index: &'a VocabIndex,
    bytes: &'a [u8],
}

impl<'a> Vocab<'a> {
    /// The algorithm of this vocabulary.
    pub fn model(&self) -> TokenizerModel {
        self.index.model
    }

    /// Number of tokens; ids are below it.
    pub fn n_tokens(&self) -> u32 {
        self.index.n_tokens
    }

    /// Number of symbols: tokens, then merge parts that are no token.
    pub fn n_symbols(&self) -> u32 {
        self.index.n_symbols
    }

    /// Longest stored token in bytes; no longer text can be a token.
    pub fn max_token_len(&self) -> usize {
        self.index.max_token_len
    }

    /// The pre-tokenizer's name (GGUF's `tokenizer.ggml.pre`), empty if the model names none.
    pub fn pre(&self) -> &'a str {
        self.bytes.get(self.index.pre.clone()).and_then(|raw| std::str::from_utf8(raw).ok()).unwrap_or("")
    }

    fn flag(&self, shift: u32) -> Option<bool> {
        match self.index.flags >> shift & 3 {
            1 => Some(false),
            2 => Some(true),
            _ => None,
        }
    }

    /// Whether the model asks for a BOS token in front, if it says so.
    pub fn add_bos(&self) -> Option<bool> {
        self.flag(0)
    }

    /// Whether the model asks for an EOS token at the end, if it says so.
    pub fn add_eos(&self) -> Option<bool> {
        self.flag(2)
    }

    /// Whether the model asks for a space in front of the text, if it says so.
    pub fn add_space_prefix(&self) -> Option<bool> {
        self.flag(4)
    }

    /// The token with a role, if the model has one.
    pub fn special(&self, role: SpecialToken) -> Option<u32> {
        let id = self.index.special[role as usize]; // one slot per role
        (id < self.index.n_tokens).then_some(id)
    }

    /// The stored bytes of a token: see the module for their form.
    pub fn stored(&self, id: u32) -> Option<&'a [u8]> {
        if id >= self.index.n_tokens {
            return None;
        }
        let at = self.index.ends.start + 4 * id as usize;
        let (start, end) = (u32_at(self.bytes, at)? as usize, u32_at(self.bytes, at + 4)? as usize);
        self.bytes.get(self.index.blob.clone())?.get(start..end)
    }

    fn info(&self, id: u32) -> u8 {
        let at = self.index.info.start + id as usize;
        if id < self.index.n_tokens { self.bytes.get(at).copied().unwrap_or(0) } else { 0 }
    }

    /// What a token is for; ids out of range are [`TokenType::Undefined`].
    pub fn token_type(&self, id: u32) -> TokenType {
        TokenType::from_gguf(i32::from(self.info(id) & TYPE_MASK))
    }

    /// Whether the spaces that follow this special token in a text are dropped.
    pub fn strips_right(&self, id: u32) -> bool {
        self.info(id) & STRIPS_RIGHT != 0
    }

    /// The score of a token; 0 where there is none.
    pub fn score(&self, id: u32) -> f32 {
        let at = self.index.scores.start + 4 * id as usize;
        let inside = id < self.index.n_tokens && at < self.index.scores.end;
        if inside { f32::from_bits(u32_at(self.bytes, at).unwrap_or(0)) } else { 0.0 }
    }

    /// The bytes that a token prints, special tokens included; nothing for unused ones.
    pub fn piece(&self, id: u32) -> Cow<'a, [u8]> {
        let stored = self.stored(id).unwrap_or_default();
        match self.token_type(id) {
            TokenType::Normal if self.index.model == TokenizerModel::Spm => unescape_spaces(stored),
            TokenType::Normal | TokenType::Unknown | TokenType::Control | TokenType::UserDefined => {
                Cow::Borrowed(stored)
            }
            TokenType::Byte => byte_token(stored).map_or(Cow::Borrowed(&[][..]), |b| Cow::Owned(vec![b])),
            TokenType::Undefined | TokenType::Unused => Cow::Borrowed(&[]),
        }
    }

    /// The id of the token that is exactly this word of plain text.
    pub fn find(&self, text: &[u8]) -> Option<u32> {
        self.search(text, |vocab, id| vocab.info(id) & IS_WORD != 0)
    }

    /// The id of the special token that is exactly this text.
    pub fn find_special(&self, text: &[u8]) -> Option<u32> {
        self.search(text, |vocab, id| vocab.token_type(id).is_special())
    }

    fn search(&self, text: &[u8], wanted: impl Fn(&Self, u32) -> bool) -> Option<u32> {
        if text.len() > self.index.max_token_len {
            return None;
        }
        let (start, tag) = text_hash(text);
        for probe in 0..=self.index.text_probe as usize {
            let slot = (start + probe) & (self.index.text_slots - 1); // slots >= 1: a power of two
            let at = self.index.texts.start + slot * TEXT_SLOT;
            let id = u32_at(self.bytes, at + 4)?.checked_sub(1)?; // an empty slot ends the search
            let same = u32_at(self.bytes, at) == Some(tag) && self.stored(id) == Some(text);
            if same && wanted(self, id) {
                return Some(id);
            }
        }
        None
    }

    /// What two neighbouring symbols merge into.
    pub fn merge(&self, left: u32, right: u32) -> Option<Merge> {
        if self.index.merge_slots == 0 || left == NONE {
            return None;
        }
        let start = merge_hash(left, right);
        for probe in 0..=self.index.merge_probe as usize {
            let slot = (start + probe) & (self.index.merge_slots - 1); // slots >= 1: checked above
            let at = self.index.merges.start + slot * MERGE_SLOT;
            let found = u32_at(self.bytes, at)?;
            if found == NONE {
                return None;
            }
            if found == left && u32_at(self.bytes, at + 4)? == right {
                return Some(Merge {
                    rank: u32_at(self.bytes, at + 8)?,
                    symbol: u32_at(self.bytes, at + 12)?,
                });
            }
        }
        None
    }

    /// The symbol of a single byte (for SentencePiece: its byte token), or [`NONE`].
    pub fn byte_symbol(&self, byte: u8) -> u32 {
        u32_at(self.bytes, self.index.byte_ids.start + 4 * usize::from(byte)).unwrap_or(NONE)
    }

    /// Whether some special token starts with this byte.
    pub fn starts_special(&self, byte: u8) -> bool {
        self.index.starts[usize::from(byte >> 3)] >> (byte & 7) & 1 != 0 // 32 bytes, index below 32
    }

    /// The distinct lengths of special tokens in bytes, longest first.
    pub fn special_lengths(&self) -> impl Iterator<Item = usize> + use<'a> {
        let bytes = self.bytes;
        self.index.lengths.clone().step_by(4).map_while(move |at| Some(u32_at(bytes, at)? as usize))
    }

    /// The tokens that end a generation, ascending.
    pub fn end_of_generation(&self) -> impl Iterator<Item = u32> + use<'a> {
        let bytes = self.bytes;
        self.index.eog.clone().step_by(4).map_while(move |at| u32_at(bytes, at))
    }
}

/// SentencePiece writes a space as U+2581.
const ESCAPED_SPACE: &[u8] = "\u{2581}".as_bytes();

fn unescape_spaces(stored: &[u8]) -> Cow<'_, [u8]> {
    if !stored.windows(ESCAPED_SPACE.len()).any(|window| window == ESCAPED_SPACE) {
        return Cow::Borrowed(stored);
    }
    let mut out = Vec::with_capacity(stored.len());
    let mut rest = stored;
    while let Some((&first, tail)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(ESCAPED_SPACE) {
            out.push(b' ');
            rest = after;
        } else {
            out.push(first);
            rest = tail;
        }
    }
    Cow::Owned(out)
}

/// The byte that a token written `<0xHH>` stands for.
fn byte_token(text: &[u8]) -> Option<u8> {
    let hex = text.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let digit = |c: &u8| (*c as char).to_digit(16).map(|d| d as u8);
    match hex {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    }
}

#[cfg(test)]
mod tests;

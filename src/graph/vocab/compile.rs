//! Turns a GGUF tokenizer's arrays into the compiled form, checking everything once.

use super::names::assign_names;
use super::*;
use std::collections::{BTreeSet, HashMap};

/// A tokenizer as GGUF's metadata spells it. Empty or `None` fields are absent from the file.
#[derive(Clone, Debug, Default)]
pub struct VocabSource {
    /// The algorithm (`tokenizer.ggml.model`).
    pub model: TokenizerModel,
    /// The pre-tokenizer (`tokenizer.ggml.pre`); empty for SentencePiece.
    pub pre: String,
    /// The model's name (`general.name`): Phi-3's special tokens swallow the spaces after them.
    pub model_name: String,
    /// The tokens' text (`tokenizer.ggml.tokens`), for BPE in GPT-2's byte alphabet.
    pub tokens: Vec<Vec<u8>>,
    /// One score per token (`tokenizer.ggml.scores`), or empty.
    pub scores: Vec<f32>,
    /// One GGUF token type per token (`tokenizer.ggml.token_type`), or empty: all normal.
    pub types: Vec<i32>,
    /// Merges in order of rank (`tokenizer.ggml.merges`), each "left right".
    pub merges: Vec<Vec<u8>>,
    /// Begins a text (`tokenizer.ggml.bos_token_id`).
    pub bos: Option<u32>,
    /// Ends a text.
    pub eos: Option<u32>,
    /// Ends a turn.
    pub eot: Option<u32>,
    /// Ends a message.
    pub eom: Option<u32>,
    /// Stands for text that no token covers (`unknown_token_id`).
    pub unk: Option<u32>,
    /// Separates texts (`seperator_token_id`, spelt so in GGUF).
    pub sep: Option<u32>,
    /// Fills up a batch (`padding_token_id`).
    pub pad: Option<u32>,
    /// Stands for hidden text.
    pub mask: Option<u32>,
    /// Fill-in-the-middle: before the text in front of the gap.
    pub fim_pre: Option<u32>,
    /// Fill-in-the-middle: before the text behind the gap.
    pub fim_suf: Option<u32>,
    /// Fill-in-the-middle: the gap.
    pub fim_mid: Option<u32>,
    /// Fill-in-the-middle: padding.
    pub fim_pad: Option<u32>,
    /// Fill-in-the-middle: before a repository's name.
    pub fim_rep: Option<u32>,
    /// Fill-in-the-middle: between files.
    pub fim_sep: Option<u32>,
    /// Whether texts start with BOS (`add_bos_token`).
    pub add_bos: Option<bool>,
    /// Whether texts end with EOS (`add_eos_token`).
    pub add_eos: Option<bool>,
    /// Whether SentencePiece puts a space in front (`add_space_prefix`).
    pub add_space_prefix: Option<bool>,
}

/// Compiles a tokenizer.
///
/// Of two tokens with the same text the one with the lower id is found by text. Well-known names override
/// types and end-of-generation roles as in llama.cpp; where several names compete for one role, the first of
/// its list wins (llama.cpp picks an arbitrary one). A missing BOS, EOS or UNK id has SentencePiece's default
/// (1, 2, 0) for that model and no default for BPE (llama.cpp assumes 11).
///
/// # Errors
/// [`Error::Malformed`] naming the token or merge at fault; [`Error::Limit`] beyond [`MAX_TOKENS`],
/// [`MAX_MERGES`], [`MAX_TOKEN_BYTES`] or [`MAX_BLOB_BYTES`].
pub fn compile(source: &VocabSource) -> Result<Vec<u8>> {
    check_counts(source)?;
    let names: Vec<Cow<'_, [u8]>> = source.tokens.iter().enumerate().map(|(i, t)| name_of(i, t)).collect();
    let mut by_name: HashMap<&[u8], u32> = HashMap::with_capacity(names.len());
    for (id, name) in names.iter().enumerate() {
        by_name.entry(name).or_insert(id as u32); // the first id wins
    }
    let mut types: Vec<TokenType> = match source.types.as_slice() {
        [] => vec![TokenType::Normal; names.len()],
        given => given.iter().map(|&t| TokenType::from_gguf(t)).collect(),
    };
    for (id, name) in names.iter().enumerate() {
        if types[id] == TokenType::Byte && byte_token(name).is_none() {
            let text = String::from_utf8_lossy(name);
            return Err(bad(format!(
                "token {id} has type byte but its text `{text}` is not of the form <0x4F>"
            )));
        }
    }
    let mut roles = roles(source)?;
    let eog = assign_names(&by_name, &mut types, &mut roles);
    let symbols = Symbols::build(source, &by_name)?;
    let stored: Vec<Stored<'_>> =
        names.iter().zip(&types).map(|(name, &kind)| store(source.model, name, kind)).collect();
    let lengths = special_lengths(&stored, &types)?;
    let mut info: Vec<u8> =
        stored.iter().zip(&types).map(|(s, &t)| t as u8 | if s.is_word { IS_WORD } else { 0 }).collect();
    mark_strips(source, &by_name, &mut info);
    let texts = text_table(&stored, &types, &names, &by_name)?;
    let merges = merge_table(&symbols.merges)?;
    Ok(Writer { source, stored, types, lengths, info, roles, eog, symbols, texts, merges }.write())
}

fn bad(detail: impl Into<String>) -> Error {
    Error::malformed("tokenizer", detail)
}

fn check_counts(source: &VocabSource) -> Result<()> {
    let n = source.tokens.len();
    for (what, have) in [("scores", source.scores.len()), ("types", source.types.len())] {
        if have != 0 && have != n {
            return Err(bad(format!("it has {n} tokens but {have} {what}")));
        }
    }
    if n == 0 {
        return Err(bad("it has no tokens"));
    }
    if source.model == TokenizerModel::Spm && source.scores.is_empty() {
        return Err(bad("a SentencePiece vocabulary needs one score per token, but there are none"));
    }
    let total: usize = source.tokens.iter().map(|t| t.len().max(32)).sum();
    let longest = source.tokens.iter().map(Vec::len).enumerate().max_by_key(|&(_, len)| len);
    for (what, have, most) in [
        ("tokens", n, MAX_TOKENS),
        ("merges", source.merges.len(), MAX_MERGES),
        ("bytes of tokens", total, MAX_BLOB_BYTES),
        ("bytes of pre-tokenizer name", source.pre.len(), 256),
    ] {
        if have > most {
            return Err(Error::Limit(format!(
                "the tokenizer has {have} {what}; at most {most} are supported"
            )));
        }
    }
    if let Some((id, len)) = longest
        && len > MAX_TOKEN_BYTES
    {
        return Err(Error::Limit(format!(
            "token {id} has {len} bytes; at most {MAX_TOKEN_BYTES} are supported"
        )));
    }
    if let Some(id) = source.scores.iter().position(|s| s.is_nan()) {
        return Err(bad(format!("the score of token {id} is not a number")));
    }
    Ok(())
}

/// llama.cpp names an empty token by its index.
fn name_of(id: usize, text: &[u8]) -> Cow<'_, [u8]> {
    if text.is_empty() { Cow::Owned(format!("[EMPTY_{id}]").into_bytes()) } else { Cow::Borrowed(text) }
}

/// The ids of all roles as the model gives them, checked; see [`SpecialToken`] for the order.
fn roles(source: &VocabSource) -> Result<[Option<u32>; SPECIAL_TOKENS]> {
    let n = source.tokens.len();
    let given = [
        ("bos", source.bos),
        ("eos", source.eos),
        ("eot", source.eot),
        ("eom", source.eom),
        ("unknown", source.unk),
        ("separator", source.sep),
        ("padding", source.pad),
        ("mask", source.mask),
        ("fim_pre", source.fim_pre),
        ("fim_suf", source.fim_suf),
        ("fim_mid", source.fim_mid),
        ("fim_pad", source.fim_pad),
        ("fim_rep", source.fim_rep),
        ("fim_sep", source.fim_sep),
    ];
    let mut out = [None; SPECIAL_TOKENS];
    for ((name, id), slot) in given.into_iter().zip(&mut out) {
        if let Some(id) = id
            && id as usize >= n
        {
            return Err(bad(format!("the {name} token is {id} but there are only {n} tokens")));
        }
        *slot = id;
    }
    if source.model == TokenizerModel::Spm {
        for (role, default) in [(SpecialToken::Bos, 1), (SpecialToken::Eos, 2), (SpecialToken::Unk, 0)] {
            let slot = &mut out[role as usize];
            *slot = slot.or_else(|| ((default as usize) < n).then_some(default));
        }
    }
    for (what, asked, role) in
        [("bos", source.add_bos, SpecialToken::Bos), ("eos", source.add_eos, SpecialToken::Eos)]
    {
        if asked == Some(true) && out[role as usize].is_none() {
            return Err(bad(format!("add_{what}_token is true but there is no {what} token")));
        }
    }
    Ok(out)
}

/// Phi-3's special tokens swallow following spaces, some excepted (llama.cpp decides by the model's name).
fn mark_strips(source: &VocabSource, by_name: &HashMap<&[u8], u32>, info: &mut [u8]) {
    let name = source.model_name.to_ascii_lowercase();
    if !name.contains("phi-3") && !name.contains("phi3") {
        return;
    }
    for byte in info.iter_mut() {
        if TokenType::from_gguf(i32::from(*byte & TYPE_MASK)).is_special() {
            *byte |= STRIPS_RIGHT;
        }
    }
    for (name, strips) in [("</s>", true), ("<unk>", false), ("<s>", false), ("<|endoftext|>", false)] {
        if let Some(&id) = by_name.get(name.as_bytes()) {
            let byte = &mut info[id as usize];
            *byte = if strips { *byte | STRIPS_RIGHT } else { *byte & !STRIPS_RIGHT };
        }
    }
}

/// The character that GPT-2's published byte alphabet writes for a byte.
fn alphabet_char(byte: u8) -> char {
    match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        0x00..=0x20 => shifted(u32::from(byte)),
        0x7f..=0xa0 => shifted(u32::from(byte) - 0x7f + 0x21),
        0xad => shifted(0x43),
    }
}

fn shifted(index: u32) -> char {
    char::from_u32(0x100 + index).unwrap_or('\u{fffd}') // index <= 0x43: below the surrogates
}

/// The byte that a character of GPT-2's alphabet stands for.
fn alphabet_byte(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

struct Stored<'a> {
    bytes: Cow<'a, [u8]>,
    is_word: bool,
}

/// The stored form of a token and whether a word of plain text can be exactly this token.
fn store<'a>(model: TokenizerModel, name: &'a [u8], kind: TokenType) -> Stored<'a> {
    if model == TokenizerModel::Spm {
        return Stored { bytes: Cow::Borrowed(name), is_word: true };
    }
    if kind.is_special() || kind == TokenType::Byte {
        // Stored as written; a word in the byte alphabet equals it only where both spell the same.
        let is_word = name.iter().all(u8::is_ascii_graphic);
        return Stored { bytes: Cow::Borrowed(name), is_word };
    }
    let Ok(text) = std::str::from_utf8(name) else {
        return Stored { bytes: Cow::Borrowed(name), is_word: false };
    };
    let mut bytes = Vec::with_capacity(name.len());
    let mut is_word = true;
    for c in text.chars() {
        match alphabet_byte(c) {
            Some(byte) => bytes.push(byte),
            None => {
                is_word = false;
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
    }
    Stored { bytes: Cow::Owned(bytes), is_word }
}

/// The distinct lengths of special tokens, by which they are searched for in a text.
fn special_lengths(stored: &[Stored<'_>], types: &[TokenType]) -> Result<BTreeSet<usize>> {
    let special = stored.iter().zip(types).filter(|(_, kind)| kind.is_special());
    let lengths: BTreeSet<usize> = special.map(|(token, _)| token.bytes.len()).collect();
    if lengths.len() > MAX_SPECIAL_LENGTHS as usize {
        let (have, most) = (lengths.len(), MAX_SPECIAL_LENGTHS);
        return Err(Error::Limit(format!(
            "special tokens have {have} different lengths; at most {most} are supported"
        )));
    }
    Ok(lengths)
}

/// Symbols beyond the tokens, and what the merges and bytes are in terms of symbols.
struct Symbols {
    count: u32,
    bytes: [u32; 256],
    merges: Vec<[u32; 4]>,
}

impl Symbols {
    fn build(source: &VocabSource, by_name: &HashMap<&[u8], u32>) -> Result<Self> {
        match source.model {
            TokenizerModel::Bpe => Self::bpe(source, by_name),
            TokenizerModel::Spm => Ok(Self::spm(source, by_name)),
        }
    }

    fn spm(source: &VocabSource, by_name: &HashMap<&[u8], u32>) -> Self {
        let mut bytes = [NONE; 256];
        for (byte, slot) in (0..=u8::MAX).zip(&mut bytes) {
            let written = format!("<0x{byte:02X}>");
            let found = by_name.get(written.as_bytes()).or_else(|| by_name.get(&[byte][..]));
            *slot = found.copied().unwrap_or(NONE);
        }
        Self { count: source.tokens.len() as u32, bytes, merges: Vec::new() }
    }

    fn bpe(source: &VocabSource, by_name: &HashMap<&[u8], u32>) -> Result<Self> {
        let mut count = source.tokens.len() as u32; // at most MAX_TOKENS
        let mut extra: HashMap<Vec<u8>, u32> = HashMap::new();
        let mut symbol = |text: &[u8]| match by_name.get(text).or_else(|| extra.get(text)) {
            Some(&id) => id,
            None => {
                let id = count; // at most MAX_TOKENS + 3 MAX_MERGES: far below NONE
                count += 1;
                extra.insert(text.to_vec(), id);
                id
            }
        };
        let mut merges = Vec::with_capacity(source.merges.len());
        for (rank, merge) in source.merges.iter().enumerate() {
            // As in llama.cpp the first byte is never the separator.
            let space = merge.iter().skip(1).position(|&b| b == b' ').map(|at| at + 1);
            let Some(space) = space.filter(|&at| at + 1 < merge.len()) else {
                let text = String::from_utf8_lossy(merge);
                return Err(bad(format!("merge {rank} (`{text}`) is not two parts with a space between")));
            };
            let (left, right) = (&merge[..space], &merge[space + 1..]); // space + 1 < len
            let whole = [left, right].concat();
            merges.push([symbol(left), symbol(right), rank as u32, symbol(&whole)]);
        }
        let mut bytes = [NONE; 256];
        for (byte, slot) in (0..=u8::MAX).zip(&mut bytes) {
            let mut buffer = [0; 4];
            let written = alphabet_char(byte).encode_utf8(&mut buffer).as_bytes();
            *slot = by_name.get(written).or_else(|| extra.get(written)).copied().unwrap_or(NONE);
        }
        Ok(Self { count, bytes, merges })
    }
}

/// A table with linear probing: per slot the entry's index, and the longest probe sequence.
struct Table {
    slots: Vec<Option<u32>>,
    probe: u32,
}

/// Inserts entries 0.. by their hashes, at most half full; grows while probe sequences are too long.
fn table(hashes: &[Option<usize>]) -> Result<Table> {
    let used = hashes.iter().flatten().count();
    let mut size = (used * 2).next_power_of_two();
    for _ in 0..4 {
        let mut slots = vec![None; size];
        let mut longest = 0;
        for (entry, hash) in hashes.iter().enumerate() {
            let Some(hash) = hash else { continue };
            let mut probe = 0;
            // Ends: at most half of the slots are taken.
            while slots[(hash + probe) & (size - 1)].is_some() {
                probe += 1;
            }
            slots[(hash + probe) & (size - 1)] = Some(entry as u32);
            longest = longest.max(probe as u32);
        }
        if longest <= MAX_PROBE {
            return Ok(Table { slots, probe: longest });
        }
        size *= 2;
    }
    Err(Error::Limit("the tokens' hashes collide too often; the vocabulary looks made to do so".into()))
}

fn text_table(
    stored: &[Stored<'_>],
    types: &[TokenType],
    names: &[Cow<'_, [u8]>],
    by_name: &HashMap<&[u8], u32>,
) -> Result<Table> {
    let hashes: Vec<_> = (0..stored.len())
        .map(|id| {
            let first = by_name.get(&*names[id]) == Some(&(id as u32));
            let wanted = first && (stored[id].is_word || types[id].is_special());
            wanted.then(|| text_hash(&stored[id].bytes).0)
        })
        .collect();
    table(&hashes)
}

fn merge_table(merges: &[[u32; 4]]) -> Result<Table> {
    let mut seen = HashMap::with_capacity(merges.len());
    let hashes: Vec<_> = merges
        .iter()
        .map(|&[left, right, rank, _]| {
            // Of a repeated merge the first rank counts.
            (*seen.entry((left, right)).or_insert(rank) == rank).then(|| merge_hash(left, right))
        })
        .collect();
    if hashes.is_empty() { Ok(Table { slots: Vec::new(), probe: 0 }) } else { table(&hashes) }
}

struct Writer<'a> {
    source: &'a VocabSource,
    stored: Vec<Stored<'a>>,
    types: Vec<TokenType>,
    lengths: BTreeSet<usize>,
    info: Vec<u8>,
    roles: [Option<u32>; SPECIAL_TOKENS],
    eog: BTreeSet<u32>,
    symbols: Symbols,
    texts: Table,
    merges: Table,
}

impl Writer<'_> {
    fn write(&self) -> Vec<u8> {
        let mut out = self.header();
        let mut put = |value: u32| out.extend_from_slice(&value.to_le_bytes());
        self.symbols.bytes.iter().for_each(|&id| put(id));
        let mut end = 0u32;
        put(end);
        for token in &self.stored {
            end += token.bytes.len() as u32; // the sum is at most MAX_BLOB_BYTES: checked at the start
            put(end);
        }
        self.source.scores.iter().for_each(|&s| put((s + 0.0).to_bits())); // + 0.0 turns -0 into 0
        for slot in &self.texts.slots {
            let tag = slot.map(|id| text_hash(&self.stored[id as usize].bytes).1);
            put(tag.unwrap_or(0));
            put(slot.map_or(0, |id| id + 1));
        }
        for slot in &self.merges.slots {
            let merge = slot.map_or([NONE; 4], |entry| self.symbols.merges[entry as usize]);
            merge.into_iter().for_each(&mut put);
        }
        self.lengths.iter().rev().for_each(|&len| put(len as u32));
        self.eog.iter().for_each(|&id| put(id));
        out.extend_from_slice(&self.info);
        out.extend_from_slice(self.source.pre.as_bytes());
        self.stored.iter().for_each(|token| out.extend_from_slice(&token.bytes));
        out
    }

    fn header(&self) -> Vec<u8> {
        let longest = self.stored.iter().map(|t| t.bytes.len()).max().unwrap_or(0);
        let blob: usize = self.stored.iter().map(|t| t.bytes.len()).sum();
        let tri = |value: Option<bool>| value.map_or(0, |v| if v { 2 } else { 1 });
        let source = self.source;
        let flags = tri(source.add_bos) | tri(source.add_eos) << 2 | tri(source.add_space_prefix) << 4;
        let mut starts = [0u8; 32];
        for (token, kind) in self.stored.iter().zip(&self.types) {
            if let (Some(&first), true) = (token.bytes.first(), kind.is_special()) {
                starts[usize::from(first >> 3)] |= 1 << (first & 7);
            }
        }
        let mut out = MAGIC.to_vec();
        // Every count is within the limits that `check_counts` enforces.
        let fields = [
            match source.model {
                TokenizerModel::Bpe => 1,
                TokenizerModel::Spm => 2,
            },
            flags,
            self.stored.len() as u32,
            self.symbols.count,
            longest as u32,
            self.texts.slots.len() as u32,
            self.texts.probe,
            self.merges.slots.len() as u32,
            self.merges.probe,
            self.lengths.len() as u32,
            self.eog.len() as u32,
            source.pre.len() as u32,
            blob as u32,
            source.scores.len() as u32,
        ];
        fields.iter().for_each(|f| out.extend_from_slice(&f.to_le_bytes()));
        out.extend_from_slice(&starts);
        self.roles.iter().for_each(|id| out.extend_from_slice(&id.unwrap_or(NONE).to_le_bytes()));
        out.resize(HEADER_BYTES, 0);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_a_bijection() {
        for byte in 0..=u8::MAX {
            assert_eq!(alphabet_byte(alphabet_char(byte)), Some(byte), "byte {byte:#x}");
        }
        assert_eq!(alphabet_char(b' '), 'Ġ');
        assert_eq!(alphabet_char(b'\n'), 'Ċ');
        assert_eq!(alphabet_byte('▁'), None);
    }
}

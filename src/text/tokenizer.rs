//! The tokenizer: special tokens are cut out first, the model's algorithm does the rest.

use super::pretokenize::{self, Pretokenizer};
use super::{bpe::Bpe, detokenize::Detokenizer, spm};
use crate::error::{Error, Result};
use crate::graph::vocab::{SpecialToken, TokenType, TokenizerModel, Vocab, VocabIndex};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Owner of a compiled vocabulary's bytes, such as a part of a mapped file.
pub type VocabBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Turns text into tokens and back. Holds no copy of the vocabulary; cheap to open, safe to share.
pub struct Tokenizer {
    bytes: VocabBytes,
    index: VocabIndex,
    pretokenizer: Option<&'static Pretokenizer>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("n_tokens", &self.n_tokens()).finish_non_exhaustive()
    }
}

/// A stretch of text between special tokens, or one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fragment<'t> {
    Text(&'t str),
    Token(u32),
}

impl Tokenizer {
    /// Opens a compiled vocabulary ([`crate::graph::vocab::compile`]).
    ///
    /// # Errors
    /// [`Error::Malformed`] for bytes that are no compiled vocabulary; [`Error::Unsupported`] for a
    /// pre-tokenizer that this version does not know.
    pub fn new(bytes: VocabBytes) -> Result<Self> {
        let index = VocabIndex::open((*bytes).as_ref())?;
        let vocab = index.view((*bytes).as_ref());
        let pretokenizer = match vocab.model() {
            TokenizerModel::Bpe => Some(pretokenize::find(vocab.pre())?),
            TokenizerModel::Spm => None,
        };
        Ok(Self { bytes, index, pretokenizer })
    }

    /// The compiled vocabulary.
    pub fn vocab(&self) -> Vocab<'_> {
        self.index.view((*self.bytes).as_ref())
    }

    /// Number of tokens; ids are below it.
    pub fn n_tokens(&self) -> u32 {
        self.vocab().n_tokens()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.vocab().special(SpecialToken::Bos)
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.vocab().special(SpecialToken::Eos)
    }

    /// The BOS token if [`Tokenizer::encode`] puts it in front when special tokens are asked for.
    pub fn leading_bos(&self) -> Option<u32> {
        let default = self.pretokenizer.is_none_or(|p| p.add_bos());
        self.bos().filter(|_| self.vocab().add_bos().unwrap_or(default))
    }

    /// Whether SentencePiece puts a space in front of text, which decoding takes away again.
    pub fn adds_space_prefix(&self) -> bool {
        let vocab = self.vocab();
        vocab.model() == TokenizerModel::Spm && vocab.add_space_prefix().unwrap_or(true)
    }

    /// Whether the model says by this token that its answer is complete.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.vocab().end_of_generation().any(|end| end == id)
    }

    /// What a token is for.
    pub fn token_type(&self, id: u32) -> TokenType {
        self.vocab().token_type(id)
    }

    /// The bytes that a token prints, special tokens included. Not always whole characters.
    pub fn token_bytes(&self, id: u32) -> Cow<'_, [u8]> {
        self.vocab().piece(id)
    }

    /// The token with exactly this text, special or not.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        let vocab = self.vocab();
        vocab.find_special(text.as_bytes()).or_else(|| vocab.find(text.as_bytes()))
    }

    /// Turns text into tokens as llama.cpp does.
    ///
    /// `add_special` adds the BOS and EOS tokens that the model asks for. With `parse_special` the text of a
    /// control token in `text` becomes that token; leave it off for text from outside.
    ///
    /// # Errors
    /// [`Error::Limit`] for 64 MiB of text or more and for runs that exceed a pre-tokenizer's step limit;
    /// [`Error::Malformed`] for a vocabulary without any token for a character.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<u32>> {
        if text.len() >= 1 << 26 {
            return Err(Error::Limit(format!(
                "a text of {} bytes is too long; the limit is 64 MiB",
                text.len()
            )));
        }
        let vocab = self.vocab();
        let mut out = Vec::with_capacity(text.len() / 3 + 2);
        out.extend(self.leading_bos().filter(|_| add_special));
        let fragments = partition(&vocab, text, parse_special);
        match self.pretokenizer {
            Some(pretokenizer) => {
                let mut bpe = Bpe::default();
                for fragment in fragments {
                    match fragment {
                        Fragment::Token(id) => out.push(id),
                        Fragment::Text(text) => {
                            for word in pretokenizer.split(text)? {
                                bpe.encode(&vocab, word.as_bytes(), pretokenizer.ignore_merges(), &mut out);
                            }
                        }
                    }
                }
            }
            None => self.encode_spm(&vocab, &fragments, &mut out)?,
        }
        let add_eos = add_special && vocab.add_eos() == Some(true);
        out.extend(self.eos().filter(|_| add_eos));
        Ok(out)
    }

    /// A text gets its space in front at the very start and after special tokens.
    fn encode_spm(&self, vocab: &Vocab<'_>, fragments: &[Fragment<'_>], out: &mut Vec<u32>) -> Result<()> {
        let mut after_special = true;
        for fragment in fragments {
            match *fragment {
                Fragment::Token(id) => {
                    out.push(id);
                    after_special = true;
                }
                Fragment::Text(text) if after_special && self.adds_space_prefix() => {
                    spm::encode(vocab, &format!(" {text}"), out)?;
                    after_special = false;
                }
                Fragment::Text(text) => {
                    spm::encode(vocab, text, out)?;
                    after_special = false;
                }
            }
        }
        Ok(())
    }

    /// Turns tokens into text; bytes that form no character become U+FFFD. Ids out of range print nothing.
    ///
    /// `special` prints control and unknown tokens too. The space that SentencePiece put in front is taken
    /// away from the first token that prints.
    pub fn decode(&self, ids: &[u32], special: bool) -> String {
        let mut stream = Detokenizer::new(self, special);
        let mut text: String = ids.iter().map(|&id| stream.push(self, id)).collect();
        text.push_str(&stream.finish());
        text
    }
}

/// Cuts special tokens out of a text: longest first, then lowest id, then leftmost, each where the text is
/// still free; control and unknown tokens only if `parse_special`.
fn partition<'t>(vocab: &Vocab<'_>, text: &'t str, parse_special: bool) -> Vec<Fragment<'t>> {
    let mut candidates = Vec::new();
    let lengths: Vec<usize> = vocab.special_lengths().collect();
    for (at, _) in text.char_indices().filter(|&(at, _)| vocab.starts_special(text.as_bytes()[at])) {
        for &len in &lengths {
            // `get` refuses ends outside the text and inside a character.
            let Some(piece) = text.get(at..at.saturating_add(len)) else { continue };
            if let Some(id) = vocab.find_special(piece.as_bytes())
                && (parse_special || !vocab.token_type(id).is_hidden())
            {
                candidates.push((std::cmp::Reverse(len), id, at));
            }
        }
    }
    candidates.sort_unstable();
    // Taken stretches, disjoint: start -> (end, end including swallowed spaces, token).
    let mut taken: BTreeMap<usize, (usize, usize, u32)> = BTreeMap::new();
    for (std::cmp::Reverse(len), id, at) in candidates {
        let before = taken.range(..=at).next_back().map_or(0, |(_, &(_, end, _))| end);
        let after = taken.range(at..).next().map_or(text.len(), |(&start, _)| start);
        if at < before || at + len > after {
            continue;
        }
        let mut end = at + len;
        if vocab.strips_right(id) {
            let c_space = |b: &&u8| matches!(**b, b'\t'..=b'\r' | b' ');
            end += text.as_bytes()[end..after].iter().take_while(c_space).count(); // end <= after <= len
        }
        taken.insert(at, (at + len, end, id));
    }
    let mut fragments = Vec::with_capacity(2 * taken.len() + 1);
    let mut free = 0;
    let push_text = |from: usize, to: usize, fragments: &mut Vec<_>| {
        if let Some(piece) = text.get(from..to).filter(|piece| !piece.is_empty()) {
            fragments.push(Fragment::Text(piece));
        }
    };
    for (at, (_, end, id)) in taken {
        push_text(free, at, &mut fragments);
        fragments.push(Fragment::Token(id));
        free = end;
    }
    push_text(free, text.len(), &mut fragments);
    fragments
}

//! From tokens to text, one token at a time, never emitting half a character.

use super::tokenizer::Tokenizer;
use crate::graph::vocab::TokenType;

/// Passes bytes on as whole UTF-8 characters; what can never become one turns into U+FFFD.
#[derive(Clone, Debug, Default)]
pub struct Utf8Stream {
    /// The start of a character whose end has not come yet: at most three bytes.
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// Takes bytes in, gives the text that is complete by now.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.pending.len());
        let mut rest = self.pending.as_slice();
        while let Some(chunk) = rest.utf8_chunks().next() {
            text.push_str(chunk.valid());
            let used = chunk.valid().len() + chunk.invalid().len();
            // A broken end may still be completed unless `Utf8Error` knows better.
            let incomplete = used == rest.len() && is_incomplete(chunk.invalid());
            if incomplete {
                rest = chunk.invalid();
                break;
            }
            if !chunk.invalid().is_empty() {
                text.push('\u{fffd}');
            }
            rest = rest.get(used..).unwrap_or_default();
        }
        self.pending = rest.to_vec();
        text
    }

    /// Ends the stream: an unfinished character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        let broken = !std::mem::take(&mut self.pending).is_empty();
        if broken { "\u{fffd}".into() } else { String::new() }
    }
}

/// Whether more bytes could complete these to a character.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
}

/// Turns a stream of tokens into text.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    utf8: Utf8Stream,
    special: bool,
    /// Whether the next piece loses the space that SentencePiece puts in front of a text.
    strip_space: bool,
}

impl Detokenizer {
    /// Starts a text. `special` prints control and unknown tokens too.
    pub fn new(tokenizer: &Tokenizer, special: bool) -> Self {
        Self { utf8: Utf8Stream::default(), special, strip_space: tokenizer.adds_space_prefix() }
    }

    /// Goes on with a text: a space in front of the first token stays.
    pub fn continuing(special: bool) -> Self {
        Self { utf8: Utf8Stream::default(), special, strip_space: false }
    }

    /// Takes the next token of `tokenizer` and gives the characters that are complete by now.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        let hidden = tokenizer.token_type(id).is_hidden() && !self.special;
        let piece = tokenizer.token_bytes(id);
        if hidden || piece.is_empty() {
            return String::new();
        }
        let stripped = self.strip_space && tokenizer.token_type(id) != TokenType::Byte;
        let bytes = if stripped { piece.strip_prefix(b" ").unwrap_or(&piece) } else { &piece };
        self.strip_space = false;
        self.utf8.push(bytes)
    }

    /// Ends the text: an unfinished character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        self.utf8.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_same_text_as_the_whole() {
        let samples: [&[u8]; 6] = [
            "a👩‍🚀é字".as_bytes(),
            b"\xff\xfe plain",
            b"\xf0\x9f\x91",
            b"\xe5\xad\xe5\xad\x97",
            b"\xed\xa0\x80\xc0\x80",
            b"\xf0\x9f\xf0\x9f\x91\xa9",
        ];
        for sample in samples {
            let whole = String::from_utf8_lossy(sample).into_owned();
            for size in 1..=sample.len() {
                let mut stream = Utf8Stream::default();
                let mut text: String = sample.chunks(size).map(|chunk| stream.push(chunk)).collect();
                text.push_str(&stream.finish());
                assert_eq!(text, whole, "{sample:x?} in pieces of {size}");
            }
        }
    }
}

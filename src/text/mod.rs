//! Text in and out of a model: tokenizer, streaming detokenizer and chat template.
//!
//! Lives here: byte-level BPE, SentencePiece, pre-tokenizers, chat templates.
//! May be called by: `generate`, `convert` (to check a pre-tokenizer's name) and everything above them.
//! Must not know: files, weights, sessions, how tokens are chosen.

mod bpe;
mod detokenize;
pub mod pretokenize;
mod spm;
mod template;
mod tokenizer;

pub use detokenize::{Detokenizer, Utf8Stream};
pub use template::{ChatMessage, ChatTemplate};
pub use tokenizer::{Tokenizer, VocabBytes};

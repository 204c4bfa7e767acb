//! SentencePiece-style encoding: the pair with the best score first, bytes for what no token covers.

use crate::error::{Error, Result};
use crate::graph::vocab::{SpecialToken, Vocab};
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Marks the end of the list of symbols.
const END: u32 = u32::MAX;

/// A symbol of the text; a length of zero marks one that was merged into its left neighbour.
#[derive(Clone, Copy)]
struct Symbol {
    start: u32,
    len: u32,
    prev: u32,
    next: u32,
}

/// A possible merge: the greatest is the one with the best score, the leftmost among equals.
#[derive(Clone, Copy)]
struct Candidate {
    score: f32,
    left: u32,
    right: u32,
    /// Bytes of both symbols when the candidate was found: a mismatch later means it is out of date.
    len: u32,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        let position = other.left.cmp(&self.left).then(other.len.cmp(&self.len));
        self.score.total_cmp(&other.score).then(position)
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

/// Appends the tokens of `text` (shorter than 4 GiB, spaces still spaces) in O(n log n).
///
/// # Errors
/// [`Error::Malformed`] if a character needs byte tokens that the vocabulary lacks and there is no unknown
/// token either.
pub(super) fn encode(vocab: &Vocab<'_>, text: &str, out: &mut Vec<u32>) -> Result<()> {
    let text = text.replace(' ', "\u{2581}");
    let mut state = State { vocab, text: &text, symbols: split(&text), queue: BinaryHeap::new() };
    for right in 1..state.symbols.len() as u32 {
        state.consider(right - 1, right);
    }
    state.merge();
    state.emit(out)
}

fn split(text: &str) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = text
        .char_indices()
        .enumerate()
        .map(|(i, (at, c))| Symbol {
            start: at as u32,
            len: c.len_utf8() as u32,
            prev: if i == 0 { END } else { i as u32 - 1 },
            next: i as u32 + 1,
        })
        .collect();
    if let Some(last) = symbols.last_mut() {
        last.next = END;
    }
    symbols
}

struct State<'a> {
    vocab: &'a Vocab<'a>,
    text: &'a str,
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Candidate>,
}

impl State<'_> {
    fn slice(&self, start: u32, len: u32) -> &[u8] {
        self.text.as_bytes().get(start as usize..(start + len) as usize).unwrap_or_default()
    }

    fn consider(&mut self, left: u32, right: u32) {
        if left == END || right == END {
            return;
        }
        // Both indices come from the list, which only ever holds indices of `symbols`.
        let (a, b) = (self.symbols[left as usize], self.symbols[right as usize]);
        let len = a.len + b.len;
        if let Some(id) = self.vocab.find(self.slice(a.start, len)) {
            self.queue.push(Candidate { score: self.vocab.score(id), left, right, len });
        }
    }

    fn merge(&mut self) {
        while let Some(best) = self.queue.pop() {
            let (left, right) = (self.symbols[best.left as usize], self.symbols[best.right as usize]);
            if left.len == 0 || right.len == 0 || left.len + right.len != best.len {
                continue;
            }
            self.symbols[best.left as usize] = Symbol { len: best.len, next: right.next, ..left };
            self.symbols[best.right as usize].len = 0;
            if right.next != END {
                self.symbols[right.next as usize].prev = best.left;
            }
            self.consider(left.prev, best.left);
            self.consider(best.left, right.next);
        }
    }

    fn emit(&self, out: &mut Vec<u32>) -> Result<()> {
        for symbol in self.symbols.iter().filter(|s| s.len > 0) {
            let piece = self.slice(symbol.start, symbol.len);
            if let Some(id) = self.vocab.find(piece) {
                out.push(id);
                continue;
            }
            let known = piece.iter().map(|&b| self.vocab.byte_symbol(b));
            if known.clone().all(|id| id < self.vocab.n_tokens()) {
                out.extend(known);
            } else if let Some(unknown) = self.vocab.special(SpecialToken::Unk) {
                out.push(unknown);
            } else {
                let text = String::from_utf8_lossy(piece);
                let detail = format!("it has neither byte tokens for `{text}` nor an unknown token");
                return Err(Error::malformed("compiled vocabulary", detail));
            }
        }
        Ok(())
    }
}

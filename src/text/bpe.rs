//! Byte-level byte-pair encoding of one word: the merge of lowest rank first, the leftmost among equals.

use crate::graph::vocab::{NONE, Vocab};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Marks the end of the list of symbols.
const END: u32 = u32::MAX;

/// A symbol of the word; a length of zero marks one that was merged into its left neighbour.
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    start: u32,
    len: u32,
    prev: u32,
    next: u32,
}

/// A possible merge: ordered by rank, then by position.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: u32,
    right: u32,
    /// Bytes of both symbols when the candidate was found: a mismatch later means it is out of date.
    len: u32,
    merged: u32,
}

/// Buffers that are reused from word to word.
#[derive(Default)]
pub(super) struct Bpe {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Candidate>>,
}

impl Bpe {
    /// Appends the tokens of `word`, which is shorter than 4 GiB, in O(n log n).
    pub(super) fn encode(&mut self, vocab: &Vocab<'_>, word: &[u8], ignore_merges: bool, out: &mut Vec<u32>) {
        if ignore_merges && let Some(id) = vocab.find(word) {
            out.push(id);
            return;
        }
        self.seed(vocab, word);
        while let Some(Reverse(best)) = self.queue.pop() {
            let (left, right) = (self.symbols[best.left as usize], self.symbols[best.right as usize]);
            if left.len == 0 || right.len == 0 || left.len + right.len != best.len {
                continue;
            }
            self.symbols[best.left as usize] =
                Symbol { id: best.merged, len: best.len, next: right.next, ..left };
            self.symbols[best.right as usize].len = 0;
            if right.next != END {
                self.symbols[right.next as usize].prev = best.left;
            }
            self.consider(vocab, left.prev, best.left);
            self.consider(vocab, best.left, right.next);
        }
        self.emit(vocab, word, out);
    }

    /// One symbol per byte: in GPT-2's alphabet every byte is one character.
    fn seed(&mut self, vocab: &Vocab<'_>, word: &[u8]) {
        self.symbols.clear();
        self.queue.clear();
        let last = word.len().saturating_sub(1);
        self.symbols.extend(word.iter().enumerate().map(|(i, &byte)| Symbol {
            id: vocab.byte_symbol(byte),
            start: i as u32,
            len: 1,
            prev: if i == 0 { END } else { i as u32 - 1 },
            next: if i == last { END } else { i as u32 + 1 },
        }));
        for right in 1..self.symbols.len() as u32 {
            self.consider(vocab, right - 1, right);
        }
    }

    fn consider(&mut self, vocab: &Vocab<'_>, left: u32, right: u32) {
        if left == END || right == END {
            return;
        }
        // Both indices come from the list, which only ever holds indices of `symbols`.
        let (a, b) = (self.symbols[left as usize], self.symbols[right as usize]);
        if let Some(merge) = vocab.merge(a.id, b.id) {
            let len = a.len + b.len;
            self.queue.push(Reverse(Candidate { rank: merge.rank, left, right, len, merged: merge.symbol }));
        }
    }

    fn emit(&self, vocab: &Vocab<'_>, word: &[u8], out: &mut Vec<u32>) {
        for symbol in self.symbols.iter().filter(|s| s.len > 0) {
            if symbol.id < vocab.n_tokens() {
                out.push(symbol.id);
                continue;
            }
            // As in llama.cpp a symbol that is no token falls back to the printable ASCII characters of its
            // spelling; other bytes of it are lost. Vocabularies with all 256 bytes never get here for them.
            let span =
                word.get(symbol.start as usize..(symbol.start + symbol.len) as usize).unwrap_or_default();
            let bytes = span.iter().filter(|b| b.is_ascii_graphic()).map(|&b| vocab.byte_symbol(b));
            out.extend(bytes.filter(|&id| id != NONE && id < vocab.n_tokens()));
        }
    }
}

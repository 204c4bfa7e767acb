//! Seeded random damage to raw bytes.

use std::sync::Arc;
use std::time::Instant;

use capsulegraph::convert::gguf::Gguf;
use capsulegraph::store::Mode;

use crate::memory::bounded;
use crate::support::Random;
use crate::under_test::{MEMORY_CAP, Reached, TIME_CAP, files, tiny, use_gguf, use_graph, view};

/// Damaged files of each kind.
const CASES: u64 = 100_000;
/// Numbers at which fields break.
const INTERESTING: [u64; 12] = [
    0,
    1,
    2,
    0x7f,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_ffff,
];

/// Damages `bytes` in one to four places that `place` chooses.
pub fn damage(bytes: &mut Vec<u8>, random: &mut Random, place: &mut dyn FnMut(&mut Random) -> usize) {
    for _ in 0..=random.bits() % 4 {
        let at = place(random).min(bytes.len().saturating_sub(1));
        match random.bits() % 8 {
            0 => bytes[at] ^= 1 << (random.bits() % 8),
            1 => bytes[at] = random.bits() as u8,
            2..=4 => {
                let value = INTERESTING[random.bits() as usize % INTERESTING.len()].to_le_bytes();
                let width = 1 << (random.bits() % 4);
                for (byte, new) in bytes[at..].iter_mut().zip(&value[..width]) {
                    *byte = *new;
                }
            }
            5 => {
                // A small step of a number, little-endian: counts and lengths that are off by a little.
                let step = (random.bits() % 9) as i8 - 4;
                bytes[at] = bytes[at].wrapping_add_signed(step);
            }
            6 => {
                // A part of the file once more in another place.
                let from = place(random).min(bytes.len().saturating_sub(1));
                let len = (1 + random.bits() as usize % 64).min(bytes.len() - from);
                let part = bytes[from..from + len].to_vec();
                if random.bits().is_multiple_of(2) {
                    bytes.splice(at..at, part);
                } else {
                    let end = (at + len).min(bytes.len());
                    bytes.splice(at..end, part);
                }
            }
            _ => {
                let end = (at + random.bits() as usize % 16).min(bytes.len());
                bytes.drain(at..end);
            }
        }
        if bytes.is_empty() {
            return;
        }
    }
}

/// How often each state was reached, and that each was: a test that only meets the first check proves little.
#[derive(Debug, Default)]
pub struct Tally([u64; 3]);

impl Tally {
    pub fn add(&mut self, reached: Reached) {
        self.0[reached as usize] += 1;
    }

    pub fn report(&self, what: &str) {
        println!("{what}: {} refused, {} opened, {} computed", self.0[0], self.0[1], self.0[2]);
        assert!(self.0.iter().all(|n| *n > crate::cases(50)), "{what}: {self:?} leaves a part untested");
    }
}

/// Runs one case under the caps on memory and time.
pub fn one(case: u64, f: impl FnOnce() -> Reached) -> Reached {
    let begun = Instant::now();
    let reached = bounded(MEMORY_CAP, &|| format!("case {case}"), || {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(f))
    });
    let took = begun.elapsed();
    assert!(took < TIME_CAP, "case {case} took {took:?}");
    reached.unwrap_or_else(|_| panic!("case {case} panicked; the panic is reported above"))
}

#[test]
fn a_damaged_gguf_never_breaks_the_reader() {
    let whole: Arc<[u8]> = tiny().gguf().into();
    let gguf = Gguf::from_source(view(&whole, whole.len())).unwrap();
    let front = gguf.tensors().iter().map(|t| t.offset).min().unwrap() as usize;
    // Numbers and names of hyper-parameters and tensors; the vocabulary's strings are most of the front.
    let names = whole.windows(16).position(|w| w == b"tokenizer.ggml.t").unwrap();
    let tensors = whole.windows(17).position(|w| w == b"token_embd.weight").unwrap();
    let mut tally = Tally::default();
    for case in 0..crate::cases(CASES) {
        let mut random = Random(0x6775_6600 + case);
        let mut bytes = whole.to_vec();
        damage(&mut bytes, &mut random, &mut |r| {
            let (from, to) = match r.bits() % 8 {
                0 => (0, 24),
                1..=2 => (24, names),
                3 => (names, tensors),
                4..=6 => (tensors - 8, front),
                _ => (0, whole.len()),
            };
            from + r.bits() as usize % (to - from)
        });
        tally.add(one(case, || use_gguf(bytes.into())));
    }
    tally.report("gguf");
}

#[test]
fn a_damaged_full_file_never_breaks_the_reader() {
    damaged_graph("full", &files().full, Mode::Auto, 0x6367_7200);
}

#[test]
fn a_damaged_mini_never_breaks_the_reader() {
    damaged_graph("light", &files().light, Mode::Fast, 0x6c69_6700);
}

/// A raw change of header or manifest is found by their checksums, so most damage goes to the payload, which
/// opening does not read: the vocabulary above all.
fn damaged_graph(what: &str, whole: &Arc<[u8]>, mode: Mode, seed: u64) {
    let header = |at: usize| u64::from_le_bytes(whole[at..at + 8].try_into().unwrap()) as usize;
    let manifest = header(16);
    let vocab = whole.windows(8).position(|w| w == b"CGVOCAB1").unwrap();
    let mut tally = Tally::default();
    for case in 0..crate::cases(CASES) {
        let mut random = Random(seed + case);
        let mut bytes = whole.to_vec();
        damage(&mut bytes, &mut random, &mut |r| {
            let (from, to) = match r.bits() % 16 {
                0 => (0, 128),
                1 => (manifest, whole.len()),
                2..=7 => (vocab, vocab + 256),
                8..=12 => (vocab, manifest),
                _ => (65_536, vocab),
            };
            from + r.bits() as usize % (to - from)
        });
        // Lengths are part of the header; a change in the middle keeps the file's end where it was.
        if !random.bits().is_multiple_of(64) {
            bytes.resize(whole.len(), 0);
            let moved = bytes[manifest..] != whole[manifest..];
            if moved && !random.bits().is_multiple_of(16) {
                bytes[manifest..].copy_from_slice(&whole[manifest..]);
            }
        }
        let bytes: Arc<[u8]> = bytes.into();
        tally.add(one(case, || use_graph(view(&bytes, bytes.len()), mode, None)));
    }
    tally.report(what);
}

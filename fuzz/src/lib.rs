//! What the fuzz targets share: the small models of the tests, and inputs as changes to a sound file.
//!
//! An input's first byte says what the rest is: even, the file itself; odd, changes to a sound file, so that the
//! checks behind the first ones are reached from an empty corpus.

#[path = "../../tests/support/disk.rs"]
pub mod disk;
#[path = "../../tests/support/onnx.rs"]
pub mod onnx_models;
#[path = "../../tests/bad_input/onnx_use.rs"]
pub mod onnx_use;
#[path = "../../tests/bad_input/parts.rs"]
pub mod parts;
#[path = "../../tests/support/mod.rs"]
pub mod support;
#[path = "../../tests/bad_input/under_test.rs"]
pub mod under_test;

/// The file that `input` describes.
pub fn file(input: &[u8], sound: &[u8]) -> Vec<u8> {
    match input.split_first() {
        Some((mode, rest)) if mode % 2 == 1 => changed(rest, sound),
        Some((_, rest)) => rest.to_vec(),
        None => Vec::new(),
    }
}

/// `sound` with changes: 8 bytes each, a position, what to do there, and a number for it.
pub fn changed(changes: &[u8], sound: &[u8]) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    for change in changes.chunks_exact(8) {
        let [p0, p1, p2, action, value @ ..] = change else { continue };
        let at = u32::from_le_bytes([*p0, *p1, *p2, 0]) as usize % bytes.len().max(1);
        let width = 1 << (action >> 3 & 3).min(2);
        match action % 8 {
            0..=3 => bytes.iter_mut().skip(at).zip(&value[..width]).for_each(|(byte, new)| *byte = *new),
            4 => bytes.iter_mut().skip(at).take(8).for_each(|byte| *byte = value[0]),
            5 => drop(bytes.splice(at..at, value.iter().copied())),
            6 => drop(bytes.drain(at..(at + usize::from(value[0])).min(bytes.len()))),
            _ => bytes.truncate(at),
        }
    }
    bytes
}

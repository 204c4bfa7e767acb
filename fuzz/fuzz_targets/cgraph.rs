//! Header, manifest and everything behind them, with the checksums of header and manifest made right.
#![no_main]

use std::sync::Arc;

use capsulegraph::container::header::HEADER_LEN;
use capsulegraph::store::Mode;
use capsulegraph_fuzz::file;
use capsulegraph_fuzz::under_test::{files, use_graph, view};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mini = input.len().is_multiple_of(2);
    let mut bytes = file(input, if mini { &files().light } else { &files().full });
    if bytes.len() >= HEADER_LEN && input.first().is_some_and(|mode| mode & 2 == 0) {
        seal(&mut bytes);
    }
    let bytes: Arc<[u8]> = bytes.into();
    use_graph(view(&bytes, bytes.len()), if mini { Mode::Fast } else { Mode::Auto }, None);
});

/// Makes length, digest and checksum right; kind, version and place of the manifest stay as they are.
fn seal(bytes: &mut [u8]) {
    let len = bytes.len() as u64;
    let at = u64::from_le_bytes(bytes[16..24].try_into().unwrap_or_default()).min(len);
    bytes[24..32].copy_from_slice(&(len - at).to_le_bytes());
    let digest = *blake3::hash(&bytes[at as usize..]).as_bytes();
    bytes[32..64].copy_from_slice(&digest);
    bytes[64..72].copy_from_slice(&len.to_le_bytes());
    let check = xxhash_rust::xxh3::xxh3_64(&bytes[..120]);
    bytes[120..128].copy_from_slice(&check.to_le_bytes());
}

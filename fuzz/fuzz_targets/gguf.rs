//! The GGUF reader, and the converter where the reader is content.
#![no_main]

use std::sync::LazyLock;

use capsulegraph_fuzz::file;
use capsulegraph_fuzz::under_test::{tiny, use_gguf};
use libfuzzer_sys::fuzz_target;

static SOUND: LazyLock<Vec<u8>> = LazyLock::new(|| tiny().gguf());

fuzz_target!(|input: &[u8]| {
    use_gguf(file(input, &SOUND).into());
});

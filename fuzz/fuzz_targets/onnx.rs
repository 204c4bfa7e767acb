//! The ONNX importer, and back again where it is content.
#![no_main]

use std::sync::LazyLock;

use capsulegraph_fuzz::file;
use capsulegraph_fuzz::onnx_use::{sound, use_onnx};
use libfuzzer_sys::fuzz_target;

static SOUND: LazyLock<Vec<u8>> = LazyLock::new(sound);

fuzz_target!(|input: &[u8]| {
    use_onnx(file(input, &SOUND));
});

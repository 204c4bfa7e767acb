//! Any text as the manifest of a file whose checksums are right: a mini that runs alone, a mini with its full file.
#![no_main]

use std::sync::{Arc, LazyLock};

use capsulegraph::store::Mode;
use capsulegraph_fuzz::file;
use capsulegraph_fuzz::parts::Parts;
use capsulegraph_fuzz::under_test::{files, use_graph, view};
use libfuzzer_sys::fuzz_target;

static SOUND: LazyLock<[(Parts, Vec<u8>, Mode); 3]> = LazyLock::new(|| {
    let files = files();
    let wanted = [(&files.full, Mode::Auto), (&files.light, Mode::Fast), (&files.linked, Mode::Exact)];
    wanted.map(|(bytes, mode)| {
        let parts = Parts::new(bytes);
        let text = parts.manifest.to_string().into_bytes();
        (parts, text, mode)
    })
});

fuzz_target!(|input: &[u8]| {
    let (parts, text, mode) = &SOUND[input.len() % 3];
    let bytes: Arc<[u8]> = parts.sealed_text(&file(input, text)).into();
    let full = (*mode == Mode::Exact).then(|| view(&files().full, files().full.len()));
    use_graph(view(&bytes, bytes.len()), *mode, full);
});

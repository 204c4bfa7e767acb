//! Every file cut at every byte.

use std::sync::Arc;

use capsulegraph::convert::gguf::Gguf;
use capsulegraph::store::{Mode, OpenOptions, Origin, Store};

use crate::memory::bounded;
use crate::under_test::{MEMORY_CAP, expected, files, tiny, view};

#[test]
fn a_cut_gguf_is_refused() {
    let bytes = &tiny().gguf().into();
    let gguf = Gguf::from_source(view(bytes, bytes.len())).unwrap();
    let end = gguf.tensors().iter().map(|t| t.offset + t.len).max().unwrap() as usize;
    for len in 0..end {
        let what = || format!("{len} bytes of a .gguf");
        let error = bounded(MEMORY_CAP, &what, || Gguf::from_source(view(bytes, len))).err();
        expected(&error.unwrap_or_else(|| panic!("{len} of {end} bytes were accepted")));
    }
    assert!(Gguf::from_source(view(bytes, end)).is_ok(), "padding behind the last tensor is not needed");
}

#[test]
fn a_cut_full_file_is_refused() {
    cut_graph(&files().full, Mode::Auto);
}

#[test]
fn a_cut_mini_is_refused() {
    cut_graph(&files().light, Mode::Fast);
    cut_graph(&files().linked, Mode::Auto);
}

fn cut_graph(bytes: &Arc<[u8]>, mode: Mode) {
    let open = |len| {
        let options = OpenOptions { mode, ..OpenOptions::default() };
        Store::open(&Origin::Source(view(bytes, len)), &options)
    };
    for len in 0..bytes.len() {
        let error = bounded(MEMORY_CAP, &|| format!("{len} bytes"), || open(len)).err();
        expected(&error.unwrap_or_else(|| panic!("{len} of {} bytes were accepted", bytes.len())));
    }
    // A mini of links alone needs its full file, which is not given here.
    let whole = open(bytes.len()).map_err(|e| e.to_string());
    assert!(whole.is_ok() || whole.unwrap_err().contains("only linked"));
}

//! Any text through byte-level BPE with each kind of pre-tokenizer: it comes back as it was.
#![no_main]

use std::sync::{Arc, LazyLock};

use capsulegraph::convert::gguf::Gguf;
use capsulegraph::convert::metadata::vocab;
use capsulegraph::graph::vocab::compile;
use capsulegraph::text::{Tokenizer, pretokenize};
use capsulegraph_fuzz::under_test::{tiny, view};
use libfuzzer_sys::fuzz_target;

static TOKENIZERS: LazyLock<Vec<Tokenizer>> = LazyLock::new(|| {
    let bytes: Arc<[u8]> = tiny().gguf().into();
    let gguf = Gguf::from_source(view(&bytes, bytes.len())).expect("the sound file opens");
    let mut source = vocab(&gguf).expect("it has a vocabulary").expect("it has a vocabulary");
    let open = |kind: &pretokenize::Pretokenizer| {
        source.pre = kind.name().to_owned();
        Tokenizer::new(Arc::new(compile(&source).expect("it compiles"))).expect("it opens")
    };
    pretokenize::kinds().iter().map(open).collect()
});

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    for tokenizer in TOKENIZERS.iter() {
        let plain = tokenizer.encode(&text, false, false).expect("256 bytes have tokens");
        assert_eq!(tokenizer.decode(&plain, true), text);
        let parsed = tokenizer.encode(&text, true, true).expect("256 bytes have tokens");
        let special = tokenizer.leading_bos().map_or(String::new(), |bos| tokenizer.decode(&[bos], true));
        assert_eq!(tokenizer.decode(&parsed, true), format!("{special}{text}"));
    }
});

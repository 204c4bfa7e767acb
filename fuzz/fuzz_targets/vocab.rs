//! Compiled vocabularies: whatever the bytes say, a text is encoded and decoded or refused.
#![no_main]

use std::sync::{Arc, LazyLock};

use capsulegraph::container::reader::Contents;
use capsulegraph::text::Tokenizer;
use capsulegraph_fuzz::file;
use capsulegraph_fuzz::under_test::{expected, files, view};
use libfuzzer_sys::fuzz_target;

static SOUND: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let full = &files().full;
    let contents = Contents::read(view(full, full.len()).as_ref()).expect("the sound file opens");
    let vocab = contents.manifest.asset("vocab").expect("it has a vocabulary");
    full[vocab.offset as usize..][..vocab.len as usize].to_vec()
});

const TEXT: &str = "the wörld is\t<|im_start|>user said 1234 <|im_end|>  ok \u{1f600}";

fuzz_target!(|input: &[u8]| {
    let tokenizer = match Tokenizer::new(Arc::new(file(input, &SOUND))) {
        Ok(tokenizer) => tokenizer,
        Err(error) => return expected(&error),
    };
    for (add, parse) in [(true, true), (false, false)] {
        match tokenizer.encode(TEXT, add, parse) {
            Ok(ids) => drop(tokenizer.decode(&ids, parse)),
            Err(error) => expected(&error),
        }
    }
    let ids: Vec<u32> = (0..300).collect();
    drop(tokenizer.decode(&ids, true));
    let _ = (tokenizer.bos(), tokenizer.eos(), tokenizer.leading_bos(), tokenizer.token_id("the"));
});

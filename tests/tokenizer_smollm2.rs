//! The real vocabulary of SmolLM2: the same tokens as llama.cpp for some hundred strings.
//!
//! Needs the model: set `CAPSULEGRAPH_TEST_MODEL` to the path of SmolLM2-135M-Instruct's `.gguf`.
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/golden.rs"]
mod golden;

use capsulegraph::container::disk::SystemDisk;
use capsulegraph::convert::gguf::Gguf;
use capsulegraph::convert::metadata;
use golden::{differences, ids, load, strings, tokenizer};

#[test]
fn smollm2_equals_llama_cpp() {
    let path = std::env::var("CAPSULEGRAPH_TEST_MODEL").expect(
        "set CAPSULEGRAPH_TEST_MODEL to the path of SmolLM2-135M-Instruct.Q4_1.gguf to run this test",
    );
    let gguf = Gguf::open(&SystemDisk, path.as_ref()).unwrap();
    let source = metadata::vocab(&gguf).unwrap().unwrap();
    let tokenizer = tokenizer(&source);
    let golden = load("smollm2.tokens.json");
    let texts = strings(&golden["texts"]);
    let wrong = differences(&tokenizer, &texts, &golden);
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    let all = 0..tokenizer.n_tokens();
    let hidden: Vec<u32> = all.clone().filter(|&id| tokenizer.token_type(id).is_hidden()).collect();
    assert_eq!(hidden, ids(&golden["hidden"]));
    let ends: Vec<u32> = all.filter(|&id| tokenizer.is_end_of_generation(id)).collect();
    assert_eq!(ends, ids(&golden["eog"]));
    // SmolLM2 has no token for some control characters: as in llama.cpp these are lost.
    let covered = |text: &str| text.bytes().all(|b| tokenizer.vocab().byte_symbol(b) < tokenizer.n_tokens());
    for text in texts.iter().filter(|text| covered(text)) {
        let ids = tokenizer.encode(text, false, false).unwrap();
        assert_eq!(&tokenizer.decode(&ids, true), text);
    }
}

//! Reads the golden JSON files of `tests/tools/tokens_golden.py`.

use capsulegraph::graph::vocab::{VocabSource, compile};
use capsulegraph::text::Tokenizer;
use serde_json::Value;
use std::sync::Arc;

pub fn load(name: &str) -> Value {
    let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {path}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"))
}

pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub fn ids(value: &Value) -> Vec<u32> {
    list(value).iter().map(|v| v.as_u64().and_then(|id| u32::try_from(id).ok()).expect("an id")).collect()
}

pub fn strings(value: &Value) -> Vec<String> {
    list(value).iter().map(|v| v.as_str().expect("a string").to_string()).collect()
}

pub fn tokenizer(source: &VocabSource) -> Tokenizer {
    let bytes = compile(source).unwrap_or_else(|e| panic!("compile: {e}"));
    Tokenizer::new(Arc::new(bytes)).unwrap_or_else(|e| panic!("open: {e}"))
}

/// Compares all of a case's strings; gives one line per difference.
pub fn differences(tokenizer: &Tokenizer, texts: &[String], golden: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        let plain = ids(&golden["plain"][i]);
        let special = golden["special"].get(i.to_string()).map_or(plain.clone(), ids);
        for (parse, want) in [(false, plain), (true, special)] {
            let have = tokenizer.encode(text, false, parse).unwrap_or_else(|e| panic!("{text:?}: {e}"));
            if have != want {
                out.push(format!("{text:?} (parse_special {parse})\n  have {have:?}\n  want {want:?}"));
            }
        }
    }
    let marked = ids(&golden["marked"]);
    let have = tokenizer.encode("", true, false).unwrap_or_default();
    if have != marked {
        out.push(format!("special tokens around an empty text: have {have:?}, want {marked:?}"));
    }
    out
}

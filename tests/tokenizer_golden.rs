//! Small vocabularies of both models, every pre-tokenizer family: the same tokens as llama.cpp.
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/golden.rs"]
mod golden;

use capsulegraph::graph::vocab::{TokenizerModel, VocabSource, compile};
use capsulegraph::text::Tokenizer;
use golden::{differences, ids, list, load, strings, tokenizer};
use serde_json::Value;
use std::sync::Arc;

fn source(vocabulary: &Value, options: &Value) -> VocabSource {
    let role = |name: &str| vocabulary[name].as_u64().map(|id| id as u32);
    let text = |name: &str| options[name].as_str().unwrap_or_default().to_string();
    let bytes = |name: &str| strings(&vocabulary[name]).into_iter().map(String::into_bytes).collect();
    VocabSource {
        model: TokenizerModel::from_gguf(vocabulary["model"].as_str().unwrap()).unwrap(),
        pre: text("pre"),
        model_name: text("name"),
        tokens: bytes("tokens"),
        scores: list(&vocabulary["scores"]).iter().map(|v| v.as_f64().unwrap() as f32).collect(),
        types: list(&vocabulary["types"]).iter().map(|v| v.as_i64().unwrap() as i32).collect(),
        merges: bytes("merges"),
        bos: role("bos"),
        eos: role("eos"),
        unk: role("unk"),
        add_bos: options["add_bos"].as_bool(),
        add_eos: options["add_eos"].as_bool(),
        add_space_prefix: options["add_space_prefix"].as_bool(),
        ..VocabSource::default()
    }
}

fn cases(golden: &Value) -> Vec<(String, VocabSource, Vec<String>, Value)> {
    let texts = strings(&golden["texts"]);
    list(&golden["cases"])
        .iter()
        .map(|case| {
            let which = case["vocabulary"].as_str().unwrap();
            let name = format!("{which} {}", case["options"]);
            let sample = ids(&case["sample"]).iter().map(|&i| texts[i as usize].clone()).collect();
            (name, source(&golden["vocabularies"][which], &case["options"]), sample, case.clone())
        })
        .collect()
}

#[test]
fn every_case_equals_llama_cpp() {
    let golden = load("synthetic.tokens.json");
    let mut wrong = Vec::new();
    for (name, source, texts, case) in cases(&golden) {
        for line in differences(&tokenizer(&source), &texts, &case) {
            wrong.push(format!("{name}: {line}"));
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn pieces_and_ends_equal_llama_cpp() {
    let golden = load("synthetic.tokens.json");
    for which in ["bpe", "spm"] {
        let facts = &golden["vocabularies"][format!("{which}_facts")];
        let options = serde_json::json!({"pre": "default"});
        let tokenizer = tokenizer(&source(&golden["vocabularies"][which], &options));
        for (id, want) in strings(&facts["pieces"]).iter().enumerate() {
            let have: String = tokenizer.token_bytes(id as u32).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(&have, want, "{which} token {id}");
        }
        let all = 0..tokenizer.n_tokens();
        let hidden: Vec<u32> = all.clone().filter(|&id| tokenizer.token_type(id).is_hidden()).collect();
        assert_eq!(hidden, ids(&facts["hidden"]), "{which}");
        let ends: Vec<u32> = all.filter(|&id| tokenizer.is_end_of_generation(id)).collect();
        assert_eq!(ends, ids(&facts["eog"]), "{which}");
    }
}

#[test]
fn what_is_encoded_decodes_to_itself() {
    let golden = load("synthetic.tokens.json");
    for (name, mut source, texts, _) in cases(&golden) {
        // Complete the vocabulary: llama.cpp drops what has no token.
        if source.model == TokenizerModel::Bpe {
            let merged = source.merges.iter().map(|m| m.iter().copied().filter(|&b| b != b' ').collect());
            let mut missing: Vec<Vec<u8>> = merged.collect();
            missing.extend(["\u{141}", "`", "ÿ"].map(|t| t.as_bytes().to_vec()));
            missing.retain(|t| !source.tokens.contains(t));
            source.types.resize(source.types.len() + missing.len(), 1);
            source.tokens.extend(missing);
        }
        let phi = source.model_name.contains("Phi");
        let tokenizer = tokenizer(&source);
        for text in texts {
            // SentencePiece reads ▁ as a space; Phi-3 drops spaces after special tokens; a space in front
            // of text after a special token stays.
            let exact = source.model == TokenizerModel::Bpe || !(phi || text.contains(['▁', '<', '\n', ' ']));
            let have = tokenizer.decode(&tokenizer.encode(&text, true, false).unwrap(), false);
            if exact {
                assert_eq!(have, text, "{name}");
            }
        }
    }
}

#[test]
fn long_runs_do_not_take_quadratic_time() {
    let golden = load("synthetic.tokens.json");
    let started = std::time::Instant::now();
    for (name, source, _, _) in cases(&golden) {
        let tokenizer = tokenizer(&source);
        for run in ["a", " ", "\n", "é", "1", "ab", "!"] {
            let text = run.repeat(100_000 / run.len());
            let ids = tokenizer.encode(&text, false, true).unwrap_or_else(|e| panic!("{name} {run:?}: {e}"));
            assert!(!ids.is_empty());
        }
    }
    assert!(started.elapsed().as_secs() < 120, "{:?}", started.elapsed());
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

#[test]
fn damaged_vocabularies_never_panic() {
    let golden = load("synthetic.tokens.json");
    let text = "<|im_start|>user\n Hello, 12345 naïve 中文 <tool>  x</s> the the  \u{1f600} river bends";
    let mut random = Random(42);
    let (mut opened, mut refused) = (0, 0);
    for (_, source, _, _) in cases(&golden).into_iter().step_by(4) {
        let good = compile(&source).unwrap();
        for round in 0..600 {
            let mut bytes = good.clone();
            // Half of the damage goes to the header and the tables behind it, where it hurts most.
            let reach = if round % 2 == 0 { 512.min(bytes.len()) } else { bytes.len() };
            for _ in 0..1 + random.below(12) {
                let at = random.below(reach);
                bytes[at] = [random.below(256) as u8, 0, 0xff, 1, 0x80][random.below(5)];
            }
            if round % 7 == 0 {
                bytes.truncate(random.below(bytes.len()));
            }
            let Ok(tokenizer) = Tokenizer::new(Arc::new(bytes)) else {
                refused += 1;
                continue;
            };
            opened += 1;
            for parse in [false, true] {
                if let Ok(ids) = tokenizer.encode(text, true, parse) {
                    let _ = tokenizer.decode(&ids, parse);
                    let _ = ids.iter().filter(|&&id| tokenizer.is_end_of_generation(id)).count();
                }
            }
            let _ = tokenizer.decode(&[0, 5, u32::MAX, 300, tokenizer.n_tokens()], true);
        }
    }
    assert!(opened > 300 && refused > 300, "opened {opened}, refused {refused}");
}

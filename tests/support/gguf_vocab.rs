//! The tokenizer part of a GGUF file's metadata, read without the library's own importer.

use capsulegraph::graph::vocab::{TokenizerModel, VocabSource};
use std::collections::HashMap;
use std::io::Read;

enum Value {
    Number(f64),
    Bytes(Vec<u8>),
    List(Vec<Value>),
}

struct Reader<R>(R);

impl<R: Read> Reader<R> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut buffer = [0; N];
        self.0.read_exact(&mut buffer).expect("the metadata is cut off");
        buffer
    }

    fn string(&mut self) -> Vec<u8> {
        let mut text = vec![0; u64::from_le_bytes(self.take()) as usize];
        self.0.read_exact(&mut text).expect("the metadata is cut off");
        text
    }

    /// A value of GGUF's type number `kind`.
    fn value(&mut self, kind: u32) -> Value {
        Value::Number(match kind {
            0 => f64::from(u8::from_le_bytes(self.take())),
            1 => f64::from(i8::from_le_bytes(self.take())),
            2 => f64::from(u16::from_le_bytes(self.take())),
            3 => f64::from(i16::from_le_bytes(self.take())),
            4 => f64::from(u32::from_le_bytes(self.take())),
            5 => f64::from(i32::from_le_bytes(self.take())),
            6 => f64::from(f32::from_le_bytes(self.take())),
            7 => f64::from(u8::from_le_bytes(self.take())),
            8 => return Value::Bytes(self.string()),
            9 => {
                let kind = u32::from_le_bytes(self.take());
                let count = u64::from_le_bytes(self.take());
                return Value::List((0..count).map(|_| self.value(kind)).collect());
            }
            10 => u64::from_le_bytes(self.take()) as f64,
            11 => i64::from_le_bytes(self.take()) as f64,
            12 => f64::from_le_bytes(self.take()),
            other => panic!("GGUF type {other}"),
        })
    }
}

pub fn read(path: &str) -> VocabSource {
    let file = std::fs::File::open(path).unwrap_or_else(|e| panic!("cannot open {path}: {e}"));
    let mut reader = Reader(std::io::BufReader::new(file));
    assert_eq!(&reader.take::<4>(), b"GGUF", "{path} is no GGUF file");
    let _version: [u8; 4] = reader.take();
    let _tensors: [u8; 8] = reader.take();
    let count = u64::from_le_bytes(reader.take());
    let mut found = HashMap::new();
    for _ in 0..count {
        let key = String::from_utf8(reader.string()).expect("a key in UTF-8");
        let kind = u32::from_le_bytes(reader.take());
        found.insert(key, reader.value(kind));
    }
    let mut list = |key: &str| match found.remove(&format!("tokenizer.ggml.{key}")) {
        Some(Value::List(items)) => items,
        _ => Vec::new(),
    };
    let bytes = |items: Vec<Value>| -> Vec<Vec<u8>> {
        items.into_iter().map(|v| if let Value::Bytes(b) = v { b } else { panic!("no text") }).collect()
    };
    let number = |v: &Value| if let Value::Number(n) = v { *n } else { panic!("no number") };
    let (tokens, merges) = (bytes(list("tokens")), bytes(list("merges")));
    let types = list("token_type").iter().map(|v| number(v) as i32).collect();
    let scores = list("scores").iter().map(|v| number(v) as f32).collect();
    let text = |key: &str| match found.get(key) {
        Some(Value::Bytes(b)) => String::from_utf8_lossy(b).into_owned(),
        _ => String::new(),
    };
    let one = |key: &str| found.get(&format!("tokenizer.ggml.{key}")).map(number);
    VocabSource {
        model: TokenizerModel::from_gguf(&text("tokenizer.ggml.model")).expect("a supported tokenizer"),
        pre: text("tokenizer.ggml.pre"),
        model_name: text("general.name"),
        tokens,
        scores,
        types,
        merges,
        bos: one("bos_token_id").map(|v| v as u32),
        eos: one("eos_token_id").map(|v| v as u32),
        unk: one("unknown_token_id").map(|v| v as u32),
        pad: one("padding_token_id").map(|v| v as u32),
        add_bos: one("add_bos_token").map(|v| v != 0.0),
        add_eos: one("add_eos_token").map(|v| v != 0.0),
        add_space_prefix: one("add_space_prefix").map(|v| v != 0.0),
        ..VocabSource::default()
    }
}

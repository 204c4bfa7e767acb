//! GGUF files that are wrong in one way each, and what is said of them.

use std::sync::Arc;

use capsulegraph::Error;
use capsulegraph::convert::import::{ConvertOptions, convert};
use capsulegraph::split::SplitOptions;
use capsulegraph::split::job::{Targets, produce};

use crate::disk::MemoryDisk;
use crate::support::{TinyModel, TinyTensor};
use crate::under_test::tiny;

/// What converting `bytes` says; empty where it works.
fn told(bytes: Vec<u8>) -> String {
    let disk = MemoryDisk::default();
    disk.put("m.gguf", bytes);
    shards_told(&disk, "m.gguf")
}

fn shards_told(disk: &MemoryDisk, first: &str) -> String {
    let options = ConvertOptions { disk: Arc::new(disk.clone()), ..ConvertOptions::default() };
    let result = convert(first.as_ref(), "m.cgraph".as_ref(), &options, &mut |_, _| {});
    assert_eq!(result.is_ok(), disk.get("m.cgraph").is_some(), "a file is left exactly where it is whole");
    result.err().map(|e| e.to_string()).unwrap_or_default()
}

#[track_caller]
fn says(bytes: Vec<u8>, wanted: &[&str]) {
    let told = told(bytes);
    for part in wanted {
        assert!(told.contains(part), "{told:?} does not contain {part:?}");
    }
}

/// A GGUF file put together by hand: metadata entries and tensor descriptions are given as bytes.
#[derive(Clone, Default)]
struct Raw {
    entries: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: usize,
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat()
}

fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(key)[..], &kind.to_le_bytes(), value].concat()
}

fn array(key: &str, kind: u32, count: u64, items: &[u8]) -> Vec<u8> {
    entry(key, 9, &[&kind.to_le_bytes()[..], &count.to_le_bytes(), items].concat())
}

fn number(key: &str, value: u32) -> Vec<u8> {
    entry(key, 4, &value.to_le_bytes())
}

/// A tensor's description; `dims` innermost first, as the file lists them.
fn tensor(name: &str, dims: &[u64], ggml_type: u32, offset: u64) -> Vec<u8> {
    let dims_bytes: Vec<u8> = dims.iter().flat_map(|d| d.to_le_bytes()).collect();
    let count = (dims.len() as u32).to_le_bytes();
    [&text(name)[..], &count, &dims_bytes, &ggml_type.to_le_bytes(), &offset.to_le_bytes()].concat()
}

impl Raw {
    fn bytes(&self) -> Vec<u8> {
        let counts = [self.tensors.len() as u64, self.entries.len() as u64].map(u64::to_le_bytes).concat();
        let mut out = [b"GGUF", &3u32.to_le_bytes()[..], &counts].concat();
        self.entries.iter().chain(&self.tensors).for_each(|part| out.extend(part));
        out.resize(out.len().next_multiple_of(32) + self.data, 0);
        out
    }

    fn with_tensor(tensor: Vec<u8>) -> Vec<u8> {
        Self { tensors: vec![tensor], data: 64, ..Self::default() }.bytes()
    }

    fn with_entry(entry: Vec<u8>) -> Vec<u8> {
        Self { entries: vec![entry], ..Self::default() }.bytes()
    }
}

#[test]
fn shapes_and_counts_that_overflow() {
    let half = 1u64 << 32;
    says(Raw::with_tensor(tensor("t", &[half, half], 0, 0)), &["tensor t", "too large"]);
    says(Raw::with_tensor(tensor("t", &[u64::MAX, 2, 2], 0, 0)), &["tensor t", "too large"]);
    says(Raw::with_tensor(tensor("t", &[1 << 62, 4], 2, 0)), &["tensor t", "too large"]);
    says(Raw::with_tensor(tensor("t", &[0, 4], 0, 0)), &["tensor t", "empty"]);
    says(Raw::with_tensor(tensor("t", &[33], 2, 0)), &["tensor t", "no multiple of q4_0's block of 32"]);
    says(Raw::with_tensor(tensor("t", &[], 0, 0)), &["tensor t has 0 dimensions"]);
    says(Raw::with_tensor(tensor("t", &[1; 5], 0, 0)), &["tensor t has 5 dimensions; 1 to 4 are possible"]);
    says(Raw::with_tensor(tensor("t", &[4], 0, u64::MAX - 31)), &["tensor t", "past the end"]);
    says(Raw::with_tensor(tensor("t", &[4], 0, 1 << 40)), &["tensor t", "the download is incomplete"]);
    says(
        Raw::with_tensor(tensor("t", &[17], 0, 0)),
        &["tensor t (68 bytes at data offset 0)", "past the end"],
    );
    says(Raw::with_tensor(tensor("t", &[4], 0, 4)), &["tensor t", "its offset 4 is no multiple of 32"]);
    for at in [8, 16] {
        let mut bytes = Raw::default().bytes();
        bytes[at..at + 8].copy_from_slice(&(1u64 << 63).to_le_bytes());
        says(bytes, &["count is 9223372036854775808"]);
    }
}

#[test]
fn strings_and_arrays_past_the_end() {
    let long = [&(1u64 << 40).to_le_bytes()[..], b"abc"].concat();
    says(Raw::with_entry(entry("a.key", 8, &long)), &["the length of a.key is 1099511627776"]);
    let huge = [&4u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat();
    says(Raw::with_entry(entry("a.key", 9, &huge)), &["the length of a.key is 18446744073709551615"]);
    let mut name = tensor("t", &[4], 0, 0);
    name[..8].copy_from_slice(&(1u64 << 63).to_le_bytes());
    says(Raw::with_tensor(name), &["the length of the name of tensor number 0"]);
    says(Raw::with_entry(entry("a.key", 13, &[0; 8])), &["a.key has the unknown value type 13"]);
    says(Raw::with_entry(entry("a.key", 7, &[2])), &["a.key is a boolean of value 2"]);
    let mut bytes = Raw::with_entry(number("a.key", 1));
    bytes[32] = 0xff;
    says(bytes, &["key number 0 is not UTF-8"]);
}

#[test]
fn arrays_of_arrays() {
    let inner = [&4u32.to_le_bytes()[..], &1u64.to_le_bytes(), &7u32.to_le_bytes()].concat();
    let outer = |inner: &[u8]| [&9u32.to_le_bytes()[..], &1u64.to_le_bytes(), inner].concat();
    // One level is read (and of no use to a model), which then lacks everything else.
    says(Raw::with_entry(entry("a.key", 9, &outer(&inner))), &["architecture \"\" cannot be run yet"]);
    says(
        Raw::with_entry(entry("a.key", 9, &outer(&outer(&inner)))),
        &["a.key nests arrays more than 2 deep"],
    );
}

#[test]
fn alignments() {
    for wrong in [0, 3, 48, 1 << 30, u32::MAX] {
        says(
            Raw::with_entry(number("general.alignment", wrong)),
            &["general.alignment", &wrong.to_string(), "power of two"],
        );
    }
    says(Raw::with_entry(entry("general.alignment", 8, &text("32"))), &["general.alignment", "power of two"]);
    says(Raw::with_entry(number("general.alignment", 64)), &["architecture \"\""]);
}

#[test]
fn names_and_keys_used_twice() {
    let t = tensor("t", &[4], 0, 0);
    let other = tensor("t", &[4], 0, 32);
    says(
        Raw { tensors: vec![t.clone(), other], data: 64, ..Raw::default() }.bytes(),
        &["tensor t is listed twice"],
    );
    let overlap = tensor("u", &[4], 0, 0);
    says(
        Raw { tensors: vec![t, overlap], data: 64, ..Raw::default() }.bytes(),
        &["tensors t and u overlap at byte"],
    );
    says(Raw::with_tensor(tensor("", &[4], 0, 0)), &["tensor number 0 has no name"]);
    let key = number("a.key", 1);
    says(
        Raw { entries: vec![key.clone(), key], ..Raw::default() }.bytes(),
        &["metadata key number 1 (\"a.key\") is empty or used twice"],
    );
    says(Raw::with_entry(number("", 1)), &["metadata key number 0 (\"\") is empty or used twice"]);
}

#[test]
fn other_versions_and_byte_orders() {
    let with = |at: usize, part: &[u8]| {
        let mut bytes = Raw::default().bytes();
        bytes[at..at + part.len()].copy_from_slice(part);
        bytes
    };
    says(with(4, &1u32.to_le_bytes()), &["GGUF version 0x1", "versions 2 and 3"]);
    says(with(4, &3u32.to_be_bytes()), &["GGUF version 0x3000000", "big-endian"]);
    says(with(4, &4u32.to_le_bytes()), &["GGUF version 4; versions 2 and 3 are read"]);
    says(with(0, b"FUGG"), &["big-endian ggml file"]);
    says(with(0, b"ggjt"), &["older"]);
    says(with(0, b"PK\x03\x04"), &["not a GGUF file"]);
    says(Vec::new(), &["the file ends at 0 in the magic"]);
    assert_eq!(told(TinyModel { version: 2, ..tiny() }.gguf()), "", "version 2 is read");
}

#[test]
fn types_that_cannot_be_read() {
    for (number, name) in [(28, "f64"), (9, "q8_1"), (26, "i32"), (36, "iq4_nl_4_4"), (4000, "unknown")] {
        says(
            Raw::with_tensor(tensor("blk.0.x", &[256], number, 0)),
            &["tensor blk.0.x has type", name, &format!("(number {number})"), "another quantisation"],
        );
    }
}

/// `tiny` with changes to its tensors.
fn with_tensors(change: impl FnOnce(&mut Vec<TinyTensor>)) -> Vec<u8> {
    let model = tiny();
    let mut tensors = model.tensor_data();
    change(&mut tensors);
    // The metadata is the tiny model's own: its file up to the tensor list.
    let whole = TinyModel { tensors: false, ..model }.gguf();
    let mut out = whole[..8].to_vec();
    out.extend((tensors.len() as u64).to_le_bytes());
    let front = TinyModel { tensors: false, ..tiny() }.gguf();
    let end = metadata_end(&front);
    out.extend(&front[16..end]);
    let mut offset = 0;
    for t in &tensors {
        let dims: Vec<u64> = t.shape.iter().rev().map(|d| *d as u64).collect();
        out.extend(tensor(&t.name, &dims, t.encoding.ggml_type, offset));
        offset += t.bytes.len().next_multiple_of(32) as u64;
    }
    for t in &tensors {
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(&t.bytes);
    }
    out.resize(out.len().next_multiple_of(32), 0);
    out
}

/// Where the metadata of a file without tensors ends: the chat template is its last entry.
fn metadata_end(file: &[u8]) -> usize {
    let template = crate::support::CHAT_TEMPLATE.as_bytes();
    file.windows(template.len()).position(|w| w == template).unwrap() + template.len()
}

#[test]
fn missing_additional_and_misshapen_tensors() {
    assert_eq!(told(with_tensors(|_| {})), "", "the unchanged model converts");
    let find = |all: &[TinyTensor], name: &str| all.iter().position(|t| t.name == name).unwrap();
    for (name, capsule) in [
        ("blk.0.attn_q.weight", "block.0.attn"),
        ("blk.0.ffn_down.weight", "block.0.ffn"),
        ("output_norm.weight", "head"),
    ] {
        let without = with_tensors(|all| drop(all.remove(find(all, name))));
        says(without, &[&format!("capsule {capsule}: tensor {name} is missing")]);
    }
    let without = with_tensors(|all| drop(all.remove(find(all, "token_embd.weight"))));
    says(without, &["tensor token_embd.weight is missing"]);
    let more = with_tensors(|all| {
        let copy = TinyTensor { name: "blk.0.attn_sinks.weight".into(), ..all[1].clone() };
        all.push(copy);
    });
    says(more, &["tensor blk.0.attn_sinks.weight has no place in this architecture's graph"]);
    let transposed = with_tensors(|all| {
        let at = find(all, "blk.0.attn_k.weight");
        all[at].shape = vec![8, 64];
    });
    says(
        transposed,
        &["tensor blk.0.attn_k.weight: its shape is [8, 64], the hyper-parameters demand [16, 32]"],
    );
    let quantised_norm = with_tensors(|all| {
        let matrix = all[find(all, "blk.0.attn_k.weight")].clone();
        let at = find(all, "output_norm.weight");
        let len = matrix.encoding.row_bytes(32).unwrap();
        all[at].bytes = matrix.bytes[..len].to_vec();
        all[at].encoding = matrix.encoding;
    });
    says(quantised_norm, &["tensor output_norm.weight: a vector of type q4_1"]);
}

/// `tiny` with one 32-bit hyper-parameter changed.
fn with_number(key: &str, value: u32) -> Vec<u8> {
    let mut bytes = tiny().gguf();
    let key = [text(key), 4u32.to_le_bytes().to_vec()].concat();
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len();
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    bytes
}

#[test]
fn more_tokens_than_rows() {
    let fewer = with_tensors(|all| {
        let table = &mut all[0];
        let row = table.bytes.len() / table.shape[0];
        table.shape[0] = 100;
        table.bytes.truncate(100 * row);
    });
    says(fewer, &["the tokenizer has 289 tokens, token_embd.weight only 100 rows"]);
}

#[test]
fn hyper_parameters_that_contradict_each_other() {
    for (key, value, wanted) in [
        ("attention.head_count", 0, "head_count is 0; it must be 1 to 4096"),
        ("attention.head_count", 5000, "head_count is 5000"),
        ("attention.head_count_kv", 0, "head_count_kv is 0"),
        ("attention.head_count", 3, "demand [48, 32]"),
        ("attention.head_count_kv", 3, "head_count 2 is no multiple of head_count_kv 3"),
        ("block_count", 0, "block_count is 0"),
        ("block_count", 2, "capsule block.1.attn: tensor blk.1.attn_norm.weight is missing"),
        ("block_count", u32::MAX, "block_count is 4294967295; it must be 1 to 4096"),
        ("embedding_length", 1 << 31, "embedding_length is 2147483648"),
        ("embedding_length", 64, "demand [289, 64]"),
        ("rope.dimension_count", 15, "rope.dimension_count is 15; it must be even"),
        ("rope.dimension_count", 18, "at most key_length 16"),
        ("context_length", 0, "context_length is 0"),
        ("attention.key_length", 8, "at most key_length 8"),
        ("attention.key_length", 32, "the hyper-parameters demand [64, 32]"),
    ] {
        says(with_number(&format!("llama.{key}"), value), &[wanted]);
    }
    for bits in [f32::NAN, f32::INFINITY, -1.0f32].map(f32::to_bits) {
        let mut bytes = tiny().gguf();
        let key = b"layer_norm_rms_epsilon\x06\0\0\0";
        let at = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len();
        bytes[at..at + 4].copy_from_slice(&bits.to_le_bytes());
        says(bytes, &["rms_epsilon is"]);
    }
}

#[test]
fn unknown_architectures_and_tokenizers() {
    let replaced = |from: &[u8], to: &[u8]| {
        let mut bytes = tiny().gguf();
        let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    says(replaced(b"llama", b"mamba"), &["architecture \"mamba\" cannot be run yet; supported: llama"]);
    says(replaced(b"gpt2", b"bert"), &["tokenizer model \"bert\" cannot be run"]);
    says(replaced(b"smollm", b"nobody"), &["the pre-tokenizer `nobody`", "not supported"]);
}

#[test]
fn byte_tokens_that_are_none() {
    // "<0x-1>", "<0xZZ>" and "<0x123>" are spelt like byte tokens and are none: whatever such a token is said to
    // be, nothing breaks, and an ordinary text still comes through.
    for spelling in ["<0x-1>", "<0xZZ>", "<0x>", "<0x123>"] {
        for (model, kind) in [("gpt2", 6i32), ("gpt2", 1), ("llama", 6), ("llama", 1), ("llama", 3)] {
            let tokens = ["a", spelling, "<0x41>"];
            let list: Vec<u8> = tokens.iter().flat_map(|t| text(t)).collect();
            let types: Vec<u8> = [1, kind, 6].iter().flat_map(|t: &i32| t.to_le_bytes()).collect();
            let raw = Raw {
                entries: vec![
                    entry("tokenizer.ggml.model", 8, &text(model)),
                    array("tokenizer.ggml.tokens", 8, 3, &list),
                    array("tokenizer.ggml.token_type", 5, 3, &types),
                    array("tokenizer.ggml.scores", 6, 3, &[0; 12]),
                ],
                ..Raw::default()
            };
            let bytes: Arc<[u8]> = raw.bytes().into();
            let gguf =
                capsulegraph::convert::gguf::Gguf::from_source(crate::under_test::view(&bytes, bytes.len()));
            let source = capsulegraph::convert::metadata::vocab(&gguf.unwrap()).unwrap().unwrap();
            let compiled = match capsulegraph::graph::vocab::compile(&source) {
                Ok(compiled) => compiled,
                Err(error) => {
                    let wanted =
                        format!("token 1 has type byte but its text `{spelling}` is not of the form");
                    assert!(kind == 6 && error.to_string().contains(&wanted), "{error}");
                    continue;
                }
            };
            assert_ne!(kind, 6, "{spelling} was taken for a byte");
            let tokenizer = capsulegraph::text::Tokenizer::new(Arc::new(compiled)).unwrap();
            assert_eq!(tokenizer.decode(&[0], true), "a", "{spelling} {model} {kind}");
            assert_eq!(tokenizer.decode(&[2], true), "A", "{spelling} {model} {kind}");
            let shown = tokenizer.decode(&[1], true);
            assert!(shown.is_empty() || shown == spelling, "{spelling} {model} {kind}: {shown:?}");
        }
    }
}

/// `tiny` in `count` shards: all tensors in the first, the keys as `gguf-split` writes them.
fn shards(count: u16, numbers: &[u16], tensors: i32) -> MemoryDisk {
    let disk = MemoryDisk::default();
    let keys = |number: u16| {
        [
            entry("split.no", 2, &number.to_le_bytes()),
            entry("split.count", 2, &count.to_le_bytes()),
            entry("split.tensors.count", 5, &tensors.to_le_bytes()),
        ]
        .concat()
    };
    for (place, number) in numbers.iter().enumerate() {
        let bytes = if place == 0 {
            let whole = tiny().gguf();
            let end = metadata_end(&TinyModel { tensors: false, ..tiny() }.gguf());
            let list_end = list_end(&whole, end);
            let mut out = whole[..16].to_vec();
            let entries = u64::from_le_bytes(whole[16..24].try_into().unwrap()) + 3;
            out.extend(entries.to_le_bytes());
            out.extend(&whole[24..end]);
            out.extend(keys(*number));
            out.extend(&whole[end..list_end]);
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(&whole[list_end.next_multiple_of(32)..]);
            out
        } else {
            let mut out =
                [b"GGUF", &3u32.to_le_bytes()[..], &0u64.to_le_bytes(), &3u64.to_le_bytes()].concat();
            out.extend(keys(*number));
            out
        };
        disk.put(format!("m-{:05}-of-{count:05}.gguf", place + 1), bytes);
    }
    disk
}

/// Where the tensor list ends that begins at `at`.
fn list_end(file: &[u8], at: usize) -> usize {
    let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
    (0..word(8)).fold(at, |at, _| {
        let dims = at + 8 + word(at);
        dims + 4 + 8 * file[dims] as usize + 12
    })
}

#[test]
fn shards_that_are_missing_or_wrong() {
    let count = tiny().tensor_data().len() as i32;
    let first = "m-00001-of-00002.gguf";
    assert_eq!(shards_told(&shards(2, &[0, 1], count), first), "", "whole");
    assert_eq!(shards_told(&shards(2, &[0, 1], count), "m-00002-of-00002.gguf"), "", "by its second shard");
    for (disk, wanted) in [
        (shards(2, &[0], count), "shard 2 of 2 cannot be opened"),
        (shards(2, &[0, 0], count), "its split.no is 0, its name says 1"),
        (shards(2, &[1, 1], count), "its split.no is 1, its name says 0"),
        (shards(2, &[0, 1], count + 1), "where split.tensors.count says"),
    ] {
        let told = shards_told(&disk, first);
        assert!(told.contains(wanted), "{told:?} does not contain {wanted:?}");
    }
    let told = shards_told(&shards(3, &[0, 1], count), "m-00001-of-00003.gguf");
    assert!(told.contains("shard 3 of 3 cannot be opened"), "{told}");
    let disk = shards(2, &[0, 1], count);
    disk.put("renamed.gguf", disk.get(first).unwrap());
    let told = shards_told(&disk, "renamed.gguf");
    assert!(told.contains("the model has 2 shards") && told.contains("restore the original names"), "{told}");
    let told = shards_told(&shards(2000, &[0], count), "m-00001-of-02000.gguf");
    assert!(told.contains("split.count is 2000; at most 1024"), "{told}");
}

#[test]
fn no_shard_is_a_target() {
    let disk = shards(2, &[0, 1], tiny().tensor_data().len() as i32);
    let [first, second] = [1, 2].map(|n| format!("m-{n:05}-of-00002.gguf"));
    let before = disk.get(&second);
    let refused = |full: &str, mini: Option<&str>| {
        let targets = Targets { full: full.into(), mini: mini.map(Into::into), is_mini_named: true };
        let convert = ConvertOptions { disk: Arc::new(disk.clone()), ..ConvertOptions::default() };
        let split = SplitOptions { disk: Arc::new(disk.clone()), ..SplitOptions::default() };
        let result = produce(first.as_ref(), &targets, &convert, &split, &mut |_, _, _| {});
        assert!(matches!(result, Err(Error::InvalidArgument(_))), "{result:?}");
        assert!(disk.get(&second) == before && disk.get("m.cgraph").is_none());
    };
    refused(second.as_str(), None);
    refused("m.cgraph", Some(second.as_str()));
    refused("m.cgraph", Some("./m.cgraph"));
    let options = ConvertOptions { disk: Arc::new(disk.clone()), ..ConvertOptions::default() };
    let result = convert(second.as_ref(), first.as_ref(), &options, &mut |_, _| {});
    assert!(matches!(result, Err(Error::InvalidArgument(_))), "{result:?}");
}

//! Damaged and crafted ONNX models: an error or a file that can be used, never a panic, a hang or much memory.

use std::path::Path;
use std::sync::Arc;

use capsulegraph::Error;
use capsulegraph::convert::import::ConvertOptions;
use capsulegraph::convert::onnx::cut::CutOptions;
use capsulegraph::convert::onnx::import::OnnxModel;
use capsulegraph::convert::onnx::proto::{GraphProto, ModelProto, ValueInfoProto};
use capsulegraph::graph::element::ElementType;

use crate::disk::MemoryDisk;
use crate::mutations::{damage, one};
use crate::onnx_models::{self as models, branches, info, model, node, port, raw, tensor_type};
use crate::onnx_use::{sound, use_onnx};
use crate::support::Random;
use crate::under_test::{Reached, expected};

/// Damaged models.
const CASES: u64 = 30_000;

#[test]
fn a_damaged_model_never_breaks_the_importer() {
    let whole = sound();
    assert_eq!(use_onnx(whole.clone()), Reached::Computed);
    // Weights take most of the bytes and hold nothing that could break: damage goes to the rest.
    let inside = |at: usize| {
        whole[at.saturating_sub(24)..(at + 24).min(whole.len())].iter().any(u8::is_ascii_lowercase)
    };
    let places: Vec<usize> = (0..whole.len()).filter(|at| inside(*at)).collect();
    let mut reached = [0u64; 3];
    for case in 0..crate::cases(CASES) {
        let mut random = Random(0x6f6e_6e78_0000 + case);
        let mut bytes = whole.clone();
        damage(&mut bytes, &mut random, &mut |r| places[r.bits() as usize % places.len()]);
        reached[one(case, || use_onnx(bytes)) as usize] += 1;
    }
    println!("onnx: {} refused, {} opened, {} converted", reached[0], reached[1], reached[2]);
    let few = crate::cases(1000);
    assert!(reached[0] > few && reached[2] > few, "{reached:?} leaves a part untested");
}

#[test]
fn a_truncated_model_is_refused() {
    let whole = sound();
    let mut tally = 0;
    for len in (0..whole.len()).filter(|len| len % 7 == 0 || *len < 4096) {
        let reached = one(len as u64, || use_onnx(whole[..len].to_vec()));
        tally += u64::from(reached == Reached::Refused);
    }
    // A cut between fields of the model leaves a model, which has no graph or none that is whole.
    assert!(tally > 1000, "{tally}");
    assert_eq!(use_onnx(whole[..whole.len() - 1].to_vec()), Reached::Refused);
}

fn refused(bytes: Vec<u8>) -> String {
    refused_in(bytes, CutOptions::default())
}

fn refused_in(bytes: Vec<u8>, cut: CutOptions) -> String {
    let disk = MemoryDisk::default();
    disk.put("m.onnx", bytes);
    let options = ConvertOptions { cut, disk: Arc::new(disk), ..ConvertOptions::default() };
    let (source, target) = (Path::new("m.onnx"), Path::new("m.cgraph"));
    let taken = OnnxModel::open(source, &[target], &options)
        .and_then(|opened| opened.convert(source, target, &options, &mut |_, _| {}));
    let error = taken.map(drop).expect_err("it was taken");
    expected(&error);
    assert!(matches!(error, Error::Malformed { .. } | Error::Limit(_) | Error::Unsupported(_)), "{error}");
    error.to_string()
}

#[test]
fn what_is_no_model_is_refused() {
    for bytes in [&b""[..], b"\0", b"GGUF", b"hello world", &[0xff; 64], &[0x08, 8], &[0x0a; 40]] {
        refused(bytes.to_vec());
    }
    assert!(refused(models::bytes(&ModelProto::default())).contains("ir_version"));
    let bare = ModelProto { ir_version: Some(8), ..ModelProto::default() };
    assert!(refused(models::bytes(&bare)).contains("no graph"));
}

#[test]
fn graphs_in_graphs_are_followed_as_far_as_others_do() {
    let nested = |depth: usize| {
        let mut graph = GraphProto {
            node: vec![node("Relu", &["x"], &["v0"])],
            output: vec![port("v0", &[])],
            ..GraphProto::default()
        };
        for level in 1..=depth {
            let name = format!("v{level}");
            graph = GraphProto {
                node: vec![branches(
                    "c",
                    &name,
                    graph.clone(),
                    GraphProto { node: Vec::new(), ..graph.clone() },
                )],
                output: vec![port(&name, &[])],
                ..GraphProto::default()
            };
            // The other branch gives a name of its own making; here it only has to be parsed.
            if let Some(other) = graph.node[0].attribute[1].g.as_deref_mut() {
                other.node = vec![node("Abs", &["x"], &[&format!("v{}", level - 1)])];
            }
        }
        graph.input = vec![port("x", &[2]), port("c", &[])];
        models::bytes(&model(graph))
    };
    assert_eq!(use_onnx(nested(25)), Reached::Computed);
    // By hand: the messages themselves would not survive being built so deep.
    let mut inner = Vec::new();
    for _ in 0..10_000 {
        for tag in [6u32, 5, 1] {
            let mut outer = Vec::new();
            prost::encoding::bytes::encode(tag, &inner, &mut outer);
            inner = outer;
        }
    }
    let mut bytes = vec![0x08, 8];
    prost::encoding::bytes::encode(7, &inner, &mut bytes);
    assert!(refused(bytes).contains("nested too deeply"));
}

#[test]
fn claims_of_size_are_held_against_what_is_there() {
    for dims in
        [&[i64::MAX][..], &[i64::MIN], &[1 << 40, 1 << 40], &[0, i64::MAX, i64::MAX], &[-1, -1], &[1; 65]]
    {
        let graph = GraphProto {
            initializer: vec![raw("w", 1, dims, vec![0; 4])],
            node: vec![node("Identity", &["w"], &["y"])],
            output: vec![port("y", &[])],
            ..GraphProto::default()
        };
        assert!(refused(models::bytes(&model(graph))).contains("tensor w"), "{dims:?}");
    }
    // A few megabytes that would become gigabytes.
    let mut bytes = vec![0x08, 8];
    prost::encoding::bytes::encode(7, &[0x0a, 0].repeat(8 << 20), &mut bytes);
    assert!(refused(bytes).contains("memory"));
}

#[test]
fn a_long_chain_of_constants_and_a_long_cycle_are_gone_through() {
    let count = 20_000;
    let mut graph = GraphProto {
        initializer: vec![raw("v0", 1, &[1], vec![0; 4])],
        node: (0..count).map(|i| node("Neg", &[&format!("v{i}")], &[&format!("v{}", i + 1)])).collect(),
        output: vec![port(&format!("v{count}"), &[])],
        ..GraphProto::default()
    };
    assert_eq!(use_onnx(models::bytes(&model(graph.clone()))), Reached::Computed);
    graph.node[0].input = vec![format!("v{count}")];
    assert!(refused(models::bytes(&model(graph))).contains("cycle"));
}

#[test]
fn what_a_model_states_of_shapes_is_no_size() {
    for len in [65, 1 << 40, 1 << 62, i64::MAX] {
        let graph = GraphProto {
            input: vec![port("x", &[4]), info("s", tensor_type(ElementType::Int64, Some(&[len])))],
            node: vec![
                node("Concat", &["s", "s", "s"], &["long"]),
                node("Reshape", &["x", "s"], &["a"]),
                node("Unsqueeze", &["a", "s"], &["b"]),
                node("Reshape", &["x", "long"], &["c"]),
                node("Add", &["b", "c"], &["y"]),
            ],
            output: vec![info("y", tensor_type(ElementType::Float32, None))],
            ..GraphProto::default()
        };
        assert_eq!(use_onnx(models::bytes(&model(graph))), Reached::Computed, "{len}");
    }
}

#[test]
fn graphs_with_several_outputs_are_looked_at_once_each() {
    // Looked at anew for each output, 25 of them inside each other would be gone through 2 to the 25 times.
    let untyped = |name: &str| ValueInfoProto { name: Some(name.into()), ..ValueInfoProto::default() };
    let mut graph = GraphProto {
        node: vec![node("Relu", &["x"], &["a0"]), node("Abs", &["x"], &["b0"])],
        output: vec![untyped("a0"), untyped("b0")],
        ..GraphProto::default()
    };
    for level in 1..=25 {
        let [a, b] = ["a", "b"].map(|name| format!("{name}{level}"));
        let mut branch = branches("c", &a, graph.clone(), GraphProto::default());
        branch.attribute.truncate(1);
        branch.output.push(b.clone());
        graph = GraphProto {
            node: vec![branch],
            output: vec![untyped(&a), untyped(&b)],
            ..GraphProto::default()
        };
    }
    graph.input = vec![port("x", &[2]), port("c", &[])];
    graph.node.push(node("Add", &["a25", "b25"], &["y"]));
    graph.output = vec![port("y", &[2])];
    assert_eq!(use_onnx(models::bytes(&model(graph))), Reached::Computed);
}

#[test]
fn what_capsules_repeat_is_bounded() {
    let (parts, readers) = (20_000, 400);
    let names: Vec<String> = (0..parts).map(|i| format!("p{i}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let chain = (0..readers).map(|i| node("Add", &[&format!("x{i}"), "c"], &[&format!("x{}", i + 1)]));
    let graph = GraphProto {
        input: vec![port("x0", &[1])],
        initializer: names.iter().map(|name| raw(name, models::FLOAT, &[1], vec![0; 4])).collect(),
        node: [node("Concat", &all, &["c"])].into_iter().chain(chain).collect(),
        output: vec![port(&format!("x{readers}"), &[parts])],
        ..GraphProto::default()
    };
    let cut = CutOptions { capsules: Some(readers), ..CutOptions::default() };
    assert!(refused_in(models::bytes(&model(graph)), cut).contains("nodes and initializers"));
}

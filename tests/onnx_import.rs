//! ONNX models to `.cgraph` files and back: what lies where, and that models give the same before and after.
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/disk.rs"]
mod disk;
#[path = "support/onnx_source.rs"]
mod onnx;

use std::path::Path;
use std::sync::Arc;

use capsulegraph::Error;
use capsulegraph::container::manifest::{Capsule, Manifest};
use capsulegraph::convert::import::ConvertOptions;
use capsulegraph::convert::onnx::cut::CutOptions;
use capsulegraph::convert::onnx::export::{ExportOptions, export, graph_of, head_of};
use capsulegraph::convert::onnx::import::{OnnxModel, sub_model};
use capsulegraph::convert::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto,
};
use capsulegraph::graph::element::ElementType;
use capsulegraph::graph::onnx::OnnxInfo;
use capsulegraph::pool::CancelToken;
use capsulegraph::store::fetch::FetchLayout;
use capsulegraph::store::mapped::MappedFile;
use capsulegraph::store::{OpenOptions, Origin, Store};
use disk::MemoryDisk;
use onnx::{chain, constant, external, matrix, model, node, port, raw, varied};

/// Files in memory and how they are used.
struct Bench {
    disk: MemoryDisk,
}

impl Bench {
    fn new(model: &ModelProto) -> Self {
        let disk = MemoryDisk::default();
        disk.put("m.onnx", onnx::bytes(model));
        Self { disk }
    }

    fn options(&self, capsules: Option<usize>) -> ConvertOptions {
        let cut = CutOptions { capsules, ..CutOptions::default() };
        ConvertOptions { cut, disk: Arc::new(self.disk.clone()), ..ConvertOptions::default() }
    }

    fn convert(&self, capsules: Option<usize>) -> Result<MappedFile, Error> {
        let options = self.options(capsules);
        let (source, target) = (Path::new("m.onnx"), Path::new("m.cgraph"));
        let opened = OnnxModel::open(source, &[target], &options)?;
        let mut last = (0, 0);
        opened.convert(source, target, &options, &mut |done, total| last = (done, total))?;
        assert_eq!(last.0, last.1, "progress ends at its total");
        MappedFile::open(Arc::new(disk::View {
            path: target.to_owned(),
            bytes: self.disk.get(target).unwrap(),
            len: self.disk.get(target).unwrap().len(),
        }))
    }

    fn export(&self) -> ModelProto {
        let options = ExportOptions { disk: Arc::new(self.disk.clone()), ..ExportOptions::default() };
        export(Path::new("m.cgraph"), Path::new("back.onnx"), &options, &mut |_, _| {}).unwrap();
        prost::Message::decode(&*self.disk.get("back.onnx").unwrap()).unwrap()
    }
}

fn manifest(file: &MappedFile) -> &Manifest {
    &file.contents().manifest
}

fn info(file: &MappedFile) -> &OnnxInfo {
    manifest(file).model.onnx.as_ref().unwrap()
}

fn tensors(capsule: &Capsule) -> Vec<&str> {
    capsule.tensors.iter().map(|t| t.name.as_str()).collect()
}

/// External data in a function: of a default, in a sparse tensor of a graph in a node, and of an attribute.
#[test]
fn external_data_in_functions_comes_into_the_file() {
    let bytes: Vec<u8> = (1u8..=16).collect();
    let part = |name: &str, kind: i32, offset: u64, len: u64| {
        external(
            raw(name, kind, &[len as i64 / if kind == onnx::FLOAT { 4 } else { 8 }], vec![]),
            "w",
            offset,
            Some(len),
        )
    };
    let attribute = |name: &str| AttributeProto { name: Some(name.into()), ..AttributeProto::default() };
    let sparse = SparseTensorProto {
        values: Some(part("s", onnx::FLOAT, 8, 4)),
        indices: Some(part("", 7, 0, 8)),
        dims: vec![4],
    };
    let body = GraphProto { sparse_initializer: vec![sparse], ..GraphProto::default() };
    let inner = NodeProto {
        attribute: vec![AttributeProto { g: Some(Box::new(body.clone())), ..attribute("body") }],
        ..node("Odd", &["a"], &["b"])
    };
    let function = FunctionProto {
        name: Some("F".into()),
        domain: Some("own".into()),
        input: vec!["a".into()],
        output: vec!["b".into()],
        node: vec![inner],
        attribute_proto: vec![
            AttributeProto { t: Some(Box::new(part("t", onnx::FLOAT, 4, 8))), ..attribute("default") },
            AttributeProto { g: Some(Box::new(body)), ..attribute("graph") },
        ],
        ..FunctionProto::default()
    };
    let mut source = chain(1);
    source.functions.push(function);
    let bench = Bench::new(&source);
    bench.disk.put("w", bytes.clone());
    let file = bench.convert(None).unwrap();
    let function = &head_of(&file).unwrap().functions[0];
    let data = |tensor: &TensorProto| {
        assert!(!tensor.is_external() && tensor.external_data.is_empty());
        tensor.raw_data.clone().unwrap().to_vec()
    };
    let sparse_of = |attribute: &AttributeProto| {
        let sparse = &attribute.g.as_ref().unwrap().sparse_initializer[0];
        [data(sparse.values.as_ref().unwrap()), data(sparse.indices.as_ref().unwrap())]
    };
    assert_eq!(data(function.attribute_proto[0].t.as_ref().unwrap()), bytes[4..12]);
    let wanted = [bytes[8..12].to_vec(), bytes[..8].to_vec()];
    assert_eq!(sparse_of(&function.attribute_proto[1]), wanted);
    assert_eq!(sparse_of(&function.node[0].attribute[0]), wanted);
}

fn refused(graph: GraphProto) -> String {
    let error = Bench::new(&model(graph)).convert(None).map(drop).unwrap_err();
    assert!(matches!(error, Error::Malformed { .. }), "{error}");
    error.to_string()
}

#[test]
fn every_edge_is_served_and_every_weight_stored_once() {
    for capsules in [1, 2, 3, 100] {
        let bench = Bench::new(&varied());
        let file = bench.convert(Some(capsules)).unwrap();
        let m = manifest(&file);
        // Six nodes that are not constant.
        assert_eq!(m.capsules.len(), capsules.min(6));
        let mut stored: Vec<&str> = m.capsules.iter().flat_map(tensors).collect();
        stored.sort_unstable();
        assert_eq!(stored, ["constant", "w_1", "w_2", "weight"], "{capsules} capsules");
        for capsule in &m.capsules {
            let graph = graph_of(&file, capsule).unwrap();
            let names: Vec<&str> = graph.input.iter().map(|v| v.name()).collect();
            assert_eq!(names, capsule.inputs);
            for tensor in graph.initializer.iter().filter(|t| t.is_external()) {
                let entry = |key: &str| tensor.external_data.iter().find(|e| e.key() == key).unwrap().value();
                let holder = m.capsule(entry("location")).unwrap();
                let plane = &holder.tensors.iter().find(|t| t.name == tensor.name()).unwrap().planes[0];
                assert_eq!(entry("offset"), plane.offset.to_string());
                assert_eq!(entry("length"), plane.len.to_string());
                let own = holder.id == capsule.id;
                assert_eq!(own, !capsule.shared.iter().any(|s| s.tensor == tensor.name()));
            }
        }
        let inputs: Vec<(&str, bool)> =
            info(&file).inputs.iter().map(|p| (p.name.as_str(), p.optional)).collect();
        assert_eq!(inputs, [("x", false), ("bias", true)]);
        let again = sub_model(&head_of(&file).unwrap(), graph_of(&file, &m.capsules[0]).unwrap());
        assert_eq!((again.ir_version, again.opset_import.len()), (Some(9), 1));
    }
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    for capsules in [None, Some(4)] {
        let files = [(); 2].map(|()| {
            let bench = Bench::new(&varied());
            bench.convert(capsules).unwrap();
            bench.disk.get("m.cgraph").unwrap()
        });
        assert_eq!(files[0], files[1]);
    }
}

#[test]
fn a_model_comes_back_with_its_nodes_and_data() {
    let source = varied();
    let bench = Bench::new(&source);
    bench.convert(Some(100)).unwrap();
    let back = bench.export().graph.unwrap();
    let source = source.graph.unwrap();
    let made = |graph: &GraphProto| {
        let mut names: Vec<String> = graph.node.iter().flat_map(|n| n.output.clone()).collect();
        names.extend(graph.initializer.iter().map(|t| t.name().to_owned()));
        names.sort_unstable();
        names
    };
    let hoisted = ["w_1".to_owned(), "w_2".to_owned()];
    let found: Vec<String> = made(&back).into_iter().filter(|name| !hoisted.contains(name)).collect();
    assert_eq!(found, made(&source));
    assert_eq!((&back.input, &back.output), (&source.input, &source.output));
    let find = |graph: &GraphProto, name: &str| graph.initializer.iter().find(|t| t.name() == name).cloned();
    assert_eq!(find(&back, "weight"), find(&source, "weight"));
    assert_eq!(find(&back, "w_2").unwrap().raw_data, matrix("", 32, 32, 5).raw_data);
}

#[test]
fn external_data_in_several_files_is_read() {
    let mut source = chain(3);
    let plain = source.graph.as_ref().unwrap().initializer.clone();
    let bytes = |k: usize| plain[k].raw_data.as_ref().unwrap().to_vec();
    let bench = Bench::new(&source);
    bench.disk.put("sub/a.bin", [vec![7; 64], bytes(0), bytes(1)].concat());
    bench.disk.put("b.bin", bytes(2));
    let graph = source.graph.as_mut().unwrap();
    graph.initializer[0] = external(plain[0].clone(), "sub/a.bin", 64, Some(4096));
    graph.initializer[1] = external(plain[1].clone(), "./sub/a.bin", 64 + 4096, None);
    graph.initializer[2] = external(plain[2].clone(), "b.bin", 0, Some(4096));
    bench.disk.put("m.onnx", onnx::bytes(&source));
    bench.convert(Some(2)).unwrap();
    assert_eq!(bench.export(), chain(3));
    // A data file is never written to.
    for name in ["b.bin", "m.onnx", "sub/a.bin"] {
        let options = bench.options(None);
        let error = OnnxModel::open("m.onnx".as_ref(), &[name.as_ref()], &options).err();
        assert!(matches!(error, Some(Error::InvalidArgument(_))), "{name}: {error:?}");
    }
}

#[test]
fn external_data_that_is_not_there_is_an_error_that_says_so() {
    let cases: [(&str, u64, Option<u64>, &str); 8] = [
        ("../w.bin", 0, None, "not a path inside the model's folder"),
        ("/w.bin", 0, None, "not a path inside the model's folder"),
        ("sub/../../w.bin", 0, None, "not a path inside the model's folder"),
        ("", 0, None, "no location"),
        ("none.bin", 0, None, "none.bin"),
        ("w.bin", 1, None, "leaves w.bin"),
        ("w.bin", u64::MAX, Some(4096), "leaves w.bin"),
        ("w.bin", 0, Some(4095), "4095 bytes where its shape and type need 4096"),
    ];
    for (location, offset, len, told) in cases {
        let mut source = chain(1);
        let weight = &mut source.graph.as_mut().unwrap().initializer[0];
        *weight = external(weight.clone(), location, offset, len);
        let bench = Bench::new(&source);
        bench.disk.put("w.bin", vec![0; 4096]);
        let error = bench.convert(None).map(drop).unwrap_err().to_string();
        assert!(error.contains(told) && error.contains("w0"), "{location}: {error}");
    }
}

#[test]
fn every_element_type_keeps_its_bytes() {
    for element in ElementType::all().filter(|e| e.bits().is_some()) {
        // 2048 bytes, or 128 KiB of the integers that stay in the graph below 64 KiB.
        let few = !matches!(element, ElementType::Int32 | ElementType::Int64);
        let len = if few { 2048 } else { 128 << 10 };
        let count = (len * 8 / u64::from(element.bits().unwrap())) as i64;
        let data: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
        let dims = [2, count / 2];
        let graph = GraphProto {
            initializer: vec![raw("w", element.onnx(), &dims, data.clone())],
            node: vec![node("Identity", &["w"], &["y"])],
            output: vec![port("y", &[])],
            ..GraphProto::default()
        };
        let source = model(graph);
        let bench = Bench::new(&source);
        let file = bench.convert(None).unwrap();
        let capsule = &manifest(&file).capsules[0];
        assert_eq!(capsule.tensors[0].encoding, element.name());
        assert_eq!(file.checked_plane(capsule, &capsule.tensors[0], 0).unwrap(), data);
        assert_eq!(bench.export(), source);
    }
}

#[test]
fn typed_numbers_become_plain_bytes() {
    let varints = |numbers: &[u64]| {
        let mut out = Vec::new();
        numbers.iter().for_each(|n| prost::encoding::encode_varint(*n, &mut out));
        out
    };
    let numbers: Vec<u64> =
        (0..20_000u64).map(|i| if i % 3 == 0 { (i as i64 - 9000) as u64 } else { i }).collect();
    let plain = |width: usize| -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_le_bytes()[..width].to_vec()).collect()
    };
    use ElementType as E;
    let of_int32 = [E::Int32, E::Int16, E::Int8, E::Uint16, E::Uint8, E::Float16, E::Bfloat16, E::Float8e5m2];
    let all = of_int32.into_iter().chain([E::Int64, E::Uint32, E::Uint64, E::Uint4]);
    for element in all {
        let per = if element == E::Uint4 { 2 } else { 1 };
        let mut tensor = raw("w", element.onnx(), &[numbers.len() as i64 * per], Vec::new());
        tensor.raw_data = None;
        match element {
            E::Int64 => tensor.int64_data = varints(&numbers).into(),
            E::Uint32 | E::Uint64 => tensor.uint64_data = varints(&numbers).into(),
            _ => tensor.int32_data = varints(&numbers).into(),
        }
        let graph = GraphProto {
            initializer: vec![tensor],
            node: vec![node("Identity", &["w"], &["y"])],
            output: vec![port("y", &[])],
            ..GraphProto::default()
        };
        let file = Bench::new(&model(graph)).convert(None).unwrap();
        let capsule = &manifest(&file).capsules[0];
        let width = (element.bits().unwrap() as usize).div_ceil(8);
        assert_eq!(file.plane(capsule, &capsule.tensors[0], 0).unwrap(), plain(width), "{}", element.name());
    }
}

#[test]
fn what_is_small_or_odd_stays_in_the_graph() {
    let zeros =
        |name: &str, data_type: i32, dims: &[i64], len: usize| raw(name, data_type, dims, vec![0; len]);
    let kept = [
        zeros("small", 1, &[255], 1020),
        zeros("shape", 7, &[8191], 65_528),
        zeros("odd", 22, &[2, 1025], 1025),
        zeros("empty", 1, &[0, 1 << 40], 0),
    ];
    let stored = [
        zeros("large", 1, &[256], 1024),
        zeros("indices", 7, &[8192], 65_536),
        zeros("even", 22, &[2, 1024], 1024),
    ];
    let all: Vec<TensorProto> = kept.iter().chain(&stored).cloned().collect();
    let names: Vec<String> = all.iter().map(|t| t.name().to_owned()).collect();
    let graph = GraphProto {
        node: names.iter().map(|n| node("Identity", &[n], &[&format!("{n}_out")])).collect(),
        output: names.iter().map(|n| port(&format!("{n}_out"), &[])).collect(),
        initializer: all,
        ..GraphProto::default()
    };
    let file = Bench::new(&model(graph)).convert(None).unwrap();
    assert_eq!(tensors(&manifest(&file).capsules[0]), ["large", "indices", "even"]);
    let graph = graph_of(&file, &manifest(&file).capsules[0]).unwrap();
    let inline: Vec<&str> =
        graph.initializer.iter().filter(|t| !t.is_external()).map(TensorProto::name).collect();
    assert_eq!(inline, ["small", "shape", "odd", "empty"]);
}

#[test]
fn a_graph_that_makes_no_sense_is_refused_by_name() {
    let x = || vec![port("x", &[0, 32])];
    let graph = |nodes: Vec<_>, output: &str| GraphProto {
        input: x(),
        node: nodes,
        output: vec![port(output, &[0, 32])],
        ..GraphProto::default()
    };
    let cycle = refused(graph(vec![node("Add", &["x", "b"], &["a"]), node("Relu", &["a"], &["b"])], "b"));
    assert!(cycle.contains("cycle") && cycle.contains("\"a\"") && cycle.contains("\"b\""), "{cycle}");
    let own = refused(graph(vec![node("Add", &["x", "a"], &["a"])], "a"));
    assert!(own.contains("cycle"), "{own}");
    let dangling = refused(graph(vec![node("Relu", &["nowhere"], &["a"])], "a"));
    assert!(dangling.contains("\"nowhere\"") && dangling.contains("Relu"), "{dangling}");
    let twice = refused(graph(vec![node("Relu", &["x"], &["a"]), node("Abs", &["x"], &["a"])], "a"));
    assert!(twice.contains("\"a\" is defined twice"), "{twice}");
    let output = refused(graph(vec![node("Relu", &["x"], &["a"])], "b"));
    assert!(output.contains("nothing makes its output \"b\""), "{output}");
    let split = refused(graph(vec![node("Split", &["x"], &["", "a"])], "a"));
    assert!(split.contains("the first output of the node Split"), "{split}");
    let inner = GraphProto {
        node: vec![node("Relu", &["gone"], &["t"])],
        output: vec![port("t", &[])],
        ..GraphProto::default()
    };
    let captured = refused(graph(vec![onnx::branches("x", "a", inner.clone(), inner)], "a"));
    assert!(captured.contains("\"gone\""), "{captured}");
    for (dims, told) in [
        (&[-1i64][..], "negative"),
        (&[1 << 62, 1 << 62], "too large"),
        (&[5], "needs 20"),
        (&[0, -1], "negative"),
    ] {
        let mut bad = graph(vec![node("Add", &["x", "w"], &["a"])], "a");
        bad.initializer = vec![raw("w", 1, dims, vec![0; 16])];
        let error = refused(bad);
        assert!(error.contains(told) && error.contains("tensor w"), "{error}");
    }
}

#[test]
fn nodes_in_any_order_are_sorted() {
    let mut source = chain(5);
    source.graph.as_mut().unwrap().node.reverse();
    let file = Bench::new(&source).convert(Some(5)).unwrap();
    let outputs: Vec<&str> = manifest(&file).capsules.iter().map(|c| c.outputs[0].as_str()).collect();
    assert_eq!(outputs, ["y0", "y1", "y2", "y3", "y4"]);
}

#[test]
fn a_constant_chain_is_copied_to_its_readers_and_never_cut() {
    let graph = GraphProto {
        input: vec![port("x", &[0, 32])],
        initializer: vec![matrix("w", 32, 32, 1)],
        node: vec![
            node("Neg", &["w"], &["n"]),
            node("Abs", &["n"], &["m"]),
            node("MatMul", &["x", "m"], &["a"]),
            node("MatMul", &["a", "m"], &["b"]),
            constant("half", raw("", 1, &[], 0.5f32.to_le_bytes().to_vec())),
            node("Mul", &["b", "half"], &["c"]),
        ],
        output: vec![port("c", &[0, 32]), port("m", &[32, 32]), port("w", &[32, 32])],
        ..GraphProto::default()
    };
    let bench = Bench::new(&model(graph.clone()));
    let file = bench.convert(Some(100)).unwrap();
    let capsules = &manifest(&file).capsules;
    let ops = |capsule: &Capsule| -> Vec<String> {
        graph_of(&file, capsule).unwrap().node.iter().map(|n| n.op_type().to_owned()).collect()
    };
    let found: Vec<Vec<String>> = capsules.iter().map(ops).collect();
    assert_eq!(found, [vec!["Neg", "Abs", "MatMul"], vec!["Neg", "Abs", "MatMul"], vec!["Constant", "Mul"]]);
    assert_eq!(capsules[0].outputs, ["w", "m", "a"]);
    assert_eq!((tensors(&capsules[0]), tensors(&capsules[1])), (vec!["w"], vec![]));
    assert_eq!(capsules[1].shared[0].tensor, "w");
    let back = bench.export().graph.unwrap();
    assert_eq!((back.node.len(), back.output), (graph.node.len(), graph.output));
}

#[test]
fn random_numbers_are_no_constants() {
    let graph = GraphProto {
        input: vec![port("x", &[0, 32])],
        node: vec![
            node("RandomNormal", &[], &["r"]),
            node("Add", &["x", "r"], &["a"]),
            node("Mul", &["a", "r"], &["b"]),
        ],
        output: vec![port("b", &[0, 32])],
        ..GraphProto::default()
    };
    let file = Bench::new(&model(graph)).convert(Some(9)).unwrap();
    let counts: Vec<usize> =
        manifest(&file).capsules.iter().map(|c| graph_of(&file, c).unwrap().node.len()).collect();
    assert_eq!(counts, [1, 1, 1], "the numbers are drawn once");
}

#[test]
fn capsules_follow_the_size_that_is_asked_for() {
    let bench = Bench::new(&chain(8));
    let mut options = bench.options(None);
    options.cut.capsule_bytes = 2 * 4096;
    let opened = OnnxModel::open("m.onnx".as_ref(), &[], &options).unwrap();
    let written = opened.convert("m.onnx".as_ref(), "m.cgraph".as_ref(), &options, &mut |_, _| {}).unwrap();
    assert_eq!((written.capsules, written.tensors), (4, 8));
}

#[test]
fn a_cancelled_conversion_leaves_nothing() {
    let bench = Bench::new(&chain(3));
    let token = CancelToken::new();
    token.cancel();
    let options = ConvertOptions { cancel: Some(token), ..bench.options(None) };
    let opened = OnnxModel::open("m.onnx".as_ref(), &[], &options).unwrap();
    let error = opened.convert("m.onnx".as_ref(), "m.cgraph".as_ref(), &options, &mut |_, _| {}).err();
    assert!(matches!(error, Some(Error::Cancelled)));
    assert!(bench.disk.get("m.cgraph").is_none());
}

#[test]
fn weights_are_fetched_as_arrays() {
    let bench = Bench::new(&chain(2));
    bench.convert(Some(2)).unwrap();
    let options = OpenOptions { disk: Arc::new(bench.disk.clone()), ..OpenOptions::default() };
    let store = Store::open(&Origin::Path("m.cgraph".into()), &options).unwrap();
    let want = matrix("", 32, 32, 1).raw_data.unwrap();
    for layout in [FetchLayout::Source, FetchLayout::Stored, FetchLayout::F32] {
        let capsule = store.fetch("segment.1", layout).unwrap();
        assert_eq!((capsule.tensors.len(), capsule.tensors[0].name), (1, "w1"));
        assert_eq!(&*capsule.tensors[0].bytes, &*want);
    }
    let dir = tempfile::tempdir().unwrap();
    let capsule = store.fetch("segment.1", FetchLayout::Source).unwrap();
    let files = capsule.write_to(dir.path(), &capsulegraph::container::disk::SystemDisk, None).unwrap();
    assert_eq!((files.tensors[0].file.as_str(), files.tensors[0].encoding.as_str()), ("w1.npy", "float32"));
    let written = std::fs::read(dir.path().join("w1.npy")).unwrap();
    assert!(written.starts_with(b"\x93NUMPY") && written.ends_with(&want));
}

#[cfg(unix)] // a Python of the system that the tests are built on is started
mod python {
    use std::path::PathBuf;
    use std::process::Command;

    use capsulegraph::convert::onnx::export::export_capsule;

    use super::*;

    /// Converts and exports every model that tests/tools/onnx_models.py writes, and lets it compare what ONNX Runtime makes of
    /// the source, of what was exported, and of the chain of all capsules as models of their own.
    #[test]
    fn models_give_the_same_before_and_after() {
        let python = std::env::var_os("CAPSULEGRAPH_TEST_PYTHON").expect(
            "CAPSULEGRAPH_TEST_PYTHON must name a Python with the packages onnx and onnxruntime; run the tests with: \
             cargo xtask test",
        );
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools/onnx_models.py");
        let dir = tempfile::tempdir().unwrap();
        let run = |what: &str| {
            let output = Command::new(&python).arg(&script).arg(what).arg(dir.path()).output().unwrap();
            let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "onnx_models.py {what}:\n{told}");
        };
        run("make");
        let mut models: Vec<PathBuf> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
        models.sort();
        assert!(models.len() >= 20, "{models:?}");
        for folder in &models {
            for capsules in [1, 2, 1000] {
                let cut = CutOptions { capsules: Some(capsules), ..CutOptions::default() };
                let options = ConvertOptions { cut, ..ConvertOptions::default() };
                let (source, target) = (folder.join("model.onnx"), folder.join(format!("{capsules}.cgraph")));
                let opened = OnnxModel::open(&source, &[&target], &options).unwrap();
                opened.convert(&source, &target, &options, &mut |_, _| {}).unwrap();
                // With 2 capsules the weights are written beside the model.
                let max_inline = if capsules == 2 { 0 } else { u64::MAX };
                let options = ExportOptions { max_inline, ..ExportOptions::default() };
                export(&target, &folder.join(format!("{capsules}.onnx")), &options, &mut |_, _| {}).unwrap();
                let file = MappedFile::open(options.disk.open(&target).unwrap()).unwrap();
                for (number, capsule) in manifest(&file).capsules.iter().enumerate() {
                    let path = folder.join(format!("{capsules}.{number}.onnx"));
                    export_capsule(&file, &capsule.id, &path, &options, &mut |_, _| {}).unwrap();
                }
            }
        }
        run("check");
    }
}

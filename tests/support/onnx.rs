//! Small ONNX models, written with the library's own messages, converted and run.
#![allow(dead_code, clippy::expect_used, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use capsulegraph::convert::import::ConvertOptions;
use capsulegraph::convert::onnx::cut::CutOptions;
use capsulegraph::convert::onnx::import::OnnxModel as Source;
use capsulegraph::convert::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};
use capsulegraph::graph::element::ElementType;
use capsulegraph::onnx::model::{OnnxModel, OnnxOptions};
use capsulegraph::onnx::value::{Input, TensorData, TensorView, Value};
use capsulegraph::store::Origin;
use prost::Message;

#[path = "onnx_source.rs"]
mod source;

pub use source::*;

/// A node of ONNX's own operators.
pub fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    let name = Some(format!("{op}_{}", outputs.join("_")));
    NodeProto { name, attribute: attributes, ..source::node(op, inputs, outputs) }
}

/// A tensor of floats.
pub fn floats(name: &str, element: Dims<'_>, of: impl Fn(usize) -> f32) -> TensorProto {
    let count = element.iter().product::<i64>() as usize;
    let data: Vec<u8> = (0..count).flat_map(|i| of(i).to_le_bytes()).collect();
    raw(name, FLOAT, element, data)
}

/// A tensor of int64.
pub fn ints(name: &str, dims: Dims<'_>, values: &[i64]) -> TensorProto {
    raw(name, ElementType::Int64.onnx(), dims, values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// Numbers that look random, the same each time, between -1 and 1.
pub fn noise(seed: u64) -> impl Fn(usize) -> f32 {
    move |i| {
        let mut z = (i as u64).wrapping_add(seed << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ z >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((z >> 40) as f32) / (1u64 << 23) as f32 - 1.0
    }
}

/// A model of these parts.
pub fn model(
    nodes: Vec<NodeProto>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
    initializers: Vec<TensorProto>,
) -> ModelProto {
    source::model(GraphProto {
        node: nodes,
        input: inputs,
        output: outputs,
        initializer: initializers,
        ..GraphProto::default()
    })
}

/// Layers of a transformer's feed-forward shape: `x [n1, width]` to `y`, with weights of `8 width²` floats a layer.
pub fn layers(width: i64, count: usize) -> ModelProto {
    let (mut nodes, mut weights) = (Vec::new(), Vec::new());
    let mut last = "x".to_owned();
    for layer in 0..count {
        let names = ["up", "down", "bias", "u", "r", "d", "b"].map(|name| format!("{name}{layer}"));
        let [up, down, bias, u, r, d, b] = &names;
        let scale = 1.0 / (width as f32).sqrt();
        let scaled = |seed: u64| {
            let noise = noise(seed);
            move |i: usize| noise(i) * scale
        };
        weights.push(floats(up, &[width, 4 * width], scaled(3 * layer as u64)));
        weights.push(floats(down, &[4 * width, width], scaled(3 * layer as u64 + 1)));
        weights.push(floats(bias, &[width], scaled(3 * layer as u64 + 2)));
        nodes.push(node("MatMul", &[&last, up], &[u], vec![]));
        nodes.push(node("Relu", &[u], &[r], vec![]));
        nodes.push(node("MatMul", &[r, down], &[d], vec![]));
        nodes.push(node("Add", &[d, bias], &[b], vec![]));
        let next = if layer + 1 == count { "y".to_owned() } else { format!("x{layer}") };
        nodes.push(node("Add", &[b, &last], &[&next], vec![]));
        last = next;
    }
    let port = |name: &str| info(name, tensor_type(ElementType::Float32, Some(&[-1, width])));
    model(nodes, vec![port("x")], vec![port("y")], weights)
}

/// A model in a folder of its own, converted in several ways.
pub struct Onnx(pub tempfile::TempDir);

impl Onnx {
    /// Writes the model.
    pub fn new(model: &ModelProto) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("m.onnx"), model.encode_to_vec()).unwrap();
        Self(folder)
    }

    /// The path of a file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Converts it to this many capsules, or as many as possible.
    pub fn converted(&self, capsules: usize) -> PathBuf {
        let target = self.path(&format!("m{capsules}.cgraph"));
        convert(&self.path("m.onnx"), &target, capsules);
        target
    }

    /// Converts and opens it.
    pub fn open(&self, capsules: usize, options: OnnxOptions) -> OnnxModel {
        open(&self.converted(capsules), options)
    }
}

/// Converts a model to this many capsules, or as many as possible.
pub fn convert(source: &Path, target: &Path, capsules: usize) {
    let cut = CutOptions { capsules: Some(capsules), ..CutOptions::default() };
    let options = ConvertOptions { cut, ..ConvertOptions::default() };
    let opened = Source::open(source, &[target], &options).unwrap();
    opened.convert(source, target, &options, &mut |_, _| {}).unwrap();
}

/// Opens a file.
pub fn open(path: &Path, options: OnnxOptions) -> OnnxModel {
    OnnxModel::open(&Origin::Path(path.to_owned()), &options).unwrap()
}

/// Options without optimisation, so that results are the same bits however a model is cut.
pub fn plain() -> OnnxOptions {
    OnnxOptions { optimization: false, joined_bytes: 0, ..OnnxOptions::default() }
}

/// A tensor of floats that is held.
pub struct Floats {
    pub shape: Vec<u64>,
    bytes: Vec<u8>,
}

impl Floats {
    /// A tensor of this shape.
    pub fn new(shape: &[u64], of: impl Fn(usize) -> f32) -> Self {
        let count = shape.iter().product::<u64>() as usize;
        Self { shape: shape.to_vec(), bytes: (0..count).flat_map(|i| of(i).to_le_bytes()).collect() }
    }

    /// As an input.
    pub fn input(&self) -> Input<'_> {
        Input::Tensor(self.view())
    }

    /// As a tensor.
    pub fn view(&self) -> TensorView<'_> {
        TensorView { element: ElementType::Float32, shape: &self.shape, data: TensorData::Bytes(&self.bytes) }
    }
}

/// The elements of a tensor of floats.
pub fn floats_of(value: &Value) -> Vec<f32> {
    assert_eq!(value.element(), Some(ElementType::Float32));
    value.bytes().unwrap().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

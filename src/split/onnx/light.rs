//! Light forms of an ONNX capsule: its graph with nodes that compute with weights of few bits.
//!
//! What is made are operators of ONNX Runtime's contributed set and of ONNX's own: `MatMulNBits` (blocks of 32 along the
//! inner dimension, each with a scale) for products, codes of 8 bits a row that are gathered before they are scaled for
//! tables, `DequantizeLinear` a channel for convolutions. Every other weight stays as it is.

use std::collections::{HashMap, HashSet};

use crate::container::manifest::{Capsule, Tensor};
use crate::convert::onnx::proto::{
    AttributeProto, EXTERNAL, GraphProto, NodeProto, StringStringEntryProto, TensorProto, attribute_type,
};
use crate::convert::onnx::subgraph::graphs_of;
use crate::graph::element::ElementType;

/// Domain of ONNX Runtime's contributed operators.
pub(super) const CONTRIBUTED: &str = "com.microsoft";
/// Version of ONNX's operators from which on `DequantizeLinear` takes a scale for each channel.
const CHANNEL_SCALES: i64 = 13;
/// Version from which on `Add` and `Mul` broadcast as NumPy does.
const BROADCASTS: i64 = 7;
/// Elements of a block of `MatMulNBits`.
pub(super) const BLOCK: u64 = 32;
/// `MatMulNBits` with activations of 8 bits, which is what its fast kernels take.
const ACCURACY_LEVEL: i64 = 4;
/// Weights below this length stay as they are: they save nothing, and are often the ones that matter most.
const SMALLEST: u64 = 16 << 10;

/// Bits that weights are held in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Bits {
    Four,
    Eight,
}

impl Bits {
    pub const ALL: [Self; 2] = [Self::Eight, Self::Four];

    /// The name in plans and on the command line: of the encoding whose codes are stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::Four => "q4_0",
            Self::Eight => "q8_0",
        }
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bits| bits.name() == name)
    }

    pub fn count(self) -> u64 {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }
}

/// How a weight is held in a light capsule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// As in the full file.
    Exact,
    /// Blocks along the inner dimension of a product. `by_row`: a row of the weight is an output (a transposed `Gemm`), else
    /// a column.
    Blocks { bits: Bits, by_row: bool },
    /// Codes of 8 bits with a scale for each index of the first dimension.
    Rows,
}

/// A tensor of a light capsule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LightTensor {
    pub name: String,
    pub shape: Vec<u64>,
    pub element: ElementType,
    /// Index of the capsule's tensor that it is made of.
    pub source: usize,
    pub part: Part,
}

/// What of a weight a tensor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Codes(Held),
    /// The scales of the codes before it.
    Scales,
}

/// A capsule in light form.
#[derive(Clone, Debug)]
pub(super) struct Light {
    pub graph: GraphProto,
    pub tensors: Vec<LightTensor>,
}

impl Light {
    /// Whether any weight is held otherwise than in the full file.
    pub fn differs(&self) -> bool {
        self.tensors.iter().any(|tensor| tensor.part != Part::Whole)
    }
}

/// The light form of `capsule` with weights in `bits` where its nodes allow it. `shared` says of its tensors which other
/// capsules read too: those stay as they are. `opset` is the version of ONNX's operators.
pub(super) fn light(
    capsule: &Capsule,
    graph: &GraphProto,
    shared: &dyn Fn(&str) -> bool,
    bits: Bits,
    opset: i64,
) -> Light {
    let uses = uses(graph);
    let named = names(graph);
    let is_taken = |name: &str| named.contains(name);
    let mut held = HashMap::new();
    for tensor in &capsule.tensors {
        let own = uses.get(tensor.name.as_str()).filter(|_| !shared(&tensor.name));
        let chosen =
            own.and_then(|nodes| choose(tensor, nodes, bits, opset, &is_taken)).unwrap_or(Held::Exact);
        held.insert(tensor.name.as_str(), chosen);
    }
    let mut tensors = Vec::new();
    for (source, tensor) in capsule.tensors.iter().enumerate() {
        tensors.extend(parts(tensor, source, held.get(tensor.name.as_str()).copied().unwrap_or(Held::Exact)));
    }
    let mut graph = graph.clone();
    let nodes = std::mem::take(&mut graph.node);
    for node in nodes {
        let weight = weight_input(&node).and_then(|at| node.input.get(at)).cloned().unwrap_or_default();
        let dims = capsule.tensors.iter().find(|tensor| tensor.name == weight).map(|t| t.shape.as_slice());
        match (held.get(weight.as_str()).copied().unwrap_or(Held::Exact), dims) {
            (Held::Blocks { bits, by_row }, Some(dims)) => {
                graph.node.extend(product(node, &weight, dims, bits, by_row));
            }
            (Held::Rows, Some(_)) if is(&node, "Gather") => graph.node.extend(gather(node, &weight)),
            (Held::Rows, Some(_)) => graph.node.extend(convolution(node, &weight)),
            _ => graph.node.push(node),
        }
    }
    let is_replaced = |name: &str| held.get(name).is_some_and(|held| *held != Held::Exact);
    graph.initializer.retain(|tensor| !is_replaced(tensor.name.as_deref().unwrap_or("")));
    graph.value_info.retain(|value| !is_replaced(value.name.as_deref().unwrap_or("")));
    let made = tensors.iter().filter(|tensor| tensor.part != Part::Whole);
    graph.initializer.extend(made.map(|tensor| external(tensor, &capsule.id)));
    Light { graph, tensors }
}

/// The tensors that a weight becomes.
fn parts(tensor: &Tensor, source: usize, held: Held) -> Vec<LightTensor> {
    let own = |suffix: &str, shape: Vec<u64>, element, part| LightTensor {
        name: format!("{}{suffix}", tensor.name),
        shape,
        element,
        source,
        part,
    };
    match (held, tensor.shape.as_slice()) {
        (Held::Blocks { bits, by_row }, &[rows, cols]) => {
            let (outputs, inner) = if by_row { (rows, cols) } else { (cols, rows) };
            let blocks = inner.div_ceil(BLOCK);
            let codes = vec![outputs, blocks, BLOCK * bits.count() / 8];
            vec![
                own(&format!(".{}", bits.name()), codes, ElementType::Uint8, Part::Codes(held)),
                own(".scales", vec![outputs, blocks], ElementType::Float32, Part::Scales),
            ]
        }
        (Held::Rows, [rows, rest @ ..]) => {
            // A scale is multiplied with what a gathered row is, and stands alone for a channel of a convolution.
            let scales = if rest.len() == 1 { vec![*rows, 1] } else { vec![*rows] };
            vec![
                own(".int8", tensor.shape.clone(), ElementType::Int8, Part::Codes(held)),
                own(".scales", scales, ElementType::Float32, Part::Scales),
            ]
        }
        _ => {
            let element = ElementType::by_name(&tensor.encoding).unwrap_or(ElementType::Uint8);
            vec![LightTensor {
                name: tensor.name.clone(),
                ..own("", tensor.shape.clone(), element, Part::Whole)
            }]
        }
    }
}

/// The nodes of the graph that read a value directly, `None` among them where a subgraph does or it is an output.
type Uses<'a> = HashMap<&'a str, Vec<Option<(&'a NodeProto, usize)>>>;

fn uses(graph: &GraphProto) -> Uses<'_> {
    let mut uses = Uses::new();
    for node in &graph.node {
        for (at, input) in node.input.iter().enumerate() {
            uses.entry(input.as_str()).or_default().push(Some((node, at)));
        }
        let mut inner: Vec<&GraphProto> = graphs_of(node).collect();
        while let Some(graph) = inner.pop() {
            for node in &graph.node {
                for input in &node.input {
                    uses.entry(input.as_str()).or_default().push(None);
                }
                inner.extend(graphs_of(node));
            }
            for output in graph.output.iter().filter_map(|output| output.name.as_deref()) {
                uses.entry(output).or_default().push(None);
            }
        }
    }
    for output in graph.output.iter().chain(&graph.input).filter_map(|output| output.name.as_deref()) {
        uses.entry(output).or_default().push(None);
    }
    uses
}

/// Names of all values that the graph and those inside it read or make.
fn names(graph: &GraphProto) -> HashSet<&str> {
    let mut names = HashSet::new();
    let mut open = vec![graph];
    while let Some(graph) = open.pop() {
        let ports = graph.input.iter().chain(&graph.output).map(|port| port.name());
        names.extend(ports.chain(graph.initializer.iter().map(|tensor| tensor.name())));
        for node in &graph.node {
            names.extend(node.input.iter().chain(&node.output).map(String::as_str));
            open.extend(graphs_of(node));
        }
    }
    names
}

/// Ends of the names of what is made beside a weight and a node's output.
const SUFFIXES: [&str; 8] =
    [".q4_0", ".q8_0", ".int8", ".scales", ".codes", ".floats", ".product", ".weight"];

/// How a weight can be held that these nodes read, all of them in one way. Where a name that would be made `is_taken`, it
/// stays as it is.
fn choose(
    tensor: &Tensor,
    nodes: &[Option<(&NodeProto, usize)>],
    bits: Bits,
    opset: i64,
    is_taken: &dyn Fn(&str) -> bool,
) -> Option<Held> {
    let bytes = ElementType::Float32.tensor_bytes(&tensor.shape)?;
    if tensor.encoding != ElementType::Float32.name() || bytes < SMALLEST {
        return None;
    }
    let mut chosen = None;
    for used in nodes {
        let (node, at) = (*used)?;
        if weight_input(node) != Some(at) {
            return None;
        }
        let output = node.output.first().map_or("", String::as_str);
        let mut names =
            SUFFIXES.iter().flat_map(|end| [tensor.name.as_str(), output].map(|name| format!("{name}{end}")));
        if names.any(|name| is_taken(&name)) {
            return None;
        }
        let held = held_for(node, &tensor.shape, bits, opset)?;
        if *chosen.get_or_insert(held) != held {
            return None;
        }
    }
    chosen
}

/// How `node` can take its weight of these dimensions.
fn held_for(node: &NodeProto, dims: &[u64], bits: Bits, opset: i64) -> Option<Held> {
    let is_one = |name| attribute(node, name).is_none_or(|a| a.f == Some(1.0));
    let number = |name| attribute(node, name).and_then(|a| a.i).unwrap_or(0);
    if opset < BROADCASTS {
        return None;
    }
    match node.op_type.as_deref()? {
        "MatMul" if dims.len() == 2 => Some(Held::Blocks { bits, by_row: false }),
        "Gemm" if dims.len() == 2 && number("transA") == 0 && is_one("alpha") && is_one("beta") => {
            Some(Held::Blocks { bits, by_row: number("transB") != 0 })
        }
        "Gather" if dims.len() == 2 && number("axis") == 0 => Some(Held::Rows),
        "Conv" if dims.len() > 2 && opset >= CHANNEL_SCALES => Some(Held::Rows),
        _ => None,
    }
}

/// The input of a node at which a weight can take another form.
fn weight_input(node: &NodeProto) -> Option<usize> {
    if !node.domain.as_deref().unwrap_or("").is_empty() && node.domain.as_deref() != Some("ai.onnx") {
        return None;
    }
    match node.op_type.as_deref()? {
        "Gather" => Some(0),
        "MatMul" | "Gemm" | "Conv" => Some(1),
        _ => None,
    }
}

fn is(node: &NodeProto, operator: &str) -> bool {
    node.op_type.as_deref() == Some(operator)
}

fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name.as_deref() == Some(name))
}

/// `MatMulNBits` in place of a `MatMul` or `Gemm`, whose third input is added.
fn product(node: NodeProto, weight: &str, dims: &[u64], bits: Bits, by_row: bool) -> Vec<NodeProto> {
    let &[rows, cols] = dims else { return vec![node] };
    let (outputs, inner) = if by_row { (rows, cols) } else { (cols, rows) };
    let bias = node.input.get(2).filter(|name| !name.is_empty()).cloned();
    let output = node.output.first().cloned().unwrap_or_default();
    let numbers = [
        ("K", inner as i64),
        ("N", outputs as i64),
        ("bits", bits.count() as i64),
        ("block_size", BLOCK as i64),
        ("accuracy_level", ACCURACY_LEVEL),
    ];
    let made = if bias.is_some() { format!("{output}.product") } else { output.clone() };
    let inputs = vec![
        node.input.first().cloned().unwrap_or_default(),
        format!("{weight}.{}", bits.name()),
        format!("{weight}.scales"),
    ];
    let mut nodes = vec![NodeProto {
        attribute: numbers.into_iter().map(|(name, number)| integer(name, number)).collect(),
        domain: Some(CONTRIBUTED.into()),
        ..operator("MatMulNBits", node.name.clone(), inputs, made.clone())
    }];
    if let Some(bias) = bias {
        let name = node.name.map(|name| format!("{name}.bias"));
        nodes.push(operator("Add", name, vec![made, bias], output));
    }
    nodes
}

/// Gathers codes and scales, and multiplies them.
fn gather(node: NodeProto, weight: &str) -> Vec<NodeProto> {
    let output = node.output.first().cloned().unwrap_or_default();
    let indices = node.input.get(1).cloned().unwrap_or_default();
    let named = |suffix: &str| node.name.as_ref().map(|name| format!("{name}.{suffix}"));
    let [codes, floats, scales] = ["codes", "floats", "scales"].map(|suffix| format!("{output}.{suffix}"));
    let mut cast = operator("Cast", named("cast"), vec![codes.clone()], floats.clone());
    cast.attribute.push(integer("to", i64::from(ElementType::Float32.onnx())));
    vec![
        operator("Gather", named("codes"), vec![format!("{weight}.int8"), indices.clone()], codes),
        cast,
        operator("Gather", named("scales"), vec![format!("{weight}.scales"), indices], scales.clone()),
        operator("Mul", node.name.clone(), vec![floats, scales], output),
    ]
}

/// Scales the codes of each channel before the convolution.
fn convolution(mut node: NodeProto, weight: &str) -> Vec<NodeProto> {
    let output = node.output.first().cloned().unwrap_or_default();
    let floats = format!("{output}.weight");
    let name = node.name.as_ref().map(|name| format!("{name}.weight"));
    let inputs = vec![format!("{weight}.int8"), format!("{weight}.scales")];
    let mut scaled = operator("DequantizeLinear", name, inputs, floats.clone());
    scaled.attribute.push(integer("axis", 0));
    if let Some(input) = node.input.get_mut(1) {
        *input = floats;
    }
    vec![scaled, node]
}

fn operator(kind: &str, name: Option<String>, input: Vec<String>, output: String) -> NodeProto {
    NodeProto { op_type: Some(kind.into()), name, input, output: vec![output], ..NodeProto::default() }
}

fn integer(name: &str, number: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        i: Some(number),
        r#type: Some(attribute_type::INT),
        ..AttributeProto::default()
    }
}

/// A tensor as an initializer that capsule `id` stores.
fn external(tensor: &LightTensor, id: &str) -> TensorProto {
    let location = StringStringEntryProto { key: Some("location".into()), value: Some(id.to_owned()) };
    TensorProto {
        name: Some(tensor.name.clone()),
        dims: tensor.shape.iter().map(|dim| *dim as i64).collect(),
        data_type: Some(tensor.element.onnx()),
        data_location: Some(EXTERNAL),
        external_data: vec![location],
        ..TensorProto::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::manifest::Layout;
    use crate::convert::onnx::proto::ValueInfoProto;

    fn node(kind: &str, input: &[&str], output: &str) -> NodeProto {
        let input = input.iter().map(|name| (*name).to_owned()).collect();
        operator(kind, Some(format!("the {kind}")), input, output.into())
    }

    /// A capsule of one weight `w` of f32, and its graph.
    fn one(shape: &[u64], nodes: Vec<NodeProto>) -> (Capsule, GraphProto) {
        let tensor = Tensor {
            name: "w".into(),
            shape: shape.to_vec(),
            encoding: "float32".into(),
            layout: Layout::Plain,
            division: None,
            planes: Vec::new(),
        };
        let whole = LightTensor {
            name: "w".into(),
            shape: shape.to_vec(),
            element: ElementType::Float32,
            source: 0,
            part: Part::Whole,
        };
        let output = ValueInfoProto { name: Some("y".into()), ..ValueInfoProto::default() };
        let graph = GraphProto {
            node: nodes,
            initializer: vec![external(&whole, "segment.0")],
            output: vec![output],
            ..GraphProto::default()
        };
        let capsule = Capsule {
            id: "segment.0".into(),
            kind: "segment".into(),
            inputs: vec!["x".into()],
            outputs: vec!["y".into()],
            extent: None,
            tensors: vec![tensor],
            shared: Vec::new(),
            residence: None,
            link: None,
        };
        (capsule, graph)
    }

    fn made(shape: &[u64], nodes: Vec<NodeProto>, bits: Bits) -> Light {
        let (capsule, graph) = one(shape, nodes);
        light(&capsule, &graph, &|_| false, bits, 17)
    }

    fn kinds(light: &Light) -> Vec<&str> {
        light.graph.node.iter().filter_map(|node| node.op_type.as_deref()).collect()
    }

    fn shapes(light: &Light) -> Vec<(&str, &[u64], ElementType)> {
        light.tensors.iter().map(|t| (t.name.as_str(), t.shape.as_slice(), t.element)).collect()
    }

    #[test]
    fn products_become_blocks() {
        let light = made(&[100, 70], vec![node("MatMul", &["x", "w"], "y")], Bits::Four);
        assert_eq!(kinds(&light), ["MatMulNBits"]);
        let expected = [
            ("w.q4_0", &[70, 4, 16][..], ElementType::Uint8),
            ("w.scales", &[70, 4][..], ElementType::Float32),
        ];
        assert_eq!(shapes(&light), expected);
        let found = &light.graph.node[0];
        assert_eq!(found.input, ["x", "w.q4_0", "w.scales"]);
        assert_eq!(
            (found.output.as_slice(), found.domain.as_deref()),
            (&["y".to_owned()][..], Some(CONTRIBUTED))
        );
        let number = |name| attribute(found, name).and_then(|a| a.i);
        assert_eq!((number("K"), number("N"), number("bits")), (Some(100), Some(70), Some(4)));
        let names: Vec<_> = light.graph.initializer.iter().filter_map(|t| t.name.as_deref()).collect();
        assert_eq!(names, ["w.q4_0", "w.scales"]);

        let mut gemm = node("Gemm", &["x", "w", "c"], "y");
        gemm.attribute.push(integer("transB", 1));
        let light = made(&[70, 100], vec![gemm], Bits::Eight);
        assert_eq!(kinds(&light), ["MatMulNBits", "Add"]);
        assert_eq!(light.tensors[0].shape, [70, 4, 32]);
        assert_eq!(light.graph.node[1].input, ["y.product", "c"]);
        assert_eq!(light.graph.node[1].output, ["y"]);
    }

    #[test]
    fn tables_and_channels_have_a_scale_a_row() {
        let light = made(&[1000, 64], vec![node("Gather", &["w", "x"], "y")], Bits::Four);
        assert_eq!(kinds(&light), ["Gather", "Cast", "Gather", "Mul"]);
        assert_eq!(light.graph.node[3].output, ["y"]);
        let expected = [
            ("w.int8", &[1000, 64][..], ElementType::Int8),
            ("w.scales", &[1000, 1][..], ElementType::Float32),
        ];
        assert_eq!(shapes(&light), expected);
        let light = made(&[64, 32, 3, 3], vec![node("Conv", &["x", "w"], "y")], Bits::Four);
        assert_eq!(kinds(&light), ["DequantizeLinear", "Conv"]);
        assert_eq!(light.tensors[1].shape, [64]);
        assert_eq!(light.graph.node[1].input, ["x", "y.weight"]);
    }

    #[test]
    fn what_cannot_be_held_otherwise_stays() {
        let product = || node("MatMul", &["x", "w"], "y");
        let scaled = AttributeProto { name: Some("alpha".into()), f: Some(0.5), ..AttributeProto::default() };
        let gemm = NodeProto { attribute: vec![scaled], ..node("Gemm", &["x", "w"], "y") };
        let inner = GraphProto { node: vec![node("Relu", &["w"], "z")], ..GraphProto::default() };
        let branch = AttributeProto { g: Some(Box::new(inner)), ..AttributeProto::default() };
        let condition = NodeProto { attribute: vec![branch], ..node("If", &["x"], "y2") };
        let cases = [
            (vec![10, 10], vec![product()]),
            (vec![2, 100, 70], vec![product()]),
            (vec![100, 70], vec![node("MatMul", &["w", "x"], "y")]),
            (vec![100, 70], vec![product(), node("Relu", &["w"], "y2")]),
            (vec![100, 70], vec![product(), node("Gather", &["w", "x"], "y2")]),
            (vec![100, 70], vec![gemm]),
            (vec![100, 70], vec![product(), condition]),
            (vec![100, 70], vec![product(), node("Relu", &["y"], "w.scales")]),
            (vec![100, 70], vec![NodeProto { domain: Some("mine".into()), ..product() }]),
            (vec![100, 70], vec![node("MatMul", &["x", "w"], "z"), node("Identity", &["w"], "y")]),
        ];
        for (shape, nodes) in cases {
            let (capsule, graph) = one(&shape, nodes);
            let light = light(&capsule, &graph, &|_| false, Bits::Eight, 17);
            assert!(!light.differs(), "{:?}", kinds(&light));
            assert_eq!(light.graph, graph);
        }
        let (capsule, graph) = one(&[100, 70], vec![product()]);
        assert!(!light(&capsule, &graph, &|name| name == "w", Bits::Eight, 17).differs());
        assert!(light(&capsule, &graph, &|_| false, Bits::Eight, 17).differs());
    }
}

//! Element types of values of which the model states none, as far as operators tell: a capsule that is taken out as a model of
//! its own must say of which type its inputs are. (A run needs none of this: it sees the values.)

use super::proto::{
    AttributeProto, GraphProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, type_proto,
};
use super::scope::Scope;
use super::subgraph::graphs_of;
use crate::graph::element::ElementType as E;

/// Types by the names of values.
#[derive(Debug, Default)]
pub struct Types(Scope<TypeProto>);

impl Types {
    /// Adds what a graph states and what its nodes tell; to be called for graphs in the order of computation.
    pub fn learn(&mut self, graph: &GraphProto) {
        for info in graph.input.iter().chain(&graph.output).chain(&graph.value_info) {
            self.0.set(info.name(), info.r#type.clone().filter(|t| t.value.is_some()));
        }
        let sparse = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref());
        for tensor in graph.initializer.iter().chain(sparse) {
            self.0.set(tensor.name(), of_tensor(tensor));
        }
        for node in &graph.node {
            for (name, made) in node.output.iter().zip(self.outputs(node)) {
                self.0.set(name, made);
            }
        }
    }

    /// Fills in the types of `infos` that are missing and known.
    pub fn fill(&self, infos: &mut [ValueInfoProto]) {
        for info in infos.iter_mut().filter(|info| info.r#type.is_none()) {
            info.r#type = self.0.get(info.name()).cloned();
        }
    }

    /// Type of input `number` of a node, without its shape.
    fn input(&self, node: &NodeProto, number: usize) -> Option<TypeProto> {
        Some(unshaped(self.0.get(node.input.get(number)?)?))
    }

    /// Types of all outputs of a node: a graph in it is looked at once.
    fn outputs(&mut self, node: &NodeProto) -> Vec<Option<TypeProto>> {
        let own = matches!(node.domain(), "" | "ai.onnx");
        let mut given = match graphs_of(node).next() {
            Some(body) if own => self.inside(body),
            _ => return (0..node.output.len()).map(|number| self.output(node, number)).collect(),
        };
        if node.op_type() == "Loop" && !given.is_empty() {
            // The first output of a body says whether the loop goes on.
            given.remove(0);
        }
        given.resize(node.output.len(), None);
        given
    }

    /// Type of output `number` of a node without graphs in it.
    fn output(&self, node: &NodeProto, number: usize) -> Option<TypeProto> {
        if !matches!(node.domain(), "" | "ai.onnx" | "com.microsoft") {
            return None;
        }
        let input = |k| self.input(node, k);
        let sequence = |of: Option<TypeProto>| {
            let inner = type_proto::Sequence { elem_type: Some(Box::new(of?)) };
            Some(TypeProto {
                value: Some(type_proto::Value::SequenceType(Box::new(inner))),
                denotation: None,
            })
        };
        match node.op_type() {
            "Shape" | "Size" | "NonZero" | "ArgMax" | "ArgMin" | "NonMaxSuppression" | "SequenceLength" => {
                plain(E::Int64)
            }
            "Equal" | "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual" | "And" | "Or" | "Xor"
            | "Not" | "IsNaN" | "IsInf" | "OptionalHasElement" | "RegexFullMatch" => plain(E::Bool),
            "MatMulInteger" | "ConvInteger" => plain(E::Int32),
            "TfIdfVectorizer" => plain(E::Float32),
            "Cast" => number_of(node, "to").and_then(plain),
            "CastLike" | "Where" | "DequantizeLinear" => input(1),
            "OneHot" => input(2),
            "QLinearMatMul" | "QLinearConv" => input(7),
            "DynamicQuantizeLinear" => {
                if number == 1 {
                    input(0)
                } else {
                    plain(E::Uint8)
                }
            }
            "QuantizeLinear" => number_of(node, "output_dtype")
                .and_then(plain)
                .or_else(|| input(2))
                .or_else(|| plain(E::Uint8)),
            "Constant" | "ConstantOfShape" => constant(node),
            "RandomNormal" | "RandomUniform" => number_of(node, "dtype").or(Some(E::Float32)).and_then(plain),
            "Multinomial" => number_of(node, "dtype").or(Some(E::Int32)).and_then(plain),
            "RandomNormalLike" | "RandomUniformLike" | "EyeLike" | "Bernoulli" => {
                number_of(node, "dtype").and_then(plain).or_else(|| input(0))
            }
            "HannWindow" | "HammingWindow" | "BlackmanWindow" | "MelWeightMatrix" => {
                number_of(node, "output_datatype").or(Some(E::Float32)).and_then(plain)
            }
            "TopK" | "Unique" | "MaxPool" | "StringSplit" if number > 0 => plain(E::Int64),
            "Dropout" if number > 0 => plain(E::Bool),
            "LayerNormalization" if number > 0 => plain(E::Float32),
            "SequenceConstruct" | "SplitToSequence" => sequence(input(0)),
            "SequenceEmpty" => sequence(number_of(node, "dtype").or(Some(E::Float32)).and_then(plain)),
            "SequenceAt" | "ConcatFromSequence" | "OptionalGetElement" => inner(&input(0)?),
            "Optional" => None,
            _ => input(0),
        }
    }

    /// Types of what a graph in a node gives.
    fn inside(&mut self, body: &GraphProto) -> Vec<Option<TypeProto>> {
        let hidden = self.0.enter(body);
        self.learn(body);
        let given = body.output.iter().map(|output| self.0.get(output.name()).map(unshaped)).collect();
        self.0.leave(hidden);
        given
    }
}

fn plain(element: E) -> Option<TypeProto> {
    let tensor = type_proto::Tensor { elem_type: Some(element.onnx()), shape: None };
    Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None })
}

fn of_tensor(tensor: &TensorProto) -> Option<TypeProto> {
    E::from_onnx(tensor.data_type()).and_then(plain)
}

/// The type without what it says of shapes, which operators change.
fn unshaped(info: &TypeProto) -> TypeProto {
    let mut info = info.clone();
    if let Some(type_proto::Value::TensorType(tensor)) = &mut info.value {
        tensor.shape = None;
    }
    info
}

fn inner(info: &TypeProto) -> Option<TypeProto> {
    match info.value.as_ref()? {
        type_proto::Value::SequenceType(inner) | type_proto::Value::OptionalType(inner) => {
            inner.elem_type.as_deref().map(unshaped)
        }
        _ => Some(info.clone()),
    }
}

fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|a| a.name() == name)
}

fn number_of(node: &NodeProto, name: &str) -> Option<E> {
    E::from_onnx(i32::try_from(attribute(node, name)?.i?).ok()?)
}

fn constant(node: &NodeProto) -> Option<TypeProto> {
    if let Some(tensor) = attribute(node, "value").and_then(|a| a.t.as_deref()) {
        return of_tensor(tensor);
    }
    let element = match node.attribute.first().map(|a| a.name()) {
        Some("value_int" | "value_ints") => E::Int64,
        Some("value_string" | "value_strings") => E::String,
        // Also of ConstantOfShape without a value.
        Some("value_float" | "value_floats") | None => E::Float32,
        _ => return None,
    };
    plain(element)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_follow_the_nodes() {
        let node = |op: &str, inputs: &[&str], outputs: &[&str]| NodeProto {
            op_type: Some(op.into()),
            input: inputs.iter().map(|n| (*n).to_owned()).collect(),
            output: outputs.iter().map(|n| (*n).to_owned()).collect(),
            ..NodeProto::default()
        };
        let info = |name: &str| ValueInfoProto { name: Some(name.into()), ..ValueInfoProto::default() };
        let cast = NodeProto {
            attribute: vec![AttributeProto {
                name: Some("to".into()),
                i: Some(10),
                ..AttributeProto::default()
            }],
            ..node("Cast", &["x"], &["c"])
        };
        let graph = GraphProto {
            input: vec![ValueInfoProto { r#type: plain(E::Float64), ..info("x") }],
            node: vec![
                cast,
                node("Shape", &["x"], &["s"]),
                node("Greater", &["x", "x"], &["g"]),
                node("Where", &["g", "c", "c"], &["w"]),
                node("SequenceConstruct", &["w"], &["q"]),
                node("SequenceAt", &["q", "s"], &["a"]),
                node("TopK", &["x", "s"], &["v", "i"]),
                NodeProto { domain: Some("own".into()), ..node("Odd", &["x"], &["o"]) },
            ],
            ..GraphProto::default()
        };
        let mut types = Types::default();
        types.learn(&graph);
        let wanted = [("c", 10), ("s", 7), ("g", 9), ("w", 10), ("a", 10), ("v", 11), ("i", 7)];
        for (name, number) in wanted {
            let mut infos = [info(name)];
            types.fill(&mut infos);
            assert_eq!(infos[0].r#type, E::from_onnx(number).and_then(plain), "{name}");
        }
        let mut infos = [info("o")];
        types.fill(&mut infos);
        assert_eq!(infos[0].r#type, None);
    }
}

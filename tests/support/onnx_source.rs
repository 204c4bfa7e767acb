//! Small ONNX models for tests, built from the library's own messages: the same seed always gives the same bytes.
#![allow(dead_code, clippy::expect_used, clippy::unwrap_used)]

use capsulegraph::convert::onnx::proto::{
    AttributeProto, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, attribute_type, dimension, type_proto,
};
use capsulegraph::graph::element::ElementType;
use prost::Message;

/// Number of the element type float32.
pub const FLOAT: i32 = 1;

/// A named tensor with raw data.
pub fn raw(name: &str, data_type: i32, dims: &[i64], data: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.into()),
        data_type: Some(data_type),
        dims: dims.to_vec(),
        raw_data: Some(data.into()),
        ..TensorProto::default()
    }
}

/// A float32 matrix whose elements `seed` chooses.
pub fn matrix(name: &str, rows: i64, cols: i64, seed: u32) -> TensorProto {
    let value = |i: u32| (f64::from(i.wrapping_mul(2_654_435_761) ^ seed) / f64::from(u32::MAX) - 0.5) as f32;
    let data = (0..(rows * cols) as u32).flat_map(|i| value(i ^ seed << 7).to_le_bytes()).collect();
    raw(name, FLOAT, &[rows, cols], data)
}

/// A tensor whose data is in another file.
pub fn external(mut tensor: TensorProto, location: &str, offset: u64, len: Option<u64>) -> TensorProto {
    let entry =
        |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
    tensor.external_data = vec![entry("location", location.into()), entry("offset", offset.to_string())];
    tensor.external_data.extend(len.map(|len| entry("length", len.to_string())));
    tensor.raw_data = None;
    tensor.data_location = Some(1);
    tensor
}

/// Dimensions: lengths, and where they are negative or 0 names: n1 for -1, n for 0.
pub type Dims<'a> = &'a [i64];

/// A tensor type.
pub fn tensor_type(element: ElementType, dims: Option<Dims<'_>>) -> TypeProto {
    let dim = |dim: &i64| Dimension {
        value: Some(match dim {
            1.. => dimension::Value::DimValue(*dim),
            0 => dimension::Value::DimParam("n".into()),
            _ => dimension::Value::DimParam(format!("n{}", -dim)),
        }),
        denotation: None,
    };
    let shape = dims.map(|dims| TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(element.onnx()), shape };
    TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None }
}

/// A value of this type.
pub fn info(name: &str, known: TypeProto) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.into()), r#type: Some(known), ..ValueInfoProto::default() }
}

/// An input or output of float32 with these dimensions.
pub fn port(name: &str, dims: Dims<'_>) -> ValueInfoProto {
    info(name, tensor_type(ElementType::Float32, Some(dims)))
}

/// An attribute that is a number.
pub fn int(name: &str, value: i64) -> AttributeProto {
    let kind = Some(attribute_type::INT);
    AttributeProto { name: Some(name.into()), i: Some(value), r#type: kind, ..AttributeProto::default() }
}

/// An attribute that is a graph.
pub fn graph(name: &str, value: GraphProto) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        g: Some(Box::new(value)),
        r#type: Some(attribute_type::GRAPH),
        ..AttributeProto::default()
    }
}

/// A node without attributes.
pub fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    NodeProto {
        op_type: Some(op.into()),
        input: owned(inputs),
        output: owned(outputs),
        ..NodeProto::default()
    }
}

/// A Constant node.
pub fn constant(output: &str, tensor: TensorProto) -> NodeProto {
    let attribute = AttributeProto {
        name: Some("value".into()),
        r#type: Some(attribute_type::TENSOR),
        t: Some(Box::new(tensor)),
        ..AttributeProto::default()
    };
    NodeProto { attribute: vec![attribute], ..node("Constant", &[], &[output]) }
}

/// An If node with these branches.
pub fn branches(condition: &str, output: &str, then: GraphProto, other: GraphProto) -> NodeProto {
    NodeProto {
        attribute: vec![graph("then_branch", then), graph("else_branch", other)],
        ..node("If", &[condition], &[output])
    }
}

/// A model of format 9 and operators 18.
pub fn model(graph: GraphProto) -> ModelProto {
    let opset = OperatorSetIdProto { domain: Some(String::new()), version: Some(18) };
    ModelProto {
        ir_version: Some(9),
        opset_import: vec![opset],
        graph: Some(GraphProto { name: Some("test".into()), ..graph }),
        ..ModelProto::default()
    }
}

/// `count` products with weights of 32 rows and columns, one after the other.
pub fn chain(count: usize) -> ModelProto {
    let mut graph = GraphProto { input: vec![port("x", &[0, 32])], ..GraphProto::default() };
    let mut last = "x".to_owned();
    for number in 0..count {
        let (weight, made) = (format!("w{number}"), format!("y{number}"));
        graph.initializer.push(matrix(&weight, 32, 32, number as u32));
        graph.node.push(node("MatMul", &[&last, &weight], &[&made]));
        last = made;
    }
    graph.output = vec![port(&last, &[0, 32])];
    model(graph)
}

/// A model with something of everything that the importer looks at: weights inside and in subgraphs, a Constant, a branch,
/// a default, a chain of constant nodes, numbers in typed fields, a value read by several nodes.
pub fn varied() -> ModelProto {
    let numbers = TensorProto {
        name: Some("typed".into()),
        data_type: Some(FLOAT),
        dims: vec![32],
        float_data: (0..32).flat_map(|i| (i as f32).to_le_bytes()).collect::<Vec<u8>>().into(),
        ..TensorProto::default()
    };
    let scalar = |name: &str| raw(name, FLOAT, &[], 0.5f32.to_le_bytes().to_vec());
    let branch = |weight: TensorProto, made: &str| GraphProto {
        name: Some("branch".into()),
        node: vec![node("MatMul", &["a", "w"], &["inner"]), node("Add", &["inner", "typed"], &[made])],
        output: vec![port(made, &[0, 32])],
        initializer: vec![weight],
        ..GraphProto::default()
    };
    let graph = GraphProto {
        input: vec![port("x", &[0, 32]), port("bias", &[32])],
        initializer: vec![
            matrix("weight", 32, 32, 1),
            numbers,
            raw("bias", FLOAT, &[32], vec![0; 128]),
            raw("yes", 9, &[], vec![1]),
        ],
        node: vec![
            constant("constant", matrix("", 32, 32, 2)),
            constant("half", scalar("")),
            node("Mul", &["weight", "half"], &["scaled"]),
            node("MatMul", &["x", "scaled"], &["p"]),
            node("Add", &["p", "bias"], &["a"]),
            branches("yes", "b", branch(matrix("w", 32, 32, 4), "t"), branch(matrix("w", 32, 32, 5), "e")),
            node("MatMul", &["b", "constant"], &["c"]),
            node("MatMul", &["c", "weight"], &["d"]),
            node("Add", &["d", "x"], &["y"]),
        ],
        output: vec![port("y", &[0, 32])],
        ..GraphProto::default()
    };
    model(graph)
}

/// The model's bytes.
pub fn bytes(model: &ModelProto) -> Vec<u8> {
    model.encode_to_vec()
}

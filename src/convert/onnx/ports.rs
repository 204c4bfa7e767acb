//! What a model takes and gives, as the manifest has it.

use super::graph::Graph;
use super::proto::{TypeProto, ValueInfoProto, dimension, type_proto};
use crate::graph::element::ElementType;
use crate::graph::onnx::{OnnxDim, OnnxInfo, OnnxKind, OnnxOpset, OnnxPort};

/// The interface of a model.
#[must_use]
pub fn info_of(graph: &Graph) -> OnnxInfo {
    let head = &graph.head;
    let opset = |o: &super::proto::OperatorSetIdProto| OnnxOpset {
        domain: o.domain().to_owned(),
        version: o.version(),
    };
    let given = graph.values.iter().filter(|value| value.given);
    let defaults: std::collections::HashMap<&str, bool> =
        given.map(|value| (value.name.as_str(), value.initializer.is_some())).collect();
    let ports = head.graph.as_ref();
    let inputs = ports.iter().flat_map(|g| &g.input).filter_map(|info| {
        let optional = *defaults.get(info.name())?;
        Some(OnnxPort { optional, ..port(info) })
    });
    OnnxInfo {
        ir_version: head.ir_version(),
        opsets: head.opset_import.iter().map(opset).collect(),
        inputs: inputs.collect(),
        outputs: ports.iter().flat_map(|g| &g.output).map(port).collect(),
    }
}

fn port(info: &ValueInfoProto) -> OnnxPort {
    let kind = match info.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        None | Some(type_proto::Value::TensorType(_)) => OnnxKind::Tensor,
        Some(type_proto::Value::SequenceType(_)) => OnnxKind::Sequence,
        Some(type_proto::Value::MapType(_)) => OnnxKind::Map,
        Some(type_proto::Value::SparseTensorType(_)) => OnnxKind::Sparse,
        Some(type_proto::Value::OptionalType(_)) => OnnxKind::Optional,
    };
    let tensor = info.r#type.as_ref().and_then(innermost);
    let element = tensor.and_then(|t| ElementType::from_onnx(t.elem_type()));
    let shape = tensor.and_then(|t| t.shape.as_ref()).map(|shape| {
        let dim = |dim: &super::proto::Dimension| match &dim.value {
            Some(dimension::Value::DimValue(n)) => u64::try_from(*n).map_or(OnnxDim::Any(()), OnnxDim::Fixed),
            Some(dimension::Value::DimParam(name)) if !name.is_empty() => OnnxDim::Named(name.clone()),
            _ => OnnxDim::Any(()),
        };
        shape.dim.iter().map(dim).collect()
    });
    OnnxPort { name: info.name().to_owned(), kind, element, shape, optional: false }
}

/// The tensor type inside sequences, optional values and maps.
fn innermost(mut info: &TypeProto) -> Option<&type_proto::Tensor> {
    loop {
        info = match info.value.as_ref()? {
            type_proto::Value::TensorType(tensor) | type_proto::Value::SparseTensorType(tensor) => {
                return Some(tensor);
            }
            type_proto::Value::SequenceType(inner) | type_proto::Value::OptionalType(inner) => {
                inner.elem_type.as_deref()?
            }
            type_proto::Value::MapType(map) => map.value_type.as_deref()?,
        };
    }
}

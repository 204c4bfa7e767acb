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
    // A value of a map is one number.
    let mapped = matches!(kind, OnnxKind::Map)
        || info.r#type.as_ref().is_some_and(|own| text_of(own).contains("map("));
    let shape = tensor.filter(|_| !mapped).and_then(|t| t.shape.as_ref()).map(|shape| {
        let dim = |dim: &super::proto::Dimension| match &dim.value {
            Some(dimension::Value::DimValue(n)) => u64::try_from(*n).map_or(OnnxDim::Any(()), OnnxDim::Fixed),
            Some(dimension::Value::DimParam(name)) if !name.is_empty() => OnnxDim::Named(name.clone()),
            _ => OnnxDim::Any(()),
        };
        shape.dim.iter().map(dim).collect()
    });
    let type_name = info.r#type.as_ref().filter(|own| !is_plain(own)).map(text_of);
    OnnxPort { name: info.name().to_owned(), kind, type_name, element, shape, optional: false }
}

/// Whether kind and element type say all of it.
fn is_plain(info: &TypeProto) -> bool {
    match &info.value {
        None | Some(type_proto::Value::TensorType(_) | type_proto::Value::SparseTensorType(_)) => true,
        Some(type_proto::Value::SequenceType(inner) | type_proto::Value::OptionalType(inner)) => {
            let inner = inner.elem_type.as_ref().and_then(|inner| inner.value.as_ref());
            matches!(inner, None | Some(type_proto::Value::TensorType(_)))
        }
        Some(type_proto::Value::MapType(_)) => false,
    }
}

/// A type in words.
fn text_of(info: &TypeProto) -> String {
    let element = |number: i32| ElementType::from_onnx(number).map_or("any type", ElementType::name);
    let inner =
        |inner: &Option<Box<TypeProto>>| inner.as_deref().map_or_else(|| "any type".to_owned(), text_of);
    match &info.value {
        None => "any type".to_owned(),
        Some(type_proto::Value::TensorType(tensor)) => element(tensor.elem_type()).to_owned(),
        Some(type_proto::Value::SparseTensorType(tensor)) => {
            format!("sparse of {}", element(tensor.elem_type()))
        }
        Some(type_proto::Value::SequenceType(own)) => format!("sequence of {}", inner(&own.elem_type)),
        Some(type_proto::Value::OptionalType(own)) => format!("optional of {}", inner(&own.elem_type)),
        Some(type_proto::Value::MapType(map)) => {
            format!("map({} -> {})", element(map.key_type()), inner(&map.value_type))
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_that_hold_others_are_named_in_whole() {
        let of = |value| TypeProto { value: Some(value), denotation: None };
        let tensor =
            || of(type_proto::Value::TensorType(type_proto::Tensor { elem_type: Some(1), shape: None }));
        let boxed = |inner| Box::new(type_proto::Sequence { elem_type: Some(Box::new(inner)) });
        let map = |inner| {
            let map = type_proto::Map { key_type: Some(7), value_type: Some(Box::new(inner)) };
            of(type_proto::Value::MapType(Box::new(map)))
        };
        let sequence = |inner| of(type_proto::Value::SequenceType(boxed(inner)));
        let optional = |inner| of(type_proto::Value::OptionalType(boxed(inner)));
        for (known, name, text) in [
            (tensor(), false, "float32"),
            (sequence(tensor()), false, "sequence of float32"),
            (optional(tensor()), false, "optional of float32"),
            (map(tensor()), true, "map(int64 -> float32)"),
            (sequence(map(tensor())), true, "sequence of map(int64 -> float32)"),
            (optional(sequence(tensor())), true, "optional of sequence of float32"),
        ] {
            let info = ValueInfoProto { r#type: Some(known), ..ValueInfoProto::default() };
            let port = port(&info);
            assert_eq!((port.type_text().as_str(), port.type_name.is_some()), (text, name));
        }
    }
}

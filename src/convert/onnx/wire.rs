//! Decoding a model from its bytes, and before that, what decoding would take: a message of two bytes becomes hundreds
//! in memory, so a crafted file must be refused before it is decoded.

use bytes::Bytes;
use prost::{DecodeError, Message};

use super::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, SparseTensorProto,
    StringStringEntryProto, TensorProto, TrainingInfoProto, TypeProto, ValueInfoProto,
};
use crate::error::{Error, Result};

/// Memory that a decoded model may take beside the data of its tensors, which stay in the file.
const MAX_DECODED: u64 = 1 << 30;
/// Messages inside each other at most: as deep as protobuf's own readers go, some 30 graphs.
const MAX_DEPTH: usize = 100;

/// The messages whose fields are gone through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    ValueInfo,
    Type,
    /// Element type and shape of a tensor.
    Shaped,
    Shape,
    /// A sequence, an optional value or a map.
    Wrapped,
    Function,
    Training,
    /// Small messages of strings and numbers.
    Small,
}

impl Kind {
    /// The message in field `tag`; `None` where it holds a number, a string or the data of a tensor.
    fn child(self, tag: u64) -> Option<Self> {
        Some(match (self, tag) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) | (Self::Training, 1 | 2) => Self::Graph,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Node, 5) | (Self::Function, 11) => Self::Attribute,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::Sparse, 1 | 2) => Self::Tensor,
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::Sparse,
            (Self::Graph, 11..=13) | (Self::Function, 12) => Self::ValueInfo,
            (Self::ValueInfo, 2) | (Self::Attribute, 14 | 15) | (Self::Wrapped, 1 | 2) => Self::Type,
            (Self::Type, 1 | 8) => Self::Shaped,
            (Self::Type, 4 | 5 | 9) => Self::Wrapped,
            (Self::Shaped, 2) => Self::Shape,
            (Self::Model, 25) => Self::Function,
            (Self::Model, 20) => Self::Training,
            (Self::Model, 8 | 14 | 26)
            | (Self::Graph, 14 | 16)
            | (Self::Node, 9 | 10)
            | (Self::Tensor, 3 | 13 | 16)
            | (Self::Shape, 1)
            | (Self::ValueInfo, 4)
            | (Self::Function, 9 | 14)
            | (Self::Training, 3 | 4) => Self::Small,
            _ => return None,
        })
    }

    /// Bytes of the decoded message itself.
    fn size(self) -> usize {
        match self {
            Self::Model => size_of::<ModelProto>(),
            Self::Graph => size_of::<GraphProto>(),
            Self::Node => size_of::<NodeProto>(),
            Self::Attribute => size_of::<AttributeProto>(),
            Self::Tensor => size_of::<TensorProto>(),
            Self::Sparse => size_of::<SparseTensorProto>(),
            Self::ValueInfo => size_of::<ValueInfoProto>(),
            Self::Type | Self::Shaped | Self::Shape | Self::Wrapped => size_of::<TypeProto>(),
            Self::Function => size_of::<FunctionProto>(),
            Self::Training => size_of::<TrainingInfoProto>(),
            Self::Small => size_of::<StringStringEntryProto>(),
        }
    }

    /// Bytes that a field of `len` bytes, which is no message, takes when it is decoded.
    fn leaf(self, tag: u64, len: u64) -> u64 {
        const HANDLE: u64 = 48;
        match (self, tag) {
            // Borrowed.
            (Self::Tensor, 4..=7 | 9..=11) | (Self::Attribute, 4 | 9) => HANDLE,
            // Packed numbers of a byte or more become eight.
            (Self::Tensor, 1) | (Self::Attribute, 7 | 8) | (Self::Sparse, 3) | (Self::Small, _) => {
                HANDLE + len.saturating_mul(8)
            }
            _ => HANDLE.saturating_add(len),
        }
    }
}

/// Decodes a model; the data of its tensors stays in `bytes`.
///
/// # Errors
/// [`Error::Malformed`] naming `name` where `bytes` are no protobuf message of ONNX's schema or are nested too deeply;
/// [`Error::Limit`] where the model would take more than a gigabyte without that data.
pub fn decode(bytes: Bytes, name: &str) -> Result<ModelProto> {
    check(Kind::Model, &bytes, name)?;
    ModelProto::decode(bytes).map_err(|why| invalid(&why, name))
}

/// As [`decode`], for a graph alone.
///
/// # Errors
/// Those of [`decode`].
pub fn decode_graph(bytes: Bytes, name: &str) -> Result<GraphProto> {
    check(Kind::Graph, &bytes, name)?;
    GraphProto::decode(bytes).map_err(|why| invalid(&why, name))
}

fn check(kind: Kind, bytes: &[u8], name: &str) -> Result<()> {
    let needed = decoded_size(kind, bytes).map_err(|why| Error::malformed(name, why))?;
    if needed > MAX_DECODED {
        return Err(Error::Limit(format!(
            "{name}: its graph would take {} MiB of memory without the weights; at most {} are possible",
            needed >> 20,
            MAX_DECODED >> 20
        )));
    }
    Ok(())
}

fn invalid(why: &DecodeError, name: &str) -> Error {
    Error::malformed(name, format!("it is not a valid ONNX model: {why}; export or copy the model again"))
}

/// Memory that the decoded model takes. Goes through the fields without recursion, and skips the data of tensors.
fn decoded_size(kind: Kind, bytes: &[u8]) -> Result<u64, String> {
    let mut total = kind.size() as u64;
    let mut open = vec![(kind, bytes.len())];
    let mut at = 0;
    while let Some(&(kind, end)) = open.last() {
        if at >= end {
            open.pop();
            continue;
        }
        let place = at;
        let ends_early =
            || format!("it ends inside the field at byte {place}; export or copy the model again");
        let key = varint(bytes, &mut at, end).ok_or_else(ends_early)?;
        let tag = key >> 3;
        let len = match key & 7 {
            0 => {
                varint(bytes, &mut at, end).ok_or_else(ends_early)?;
                total = total.saturating_add(16);
                continue;
            }
            1 => 8,
            2 => varint(bytes, &mut at, end).ok_or_else(ends_early)?,
            5 => 4,
            wire => {
                return Err(format!(
                    "the field at byte {place} is of wire type {wire}, which ONNX does not use"
                ));
            }
        };
        let stop = usize::try_from(len).ok().and_then(|len| at.checked_add(len));
        let stop = stop.filter(|stop| *stop <= end).ok_or_else(ends_early)?;
        match kind.child(tag).filter(|_| key & 7 == 2) {
            Some(child) => {
                total = total.saturating_add(child.size() as u64 + 16);
                if open.len() >= MAX_DEPTH {
                    return Err(format!("its graphs or types are nested too deeply at byte {place}"));
                }
                open.push((child, stop));
            }
            None => {
                total = total.saturating_add(kind.leaf(tag, len));
                at = stop;
            }
        }
    }
    Ok(total)
}

fn varint(bytes: &[u8], at: &mut usize, end: usize) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = bytes.get(*at..end)?.first()?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::onnx::proto::{Dimension, TensorShapeProto, attribute_type, dimension, type_proto};

    fn model(graph: GraphProto) -> ModelProto {
        ModelProto { ir_version: Some(8), graph: Some(graph), ..ModelProto::default() }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let tensor = TensorProto {
            dims: vec![2, -1],
            data_type: Some(1),
            name: Some("w".into()),
            raw_data: Some(Bytes::from_static(b"12345678")),
            int64_data: vec![1, 0x80, 1].into(),
            string_data: vec![Bytes::from_static(b"\xff")],
            ..TensorProto::default()
        };
        let node = NodeProto {
            input: vec!["a".into(), String::new()],
            output: vec!["b".into()],
            attribute: vec![AttributeProto {
                name: Some("value".into()),
                i: Some(0),
                r#type: Some(attribute_type::INT),
                t: Some(Box::new(tensor.clone())),
                ..AttributeProto::default()
            }],
            ..NodeProto::default()
        };
        let graph = GraphProto { node: vec![node], initializer: vec![tensor], ..GraphProto::default() };
        let bytes = model(graph).encode_to_vec();
        let found = decode(bytes.clone().into(), "m").unwrap();
        assert_eq!(found.encode_to_vec(), bytes);
        assert_eq!(found.graph.unwrap().node[0].attribute[0].i, Some(0), "a present zero stays present");
    }

    #[test]
    fn types_of_any_nesting_are_read() {
        let dim = |value| Dimension { value: Some(value), denotation: Some("\u{7f}\u{7f}".into()) };
        let dims = vec![
            dim(dimension::Value::DimParam("batch \u{7e} size".into())),
            dim(dimension::Value::DimValue(-1)),
        ];
        let tensor = type_proto::Tensor { elem_type: Some(1), shape: Some(TensorShapeProto { dim: dims }) };
        let mut info =
            TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: Some("~~".into()) };
        for number in 0..3 {
            let inner = Some(Box::new(info));
            let value = match number {
                0 => type_proto::Value::SequenceType(Box::new(type_proto::Sequence { elem_type: inner })),
                1 => type_proto::Value::MapType(Box::new(type_proto::Map {
                    key_type: Some(8),
                    value_type: inner,
                })),
                _ => type_proto::Value::OptionalType(Box::new(type_proto::Sequence { elem_type: inner })),
            };
            info = TypeProto { value: Some(value), denotation: Some("~~~".into()) };
        }
        let input =
            ValueInfoProto { r#type: Some(info), doc_string: Some("~".into()), ..ValueInfoProto::default() };
        let bytes = model(GraphProto { input: vec![input], ..GraphProto::default() }).encode_to_vec();
        assert_eq!(decode(bytes.clone().into(), "m").unwrap().encode_to_vec(), bytes);
    }

    #[test]
    fn numbers_that_are_not_packed_are_read_in_order() {
        // float_data 1.0 alone, a packed 2.0, and 3.0 alone.
        let mut bytes = vec![0x25];
        bytes.extend(1f32.to_le_bytes());
        bytes.extend([0x22, 4]);
        bytes.extend(2f32.to_le_bytes());
        bytes.push(0x25);
        bytes.extend(3f32.to_le_bytes());
        let tensor = TensorProto::decode(Bytes::from(bytes)).unwrap();
        let found: Vec<u8> = tensor.float_data.parts().flatten().copied().collect();
        assert_eq!(found, [1f32, 2.0, 3.0].map(f32::to_le_bytes).concat());
        assert_eq!(TensorProto::decode(Bytes::from(tensor.encode_to_vec())).unwrap().float_data.len(), 12);
    }

    #[test]
    fn raw_data_is_borrowed() {
        let tensor = TensorProto { raw_data: Some(vec![7; 4096].into()), ..TensorProto::default() };
        let graph = GraphProto { initializer: vec![tensor], ..GraphProto::default() };
        let bytes = Bytes::from(model(graph).encode_to_vec());
        let found = decode(bytes.clone(), "m").unwrap();
        let raw = found.graph.unwrap().initializer[0].raw_data.clone().unwrap();
        assert!(bytes.as_ptr_range().contains(&raw.as_ptr()));
    }

    #[test]
    fn deep_and_numerous_messages_are_refused_before_they_are_decoded() {
        let mut inner = Vec::new();
        for _ in 0..10_000 {
            // A node, its attribute, its graph.
            for tag in [6u32, 5, 1] {
                let mut outer = Vec::new();
                prost::encoding::bytes::encode(tag, &inner, &mut outer);
                inner = outer;
            }
        }
        let mut bytes = Vec::new();
        prost::encoding::bytes::encode(7, &inner, &mut bytes);
        let error = decode(bytes.into(), "m").unwrap_err().to_string();
        assert!(error.contains("nested too deeply"), "{error}");

        let nodes = [0x0a, 0].repeat(8 << 20);
        let mut bytes = Vec::new();
        prost::encoding::bytes::encode(7, &nodes, &mut bytes);
        assert!(matches!(decode(bytes.into(), "m"), Err(Error::Limit(_))));
    }
}

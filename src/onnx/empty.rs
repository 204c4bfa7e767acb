//! Values that hold nothing: the runtime's API makes none, its operators do.

use prost::Message;

use super::api::{Answer, RunOptions, Runtime, Session, SessionSettings};
use super::value::Value;
use crate::convert::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TypeProto, ValueInfoProto,
    type_proto,
};
use crate::error::{Error, Result};

/// The first operator set whose optional values hold tensors and sequences alike.
const OPSET: i64 = 18;
/// The version of ONNX's format that came with it.
const IR_VERSION: i64 = 8;
/// `AttributeProto.AttributeType.TYPE_PROTO`.
const TYPE_PROTO: i32 = 13;
/// `AttributeProto.AttributeType.INT`.
const INT: i32 = 2;

/// The value of type `known` that holds nothing: an absent optional one, or an empty sequence of tensors.
///
/// # Errors
/// [`Error::InvalidArgument`] of other types.
pub(super) fn empty(runtime: &'static Runtime, name: &str, known: &TypeProto) -> Result<Value> {
    let attribute = |name: &str| AttributeProto { name: Some(name.into()), ..AttributeProto::default() };
    let node = match &known.value {
        Some(type_proto::Value::OptionalType(inner)) => NodeProto {
            op_type: Some("Optional".into()),
            attribute: vec![AttributeProto {
                tp: inner.elem_type.clone(),
                r#type: Some(TYPE_PROTO),
                ..attribute("type")
            }],
            ..NodeProto::default()
        },
        Some(type_proto::Value::SequenceType(inner)) => {
            let element = match inner.elem_type.as_ref().and_then(|inner| inner.value.as_ref()) {
                Some(type_proto::Value::TensorType(tensor)) => tensor.elem_type,
                _ => None,
            };
            let element = element
                .ok_or_else(|| Error::Unsupported(format!("input \"{name}\": a sequence of no tensors")))?;
            NodeProto {
                op_type: Some("SequenceEmpty".into()),
                attribute: vec![AttributeProto {
                    i: Some(i64::from(element)),
                    r#type: Some(INT),
                    ..attribute("dtype")
                }],
                ..NodeProto::default()
            }
        }
        _ => {
            return Err(Error::InvalidArgument(format!(
                "input \"{name}\" takes neither a sequence nor an optional value: it cannot hold nothing"
            )));
        }
    };
    let made = compute(runtime, NodeProto { output: vec!["nothing".into()], ..node }, known);
    made.map_err(|refused| refused.error(&format!("make an empty value for input \"{name}\"")))
}

fn compute(runtime: &'static Runtime, node: NodeProto, known: &TypeProto) -> Answer<Value> {
    let output = ValueInfoProto {
        name: Some("nothing".into()),
        r#type: Some(known.clone()),
        ..ValueInfoProto::default()
    };
    let model = ModelProto {
        ir_version: Some(IR_VERSION),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(OPSET) }],
        graph: Some(GraphProto {
            name: Some("empty".into()),
            node: vec![node],
            output: vec![output],
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    };
    let settings = SessionSettings { optimization: false, prepack: false };
    let session = Session::new(runtime, &model.encode_to_vec(), Vec::new(), settings, [&[], &["nothing"]])?;
    let mut made = session.run(&RunOptions::new(runtime)?, &[])?;
    Value::of(made.pop().ok_or_else(super::api::nothing)?)
}

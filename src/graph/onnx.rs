//! What an ONNX model takes and gives.

use serde::{Deserialize, Serialize};

use super::element::ElementType;

/// An ONNX model's interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OnnxInfo {
    /// Version of ONNX's file format.
    pub ir_version: i64,
    /// Operator sets that the model is written in.
    pub opsets: Vec<OnnxOpset>,
    /// What the model takes, in its own order.
    pub inputs: Vec<OnnxPort>,
    /// What it gives, in its own order.
    pub outputs: Vec<OnnxPort>,
}

/// A set of operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OnnxOpset {
    /// Its domain; empty for ONNX's own.
    pub domain: String,
    /// Its version.
    pub version: i64,
}

/// An input or output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OnnxPort {
    /// Its name.
    pub name: String,
    /// What kind of value it is.
    pub kind: OnnxKind,
    /// The whole type in words where the kind and the element type do not say it: `sequence of map(int64 -> float32)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub type_name: Option<String>,
    /// The element type: of a sequence or optional that of its tensors, of a map that of its values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub element: Option<ElementType>,
    /// Dimensions, outermost first; absent where the model leaves even their number open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Vec<OnnxDim>>,
    /// Of an input: whether the model has a default for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

impl OnnxPort {
    /// Whether it is a sequence of maps.
    #[must_use]
    pub fn is_sequence_of_maps(&self) -> bool {
        let text = self.type_name.as_deref().unwrap_or_default();
        self.kind == OnnxKind::Sequence && text.starts_with("sequence of map")
    }

    /// The type in words: `float32`, `sequence of float32`, `sequence of map(int64 -> float32)`; of any type where the model
    /// does not say which.
    #[must_use]
    pub fn type_text(&self) -> String {
        if let Some(name) = &self.type_name {
            return name.clone();
        }
        let element = self.element.map_or("any type", ElementType::name);
        match self.kind {
            OnnxKind::Tensor => element.to_owned(),
            other => format!("{} of {element}", other.name()),
        }
    }
}

/// Kinds of values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnnxKind {
    /// A dense tensor.
    #[default]
    Tensor,
    /// A sparse tensor.
    Sparse,
    /// A sequence of values.
    Sequence,
    /// A map from keys to values.
    Map,
    /// A value that may be absent.
    Optional,
}

impl OnnxKind {
    /// The kind's name in manifests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tensor => "tensor",
            Self::Sparse => "sparse",
            Self::Sequence => "sequence",
            Self::Map => "map",
            Self::Optional => "optional",
        }
    }
}

/// A dimension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum OnnxDim {
    /// Of this length.
    Fixed(u64),
    /// Of any length, the same for all dimensions of this name.
    Named(String),
    /// Of any length.
    Any(()),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_plain_json() {
        let port = OnnxPort {
            name: "x".into(),
            kind: OnnxKind::Tensor,
            type_name: None,
            element: Some(ElementType::Float32),
            shape: Some(vec![OnnxDim::Fixed(1), OnnxDim::Named("batch".into()), OnnxDim::Any(())]),
            optional: false,
        };
        let text = serde_json::to_string(&port).unwrap();
        assert_eq!(text, r#"{"name":"x","kind":"tensor","element":"float32","shape":[1,"batch",null]}"#);
        assert_eq!(serde_json::from_str::<OnnxPort>(&text).unwrap(), port);
        assert_eq!(port.type_text(), "float32");
        let sequence = OnnxPort { kind: OnnxKind::Sequence, ..port };
        assert_eq!(sequence.type_text(), "sequence of float32");
        let named = OnnxPort { type_name: Some("map(int64 -> float32)".into()), ..sequence };
        assert_eq!(named.type_text(), "map(int64 -> float32)");
    }
}

//! What a file holds, read without opening it as a model: `.cgraph` files, GGUF models and ONNX models.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::inspect_onnx;
pub use super::inspect_onnx::{OnnxCapsule, OnnxFacts, OnnxTensor};
use crate::container::disk::Disk;
use crate::container::manifest::{Asset, Capsule, FullReference, LineageStep, ModelInfo, Residence};
use crate::container::reader::Contents;
use crate::convert::gguf::{Gguf, Value, is_gguf};
use crate::convert::metadata;
use crate::convert::onnx::is_onnx;
use crate::error::Result;

/// Elements of a metadata array that are shown.
const SHOWN_ARRAY: usize = 16;

/// A file's facts.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Inspection {
    /// Of a `.cgraph` file.
    Graph(Box<GraphFacts>),
    /// Of a GGUF model.
    Gguf(Box<GgufFacts>),
    /// Of an ONNX model that is not converted.
    Onnx(Box<OnnxFacts>),
}

/// Facts of a `.cgraph` file.
#[derive(Clone, Debug, Serialize)]
pub struct GraphFacts {
    /// The file.
    pub file: String,
    /// `full` or `mini`.
    pub kind: &'static str,
    /// Format version: "0.1".
    pub format: String,
    /// Length of the file.
    pub bytes: u64,
    /// Digest of the file.
    pub digest: String,
    /// Program that wrote it.
    pub generator: String,
    /// Features that a reader must know.
    pub requires: Vec<String>,
    /// The model.
    pub model: ModelInfo,
    /// Number of capsules.
    pub capsule_count: usize,
    /// Of a mini: capsules by what it holds of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub residences: Option<BTreeMap<&'static str, Group>>,
    /// Of a mini: how often its most likely token is the full file's, 0 to 1, where that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
    /// Stored tensors by encoding.
    pub encodings: BTreeMap<String, Group>,
    /// Those of them whose bits are divided between two planes, by how: of a mini the first planes alone may be stored.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub divisions: BTreeMap<String, Group>,
    /// Binary assets.
    pub assets: Vec<Asset>,
    /// How the file came to be.
    pub lineage: Vec<LineageStep>,
    /// Of a mini: its full file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full: Option<FullReference>,
    /// Every capsule, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capsules: Option<Vec<Capsule>>,
}

/// Facts of a GGUF model.
#[derive(Clone, Debug, Serialize)]
pub struct GgufFacts {
    /// The file.
    pub file: String,
    /// `gguf`.
    pub kind: &'static str,
    /// Files of the model.
    pub shards: usize,
    /// Architecture, as the file names it.
    pub arch: String,
    /// Name, as the file has it.
    pub name: String,
    /// Tokens of its vocabulary.
    pub vocab_tokens: usize,
    /// Number of tensors.
    pub tensor_count: usize,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Tensors by encoding.
    pub encodings: BTreeMap<String, Group>,
    /// Metadata; of long arrays only their length.
    pub metadata: serde_json::Value,
    /// Every tensor, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensors: Option<Vec<GgufTensor>>,
}

/// A tensor of a GGUF model.
#[derive(Clone, Debug, Serialize)]
pub struct GgufTensor {
    /// Its name.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// How its elements are stored.
    pub encoding: &'static str,
    /// Bytes.
    pub bytes: u64,
}

/// Things of one kind, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Group {
    /// How many.
    pub count: usize,
    /// Their stored bytes.
    pub bytes: u64,
}

impl Group {
    pub(super) fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// The facts of the file at `path`; `details` lists every capsule (of a GGUF model, every tensor; of an ONNX model, the capsules
/// that it would be cut into).
///
/// # Errors
/// Those of reading the file's structure.
pub fn inspect(path: &Path, disk: &Arc<dyn Disk>, details: bool) -> Result<Inspection> {
    if is_gguf(path, disk.as_ref())? {
        let gguf = Gguf::open(disk.as_ref(), path)?;
        return Ok(Inspection::Gguf(Box::new(gguf_facts(&gguf, details))));
    }
    if is_onnx(path, disk.as_ref())? {
        return Ok(Inspection::Onnx(Box::new(inspect_onnx::facts(path, disk, details)?)));
    }
    Ok(inspect_contents(Contents::read(disk.open(path)?.as_ref())?, details))
}

/// The facts of a `.cgraph` file that was read already.
#[must_use]
pub fn inspect_contents(contents: Contents, details: bool) -> Inspection {
    Inspection::Graph(Box::new(graph_facts(contents, details)))
}

fn graph_facts(contents: Contents, details: bool) -> GraphFacts {
    let Contents { name, header, manifest, digest } = contents;
    let [mut encodings, mut divisions] = [const { BTreeMap::<String, Group>::new() }; 2];
    for tensor in manifest.capsules.iter().flat_map(|c| &c.tensors).filter(|t| !t.planes.is_empty()) {
        let bytes = tensor.planes.iter().map(|plane| plane.len).sum();
        encodings.entry(tensor.encoding.clone()).or_default().add(bytes);
        if let Some(division) = &tensor.division {
            divisions.entry(division.clone()).or_default().add(bytes);
        }
    }
    let agreement = manifest.plan.as_ref().and_then(|plan| plan.agreement);
    let residences = manifest.full.is_some().then(|| {
        let all = [Residence::Pinned, Residence::Light, Residence::Nested, Residence::Linked];
        let mut groups: BTreeMap<_, _> = all.map(|r| (r.name(), Group::default())).into();
        for capsule in &manifest.capsules {
            let residence = capsule.residence.map_or("pinned", Residence::name);
            groups.entry(residence).or_default().add(capsule.stored_bytes());
        }
        groups
    });
    GraphFacts {
        file: name,
        kind: header.kind.name(),
        format: format!("{}.{}", header.version.0, header.version.1),
        bytes: header.file_len,
        digest,
        generator: manifest.generator,
        requires: manifest.requires,
        model: manifest.model,
        capsule_count: manifest.capsules.len(),
        residences,
        agreement,
        encodings,
        divisions,
        assets: manifest.assets,
        lineage: manifest.lineage,
        full: manifest.full,
        capsules: details.then_some(manifest.capsules),
    }
}

fn gguf_facts(gguf: &Gguf, details: bool) -> GgufFacts {
    let text = |key: &str| gguf.metadata(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut encodings = BTreeMap::<String, Group>::new();
    for tensor in gguf.tensors() {
        encodings.entry(tensor.encoding.name.to_owned()).or_default().add(tensor.len);
    }
    let tensors = gguf.tensors().iter().map(|t| GgufTensor {
        name: t.name.clone(),
        shape: t.shape.clone(),
        encoding: t.encoding.name,
        bytes: t.len,
    });
    GgufFacts {
        file: gguf.name(),
        kind: "gguf",
        shards: gguf.shard_count(),
        arch: text("general.architecture"),
        name: text("general.name"),
        vocab_tokens: metadata::vocab_len(gguf),
        tensor_count: gguf.tensors().len(),
        tensor_bytes: gguf.tensors().iter().map(|t| t.len).sum(),
        encodings,
        metadata: metadata::preserved(gguf, SHOWN_ARRAY),
        tensors: details.then(|| tensors.collect()),
    }
}

//! What an ONNX model holds that is not converted yet, and what it would be cut into.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::inspect::Group;
use crate::container::disk::Disk;
use crate::convert::import::ConvertOptions;
use crate::convert::onnx::cut::CutOptions;
use crate::convert::onnx::graph::{Graph, Initializer};
use crate::convert::onnx::import::{KIND, OnnxModel};
use crate::convert::onnx::segment::{Segment, segments};
use crate::error::Result;
use crate::graph::onnx::OnnxInfo;

/// Facts of an ONNX model.
#[derive(Clone, Debug, Serialize)]
pub struct OnnxFacts {
    /// The file.
    pub file: String,
    /// `onnx`.
    pub kind: &'static str,
    /// Files of the model: itself and those of its external data.
    pub files: usize,
    /// Program that wrote it, as it says itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub producer: String,
    /// Format, operator sets, inputs and outputs.
    pub onnx: OnnxInfo,
    /// Nodes of its graph; those of the graphs in them are not counted.
    pub node_count: usize,
    /// Functions that it defines.
    pub function_count: usize,
    /// Number of weights: tensors that capsules would hold.
    pub tensor_count: usize,
    /// Bytes of all weights.
    pub tensor_bytes: u64,
    /// Weights by element type.
    pub encodings: BTreeMap<String, Group>,
    /// Weights of a capsule at most, in bytes, where a conversion is told nothing else.
    pub capsule_bytes: u64,
    /// Capsules that it would be cut into.
    pub capsule_count: usize,
    /// Bytes of the largest capsule's weights.
    pub largest_capsule_bytes: u64,
    /// Every such capsule, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capsules: Option<Vec<OnnxCapsule>>,
}

/// A capsule that a conversion would make.
#[derive(Clone, Debug, Serialize)]
pub struct OnnxCapsule {
    /// Its id.
    pub id: String,
    /// Its nodes.
    pub nodes: usize,
    /// Bytes of the weights that it would store.
    pub bytes: u64,
    /// The values that it reads.
    pub inputs: Vec<String>,
    /// The values that it makes.
    pub outputs: Vec<String>,
    /// The weights that it would store.
    pub tensors: Vec<OnnxTensor>,
}

/// A weight of an ONNX model.
#[derive(Clone, Debug, Serialize)]
pub struct OnnxTensor {
    /// Its name.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// The type of its elements.
    pub encoding: &'static str,
    /// Bytes.
    pub bytes: u64,
}

/// The facts of the model at `path`; of its weights no data is read.
pub(super) fn facts(path: &Path, disk: &Arc<dyn Disk>, details: bool) -> Result<OnnxFacts> {
    let options = ConvertOptions { disk: Arc::clone(disk), ..ConvertOptions::default() };
    let model = OnnxModel::open(path, &[], &options)?;
    let (graph, cut) = (model.graph(), CutOptions::default());
    let capsules = capsules_of(graph, &segments(graph, &cut)?);
    let mut encodings = BTreeMap::<String, Group>::new();
    for tensor in capsules.iter().flat_map(|capsule| &capsule.tensors) {
        encodings.entry(tensor.encoding.to_owned()).or_default().add(tensor.bytes);
    }
    let head = &graph.head;
    Ok(OnnxFacts {
        file: path.display().to_string(),
        kind: "onnx",
        files: model.file_count(),
        producer: format!("{} {}", head.producer_name(), head.producer_version()).trim().to_owned(),
        onnx: model.info(),
        node_count: graph.nodes.len(),
        function_count: head.functions.len(),
        tensor_count: encodings.values().map(|group| group.count).sum(),
        tensor_bytes: encodings.values().map(|group| group.bytes).sum(),
        encodings,
        capsule_bytes: cut.capsule_bytes,
        capsule_count: capsules.len(),
        largest_capsule_bytes: capsules.iter().map(|capsule| capsule.bytes).max().unwrap_or(0),
        capsules: details.then_some(capsules),
    })
}

/// Each weight is stored by the first capsule that reads it, as a conversion has it.
fn capsules_of(graph: &Graph, segments: &[Segment]) -> Vec<OnnxCapsule> {
    let names = |values: &[usize]| -> Vec<String> {
        values.iter().map(|value| graph.values[*value].name.clone()).collect()
    };
    let mut stored = HashSet::new();
    let mut capsules = Vec::with_capacity(segments.len());
    for (number, segment) in segments.iter().enumerate() {
        let mut tensors = Vec::new();
        for value in segment.initializers.iter().filter(|value| stored.insert(**value)) {
            let known = &graph.values[*value];
            let Some(Initializer::Weight(weight)) = known.initializer.map(|index| &graph.initializers[index])
            else {
                continue;
            };
            tensors.push(OnnxTensor {
                name: known.name.clone(),
                shape: weight.shape.clone(),
                encoding: weight.element.name(),
                bytes: weight.len,
            });
        }
        capsules.push(OnnxCapsule {
            id: format!("{KIND}.{number}"),
            nodes: segment.nodes.len(),
            bytes: tensors.iter().map(|tensor| tensor.bytes).sum(),
            inputs: names(&segment.inputs),
            outputs: names(&segment.outputs),
            tensors,
        });
    }
    capsules
}

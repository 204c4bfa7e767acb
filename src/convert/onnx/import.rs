//! The conversion of an ONNX model to a full `.cgraph` file.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use prost::Message;
use serde_json::{Map, json};

use super::graph::{Graph, Initializer};
use super::ports::info_of;
use super::proto::{EXTERNAL, GraphProto, ModelProto, StringStringEntryProto, TensorProto};
use super::segment::{Segment, segments};
use super::source::Source;
use super::tensor::Weight;
use crate::container::header::Kind;
use crate::container::manifest::{
    ARCH_ONNX, Capsule, Layout, LineageStep, Manifest, ModelInfo, SharedTensor, Tensor, required_features,
};
use crate::container::paths::refuse_overwriting;
use crate::container::writer::Writer;
use crate::convert::import::{ConvertOptions, Converted, ProgressFn, generator};
use crate::error::{Error, Result};
use crate::graph::onnx::OnnxInfo;
use crate::pool::CancelToken;

/// Names of the assets of an ONNX model's file.
pub mod assets {
    /// The model without its graph's nodes and initializers: a ModelProto.
    pub const HEAD: &str = "onnx/head";

    /// The graph of a capsule: a GraphProto.
    #[must_use]
    pub fn graph(capsule: &str) -> String {
        format!("onnx/{capsule}")
    }
}

/// Kind of an ONNX model's capsules.
pub const KIND: &str = "segment";

/// An opened and checked ONNX model.
#[derive(Debug)]
pub struct OnnxModel {
    source: Source,
    graph: Graph,
}

impl OnnxModel {
    /// Opens the model at `path`, none of whose files is one of `targets`, and checks its graph.
    ///
    /// # Errors
    /// Those of [`Source::open`] and [`Graph::new`]; [`Error::InvalidArgument`] where a target would overwrite a file of
    /// the source or another target.
    pub fn open(path: &Path, targets: &[&Path], options: &ConvertOptions) -> Result<Self> {
        refuse_overwriting(&[path], targets)?;
        let (mut source, model) = Source::open(Arc::clone(&options.disk), path)?;
        let graph = Graph::new(&mut source, model)?;
        refuse_overwriting(&source.paths(), targets)?;
        Ok(Self { source, graph })
    }

    /// The model's graph.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// What the model takes and gives.
    #[must_use]
    pub fn info(&self) -> OnnxInfo {
        info_of(&self.graph)
    }

    /// Files of the model.
    #[must_use]
    pub fn file_count(&self) -> usize {
        self.source.paths().len()
    }

    /// Converts the model to a full file at `target`. Weights are streamed in pieces of a megabyte, whatever their size.
    ///
    /// # Errors
    /// Those of [`segments`]; [`Error::Cancelled`]; [`Error::Io`].
    pub fn convert(
        &self,
        path: &Path,
        target: &Path,
        options: &ConvertOptions,
        progress: &mut ProgressFn<'_>,
    ) -> Result<Converted> {
        let cut = segments(&self.graph, &options.cut)?;
        let mut job = Job {
            model: self,
            writer: Writer::new(options.disk.create(target)?)?,
            stored: vec![None; self.graph.values.len()],
            cancel: options.cancel.as_ref(),
            done: 0,
            total: self.graph.initializers.iter().map(weight_bytes).sum(),
            progress,
        };
        let mut capsules = Vec::with_capacity(cut.len());
        for (number, segment) in cut.iter().enumerate() {
            capsules.push(job.capsule(number, segment, &capsules)?);
        }
        let mut written = vec![job.writer.asset(assets::HEAD, &self.graph.head.encode_to_vec())?];
        for (segment, capsule) in cut.iter().zip(&capsules) {
            let graph = job.graph(segment, &capsules)?;
            written.push(job.writer.asset(&assets::graph(&capsule.id), &graph.encode_to_vec())?);
        }
        let model = ModelInfo {
            name: path.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
            arch: ARCH_ONNX.to_owned(),
            decoder: None,
            onnx: Some(self.info()),
        };
        let manifest = Manifest {
            generator: generator(),
            requires: required_features(&model, &capsules),
            model,
            capsules,
            assets: written,
            lineage: vec![self.lineage(path)],
            full: None,
            plan: None,
            unknown: Map::new(),
        };
        let bytes = job.writer.finish(Kind::Full, &manifest)?;
        let tensors = manifest.capsules.iter().map(|c| c.tensors.len()).sum();
        let capsules = manifest.capsules.len();
        Ok(Converted { path: target.to_owned(), bytes, capsules, tensors, divided: 0 })
    }

    fn lineage(&self, path: &Path) -> LineageStep {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let mut parameters = Map::new();
        parameters.insert("source".into(), json!(name));
        parameters.insert("format".into(), json!("onnx"));
        parameters.insert("files".into(), json!(self.file_count()));
        LineageStep { transform: "convert".into(), parent: None, parameters }
    }
}

/// Bytes of an initializer that a capsule holds.
fn weight_bytes(initializer: &Initializer) -> u64 {
    match initializer {
        Initializer::Weight(weight) => weight.len,
        _ => 0,
    }
}

struct Job<'a, 'p> {
    model: &'a OnnxModel,
    writer: Writer,
    /// Where the weight that a value is was stored: capsule and tensor.
    stored: Vec<Option<(usize, usize)>>,
    cancel: Option<&'a CancelToken>,
    done: u64,
    total: u64,
    progress: &'a mut ProgressFn<'p>,
}

impl<'a> Job<'a, '_> {
    /// The weights among the initializers of a capsule.
    fn weights(&self, segment: &Segment) -> Vec<(usize, &'a Weight)> {
        let graph = &self.model.graph;
        let weight = |value: &usize| match &graph.initializers[graph.values[*value].initializer?] {
            Initializer::Weight(weight) => Some((*value, weight)),
            _ => None,
        };
        segment.initializers.iter().filter_map(weight).collect()
    }

    /// Writes the weights that no capsule before this one has.
    fn capsule(&mut self, number: usize, segment: &Segment, before: &[Capsule]) -> Result<Capsule> {
        let names = |values: &[usize]| -> Vec<String> {
            values.iter().map(|value| self.model.graph.values[*value].name.clone()).collect()
        };
        let (inputs, outputs) = (names(&segment.inputs), names(&segment.outputs));
        let (mut tensors, mut shared) = (Vec::new(), Vec::new());
        self.writer.begin_capsule()?;
        for (value, weight) in self.weights(segment) {
            let name = self.model.graph.values[value].name.clone();
            match self.stored[value] {
                Some((capsule, _)) => {
                    shared.push(SharedTensor { capsule: before[capsule].id.clone(), tensor: name });
                }
                None => {
                    self.stored[value] = Some((number, tensors.len()));
                    tensors.push(self.tensor(name, weight)?);
                }
            }
        }
        Ok(Capsule {
            id: format!("{KIND}.{number}"),
            kind: KIND.to_owned(),
            inputs,
            outputs,
            extent: self.writer.end_capsule()?,
            tensors,
            shared,
            residence: None,
            link: None,
        })
    }

    fn tensor(&mut self, name: String, weight: &Weight) -> Result<Tensor> {
        let Self { model, writer, cancel, done, total, progress, .. } = self;
        let plane = writer.plane(&mut |sink| {
            weight.stream(&model.source, &mut |bytes| {
                if cancel.is_some_and(CancelToken::is_cancelled) {
                    return Err(Error::Cancelled);
                }
                sink(bytes)?;
                *done += bytes.len() as u64;
                progress((*done).min(*total), *total);
                Ok(())
            })
        })?;
        if plane.len != weight.len {
            return Err(Error::Internal(format!("{} bytes of {name} became {}", weight.len, plane.len)));
        }
        Ok(Tensor {
            name,
            shape: weight.shape.clone(),
            encoding: weight.element.name().to_owned(),
            layout: Layout::Plain,
            division: None,
            planes: vec![plane],
        })
    }

    /// The graph of a capsule; its weights name the capsules that store them.
    fn graph(&self, segment: &Segment, capsules: &[Capsule]) -> Result<GraphProto> {
        let graph = &self.model.graph;
        let head = graph.head.graph.as_ref();
        let mut own = GraphProto {
            name: head.and_then(|g| g.name.clone()),
            node: segment.nodes.iter().map(|node| graph.nodes[*node].proto.clone()).collect(),
            input: segment.inputs.iter().map(|value| graph.described(*value)).collect(),
            output: segment.outputs.iter().map(|value| graph.described(*value)).collect(),
            ..GraphProto::default()
        };
        for value in &segment.initializers {
            let name = &graph.values[*value].name;
            match graph.values[*value].initializer.map(|i| &graph.initializers[i]) {
                Some(Initializer::Inline(tensor)) => own.initializer.push(tensor.as_ref().clone()),
                Some(Initializer::Sparse(tensor)) => own.sparse_initializer.push(tensor.as_ref().clone()),
                Some(Initializer::Weight(weight)) => {
                    let place = self.stored[*value].and_then(|(capsule, tensor)| {
                        let capsule = capsules.get(capsule)?;
                        Some((capsule, capsule.tensors.get(tensor)?.planes.first()?))
                    });
                    let (capsule, plane) =
                        place.ok_or_else(|| Error::Internal(format!("the weight {name} was not stored")))?;
                    own.initializer.push(reference(name, weight, &capsule.id, plane.offset));
                }
                None => return Err(Error::Internal(format!("{name} is no initializer"))),
            }
        }
        let ports: HashSet<&usize> = segment.inputs.iter().chain(&segment.outputs).collect();
        let made = segment.nodes.iter().flat_map(|node| &graph.nodes[*node].makes);
        let inner = made.filter(|value| !ports.contains(value));
        own.value_info = inner.filter_map(|value| graph.type_of(*value).cloned()).collect();
        Ok(own)
    }
}

/// A weight in a capsule's graph: its data is at `offset` of the extent of `capsule`.
fn reference(name: &str, weight: &Weight, capsule: &str, offset: u64) -> TensorProto {
    let entry =
        |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
    TensorProto {
        // The reader of the source had them from such numbers.
        dims: weight.shape.iter().map(|d| *d as i64).collect(),
        data_type: Some(weight.element.onnx()),
        name: Some(name.to_owned()),
        external_data: vec![
            entry("location", capsule.to_owned()),
            entry("offset", offset.to_string()),
            entry("length", weight.len.to_string()),
        ],
        data_location: Some(EXTERNAL),
        ..TensorProto::default()
    }
}

/// The model that a capsule's graph is by itself: what `head` says of all of it, and that graph.
#[must_use]
pub fn sub_model(head: &ModelProto, graph: GraphProto) -> ModelProto {
    // From version 4 on initializers need not be listed as inputs too, as those of capsules are not.
    let ir_version = head.ir_version.map(|version| version.max(4));
    ModelProto { ir_version, graph: Some(graph), ..head.clone() }
}

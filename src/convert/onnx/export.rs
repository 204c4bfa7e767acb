//! Back from a `.cgraph` file to ONNX: the whole model, or one capsule as a model of its own.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::import::{assets, sub_model};
use super::join::Joined;
use super::proto::{
    Dimension, GraphProto, ModelProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, dimension,
    type_proto,
};
use super::ranks::Ranks;
use super::types::Types;
use super::wire;
use super::write::{MAX_INLINE, Part, Sink, WrittenModel, data_path, take_weights, write_model};
use crate::container::checksum::Running;
use crate::container::disk::{Disk, SystemDisk};
use crate::container::manifest::{Capsule, Plane, Tensor};
use crate::container::paths::refuse_overwriting;
use crate::convert::import::ProgressFn;
use crate::error::{Error, Result};
use crate::graph::element::ElementType;
use crate::pool::CancelToken;
use crate::store::mapped::MappedFile;
use crate::store::{Mode, Store};

/// Bytes that are read and written at a time.
const PIECE: u64 = 1 << 20;

/// How to export.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// Bytes of weights up to which they lie in the model, and not beside it.
    pub max_inline: u64,
    /// Where files live.
    pub disk: Arc<dyn Disk>,
    /// Stops the work; nothing is left under the target's name.
    pub cancel: Option<CancelToken>,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self { max_inline: MAX_INLINE, disk: Arc::new(SystemDisk), cancel: None }
    }
}

/// Writes the ONNX model at `target` that the full file at `source` was converted from.
///
/// # Errors
/// [`Error::Unsupported`] of other models; [`Error::Mismatch`] of a mini; [`Error::Corrupt`] where bytes do not match their
/// checksum; [`Error::InvalidArgument`] where `target` is `source`; those of [`write_model`].
pub fn export(
    source: &Path,
    target: &Path,
    options: &ExportOptions,
    progress: &mut ProgressFn<'_>,
) -> Result<WrittenModel> {
    refuse_overwriting(&[source], &[target, &data_path(target)])?;
    let file = MappedFile::open(options.disk.open(source)?)?;
    let head = head_of(&file)?;
    if file.contents().manifest.full.is_some() {
        return Err(Error::Mismatch(format!("{}: this is a mini; export its full file", file.name())));
    }
    written(&file, whole(head, &file)?, target, options, progress)
}

/// Writes capsule `id` as a model of its own, as the store's mode serves it.
///
/// # Errors
/// Those of [`export_capsule`].
pub fn export_served(
    store: &Store,
    id: &str,
    target: &Path,
    options: &ExportOptions,
    progress: &mut ProgressFn<'_>,
) -> Result<WrittenModel> {
    let file = store.full().filter(|_| store.mode() != Mode::Fast).unwrap_or(store.primary());
    export_capsule(file, id, target, options, progress)
}

/// Writes capsule `id` of `file` as a model of its own, its shared weights included; of a mini as that holds it.
///
/// # Errors
/// [`Error::NotFound`] where there is no such capsule, or a mini only links a weight of it; those of [`export`].
pub fn export_capsule(
    file: &MappedFile,
    id: &str,
    target: &Path,
    options: &ExportOptions,
    progress: &mut ProgressFn<'_>,
) -> Result<WrittenModel> {
    if let Some(path) = file.source().path() {
        refuse_overwriting(&[path], &[target, &data_path(target)])?;
    }
    let head = head_of(file)?;
    let capsule = file.contents().manifest.capsule(id);
    let capsule =
        capsule.ok_or_else(|| Error::NotFound(format!("{}: there is no capsule {id}", file.name())))?;
    let (mut types, mut ranks) = (Types::default(), Ranks::default());
    let mut learn = |graph: &GraphProto| {
        types.learn(graph);
        ranks.learn(graph);
    };
    learn(head.graph.as_ref().unwrap_or(&GraphProto::default()));
    for before in &file.contents().manifest.capsules {
        learn(&graph_of(file, before)?);
        if before.id == id {
            break;
        }
    }
    let mut graph = graph_of(file, capsule)?;
    for ports in [&mut graph.input, &mut graph.output] {
        types.fill(ports);
        ranks.fill(ports);
    }
    let model = sub_model(&head, graph);
    written(file, model, target, options, progress)
}

fn written(
    file: &MappedFile,
    mut model: ModelProto,
    target: &Path,
    options: &ExportOptions,
    progress: &mut ProgressFn<'_>,
) -> Result<WrittenModel> {
    let weights = model.graph.as_mut().map(take_weights).unwrap_or_default();
    let parts = weights.into_iter().map(|tensor| part(file, tensor)).collect::<Result<_>>()?;
    let (disk, cancel) = (options.disk.as_ref(), options.cancel.as_ref());
    write_model(disk, target, model, parts, options.max_inline, cancel, progress)
}

/// What all capsules of an ONNX model's file have in common.
///
/// # Errors
/// [`Error::Unsupported`] of another model; those of [`wire::decode`].
pub fn head_of(file: &MappedFile) -> Result<ModelProto> {
    if file.contents().manifest.model.onnx.is_none() {
        return Err(Error::Unsupported(format!(
            "{}: this model was not an ONNX model ({}), and only ONNX models can be exported",
            file.name(),
            file.contents().manifest.model.arch
        )));
    }
    wire::decode(checked(file, assets::HEAD)?, file.name())
}

/// The graph of a capsule, its weights named by place.
///
/// # Errors
/// [`Error::NotFound`] where the file lacks it; those of [`wire::decode_graph`].
pub fn graph_of(file: &MappedFile, capsule: &Capsule) -> Result<GraphProto> {
    wire::decode_graph(checked(file, &assets::graph(&capsule.id))?, file.name())
}

/// An asset's bytes, in the file, held against their checksum.
fn checked(file: &MappedFile, name: &str) -> Result<Bytes> {
    if let Some(asset) = file.contents().manifest.asset(name) {
        file.checked_asset(asset)?;
    }
    Ok(Bytes::from_owner(file.shared_asset(name)?))
}

/// The capsule and tensor that store a weight of a capsule's graph, and where its plane begins.
fn place_of<'a>(
    file: &'a MappedFile,
    weight: &TensorProto,
) -> Result<(&'a Capsule, &'a Tensor, &'a Plane, u64)> {
    let entry = |key: &str| weight.external_data.iter().find(|e| e.key() == key).map(|e| e.value());
    let found = || {
        let capsule = file.contents().manifest.capsule(entry("location")?)?;
        let tensor = capsule.tensors.iter().find(|t| t.name == weight.name())?;
        let Some(plane) = tensor.planes.first() else { return Some(Err(capsule)) };
        let agrees = entry("offset") == Some(plane.offset.to_string().as_str())
            && entry("length") == Some(plane.len.to_string().as_str())
            && ElementType::from_onnx(weight.data_type()).map(ElementType::name)
                == Some(tensor.encoding.as_str())
            && weight.dims.iter().map(|d| u64::try_from(*d).ok()).eq(tensor.shape.iter().map(|d| Some(*d)));
        let offset = capsule.extent?.offset.checked_add(plane.offset)?;
        agrees.then_some(Ok((capsule, tensor, plane, offset)))
    };
    match found() {
        Some(Ok(place)) => Ok(place),
        Some(Err(capsule)) => Err(Error::NotFound(format!(
            "{}: capsule {}: tensor {} is not stored in this file (a mini only links it: its full file is needed)",
            file.name(),
            capsule.id,
            weight.name()
        ))),
        None => Err(Error::malformed(
            file.name(),
            format!("no capsule stores the weight {} as it is used; convert the model again", weight.name()),
        )),
    }
}

/// A weight of a capsule's graph with its data.
fn part(file: &MappedFile, mut tensor: TensorProto) -> Result<Part<'_>> {
    let (capsule, stored, plane, offset) = place_of(file, &tensor)?;
    tensor.external_data.clear();
    tensor.data_location = None;
    let data = move |sink: &mut Sink<'_>| {
        // Read instead of mapped: what is copied need not stay in memory.
        let mut piece = vec![0; PIECE.min(plane.len) as usize];
        let (mut at, mut checksum) = (0, Running::default());
        while at < plane.len {
            let len = PIECE.min(plane.len - at);
            let piece = &mut piece[..len as usize];
            let read = file.source().read_exact_at(offset + at, piece);
            read.map_err(|e| Error::io(format!("read weight {} of", stored.name), file.name(), e))?;
            checksum.update(piece);
            sink(piece)?;
            at += len;
        }
        if checksum.hex() == plane.xxh3 {
            return Ok(());
        }
        Err(Error::Corrupt(format!(
            "{}: capsule {}: tensor {} does not match its checksum; convert the model again",
            file.name(),
            capsule.id,
            stored.name
        )))
    };
    Ok(Part { tensor, len: plane.len, data: Box::new(data) })
}

/// The whole model of all capsules' graphs together.
fn whole(mut head: ModelProto, file: &MappedFile) -> Result<ModelProto> {
    let mut joined = Joined::new(head.graph.take().unwrap_or_default());
    for capsule in &file.contents().manifest.capsules {
        let twice = |name| {
            Error::malformed(
                file.name(),
                format!("two capsules have different things named {name}; convert the model again"),
            )
        };
        joined.add(graph_of(file, capsule)?).map_err(twice)?;
    }
    let mut graph = joined.graph();
    if head.ir_version() < 4 {
        // There every initializer is listed as an input, and no input that is none was dropped.
        let listed: HashSet<String> = graph.input.iter().map(|input| input.name().to_owned()).collect();
        let missing = graph.initializer.iter().filter(|tensor| !listed.contains(tensor.name()));
        graph.input.extend(missing.map(described).collect::<Vec<_>>());
    }
    Ok(ModelProto { graph: Some(graph), ..head })
}

/// An initializer as an input.
fn described(tensor: &TensorProto) -> ValueInfoProto {
    let dim = |n: &i64| Dimension { value: Some(dimension::Value::DimValue(*n)), denotation: None };
    let shape = TensorShapeProto { dim: tensor.dims.iter().map(dim).collect() };
    let inner = type_proto::Tensor { elem_type: tensor.data_type, shape: Some(shape) };
    let info = TypeProto { value: Some(type_proto::Value::TensorType(inner)), denotation: None };
    ValueInfoProto { name: tensor.name.clone(), r#type: Some(info), ..ValueInfoProto::default() }
}

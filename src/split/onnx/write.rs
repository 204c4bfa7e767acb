//! Writing the mini of an ONNX model: the planned form of each capsule, its graph, the link index.

use std::collections::HashSet;
use std::path::Path;

use bytes::Bytes;
use prost::Message;
use serde_json::Map;

use super::light::{self, Bits, CONTRIBUTED, Held, Light, LightTensor, Part};
use super::weights::Weight;
use crate::container::header::Kind;
use crate::container::manifest::{
    Capsule, Extent, Layout, Link, Manifest, PlannedCapsule, Residence, SplitPlan, Tensor,
};
use crate::container::writer::{Sealed, Writer};
use crate::convert::import::ProgressFn;
use crate::convert::onnx::import::assets;
use crate::convert::onnx::proto::{
    EXTERNAL, GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto,
};
use crate::error::{Error, Result};
use crate::graph::onnx::OnnxInfo;
use crate::pool::{Pool, unless_cancelled};
use crate::split::options::SplitOptions;
use crate::split::write::{SPARE, copy, lineage_step, reference};
use crate::store::mapped::MappedFile;

/// A full file and the graphs of its capsules.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub full: &'a MappedFile,
    pub info: &'a OnnxInfo,
    graphs: Vec<GraphProto>,
    /// Tensors that other capsules read too, by the capsule that stores them.
    shared: HashSet<(&'a str, &'a str)>,
}

impl<'a> Source<'a> {
    /// Reads the graphs of `full`.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Malformed`] where one is damaged.
    pub fn new(full: &'a MappedFile, info: &'a OnnxInfo) -> Result<Self> {
        let capsules = &full.contents().manifest.capsules;
        let graphs = capsules.iter().map(|capsule| graph_of(full, capsule)).collect::<Result<_>>()?;
        let shared = capsules.iter().flat_map(|capsule| &capsule.shared);
        let shared = shared.map(|shared| (shared.capsule.as_str(), shared.tensor.as_str())).collect();
        Ok(Self { full, info, graphs, shared })
    }

    pub fn capsules(&self) -> &'a [Capsule] {
        &self.full.contents().manifest.capsules
    }

    /// Capsule `index` with weights in `bits`, where its nodes allow it.
    pub fn light(&self, index: usize, bits: Bits) -> Option<Light> {
        let (capsule, graph) = (self.capsules().get(index)?, self.graphs.get(index)?);
        let is_shared = |name: &str| self.shared.contains(&(capsule.id.as_str(), name));
        let own = self.info.opsets.iter().find(|set| set.domain.is_empty() || set.domain == "ai.onnx");
        let light = light::light(capsule, graph, &is_shared, bits, own.map_or(0, |set| set.version));
        Some(light).filter(Light::differs)
    }

    /// The head, which of a mini with light capsules names the operators that those need.
    fn head(&self, has_light: bool) -> Result<Vec<u8>> {
        let bytes = asset(self.full, assets::HEAD)?;
        let contributed = |set: &OperatorSetIdProto| set.domain.as_deref() == Some(CONTRIBUTED);
        let mut head = ModelProto::decode(bytes).map_err(|error| {
            Error::malformed(self.full.name(), format!("asset \"{}\": {error}", assets::HEAD))
        })?;
        if has_light && !head.opset_import.iter().any(contributed) {
            let version = Some(1);
            head.opset_import.push(OperatorSetIdProto { domain: Some(CONTRIBUTED.into()), version });
        }
        Ok(head.encode_to_vec())
    }
}

fn asset(full: &MappedFile, name: &str) -> Result<Bytes> {
    let missing =
        || Error::malformed(full.name(), format!("asset \"{name}\" is missing; convert the model again"));
    full.checked_asset(full.contents().manifest.asset(name).ok_or_else(missing)?)?;
    Ok(Bytes::from_owner(full.shared_asset(name)?))
}

fn graph_of(full: &MappedFile, capsule: &Capsule) -> Result<GraphProto> {
    let name = assets::graph(&capsule.id);
    GraphProto::decode(asset(full, &name)?)
        .map_err(|error| Error::malformed(full.name(), format!("asset \"{name}\": {error}")))
}

/// Writes the mini that `plan` describes, up to its name. Also gives the manifest that was written.
///
/// # Errors
/// [`Error::Mismatch`] where the plan does not suit the file; [`Error::Corrupt`] where bytes that the mini needs do not
/// match their checksum; [`Error::Cancelled`]; [`Error::Io`].
pub(super) fn compose(
    source: &Source<'_>,
    target: &Path,
    plan: &SplitPlan,
    options: &SplitOptions,
    progress: &mut ProgressFn<'_>,
) -> Result<(Sealed, Manifest)> {
    let capsules = source.capsules();
    let total: u64 = capsules.iter().map(Capsule::stored_bytes).sum();
    let mut job = Job {
        source,
        writer: Writer::new(options.disk.create(target)?)?,
        pool: Pool::new(0)?,
        options,
        graphs: Vec::with_capacity(capsules.len()),
    };
    let mut written = Vec::with_capacity(capsules.len());
    let mut done = 0;
    for (index, capsule) in capsules.iter().enumerate() {
        let planned =
            plan.capsules.get(index).filter(|planned| planned.id == capsule.id).ok_or_else(|| {
                Error::Mismatch(format!("the recorded plan has no place for capsule {}", capsule.id))
            })?;
        written.push(job.capsule(index, capsule, planned)?);
        done += capsule.stored_bytes();
        progress(done, total);
    }
    let Job { mut writer, graphs, .. } = job;
    let has_light = plan.capsules.iter().any(|planned| planned.residence == Residence::Light);
    let mut kept = vec![writer.asset(assets::HEAD, &source.head(has_light)?)?];
    for (capsule, graph) in written.iter().zip(graphs) {
        kept.push(writer.asset(&assets::graph(&capsule.id), &placed(graph, &written).encode_to_vec())?);
    }
    let parent = &source.full.contents().manifest;
    let manifest = Manifest {
        generator: crate::convert::import::generator(),
        requires: parent.requires.clone(),
        model: parent.model.clone(),
        capsules: written,
        assets: kept,
        lineage: parent.lineage.iter().cloned().chain([lineage_step(source.full, plan)]).collect(),
        full: Some(reference(source.full)),
        plan: Some(plan.clone()),
        unknown: Map::new(),
    };
    Ok((writer.seal(Kind::Mini, &manifest, SPARE)?, manifest))
}

struct Job<'a> {
    source: &'a Source<'a>,
    writer: Writer,
    pool: Pool,
    options: &'a SplitOptions,
    /// The graphs of the capsules so far.
    graphs: Vec<GraphProto>,
}

impl Job<'_> {
    fn capsule(&mut self, index: usize, capsule: &Capsule, planned: &PlannedCapsule) -> Result<Capsule> {
        let graph = self.source.graphs.get(index).cloned().unwrap_or_default();
        self.writer.begin_capsule()?;
        let (tensors, graph) = match planned.residence {
            Residence::Linked => {
                let bare = |tensor: &Tensor| Tensor { planes: Vec::new(), ..tensor.clone() };
                (capsule.tensors.iter().map(bare).collect(), graph)
            }
            Residence::Pinned => (self.pinned(capsule)?, graph),
            Residence::Light => {
                let bits = planned.encodings.first().and_then(|name| Bits::by_name(name));
                let light = bits.and_then(|bits| self.source.light(index, bits)).ok_or_else(|| {
                    let forms = planned.encodings.join(", ");
                    Error::Mismatch(format!("capsule {} cannot be held as \"{forms}\"", capsule.id))
                })?;
                (self.light(capsule, &light.tensors)?, light.graph)
            }
            Residence::Nested => {
                let why =
                    format!("the plan has capsule {} nested, which ONNX capsules cannot be", capsule.id);
                return Err(Error::Mismatch(why));
            }
        };
        self.graphs.push(graph);
        Ok(Capsule {
            extent: self.writer.end_capsule()?,
            tensors,
            residence: Some(planned.residence),
            link: Some(link(capsule)?),
            ..capsule.clone()
        })
    }

    fn pinned(&mut self, capsule: &Capsule) -> Result<Vec<Tensor>> {
        capsule.tensors.iter().map(|tensor| self.whole(capsule, tensor)).collect()
    }

    /// A tensor as it is in the full file.
    fn whole(&mut self, capsule: &Capsule, tensor: &Tensor) -> Result<Tensor> {
        let bytes = self.source.full.checked_plane(capsule, tensor, 0)?;
        let cancel = self.options.cancel.as_ref();
        let plane = self.writer.plane(&mut |sink| {
            copy(bytes, &mut |part| {
                unless_cancelled(cancel)?;
                sink(part)
            })
        })?;
        Ok(Tensor { planes: vec![plane], ..tensor.clone() })
    }

    fn light(&mut self, capsule: &Capsule, tensors: &[LightTensor]) -> Result<Vec<Tensor>> {
        let mut written = Vec::with_capacity(tensors.len());
        let mut scales: Vec<f32> = Vec::new();
        for tensor in tensors {
            let of = capsule.tensors.get(tensor.source).ok_or_else(|| {
                Error::Internal(format!("capsule {} has no tensor number {}", capsule.id, tensor.source))
            })?;
            let plane = match tensor.part {
                Part::Whole => {
                    written.push(self.whole(capsule, of)?);
                    continue;
                }
                Part::Codes(held) => {
                    let made = self.codes(capsule, of, held)?;
                    scales = made.1;
                    made.0
                }
                Part::Scales => {
                    let bytes: Vec<u8> = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
                    self.writer.plane(&mut |sink| sink(&bytes))?
                }
            };
            written.push(Tensor {
                name: tensor.name.clone(),
                shape: tensor.shape.clone(),
                encoding: tensor.element.name().to_owned(),
                layout: Layout::Plain,
                division: None,
                planes: vec![plane],
            });
        }
        Ok(written)
    }

    /// Writes the codes of a weight; their scales.
    fn codes(
        &mut self,
        capsule: &Capsule,
        tensor: &Tensor,
        held: Held,
    ) -> Result<(crate::container::manifest::Plane, Vec<f32>)> {
        let weight = Weight { tensor, bytes: self.source.full.checked_plane(capsule, tensor, 0)? };
        let (pool, cancel) = (&self.pool, self.options.cancel.as_ref());
        let mut scales = Vec::new();
        let plane = self.writer.plane(&mut |sink| {
            scales = weight.encode(held, pool, cancel, sink)?;
            Ok(())
        })?;
        Ok((plane, scales))
    }
}

/// A capsule's graph as it was written: its external initializers say where they lie in this file, where they do.
fn placed(mut graph: GraphProto, capsules: &[Capsule]) -> GraphProto {
    let external = graph.initializer.iter_mut().filter(|tensor| tensor.data_location == Some(EXTERNAL));
    for initializer in external {
        let location = initializer.external_data.iter().find(|entry| entry.key() == "location");
        let home =
            location.and_then(|location| capsules.iter().find(|capsule| capsule.id == location.value()));
        let stored =
            home.and_then(|home| Some((home, home.tensors.iter().find(|t| t.name == initializer.name())?)));
        if let Some((home, plane)) = stored.and_then(|(home, tensor)| Some((home, tensor.planes.first()?))) {
            let entry = |key: &str, value: String| StringStringEntryProto {
                key: Some(key.into()),
                value: Some(value),
            };
            initializer.external_data = vec![
                entry("location", home.id.clone()),
                entry("offset", plane.offset.to_string()),
                entry("length", plane.len.to_string()),
            ];
        }
    }
    graph
}

/// A capsule's line of the link index; one without weights has no place in the full file.
fn link(capsule: &Capsule) -> Result<Link> {
    let Extent { offset, len } = capsule.extent.unwrap_or(Extent { offset: 0, len: 0 });
    let xxh3 = capsule.checksum();
    let xxh3 =
        xxh3.ok_or_else(|| Error::Internal(format!("capsule {} has a malformed checksum", capsule.id)))?;
    Ok(Link { offset, len, xxh3 })
}

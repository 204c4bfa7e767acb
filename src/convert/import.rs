//! The conversion of a GGUF model to a full `.cgraph` file.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, json};

use super::gguf::{Gguf, TensorInfo};
use super::metadata::Metadata;
use super::onnx::cut::CutOptions;
use super::weights;
use crate::container::disk::{Disk, SystemDisk};
use crate::container::header::Kind;
use crate::container::manifest::{
    Capsule, Layout, LineageStep, Manifest, ModelInfo, Plane, SharedTensor, Tensor, required_features,
};
use crate::container::paths::refuse_overwriting;
use crate::container::writer::Writer;
use crate::error::{Error, Result};
use crate::graph::arch::{self, CapsuleRule, TensorKind, TensorRule};
use crate::graph::vocab;
use crate::kernels::division::Division;
use crate::pool::CancelToken;
use crate::text::Tokenizer;

/// Names of the assets of a file.
pub mod assets {
    /// The compiled vocabulary.
    pub const VOCAB: &str = "vocab";
    /// The chat template.
    pub const CHAT_TEMPLATE: &str = "chat_template";
    /// The source's metadata as JSON.
    pub const METADATA: &str = "gguf_metadata";
}

/// Tensors of old converters that no engine reads.
const IGNORED_SUFFIXES: &[&str] = &[".attn_rot_embd.weight", ".attn_rot_embd"];

/// What a job tells its caller while it runs: bytes done, bytes in all.
pub type ProgressFn<'a> = dyn FnMut(u64, u64) + 'a;

/// Whether weights are divided into two planes, of which a mini can hold the first: drafts then cost the passes of a budget
/// fewer bytes, and computing from both takes somewhat longer (docs/memory.md).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Planes {
    /// Divided where a mini is made with the full file, and the planner chooses its light forms: others hold no first planes.
    #[default]
    Auto,
    /// As kernels read them.
    Whole,
    /// Divided where the encoding can be.
    Divided,
}

impl FromStr for Planes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "whole" => Ok(Self::Whole),
            "divided" => Ok(Self::Divided),
            _ => Err(Error::InvalidArgument(format!(
                "{text:?} is no way to store weights; possible: auto, whole, divided"
            ))),
        }
    }
}

/// How to convert.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// Whether weights are divided; [`Planes::Auto`] without a mini: they are not.
    pub planes: Planes,
    /// How an ONNX model is cut into capsules.
    pub cut: CutOptions,
    /// Where files live.
    pub disk: Arc<dyn Disk>,
    /// Stops the conversion; nothing is left under the target's name.
    pub cancel: Option<CancelToken>,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self { planes: Planes::Auto, cut: CutOptions::default(), disk: Arc::new(SystemDisk), cancel: None }
    }
}

/// What a conversion wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Converted {
    /// The file.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its capsules.
    pub capsules: usize,
    /// Its tensors.
    pub tensors: usize,
    /// Of them, those that are divided into two planes.
    pub divided: usize,
}

/// Converts the GGUF model at `source` (any shard of a sharded one) to a full file at `target`.
///
/// Weights are stored without loss, streamed in pieces of a few megabytes whatever the model's size.
///
/// # Errors
/// Those of [`Gguf::open`]; [`Error::Unsupported`] for an architecture or type that cannot be run;
/// [`Error::Malformed`] naming a missing or misshapen tensor; [`Error::InvalidArgument`] where the target is a file of
/// the source; [`Error::Cancelled`]; [`Error::Io`].
pub fn convert(
    source: &Path,
    target: &Path,
    options: &ConvertOptions,
    progress: &mut ProgressFn<'_>,
) -> Result<Converted> {
    let gguf = open_source(source, &[target], options)?;
    convert_opened(&gguf, source, target, options, progress)
}

/// Opens a source none of whose files is one of `targets`.
///
/// # Errors
/// Those of [`Gguf::open`]; [`Error::InvalidArgument`] where a target would overwrite the source or another target.
pub(crate) fn open_source(source: &Path, targets: &[&Path], options: &ConvertOptions) -> Result<Gguf> {
    refuse_overwriting(&[source], targets)?;
    let gguf = Gguf::open(options.disk.as_ref(), source)?;
    refuse_overwriting(&gguf.paths(), targets)?;
    Ok(gguf)
}

/// As [`convert`], from a source that [`open_source`] gave.
///
/// # Errors
/// Those of [`convert`].
pub(crate) fn convert_opened(
    gguf: &Gguf,
    source: &Path,
    target: &Path,
    options: &ConvertOptions,
    progress: &mut ProgressFn<'_>,
) -> Result<Converted> {
    let metadata = Metadata::new(gguf)?;
    let params = metadata.decoder_params()?;
    let architecture = arch::by_name(metadata.arch())
        .ok_or_else(|| Error::Internal("a known architecture is not in the registry".into()))?;
    let rules = (architecture.capsules)(&params);
    let plan = match_tensors(gguf, &rules)?;
    let compiled = metadata.vocab()?.map(|v| vocab::compile(&v)).transpose()?.map(Arc::new);
    if let Some(bytes) = &compiled {
        check_tokenizer(gguf, Arc::clone(bytes), params.vocab_size)?;
    }

    let mut job = Job {
        gguf,
        writer: Writer::new(options.disk.create(target)?)?,
        planes: options.planes,
        cancel: options.cancel.as_ref(),
        done: 0,
        total: plan.iter().flatten().map(|t| t.len).sum(),
        progress,
    };
    let mut capsules = Vec::with_capacity(rules.len());
    for (rule, tensors) in rules.iter().zip(&plan) {
        capsules.push(job.capsule(rule, tensors)?);
    }
    let mut writer = job.writer;
    let mut written = Vec::new();
    if let Some(bytes) = &compiled {
        written.push(writer.asset(assets::VOCAB, bytes)?);
    }
    if let Some(template) = metadata.chat_template() {
        written.push(writer.asset(assets::CHAT_TEMPLATE, template.as_bytes())?);
    }
    written.push(writer.asset(assets::METADATA, metadata.preserved().to_string().as_bytes())?);
    let model = ModelInfo {
        name: metadata.model_name(),
        arch: metadata.arch().to_owned(),
        decoder: Some(params),
        onnx: None,
    };
    let manifest = Manifest {
        generator: generator(),
        requires: required_features(&model, &capsules),
        model,
        capsules,
        assets: written,
        lineage: vec![lineage(source, gguf)],
        full: None,
        plan: None,
        unknown: Map::new(),
    };
    let bytes = writer.finish(Kind::Full, &manifest)?;
    let (capsules, tensors) = (manifest.capsules.len(), plan.iter().map(Vec::len).sum());
    let divided = manifest.capsules.iter().flat_map(|c| &c.tensors).filter(|t| t.division.is_some()).count();
    Ok(Converted { path: target.to_owned(), bytes, capsules, tensors, divided })
}

/// What is written must open: the pre-tokenizer is known, and every token has its row of the embedding.
fn check_tokenizer(gguf: &Gguf, compiled: Arc<Vec<u8>>, vocab_size: u32) -> Result<()> {
    let tokens = Tokenizer::new(compiled)?.n_tokens();
    if tokens > vocab_size {
        return Err(Error::malformed(
            gguf.name(),
            format!("the tokenizer has {tokens} tokens, token_embd.weight only {vocab_size} rows"),
        ));
    }
    Ok(())
}

/// Name and version of this library, as the manifest holds it.
#[must_use]
pub fn generator() -> String {
    format!("capsulegraph {}", env!("CARGO_PKG_VERSION"))
}

fn lineage(source: &Path, gguf: &Gguf) -> LineageStep {
    let name = source.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let mut parameters = Map::new();
    parameters.insert("source".into(), json!(name));
    parameters.insert("format".into(), json!("gguf"));
    parameters.insert("shards".into(), json!(gguf.shard_count()));
    LineageStep { transform: "convert".into(), parent: None, parameters }
}

/// For each capsule the source's tensors in the order of the rules.
fn match_tensors<'a>(gguf: &'a Gguf, rules: &[CapsuleRule]) -> Result<Vec<Vec<&'a TensorInfo>>> {
    let mut used = std::collections::HashSet::new();
    let mut plan = Vec::with_capacity(rules.len());
    for rule in rules {
        let mut tensors = Vec::new();
        for wanted in &rule.tensors {
            match gguf.tensor(&wanted.name) {
                Some(tensor) => {
                    check_tensor(gguf, rule, wanted, tensor)?;
                    used.insert(tensor.name.as_str());
                    tensors.push(tensor);
                }
                None if !wanted.required => {}
                None => {
                    return Err(Error::malformed(
                        gguf.name(),
                        format!("capsule {}: tensor {} is missing", rule.id, wanted.name),
                    ));
                }
            }
        }
        plan.push(tensors);
    }
    let ignored = |name: &str| IGNORED_SUFFIXES.iter().any(|s| name.ends_with(s));
    if let Some(extra) = gguf.tensors().iter().find(|t| !used.contains(t.name.as_str()) && !ignored(&t.name))
    {
        return Err(Error::Unsupported(format!(
            "{}: tensor {} has no place in this architecture's graph; the model is of a kind that cannot be run yet",
            gguf.name(),
            extra.name
        )));
    }
    Ok(plan)
}

fn check_tensor(gguf: &Gguf, rule: &CapsuleRule, wanted: &TensorRule, tensor: &TensorInfo) -> Result<()> {
    let bad = |detail: String| {
        Err(Error::malformed(gguf.name(), format!("capsule {}: tensor {}: {detail}", rule.id, tensor.name)))
    };
    let shape: Vec<u64> = wanted.shape.iter().map(|d| *d as u64).collect();
    // GGUF may list trailing dimensions of 1, which are leading ones here.
    let extra = tensor.shape.len().saturating_sub(shape.len());
    let (ones, found) = tensor.shape.split_at(extra);
    if found != shape.as_slice() || ones.iter().any(|d| *d != 1) {
        return bad(format!("its shape is {:?}, the hyper-parameters demand {shape:?}", tensor.shape));
    }
    if wanted.kind == TensorKind::Vector && tensor.encoding.tile.is_some() {
        return bad(format!("a vector of type {}; f32, f16 and bf16 are possible", tensor.encoding.name));
    }
    Ok(())
}

struct Job<'a, 'p> {
    gguf: &'a Gguf,
    writer: Writer,
    planes: Planes,
    cancel: Option<&'a CancelToken>,
    done: u64,
    total: u64,
    progress: &'a mut ProgressFn<'p>,
}

impl Job<'_, '_> {
    fn capsule(&mut self, rule: &CapsuleRule, sources: &[&TensorInfo]) -> Result<Capsule> {
        self.writer.begin_capsule()?;
        let mut tensors: Vec<Tensor> = Vec::with_capacity(sources.len());
        for source in sources {
            let wanted = rule.tensors.iter().find(|t| t.name == source.name);
            let (kind, shape) = wanted
                .map(|t| (t.kind, t.shape.iter().map(|d| *d as u64).collect()))
                .ok_or_else(|| Error::Internal(format!("{} matched no rule", source.name)))?;
            tensors.push(self.tensor(source, kind, shape)?);
        }
        // The second planes belong behind the first ones of all tensors; keeping them would take the memory of a capsule.
        for (source, tensor) in sources.iter().zip(&mut tensors) {
            if let Some(division) = source.encoding.division.filter(|_| tensor.division.is_some()) {
                tensor.planes.push(self.plane(source, tensor.layout, Some((division, 1)))?);
            }
        }
        let shared = |(capsule, tensor): &(String, String)| SharedTensor {
            capsule: capsule.clone(),
            tensor: tensor.clone(),
        };
        Ok(Capsule {
            id: rule.id.clone(),
            kind: rule.kind.to_owned(),
            inputs: rule.inputs.clone(),
            outputs: rule.outputs.clone(),
            extent: self.writer.end_capsule()?,
            tensors,
            shared: rule.shared.iter().map(shared).collect(),
            residence: None,
            link: None,
        })
    }

    /// Writes a tensor; of a divided one the first plane.
    fn tensor(&mut self, source: &TensorInfo, kind: TensorKind, shape: Vec<u64>) -> Result<Tensor> {
        let layout = match kind {
            TensorKind::Matrix => Layout::Packed8,
            TensorKind::Table | TensorKind::Vector => Layout::Rows,
        };
        let divided = self.planes == Planes::Divided && layout == Layout::Packed8;
        let division = source.encoding.division.filter(|_| divided);
        Ok(Tensor {
            name: source.name.clone(),
            shape,
            encoding: source.encoding.name.to_owned(),
            layout,
            division: division.map(|division| division.name.to_owned()),
            planes: vec![self.plane(source, layout, division.map(|division| (division, 0)))?],
        })
    }

    /// Writes a tensor's only plane, or that of this number where it is divided.
    fn plane(
        &mut self,
        source: &TensorInfo,
        layout: Layout,
        part: Option<(&Division, usize)>,
    ) -> Result<Plane> {
        let Self { gguf, writer, cancel, done, total, progress, .. } = self;
        let mut planes = [Vec::new(), Vec::new()];
        writer.plane(&mut |sink| {
            weights::stream(gguf, source, layout, &mut |bytes| {
                if cancel.is_some_and(CancelToken::is_cancelled) {
                    return Err(Error::Cancelled);
                }
                let written = match part {
                    None => bytes,
                    Some((division, number)) => {
                        let blocks = bytes.len() / division.bytes.iter().sum::<usize>();
                        let [first, second] = &mut planes;
                        first.resize(blocks * division.bytes[0], 0);
                        second.resize(blocks * division.bytes[1], 0);
                        division.divide(bytes, first, second);
                        planes[number].as_slice()
                    }
                };
                sink(written)?;
                *done += written.len() as u64;
                progress((*done).min(*total), *total);
                Ok(())
            })
        })
    }
}

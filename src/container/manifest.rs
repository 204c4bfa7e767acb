//! The manifest: what a `.cgraph` file holds, as JSON (docs/format.md).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::graph::onnx::OnnxInfo;
use crate::graph::params::DecoderParams;

/// Feature name of the packed weight layout in `requires`.
pub const REQUIRES_PACKED8: &str = "packed8";
/// Feature name of tensors that are divided into two planes.
pub const REQUIRES_PLANES: &str = "planes";
/// Feature name of ONNX models.
pub const REQUIRES_ONNX: &str = "onnx";
/// Features in `requires` that this library knows.
pub const KNOWN_FEATURES: &[&str] = &[REQUIRES_PACKED8, REQUIRES_PLANES, REQUIRES_ONNX];
/// [`ModelInfo::arch`] of ONNX models.
pub const ARCH_ONNX: &str = "onnx";

/// What a `.cgraph` file holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Manifest {
    /// Program that wrote the file.
    pub generator: String,
    /// Features without which the file cannot be read correctly.
    pub requires: Vec<String>,
    /// The model.
    pub model: ModelInfo,
    /// Capsules in the order of computation.
    pub capsules: Vec<Capsule>,
    /// Binary assets.
    pub assets: Vec<Asset>,
    /// How the file came to be, oldest step first.
    pub lineage: Vec<LineageStep>,
    /// Of a mini: the full file it was derived from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full: Option<FullReference>,
    /// Of a mini: how it was derived, so that it can be rebuilt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<SplitPlan>,
    /// Fields of later minor versions, kept as they are.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// The model of a file: a decoder-only transformer or an ONNX model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ModelInfo {
    /// The model's name, from its metadata or its file name.
    pub name: String,
    /// Architecture: GGUF's `general.architecture`, or [`ARCH_ONNX`].
    pub arch: String,
    /// Hyper-parameters of a decoder-only transformer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder: Option<DecoderParams>,
    /// Inputs and outputs of an ONNX model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onnx: Option<OnnxInfo>,
}

/// A capsule: a sub-graph with its own weights in one contiguous extent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Capsule {
    /// Identifier, unique in the file.
    pub id: String,
    /// `embed`, `attn`, `ffn` or `head`; of an ONNX model `segment`.
    pub kind: String,
    /// Values read.
    pub inputs: Vec<String>,
    /// Values made.
    pub outputs: Vec<String>,
    /// Where the capsule's planes lie in this file; absent where it has none here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extent: Option<Extent>,
    /// Tensors, in the order of use.
    pub tensors: Vec<Tensor>,
    /// Tensors of other capsules that this one reads too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<SharedTensor>,
    /// Of a mini: what it holds of the capsule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residence: Option<Residence>,
    /// Of a mini: the capsule in the full file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Link>,
}

/// A contiguous range of the file, on 64 KiB at both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Extent {
    /// First byte, absolute.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// A tensor of a capsule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Tensor {
    /// The source's name.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// How the elements are stored here: a name of the encodings' registry; in layout `plain` of an element type.
    pub encoding: String,
    /// How rows are arranged.
    pub layout: Layout,
    /// How the elements' bits are divided into two planes, `4+4`; absent where they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub division: Option<String>,
    /// The stored bytes: one plane, two of a divided tensor, of which a mini may hold the first alone; none where a mini
    /// does not hold the tensor.
    pub planes: Vec<Plane>,
}

/// How a tensor's rows are arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Row after row, as in the source.
    Rows,
    /// Eight rows interleaved, as kernels read them.
    Packed8,
    /// Element after element of a plain type, as ONNX Runtime reads them.
    Plain,
}

impl Layout {
    /// The layout's name in the manifest.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Packed8 => "packed8",
            Self::Plain => "plain",
        }
    }
}

/// One stored extent of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Plane {
    /// First byte, relative to the capsule's extent.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// XXH3-64 of the bytes, 16 hexadecimal digits.
    pub xxh3: String,
}

/// A tensor of another capsule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SharedTensor {
    /// The capsule that stores it.
    pub capsule: String,
    /// Its name there.
    pub tensor: String,
}

/// What a mini holds of a capsule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Residence {
    /// Its weights bit for bit.
    Pinned,
    /// A lower-precision form of its weights.
    Light,
    /// The first planes of its divided tensors, the others bit for bit: a coarser form that is part of the full one.
    Nested,
    /// Only the link into the full file (and its small tensors).
    Linked,
}

impl Residence {
    /// The residence's name in the manifest.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Light => "light",
            Self::Nested => "nested",
            Self::Linked => "linked",
        }
    }
}

/// A line of the link index: a capsule in the full file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Link {
    /// First byte in the full file.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// The capsule's checksum (XXH3-64 of its planes' checksums).
    pub xxh3: String,
}

/// The full file of a mini.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FullReference {
    /// File name, looked for beside the mini.
    pub file_name: String,
    /// BLAKE3 of the full file's header and manifest.
    pub digest: String,
    /// Length in bytes.
    pub len: u64,
}

/// How a mini was derived.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SplitPlan {
    /// Bound on the mini's length that was asked for, in bytes.
    pub size: u64,
    /// The option `--light` as it was given.
    pub light: String,
    /// One entry a capsule, in the file's order.
    pub capsules: Vec<PlannedCapsule>,
    /// Share of the tokens of a text after which mini and full file think the same one most likely, where it was
    /// measured when the mini was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
    /// Of an ONNX model: how far the mini's outputs are from the full file's, the root of the mean squared difference
    /// relative to the outputs' own, where it was measured when the mini was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_error: Option<f64>,
}

/// What a plan gives to one capsule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlannedCapsule {
    /// The capsule.
    pub id: String,
    /// What the mini holds of it.
    pub residence: Residence,
    /// Of a light capsule: encoding of each weight matrix, in the order of its tensors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub encodings: Vec<String>,
}

/// A binary asset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Asset {
    /// Name, unique in the file.
    pub name: String,
    /// First byte, absolute.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// XXH3-64 of the bytes.
    pub xxh3: String,
}

/// One step in a file's history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LineageStep {
    /// `convert`, `split`, ...
    pub transform: String,
    /// Digest of the parent `.cgraph`, absent for a conversion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// What the step was told.
    pub parameters: Map<String, Value>,
}

/// Features without which a file of this model and these capsules cannot be read.
#[must_use]
pub fn required_features(model: &ModelInfo, capsules: &[Capsule]) -> Vec<String> {
    let first = if model.onnx.is_some() { REQUIRES_ONNX } else { REQUIRES_PACKED8 };
    let divided = capsules.iter().any(Capsule::is_divided);
    let features = [Some(first), divided.then_some(REQUIRES_PLANES)];
    features.into_iter().flatten().map(str::to_owned).collect()
}

impl Manifest {
    /// The capsule called `id`.
    #[must_use]
    pub fn capsule(&self, id: &str) -> Option<&Capsule> {
        self.capsules.iter().find(|c| c.id == id)
    }

    /// The asset called `name`.
    #[must_use]
    pub fn asset(&self, name: &str) -> Option<&Asset> {
        self.assets.iter().find(|a| a.name == name)
    }
}

impl Capsule {
    /// The capsule's checksum; `None` where a plane's is malformed.
    #[must_use]
    pub fn checksum(&self) -> Option<String> {
        let planes = self.tensors.iter().flat_map(|t| &t.planes).map(|p| p.xxh3.as_str());
        super::checksum::capsule_checksum(planes)
    }

    /// Whether one of its tensors is divided.
    #[must_use]
    pub fn is_divided(&self) -> bool {
        self.tensors.iter().any(|tensor| tensor.division.is_some())
    }

    /// All planes in the order in which they lie in the extent: the first of all tensors, then the second ones.
    pub fn planes_in_order(&self) -> impl Iterator<Item = (&Tensor, &Plane)> {
        let number = |k: usize| self.tensors.iter().filter_map(move |t| Some((t, t.planes.get(k)?)));
        number(0).chain(number(1))
    }

    /// Bytes of all planes.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.tensors.iter().flat_map(|t| &t.planes).map(|p| p.len).sum()
    }
}

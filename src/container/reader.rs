//! Opening a `.cgraph` file: header and manifest are read and every bound is checked before anything else is.

use std::collections::{HashMap, HashSet};

use super::checksum::{Running, blake3_hex, parse_hex64};
use super::disk::ReadAt;
use super::header::{HEADER_LEN, Header, Kind};
use super::manifest::{
    ARCH_ONNX, Capsule, KNOWN_FEATURES, Layout, Manifest, Plane, REQUIRES_ONNX, REQUIRES_PLANES, Residence,
    Tensor,
};
use super::{EXTENT_ALIGN, PLANE_ALIGN};
use crate::error::{Error, Result};
use crate::graph::arch;
use crate::graph::element::ElementType;
use crate::graph::params::DecoderParams;
use crate::kernels::division::Division;
use crate::kernels::{encoding, pack};
use crate::pool::CancelToken;

/// Largest number of capsules in a file.
const MAX_CAPSULES: usize = 1 << 20;
/// Dimensions of a tensor at most, and of one of plain elements.
const MAX_DIMS: usize = 4;
const MAX_PLAIN_DIMS: usize = 64;
/// Bytes read at a time when checksums are verified.
const CHUNK: usize = 4 << 20;

/// Header and manifest of an opened file, every bound checked.
#[derive(Clone, Debug)]
pub struct Contents {
    /// The file's name for messages.
    pub name: String,
    /// The header.
    pub header: Header,
    /// The manifest.
    pub manifest: Manifest,
    /// BLAKE3 of header and manifest, 64 hexadecimal digits.
    pub digest: String,
}

impl Contents {
    /// Reads and checks header and manifest; the weights are not read.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Malformed`] or [`Error::Unsupported`], naming the place.
    pub fn read(source: &dyn ReadAt) -> Result<Self> {
        let name = source.name();
        let read = |what: &str, offset: u64, buf: &mut [u8]| {
            source.read_exact_at(offset, buf).map_err(|e| Error::io(format!("read the {what} of"), &name, e))
        };
        if source.len() < HEADER_LEN as u64 {
            return Err(Error::malformed(
                &name,
                format!("{} bytes are too short for a .cgraph file", source.len()),
            ));
        }
        let mut head = [0; HEADER_LEN];
        read("header", 0, &mut head)?;
        let header = Header::decode(&name, &head, source.len())?;
        // The header's check bounds the length by MAX_MANIFEST and by the file.
        let mut text = vec![0; header.manifest_len as usize];
        read("manifest", header.manifest_offset, &mut text)?;
        if *blake3::hash(&text).as_bytes() != header.manifest_blake3 {
            return Err(Error::malformed(
                &name,
                "the manifest's checksum does not match: the file is damaged; make it again (cgraph convert; a mini: cgraph split)",
            ));
        }
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|e| Error::malformed(&name, format!("the manifest is not valid: {e}")))?;
        let digest = blake3_hex(&[&head, &text]);
        let contents = Self { name, header, manifest, digest };
        contents.check()?;
        Ok(contents)
    }

    fn bad(&self, detail: impl Into<String>) -> Error {
        Error::malformed(&self.name, detail)
    }

    fn check(&self) -> Result<()> {
        let m = &self.manifest;
        if let Some(feature) = m.requires.iter().find(|f| !KNOWN_FEATURES.contains(&f.as_str())) {
            return Err(Error::Unsupported(format!(
                "{}: the file requires the feature \"{feature}\", which this library does not know; use a newer release",
                self.name
            )));
        }
        self.check_model()?;
        if m.capsules.iter().any(Capsule::is_divided) && !m.requires.iter().any(|f| f == REQUIRES_PLANES) {
            return Err(
                self.bad(format!("it has divided tensors and does not require \"{REQUIRES_PLANES}\""))
            );
        }
        let mini = self.header.kind == Kind::Mini;
        if m.full.is_some() != mini || m.plan.is_some() != mini {
            return Err(self.bad("only a mini names a full file and a plan, and it must name both"));
        }
        if m.capsules.is_empty() || m.capsules.len() > MAX_CAPSULES {
            return Err(self.bad(format!("{} capsules (1 to {MAX_CAPSULES} are possible)", m.capsules.len())));
        }
        self.check_ports()?;
        let mut end = EXTENT_ALIGN;
        for capsule in &m.capsules {
            self.check_capsule(capsule, mini, &mut end)?;
        }
        self.check_shared()?;
        let mut names = HashSet::new();
        for asset in &m.assets {
            let stop = asset.offset.checked_add(asset.len).filter(|s| *s <= self.header.manifest_offset);
            if !asset.offset.is_multiple_of(PLANE_ALIGN) || asset.offset < end || stop.is_none() {
                return Err(self.bad(format!(
                    "asset \"{}\" ({} bytes at {}) is misplaced",
                    asset.name, asset.len, asset.offset
                )));
            }
            if parse_hex64(&asset.xxh3).is_none() || !names.insert(asset.name.as_str()) {
                return Err(self.bad(format!("asset \"{}\" is named twice or has no checksum", asset.name)));
            }
            end = stop.unwrap_or(end);
        }
        Ok(())
    }

    /// Hyper-parameters of a decoder.
    ///
    /// # Errors
    /// [`Error::Unsupported`] of an ONNX model.
    pub fn decoder(&self) -> Result<&DecoderParams> {
        self.manifest.model.decoder.as_ref().ok_or_else(|| {
            Error::Unsupported(format!(
                "{}: this is an ONNX model, not a language model: it takes named tensors (on the command line: cgraph run --input NAME=FILE.npy)",
                self.name
            ))
        })
    }

    /// The model is a decoder or of ONNX, and its tensors are stored as such.
    fn check_model(&self) -> Result<()> {
        let m = &self.manifest;
        match (&m.model.decoder, &m.model.onnx) {
            (Some(decoder), None) => decoder.validate()?,
            (None, Some(_)) => {}
            _ => return Err(self.bad("its model is neither a decoder nor of ONNX, or both")),
        }
        let onnx = m.model.onnx.is_some();
        if (m.model.arch == ARCH_ONNX) != onnx || m.requires.iter().any(|f| f == REQUIRES_ONNX) != onnx {
            return Err(self.bad(format!(
                "architecture \"{}\" and required features {:?} do not belong together",
                m.model.arch, m.requires
            )));
        }
        for capsule in &m.capsules {
            if let Some(tensor) = capsule.tensors.iter().find(|t| (t.layout == Layout::Plain) != onnx) {
                return Err(self.bad(format!(
                    "capsule {}: tensor {}: layout {} in a model of architecture \"{}\"",
                    capsule.id,
                    tensor.name,
                    tensor.layout.name(),
                    m.model.arch
                )));
            }
        }
        Ok(())
    }

    /// Every input is the graph's or an earlier capsule's output, and everything that the graph gives is made.
    fn check_ports(&self) -> Result<()> {
        let (given, wanted) = self.graph_ports();
        let mut made: HashSet<&str> = given.into_iter().collect();
        let mut ids = HashSet::new();
        for capsule in &self.manifest.capsules {
            if capsule.id.is_empty() || !ids.insert(capsule.id.as_str()) {
                return Err(self.bad(format!("capsule \"{}\" is unnamed or named twice", capsule.id)));
            }
            if let Some(input) = capsule.inputs.iter().find(|i| !made.contains(i.as_str())) {
                return Err(self.bad(format!(
                    "capsule {}: input \"{input}\" is made by no earlier capsule",
                    capsule.id
                )));
            }
            for output in &capsule.outputs {
                if !made.insert(output) {
                    return Err(
                        self.bad(format!("capsule {}: output \"{output}\" is made twice", capsule.id))
                    );
                }
            }
        }
        match wanted.into_iter().find(|output| !made.contains(output)) {
            Some(output) => Err(self.bad(format!("no capsule makes the output \"{output}\""))),
            None => Ok(()),
        }
    }

    /// Names of what the graph takes and gives.
    fn graph_ports(&self) -> (Vec<&str>, Vec<&str>) {
        match &self.manifest.model.onnx {
            None => (vec![arch::INPUT], vec![arch::OUTPUT]),
            Some(onnx) => (
                onnx.inputs.iter().map(|port| port.name.as_str()).collect(),
                onnx.outputs.iter().map(|port| port.name.as_str()).collect(),
            ),
        }
    }

    fn check_capsule(&self, capsule: &Capsule, mini: bool, end: &mut u64) -> Result<()> {
        let bad = |detail: String| self.bad(format!("capsule {}: {detail}", capsule.id));
        if capsule.residence.is_some() != mini || capsule.link.is_some() != mini {
            return Err(
                bad("only a mini's capsules have residence and link, and they must have both".into()),
            );
        }
        if let Some(link) = &capsule.link {
            let full_len = self.manifest.full.as_ref().map_or(0, |f| f.len);
            let stop = link.offset.checked_add(link.len).filter(|s| *s <= full_len);
            if stop.is_none() || parse_hex64(&link.xxh3).is_none() {
                return Err(bad(format!("its link ({} bytes at {}) is not valid", link.len, link.offset)));
            }
        }
        let mut room = 0;
        if let Some(extent) = capsule.extent {
            let stop = extent.offset.checked_add(extent.len).filter(|s| *s <= self.header.manifest_offset);
            let aligned =
                extent.offset.is_multiple_of(EXTENT_ALIGN) && extent.len.is_multiple_of(EXTENT_ALIGN);
            let (true, true, Some(stop)) = (aligned, extent.offset >= *end, stop) else {
                return Err(bad(format!(
                    "its extent ({} bytes at {}) is misaligned, overlaps another or leaves the file",
                    extent.len, extent.offset
                )));
            };
            *end = stop;
            room = extent.len;
        }
        let mut names = HashSet::new();
        let mut at = 0;
        for tensor in &capsule.tensors {
            let bad = |detail: String| bad(format!("tensor {}: {detail}", tensor.name));
            if !names.insert(tensor.name.as_str()) {
                return Err(bad("it is listed twice".into()));
            }
            let expected = plane_bytes(tensor).map_err(bad)?;
            let (found, all) = (tensor.planes.len(), expected.len());
            let needed = match capsule.residence {
                Some(Residence::Linked) if found == 0 => 0,
                Some(Residence::Nested) => 1,
                _ => all,
            };
            if found != needed {
                return Err(bad(format!("{found} planes where {needed} belong")));
            }
            for (plane, expected) in tensor.planes.iter().zip(expected) {
                if plane.len != expected {
                    let len = plane.len;
                    return Err(bad(format!(
                        "{len} stored bytes where its shape and encoding need {expected}"
                    )));
                }
            }
        }
        for (tensor, plane) in capsule.planes_in_order() {
            check_plane(plane, room, &mut at)
                .map_err(|detail| bad(format!("tensor {}: {detail}", tensor.name)))?;
        }
        Ok(())
    }

    fn check_shared(&self) -> Result<()> {
        let mut by_id: HashMap<&str, &Capsule> = HashMap::new();
        for capsule in &self.manifest.capsules {
            for shared in &capsule.shared {
                let found = by_id
                    .get(shared.capsule.as_str())
                    .is_some_and(|c| c.tensors.iter().any(|t| t.name == shared.tensor));
                if !found {
                    return Err(self.bad(format!(
                        "capsule {}: no earlier capsule {} holds the shared tensor {}",
                        capsule.id, shared.capsule, shared.tensor
                    )));
                }
            }
            by_id.insert(&capsule.id, capsule);
        }
        Ok(())
    }
}

/// Holds a plane's place against those before it and the room of its extent.
fn check_plane(plane: &Plane, room: u64, at: &mut u64) -> Result<(), String> {
    let stop = plane.offset.checked_add(plane.len).filter(|s| *s <= room);
    let (Some(stop), true) = (stop, plane.offset >= *at && plane.offset.is_multiple_of(PLANE_ALIGN)) else {
        return Err(format!(
            "its plane ({} bytes at {}) is misaligned, overlaps another or leaves the extent of {room} bytes",
            plane.len, plane.offset
        ));
    };
    if parse_hex64(&plane.xxh3).is_none() {
        return Err("its plane has no valid checksum".into());
    }
    *at = stop;
    Ok(())
}

/// Bytes of each plane that a tensor's shape, encoding, layout and division need.
///
/// # Errors
/// What is wrong with them.
pub fn plane_bytes(tensor: &Tensor) -> Result<Vec<u64>, String> {
    let whole = tensor_bytes(tensor)?;
    let Some(name) = &tensor.division else { return Ok(vec![whole]) };
    let division = encoding::by_name(&tensor.encoding).and_then(|encoding| encoding.division);
    match division.filter(|division| division.name == name && tensor.layout == Layout::Packed8) {
        // Whole blocks, by `tensor_bytes`.
        Some(Division { bytes: [first, second], .. }) => {
            let blocks = whole / (first + second) as u64;
            Ok(vec![blocks * *first as u64, blocks * *second as u64])
        }
        None => Err(format!(
            "a division {name:?} where {} in layout {} has {}",
            tensor.encoding,
            tensor.layout.name(),
            division.map_or("none", |division| division.name)
        )),
    }
}

/// Bytes that a tensor's shape, encoding and layout need.
///
/// # Errors
/// What is wrong with shape or encoding.
pub fn tensor_bytes(tensor: &Tensor) -> Result<u64, String> {
    if tensor.layout == Layout::Plain {
        return plain_bytes(tensor);
    }
    let Some(encoding) = encoding::by_name(&tensor.encoding) else {
        return Err(format!("unknown encoding \"{}\"", tensor.encoding));
    };
    let dims = &tensor.shape;
    let (Some((cols, outer)), true) = (dims.split_last(), dims.len() <= MAX_DIMS) else {
        return Err(format!("a shape of {} dimensions", dims.len()));
    };
    let rows = outer.iter().try_fold(1u64, |product, d| product.checked_mul(*d));
    let sizes = rows.and_then(|rows| Some((usize::try_from(rows).ok()?, usize::try_from(*cols).ok()?)));
    let bytes =
        sizes.filter(|(rows, cols)| *rows > 0 && *cols > 0).and_then(|(rows, cols)| match tensor.layout {
            Layout::Rows | Layout::Plain => pack::row_bytes(encoding, cols)?.checked_mul(rows),
            Layout::Packed8 => pack::packed_len(encoding, rows, cols),
        });
    bytes
        .map(|b| b as u64)
        .ok_or_else(|| format!("shape {dims:?} does not suit encoding {}", tensor.encoding))
}

/// As [`tensor_bytes`], of plain elements.
fn plain_bytes(tensor: &Tensor) -> Result<u64, String> {
    let Some(element) = ElementType::by_name(&tensor.encoding) else {
        return Err(format!("unknown element type \"{}\"", tensor.encoding));
    };
    if tensor.shape.len() > MAX_PLAIN_DIMS {
        return Err(format!("a shape of {} dimensions", tensor.shape.len()));
    }
    element
        .tensor_bytes(&tensor.shape)
        .filter(|bytes| *bytes > 0 && usize::try_from(*bytes).is_ok())
        .ok_or_else(|| format!("shape {:?} does not suit element type {}", tensor.shape, tensor.encoding))
}

/// One finding of [`check_payload`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Damage {
    /// The capsule, where the damage lies in one.
    pub capsule: Option<String>,
    /// What is damaged.
    pub detail: String,
}

/// Reads the whole file and holds every plane and asset against its checksum, and every unclaimed byte
/// against zero. `progress` is told the bytes done so far.
///
/// # Errors
/// [`Error::Io`] or [`Error::Cancelled`]; damage is not an error but a finding.
pub fn check_payload(
    source: &dyn ReadAt,
    contents: &Contents,
    cancel: Option<&CancelToken>,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<Damage>> {
    let mut found = Vec::new();
    let mut scan = Scan { source, name: &contents.name, buf: vec![0; CHUNK], cancel, progress };
    let mut at = HEADER_LEN as u64;
    for capsule in &contents.manifest.capsules {
        let Some(extent) = capsule.extent else { continue };
        let mut report = |detail: String| found.push(Damage { capsule: Some(capsule.id.clone()), detail });
        if !scan.zeros(at, extent.offset)? {
            report("bytes between extents are not zero".into());
        }
        at = extent.offset;
        for (tensor, plane) in capsule.planes_in_order() {
            let start = extent.offset + plane.offset;
            if !scan.zeros(at, start)? {
                report(format!("padding before tensor {} is not zero", tensor.name));
            }
            at = start + plane.len;
            if scan.checksum(start, at)? != plane.xxh3 {
                report(format!(
                    "tensor {} ({} bytes at {start}) does not match its checksum",
                    tensor.name, plane.len
                ));
            }
        }
        if !scan.zeros(at, extent.offset + extent.len)? {
            report("padding at the end of the extent is not zero".into());
        }
        at = extent.offset + extent.len;
    }
    let mut report = |detail: String| found.push(Damage { capsule: None, detail });
    for asset in &contents.manifest.assets {
        let stop = asset.offset + asset.len;
        if !scan.zeros(at, asset.offset)? || scan.checksum(asset.offset, stop)? != asset.xxh3 {
            report(format!("asset \"{}\" does not match its checksum", asset.name));
        }
        at = stop;
    }
    if !scan.zeros(at, contents.header.manifest_offset)? {
        report("padding before the manifest is not zero".into());
    }
    Ok(found)
}

struct Scan<'a> {
    source: &'a dyn ReadAt,
    name: &'a str,
    buf: Vec<u8>,
    cancel: Option<&'a CancelToken>,
    progress: &'a mut dyn FnMut(u64),
}

impl Scan<'_> {
    fn each(&mut self, mut from: u64, to: u64, mut f: impl FnMut(&[u8])) -> Result<()> {
        while from < to {
            if self.cancel.is_some_and(CancelToken::is_cancelled) {
                return Err(Error::Cancelled);
            }
            let len = (to - from).min(CHUNK as u64) as usize;
            let part = &mut self.buf[..len];
            self.source
                .read_exact_at(from, part)
                .map_err(|e| Error::io(format!("read {len} bytes at {from} of"), self.name, e))?;
            f(part);
            from += len as u64;
            (self.progress)(from);
        }
        Ok(())
    }

    fn zeros(&mut self, from: u64, to: u64) -> Result<bool> {
        let mut all = true;
        self.each(from, to, |part| all &= part.iter().all(|b| *b == 0))?;
        Ok(all)
    }

    fn checksum(&mut self, from: u64, to: u64) -> Result<String> {
        let mut running = Running::default();
        self.each(from, to, |part| running.update(part))?;
        Ok(running.hex())
    }
}

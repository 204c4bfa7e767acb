//! Writing a mini: the planned form of each capsule, the assets, the link index.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, json};

use super::agreement::Text;
use super::importance::{self, Importance};
use super::options::SplitOptions;
use super::plan::{self, CapsuleForm, Light};
use super::{light, onnx, sensitivity};
use crate::container::disk::Disk;
use crate::container::header::Kind;
use crate::container::manifest::{
    Asset, Capsule, Extent, FullReference, LineageStep, Link, Manifest, Plane, Residence, SplitPlan, Tensor,
    required_features,
};
use crate::container::paths::refuse_overwriting;
use crate::container::reader::plane_bytes;
use crate::container::writer::{Sealed, Writer, manifest_bytes};
use crate::container::{EXTENT_ALIGN, PLANE_ALIGN, align_up};
use crate::convert::import::{ProgressFn, generator};
use crate::error::{Error, Result};
use crate::kernels::encoding::Encoding;
use crate::pool::CancelToken;
use crate::store::fetch::encoding_of;
use crate::store::mapped::MappedFile;

/// Bytes by which a mini's manifest may become longer once its agreement is measured: the field and a float.
pub(super) const SPARE: usize = 48;

/// What a split wrote.
#[derive(Clone, Debug, Serialize)]
pub struct SplitSummary {
    /// The mini.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// The full file's length in bytes.
    pub full_bytes: u64,
    /// The plan.
    pub plan: SplitPlan,
    /// Share of positions of a text at which mini and full agree on the most likely token, where measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_agreement: Option<f64>,
}

/// Derives a mini at `target` from the full file at `source`, and measures how well they agree before it gets its name:
/// whatever fails, nothing new stands there. `progress` is told bytes of the full file; where light forms are measured
/// first, they are gone through twice.
///
/// # Errors
/// [`Error::Limit`] naming the smallest possible length; [`Error::Mismatch`] where `source` is no full file;
/// [`Error::InvalidArgument`] where it is `target`, or the text to measure on has no tokens; [`Error::Corrupt`] where
/// bytes that the mini needs do not match their checksum; [`Error::Cancelled`]; those of reading, running and writing.
pub fn split(
    source: &Path,
    target: &Path,
    options: &SplitOptions,
    progress: &mut ProgressFn<'_>,
) -> Result<SplitSummary> {
    refuse_overwriting(&[source], &[target])?;
    let full = open_full(source, options.disk.as_ref())?;
    if let Some(info) = &full.contents().manifest.model.onnx {
        return onnx::split(&full, info, target, options, progress);
    }
    let text = Text::prepare(source, &full, options)?;
    let read = text.as_ref().filter(|_| options.light != Light::None);
    let written: u64 = full.contents().manifest.capsules.iter().map(Capsule::stored_bytes).sum();
    // What is measured before counts as much as what is written.
    let before = if read.is_some() { written } else { 0 };
    let total = written.saturating_add(before);
    let (importance, weights) = match read {
        Some(text) => {
            let importance = Importance::measure(&full.contents().manifest, text, options)?;
            let mut told = |done: u64, all: u64| progress(share(before, done, all), total);
            let weights = sensitivity::measure(source, &full, target, text, &importance, options, &mut told)?;
            (Some(importance), weights)
        }
        None => (None, None),
    };
    let importance = importance.as_ref();
    let chosen = plan::plan(&full, weights.as_deref(), importance, options, &|candidate| {
        length_of(&full, candidate, importance)
    })?;
    let linked = chosen.capsules.iter().any(|capsule| capsule.residence == Residence::Linked);
    let mut told = |done: u64, _: u64| progress(before.saturating_add(done), total);
    let (mut mini, mut manifest) = compose(&full, target, &chosen, importance, options, &mut told)?;
    let measured = text.filter(|_| !linked);
    let expected_agreement = measured.map(|text| text.agreement(mini.source()?, options)).transpose()?;
    record(&mut mini, &mut manifest, |plan| plan.agreement = expected_agreement)?;
    Ok(SplitSummary {
        path: target.to_owned(),
        bytes: mini.commit()?,
        full_bytes: full.contents().header.file_len,
        plan: chosen,
        expected_agreement,
    })
}

/// The share of `whole` that `done` of `all` is.
fn share(whole: u64, done: u64, all: u64) -> u64 {
    // Not more than `whole`, as `done` is not more than `all`.
    (u128::from(whole) * u128::from(done.min(all)) / u128::from(all.max(1))) as u64
}

/// Opens a file that must be a full one.
///
/// # Errors
/// [`Error::Mismatch`] where it is a mini.
pub(super) fn open_full(source: &Path, disk: &dyn Disk) -> Result<MappedFile> {
    let full = MappedFile::open(disk.open(source)?)?;
    if full.contents().header.kind != Kind::Full {
        return Err(Error::Mismatch(format!(
            "{}: this is a mini; a mini is derived from a full file",
            full.name()
        )));
    }
    Ok(full)
}

/// Writes the mini that `plan` describes. Returns its length.
pub(super) fn write(
    full: &MappedFile,
    target: &Path,
    plan: &SplitPlan,
    importance: Option<&Importance>,
    options: &SplitOptions,
    progress: &mut ProgressFn<'_>,
) -> Result<u64> {
    let unmeasured = SplitPlan { agreement: None, ..plan.clone() };
    let (mut mini, mut manifest) = compose(full, target, &unmeasured, importance, options, progress)?;
    record(&mut mini, &mut manifest, |own| own.agreement = plan.agreement)?;
    mini.commit()
}

/// Puts what was measured into the plan of a mini that was written without, so that its length does not depend on it.
pub(super) fn record(
    mini: &mut Sealed,
    manifest: &mut Manifest,
    measured: impl FnOnce(&mut SplitPlan),
) -> Result<()> {
    let Some(plan) = &mut manifest.plan else { return Ok(()) };
    let before = plan.clone();
    measured(plan);
    if *plan == before { Ok(()) } else { mini.amend(manifest) }
}

/// As [`write`], up to the mini's name. Also gives the manifest that was written.
pub(super) fn compose(
    full: &MappedFile,
    target: &Path,
    plan: &SplitPlan,
    importance: Option<&Importance>,
    options: &SplitOptions,
    progress: &mut ProgressFn<'_>,
) -> Result<(Sealed, Manifest)> {
    let forms = forms(full, plan)?;
    let source = &full.contents().manifest;
    let total: u64 = source.capsules.iter().map(Capsule::stored_bytes).sum();
    let mut writer = Writer::new(options.disk.create(target)?)?;
    let mut manifest = outline(full, plan)?;
    let mut done = 0;
    let slots = source.capsules.iter().zip(&forms).zip(&plan.capsules).zip(&mut manifest.capsules);
    for (index, (((capsule, form), planned), slot)) in slots.enumerate() {
        writer.begin_capsule()?;
        // The first planes of all tensors stand before the second ones.
        for place in [0, 1] {
            let tensors = capsule.tensors.iter().zip(form).zip(&mut slot.tensors).enumerate();
            for (number, ((tensor, encoding), out)) in tensors {
                let Some(encoding) = encoding else { continue };
                if place >= planes_of(tensor, encoding, planned.residence)?.len() {
                    continue;
                }
                // The mini gets checksums of its own, which must not cover up damage of the full file.
                let copied = *encoding == encoding_of(tensor)?;
                let read = if copied { place..place + 1 } else { 0..tensor.planes.len() };
                for plane in read {
                    full.checked_plane(capsule, tensor, plane)?;
                }
                out.planes.push(writer.plane(&mut |sink| {
                    let mut checked = |bytes: &[u8]| {
                        if options.cancel.as_ref().is_some_and(CancelToken::is_cancelled) {
                            return Err(Error::Cancelled);
                        }
                        sink(bytes)
                    };
                    if copied {
                        copy(full.plane(capsule, tensor, place)?, &mut checked)
                    } else {
                        let columns = importance.and_then(|importance| importance.of(index, number));
                        light::stream(full, capsule, tensor, encoding, columns, &mut checked)
                    }
                })?);
            }
        }
        slot.extent = writer.end_capsule()?;
        done += capsule.stored_bytes();
        progress(done, total);
    }
    manifest.assets.clear();
    for asset in &source.assets {
        manifest.assets.push(writer.asset(&asset.name, full.checked_asset(asset)?)?);
    }
    if let Some(importance) = importance {
        manifest.assets.push(writer.asset(importance::ASSET, &importance.bytes())?);
    }
    Ok((writer.seal(Kind::Mini, &manifest, SPARE)?, manifest))
}

/// Bytes of each plane that a mini holds of `tensor` in `encoding`, where its capsule is held so.
pub(super) fn planes_of(tensor: &Tensor, encoding: &Encoding, residence: Residence) -> Result<Vec<u64>> {
    if encoding.name != tensor.encoding {
        return Ok(vec![plan::plane_bytes(tensor, encoding)]);
    }
    let mut planes = plane_bytes(tensor)
        .map_err(|why| Error::Internal(format!("tensor {} passed the reader: {why}", tensor.name)))?;
    if residence == Residence::Nested {
        planes.truncate(1);
    }
    Ok(planes)
}

pub(super) fn copy(bytes: &[u8], sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    bytes.chunks(4 << 20).try_for_each(sink)
}

fn forms(full: &MappedFile, plan: &SplitPlan) -> Result<Vec<CapsuleForm>> {
    let capsules = &full.contents().manifest.capsules;
    if plan.capsules.len() != capsules.len() {
        return Err(Error::Mismatch(format!(
            "the plan is for {} capsules, {} has {}",
            plan.capsules.len(),
            full.name(),
            capsules.len()
        )));
    }
    plan.capsules.iter().zip(capsules).map(|(planned, capsule)| plan::form_of(planned, capsule)).collect()
}

/// The mini's manifest with everything but places and checksums.
fn outline(full: &MappedFile, plan: &SplitPlan) -> Result<Manifest> {
    let contents = full.contents();
    let source = &contents.manifest;
    let mut capsules = Vec::with_capacity(source.capsules.len());
    for ((capsule, planned), form) in source.capsules.iter().zip(&plan.capsules).zip(forms(full, plan)?) {
        let tensors = capsule.tensors.iter().zip(&form).map(|(tensor, encoding)| Tensor {
            encoding: encoding.map_or_else(|| tensor.encoding.clone(), |e| e.name.to_owned()),
            division: tensor.division.clone().filter(|_| encoding.is_none_or(|e| e.name == tensor.encoding)),
            planes: Vec::new(),
            ..tensor.clone()
        });
        capsules.push(Capsule {
            extent: None,
            tensors: tensors.collect(),
            residence: Some(planned.residence),
            link: Some(link(full, capsule)?),
            ..capsule.clone()
        });
    }
    Ok(Manifest {
        generator: generator(),
        requires: required_features(&source.model, &capsules),
        model: source.model.clone(),
        capsules,
        assets: source.assets.clone(),
        lineage: source.lineage.iter().cloned().chain([lineage_step(full, plan)]).collect(),
        full: Some(reference(full)),
        plan: Some(plan.clone()),
        unknown: Map::new(),
    })
}

/// The line of a mini's history that its split is.
pub(super) fn lineage_step(full: &MappedFile, plan: &SplitPlan) -> LineageStep {
    let mut parameters = Map::new();
    parameters.insert("size".into(), json!(plan.size));
    parameters.insert("light".into(), json!(plan.light));
    LineageStep { transform: "split".into(), parent: Some(full.contents().digest.clone()), parameters }
}

/// How a mini names its full file.
pub(super) fn reference(full: &MappedFile) -> FullReference {
    let (name, contents) = (full.source().path().and_then(Path::file_name), full.contents());
    FullReference {
        file_name: name.map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
        digest: contents.digest.clone(),
        len: contents.header.file_len,
    }
}

fn link(full: &MappedFile, capsule: &Capsule) -> Result<Link> {
    match (capsule.extent, capsule.checksum()) {
        (Some(Extent { offset, len }), Some(xxh3)) => Ok(Link { offset, len, xxh3 }),
        _ => Err(Error::malformed(
            full.name(),
            format!("capsule {} has no extent; a full file holds every capsule", capsule.id),
        )),
    }
}

/// The exact length of the mini that `plan` describes, without writing it: the same layout with checksums of
/// the same width.
fn length_of(full: &MappedFile, plan: &SplitPlan, importance: Option<&Importance>) -> Result<u64> {
    const CHECKSUM: &str = "0000000000000000";
    let overflow = || Error::Limit("the mini would exceed the largest possible length".into());
    let align = |at: u64, to: u64| align_up(at, to).ok_or_else(overflow);
    let mut manifest = outline(full, plan)?;
    let source = &full.contents().manifest;
    let mut at = EXTENT_ALIGN;
    let slots =
        source.capsules.iter().zip(forms(full, plan)?).zip(&plan.capsules).zip(&mut manifest.capsules);
    for (((capsule, form), planned), slot) in slots {
        let start = at;
        for place in [0, 1] {
            for ((tensor, encoding), out) in capsule.tensors.iter().zip(&form).zip(&mut slot.tensors) {
                let Some(encoding) = encoding else { continue };
                let planes = planes_of(tensor, encoding, planned.residence)?;
                let Some(len) = planes.get(place).copied() else { continue };
                at = align(at, PLANE_ALIGN)?;
                out.planes.push(Plane { offset: at - start, len, xxh3: CHECKSUM.into() });
                at = at.checked_add(len).ok_or_else(overflow)?;
            }
        }
        at = align(at, EXTENT_ALIGN)?;
        slot.extent = (at > start).then_some(Extent { offset: start, len: at - start });
    }
    manifest.assets.clear();
    for asset in &source.assets {
        at = align(at, PLANE_ALIGN)?;
        manifest.assets.push(Asset { offset: at, ..asset.clone() });
        at += asset.len;
    }
    if let Some(importance) = importance {
        at = align(at, PLANE_ALIGN)?;
        let len = importance.bytes().len() as u64;
        let name = importance::ASSET.to_owned();
        manifest.assets.push(Asset { name, offset: at, len, xxh3: CHECKSUM.into() });
        at += len;
    }
    Ok(align(at, PLANE_ALIGN)? + (manifest_bytes(&manifest)?.len() + SPARE) as u64)
}

/// Capsules and bytes of each residence of a plan, for people.
#[must_use]
pub fn residence_counts(plan: &SplitPlan) -> [(Residence, usize); 4] {
    [Residence::Pinned, Residence::Light, Residence::Nested, Residence::Linked]
        .map(|wanted| (wanted, plan.capsules.iter().filter(|c| c.residence == wanted).count()))
}

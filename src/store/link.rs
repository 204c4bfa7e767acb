//! Whether a mini and a full file belong together.

use serde::Serialize;
use serde_json::{Map, Value};

use super::mapped::MappedFile;
use crate::container::header::Kind;
use crate::container::manifest::{Capsule, Extent, Layout, Manifest, Residence, Tensor};
use crate::error::{Error, Result};

/// Holds a mini's link index against a full file: digest, order of capsules, ports, extents, checksums.
///
/// # Errors
/// [`Error::Mismatch`] that names the first capsule that does not hold, and why.
pub fn check_link_index(mini: &MappedFile, full: &MappedFile) -> Result<()> {
    let (m, f) = (mini.contents(), full.contents());
    let bad = |detail: String| {
        let another = m.manifest.full.as_ref().is_some_and(|full| full.digest != f.digest);
        let first = if another {
            "name the full file that the mini was made from, or, if that is this model, "
        } else {
            ""
        };
        Err(Error::Mismatch(format!(
            "{} and {} do not belong together: {detail}; {first}rebuild the mini with: cgraph verify {} --repair --full {}",
            m.name, f.name, m.name, f.name
        )))
    };
    let Some(reference) = &m.manifest.full else {
        return Err(Error::Mismatch(format!("{}: this is a full file, not a mini", m.name)));
    };
    if f.header.kind != Kind::Full {
        return Err(Error::Mismatch(format!(
            "{}: this is a mini itself; name the full file of {} ({})",
            f.name, m.name, reference.file_name
        )));
    }
    if let Some(why) = other_model(&m.manifest, &f.manifest) {
        return Err(Error::Mismatch(format!(
            "{} and {} do not belong together: {why}; name the full file that the mini was made from, or derive another mini \
             with cgraph split",
            m.name, f.name
        )));
    }
    let (own, theirs) = (&m.manifest.capsules, &f.manifest.capsules);
    for (a, b) in own.iter().zip(theirs) {
        if let Err(detail) = check_link(a, b) {
            return bad(format!("capsule {}: {detail}", a.id));
        }
    }
    if reference.digest != f.digest {
        return bad(format!(
            "the mini names the digest {}..., the full file has {}... (another conversion of the same model)",
            reference.digest.get(..12).unwrap_or_default(),
            f.digest.get(..12).unwrap_or_default()
        ));
    }
    Ok(())
}

fn check_link(mini: &Capsule, full: &Capsule) -> Result<(), String> {
    if mini.id != full.id || mini.inputs != full.inputs || mini.outputs != full.outputs {
        return Err(format!("its place in the graph is taken by {}", full.id));
    }
    let Some(link) = &mini.link else { return Err("it has no link".into()) };
    // A capsule without weights, as ONNX models have them, takes no place.
    let extent = full.extent.unwrap_or(Extent { offset: 0, len: 0 });
    if (link.offset, link.len) != (extent.offset, extent.len) {
        return Err(format!(
            "its link says {} bytes at {}, the full file has {} at {}",
            link.len, link.offset, extent.len, extent.offset
        ));
    }
    if full.checksum().as_deref() != Some(link.xxh3.as_str()) {
        return Err("its checksum differs".into());
    }
    let shapes = |c: &Capsule| {
        c.tensors.iter().map(|t| (t.name.clone(), t.shape.clone(), t.layout)).collect::<Vec<_>>()
    };
    if !has_own_tensors(mini) && shapes(mini) != shapes(full) {
        return Err("its tensors differ".into());
    }
    if mini.residence == Some(Residence::Pinned) && mini.checksum() != full.checksum() {
        return Err("it is called pinned, but is not what the full file holds".into());
    }
    let first = |c: &Capsule| -> Vec<_> {
        let plane =
            |t: &Tensor| (t.encoding.clone(), t.division.clone(), t.planes.first().map(|p| p.xxh3.clone()));
        c.tensors.iter().map(plane).collect()
    };
    if mini.residence == Some(Residence::Nested) && first(mini) != first(full) {
        return Err("it is called nested, but its first planes are not those of the full file".into());
    }
    Ok(())
}

/// In what a full file shows that it is of another model than the mini; `None` where it is not. How weights are stored and
/// what they are is no part of it: that changes with every conversion.
pub fn other_model(mini: &Manifest, full: &Manifest) -> Option<String> {
    let (own, theirs) = (&mini.model, &full.model);
    if own.name != theirs.name {
        return Some(format!("the mini is of \"{}\", the full file of \"{}\"", own.name, theirs.name));
    }
    if own.arch != theirs.arch {
        return Some(format!(
            "the mini's architecture is \"{}\", the full file's \"{}\"",
            own.arch, theirs.arch
        ));
    }
    if own.decoder != theirs.decoder {
        return Some(format!("their hyper-parameters differ: {}", differing(&own.decoder, &theirs.decoder)));
    }
    if own.onnx != theirs.onnx {
        return Some(format!("their inputs or outputs differ: {}", differing(&own.onnx, &theirs.onnx)));
    }
    let (own, theirs) = (&mini.capsules, &full.capsules);
    if own.len() != theirs.len() {
        return Some(format!("{} capsules against {}", own.len(), theirs.len()));
    }
    own.iter().zip(theirs).find_map(|(own, theirs)| other_capsule(own, theirs))
}

/// The fields that differ, with both values.
fn differing<T: Serialize>(own: &T, theirs: &T) -> String {
    let fields = |params: &T| match serde_json::to_value(params) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let (own, theirs) = (fields(own), fields(theirs));
    let each = own.iter().filter_map(|(name, value)| {
        let other = theirs.get(name)?;
        (value != other).then(|| format!("{name} is {value} against {other}"))
    });
    each.collect::<Vec<_>>().join(", ")
}

/// Whether a mini's capsule computes with tensors of its own, for other operators than the full file's: the light form of an
/// ONNX capsule.
fn has_own_tensors(capsule: &Capsule) -> bool {
    let mut tensors = capsule.tensors.iter();
    capsule.residence == Some(Residence::Light) && tensors.all(|tensor| tensor.layout == Layout::Plain)
}

/// As [`other_model`], of a capsule.
fn other_capsule(own: &Capsule, theirs: &Capsule) -> Option<String> {
    if own.id != theirs.id {
        return Some(format!("capsule {} stands in the place of {}", theirs.id, own.id));
    }
    if has_own_tensors(own) {
        return None;
    }
    let has = |capsule: &Capsule, tensor: &Tensor| capsule.tensors.iter().any(|t| t.name == tensor.name);
    if let Some(tensor) = own.tensors.iter().find(|tensor| !has(theirs, tensor)) {
        return Some(format!("capsule {}: the full file has no tensor {}", own.id, tensor.name));
    }
    if let Some(tensor) = theirs.tensors.iter().find(|tensor| !has(own, tensor)) {
        return Some(format!("capsule {}: the mini knows no tensor {}", own.id, tensor.name));
    }
    // Of one set of names: what is at different places is told as what it is there.
    let mut pairs = own.tensors.iter().zip(&theirs.tensors);
    let (a, b) = pairs.find(|(a, b)| (&a.name, &a.shape) != (&b.name, &b.shape))?;
    Some(format!(
        "capsule {}: tensor {} {:?} stands in the place of {} {:?}",
        own.id, b.name, b.shape, a.name, a.shape
    ))
}

//! Minis of ONNX models.
//!
//! Lives here: light forms of capsules ([`light`], [`weights`]), which of them are taken ([`plan`]), what they do to the
//! model's outputs ([`measure`]), and writing ([`write`]). Called by `split` alone. Must not know: decoders, files' layout.

mod light;
mod measure;
mod plan;
mod weights;
mod write;

use std::path::Path;

use self::light::{Bits, Light as LightCapsule};
use self::measure::Calibration;
use self::plan::Form;
use self::write::{Source, compose};
use super::options::SplitOptions;
use super::plan::Light;
use super::write::{SplitSummary, record};
use crate::container::manifest::{Capsule, PlannedCapsule, Residence, SplitPlan};
use crate::container::{EXTENT_ALIGN, PLANE_ALIGN, align_up};
use crate::convert::import::ProgressFn;
use crate::error::{Error, Result};
use crate::graph::onnx::OnnxInfo;
use crate::store::mapped::MappedFile;

/// Error of a model's outputs up to which a mini is written where the options name no other: the root of the mean squared
/// difference, relative to the outputs' own.
pub(super) const MOST_ERROR: f64 = 0.05;
/// Plans that are tried until the length and the error are what they must be.
const TRIES: usize = 12;

/// Derives a mini at `target` from an ONNX model.
///
/// # Errors
/// Those of [`super::split`]; [`Error::Limit`] where the outputs would be further from the full file's than the options
/// allow; those of ONNX Runtime where it is needed to measure.
pub(super) fn split(
    full: &MappedFile,
    info: &OnnxInfo,
    target: &Path,
    options: &SplitOptions,
    progress: &mut ProgressFn<'_>,
) -> Result<SplitSummary> {
    let source = Source::new(full, info)?;
    let bits = allowed(options.light)?;
    let capsules = source.capsules().iter().enumerate();
    let mut forms: Vec<Vec<Form>> =
        capsules.map(|(index, capsule)| possible(&source, index, capsule, &bits)).collect();
    let shorter = |forms: &Vec<Form>| forms.iter().any(|form| form.bytes < forms[0].bytes);
    if options.size == 0 && !bits.is_empty() && !forms.iter().any(shorter) {
        return Err(Error::Unsupported(format!(
            "{}: a mini would hold everything, as no capsule of this model has a light form that is shorter; with --light none \
             and a --size it links some capsules",
            full.name()
        )));
    }
    let calibration =
        if bits.is_empty() { None } else { Some(Calibration::prepare(&source, target, options)?) };
    if let Some(calibration) = &calibration {
        calibration.measure(&source, &mut forms, options)?;
    }
    search(&source, forms, calibration.as_ref(), target, options, progress)
}

/// Writes minis until one has the length and the error that it must have.
fn search(
    source: &Source<'_>,
    mut forms: Vec<Vec<Form>>,
    calibration: Option<&Calibration>,
    target: &Path,
    options: &SplitOptions,
    progress: &mut ProgressFn<'_>,
) -> Result<SplitSummary> {
    let most = options.max_error.unwrap_or(MOST_ERROR);
    // What does more harm alone than is allowed to all is no choice, but where a length leaves no other.
    let mut most_alone = if options.size == 0 { most } else { f64::MAX };
    let mut room = (options.size > 0).then_some(options.size);
    for _ in 0..TRIES {
        forms
            .iter_mut()
            .for_each(|forms| forms.retain(|form| form.bits.is_none() || form.error <= most_alone));
        let plan = chosen(source, &forms, room, options)?;
        let holds = |wanted| plan.capsules.iter().any(|planned| planned.residence == wanted);
        if options.size == 0 && calibration.is_some() && !holds(Residence::Light) {
            break;
        }
        let (mut mini, mut manifest) = compose(source, target, &plan, options, progress)?;
        let bytes = mini.source()?.len();
        if let Some(room) = room.as_mut().filter(|_| bytes > options.size) {
            // What the capsules took, less what was too much: capsules are longer or shorter by steps.
            let taken: u64 =
                manifest.capsules.iter().filter_map(|capsule| capsule.extent).map(|e| e.len).sum();
            *room = taken.saturating_sub(bytes - options.size);
            continue;
        }
        let error = match calibration.filter(|_| !holds(Residence::Linked)) {
            Some(calibration) => Some(calibration.error(mini.source()?, options)?),
            None => None,
        };
        if error.is_some_and(|error| error > most) {
            if options.size > 0 {
                return Err(too_far(source, error, most));
            }
            // Together they do too much: those that do least alone remain.
            most_alone /= 2.0;
            continue;
        }
        record(&mut mini, &mut manifest, |plan| plan.output_error = error)?;
        return Ok(SplitSummary {
            path: target.to_owned(),
            bytes: mini.commit()?,
            full_bytes: source.full.contents().header.file_len,
            plan: SplitPlan { output_error: error, ..plan },
            expected_agreement: None,
        });
    }
    Err(if options.size == 0 { too_far(source, None, most) } else { too_short(source, &forms, options) })
}

/// No mini is as near to the full file as it must be; one that was made is `error` away.
fn too_far(source: &Source<'_>, error: Option<f64>, most: f64) -> Error {
    let (file, allowed) = (source.full.name(), 100.0 * most);
    let found = match error {
        Some(error) => {
            format!("the outputs of a mini of this length would be {:.1}% from its own", 100.0 * error)
        }
        None => {
            "the outputs of every mini with light forms would be further than that from its own".to_owned()
        }
    };
    Error::Limit(format!(
        "{file}: {found}, and {allowed:.1}% are allowed; give a larger --size, or allow more with --max-error"
    ))
}

/// Writes the mini that `plan` describes. Returns its length.
///
/// # Errors
/// Those of [`compose`].
pub(super) fn write(
    full: &MappedFile,
    info: &OnnxInfo,
    target: &Path,
    plan: &SplitPlan,
    options: &SplitOptions,
    progress: &mut ProgressFn<'_>,
) -> Result<u64> {
    let unmeasured = SplitPlan { output_error: None, ..plan.clone() };
    let (mut mini, mut manifest) =
        compose(&Source::new(full, info)?, target, &unmeasured, options, progress)?;
    record(&mut mini, &mut manifest, |own| own.output_error = plan.output_error)?;
    mini.commit()
}

/// The bits that the option `--light` allows.
fn allowed(light: Light) -> Result<Vec<Bits>> {
    match light {
        Light::Auto => Ok(Bits::ALL.to_vec()),
        Light::None => Ok(Vec::new()),
        Light::Encoding(encoding) => match Bits::by_name(encoding.name) {
            Some(bits) => Ok(vec![bits]),
            None => Err(Error::InvalidArgument(format!(
                "\"{}\" is no light form of an ONNX model; possible: auto, none, {}",
                encoding.name,
                Bits::ALL.map(Bits::name).join(", ")
            ))),
        },
    }
}

/// The forms that a capsule can take, the exact one first.
fn possible(source: &Source<'_>, index: usize, capsule: &Capsule, bits: &[Bits]) -> Vec<Form> {
    let extent = |bytes: u64| align_up(bytes, EXTENT_ALIGN).unwrap_or(bytes);
    let aligned = |bytes: u64| align_up(bytes, PLANE_ALIGN).unwrap_or(bytes);
    let own = capsule.extent.map_or(0, |extent| extent.len);
    let mut forms = vec![Form { bits: None, bytes: own, error: 0.0 }];
    for bits in bits {
        let Some(LightCapsule { tensors, .. }) = source.light(index, *bits) else { continue };
        let bytes = tensors.iter().filter_map(|t| t.element.tensor_bytes(&t.shape)).map(aligned).sum();
        forms.push(Form { bits: Some(*bits), bytes: extent(bytes), error: 0.0 });
    }
    forms
}

/// The plan of a mini whose capsules have `room` bytes together.
fn chosen(
    source: &Source<'_>,
    forms: &[Vec<Form>],
    room: Option<u64>,
    options: &SplitOptions,
) -> Result<SplitPlan> {
    let residences: Vec<(Residence, Option<Bits>)> = if options.light == Light::None {
        linked(forms, room).into_iter().map(|residence| (residence, None)).collect()
    } else {
        let chosen = plan::choose(forms, room).ok_or_else(|| too_short(source, forms, options))?;
        let form = |(forms, at): (&Vec<Form>, usize)| match forms.get(at).and_then(|form| form.bits) {
            None => (Residence::Pinned, None),
            light => (Residence::Light, light),
        };
        forms.iter().zip(chosen).map(form).collect()
    };
    let capsules =
        source.capsules().iter().zip(residences).map(|(capsule, (residence, bits))| PlannedCapsule {
            id: capsule.id.clone(),
            residence,
            encodings: bits.iter().map(|bits| bits.name().to_owned()).collect(),
        });
    Ok(SplitPlan {
        size: options.size,
        light: options.light.name().to_owned(),
        capsules: capsules.collect(),
        agreement: None,
        output_error: None,
    })
}

/// Pins spread evenly over the capsules, as many as `room` holds; the others are linked.
fn linked(forms: &[Vec<Form>], room: Option<u64>) -> Vec<Residence> {
    let bytes: Vec<u64> = forms.iter().map(|forms| forms.first().map_or(0, |form| form.bytes)).collect();
    let total: u64 = bytes.iter().sum();
    let room = room.unwrap_or(total / 2).min(total);
    let (mut seen, mut taken) = (0u64, 0u64);
    bytes
        .iter()
        .map(|own| {
            seen += own;
            // The share of what was pinned follows that of what was seen.
            let due = (u128::from(seen) * u128::from(room) / u128::from(total.max(1))) as u64;
            if taken + own <= due {
                taken += own;
                Residence::Pinned
            } else {
                Residence::Linked
            }
        })
        .collect()
}

fn too_short(source: &Source<'_>, forms: &[Vec<Form>], options: &SplitOptions) -> Error {
    let beside = source.full.contents().header.file_len
        - source.capsules().iter().filter_map(|capsule| capsule.extent).map(|extent| extent.len).sum::<u64>();
    Error::Limit(format!(
        "a mini of {} bytes is not possible with --light {}; the smallest is about {} bytes",
        options.size,
        options.light.name(),
        plan::least(forms).saturating_add(beside)
    ))
}

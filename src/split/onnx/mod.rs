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
use crate::container::manifest::{Capsule, Manifest, PlannedCapsule, Residence, SplitPlan};
use crate::container::writer::Sealed;
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

/// Writes the mini that is nearest to the full file of those that are as long as it may be. Errors of capsules tell only
/// roughly what happens to the model's outputs, so with a length more than one plan is measured.
fn search(
    source: &Source<'_>,
    forms: Vec<Vec<Form>>,
    calibration: Option<&Calibration>,
    target: &Path,
    options: &SplitOptions,
    progress: &mut ProgressFn<'_>,
) -> Result<SplitSummary> {
    let search = Search { source, calibration, target, options };
    if options.size == 0 {
        return search.within_error(forms, progress);
    }
    let mut best = search.of_length(&forms, progress)?;
    let is_light = |made: &Made, bits: Bits| {
        made.plan.capsules.iter().any(|capsule| capsule.encodings.iter().any(|name| *name == bits.name()))
    };
    if is_light(&best, Bits::Four) && forms.iter().flatten().any(|form| form.bits == Some(Bits::Eight)) {
        let gentle: Vec<Vec<Form>> = forms
            .iter()
            .map(|forms| forms.iter().copied().filter(|form| form.bits != Some(Bits::Four)).collect())
            .collect();
        match search.of_length(&gentle, progress) {
            Ok(other) if other.error < best.error => best = other,
            Ok(_) | Err(Error::Limit(_)) => {}
            Err(why) => return Err(why),
        }
    }
    let most = options.max_error.unwrap_or(MOST_ERROR);
    match best.error {
        Some(error) if error > most => Err(too_far(source, Some(error), most)),
        _ => search.kept(best),
    }
}

/// A mini that has no name yet.
struct Made {
    mini: Sealed,
    manifest: Manifest,
    plan: SplitPlan,
    /// How far its outputs are from the full file's, where that can be measured.
    error: Option<f64>,
}

/// What minis are made of, and how.
struct Search<'a> {
    source: &'a Source<'a>,
    calibration: Option<&'a Calibration>,
    target: &'a Path,
    options: &'a SplitOptions,
}

impl Search<'_> {
    /// A mini without a bound on its length whose error is small enough.
    fn within_error(&self, mut forms: Vec<Vec<Form>>, progress: &mut ProgressFn<'_>) -> Result<SplitSummary> {
        let most = self.options.max_error.unwrap_or(MOST_ERROR);
        // What does more harm alone than is allowed to all is no choice.
        let (mut most_alone, mut nearest) = (most, None);
        for _ in 0..TRIES {
            forms
                .iter_mut()
                .for_each(|forms| forms.retain(|form| form.bits.is_none() || form.error <= most_alone));
            let plan = chosen(self.source, &forms, None, self.options)?;
            let is_light = |planned: &PlannedCapsule| planned.residence == Residence::Light;
            if self.calibration.is_some() && !plan.capsules.iter().any(is_light) {
                break;
            }
            let made = self.made(plan, progress)?;
            match made.error {
                Some(error) if error > most => nearest = Some(error),
                _ => return self.kept(made),
            }
            // Together they do too much: those that do least alone remain.
            most_alone /= 2.0;
        }
        Err(too_far(self.source, nearest, most))
    }

    /// A mini that is at most as long as the options say.
    fn of_length(&self, forms: &[Vec<Form>], progress: &mut ProgressFn<'_>) -> Result<Made> {
        let mut room = self.options.size;
        let mut shortest = u64::MAX;
        for _ in 0..TRIES {
            let Ok(plan) = chosen(self.source, forms, Some(room), self.options) else { break };
            let mut made = self.made_unmeasured(plan, progress)?;
            let bytes = made.mini.source()?.len();
            if bytes <= self.options.size {
                made.error = self.measured(&mut made)?;
                return Ok(made);
            }
            shortest = shortest.min(bytes);
            // What the capsules took, less what was too much: capsules are longer or shorter by steps.
            let extents = made.manifest.capsules.iter().filter_map(|capsule| capsule.extent);
            let taken: u64 = extents.map(|extent| extent.len).sum();
            room = taken.saturating_sub(bytes - self.options.size);
        }
        Err(too_short(self.source, forms, self.options, shortest))
    }

    fn made(&self, plan: SplitPlan, progress: &mut ProgressFn<'_>) -> Result<Made> {
        let mut made = self.made_unmeasured(plan, progress)?;
        made.error = self.measured(&mut made)?;
        Ok(made)
    }

    fn made_unmeasured(&self, plan: SplitPlan, progress: &mut ProgressFn<'_>) -> Result<Made> {
        let (mini, manifest) = compose(self.source, self.target, &plan, self.options, progress)?;
        Ok(Made { mini, manifest, plan, error: None })
    }

    /// The error of a mini that answers alone.
    fn measured(&self, made: &mut Made) -> Result<Option<f64>> {
        let is_linked = |planned: &PlannedCapsule| planned.residence == Residence::Linked;
        match self.calibration.filter(|_| !made.plan.capsules.iter().any(is_linked)) {
            Some(calibration) => calibration.error(made.mini.source()?, self.options).map(Some),
            None => Ok(None),
        }
    }

    /// Gives the mini its name.
    fn kept(&self, made: Made) -> Result<SplitSummary> {
        let Made { mut mini, mut manifest, plan, error } = made;
        record(&mut mini, &mut manifest, |plan| plan.output_error = error)?;
        Ok(SplitSummary {
            path: self.target.to_owned(),
            bytes: mini.commit()?,
            full_bytes: self.source.full.contents().header.file_len,
            plan: SplitPlan { output_error: error, ..plan },
            expected_agreement: None,
        })
    }
}

/// No mini is as near to the full file as it must be; the nearest that was made is `error` away.
fn too_far(source: &Source<'_>, error: Option<f64>, most: f64) -> Error {
    let percent = |error: f64| format!("{:.*}%", if error < 0.001 { 4 } else { 1 }, 100.0 * error);
    let (file, allowed) = (source.full.name(), percent(most));
    let found = match error {
        Some(error) => {
            format!(
                "the outputs of the nearest mini that was made would be {} from the full file's",
                percent(error)
            )
        }
        None => "every light form of every capsule does more alone".to_owned(),
    };
    Error::Limit(format!(
        "{file}: {found}, and {allowed} are allowed; allow more with --max-error, or name a --size at which more capsules stay as \
         they are"
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
        let chosen = plan::choose(forms, room).ok_or_else(|| too_short(source, forms, options, u64::MAX))?;
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

/// No mini is so short; the shortest that was made has `made` bytes.
fn too_short(source: &Source<'_>, forms: &[Vec<Form>], options: &SplitOptions, made: u64) -> Error {
    let beside = source.full.contents().header.file_len
        - source.capsules().iter().filter_map(|capsule| capsule.extent).map(|extent| extent.len).sum::<u64>();
    let least = plan::least(forms).saturating_add(beside);
    Error::Limit(format!(
        "a mini of {} bytes is not possible with --light {}; {}",
        options.size,
        options.light.name(),
        // Beside its capsules a mini has about what the full file has.
        match made {
            u64::MAX => format!("the smallest is about {least} bytes"),
            _ => format!("one of {made} bytes is"),
        }
    ))
}

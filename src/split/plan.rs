//! The planner: what a mini of a given length holds of each capsule.
//!
//! Every capsule has a list of forms (linked, light in several encodings, pinned), each with its bytes and
//! an estimate of the damage it does. The plan starts from the smallest forms and takes, as long as the
//! length allows, the step that repairs the most damage per byte.
//!
//! Damage of a light form: for each weight matrix the squared error of its codes relative to its weights,
//! measured on a sample of its rows with the very quantiser that will write it, times what such an error costs in the
//! capsule: measured by running ([`super::sensitivity`]), or else a rough weight for its place in the graph.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use super::importance::Importance;
use super::light;
use super::options::SplitOptions;
use crate::container::manifest::{Capsule, Layout, Manifest, PlannedCapsule, Residence, SplitPlan, Tensor};
use crate::container::{EXTENT_ALIGN, PLANE_ALIGN, align_up};
use crate::error::{Error, Result};
use crate::kernels::encoding::{self, Encoding};
use crate::kernels::pack;
use crate::pool::{CancelToken, Gate, Pool};
use crate::store::fetch::{encoding_of, rows_cols};
use crate::store::forecast::{MachineRates, WeightSizes};
use crate::store::mapped::MappedFile;

/// Which light forms a split may use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Light {
    /// The planner chooses for each capsule.
    #[default]
    Auto,
    /// None: capsules are pinned or linked.
    None,
    /// This encoding (or its nearest with blocks of 32 where a row is no multiple of its block).
    Encoding(&'static Encoding),
}

impl FromStr for Light {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            name => match encoding::by_name(name) {
                Some(e) if e.quantize.is_some() && e.tile.is_some() => Ok(Self::Encoding(e)),
                _ => Err(Error::InvalidArgument(format!(
                    "\"{name}\" is no light form; possible: auto, none, {}",
                    light_names().join(", ")
                ))),
            },
        }
    }
}

impl Light {
    /// The option's text.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::None => "none",
            Self::Encoding(e) => e.name,
        }
    }
}

/// Names of the encodings that light forms can take.
#[must_use]
pub fn light_names() -> Vec<&'static str> {
    encoding::all().iter().filter(|e| e.quantize.is_some() && e.tile.is_some()).map(|e| e.name).collect()
}

/// Encodings that [`Light::Auto`] chooses among.
const AUTO: &[&str] = &["q2_k", "q3_k", "iq4_nl", "q4_k", "q4_1", "q5_0", "q5_k", "q5_1", "q6_k", "q8_0"];

/// Encoding with blocks of 32 that stands in where a row is no multiple of 256.
const STAND_INS: &[(&str, &str)] = &[
    ("q2_k", "q4_0"),
    ("q3_k", "q4_0"),
    ("iq4_xs", "iq4_nl"),
    ("q4_k", "iq4_nl"),
    ("q5_k", "q5_0"),
    ("q6_k", "q8_0"),
    ("tq1_0", "q4_0"),
    ("tq2_0", "q4_0"),
];

/// Why a light mini cannot be smaller, and what can.
const SMALLEST_LIGHT: &str = ": rows that are no multiple of 256 take encodings of at least 4.5 bits a weight (--light none makes \
                              smaller ones, of pins and links)";

/// Damage of a capsule that is absent, larger than any light form's.
const ABSENT: f64 = 4.0;

/// A possible form of a capsule in the mini.
#[derive(Clone, Debug)]
struct Form {
    residence: Residence,
    /// One entry a tensor: the encoding it is stored in, `None` where it is left out.
    encodings: Vec<Option<&'static Encoding>>,
    bytes: u64,
    /// Bytes that a pass at full precision reads beside it.
    beyond: u64,
    damage: f64,
}

impl Form {
    fn damage(&self) -> f64 {
        self.damage
    }
}

/// A capsule's stored tensors under a plan: the encoding of each, `None` where it is left out.
pub(super) type CapsuleForm = Vec<Option<&'static Encoding>>;

/// Share of the full file's length that a mini takes where no size is given: about 0.75 of a 4-bit, 0.6 of
/// an 8-bit and 0.35 of a 16-bit file (below 3 bits a weight nothing sensible is left of a small model).
#[must_use]
pub fn default_size(full: &MappedFile) -> u64 {
    let (mut bits, mut elements) = (0.0, 0.0);
    for tensor in full.contents().manifest.capsules.iter().flat_map(|c| &c.tensors).filter(|t| is_weight(t)) {
        let count = tensor.shape.iter().map(|d| *d as f64).product::<f64>();
        bits += 8.0 * tensor.planes.iter().map(|p| p.len as f64).sum::<f64>();
        elements += count;
    }
    let share = match bits / f64::max(elements, 1.0) {
        mean if mean < 6.75 => 0.75,
        mean if mean < 12.0 => 0.6,
        _ => 0.35,
    };
    (full.contents().header.file_len as f64 * share) as u64
}

/// Whether a tensor is a weight matrix: one that may take a light form. Vectors never do.
pub(super) fn is_weight(tensor: &Tensor) -> bool {
    tensor.shape.len() > 1
}

/// Plans a mini of at most `options.size` bytes; 0: [`default_size`], or where no mini is that short, the shortest.
/// `weights` say what an error costs in each capsule; `None`: by its place in the graph. `length_of` gives the exact file
/// length of a plan.
///
/// # Errors
/// [`Error::Limit`] naming the smallest possible length where `size` is below it; [`Error::Cancelled`].
pub(super) fn plan(
    full: &MappedFile,
    weights: Option<&[f64]>,
    importance: Option<&Importance>,
    options: &SplitOptions,
    length_of: &dyn Fn(&SplitPlan) -> Result<u64>,
) -> Result<SplitPlan> {
    let manifest = &full.contents().manifest;
    let SplitOptions { size, light, .. } = *options;
    let forms_of = |index: usize| {
        if options.cancel.as_ref().is_some_and(CancelToken::is_cancelled) {
            return Err(Error::Cancelled);
        }
        let measured = weights.and_then(|weights| weights.get(index)).copied();
        let weight = measured.unwrap_or_else(|| place_weight(manifest, index));
        let columns = |tensor: usize| importance.and_then(|importance| importance.of(index, tensor));
        capsule_forms(full, &manifest.capsules[index], (weight, &columns), light)
    };
    let forms = on_all_threads(manifest.capsules.len(), &forms_of)?;
    let mut chosen = vec![0; forms.len()];
    let describe = |size: u64, chosen: &[usize]| SplitPlan {
        size,
        light: light.name().to_owned(),
        capsules: manifest
            .capsules
            .iter()
            .zip(&forms)
            .zip(chosen)
            .map(|((c, f), i)| planned(c, &f[*i]))
            .collect(),
        agreement: None,
        output_error: None,
    };
    let wanted = if size == 0 { default_size(full) } else { size };
    let smallest = length_of(&describe(wanted, &chosen))?;
    // The manifest's text changes with the plan by a few bytes a capsule; this much is kept for it.
    let reserve = 256 * forms.len() as u64;
    let size = if size == 0 { wanted.max(smallest + reserve) } else { size };
    if smallest > size {
        let smallest = smallest_size(smallest, &|size| length_of(&describe(size, &chosen)))?;
        return Err(Error::Limit(format!(
            "{}: a mini of {size} bytes is not possible with --light {}; the smallest is {smallest} bytes{}",
            full.name(),
            light.name(),
            if light == Light::None { "" } else { SMALLEST_LIGHT }
        )));
    }
    let room = (size - smallest).saturating_sub(reserve);
    let scale = if weights.is_some() { 1.0 } else { UNMEASURED };
    let mut steps = fastest(&forms, room, scale, manifest);
    for (capsule, form) in &steps {
        chosen[*capsule] = *form;
    }
    // The reserve is an estimate; the exact length decides.
    let mut plan = describe(size, &chosen);
    while length_of(&plan)? > size
        && let Some((capsule, _)) = steps.pop()
    {
        let before = steps.iter().rfind(|(other, _)| *other == capsule);
        chosen[capsule] = before.map_or(0, |(_, form)| *form);
        plan = describe(size, &chosen);
    }
    Ok(plan)
}

/// What `of` gives for each of the numbers below `count`.
fn on_all_threads<T: Send>(count: usize, of: &(dyn Fn(usize) -> Result<T> + Sync)) -> Result<Vec<T>> {
    let places: Vec<Mutex<Option<Result<T>>>> = (0..count).map(|_| Mutex::new(None)).collect();
    Pool::new(0)?.run(&Gate::open(), 0, count, &|index| {
        let value = of(index);
        *places[index].lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    });
    let lost = || Err(Error::Internal("a task of the planner was lost".into()));
    let value = |place: Mutex<Option<Result<T>>>| {
        place.into_inner().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(lost)
    };
    places.into_iter().map(value).collect()
}

/// Divergence, in nats a token, that damage is taken to mean where it was not measured.
const UNMEASURED: f64 = 0.1;
/// What bytes that a pass does not have to read are worth against damage, relative to what both are in the smallest mini.
const WORTHS: [f64; 7] = [0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];
/// How much faster than the plan of least damage another one must be expected to be: mode fast is served by the former.
const FASTER: f64 = 1.02;

/// The steps to the plan that is expected to give the most tokens a second in mode speculative, in a budget that has room
/// for little more than the mini, on a usual machine. `scale` makes a divergence of damage.
fn fastest(forms: &[Vec<Form>], room: u64, scale: f64, manifest: &Manifest) -> Vec<(usize, usize)> {
    let smallest = vec![0; forms.len()];
    let [damage, beyond] =
        [Form::damage as fn(&Form) -> f64, |form| form.beyond as f64].map(|of| total(forms, &smallest, of));
    let full = manifest.capsules.iter().map(Capsule::stored_bytes).sum();
    let mut best: Option<(f64, Vec<(usize, usize)>)> = None;
    for worth in WORTHS {
        let steps = steps(forms, room, worth * damage / beyond.max(1.0));
        let mut chosen = smallest.clone();
        for (capsule, form) in &steps {
            chosen[*capsule] = *form;
        }
        let sum = |of: fn(&Form) -> f64| total(forms, &chosen, of);
        let sizes = WeightSizes {
            full,
            beyond_mini: sum(|form| form.beyond as f64) as u64,
            draft: sum(|form| form.bytes as f64) as u64,
            agreement: expected_agreement(scale * sum(Form::damage)),
        };
        let speed = sizes.speculative_speed(&MachineRates::default());
        if best.as_ref().is_none_or(|(most, _)| speed > FASTER * most) {
            best = Some((speed, steps));
        }
    }
    best.map_or_else(Vec::new, |(_, steps)| steps)
}

fn total(forms: &[Vec<Form>], chosen: &[usize], of: fn(&Form) -> f64) -> f64 {
    forms.iter().zip(chosen).map(|(forms, chosen)| of(&forms[*chosen])).sum()
}

/// How often the most likely token is the same where the divergence is `nats` a token: a curve through what was measured on
/// forms of many kinds (docs/memory.md).
fn expected_agreement(nats: f64) -> f64 {
    (1.0 - 0.48 * nats.max(0.0).sqrt()).clamp(0.02, 0.995)
}

/// The steps from the smallest forms that repair the most damage per byte, and save a pass the most bytes, each of which is
/// worth `worth` of damage.
fn steps(forms: &[Vec<Form>], mut room: u64, worth: f64) -> Vec<(usize, usize)> {
    let mut chosen = vec![0; forms.len()];
    let mut steps = Vec::new();
    while let Some((capsule, form)) = best_step(forms, &chosen, room, worth) {
        room -= forms[capsule][form].bytes - forms[capsule][chosen[capsule]].bytes;
        chosen[capsule] = form;
        steps.push((capsule, form));
    }
    steps
}

/// The smallest size, from `size` on, that a mini does not exceed. Its length depends on the size: the plan, which it
/// holds, records the one that was asked for.
fn smallest_size(mut size: u64, length_of: &dyn Fn(u64) -> Result<u64>) -> Result<u64> {
    loop {
        match length_of(size)? {
            length if length <= size => return Ok(size),
            length => size = length,
        }
    }
}

/// The best step among those that fit.
fn best_step(forms: &[Vec<Form>], chosen: &[usize], room: u64, worth: f64) -> Option<(usize, usize)> {
    let mut best: Option<(f64, usize, usize)> = None;
    for (capsule, (options, now)) in forms.iter().zip(chosen).enumerate() {
        for (form, option) in options.iter().enumerate().skip(now + 1) {
            let bytes = option.bytes.saturating_sub(options[*now].bytes);
            let saved = options[*now].beyond as f64 - option.beyond as f64;
            let repaired = options[*now].damage - option.damage + worth * saved;
            if bytes > room || repaired <= 0.0 {
                continue;
            }
            let gain = repaired / bytes.max(1) as f64;
            if best.is_none_or(|(g, ..)| gain > g) {
                best = Some((gain, capsule, form));
            }
        }
    }
    best.map(|(_, capsule, form)| (capsule, form))
}

/// Forms of a capsule in ascending order of bytes, each less damaging than those before or with less to be read beside it.
/// An error of 1 in its weights does `weight` of damage, and the columns of its matrices have an importance.
fn capsule_forms<'a>(
    full: &MappedFile,
    capsule: &Capsule,
    (weight, importance): (f64, &dyn Fn(usize) -> Option<&'a [f32]>),
    light: Light,
) -> Result<Vec<Form>> {
    let own: CapsuleForm = capsule.tensors.iter().map(|t| encoding_of(t).map(Some)).collect::<Result<_>>()?;
    let mut forms = vec![Form {
        residence: Residence::Pinned,
        bytes: extent_bytes(capsule, &own),
        beyond: 0,
        damage: 0.0,
        encodings: own.clone(),
    }];
    let all = capsule.stored_bytes();
    let candidates: Vec<&'static Encoding> = match light {
        Light::None => Vec::new(),
        Light::Encoding(e) => vec![e],
        Light::Auto => AUTO.iter().filter_map(|name| encoding::by_name(name)).collect(),
    };
    // Several candidates have one stand-in.
    let mut known: Vec<BTreeMap<&str, f64>> = vec![BTreeMap::new(); capsule.tensors.len()];
    for candidate in candidates {
        let mut encodings = own.clone();
        let mut damage = 0.0;
        for (number, (tensor, slot)) in capsule.tensors.iter().zip(&mut encodings).enumerate() {
            let Some(smaller) = light_encoding(tensor, candidate)? else { continue };
            let error = match known[number].get(smaller.name) {
                Some(error) => *error,
                None => light::sampled_error(full, capsule, tensor, smaller, importance(number))?,
            };
            known[number].insert(smaller.name, error);
            damage += error;
            *slot = Some(smaller);
        }
        if encodings != own && forms.iter().all(|form| form.encodings != encodings) {
            let bytes = extent_bytes(capsule, &encodings);
            let damage = damage * weight;
            forms.push(Form { residence: Residence::Light, encodings, bytes, beyond: all, damage });
        }
    }
    if light == Light::Auto && capsule.is_divided() {
        let mut damage = 0.0;
        for (number, tensor) in capsule.tensors.iter().enumerate() {
            damage += light::nested_error(full, capsule, tensor, importance(number))?;
        }
        let second: u64 = capsule.tensors.iter().filter_map(|t| Some(t.planes.get(1)?.len)).sum();
        forms.push(Form {
            residence: Residence::Nested,
            bytes: extent_bytes(capsule, &own).saturating_sub(second),
            beyond: second,
            damage: damage * weight,
            encodings: own.clone(),
        });
    }
    if light == Light::None && capsule.tensors.iter().any(is_weight) {
        let encodings: CapsuleForm =
            capsule.tensors.iter().zip(&own).map(|(t, e)| e.filter(|_| !is_weight(t))).collect();
        let bytes = extent_bytes(capsule, &encodings);
        let damage = ABSENT * weight;
        forms.push(Form { residence: Residence::Linked, encodings, bytes, beyond: all, damage });
    }
    forms.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.damage.total_cmp(&b.damage)));
    // Only forms that buy something for their bytes remain.
    let mut kept: Vec<Form> = Vec::with_capacity(forms.len());
    for form in forms {
        if kept.iter().all(|other| form.damage < other.damage || form.beyond < other.beyond) {
            kept.push(form);
        }
    }
    Ok(kept)
}

/// How much an error in a capsule weighs by its place: the head and the embedding touch every logit, and the
/// first and last blocks are known to tolerate less than the middle. The factors are rough: on the models measured
/// so far the plan hardly depends on them.
fn place_weight(manifest: &Manifest, index: usize) -> f64 {
    let count = manifest.capsules.len();
    match manifest.capsules[index].kind.as_str() {
        "embed" | "head" => 6.0,
        _ => {
            let from_edge = index.min(count.saturating_sub(1).saturating_sub(index));
            if from_edge <= 4 { 2.0 } else { 1.0 }
        }
    }
}

/// The encoding that `tensor` takes in a light form of `wanted`: a stand-in where its rows do not suit, and
/// `None` where nothing smaller than its own fits (it then stays bit for bit).
pub(super) fn light_encoding(
    tensor: &Tensor,
    wanted: &'static Encoding,
) -> Result<Option<&'static Encoding>> {
    let own = encoding_of(tensor)?;
    if !is_weight(tensor) {
        return Ok(None);
    }
    let (_, cols) = rows_cols(tensor);
    let mut encoding = wanted;
    if !cols.is_multiple_of(encoding.block_len) {
        let stand_in = STAND_INS.iter().find(|(name, _)| *name == encoding.name);
        match stand_in.and_then(|(_, other)| encoding::by_name(other)) {
            Some(other) if cols.is_multiple_of(other.block_len) => encoding = other,
            _ => return Ok(None),
        }
    }
    let smaller = bits(encoding) < bits(own);
    Ok((smaller && encoding.quantize.is_some()).then_some(encoding))
}

fn bits(encoding: &Encoding) -> f64 {
    8.0 * encoding.block_bytes as f64 / encoding.block_len as f64
}

/// Bytes of a tensor's plane in `encoding`.
pub(super) fn plane_bytes(tensor: &Tensor, encoding: &Encoding) -> u64 {
    let (rows, cols) = rows_cols(tensor);
    let bytes = match tensor.layout {
        Layout::Rows | Layout::Plain => pack::row_bytes(encoding, cols).and_then(|row| row.checked_mul(rows)),
        Layout::Packed8 => pack::packed_len(encoding, rows, cols),
    };
    bytes.unwrap_or(usize::MAX / 2) as u64
}

/// Bytes of a capsule's extent that stores `encodings`.
fn extent_bytes(capsule: &Capsule, encodings: &[Option<&'static Encoding>]) -> u64 {
    let mut at = 0;
    for (tensor, encoding) in capsule.tensors.iter().zip(encodings) {
        if let Some(encoding) = encoding {
            at = align_up(at, PLANE_ALIGN).unwrap_or(at) + plane_bytes(tensor, encoding);
        }
    }
    align_up(at, EXTENT_ALIGN).unwrap_or(at)
}

fn planned(capsule: &Capsule, form: &Form) -> PlannedCapsule {
    let light = form.residence == Residence::Light;
    let weights = capsule.tensors.iter().zip(&form.encodings).filter(|(t, _)| light && is_weight(t));
    PlannedCapsule {
        id: capsule.id.clone(),
        residence: form.residence,
        encodings: weights.filter_map(|(_, e)| e.map(|e| e.name.to_owned())).collect(),
    }
}

/// The form that `planned` gives to `capsule`.
///
/// # Errors
/// [`Error::Mismatch`] where the plan does not suit the capsule.
pub(super) fn form_of(planned: &PlannedCapsule, capsule: &Capsule) -> Result<CapsuleForm> {
    let wrong =
        |why: &str| Error::Mismatch(format!("the recorded plan does not suit capsule {}: {why}", capsule.id));
    if planned.id != capsule.id {
        return Err(wrong("it plans another capsule in its place"));
    }
    if planned.residence == Residence::Nested && !capsule.is_divided() {
        return Err(wrong("it plans first planes of weights that are not divided"));
    }
    let mut names = planned.encodings.iter();
    let mut form = Vec::with_capacity(capsule.tensors.len());
    for tensor in &capsule.tensors {
        let own = encoding_of(tensor)?;
        form.push(match planned.residence {
            Residence::Linked if is_weight(tensor) => None,
            Residence::Light if is_weight(tensor) => {
                let name = names.next().ok_or_else(|| wrong("it names too few encodings"))?;
                let encoding =
                    encoding::by_name(name).ok_or_else(|| wrong("it names an unknown encoding"))?;
                let (_, cols) = rows_cols(tensor);
                let possible = encoding == own || encoding.quantize.is_some();
                if !possible || !cols.is_multiple_of(encoding.block_len) {
                    return Err(wrong("it names an encoding that cannot be written"));
                }
                Some(encoding)
            }
            _ => Some(own),
        });
    }
    Ok(form)
}

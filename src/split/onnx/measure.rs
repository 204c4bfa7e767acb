//! What light forms do to an ONNX model: each capsule's outputs beside those of its light form, fed with the same values,
//! and the outputs of a whole mini beside the full file's.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::light::Bits;
use super::plan::Form;
use super::write::{Source, compose};
use crate::container::disk::{Disk, ReadAt};
use crate::container::manifest::{PlannedCapsule, Residence, SplitPlan};
use crate::container::npy;
use crate::error::{Error, Result};
use crate::graph::element::ElementType;
use crate::graph::onnx::OnnxDim;
use crate::onnx::feed::{Feed, made_up};
use crate::onnx::model::{OnnxModel, OnnxOptions, Prepack};
use crate::onnx::value::Value;
use crate::split::options::SplitOptions;
use crate::store::{Mode, OpenOptions, Origin};

/// Bytes of random inputs at most: a conversion measures its mini with them, whatever the model says they are.
const MADE_UP_BYTES: u64 = 256 << 20;
/// Lengths of a named dimension of random inputs that is not the first of any: the first with which the model runs. Signals
/// and images may have to be longer than texts.
const OPEN_DIMS: [u64; 3] = [16, 64, 576];

/// The full model, and what it is fed with.
#[derive(Debug)]
pub(super) struct Calibration {
    full: OnnxModel,
    samples: Vec<Feed>,
    /// The full model's outputs of each sample.
    outputs: Vec<Vec<Value>>,
    target: PathBuf,
}

/// A difference, and what it is relative to: sums of squares.
#[derive(Clone, Copy, Debug, Default)]
struct Squares {
    difference: f64,
    own: f64,
}

impl Squares {
    /// The root of the mean squared difference, relative to the values' own.
    fn error(self) -> f64 {
        // A sum that is no number is of values that are none where the others are.
        if self.difference == 0.0 {
            0.0
        } else if self.difference > 0.0 && self.own > 0.0 {
            libm::sqrt(self.difference / self.own)
        } else {
            f64::INFINITY
        }
    }
}

impl Calibration {
    /// Opens the model and reads or makes its inputs.
    ///
    /// # Errors
    /// Those of opening; [`Error::InvalidArgument`], [`Error::Malformed`] for files that are no inputs of the model.
    pub fn prepare(source: &Source<'_>, target: &Path, options: &SplitOptions) -> Result<Self> {
        let path = source.full.source().path().ok_or_else(|| {
            let name = source.full.name();
            Error::InvalidArgument(format!("{name}: a file that the host supplies cannot be split"))
        })?;
        let full = open(Origin::Path(path.to_owned()), Mode::Exact, options)?;
        let samples = match &options.calibrate {
            Some(lines) => read(&full, lines, options.disk.as_ref())?,
            None => vec![random(&full, options)?],
        };
        let run = |sample: &Feed| full.run(&sample.inputs(), &[], options.cancel.as_ref());
        let outputs = samples.iter().map(run).collect::<Result<_>>()?;
        Ok(Self { full, samples, outputs, target: target.to_owned() })
    }

    /// Writes into the forms how far each capsule's outputs are from its own where it is held so.
    ///
    /// # Errors
    /// Those of running, and of writing the minis that are measured, which get no name.
    pub fn measure(
        &self,
        source: &Source<'_>,
        forms: &mut [Vec<Form>],
        options: &SplitOptions,
    ) -> Result<()> {
        for bits in Bits::ALL {
            let has = |forms: &Vec<Form>| forms.iter().any(|form| form.bits == Some(bits));
            if !forms.iter().any(has) {
                continue;
            }
            let capsules = source.capsules().iter().zip(forms.iter()).map(|(capsule, forms)| {
                let residence = if has(forms) { Residence::Light } else { Residence::Pinned };
                let encodings = has(forms).then(|| bits.name().to_owned()).into_iter().collect();
                PlannedCapsule { id: capsule.id.clone(), residence, encodings }
            });
            let plan = SplitPlan {
                size: 0,
                light: bits.name().into(),
                capsules: capsules.collect(),
                agreement: None,
                output_error: None,
            };
            let (mini, _) = compose(source, &self.target, &plan, options, &mut |_, _| {})?;
            let light = open(Origin::Source(mini.source()?), Mode::Fast, options)?;
            // Of each capsule's outputs: one of large numbers would hide what is done to the others.
            let mut squares: Vec<Vec<Squares>> = vec![Vec::new(); forms.len()];
            for sample in &self.samples {
                let cancel = options.cancel.as_ref();
                let mut compare = |index: usize, own: &[Value], other: Option<&[Value]>| {
                    let squares = &mut squares[index];
                    squares.resize(own.len().max(1), Squares::default());
                    match other {
                        Some(other) => {
                            let mut pairs = own.iter().zip(other).zip(squares);
                            pairs.try_for_each(|((own, other), squares)| add(own, other, squares))
                        }
                        // A form that the runtime does not know is no choice.
                        None => {
                            squares[0].difference = f64::INFINITY;
                            Ok(())
                        }
                    }
                };
                self.full.beside(&light, &sample.inputs(), cancel, &mut compare)?;
            }
            for (forms, squares) in forms.iter_mut().zip(squares) {
                let error = furthest(squares);
                forms.iter_mut().filter(|form| form.bits == Some(bits)).for_each(|form| form.error = error);
            }
        }
        Ok(())
    }

    /// How far the outputs of `mini` are from the full model's: that of the output that is furthest.
    ///
    /// # Errors
    /// Those of opening and running.
    pub fn error(&self, mini: Arc<dyn ReadAt>, options: &SplitOptions) -> Result<f64> {
        let mini = open(Origin::Source(mini), Mode::Fast, options)?;
        let mut squares = vec![Squares::default(); self.full.outputs().len()];
        for (sample, own) in self.samples.iter().zip(&self.outputs) {
            let other = mini.run(&sample.inputs(), &[], options.cancel.as_ref())?;
            for ((own, other), squares) in own.iter().zip(&other).zip(&mut squares) {
                add(own, other, squares)?;
            }
        }
        Ok(furthest(squares))
    }
}

/// The error of the output that is furthest.
fn furthest(squares: Vec<Squares>) -> f64 {
    squares.into_iter().map(Squares::error).fold(0.0, f64::max)
}

fn open(origin: Origin, mode: Mode, options: &SplitOptions) -> Result<OnnxModel> {
    let store = OpenOptions { mode, disk: Arc::clone(&options.disk), ..OpenOptions::default() };
    // The full model without copies of its weights, since it may be larger than the memory; a mini is small, and its kernels
    // need them.
    let prepack = if mode == Mode::Exact { Prepack::Off } else { Prepack::Auto };
    let runtime = options.runtime.clone();
    // Each capsule for itself, as they are compared one by one.
    let options = OnnxOptions { store, runtime, prepack, joined_bytes: 0, ..OnnxOptions::default() };
    OnnxModel::open(&origin, &options)
}

/// Inputs from lines of `NAME=FILE.npy`. A name that comes again begins another set, which takes from the one before what it
/// does not name itself.
fn read(model: &OnnxModel, lines: &str, disk: &dyn Disk) -> Result<Vec<Feed>> {
    let mut sets: Vec<Vec<(&str, &str)>> = Vec::new();
    let mut begun: Vec<&str> = Vec::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let parts = line.rsplit_once('=').filter(|(name, path)| !name.is_empty() && !path.is_empty());
        let (name, path) = parts.ok_or_else(|| {
            Error::InvalidArgument(format!("{line:?} is no input of the model; give NAME=FILE.npy for each"))
        })?;
        if sets.is_empty() || begun.contains(&name) {
            begun.clear();
            sets.push(sets.last().cloned().unwrap_or_default());
        }
        begun.push(name);
        if let Some(set) = sets.last_mut() {
            set.retain(|(own, _)| *own != name);
            set.push((name, path));
        }
    }
    let runtime = model.runtime()?;
    let feed = |set: &Vec<(&str, &str)>| -> Result<Feed> {
        let mut feed = Feed::default();
        for (name, path) in set {
            let port = model.inputs().iter().find(|port| port.name == *name);
            feed.add(runtime, name, npy::read(disk, Path::new(path), port.and_then(|port| port.element))?)?;
        }
        Ok(feed)
    };
    sets.iter().map(feed).collect()
}

/// Random inputs that the model runs with: those of the same model are always the same.
fn random(model: &OnnxModel, options: &SplitOptions) -> Result<Feed> {
    let mut refused = None;
    for length in OPEN_DIMS {
        let feed = random_of(model, length)?;
        match model.run(&feed.inputs(), &[], options.cancel.as_ref()) {
            Ok(_) => return Ok(feed),
            Err(why @ (Error::InvalidArgument(_) | Error::Mismatch(_))) => refused = refused.or(Some(why)),
            Err(why) => return Err(why),
        }
    }
    let note = "with random inputs; name others with --calibrate NAME=FILE.npy";
    Err(refused.map_or_else(|| Error::Internal("no length was tried".into()), |why| why.with_note(note)))
}

/// Random inputs whose named dimensions, but for the first of an input, have this length.
fn random_of(model: &OnnxModel, length: u64) -> Result<Feed> {
    let runtime = model.runtime()?;
    let ports = || model.inputs().iter().filter(|port| !port.optional);
    // The first dimension is mostly the number of examples, others lengths of what each one holds.
    let mut dims: Vec<(String, u64)> = Vec::new();
    for is_first in [true, false] {
        for shape in ports().filter_map(|port| port.shape.as_deref()) {
            for (at, dim) in shape.iter().enumerate().filter(|(at, _)| (*at == 0) == is_first) {
                if let OnnxDim::Named(name) = dim {
                    dims.push((name.clone(), if at == 0 { 1 } else { length }));
                }
            }
        }
    }
    let (mut feed, mut room) = (Feed::default(), MADE_UP_BYTES);
    for (number, port) in ports().enumerate() {
        let array = made_up(port, &dims, number as u64, &mut room);
        let array = array.map_err(|why| why.with_note("here as --calibrate NAME=FILE.npy"))?;
        feed.add(runtime, &port.name, array)?;
    }
    Ok(feed)
}

/// Adds the difference of two values. Of those that are no floating-point numbers every element counts that differs; values
/// of different kinds or lengths differ wholly.
fn add(own: &Value, other: &Value, squares: &mut Squares) -> Result<()> {
    let form = |value: &Value| (value.kind(), value.is_present(), value.element(), value.shape().to_vec());
    let differ = |squares: &mut Squares| {
        squares.own += 1.0;
        squares.difference += 1.0;
    };
    if form(own) != form(other) {
        differ(squares);
        return Ok(());
    }
    if !own.is_present() {
        return Ok(());
    }
    if let (Ok(own), Ok(other)) = (own.items(), other.items()) {
        if own.len() != other.len() {
            differ(squares);
        }
        return own.iter().zip(other).try_for_each(|(own, other)| add(own, other, squares));
    }
    let Some(element) = own.element().filter(|element| element.bits().is_some()) else {
        match own.strings().ok() == other.strings().ok() {
            true => squares.own += 1.0,
            false => differ(squares),
        }
        return Ok(());
    };
    squares.add(element, own.bytes()?, other.bytes()?);
    Ok(())
}

impl Squares {
    /// Adds the difference of elements of one type, of which there are as many on both sides.
    fn add(&mut self, element: ElementType, own: &[u8], other: &[u8]) {
        let each = (element.bits().unwrap_or(8) as usize).div_ceil(8);
        for (own, other) in own.chunks_exact(each).zip(other.chunks_exact(each)) {
            let Some(read) = floats(element) else {
                self.own += 1.0;
                self.difference += if own == other { 0.0 } else { 1.0 };
                continue;
            };
            let (own, other) = (read(own), read(other));
            let same = own == other || own.is_nan() && other.is_nan();
            self.difference += match same {
                true => 0.0,
                false if own.is_finite() && other.is_finite() => (own - other) * (own - other),
                false => f64::INFINITY,
            };
            self.own += if own.is_finite() { own * own } else { 0.0 };
        }
    }
}

/// Reads a floating-point number of this type; `None` for other types.
fn floats(element: ElementType) -> Option<fn(&[u8]) -> f64> {
    // Chunks have the length of an element.
    fn bytes<const N: usize>(bytes: &[u8]) -> [u8; N] {
        bytes.try_into().unwrap_or([0; N])
    }
    match element {
        ElementType::Float32 => Some(|b| f64::from(f32::from_le_bytes(bytes(b)))),
        ElementType::Float64 => Some(|b| f64::from_le_bytes(bytes(b))),
        ElementType::Float16 => Some(|b| half::f16::from_le_bytes(bytes(b)).to_f64()),
        ElementType::Bfloat16 => Some(|b| half::bf16::from_le_bytes(bytes(b)).to_f64()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(own: &[f32], other: &[f32]) -> f64 {
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let mut squares = Squares::default();
        squares.add(ElementType::Float32, &bytes(own), &bytes(other));
        squares.error()
    }

    #[test]
    fn what_is_no_number_is_as_far_as_can_be() {
        let (nan, infinite) = (f32::NAN, f32::INFINITY);
        assert_eq!(error(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
        assert!((error(&[3.0, 4.0], &[3.0, 5.0]) - 0.2).abs() < 1e-9);
        assert_eq!(error(&[1.0, nan, infinite], &[1.0, -nan, infinite]), 0.0);
        for other in [[nan, 1.0], [infinite, 1.0]] {
            assert_eq!(error(&[1.0, 1.0], &other), f64::INFINITY);
            assert_eq!(error(&other, &[1.0, 1.0]), f64::INFINITY);
        }
        assert_eq!(error(&[0.0], &[1.0]), f64::INFINITY);
        assert_eq!(error(&[0.0], &[-0.0]), 0.0);
    }

    #[test]
    fn whole_numbers_count_each() {
        let bytes = |values: &[i64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let mut squares = Squares::default();
        squares.add(ElementType::Int64, &bytes(&[1, 2, 3, 4]), &bytes(&[1, 2, 3, 5]));
        assert_eq!(squares.error(), 0.5);
    }
}

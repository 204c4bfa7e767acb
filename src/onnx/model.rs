//! An opened ONNX model, and running it capsule by capsule.

mod compute;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use compute::Held;

use super::api::{RunOptions, Runtime};
pub use super::options::{JOINED_BYTES, OnnxOptions, Prepack};
use super::plan::OnnxPlanChoice;
use super::ports;
use super::raw::RawType;
use super::residency::{OnnxMemory, Residency, give_blocks_back};
use super::slot::Ready;
use super::submodel::Head;
use super::value::{Borrowed, Input, Value};
use super::watch::Watch;
use super::wiring::{Steps, Wiring};
use crate::error::{Error, Result};
use crate::graph::onnx::{OnnxInfo, OnnxPort};
use crate::pool::{CancelToken, unless_cancelled};
use crate::store::{Mode, Origin, Store};

/// Bytes of memory that a byte of the manifest takes once it is parsed.
const PARSED: u64 = 4;

/// An opened ONNX model. Shared by any number of threads, which may run it at the same time.
#[derive(Debug)]
pub struct OnnxModel {
    store: Store,
    info: OnnxInfo,
    options: OnnxOptions,
    head: Head,
    wiring: Wiring,
    /// What a run for all outputs does.
    steps: Steps,
    residency: Residency,
    counts: Counts,
    /// Types of the values between capsules, as the runtime found them.
    types: Mutex<Vec<Option<RawType>>>,
    open_time: Duration,
    /// The runtime, once it was needed.
    runtime: OnceLock<&'static Runtime>,
}

/// What a model did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnnxStats {
    /// Runs that came to their end.
    pub runs: u64,
    /// How long the first took, which makes the sessions, and the last.
    pub first_run: Duration,
    /// The last one.
    pub last_run: Duration,
    /// Sessions that were made, one for a capsule and again where it had to go or change.
    pub sessions_made: u64,
    /// How long making them took.
    pub making: Duration,
    /// Sessions that there are now.
    pub sessions: usize,
    /// Those of them whose weights are prepacked.
    pub prepacked: usize,
}

/// The counts of a model, which runs on any thread add to.
#[derive(Debug, Default)]
struct Counts(Mutex<OnnxStats>);

impl Counts {
    fn add(&self, spent: Duration) {
        let mut stats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if stats.runs == 0 {
            stats.first_run = spent;
        }
        stats.runs += 1;
        stats.last_run = spent;
    }

    fn made(&self, ready: &Ready) {
        let mut stats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stats.sessions_made += 1;
        stats.making += ready.made_in;
    }
}

/// Bytes of the files that are held in memory, because they cannot be mapped.
fn owned_bytes(store: &Store) -> u64 {
    let full = store.full().filter(|full| !std::ptr::eq(*full, store.primary()));
    (store.primary().owned_bytes() + full.map_or(0, |full| full.owned_bytes())) as u64
}

/// Is told a capsule's number and the outputs of two models' forms of it, `None` where the second cannot be run.
pub(crate) type Compare<'a> = dyn FnMut(usize, &[Value], Option<&[Value]>) -> Result<()> + 'a;

impl OnnxModel {
    /// Opens a full file, or a mini and (unless the mode is fast) its full file. ONNX Runtime is not needed before the model
    /// runs.
    ///
    /// # Errors
    /// Those of [`Store::open`]; [`Error::Unsupported`] where it is no ONNX model or the mode is speculative.
    pub fn open(origin: &Origin, options: &OnnxOptions) -> Result<Self> {
        let begun = Instant::now();
        Self::with_store(Store::open(origin, &options.store)?, options, begun)
    }

    /// As [`open`](Self::open), of files that are open already since `begun`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with_store(store: Store, options: &OnnxOptions, begun: Instant) -> Result<Self> {
        let name = store.primary().name();
        let Some(info) = store.manifest().model.onnx.clone() else {
            return Err(Error::Unsupported(format!(
                "{name}: it is no ONNX model; it takes text, not tensors"
            )));
        };
        if store.mode() == Mode::Speculative {
            return Err(Error::Unsupported(format!(
                "{name}: mode speculative guesses tokens, which an ONNX model has none of; use exact, fast or auto"
            )));
        }
        // The budget is kept here: what the store makes of one is made for a decoder's passes.
        let store = store.in_mode(store.mode(), store.mode_reason().to_owned(), None);
        let head = Head::read(store.primary())?;
        let wiring = Wiring::new(&info, &store.manifest().capsules, options.joined_bytes)?;
        let steps = wiring.steps(&wiring.outputs);
        let tables =
            head.bytes() + store.primary().contents().header.manifest_len * PARSED + owned_bytes(&store);
        let residency =
            Residency::new(&store, &wiring, tables, options.store.budget.clone(), options.prepack)?;
        let types = Mutex::new(vec![None; wiring.len()]);
        let open_time = begun.elapsed();
        let counts = Counts::default();
        let options = options.clone();
        let runtime = OnceLock::new();
        Ok(Self { store, info, options, head, wiring, steps, residency, counts, types, open_time, runtime })
    }

    /// Where the weights come from.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What the model was opened with.
    #[must_use]
    pub fn options(&self) -> &OnnxOptions {
        &self.options
    }

    /// What the model takes, in its own order.
    #[must_use]
    pub fn inputs(&self) -> &[OnnxPort] {
        &self.info.inputs
    }

    /// What the model gives, in its own order.
    #[must_use]
    pub fn outputs(&self) -> &[OnnxPort] {
        &self.info.outputs
    }

    /// How long opening took.
    #[must_use]
    pub fn open_time(&self) -> Duration {
        self.open_time
    }

    /// The runtime, which is loaded and started now where it was not yet. Values of one's own are made with it.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Unsupported`] that says what was looked for, where, which version is needed and what to
    /// do; [`Error::InvalidArgument`] where the process has another one already.
    pub fn runtime(&self) -> Result<&'static Runtime> {
        if let Some(runtime) = self.runtime.get() {
            return Ok(runtime);
        }
        let runtime = Runtime::get(self.options.runtime.as_deref(), self.options.threads)?;
        Ok(self.runtime.get_or_init(|| runtime))
    }

    /// The runtime, where some model loaded it.
    #[must_use]
    pub fn runtime_if_loaded(&self) -> Option<&'static Runtime> {
        Runtime::started()
    }

    /// What the model's memory came to so far.
    #[must_use]
    pub fn memory(&self) -> OnnxMemory {
        self.residency.memory()
    }

    /// What a budget of `total` bytes would do, with nothing else in it.
    pub(super) fn forecast(&self, total: u64) -> OnnxPlanChoice {
        self.residency.forecast(total)
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> OnnxStats {
        let slots = (0..self.wiring.units.len()).filter_map(|index| self.residency.slot(index).current());
        let (mut sessions, mut prepacked) = (0, 0);
        for ready in slots {
            sessions += 1;
            prepacked += usize::from(ready.prepacked);
        }
        let counts = self.counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        OnnxStats { sessions, prepacked, ..*counts }
    }

    /// Ids of the capsules whose weights are copied into the form that kernels like best, now.
    #[must_use]
    pub fn prepacked(&self) -> Vec<&str> {
        let prepacked =
            |index: &usize| self.residency.slot(*index).current().is_some_and(|ready| ready.prepacked);
        let units = (0..self.wiring.units.len()).filter(prepacked).map(|index| &self.wiring.units[index]);
        let ids =
            units.filter_map(|unit| self.store.manifest().capsules.get(unit.capsules.clone())).flatten();
        ids.map(|capsule| capsule.id.as_str()).collect()
    }

    /// The value for input `name` that holds nothing: an absent optional one, or an empty sequence.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where there is no such input or it takes neither; those of [`runtime`](Self::runtime).
    pub fn empty_input(&self, name: &str) -> Result<Value> {
        let file = self.store.primary().name();
        ports::find(file, "input", &self.info.inputs, name)?;
        let known = self.head.input(name).and_then(|input| input.r#type.as_ref());
        let known = known.ok_or_else(|| Error::malformed(file, format!("input \"{name}\" has no type")))?;
        super::empty::empty(self.runtime()?, name, known)
    }

    /// Computes the outputs called `outputs`, in that order (none: all, in the model's order), from values by name. Only the
    /// capsules that they need are computed, and only the inputs that these need must be given.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for names, types and shapes that are not the model's; those of
    /// [`runtime`](Self::runtime); [`Error::Mismatch`] with the runtime's message where it fails; [`Error::Limit`] naming the
    /// smallest budget; [`Error::Cancelled`].
    pub fn run(
        &self,
        inputs: &[(&str, Input<'_>)],
        outputs: &[&str],
        cancel: Option<&CancelToken>,
    ) -> Result<Vec<Value>> {
        unless_cancelled(cancel)?;
        let wanted = self.wanted(outputs)?;
        let given = self.given(inputs)?;
        let own_steps = (!outputs.is_empty()).then(|| self.wiring.steps(&wanted));
        let steps = own_steps.as_ref().unwrap_or(&self.steps);
        self.refuse_missing(steps, &wanted, &given)?;
        let runtime = self.runtime()?;
        let options = match cancel {
            Some(_) => RunOptions::new(runtime).map(Arc::new),
            None => RunOptions::unstopped(runtime),
        };
        let options = options.map_err(|refused| refused.error("prepare a run"))?;
        let _watch = cancel.map(|token| Watch::new(token, &options)).transpose()?;
        let mut held = self.feed(runtime, &given)?;
        let _turn = self.residency.enter(cancel)?;
        if !runtime.is_zero_copy() {
            self.residency.copies_weights()?;
        }
        let begun = Instant::now();
        if let Err(why) = self.walk(runtime, steps, &mut held, (&options, cancel)) {
            drop(held);
            self.residency.tidy();
            // What a run that failed computed in was not measured to its end: it may be more than there is room for.
            if self.options.store.budget.is_some() {
                give_blocks_back();
            }
            return Err(why);
        }
        self.counts.add(begun.elapsed());
        self.results(runtime, &wanted, &given, held)
    }

    /// The values of a run at its beginning.
    fn feed<'a>(
        &self,
        runtime: &'static Runtime,
        given: &[Option<Input<'a>>],
    ) -> Result<Vec<Option<Held<'a>>>> {
        let mut held: Vec<Option<Held<'_>>> = (0..self.wiring.len()).map(|_| None).collect();
        for (number, input) in given.iter().enumerate() {
            if let Some(input) = input {
                held[number] = Some(self.hold(runtime, number, input)?);
            }
        }
        Ok(held)
    }

    /// The numbers of the outputs called `outputs`.
    fn wanted(&self, outputs: &[&str]) -> Result<Vec<usize>> {
        if outputs.is_empty() {
            return Ok(self.wiring.outputs.clone());
        }
        let file = self.store.primary().name();
        let one = |name: &&str| {
            let (index, _) = ports::find(file, "output", &self.info.outputs, name)?;
            Ok(self.wiring.outputs[index])
        };
        outputs.iter().map(one).collect()
    }

    /// What is given of each input, checked.
    fn given<'a>(&self, inputs: &[(&str, Input<'a>)]) -> Result<Vec<Option<Input<'a>>>> {
        let file = self.store.primary().name();
        let mut given: Vec<Option<Input<'a>>> = vec![None; self.info.inputs.len()];
        for (name, input) in inputs {
            let (number, port) = ports::find(file, "input", &self.info.inputs, name)?;
            if given[number].is_some() {
                return Err(Error::InvalidArgument(format!("{file}: input \"{name}\" is given twice")));
            }
            ports::check(file, port, input)?;
            given[number] = Some(*input);
        }
        ports::check_names(file, &self.info.inputs, &given)?;
        Ok(given)
    }

    /// Refuses a run that lacks an input that it needs.
    fn refuse_missing(&self, steps: &Steps, wanted: &[usize], given: &[Option<Input<'_>>]) -> Result<()> {
        let read = steps.units.iter().flat_map(|index| &self.wiring.units[*index].inputs).chain(wanted);
        let mut missing: Vec<usize> = read
            .copied()
            .filter(|value| {
                self.info.inputs.get(*value).is_some_and(|port| !port.optional || wanted.contains(value))
            })
            .filter(|value| given[*value].is_none())
            .collect();
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        let names = ports::listed(missing.iter().map(|value| ports::described(&self.info.inputs[*value])));
        let plural = if missing.len() == 1 { "input" } else { "inputs" };
        Err(Error::InvalidArgument(format!(
            "{}: {plural} {names} must be given",
            self.store.primary().name()
        )))
    }

    fn hold<'a>(&self, runtime: &'static Runtime, number: usize, input: &Input<'a>) -> Result<Held<'a>> {
        match input {
            Input::Value(value) => Ok(Held::Shared((*value).clone())),
            Input::Tensor(view) => {
                let what = || {
                    format!("take input \"{}\" of {}", self.wiring.name(number), self.store.primary().name())
                };
                Borrowed::new(runtime, view).map(Held::Fed).map_err(|refused| refused.error(&what()))
            }
        }
    }

    /// The outputs, in the order in which they are wanted.
    fn results(
        &self,
        runtime: &'static Runtime,
        wanted: &[usize],
        given: &[Option<Input<'_>>],
        mut held: Vec<Option<Held<'_>>>,
    ) -> Result<Vec<Value>> {
        let mut results: Vec<Value> = Vec::with_capacity(wanted.len());
        for (place, value) in wanted.iter().enumerate() {
            // An output may be asked for twice, and may be an input.
            if let Some(again) = wanted[..place].iter().position(|before| before == value) {
                results.push(results[again].clone());
                continue;
            }
            let what =
                || format!("take output \"{}\" of {}", self.wiring.name(*value), self.store.primary().name());
            results.push(match (held[*value].take(), given.get(*value).copied().flatten()) {
                (Some(Held::Made(raw)), _) => Value::of(raw).map_err(|refused| refused.error(&what()))?,
                (Some(Held::Shared(value)), _) => value,
                (_, Some(Input::Tensor(view))) => Value::tensor(runtime, &view)?,
                _ => {
                    return Err(Error::Internal(format!(
                        "output \"{}\" was not made",
                        self.wiring.name(*value)
                    )));
                }
            });
        }
        Ok(results)
    }
}

//! The session of a capsule, or of neighbours that are computed together: made when it is first needed, for the types that it is fed with, and kept until it must go.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::api::{Runtime, Session, SessionSettings};
use super::arena::Meter;
use super::raw::RawType;
use super::submodel::{Dims, Head, Part};
use super::wiring::{Unit, Wiring};
use crate::error::{Error, Result};
use crate::store::Store;
use crate::store::os::{anonymous_bytes, return_free_memory};

/// Memory of a session beside what it asks the arena for and what it makes of its graph, at most.
const OVERHEAD: u64 = 4 << 20;
/// Bytes of memory that a byte of a large graph takes in a session, at most; and what is large.
const PARSED: u64 = 16;
const LARGE_GRAPH: usize = 1 << 20;

/// A value that a session is fed with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fed<'a> {
    /// The value's number.
    pub value: usize,
    /// Its type, where the model does not say.
    pub known: Option<&'a RawType>,
    /// Its dimensions, where it is a tensor.
    pub shape: Option<&'a [u64]>,
}

impl Fed<'_> {
    fn rank(&self) -> Option<usize> {
        self.shape.map(<[u64]>::len)
    }
}

/// The type of an input that the graph itself leaves open or is wrong about; `rank` is `None` where the session takes any.
type Told = Option<(RawType, Option<usize>)>;

/// A session that is ready for certain inputs.
#[derive(Debug)]
pub(super) struct Ready {
    pub session: Session,
    /// The values that it is fed with, in order, and what it was told of the types of those that the graph leaves open.
    fed: Vec<(usize, Told)>,
    /// What the graph states of the others' dimensions, where another capsule makes them; in the same order.
    stated: Vec<Option<Dims>>,
    /// The types of its outputs.
    pub output_types: Vec<Option<RawType>>,
    /// Whether its weights are copied into the form that kernels like best.
    pub prepacked: bool,
    /// Whether it computes with weights of few bits.
    pub has_few_bits: bool,
    /// Anonymous memory that making it took, copies of weights included.
    pub own_bytes: u64,
    /// What of it is surely its own: what the rest of the process did at the same time is not in it.
    pub sure_bytes: u64,
    /// How long making it took.
    pub made_in: Duration,
}

impl Ready {
    /// Whether it can compute with these values.
    fn serves(&self, fed: &[Fed<'_>]) -> bool {
        let same = |((value, told), fed): (&(usize, Told), &Fed<'_>)| {
            let fits = |(known, rank): &(RawType, Option<usize>)| {
                fed.known.is_none_or(|given| given == known) && (rank.is_none() || *rank == fed.rank())
            };
            *value == fed.value && told.as_ref().is_none_or(fits)
        };
        self.fed.len() == fed.len() && self.fed.iter().zip(fed).all(same)
    }

    /// Whether it surely computes with these values: what it was told of them, where the graph itself leaves that open, are the
    /// types in `types` and the ranks that `rank` finds.
    pub fn takes(
        &self,
        values: &[usize],
        types: &[Option<RawType>],
        rank: impl Fn(usize) -> Option<usize>,
    ) -> bool {
        let takes = |((own, told), value): (&(usize, Told), &usize)| {
            let same = |(known, ranked): &(RawType, Option<usize>)| {
                types[*own].as_ref() == Some(known) && (ranked.is_none() || *ranked == rank(*own))
            };
            own == value && told.as_ref().is_none_or(same)
        };
        self.fed.len() == values.len() && self.fed.iter().zip(values).all(takes)
    }

    /// Whether one of the values has other dimensions than its graph states: the source may be wrong about a value inside the
    /// model, which the runtime notices only where the value comes from outside.
    pub fn is_contradicted<T: AsRef<[u64]>>(&self, shapes: &[Option<T>]) -> bool {
        let wrong = |(dims, shape): (&Option<Dims>, &Option<T>)| {
            dims.as_ref().zip(shape.as_ref()).is_some_and(|(dims, shape)| !agree(dims, shape.as_ref()))
        };
        self.stated.iter().zip(shapes).any(wrong)
    }

    /// Whether it was made for the same values, of other ranks.
    fn is_for_other_ranks(&self, fed: &[Fed<'_>]) -> bool {
        self.fed.len() == fed.len() && self.fed.iter().zip(fed).all(|((value, _), fed)| *value == fed.value)
    }
}

/// What a session is made of.
#[derive(Clone, Copy)]
pub(super) struct Making<'a> {
    pub runtime: &'static Runtime,
    pub store: &'a Store,
    pub head: &'a Head,
    pub wiring: &'a Wiring,
    pub optimization: bool,
}

/// What a slot gave.
pub(super) struct Served {
    pub ready: Arc<Ready>,
    /// Whether it was made for this call.
    pub made: bool,
}

/// What became of a session.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change<'a> {
    /// It was made.
    Made(&'a Ready),
    /// It went, and with it so many bytes.
    Went(u64),
}

/// The place of a unit's session.
#[derive(Debug, Default)]
pub(super) struct Slot {
    ready: Mutex<Option<Arc<Ready>>>,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Ready>>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session, where there is one.
    pub fn current(&self) -> Option<Arc<Ready>> {
        self.lock().clone()
    }

    /// Lets the session go, once those that compute with it are done; gives the memory that it held.
    pub fn drop_session(&self) -> u64 {
        self.lock().take().map_or(0, |ready| ready.own_bytes)
    }

    /// A session of unit `index` that serves `fed`: the present one, or another in its place. It is prepacked where
    /// `prepack` says so of what the graph holds. `account` is told of a session that had to go and of one that was made,
    /// before anybody else can have either.
    pub fn serve(
        &self,
        making: Making<'_>,
        index: usize,
        fed: &[Fed<'_>],
        prepack: &dyn Fn(bool) -> bool,
        account: &dyn Fn(Change<'_>),
    ) -> Result<Served> {
        let mut place = self.lock();
        let mut ranked = true;
        if let Some(ready) = &*place {
            let shapes: Vec<Option<&[u64]>> = fed.iter().map(|fed| fed.shape).collect();
            let contradicted = ready.is_contradicted(&shapes);
            if !contradicted && ready.serves(fed) && (ready.prepacked || !prepack(ready.has_few_bits)) {
                return Ok(Served { ready: Arc::clone(ready), made: false });
            }
            // A model that is fed with one rank now and another then gets a session that takes any.
            ranked = contradicted || ready.serves(fed) || !ready.is_for_other_ranks(fed);
        }
        // The old one goes first: memory for both is never needed.
        if let Some(ready) = place.take() {
            account(Change::Went(ready.own_bytes));
        }
        let ready = Arc::new(make(making, index, fed, ranked, prepack)?);
        account(Change::Made(&ready));
        *place = Some(Arc::clone(&ready));
        Ok(Served { ready, made: true })
    }
}

fn make(
    making: Making<'_>,
    index: usize,
    fed: &[Fed<'_>],
    ranked: bool,
    prepack: &dyn Fn(bool) -> bool,
) -> Result<Ready> {
    let Making { runtime, store, head, wiring, optimization } = making;
    let (begun, before) = (Instant::now(), anonymous_bytes());
    let unit = &wiring.units[index];
    let outputs: Vec<&str> = unit.outputs.iter().map(|value| wiring.name(*value)).collect();
    let mut part = Part::read(store, unit.capsules.clone(), &outputs)?;
    let (mut told, mut stated) = (Vec::with_capacity(fed.len()), Vec::new());
    for input in fed {
        let name = wiring.name(input.value);
        let known = tell(&mut part, head, name, input, ranked)?;
        let is_inner = known.is_none() && head.input(name).is_none();
        stated.push(is_inner.then(|| part.stated_dims(name)).flatten());
        told.push((input.value, known));
    }
    let settings = SessionSettings { optimization, prepack: prepack(part.has_few_bits) };
    let inputs: Vec<&str> = fed.iter().map(|input| wiring.name(input.value)).collect();
    let model = head.model_of(&part.graph);
    let what = || format!("prepare {} (ONNX Runtime {})", named(store, unit), runtime.version());
    let names = [inputs.as_slice(), outputs.as_slice()];
    let (regions, meter) = (std::mem::take(&mut part.regions), Arc::new(Meter::that_looks()));
    let session = meter.count(|| Session::new(runtime, &model, regions, settings, names));
    let session = session.map_err(|refused| refused.error(&what()))?;
    let types = (0..outputs.len()).map(|output| session.output_type(output)?.raw_type());
    let output_types = types.collect::<Result<_, _>>().map_err(|refused| refused.error(&what()))?;
    if settings.prepack || !runtime.is_zero_copy() {
        // What was needed on the way is not the session's.
        return_free_memory();
    }
    // What the runtime makes of small graphs is in what every session is counted with.
    let parsed = if model.len() > LARGE_GRAPH { PARSED * model.len() as u64 } else { 0 };
    let sure_bytes = meter.touched().saturating_add(parsed);
    // Whatever else the process does is in this measure too.
    let own_bytes = anonymous_bytes().saturating_sub(before).min(sure_bytes.saturating_add(OVERHEAD));
    Ok(Ready {
        session,
        fed: told,
        stated,
        output_types,
        prepacked: settings.prepack,
        has_few_bits: part.has_few_bits,
        own_bytes,
        sure_bytes,
        made_in: begun.elapsed(),
    })
}

/// A unit's capsules and their file, for messages.
pub(super) fn named(store: &Store, unit: &Unit) -> String {
    let name = |index: usize| store.capsule(index).map_or(("", ""), |(file, c)| (file.name(), c.id.as_str()));
    let ((file, first), (_, last)) = (name(unit.capsules.start), name(unit.capsules.end.saturating_sub(1)));
    if unit.capsules.len() == 1 {
        format!("capsule {first} of {file}")
    } else {
        format!("capsules {first} to {last} of {file}")
    }
}

/// Has the graph know the type of an input that it leaves open, or states dimensions of that are not the value's.
fn tell(part: &mut Part, head: &Head, name: &str, fed: &Fed<'_>, ranked: bool) -> Result<Told> {
    if let Some(input) = head.input(name) {
        if part.is_untyped(name) {
            part.graph.input.retain(|own| own.name.as_deref() != Some(name));
            part.graph.input.push(input.clone());
        }
        return Ok(None);
    }
    let contradicted = || Some(!agree(&part.stated_dims(name)?, fed.shape?));
    if !part.is_untyped(name) && contradicted() != Some(true) {
        return Ok(None);
    }
    let Some(known) = fed.known else {
        return Err(Error::Internal(format!("nobody knows the type of value \"{name}\"")));
    };
    let rank = fed.rank().filter(|_| ranked);
    part.set_type(name, known, rank);
    Ok(Some((known.clone(), rank)))
}

/// Whether a tensor of that shape is one of those dimensions.
fn agree(dims: &Dims, shape: &[u64]) -> bool {
    let same = |(dim, len): (&Option<u64>, &u64)| dim.is_none_or(|dim| dim == *len);
    dims.len() == shape.len() && dims.iter().zip(shape).all(same)
}

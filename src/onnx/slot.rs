//! The session of a capsule, or of neighbours that are computed together: made when it is first needed, for the types that it is fed with, and kept until it must go.

use std::collections::HashMap;
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
    /// Its type, as far as it is known.
    pub known: Option<&'a RawType>,
    /// Its dimensions, where it is a tensor.
    pub shape: Option<&'a [u64]>,
}

impl Fed<'_> {
    fn rank(&self) -> Option<usize> {
        self.shape.map(<[u64]>::len)
    }
}

/// The type of an input that the runtime does not hold against the graph itself; `rank` is `None` where the session takes any.
type Told = Option<(RawType, Option<usize>)>;

/// A session that is ready for certain inputs.
#[derive(Debug)]
pub(super) struct Ready {
    pub session: Session,
    /// The values that it is fed with, in order, and what it was told of types that the graph leaves open.
    fed: Vec<(usize, Told)>,
    /// The dimensions that it was told where the graph states some and another capsule makes the value; in the same order.
    dims: Vec<Option<Dims>>,
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

    /// Whether it computes with these values, but for dimensions: what it was told of them are the types in `types` and the ranks
    /// that `rank` finds.
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

    /// Whether one of the values, in order, has other dimensions than it was told. The runtime refuses it then, but for a scalar.
    pub fn is_contradicted<T: AsRef<[u64]>>(&self, shapes: &[Option<T>]) -> bool {
        let differs = |(dims, shape): (&Option<Dims>, &Option<T>)| {
            dims.as_ref().zip(shape.as_ref()).is_some_and(|(dims, shape)| !agree(dims, shape.as_ref()))
        };
        self.dims.iter().zip(shapes).any(differs)
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
pub(super) struct Slot(Mutex<Place>);

#[derive(Debug, Default)]
struct Place {
    ready: Option<Arc<Ready>>,
    seen: Seen,
}

/// Of values that other capsules make, what every run agreed with of the dimensions that the graph states, or of the rank where
/// it states nothing; `None`: no rank. What was seen to be wrong stays open for every later session, so that a value that changes
/// from run to run has an end of making them.
type Seen = HashMap<usize, Option<Dims>>;

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Place> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session, where there is one.
    pub fn current(&self) -> Option<Arc<Ready>> {
        self.lock().ready.clone()
    }

    /// Lets the session go, once those that compute with it are done; gives the memory that it held.
    pub fn drop_session(&self) -> u64 {
        self.lock().ready.take().map_or(0, |ready| ready.own_bytes)
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
        let place = &mut *self.lock();
        if let Some(ready) = &place.ready {
            let shapes: Vec<Option<&[u64]>> = fed.iter().map(|fed| fed.shape).collect();
            let serves = ready.serves(fed) && !ready.is_contradicted(&shapes);
            if serves && (ready.prepacked || !prepack(ready.has_few_bits)) {
                return Ok(Served { ready: Arc::clone(ready), made: false });
            }
        }
        // The old one goes first: in a budget, where one run computes at a time, memory for both is never needed.
        if let Some(ready) = place.ready.take() {
            account(Change::Went(ready.own_bytes));
        }
        let ready = Arc::new(make(making, index, fed, &mut place.seen, prepack)?);
        account(Change::Made(&ready));
        place.ready = Some(Arc::clone(&ready));
        Ok(Served { ready, made: true })
    }
}

fn make(
    making: Making<'_>,
    index: usize,
    fed: &[Fed<'_>],
    seen: &mut Seen,
    prepack: &dyn Fn(bool) -> bool,
) -> Result<Ready> {
    let Making { runtime, store, head, wiring, optimization } = making;
    let (begun, before) = (Instant::now(), anonymous_bytes());
    let unit = &wiring.units[index];
    let outputs: Vec<&str> = unit.outputs.iter().map(|value| wiring.name(*value)).collect();
    let mut part = Part::read(store, unit.capsules.clone(), &outputs)?;
    let (mut told, mut dims) = (Vec::with_capacity(fed.len()), Vec::with_capacity(fed.len()));
    for input in fed {
        let (known, stated) = tell(&mut part, head, wiring.name(input.value), input, seen)?;
        told.push((input.value, known));
        dims.push(stated);
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
        dims,
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

/// Has the graph know the type of an input that it leaves open, and states no dimensions of one that a value was seen not to have:
/// the source may be wrong about a value inside the model, which the runtime minds only where it comes from outside. What the
/// session was told.
fn tell(
    part: &mut Part,
    head: &Head,
    name: &str,
    fed: &Fed<'_>,
    seen: &mut Seen,
) -> Result<(Told, Option<Dims>)> {
    let untyped = part.is_untyped(name);
    if let Some(input) = head.input(name) {
        if untyped {
            part.graph.input.retain(|own| own.name.as_deref() != Some(name));
            part.graph.input.push(input.clone());
        }
        return Ok((None, None));
    }
    let stated = part.stated_dims(name);
    let first = if untyped { fed.rank().map(|rank| vec![None; rank]) } else { stated.clone() };
    let mut left = seen.get(&fed.value).cloned().unwrap_or(first);
    if let (Some(dims), Some(shape)) = (&left, fed.shape) {
        left = common(dims, shape);
    }
    if fed.shape.is_some() {
        seen.insert(fed.value, left.clone());
    }
    if untyped {
        let Some(known) = fed.known else {
            return Err(Error::Internal(format!("nobody knows the type of value \"{name}\"")));
        };
        let rank = left.map(|dims| dims.len());
        part.set_type(name, known, rank);
        return Ok((Some((known.clone(), rank)), None));
    }
    if left != stated {
        part.open_dims(name, left.as_ref());
    }
    // Not every version of the runtime refuses other ranks where the graph states a scalar.
    let scalar = left.as_ref().is_some_and(Vec::is_empty) && fed.rank() == Some(0);
    Ok((fed.known.filter(|_| scalar).map(|known| (known.clone(), Some(0))), left))
}

/// What of the dimensions is those of the shape; `None` of another rank.
fn common(dims: &Dims, shape: &[u64]) -> Option<Dims> {
    let same = |(dim, len): (&Option<u64>, &u64)| dim.filter(|dim| dim == len);
    (dims.len() == shape.len()).then(|| dims.iter().zip(shape).map(same).collect())
}

/// Whether a tensor of that shape is one of those dimensions.
fn agree(dims: &Dims, shape: &[u64]) -> bool {
    common(dims, shape).as_ref() == Some(dims)
}

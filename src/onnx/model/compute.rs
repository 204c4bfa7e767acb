//! A run's way through the units: each is fed, computed, and what nobody needs any more goes.

use std::sync::{Arc, PoisonError};

use ort::sys;

use super::{Compare, OnnxModel, Prepack};
use crate::error::{Error, Result};
use crate::onnx::api::{Answer, RunOptions, Runtime};
use crate::onnx::arena::Meter;
use crate::onnx::ports;
use crate::onnx::raw::{RawType, RawValue, TypeInfo};
use crate::onnx::slot::{Change, Fed, Making, Ready, named};
use crate::onnx::value::{Borrowed, Input, Value};
use crate::onnx::watch::Watch;
use crate::onnx::wiring::Steps;
use crate::pool::{CancelToken, unless_cancelled};

/// A value in the course of a run.
pub(super) enum Held<'a> {
    Fed(Borrowed<'a>),
    Made(RawValue),
    Shared(Value),
}

impl Held<'_> {
    fn raw(&self) -> &RawValue {
        match self {
            Self::Fed(value) => value.raw(),
            Self::Made(value) => value,
            Self::Shared(value) => value.raw(),
        }
    }

    /// The value, NULL where it is absent.
    fn as_ptr(&self) -> *const sys::OrtValue {
        let raw = self.raw();
        if raw.is_present().unwrap_or(false) { raw.as_ptr().cast_const() } else { std::ptr::null() }
    }
}

impl OnnxModel {
    /// Computes the units of a run one after the other.
    pub(super) fn walk(
        &self,
        runtime: &'static Runtime,
        steps: &Steps,
        held: &mut [Option<Held<'_>>],
        (options, cancel): (&RunOptions, Option<&CancelToken>),
    ) -> Result<()> {
        let meter = Arc::new(Meter::default());
        for (step, index) in steps.units.iter().enumerate() {
            unless_cancelled(cancel)?;
            let next = steps.units.get(step + 1).copied().unwrap_or(*index);
            let computed = self.compute(runtime, [*index, next], held, (options, &meter));
            if computed.is_err() {
                // The runtime says of a run that was stopped only that it failed.
                unless_cancelled(cancel)?;
            }
            for (value, made) in self.wiring.units[*index].outputs.iter().zip(computed?) {
                held[*value] = Some(Held::Made(made));
            }
            self.residency.measure(&meter)?;
            steps.freed[step].iter().for_each(|value| held[*value] = None);
        }
        Ok(())
    }

    /// Runs the model, and beside each of its capsules the same one of `other`, fed with the same values: `other` is a mini of
    /// the same model. `each` is told a capsule's number, its outputs and those of the other.
    ///
    /// # Errors
    /// Those of [`run`](Self::run), and what `each` returns.
    pub(crate) fn beside(
        &self,
        other: &Self,
        inputs: &[(&str, Input<'_>)],
        cancel: Option<&CancelToken>,
        each: &mut Compare<'_>,
    ) -> Result<()> {
        let given = self.given(inputs)?;
        let steps = self.wiring.steps(&self.wiring.outputs);
        self.refuse_missing(&steps, &self.wiring.outputs, &given)?;
        let runtime = self.runtime()?;
        let options = RunOptions::new(runtime).map_err(|refused| refused.error("prepare a run"))?;
        let options = Arc::new(options);
        let _watch = cancel.map(|token| Watch::new(token, &options)).transpose()?;
        let counted = (&*options, &Arc::new(Meter::default()));
        let mut held = self.feed(runtime, &given)?;
        let values = |made: Vec<RawValue>| -> Result<Vec<Value>> {
            made.into_iter()
                .map(|raw| Value::of(raw).map_err(|refused| refused.error("look at a capsule's output")))
                .collect()
        };
        for (step, index) in steps.units.iter().enumerate() {
            unless_cancelled(cancel)?;
            let own = self.compute(runtime, [*index, *index], &held, counted);
            let theirs = other.compute(runtime, [*index, *index], &held, counted);
            // Of a run that was stopped the runtime says only that it failed.
            unless_cancelled(cancel)?;
            let own = values(own?)?;
            let theirs = match theirs {
                Ok(made) => Some(values(made)?),
                Err(Error::Unsupported(_) | Error::Mismatch(_) | Error::InvalidArgument(_)) => None,
                Err(why) => return Err(why),
            };
            each(*index, &own, theirs.as_deref())?;
            for (value, made) in self.wiring.units[*index].outputs.iter().zip(own) {
                held[*value] = Some(Held::Shared(made));
            }
            steps.freed[step].iter().for_each(|value| held[*value] = None);
        }
        Ok(())
    }

    /// Runs unit `index`, and has the weights of `next` brought in meanwhile, where that is another; its outputs.
    fn compute(
        &self,
        runtime: &'static Runtime,
        units: [usize; 2],
        held: &[Option<Held<'_>>],
        (options, meter): (&RunOptions, &Arc<Meter>),
    ) -> Result<Vec<RawValue>> {
        let [index, _] = units;
        let unit = &self.wiring.units[index];
        let value = |value: &usize| held[*value].as_ref().map_or(std::ptr::null(), Held::as_ptr);
        let fed: Vec<*const sys::OrtValue> = unit.inputs.iter().map(value).collect();
        let run = |ready: Arc<Ready>| {
            let made = self.run_session(&ready, units, || meter.count(|| ready.session.run(options, &fed)));
            let contradicted = made.is_err() && ready.is_contradicted(&self.shapes(index, held));
            self.residency.end(index, ready, made.is_ok());
            (made, contradicted)
        };
        let present = self.present(index, held);
        let (mut made, contradicted) = run(present.map_or_else(|| self.session(runtime, index, held), Ok)?);
        if contradicted {
            // Refused for what it was told of dimensions, which another session is not told.
            made = run(self.session(runtime, index, held)?).0;
        }
        unit.capsules.clone().for_each(|capsule| self.store.count_use(capsule));
        made.map_err(|refused| refused.error(&format!("run {}", named(&self.store, unit))))
    }

    /// Has a unit's session compute; [`Residency::end`] follows.
    fn run_session(
        &self,
        ready: &Ready,
        [index, next]: [usize; 2],
        compute: impl FnOnce() -> Answer<Vec<RawValue>>,
    ) -> Answer<Vec<RawValue>> {
        self.residency.begin(index, ready);
        if next != index && self.residency.wants_ahead(next) {
            // Asking takes a while, as it is done in pieces, and where it fails only time is lost.
            std::thread::scope(|scope| {
                let asking = std::thread::Builder::new()
                    .name("capsulegraph-ahead".into())
                    .spawn_scoped(scope, || self.residency.ask_for(next));
                let made = compute();
                drop(asking);
                made
            })
        } else {
            compute()
        }
    }

    /// The session that a unit has, where it serves for the values that it is fed with, but for dimensions: of most units of most
    /// runs.
    fn present(&self, index: usize, held: &[Option<Held<'_>>]) -> Option<Arc<Ready>> {
        let rank = |value: usize| Some(raw(held, value)?.shape()?.len());
        let ready = self.residency.slot(index).current()?;
        let inputs = &self.wiring.units[index].inputs;
        // The lock ends with the statement: where copies pay is asked without it.
        let takes = ready.takes(inputs, &self.types.lock().unwrap_or_else(PoisonError::into_inner), rank);
        let stays = takes && (ready.prepacked || !self.wants_copy(index, held, ready.has_few_bits));
        stays.then_some(ready)
    }

    /// Whether the session of a unit that is fed with these values should copy its weights.
    fn wants_copy(&self, index: usize, held: &[Option<Held<'_>>], has_few_bits: bool) -> bool {
        match self.options.prepack {
            Prepack::On => true,
            Prepack::Off => false,
            Prepack::Auto => {
                let rows_of = |value: &usize| {
                    raw(held, *value)?.tensor().map(|(element, shape)| ports::rows(element, &shape))
                };
                let rows = || self.wiring.units[index].inputs.iter().filter_map(rows_of).max().unwrap_or(1);
                self.residency.wants_copy(index, rows, has_few_bits)
            }
        }
    }

    /// The shapes of the tensors that a unit is fed with, in its order.
    fn shapes(&self, index: usize, held: &[Option<Held<'_>>]) -> Vec<Option<Vec<u64>>> {
        self.wiring.units[index].inputs.iter().map(|value| raw(held, *value)?.shape()).collect()
    }

    /// A session of a unit, for the values that it is fed with.
    fn session(
        &self,
        runtime: &'static Runtime,
        index: usize,
        held: &[Option<Held<'_>>],
    ) -> Result<Arc<Ready>> {
        let inputs = &self.wiring.units[index].inputs;
        let types = self.types.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let own_types: Vec<Option<RawType>> = inputs
            .iter()
            .map(|value| types[*value].clone().or_else(|| type_of(raw(held, *value)?)))
            .collect();
        let shapes = self.shapes(index, held);
        let fed: Vec<Fed<'_>> = inputs
            .iter()
            .zip(own_types.iter().zip(&shapes))
            .map(|(value, (known, shape))| Fed {
                value: *value,
                known: known.as_ref(),
                shape: shape.as_deref(),
            })
            .collect();
        let making = Making {
            runtime,
            store: &self.store,
            head: &self.head,
            wiring: &self.wiring,
            optimization: self.options.optimization,
        };
        let copies = |has_few_bits: bool| self.wants_copy(index, held, has_few_bits);
        let account = |change: Change<'_>| {
            if let Change::Made(ready) = change {
                let mut types = self.types.lock().unwrap_or_else(PoisonError::into_inner);
                for (value, known) in self.wiring.units[index].outputs.iter().zip(&ready.output_types) {
                    types[*value].clone_from(known);
                }
            }
            self.residency.account(index, change);
        };
        let served = self.residency.slot(index).serve(making, index, &fed, &copies, &account)?;
        let ready = served.ready;
        if !served.made {
            return Ok(ready);
        }
        self.residency.settle(index, &ready)?;
        self.counts.made(&ready);
        Ok(ready)
    }
}

fn raw<'a>(held: &'a [Option<Held<'_>>], value: usize) -> Option<&'a RawValue> {
    held[value].as_ref().map(Held::raw)
}

/// The type of a value, as the runtime tells it.
fn type_of(value: &RawValue) -> Option<RawType> {
    TypeInfo::of_value(value).ok().flatten()?.raw_type().ok().flatten()
}

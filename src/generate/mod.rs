//! Generation: opened models, sessions, how the next token is chosen, and when to stop.
//!
//! Lives here: [`model::Model`] (graph, tokenizer, template), [`session::Session`], [`group::Group`] (several sessions in
//! one pass), speculation, sampling, stop strings.
//! Calls `decoder`, `text` and `store`. May be called by everything above (`split`, `report`, `ffi`,
//! `cgraph`). Must not know: the C API, the command line.

pub mod bench;
mod demand;
pub mod eval;
pub mod group;
pub mod model;
pub mod part;
pub mod plan;
mod sampler;
pub mod session;
mod speculate;
mod stop;

pub use sampler::{Sampler, SamplingOptions};
pub use speculate::SpeculationStats;
pub use stop::{Released, StopMatcher};

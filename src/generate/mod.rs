//! Generation: how the next token is chosen, and when to stop.
//!
//! Lives here: sampling, stop strings. May be called by: everything above (`split`, `report`, `ffi`, `cgraph`).
//! Must not know: files, weights, how logits come about.

mod sampler;
mod stop;

pub use sampler::{Sampler, SamplingOptions};
pub use stop::{Released, StopMatcher};

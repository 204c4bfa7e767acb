//! The mini: planner, light forms, link index, verification and repair.
//!
//! Lives here: how a mini is derived from a full file ([`split`]), the one place that joins conversion and
//! split ([`job`]), how files are verified and minis rebuilt ([`verify`]). Calls `generate` (it calibrates
//! by running) and everything below. May be called by `bin` and `ffi`. Must not know: the command line.

pub mod agreement;
pub mod job;
mod light;
pub mod plan;
mod write;
pub mod verify;

pub use write::{SplitOptions, SplitSummary, residence_counts, split};

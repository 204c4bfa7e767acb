//! The mini: planner, light forms, link index, verification and repair.
//!
//! Lives here: how a mini is derived from a full file ([`split`]; of an ONNX model in `onnx`), the one place that joins conversion and
//! split ([`job`]), how files are verified and minis rebuilt ([`verify`]). Calls `generate` (it calibrates
//! by running) and everything below. May be called by `bin` and `ffi`. Must not know: the command line.

pub mod agreement;
mod importance;
pub mod job;
mod light;
mod onnx;
mod options;
pub mod plan;
mod sensitivity;
pub mod verify;
mod write;

pub use options::SplitOptions;
pub use write::{SplitSummary, residence_counts, split};

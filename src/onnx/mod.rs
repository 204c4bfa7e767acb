//! ONNX models: their capsules run by ONNX Runtime, with weights where they lie in the file.
//!
//! Lives here: finding the runtime ([`library`]), a safe layer over its C API (`api`), values ([`value`]), and the model
//! ([`model`]), which runs capsule by capsule inside a budget (`residency`). Calls `store`, `container`, and of `convert` the
//! messages that sub-models are written in. May be called by `report`, `split`, `ffi` and `cgraph`. Must not know: the C API,
//! the command line.

mod api;
mod arena;
mod empty;
pub mod feed;
pub mod library;
pub mod model;
mod options;
mod os;
pub mod plan;
mod ports;
mod raw;
mod residency;
mod slot;
mod submodel;
pub mod value;
mod watch;
mod wiring;

pub use api::Runtime;
pub use residency::OnnxMemory;
pub use submodel::check;

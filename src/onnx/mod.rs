//! ONNX models: their capsules run by ONNX Runtime, with weights where they lie in the file.
//!
//! Lives here: finding the runtime ([`library`]), a safe layer over its C API (`api`), values ([`value`]), and the model
//! ([`model`]), which runs capsule by capsule inside a budget (`residency`). Calls `store`, `container`, and of `convert` the
//! messages that sub-models are written in. May be called by `report`, `split`, `ffi` and `cgraph`. Must not know: the C API,
//! the command line.

mod api;
pub mod library;
pub mod model;
pub mod value;

pub use api::Runtime;

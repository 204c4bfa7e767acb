//! What a model is: plain types and byte layouts without I/O.
//!
//! Lives here: hyper-parameters, the registry of architectures, the compiled vocabulary's layout, an ONNX model's
//! interface and element types. May be called by everything. Must not know: files, threads, kernels.

pub mod arch;
pub mod element;
pub mod onnx;
pub mod params;
pub mod vocab;

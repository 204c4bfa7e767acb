//! ONNX messages.
pub mod proto;

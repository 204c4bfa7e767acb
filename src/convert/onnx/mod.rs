//! ONNX models to `.cgraph` files and back (format: ONNX's published schema).
//!
//! Nothing is trusted: nesting, counts and lengths are held against what is there before anything is allocated, names
//! are resolved before anything is written, and caps bound what a crafted file can make us hold.

pub mod cut;
pub mod source;
pub mod proto;
pub mod wire;

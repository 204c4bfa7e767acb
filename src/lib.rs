//! CapsuleGraph runs a language model or an ONNX model inside a memory budget that the host names.
//!
//! A model is converted to a `.cgraph` file, the *full* CapsuleGraph, cut into capsules; a light *mini* is
//! derived from it, answers alone when it must, and brings any capsule of the full file in on demand. (Plug-ins come in
//! later releases; README.md says what works today.)
//!
//! # The map
//! Arrows point down: a floor knows those below it, never those above.
//!
//! | floor | modules | what lives there |
//! |---|---|---|
//! | 8 | [`ffi`], `bin/cgraph` | the C API; the command line |
//! | 7 | [`report`] | performance reports |
//! | 6 | [`split`] | the mini: planner, light forms, link index, verify, repair |
//! | 5 | [`generate`], [`onnx`] | sessions, sampling, stop strings, streaming; ONNX models run by ONNX Runtime |
//! | 4 | [`decoder`], [`text`] | transformer forward pass and KV cache; tokenizer and chat template |
//! | 3 | [`convert`] | GGUF and ONNX to `.cgraph` |
//! | 2 | [`store`], then [`container`] | mapping and fetching; the `.cgraph` file |
//! | 1 | [`kernels`], [`pool`] | encodings, packing, matrix products, attention; threads |
//! | 0 | [`graph`], [`error`] | what a model is; what can go wrong |

pub mod container;
pub mod convert;
pub mod decoder;
pub mod error;
pub mod ffi;
pub mod generate;
pub mod graph;
pub mod kernels;
pub mod onnx;
pub mod pool;
pub mod report;
pub mod split;
pub mod store;
pub mod text;

pub use error::{Error, Result};

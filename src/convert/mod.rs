//! Importers: other formats to a full `.cgraph` file.
//!
//! Lives here: the GGUF reader ([`gguf`]) and the conversion ([`import`]). Calls `container`, `kernels` and
//! `graph`. May be called by `split` and above. Must not know: how a model is run, what a mini is.
//!
//! Tensors are read and packed by threads of `weights`' own: they feed the calling thread, which writes piece after
//! piece in order, while a loop of `pool` would let reading and writing take turns.

pub mod gguf;
pub mod import;
pub mod metadata;
pub mod onnx;
mod weights;

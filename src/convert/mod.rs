//! Importers: other formats to a full `.cgraph` file.
//!
//! Lives here: the GGUF reader ([`gguf`]) and the conversion ([`import`]). Calls `container`, `kernels` and
//! `graph`. May be called by `split` and above. Must not know: how a model is run, what a mini is.

pub mod gguf;
pub mod import;
pub mod metadata;
mod weights;

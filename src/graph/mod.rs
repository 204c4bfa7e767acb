//! What a model is: plain types and byte layouts without I/O.
//!
//! Lives here: hyper-parameters, capsules, the compiled vocabulary's layout. May be called by everything.
//! Must not know: files, threads, kernels.

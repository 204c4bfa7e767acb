//! The C API (docs/c-api.md): what `include/capsulegraph.h` declares.
//!
//! Lives here: the boundary, one file a noun. Conventions have one place each: [`status`] (numbers), [`error`],
//! `panic` (the one boundary that every function goes through), `handle` (ownership: every handle is an `Arc`),
//! `input` and `output` (pointers), [`options`] (`struct_size`). No logic: a function converts its arguments,
//! calls the library once, and converts the result. Calls everything below. May be called by C alone.
//! Must not know: the command line.
//!
//! The comments of public items become the header's. The functions' safety contract is the same for all: each
//! pointer is NULL or valid for what the comment says for the duration of the call.

// C names, so that the header needs no renaming.
#![allow(non_camel_case_types)]
// Stated once, above and in docs/c-api.md, instead of 60 times in the header.
#![allow(clippy::missing_safety_doc)]

pub mod budget;
pub mod cancel;
pub mod capsule;
pub mod convert;
pub mod error;
pub mod export;
pub mod fetch;
pub mod generate;
pub mod group;
mod handle;
pub mod input;
pub mod inspect;
pub mod log;
pub mod model;
mod opened;
pub mod options;
mod output;
mod panic;
pub mod part;
pub mod port;
pub mod reader;
pub mod run;
pub mod session;
pub mod split;
pub mod status;
pub mod tensor;
pub mod text;
pub mod threads;
pub mod tokenize;
pub mod verify;
pub mod version;

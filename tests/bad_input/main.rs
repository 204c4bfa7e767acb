//! Damaged and crafted input: always an error that names the place; never a panic, a hang or much memory.
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "../support/disk.rs"]
mod disk;
#[path = "../support/onnx_source.rs"]
mod onnx_models;
#[path = "../support/mod.rs"]
mod support;

mod crafted;
mod faults;
mod full_and_mini;
mod memory;
mod mutations;
mod onnx;
mod onnx_file;
mod onnx_use;
mod parts;
mod payload;
mod planes;
mod resealed;
mod truncation;
mod under_test;

/// Damaged files of a kind, or how many of them have to get somewhere. What is damaged are bytes in memory, which every system
/// takes alike: fewer where the emulator says so (`CAPSULEGRAPH_TEST_FEWER`), wine's allocator takes its time.
fn cases(all: u64) -> u64 {
    if std::env::var_os("CAPSULEGRAPH_TEST_FEWER").is_some() { all / 20 } else { all }
}

//! In place of ../disk.rs on systems other than Linux, which lack what the measurements are made with.

use std::path::Path;

use super::reads::Row;
use crate::shell::Outcome;

fn refused<T>() -> Outcome<T> {
    Err("this bench needs Linux; `bench --platform` runs on every system".to_owned())
}

pub fn supported() -> Outcome {
    refused()
}

pub fn evict(_: &Path) -> Outcome {
    refused()
}

pub fn warm(_: &Path) -> Outcome {
    refused()
}

pub fn direct_read(_: &Path) -> Outcome<f64> {
    refused()
}

pub fn sequential_write(_: &Path, _: u64) -> Outcome<f64> {
    refused()
}

pub fn time_reads(_: &Path, _: usize, _: &dyn Fn(&str)) -> Outcome<(Vec<Row>, Option<String>)> {
    refused()
}

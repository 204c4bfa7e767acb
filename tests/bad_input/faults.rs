//! A disk that fails at any operation, a cancelled conversion: nothing is left, and what was there stays.

use std::path::Path;
use std::sync::Arc;

use capsulegraph::container::disk::{Disk, SystemDisk};
use capsulegraph::convert::import::{ConvertOptions, convert};
use capsulegraph::pool::CancelToken;
use capsulegraph::split::verify::{VerifyOptions, repair, verify};
use capsulegraph::split::{SplitOptions, split};
use capsulegraph::{Error, Result};

use crate::disk::FailingDisk;
use crate::under_test::two_extents;

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Runs `job` on disks that fail after 0, 1, 2, ... operations until one run succeeds. Each failure must leave
/// the directory as it was, names and contents of `target` included. Returns the number of failures.
fn fail_everywhere(dir: &Path, target: &str, job: &dyn Fn(Arc<dyn Disk>) -> Result<()>) -> i64 {
    let target = dir.join(target);
    let (before, content) = (names(dir), std::fs::read(&target).ok());
    for successes in 0.. {
        let disk = FailingDisk::new(Arc::new(SystemDisk), successes);
        match job(Arc::new(disk.clone())) {
            Ok(()) => {
                assert!(!disk.has_failed(), "a failure after {successes} operations was not reported");
                return successes;
            }
            Err(error) => {
                assert!(error.to_string().contains("injected failure"), "{error}");
                let now = std::fs::read(&target).ok();
                assert!(now == content, "after {successes} operations the target is another");
                assert_eq!(names(dir), before, "after {successes} operations");
            }
        }
    }
    unreachable!("the loop ends with a success")
}

#[test]
fn a_failing_disk_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    two_extents().write(&at("m.gguf"));
    let conversion = |disk: Arc<dyn Disk>| {
        let options = ConvertOptions { disk, ..ConvertOptions::default() };
        convert(&at("m.gguf"), &at("m.cgraph"), &options, &mut |_, _| {}).map(drop)
    };
    let first = fail_everywhere(dir.path(), "m.cgraph", &conversion);
    let again = fail_everywhere(dir.path(), "m.cgraph", &conversion);
    let division = |disk: Arc<dyn Disk>| {
        let size = std::fs::metadata(at("m.cgraph")).unwrap().len() - (48 << 10);
        let options = SplitOptions { size, disk, ..SplitOptions::default() };
        split(&at("m.cgraph"), &at("m.mini.cgraph"), &options, &mut |_, _| {}).map(drop)
    };
    let split_failures = fail_everywhere(dir.path(), "m.mini.cgraph", &division);
    let rebuilding = |disk: Arc<dyn Disk>| {
        let options = VerifyOptions { disk, ..VerifyOptions::default() };
        repair(&at("m.mini.cgraph"), &options, &mut |_, _| {}).map(drop)
    };
    let repair_failures = fail_everywhere(dir.path(), "m.mini.cgraph", &rebuilding);
    assert_eq!(names(dir.path()), ["m.cgraph", "m.gguf", "m.mini.cgraph"]);
    let options = VerifyOptions { deep: true, ..VerifyOptions::default() };
    assert_eq!(verify(&at("m.mini.cgraph"), &options, &mut |_, _| {}).unwrap().problems, []);
    println!(
        "failures: {first} + {again} converting, {split_failures} splitting, {repair_failures} rebuilding"
    );
    assert!(first > 15 && first == again && split_failures > 5 && repair_failures > 5);
}

#[test]
fn a_cancelled_conversion_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("m.gguf"), dir.path().join("m.cgraph"));
    two_extents().write(&source);
    let total = two_extents().tensor_data().len();
    for stop_at in 0..total {
        let cancel = CancelToken::new();
        let options = ConvertOptions { cancel: Some(cancel.clone()), ..ConvertOptions::default() };
        let mut calls = 0;
        let mut progress = |_, _| {
            if calls == stop_at {
                cancel.cancel();
            }
            calls += 1;
        };
        let result = convert(&source, &target, &options, &mut progress);
        // The last report comes after the last tensor: nothing is left to be stopped.
        if stop_at + 1 < total {
            assert!(matches!(result, Err(Error::Cancelled)), "stopped at {stop_at}: {result:?}");
            assert_eq!(names(dir.path()), ["m.gguf"], "stopped at {stop_at}");
        }
    }
}

#[test]
fn a_split_that_fails_while_it_is_measured_keeps_the_old_mini() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    two_extents().write(&at("m.gguf"));
    convert(&at("m.gguf"), &at("m.cgraph"), &ConvertOptions::default(), &mut |_, _| {}).unwrap();
    std::fs::write(at("m.mini.cgraph"), "old").unwrap();
    let before = names(dir.path());
    let attempt = |calibrate: &str, stop: bool| {
        let (cancel, calibrate) = (CancelToken::new(), Some(calibrate.to_owned()));
        let size = std::fs::metadata(at("m.cgraph")).unwrap().len() - (48 << 10);
        let options =
            SplitOptions { size, calibrate, cancel: Some(cancel.clone()), ..SplitOptions::default() };
        let mut progress = |done: u64, total: u64| {
            if stop && done == total {
                cancel.cancel();
            }
        };
        split(&at("m.cgraph"), &at("m.mini.cgraph"), &options, &mut progress)
    };
    for (result, about) in [(attempt("Some text.", true), "cancelled"), (attempt("", false), "no tokens")] {
        let error = result.map(drop).unwrap_err();
        assert!(error.to_string().contains(about), "{error}");
        assert_eq!(
            (names(dir.path()), std::fs::read(at("m.mini.cgraph")).unwrap()),
            (before.clone(), b"old".to_vec())
        );
    }
    assert!(attempt("Some text.", false).unwrap().expected_agreement.is_some());
}

//! A mini and a full file that do not belong together: exact says why, fast does not care.

use std::sync::Arc;

use capsulegraph::store::{Mode, OpenOptions, Origin, Store};

use crate::disk::MemoryDisk;
use crate::parts::Parts;
use crate::support::TinyModel;
use crate::under_test::{files, make, two_extents};

/// Opens `mini` beside `full` (`None`: nothing there) in each mode: what exact says, and what auto took.
fn open(mini: &Arc<[u8]>, full: Option<&[u8]>) -> (String, Mode, String) {
    let disk = MemoryDisk::default();
    disk.put("dir/m.mini.cgraph", Arc::clone(mini));
    if let Some(full) = full {
        disk.put("dir/m.cgraph", full.to_vec());
    }
    let open = |mode| {
        let options = OpenOptions { mode, disk: Arc::new(disk.clone()), ..OpenOptions::default() };
        Store::open(&Origin::Path("dir/m.mini.cgraph".into()), &options)
    };
    assert_eq!(open(Mode::Fast).unwrap().mode(), Mode::Fast);
    let auto = open(Mode::Auto).unwrap();
    let exact = open(Mode::Exact).err().map(|e| e.to_string()).unwrap_or_default();
    (exact, auto.mode(), auto.mode_reason().to_owned())
}

fn refused(full: Option<&[u8]>, told: &str) {
    let (exact, mode, reason) = open(&files().light, full);
    assert!(exact.contains(told), "exact: {exact:?} does not say {told:?}");
    assert_eq!(mode, Mode::Fast, "auto falls back");
    assert!(reason.contains(told), "auto: {reason:?} does not say {told:?}");
}

#[test]
fn the_right_full_file_is_taken() {
    let (exact, mode, _) = open(&files().light, Some(&files().full));
    assert_eq!((exact.as_str(), mode), ("", Mode::Exact));
}

#[test]
fn a_missing_full_file() {
    refused(None, "its full file cannot be opened");
}

#[test]
fn a_cut_full_file() {
    let full = &files().full;
    refused(Some(&full[..full.len() / 2]), "it was cut or extended");
    refused(Some(&[]), "too short");
    refused(Some(&two_extents().gguf()), "this is a GGUF model");
}

#[test]
fn a_full_file_of_another_model() {
    let other = make(&TinyModel { name: "Another".into(), ..two_extents() });
    refused(Some(&other.full), "the mini is of \"Tiny\", the full file of \"Another\"");
}

#[test]
fn another_conversion_of_the_same_model() {
    let other = make(&TinyModel { seed: 99, ..two_extents() });
    refused(Some(&other.full), "capsule embed: its checksum differs");
    let shapes = make(&TinyModel { blocks: 2, ..two_extents() });
    refused(Some(&shapes.full), "block_count is 1 against 2");
    let parts = Parts::new(&files().full);
    let mut manifest = parts.manifest.clone();
    manifest["generator"] = "another release".into();
    refused(Some(&parts.sealed(&manifest)), "another conversion of the same model");
}

#[test]
fn a_mini_in_place_of_the_full_file() {
    refused(Some(&files().linked), "this is a mini itself");
}

#[test]
fn a_linked_mini_without_its_full_file() {
    let disk = MemoryDisk::default();
    disk.put("m.mini.cgraph", Arc::clone(&files().linked));
    for (mode, told) in [
        (Mode::Fast, "only linked"),
        (Mode::Auto, "and exact is not possible either"),
        (Mode::Exact, "put it beside the mini or name it with --full"),
    ] {
        let options = OpenOptions { mode, disk: Arc::new(disk.clone()), ..OpenOptions::default() };
        let error = Store::open(&Origin::Path("m.mini.cgraph".into()), &options).unwrap_err().to_string();
        assert!(error.contains(told), "{mode:?}: {error}");
    }
}

/// A mini that says of itself what is not so must not make `exact` compute something else.
#[test]
fn a_mini_that_lies_is_refused_in_exact() {
    let lie = |change: &dyn Fn(&mut serde_json::Value), told: &str| {
        let parts = Parts::new(&files().light);
        let mut manifest = parts.manifest.clone();
        change(&mut manifest);
        let (exact, ..) = open(&parts.sealed(&manifest).into(), Some(&files().full));
        assert!(exact.contains(told), "{exact:?} does not say {told:?}");
    };
    lie(&|m| m["model"]["decoder"]["rms_epsilon"] = 0.5.into(), "hyper-parameters differ");
    let light = |m: &mut serde_json::Value| {
        let capsules = m["capsules"].as_array_mut().unwrap();
        let capsule = capsules.iter_mut().find(|c| c["residence"] == "light").unwrap();
        capsule["residence"] = "pinned".into();
    };
    lie(&light, "is not what the full file holds");
    lie(&|m| m["full"]["file_name"] = "../dir/m.cgraph".into(), "not a plain file name");
}

//! A flipped byte anywhere behind the header is found by `verify` with `deep`, which names the capsule.

use std::sync::Arc;

use capsulegraph::Error;
use capsulegraph::container::manifest::Manifest;
use capsulegraph::container::reader::{Contents, Damage};
use capsulegraph::convert::import::{ConvertOptions, convert};
use capsulegraph::split::verify::{VerifyOptions, verify};
use capsulegraph::split::{SplitOptions, split};

use crate::disk::MemoryDisk;
use crate::support::TinyModel;
use crate::under_test::{Files, make, two_extents, view};

fn deep(disk: &MemoryDisk, name: &str) -> Vec<Damage> {
    let options = VerifyOptions { deep: true, disk: Arc::new(disk.clone()), ..VerifyOptions::default() };
    verify(name.as_ref(), &options, &mut |_, _| {}).unwrap().problems
}

fn manifest(bytes: &Arc<[u8]>) -> Manifest {
    Contents::read(view(bytes, bytes.len()).as_ref()).unwrap().manifest
}

/// Flips the byte at `at` of the file called `name` and gives what verification finds.
fn flipped(files: &Files, name: &str, at: u64) -> Vec<Damage> {
    let whole = files.disk.get(name).unwrap();
    let mut bytes = whole.to_vec();
    bytes[at as usize] ^= 0x10;
    files.disk.put(name, bytes);
    let found = deep(&files.disk, name);
    files.disk.put(name, whole);
    found
}

#[test]
fn verify_finds_a_flipped_byte_anywhere() {
    let model = TinyModel { blocks: 2, biases: true, ..two_extents() };
    let files = make(&model);
    let mut flips = 0;
    for name in ["m.cgraph", "light.cgraph", "linked.cgraph"] {
        assert_eq!(deep(&files.disk, name), [], "{name} is sound");
        let whole = files.disk.get(name).unwrap();
        let manifest = manifest(&whole);
        let mut check = |at: u64, capsule: Option<&str>, text: &str| {
            let found = flipped(&files, name, at);
            let named = |d: &&Damage| d.capsule.as_deref() == capsule && d.detail.contains(text);
            assert!(found.iter().any(|d| named(&d)), "{name}: byte {at} of {capsule:?} {text}: {found:?}");
            flips += 1;
        };
        let mut end = 128;
        for capsule in &manifest.capsules {
            let Some(extent) = capsule.extent else { continue };
            if extent.offset > end {
                check(end, Some(&capsule.id), "between");
                check(extent.offset - 1, Some(&capsule.id), "between");
            }
            end = extent.offset;
            for tensor in &capsule.tensors {
                for plane in &tensor.planes {
                    let start = extent.offset + plane.offset;
                    if start > end {
                        check(end, Some(&capsule.id), "padding");
                    }
                    end = start + plane.len;
                    for at in [start, start + plane.len / 3, start + plane.len / 2, end - 1] {
                        check(at, Some(&capsule.id), &tensor.name);
                    }
                }
            }
            if extent.offset + extent.len > end {
                check(end, Some(&capsule.id), "padding");
                check(extent.offset + extent.len - 1, Some(&capsule.id), "padding");
            }
            end = extent.offset + extent.len;
        }
        for asset in &manifest.assets {
            if asset.offset > end {
                check(end, None, &asset.name);
            }
            end = asset.offset + asset.len;
            for at in [asset.offset, asset.offset + asset.len / 2, end - 1] {
                check(at, None, &asset.name);
            }
        }
    }
    println!("{flips} flipped bytes found");
    assert!(flips > 300, "{flips}");
}

#[test]
fn verify_of_a_mini_finds_damage_in_its_full_file() {
    let files = make(&two_extents());
    let whole = files.disk.get("m.cgraph").unwrap();
    let manifest = manifest(&whole);
    for capsule in &manifest.capsules {
        let mut bytes = whole.to_vec();
        let at = capsule.extent.unwrap().offset + capsule.tensors[0].planes[0].offset;
        bytes[at as usize] ^= 1;
        files.disk.put("m.cgraph", bytes);
        let found = deep(&files.disk, "light.cgraph");
        assert!(found.iter().any(|d| d.capsule.as_ref() == Some(&capsule.id)), "{}: {found:?}", capsule.id);
    }
}

#[test]
fn fetch_finds_a_flipped_byte() {
    use capsulegraph::store::fetch::FetchLayout;
    use capsulegraph::store::{Mode, OpenOptions, Origin, Store};
    let files = make(&two_extents());
    for capsule in &manifest(&files.full).capsules {
        let mut bytes = files.full.to_vec();
        let at = capsule.extent.unwrap().offset + capsule.tensors[0].planes[0].len / 2;
        bytes[at as usize] ^= 1;
        let full = view(&bytes.into(), files.full.len());
        let mini = Origin::Source(view(&files.linked, files.linked.len()));
        let options =
            OpenOptions { mode: Mode::Exact, full: Some(Origin::Source(full)), ..OpenOptions::default() };
        let store = Store::open(&mini, &options).unwrap();
        let index = store.find(&capsule.id).unwrap();
        let from_mini = std::ptr::eq(store.capsule(index).unwrap().0, store.primary());
        match store.fetch(&capsule.id, FetchLayout::Source) {
            Ok(_) => assert!(from_mini, "{}: the damage was not seen", capsule.id),
            Err(error) => {
                assert!(error.to_string().contains(&capsule.tensors[0].name), "{error}");
                assert!(!from_mini, "{}: {error}", capsule.id);
            }
        }
    }
}

#[test]
fn a_cut_source_is_refused_by_the_converter() {
    let disk = MemoryDisk::default();
    let gguf = two_extents().gguf();
    disk.put("m.gguf", gguf[..gguf.len() - 100].to_vec());
    let options = ConvertOptions { disk: Arc::new(disk.clone()), ..ConvertOptions::default() };
    let error = convert("m.gguf".as_ref(), "m.cgraph".as_ref(), &options, &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("the download is incomplete"), "{error}");
    assert!(disk.get("m.cgraph").is_none());
}

#[test]
fn damage_of_a_full_file_does_not_pass_into_a_mini() {
    let files = make(&two_extents());
    let sound = manifest(&files.full);
    let planes = sound.capsules.iter().flat_map(|c| {
        let offset = c.extent.unwrap().offset;
        c.tensors.iter().map(move |t| (offset + t.planes[0].offset, t.planes[0].len, t.name.as_str()))
    });
    let assets = sound.assets.iter().map(|a| (a.offset, a.len, a.name.as_str()));
    let options = SplitOptions { disk: Arc::new(files.disk.clone()), ..SplitOptions::default() };
    for (offset, len, name) in planes.chain(assets) {
        let mut bytes = files.full.to_vec();
        bytes[(offset + len / 2) as usize] ^= 1;
        files.disk.put("m.cgraph", bytes);
        let error = split("m.cgraph".as_ref(), "new.cgraph".as_ref(), &options, &mut |_, _| {}).unwrap_err();
        assert!(matches!(&error, Error::Corrupt(why) if why.contains(name)), "{name}: {error}");
        assert!(files.disk.get("new.cgraph").is_none(), "{name}");
    }
}

//! Damaged `.cgraph` files of an ONNX model: manifests that were changed and sealed again, and graphs with right checksums
//! that were damaged. No ONNX Runtime is needed: everything up to computing is tried.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use capsulegraph::container::checksum::xxh3_hex;
use capsulegraph::convert::import::ConvertOptions;
use capsulegraph::convert::onnx::cut::CutOptions;
use capsulegraph::convert::onnx::export::{ExportOptions, export_capsule};
use capsulegraph::convert::onnx::import::OnnxModel as Importer;
use capsulegraph::onnx::model::{OnnxModel, OnnxOptions};
use capsulegraph::split::{SplitOptions, split};
use capsulegraph::store::fetch::FetchLayout;
use capsulegraph::store::mapped::MappedFile;
use capsulegraph::store::{Mode, OpenOptions, Origin, Store};
use capsulegraph::{Result, onnx};
use serde_json::Value;

use crate::disk::MemoryDisk;
use crate::mutations::{Tally, damage, one};
use crate::onnx_use::sound;
use crate::parts::Parts;
use crate::resealed::{mutate, strings};
use crate::support::Random;
use crate::under_test::{Reached, expected, view};

/// Damaged files of each kind.
const CASES: u64 = 3_000;

/// The model that is damaged, cut into several capsules.
fn file() -> &'static Arc<[u8]> {
    static FILE: OnceLock<Arc<[u8]>> = OnceLock::new();
    FILE.get_or_init(|| {
        let disk = MemoryDisk::default();
        disk.put("m.onnx", sound());
        disk.put("w.bin", vec![0; 8192]);
        let cut = CutOptions { capsules: Some(3), ..CutOptions::default() };
        let options = ConvertOptions { cut, disk: Arc::new(disk.clone()), ..ConvertOptions::default() };
        let (source, target) = (Path::new("m.onnx"), Path::new("m.cgraph"));
        let opened = Importer::open(source, &[target], &options).unwrap();
        opened.convert(source, target, &options, &mut |_, _| {}).unwrap();
        disk.get(target).unwrap()
    })
}

/// Opens the file and does with it all that needs no runtime.
fn use_file(bytes: Arc<[u8]>) -> Reached {
    let source = || view(&bytes, bytes.len());
    let options = OpenOptions { mode: Mode::Exact, ..OpenOptions::default() };
    let store = match Store::open(&Origin::Source(source()), &options) {
        Ok(store) => store,
        Err(error) => {
            expected(&error);
            return Reached::Refused;
        }
    };
    let mut reached = Reached::Computed;
    let mut check = |result: Result<()>| {
        if let Err(error) = result {
            expected(&error);
            reached = Reached::Opened;
        }
    };
    let model =
        OnnxModel::open(&Origin::Source(source()), &OnnxOptions { store: options, ..OnnxOptions::default() });
    check(model.map(drop));
    check(onnx::check(&store));
    let disk = MemoryDisk::default();
    disk.put("m.cgraph", Arc::clone(&bytes));
    let out = ExportOptions { disk: Arc::new(disk.clone()), ..ExportOptions::default() };
    let mapped = MappedFile::open(source()).unwrap();
    for capsule in &store.manifest().capsules {
        for layout in [FetchLayout::Source, FetchLayout::F32] {
            check(store.fetch(&capsule.id, layout).map(drop));
        }
        check(export_capsule(&mapped, &capsule.id, Path::new("part.onnx"), &out, &mut |_, _| {}).map(drop));
    }
    let light = "none".parse().unwrap();
    let size = bytes.len() as u64;
    let options = SplitOptions { size, light, disk: Arc::new(disk), ..SplitOptions::default() };
    check(split(Path::new("m.cgraph"), Path::new("mini.cgraph"), &options, &mut |_, _| {}).map(drop));
    reached
}

#[test]
fn onnx_the_sound_file_is_used_whole() {
    assert_eq!(use_file(Arc::clone(file())), Reached::Computed);
}

#[test]
fn onnx_a_changed_manifest_breaks_nothing() {
    let parts = Parts::new(file());
    let mut strings = strings(&parts.manifest);
    let words =
        ["plain", "float32", "int4", "string", "sequence", "optional", "onnx", "onnx/head", "segment.9"];
    strings.extend(words.map(Value::from));
    let mut tally = Tally::default();
    for case in 0..CASES {
        let mut random = Random(0x6f6e_0000 + case);
        let mut manifest = parts.manifest.clone();
        mutate(&mut manifest, &mut random, &strings);
        let bytes: Arc<[u8]> = parts.sealed(&manifest).into();
        tally.add(one(case, || use_file(bytes)));
    }
    tally.report("sealed onnx");
}

#[test]
fn onnx_damaged_graphs_break_nothing() {
    let whole = file();
    let parts = Parts::new(whole);
    let assets = parts.manifest["assets"].as_array().unwrap();
    let number = |asset: &Value, key: &str| asset[key].as_u64().unwrap() as usize;
    let mut worked = 0;
    for case in 0..CASES {
        let mut random = Random(0x6f6f_0000 + case);
        let index = random.bits() as usize % assets.len();
        let (offset, len) = (number(&assets[index], "offset"), number(&assets[index], "len"));
        // As long as it was: others lie behind it.
        let mut damaged = whole[offset..offset + len].to_vec();
        damage(&mut damaged, &mut random, &mut |random| random.bits() as usize % len.max(1));
        damaged.resize(len, 0);
        let mut bytes = whole.to_vec();
        bytes[offset..offset + len].copy_from_slice(&damaged);
        let mut manifest = parts.manifest.clone();
        manifest["assets"][index]["xxh3"] = xxh3_hex(&damaged).into();
        let bytes: Arc<[u8]> = Parts::new_payload(&bytes, whole).sealed(&manifest).into();
        let reached = one(case, || use_file(bytes));
        assert_ne!(reached, Reached::Refused, "case {case}: the manifest is sound");
        worked += u64::from(reached == Reached::Computed);
    }
    println!("damaged graphs: {worked} of {CASES} could be used");
    assert!(worked > 50 && worked < CASES - 50, "{worked} of {CASES} leave a part untested");
}

//! Divided tensors whose planes are wrong in one way each, in a full file and in a mini of first planes.

use std::sync::{Arc, OnceLock};

use capsulegraph::container::reader::Contents;
use capsulegraph::convert::import::{ConvertOptions, Planes, convert};
use capsulegraph::split::{SplitOptions, split};
use serde_json::{Value, json};

use crate::disk::MemoryDisk;
use crate::parts::Parts;
use crate::support::TinyModel;
use crate::under_test::{tiny, view};

/// A full file of divided weights and a mini that holds first planes of it.
fn files() -> &'static [Arc<[u8]>; 2] {
    static FILES: OnceLock<[Arc<[u8]>; 2]> = OnceLock::new();
    FILES.get_or_init(|| {
        let disk = MemoryDisk::default();
        let model = TinyModel { blocks: 2, width: 256, ffn: 512, heads: 4, encoding: "q8_0", ..tiny() };
        disk.put("m.gguf", model.gguf());
        let options =
            ConvertOptions { planes: Planes::Divided, disk: Arc::new(disk.clone()), ..Default::default() };
        convert("m.gguf".as_ref(), "m.cgraph".as_ref(), &options, &mut |_, _| {}).unwrap();
        let full = disk.get("m.cgraph").unwrap();
        let size = full.len() as u64 * 64 / 100;
        let options = SplitOptions { size, disk: Arc::new(disk.clone()), ..SplitOptions::default() };
        split("m.cgraph".as_ref(), "mini.cgraph".as_ref(), &options, &mut |_, _| {}).unwrap();
        [full, disk.get("mini.cgraph").unwrap()]
    })
}

/// What the reader says of a file with a changed manifest; empty where it takes it.
fn told(file: &[u8], change: &dyn Fn(&mut Value)) -> String {
    let parts = Parts::new(file);
    let mut manifest = parts.manifest.clone();
    change(&mut manifest);
    let bytes: Arc<[u8]> = parts.sealed(&manifest).into();
    let read = Contents::read(view(&bytes, bytes.len()).as_ref());
    read.err().map(|error| error.to_string()).unwrap_or_default()
}

/// The first capsule with a divided tensor, in a mini one of which it holds the first plane, and the tensor's place in it.
fn divided(manifest: &mut Value) -> (&mut Value, usize) {
    let mini = manifest.get("full").is_some();
    let tensor = |capsule: &Value| {
        let tensors = capsule["tensors"].as_array().unwrap();
        tensors.iter().position(|tensor| tensor.get("division").is_some())
    };
    let wanted =
        |capsule: &&mut Value| tensor(capsule).is_some() && (!mini || capsule["residence"] == "nested");
    let capsule = manifest["capsules"].as_array_mut().unwrap().iter_mut().find(wanted).unwrap();
    let place = tensor(capsule).unwrap();
    (capsule, place)
}

#[track_caller]
fn says(file: &[u8], wanted: &str, change: &dyn Fn(&mut Value, usize)) {
    let told = told(file, &|manifest| {
        let (capsule, tensor) = divided(manifest);
        change(capsule, tensor);
    });
    assert!(told.contains(wanted), "{told:?} does not contain {wanted:?}");
}

#[test]
fn planes_that_are_wrong() {
    let [full, mini] = files();
    for file in [full, mini] {
        assert_eq!(told(file, &|_| {}), "");
        let told = told(file, &|manifest| manifest["requires"] = json!(["packed8"]));
        assert!(told.contains("does not require \"planes\""), "{told}");
        says(file, "a division \"5+3\"", &|c, t| c["tensors"][t]["division"] = "5+3".into());
        says(file, "in layout rows", &|c, t| c["tensors"][t]["layout"] = "rows".into());
        says(file, "a division \"4+4\" where f16", &|c, t| c["tensors"][t]["encoding"] = "f16".into());
    }
    let shorter = |c: &mut Value, t: usize| {
        let len = &mut c["tensors"][t]["planes"][1]["len"];
        *len = json!(len.as_u64().unwrap() - 64);
    };
    says(full, "stored bytes where its shape and encoding need", &shorter);
    says(full, "1 planes where 2 belong", &|c, t| {
        c["tensors"][t]["planes"].as_array_mut().unwrap().truncate(1);
    });
    // The second plane before the first one; its bytes fit there.
    let swapped = |c: &mut Value, t: usize| {
        let planes = &mut c["tensors"][t]["planes"];
        let [first, second] = [0, 1].map(|number: usize| planes[number]["offset"].clone());
        planes[0]["offset"] = second;
        planes[1]["offset"] = first;
    };
    says(full, "overlaps another", &swapped);
}

#[test]
fn planes_that_do_not_suit_a_residence() {
    let [_, mini] = files();
    says(mini, "2 planes where 1 belong", &|c, t| {
        let planes = c["tensors"][t]["planes"].as_array_mut().unwrap();
        planes.push(planes[0].clone());
    });
    says(mini, "0 planes where 1 belong", &|c, t| c["tensors"][t]["planes"] = json!([]));
    for residence in ["pinned", "linked", "light"] {
        says(mini, "1 planes where 2 belong", &|c, _| c["residence"] = residence.into());
    }
}

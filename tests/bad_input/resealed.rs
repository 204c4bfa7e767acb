//! Manifests that were changed and sealed again, so that every check behind the checksums is reached.

use std::sync::Arc;

use capsulegraph::store::Mode;
use serde_json::{Value, json};

use crate::mutations::{Tally, one};
use crate::parts::Parts;
use crate::support::Random;
use crate::under_test::{files, use_graph, view};

/// Changed manifests of each kind of file.
const CASES: u64 = 100_000;

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

/// The `index`-th value of a tree in depth-first order.
fn nth<'a>(value: &'a mut Value, index: &mut usize) -> Option<&'a mut Value> {
    if *index == 0 {
        return Some(value);
    }
    *index -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|v| nth(v, index)),
        Value::Object(fields) => fields.values_mut().find_map(|v| nth(v, index)),
        _ => None,
    }
}

/// A strange value in place of any.
fn strange(random: &mut Random) -> Value {
    match random.bits() % 14 {
        0 => json!(0),
        1 => json!(-1),
        2 => json!(u64::MAX),
        3 => json!(1u64 << 63),
        4 => json!(1e300),
        5 => json!(u64::from(u32::MAX)),
        6 => json!(1u64 << 32),
        7 => Value::Null,
        8 => json!(""),
        9 => json!("0000000000000000"),
        10 => json!([]),
        11 => json!({}),
        12 => json!([u64::MAX, u64::MAX]),
        _ => json!(random.bits() % 300),
    }
}

fn change(value: &mut Value, random: &mut Random, strings: &[Value]) {
    match value {
        Value::Number(number) => {
            let old = number.as_u64().unwrap_or(0);
            *value = match random.bits() % 8 {
                0 => json!(old.wrapping_add(1)),
                1 => json!(old.wrapping_sub(1)),
                2 => json!(old.wrapping_mul(2)),
                3 => json!(old / 2),
                4 => json!(old.wrapping_add(65_536)),
                5 => json!(old.wrapping_add(64)),
                _ => strange(random),
            };
        }
        Value::String(_) if !random.bits().is_multiple_of(3) => {
            *value = strings[random.bits() as usize % strings.len()].clone();
        }
        Value::Array(items) if !items.is_empty() => {
            let (a, b) = (random.bits() as usize % items.len(), random.bits() as usize % items.len());
            match random.bits() % 5 {
                0 => items.swap(a, b),
                1 => items.insert(a, items[b].clone()),
                2 => items[a] = items[b].clone(),
                3 => drop(items.remove(a)),
                _ => *value = strange(random),
            }
        }
        Value::Object(fields) if !fields.is_empty() => {
            let keys: Vec<String> = fields.keys().cloned().collect();
            let (a, b) =
                (&keys[random.bits() as usize % keys.len()], &keys[random.bits() as usize % keys.len()]);
            match random.bits() % 5 {
                0 => drop(fields.remove(a)),
                1 => {
                    let (x, y) = (fields[a].clone(), fields[b].clone());
                    fields.insert(a.clone(), y);
                    fields.insert(b.clone(), x);
                }
                2 => drop(fields.insert(format!("{a}_"), json!([[1, {"x": "y"}], 2]))),
                3 => drop(fields.insert(a.clone(), strange(random))),
                _ => *value = strange(random),
            }
        }
        other => *other = strange(random),
    }
}

/// Strings that stand in for others: those of the manifest itself and names that mean something.
pub fn strings(manifest: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    let mut open = vec![manifest];
    while let Some(value) = open.pop() {
        match value {
            Value::String(_) => all.push(value.clone()),
            Value::Array(items) => open.extend(items),
            Value::Object(fields) => open.extend(fields.values()),
            _ => {}
        }
    }
    let encodings = capsulegraph::kernels::encoding::all().iter().map(|e| json!(e.name));
    let words = [
        "rows",
        "packed8",
        "4+4",
        "3+1",
        "pinned",
        "light",
        "nested",
        "linked",
        "../m.cgraph",
        "/",
        "yarn",
        "linear",
    ];
    all.into_iter().chain(encodings).chain(words.map(|w| json!(w))).collect()
}

/// Changes one to three values; half of the time among hyper-parameters and tensors' descriptions.
pub fn mutate(manifest: &mut Value, random: &mut Random, strings: &[Value]) {
    for _ in 0..=random.bits() % 3 {
        let part = match random.bits() % 4 {
            0 => "/model",
            1 => "/capsules",
            _ => "",
        };
        // An earlier change may have taken the part away.
        let Some(tree) = manifest.pointer_mut(part) else { continue };
        let mut index = random.bits() as usize % count(tree);
        if let Some(value) = nth(tree, &mut index) {
            change(value, random, strings);
        }
    }
}

fn changed(what: &str, whole: &[u8], mode: Mode, full: Option<&Arc<[u8]>>, seed: u64) {
    let parts = Parts::new(whole);
    let strings = strings(&parts.manifest);
    let mut tally = Tally::default();
    for case in 0..crate::cases(CASES) {
        let mut random = Random(seed + case);
        let mut manifest = parts.manifest.clone();
        mutate(&mut manifest, &mut random, &strings);
        let bytes: Arc<[u8]> = parts.sealed(&manifest).into();
        let source = view(&bytes, bytes.len());
        tally.add(one(case, || use_graph(source, mode, full.map(|f| view(f, f.len())))));
    }
    tally.report(what);
}

#[test]
fn a_changed_manifest_of_a_full_file_never_breaks_the_reader() {
    changed("sealed full", &files().full, Mode::Auto, None, 0x7365_0000);
}

#[test]
fn a_changed_manifest_of_a_mini_never_breaks_fast() {
    changed("sealed light", &files().light, Mode::Fast, None, 0x7366_0000);
}

#[test]
fn a_changed_manifest_of_a_mini_never_breaks_exact() {
    changed("sealed linked", &files().linked, Mode::Exact, Some(&files().full), 0x7367_0000);
}

#[test]
fn sealing_an_unchanged_manifest_gives_a_sound_file() {
    let parts = Parts::new(&files().full);
    let bytes: Arc<[u8]> = parts.sealed(&parts.manifest).into();
    let reached = use_graph(view(&bytes, bytes.len()), Mode::Auto, None);
    assert_eq!(reached, crate::under_test::Reached::Computed);
}

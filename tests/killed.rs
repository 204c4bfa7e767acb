//! Conversions that are killed at any moment: a target is absent or whole, and an older file stays until the new one takes its
//! place.
#![cfg(feature = "cli")]
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/built.rs"]
mod built;
#[path = "support/cgraph.rs"]
mod cgraph;
mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use cgraph::Place;
use support::{Random, TinyModel};

/// Conversions that are killed.
const KILLS: u32 = 50;
/// What a conversion writes.
const TARGETS: [&str; 2] = ["m.cgraph", "m.mini.cgraph"];

#[test]
fn a_killed_conversion_leaves_each_target_absent_or_whole() {
    let place = Place::new();
    let model = TinyModel::for_minis("q8_0", "q8_0", false);
    model.write(&place.path("m.gguf"));
    let convert = ["convert", "m.gguf"];
    let started = Instant::now();
    place.ok(&convert);
    let whole_time = started.elapsed();
    let whole = TARGETS.map(|name| place.bytes(name));
    let older = TARGETS.map(|name| name.as_bytes().repeat(1000));
    let mut random = Random(29);
    let (mut early, mut late) = (0, 0);
    for round in 0..KILLS {
        // By turns nothing is there before, and something older.
        for (name, older) in TARGETS.iter().zip(&older) {
            match round % 2 {
                0 => std::fs::remove_file(place.path(name)).or_else(|e| match e.kind() {
                    std::io::ErrorKind::NotFound => Ok(()),
                    _ => Err(e),
                }),
                _ => std::fs::write(place.path(name), older),
            }
            .unwrap();
        }
        let mut child = place.command(&convert).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(moment(&mut random, whole_time));
        // One that has ended already cannot be killed.
        let _ = child.kill();
        let killed = !child.wait().unwrap().success();
        for ((name, whole), older) in TARGETS.iter().zip(&whole).zip(&older) {
            match std::fs::read(place.path(name)) {
                Ok(found) if found == *whole => late += u32::from(killed),
                Ok(found) => {
                    assert!(
                        round % 2 == 1 && found == *older,
                        "round {round}: {name} is neither old nor new"
                    );
                    early += 1;
                }
                Err(error) => {
                    let absent = error.kind() == std::io::ErrorKind::NotFound;
                    assert!(absent && round % 2 == 0 && killed, "round {round}: {name}: {error}");
                    early += 1;
                }
            }
        }
    }
    println!("{early} targets were not written yet, {late} already");
    assert!(early > KILLS / 5, "{early} of {} targets were hit before they were whole", 2 * KILLS);
    // What killed ones left goes with the next that is not.
    place.ok(&convert);
    assert_eq!(place.files(), ["m.cgraph", "m.gguf", "m.mini.cgraph"]);
    assert!(TARGETS.map(|name| place.bytes(name)) == whole);
}

/// A moment of a conversion that takes `whole`.
fn moment(random: &mut Random, whole: Duration) -> Duration {
    whole.mul_f64(f64::from(random.bits() as u16) / f64::from(u16::MAX))
}

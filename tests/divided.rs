//! Divided weights: the bits of whole ones in every mode, budget and layout, and minis of first planes.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use capsulegraph::Error;
use capsulegraph::container::disk::{Disk, ReadAt, SystemDisk, WriteFile};
use capsulegraph::convert::import::{ConvertOptions, Planes, convert};
use capsulegraph::generate::model::{Model, ModelOptions};
use capsulegraph::generate::session::{FinishReason, GenerateOptions, Session, SessionOptions, Step};
use capsulegraph::pool::{CancelToken, Gate};
use capsulegraph::split::job::{Targets, produce};
use capsulegraph::split::verify::{VerifyOptions, check, verify};
use capsulegraph::split::{SplitOptions, split};
use capsulegraph::store::budget::Budget;
use capsulegraph::store::fetch::FetchLayout;
use capsulegraph::store::fetch_job::FetchJob;
use capsulegraph::store::{Mode, OpenOptions, Origin};
use support::{Random, TinyModel};

struct Files {
    _dir: tempfile::TempDir,
    whole: PathBuf,
    divided: PathBuf,
    mini: PathBuf,
    vocab: u32,
}

/// The same model with whole and with divided weights, and a mini of the latter of `percent` of its length.
fn files(encoding: &'static str, tied: bool, percent: u64) -> Files {
    let model = TinyModel::for_minis(encoding, "q8_0", tied);
    let dir = tempfile::tempdir().unwrap();
    let [source, whole, divided, mini] =
        ["m.gguf", "w.cgraph", "d.cgraph", "d.mini.cgraph"].map(|name| dir.path().join(name));
    model.write(&source);
    for (planes, target) in [(Planes::Whole, &whole), (Planes::Divided, &divided)] {
        let options = ConvertOptions { planes, ..ConvertOptions::default() };
        convert(&source, target, &options, &mut |_, _| {}).unwrap();
    }
    let size = std::fs::metadata(&divided).unwrap().len() * percent / 100;
    split(&divided, &mini, &SplitOptions { size, ..SplitOptions::default() }, &mut |_, _| {}).unwrap();
    Files { _dir: dir, whole, divided, mini, vocab: model.vocab_size() as u32 }
}

fn open(path: &Path, mode: Mode, budget: Option<u64>, threads: usize) -> Arc<Model> {
    let store = OpenOptions { mode, budget: budget.map(Budget::new), ..OpenOptions::default() };
    let options = ModelOptions { store, threads: threads.into(), ..ModelOptions::default() };
    Arc::new(Model::open(&Origin::Path(path.to_owned()), &options).unwrap())
}

fn session(model: &Arc<Model>) -> Session {
    let options = SessionOptions { context: 96, without_lookup: true, ..SessionOptions::default() };
    Session::new(Arc::clone(model), &options).unwrap()
}

fn prompt(vocab: u32, n: usize) -> Vec<u32> {
    let mut random = Random(3);
    (0..n).map(|_| random.bits() as u32 % vocab).collect()
}

/// The bits of all logits, the prompt evaluated in parts of `batch` tokens.
fn logits(model: &Arc<Model>, prompt: &[u32], batch: usize) -> Vec<u32> {
    let mut session = session(model);
    let mut all = Vec::new();
    for part in prompt.chunks(batch) {
        all.extend(session.eval(part, true, None).unwrap().iter().map(|logit| logit.to_bits()));
    }
    all
}

fn tokens(session: &mut Session, prompt: &[u32]) -> (Vec<u32>, FinishReason) {
    let options = GenerateOptions { max_tokens: 40, ignore_end: true, ..GenerateOptions::default() };
    session.start(prompt, &options).unwrap();
    let mut tokens = Vec::new();
    loop {
        match session.step(&Gate::open()).unwrap() {
            Step::Token { id, .. } => tokens.push(id),
            Step::Finished(reason) => return (tokens, reason),
            Step::Paused => unreachable!("the gate is open"),
        }
    }
}

#[test]
fn divided_weights_give_the_bits_of_whole_ones() {
    for (encoding, tied) in [("q8_0", true), ("q8_0", false), ("q4_1", true)] {
        let files = files(encoding, tied, 80);
        let prompt = prompt(files.vocab, 40);
        let expected = logits(&open(&files.whole, Mode::Exact, None, 1), &prompt, 40);
        let length = std::fs::metadata(&files.divided).unwrap().len();
        let budgets = [None, Some(4 * length), Some(length), Some(length * 3 / 4)];
        for budget in budgets {
            for (threads, batch) in [(1, 40), (2, 40), (2, 1), (2, 7)] {
                let model = open(&files.divided, Mode::Exact, budget, threads);
                assert!(
                    logits(&model, &prompt, batch) == expected,
                    "{encoding}, tied {tied}, budget {budget:?}, {threads} threads, batches of {batch}"
                );
            }
        }
        // With a mini beside it, whatever the mini holds of it.
        for budget in [None, Some(length)] {
            let model = open(&files.mini, Mode::Exact, budget, 2);
            assert!(logits(&model, &prompt, 9) == expected, "{encoding}, mini, budget {budget:?}");
        }
    }
}

#[test]
fn first_planes_draft_and_second_ones_are_streamed() {
    for (encoding, percent) in [("q8_0", 64), ("q4_1", 86)] {
        let files = files(encoding, true, percent);
        let prompt = prompt(files.vocab, 12);
        let expected = tokens(&mut session(&open(&files.whole, Mode::Exact, None, 2)), &prompt);
        let length = std::fs::metadata(&files.divided).unwrap().len();
        for budget in [None, Some(4 * length), Some(length * 5 / 4)] {
            let model = open(&files.mini, Mode::Speculative, budget, 2);
            let counts = model.store().counts();
            assert!(counts.nested > 0 && counts.linked == 0, "{encoding}: {counts:?}");
            let mut session = session(&model);
            for _ in 0..2 {
                assert_eq!(tokens(&mut session, &prompt), expected, "{encoding}, budget {budget:?}");
            }
            assert!(session.speculation().unwrap().drafted > 0);
        }
    }
}

#[test]
fn a_pass_that_first_planes_serve_reads_second_ones_only() {
    let files = files("q8_0", true, 64);
    let prompt = prompt(files.vocab, 12);
    let length = std::fs::metadata(&files.divided).unwrap().len();
    let model = open(&files.mini, Mode::Speculative, Some(length), 2);
    let sizes = model.decoder().weight_sizes();
    assert!(sizes.beyond_mini < sizes.full * 3 / 4, "{sizes:?}");
    let mut session = session(&model);
    tokens(&mut session, &prompt);
    let before = (model.store().weight_memory().unwrap().streamed, session.speculation().unwrap().passes);
    tokens(&mut session, &prompt);
    let after = (model.store().weight_memory().unwrap().streamed, session.speculation().unwrap().passes);
    // One pass for the prompt; whole blocks are read, and the ring reads ahead of the last pass.
    let passes = after.1 - before.1 + 2;
    let a_pass = (after.0 - before.0) / passes;
    assert!(a_pass <= sizes.beyond_mini * 5 / 4, "{a_pass} bytes a pass, {sizes:?}");
}

#[test]
fn the_first_planes_alone_give_one_result() {
    for encoding in ["q8_0", "q4_1"] {
        let files = files(encoding, true, if encoding == "q8_0" { 64 } else { 86 });
        let prompt = prompt(files.vocab, 40);
        let expected = logits(&open(&files.mini, Mode::Fast, None, 1), &prompt, 40);
        let length = std::fs::metadata(&files.mini).unwrap().len();
        for (budget, threads, batch) in
            [(None, 2, 1), (None, 2, 9), (Some(length), 2, 40), (Some(length), 1, 3)]
        {
            let model = open(&files.mini, Mode::Fast, budget, threads);
            assert!(logits(&model, &prompt, batch) == expected, "{encoding}, {budget:?}, {threads}, {batch}");
        }
        let exact = logits(&open(&files.whole, Mode::Exact, None, 1), &prompt, 40);
        assert!(expected != exact, "the first planes are coarser");
    }
}

#[test]
fn a_fetched_capsule_is_whole() {
    let files = files("q8_0", true, 64);
    let [whole, divided] = [&files.whole, &files.divided].map(|path| open(path, Mode::Exact, None, 1));
    let length = std::fs::metadata(&files.divided).unwrap().len();
    let limited = open(&files.divided, Mode::Exact, Some(length), 1);
    for capsule in &whole.store().manifest().capsules {
        for layout in [FetchLayout::Source, FetchLayout::Stored, FetchLayout::F32] {
            let expected = whole.store().fetch(&capsule.id, layout).unwrap();
            for model in [&divided, &limited] {
                let found = model.store().fetch(&capsule.id, layout).unwrap();
                assert_eq!(found.tensors.len(), expected.tensors.len());
                for (found, expected) in found.tensors.iter().zip(&expected.tensors) {
                    assert_eq!((found.name, found.layout), (expected.name, expected.layout));
                    assert!(found.bytes == expected.bytes, "{}, {layout:?}", found.name);
                }
            }
        }
    }
}

/// The system's disk, which cancels `cancel` when its second file is begun.
#[derive(Debug)]
struct Cancelling {
    cancel: CancelToken,
    begun: AtomicUsize,
}

impl Disk for Cancelling {
    fn open(&self, path: &Path) -> Result<Arc<dyn ReadAt>, Error> {
        SystemDisk.open(path)
    }

    fn create(&self, target: &Path) -> Result<Box<dyn WriteFile>, Error> {
        if self.begun.fetch_add(1, Ordering::Relaxed) == 1 {
            self.cancel.cancel();
        }
        SystemDisk.create(target)
    }
}

#[test]
fn a_fetch_is_cancelled_wherever_it_is() {
    let files = files("q8_0", true, 64);
    let length = std::fs::metadata(&files.divided).unwrap().len();
    let cancel = CancelToken::new();
    cancel.cancel();
    for budget in [None, Some(length)] {
        let model = open(&files.divided, Mode::Exact, budget, 1);
        let claimed = model.store().budget().map(|budget| budget.claimed());
        for layout in [FetchLayout::Source, FetchLayout::Stored, FetchLayout::F32] {
            let found = model.store().fetch_until("block.1.ffn", layout, Some(&cancel));
            assert!(matches!(found, Err(Error::Cancelled)), "{budget:?}, {layout:?}");
        }
        assert_eq!(model.store().budget().map(|budget| budget.claimed()), claimed);
    }
    let model = open(&files.divided, Mode::Exact, None, 1);
    cancel.reset();
    let capsule = model.store().fetch_until("block.1.ffn", FetchLayout::Source, Some(&cancel)).unwrap();
    let directory = files.divided.with_file_name("out");
    let disk = Cancelling { cancel: cancel.clone(), begun: AtomicUsize::new(0) };
    assert!(matches!(capsule.write_to(&directory, &disk, Some(&cancel)), Err(Error::Cancelled)));
    let names = || std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names().collect::<Vec<_>>(), ["blk.1.ffn_norm.weight.npy"], "what was whole");
    cancel.reset();
    let written = capsule.write_to(&directory, &SystemDisk, Some(&cancel)).unwrap();
    assert_eq!(names().count(), written.tensors.len() + 1);
}

#[test]
fn damage_of_a_second_plane_is_found() {
    let files = files("q8_0", true, 64);
    let options = VerifyOptions { deep: true, ..VerifyOptions::default() };
    let sound = |path: &Path| verify(path, &options, &mut |_, _| {}).map(|found| found.problems.is_empty());
    assert!(sound(&files.divided).unwrap() && sound(&files.mini).unwrap());
    let model = open(&files.divided, Mode::Exact, None, 1);
    let capsule = &model.store().manifest().capsules[1];
    let (extent, tensor) = (capsule.extent.unwrap(), &capsule.tensors[1]);
    let (id, place) = (capsule.id.clone(), extent.offset + tensor.planes[1].offset);
    drop(model);
    let mut bytes = std::fs::read(&files.divided).unwrap();
    bytes[place as usize] ^= 1;
    std::fs::write(&files.divided, bytes).unwrap();
    assert!(!sound(&files.divided).unwrap_or(false));
    let model = open(&files.divided, Mode::Exact, None, 1);
    let error = model.store().fetch(&id, FetchLayout::Source).unwrap_err().to_string();
    assert!(error.contains(&id) && error.contains("checksum"), "{error}");
}

#[test]
fn behind_a_capsule_that_failed_none_comes() {
    let files = files("q8_0", true, 64);
    let model = open(&files.divided, Mode::Exact, None, 1);
    let capsules = &model.store().manifest().capsules;
    let ids: Vec<String> = capsules[..4].iter().map(|capsule| capsule.id.clone()).collect();
    let place = capsules[1].extent.unwrap().offset + capsules[1].tensors[1].planes[1].offset;
    drop(model);
    let mut bytes = std::fs::read(&files.divided).unwrap();
    bytes[place as usize] ^= 1;
    std::fs::write(&files.divided, bytes).unwrap();
    let model = open(&files.divided, Mode::Exact, None, 1);
    let keep = |fetched: capsulegraph::store::fetch::FetchedCapsule<'_>| fetched.id.to_owned();
    let store = Arc::clone(model.decoder().store());
    let job = FetchJob::start(store, ids.clone(), FetchLayout::Source, keep).unwrap();
    while job.come() < 2 {
        thread::yield_now();
    }
    for _ in 0..2 {
        for index in [2, 3] {
            let error = job.take(index).unwrap_err();
            assert!(matches!(&error, Error::NotFound(why) if why.contains("number 1 failed")), "{error}");
        }
    }
    assert_eq!(job.take(0).unwrap(), Some(ids[0].clone()));
    assert!(matches!(job.take(1), Err(Error::Corrupt(_))));
    assert!(matches!(job.take(1), Err(Error::NotFound(why)) if why.contains("taken before")));
    assert!(matches!(job.take(2), Err(Error::NotFound(why)) if why.contains("given up")));
    assert!(matches!(job.take(4), Err(Error::NotFound(why)) if why.contains("4 were asked for")));
}

#[test]
fn conversion_counts_bytes_once_and_is_cancelled_in_both_rounds() {
    let files = files("q8_0", false, 80);
    let (source, target) = (files.whole.with_file_name("m.gguf"), files.whole.with_file_name("again.cgraph"));
    let options = ConvertOptions { planes: Planes::Divided, ..ConvertOptions::default() };
    let mut told = Vec::new();
    convert(&source, &target, &options, &mut |done, total| told.push((done, total))).unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), std::fs::read(&files.divided).unwrap());
    assert!(told.iter().all(|(done, total)| done <= total) && told.is_sorted(), "{told:?}");
    assert!(told.last().is_some_and(|(done, total)| done == total), "{told:?}");
    // Second planes are written last: the final call tells of one.
    std::fs::remove_file(&target).unwrap();
    for last in [3, told.len() - 1] {
        let cancel = CancelToken::new();
        let options = ConvertOptions { cancel: Some(cancel.clone()), ..options.clone() };
        let mut calls = 0;
        let result = convert(&source, &target, &options, &mut |_, _| {
            calls += 1;
            if calls == last {
                cancel.cancel();
            }
        });
        assert!(matches!(result, Err(Error::Cancelled)) && calls == last, "{result:?} after {calls}");
        assert!(!target.exists());
    }
}

#[test]
fn a_split_tells_of_what_it_measures_and_is_cancelled_there() {
    let files = files("q8_0", true, 64);
    let again = files.divided.with_file_name("again.mini.cgraph");
    let size = std::fs::metadata(&files.divided).unwrap().len() * 64 / 100;
    let mut told = Vec::new();
    let options = SplitOptions { size, ..SplitOptions::default() };
    split(&files.divided, &again, &options, &mut |done, total| told.push((done, total))).unwrap();
    assert!(told.is_sorted() && told.iter().all(|(_, total)| *total == told[0].1), "{told:?}");
    assert!(told.last().is_some_and(|(done, total)| done == total), "{told:?}");
    // Ten capsules are written, each of the nine with weights is tried, and all but the last are passed by themselves.
    let measured = told.iter().filter(|(done, total)| done * 2 <= *total).count();
    assert!(measured >= 10 + 1 + 9 + 9 && told.len() == 10 + 1 + 9 + 9 + 10, "{told:?}");
    std::fs::remove_file(&again).unwrap();
    let cancel = CancelToken::new();
    let options = SplitOptions { cancel: Some(cancel.clone()), ..options };
    let mut calls = 0;
    let result = split(&files.divided, &again, &options, &mut |_, _| {
        calls += 1;
        if calls == 15 {
            cancel.cancel();
        }
    });
    assert!(matches!(result, Err(Error::Cancelled)) && calls == 15, "{result:?} after {calls}");
    assert!(!again.exists());
}

#[test]
fn weights_are_divided_where_a_mini_may_hold_first_planes() {
    let files = files("q8_0", true, 80);
    let [source, full, mini] =
        ["m.gguf", "a.cgraph", "a.mini.cgraph"].map(|name| files.whole.with_file_name(name));
    for (light, mini, expected) in [
        ("auto", Some(&mini), true),
        ("none", Some(&mini), false),
        ("q4_0", Some(&mini), false),
        ("auto", None, false),
    ] {
        let targets = Targets { full: full.clone(), mini: mini.cloned(), is_mini_named: true };
        let options = SplitOptions { light: light.parse().unwrap(), ..SplitOptions::default() };
        produce(&source, &targets, &ConvertOptions::default(), &options, &mut |_, _, _| {}).unwrap();
        let model = open(&full, Mode::Exact, None, 1);
        let manifest = model.store().manifest();
        assert_eq!(manifest.capsules.iter().any(|capsule| capsule.is_divided()), expected, "{light}");
        assert_eq!(manifest.requires.iter().any(|feature| feature == "planes"), expected, "{light}");
    }
}

#[test]
fn a_mini_of_first_planes_is_planned_anew_where_its_full_file_has_none() {
    let files = files("q8_0", true, 64);
    std::fs::copy(&files.whole, &files.divided).unwrap();
    let options = VerifyOptions { deep: true, ..VerifyOptions::default() };
    let outcome = check(&files.mini, &options, true, &mut |_, _| {}).unwrap();
    assert!(outcome.repaired && outcome.verified.problems.is_empty(), "{outcome:?}");
    let model = open(&files.mini, Mode::Fast, None, 1);
    let manifest = model.store().manifest();
    assert_eq!(model.store().counts().nested, 0);
    assert!(!manifest.requires.iter().any(|feature| feature == "planes"), "{:?}", manifest.requires);
    let length = std::fs::metadata(&files.mini).unwrap().len();
    assert!(length <= manifest.plan.as_ref().unwrap().size, "{length}");
}

//! `exact` gives the same bits through every mini, with any threads, batches, time slices and instruction set; and
//! a session gives the same tokens whatever came before.
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "support/disk.rs"]
mod disk;
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use capsulegraph::Error;
use capsulegraph::container::manifest::Residence;
use capsulegraph::convert::import::{ConvertOptions, convert};
use capsulegraph::decoder::Decoder;
use capsulegraph::decoder::forward::{Forward, Logits};
use capsulegraph::decoder::kv::KvCache;
use capsulegraph::generate::SamplingOptions;
use capsulegraph::generate::eval::evaluate;
use capsulegraph::generate::model::{Model, ModelOptions};
use capsulegraph::generate::session::{FinishReason, GenerateOptions, Session, SessionOptions, Step};
use capsulegraph::kernels::cpu::{Cpu, Isa};
use capsulegraph::kernels::kv::KvFormat;
use capsulegraph::pool::{CancelToken, Gate, Progress};
use capsulegraph::split::{SplitOptions, split};
use capsulegraph::store::{Mode, OpenOptions, Origin, Store};

use disk::MemoryDisk;
use support::{Random, TinyModel};

/// A model whose capsules take several units of 64 KiB, so that minis of several sizes differ.
fn larger(encoding: &'static str) -> TinyModel {
    TinyModel {
        width: 256,
        ffn: 512,
        blocks: 3,
        heads: 8,
        kv_heads: 2,
        head_dim: 32,
        encoding,
        ..TinyModel::default()
    }
}

fn tokens(model: &TinyModel, n: usize) -> Vec<u32> {
    let mut random = Random(7);
    (0..n).map(|_| random.bits() as u32 % model.vocab_size() as u32).collect()
}

/// Converts `model` to `m.cgraph`.
fn converted(model: &TinyModel) -> MemoryDisk {
    let disk = MemoryDisk::default();
    disk.put("m.gguf", model.gguf());
    let options = ConvertOptions { disk: Arc::new(disk.clone()), ..ConvertOptions::default() };
    convert("m.gguf".as_ref(), "m.cgraph".as_ref(), &options, &mut |_, _| {}).unwrap();
    disk
}

fn store(disk: &MemoryDisk, name: &str, mode: Mode) -> Arc<Store> {
    let options = OpenOptions { mode, disk: Arc::new(disk.clone()), ..OpenOptions::default() };
    Arc::new(Store::open(&Origin::Path(name.into()), &options).unwrap_or_else(|e| panic!("{name}: {e}")))
}

/// Logits of every token, the prompt taken in batches of `batch` (0: all at once). With `slice` each call computes
/// until a deadline so far ahead; gives the number of calls too.
fn logits(decoder: &Decoder, tokens: &[u32], batch: usize, slice: Option<Duration>) -> (Vec<u32>, usize) {
    logits_with(decoder, KvFormat::F16, tokens, batch, slice)
}

/// The same with a KV cache of that format.
fn logits_with(
    decoder: &Decoder,
    format: KvFormat,
    tokens: &[u32],
    batch: usize,
    slice: Option<Duration>,
) -> (Vec<u32>, usize) {
    let mut cache = KvCache::new(decoder.params(), tokens.len(), format).unwrap();
    let mut forward = Forward::default();
    let (mut bits, mut calls) = (Vec::new(), 0);
    for part in tokens.chunks(if batch == 0 { tokens.len() } else { batch }) {
        decoder.begin(&mut forward, &cache, part, Logits::All).unwrap();
        let mut ahead = slice;
        loop {
            let gate = Gate { deadline: ahead.map(|d| Instant::now() + d), cancel: None };
            calls += 1;
            if decoder.advance(&mut forward, &mut cache, &gate).unwrap() == Progress::Done {
                break;
            }
            // A slice too short for one task must not keep the test from ending.
            ahead = ahead.map(|d| d + Duration::from_nanos(200));
        }
        bits.extend(forward.logits().iter().map(|x| x.to_bits()));
    }
    (bits, calls)
}

fn same(own: &[u32], wanted: &[u32], what: &str) {
    assert_eq!(own.len(), wanted.len(), "{what}");
    let differing = own.iter().zip(wanted).filter(|(a, b)| a != b).count();
    assert_eq!(differing, 0, "{what}: {differing} of {} logits differ", own.len());
}

#[test]
fn exact_is_the_same_through_every_mini() {
    let slice = Some(Duration::from_micros(3));
    let (mut runs, mut paused) = (0, 0);
    for encoding in ["q4_1", "f16", "q6_k"] {
        let model = larger(encoding);
        let disk = converted(&model);
        let tokens = tokens(&model, 13);
        let full = store(&disk, "m.cgraph", Mode::Exact);
        let cpu = |threads| Arc::new(Cpu::new(threads).unwrap());
        let (wanted, _) = logits(&Decoder::new(full, cpu(1)).unwrap(), &tokens, 0, None);
        let full_len = disk.get("m.cgraph").unwrap().len() as u64;
        let mut seen = [0; 3];
        for (name, light, share) in [
            ("smallest.cgraph", "none", 0.0),
            ("pins.cgraph", "none", 0.6),
            ("light.cgraph", "auto", 0.0),
            ("mixed.cgraph", "auto", 0.8),
        ] {
            let mut options = SplitOptions {
                size: (full_len as f64 * share) as u64,
                light: light.parse().unwrap(),
                disk: Arc::new(disk.clone()),
                ..SplitOptions::default()
            };
            if share == 0.0 {
                // The smallest: what the refusal of one byte names.
                options.size = 1;
                let refusal =
                    split("m.cgraph".as_ref(), name.as_ref(), &options, &mut |_, _| {}).unwrap_err();
                let text = refusal.to_string();
                let number = text.split("the smallest is ").nth(1).and_then(|rest| rest.split(' ').next());
                options.size = number.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{text}"));
            }
            let summary = split("m.cgraph".as_ref(), name.as_ref(), &options, &mut |_, _| {}).unwrap();
            assert!(summary.bytes <= options.size, "{name}: {} bytes for {}", summary.bytes, options.size);
            let mini = store(&disk, name, Mode::Exact);
            let counts = mini.counts();
            seen = [seen[0] + counts.pinned, seen[1] + counts.light, seen[2] + counts.linked];
            for threads in [1, 2] {
                let decoder = Decoder::new(Arc::clone(&mini), cpu(threads)).unwrap();
                for batch in [1, 3, 0] {
                    for slice in [None, slice] {
                        let (own, calls) = logits(&decoder, &tokens, batch, slice);
                        same(&own, &wanted, &format!("{encoding} {name} {threads} {batch} {slice:?}"));
                        (runs, paused) = (runs + 1, paused + usize::from(calls > tokens.len()));
                    }
                }
            }
        }
        assert!(seen.iter().all(|n| *n > 0), "{encoding}: pinned, light and linked capsules: {seen:?}");
    }
    println!("{runs} runs equal, {paused} of them in slices");
    assert!(runs == 144 && paused > 60, "{runs} runs, {paused} paused");
}

/// The instruction sets of this machine, scalar first; at least one has vectors where there are such kernels.
fn available() -> Vec<Isa> {
    let available: Vec<Isa> = Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect();
    println!("instruction sets: {available:?}");
    assert_eq!(available[0], Isa::Scalar);
    assert!(available.len() > 1 || !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")));
    available
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    let available = available();
    let mut compared = 0;
    for encoding in capsulegraph::kernels::encoding::all() {
        // Random codes of any type; the embedding keeps one that can be quantised to.
        let model = TinyModel { encoding: encoding.name, blocks: 1, ..larger("q4_1") };
        let disk = converted(&model);
        let tokens = tokens(&model, 9);
        let full = store(&disk, "m.cgraph", Mode::Exact);
        let mut wanted = None;
        for isa in &available {
            for threads in [1, 2] {
                let cpu = Arc::new(Cpu::with_isa(threads, *isa).unwrap());
                let decoder = Decoder::new(Arc::clone(&full), cpu).unwrap();
                for (batch, slice) in [(0, None), (2, Some(Duration::from_micros(5)))] {
                    let (own, _) = logits(&decoder, &tokens, batch, slice);
                    let finite = own.iter().all(|bits| f32::from_bits(*bits).is_finite());
                    assert!(finite, "{}: a logit is not finite", encoding.name);
                    match &wanted {
                        None => wanted = Some(own),
                        Some(wanted) => {
                            same(&own, wanted, &format!("{} {isa} {threads} {batch}", encoding.name))
                        }
                    }
                    compared += 1;
                }
            }
        }
    }
    println!("{compared} runs equal");
    assert!(compared >= 26 * 4, "{compared}");
}

/// Digests of logits, as every processor gives them. With CAPSULEGRAPH_BLESS=1 they are rewritten, not compared.
const DIGESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/logits.txt");

#[test]
fn logits_are_those_of_every_processor() {
    let mut digests = String::new();
    for encoding in ["f16", "q8_0", "q4_1", "q4_k", "q6_k", "iq2_xs"] {
        let model = TinyModel { encoding, blocks: 1, ..larger("q4_1") };
        let full = store(&converted(&model), "m.cgraph", Mode::Exact);
        let decoder = Decoder::new(full, Arc::new(Cpu::new(2).unwrap())).unwrap();
        let (bits, _) = logits(&decoder, &tokens(&model, 9), 5, None);
        let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        digests += &format!("{encoding} {:016x}\n", xxhash_rust::xxh3::xxh3_64(&bytes));
    }
    if std::env::var_os("CAPSULEGRAPH_BLESS").is_some() {
        std::fs::write(DIGESTS, &digests).unwrap();
    }
    let listed = std::fs::read_to_string(DIGESTS).unwrap();
    assert_eq!(digests, listed, "where other bits are meant: cargo xtask bless");
}

#[test]
fn long_contexts_and_a_quantised_cache_give_the_same_bits() {
    let model = TinyModel { blocks: 1, ..larger("q4_1") };
    let full = store(&converted(&model), "m.cgraph", Mode::Exact);
    // More than two of the chunks in which attention takes the positions.
    let tokens = tokens(&model, 1100);
    let available = available();
    // The scalar kernels would take long: they compute where there are no others.
    let isas = available.get(1..).filter(|vectors| !vectors.is_empty()).unwrap_or(&available);
    let (mut compared, mut by_format) = (0, Vec::new());
    for format in KvFormat::ALL {
        let mut wanted = None;
        for isa in isas {
            for threads in [1, 2, 3] {
                let decoder =
                    Decoder::new(Arc::clone(&full), Arc::new(Cpu::with_isa(threads, *isa).unwrap())).unwrap();
                for (batch, slice) in [(0, None), (7, Some(Duration::from_micros(20))), (300, None)] {
                    let (own, _) = logits_with(&decoder, format, &tokens, batch, slice);
                    same(
                        &own,
                        wanted.get_or_insert_with(|| own.clone()),
                        &format!("{format:?} {isa} {threads} {batch}"),
                    );
                    compared += 1;
                }
            }
        }
        by_format.extend(wanted);
    }
    println!("{compared} runs equal");
    assert_eq!(compared, KvFormat::ALL.len() * isas.len() * 9);
    assert_ne!(by_format[0], by_format[1], "the formats do differ");
}

#[test]
fn light_capsules_do_change_fast() {
    let model = larger("f16");
    let disk = converted(&model);
    let options = SplitOptions { disk: Arc::new(disk.clone()), ..SplitOptions::default() };
    split("m.cgraph".as_ref(), "m.mini.cgraph".as_ref(), &options, &mut |_, _| {}).unwrap();
    let tokens = tokens(&model, 5);
    let run = |mode| {
        let mini = store(&disk, "m.mini.cgraph", mode);
        assert!(mini.manifest().capsules.iter().any(|c| c.residence == Some(Residence::Light)));
        logits(&Decoder::new(mini, Arc::new(Cpu::new(1).unwrap())).unwrap(), &tokens, 0, None).0
    };
    assert_ne!(run(Mode::Fast), run(Mode::Exact), "the comparisons above would see a light capsule");
}

fn model() -> Arc<Model> {
    let tiny = larger("q8_0");
    let store = OpenOptions { disk: Arc::new(converted(&tiny)), ..OpenOptions::default() };
    let options = ModelOptions { store, threads: 2.into(), ..ModelOptions::default() };
    Arc::new(Model::open(&Origin::Path("m.cgraph".into()), &options).unwrap())
}

fn session(model: &Arc<Model>, context: usize) -> Session {
    Session::new(Arc::clone(model), &SessionOptions { context, ..SessionOptions::default() }).unwrap()
}

/// Options that go on after an end token: a random model ends its text anywhere.
fn options(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens, ignore_end: true, ..GenerateOptions::default() }
}

fn sampled(max_tokens: usize, seed: u64) -> GenerateOptions {
    let sampling = SamplingOptions { temperature: 1.5, seed, ..SamplingOptions::default() };
    GenerateOptions { sampling, ..options(max_tokens) }
}

/// Goes on to the end: tokens, text, and why it ended.
fn finish(session: &mut Session, gate: &mut dyn FnMut() -> Gate) -> (Vec<u32>, String, FinishReason) {
    let (mut ids, mut all) = (Vec::new(), String::new());
    loop {
        match session.step(&gate()).unwrap() {
            Step::Paused => {}
            Step::Token { id, text } => {
                ids.push(id);
                all.push_str(&text);
            }
            Step::Finished(reason) => return (ids, all, reason),
        }
    }
}

fn generate(
    session: &mut Session,
    prompt: &[u32],
    options: &GenerateOptions,
) -> (Vec<u32>, String, FinishReason) {
    session.start(prompt, options).unwrap();
    finish(session, &mut Gate::open)
}

#[test]
fn a_kept_prefix_changes_nothing() {
    let model = model();
    let prompt = model.tokenizer().unwrap().encode("the world is the stone and", true, true).unwrap();
    let mut used = session(&model, 200);
    for n in [1, prompt.len() / 2, prompt.len() - 1, prompt.len()] {
        let (wanted, ..) = generate(&mut session(&model, 200), &prompt, &sampled(20, 3));
        generate(&mut used, &prompt[..n], &options(15));
        let (own, _, reason) = generate(&mut used, &prompt, &sampled(20, 3));
        assert_eq!((own, reason), (wanted, FinishReason::Length), "after a prompt of {n} tokens");
        assert!(used.timings().prompt_tokens <= prompt.len() - n + 1, "{n} tokens were kept");
    }
    // The whole conversation and one more token: what was generated is kept too.
    let history = used.tokens().to_vec();
    let longer: Vec<u32> = history.iter().copied().chain([5]).collect();
    let (own, ..) = generate(&mut used, &longer, &options(10));
    assert_eq!(used.timings().prompt_tokens, 1);
    assert_eq!(own, generate(&mut session(&model, 200), &longer, &options(10)).0);
}

#[test]
fn slices_and_cancelling_change_nothing() {
    let model = model();
    let prompt = model.tokenizer().unwrap().encode("in the other world of stone", true, true).unwrap();
    let (wanted, text, _) = generate(&mut session(&model, 100), &prompt, &sampled(25, 11));

    let mut sliced = session(&model, 100);
    sliced.start(&prompt, &sampled(25, 11)).unwrap();
    let mut ahead = Duration::from_micros(2);
    let mut gate = || {
        ahead += Duration::from_nanos(100);
        Gate { deadline: Some(Instant::now() + ahead), cancel: None }
    };
    assert_eq!(finish(&mut sliced, &mut gate), (wanted.clone(), text, FinishReason::Length));

    let mut cancelled = session(&model, 100);
    cancelled.start(&prompt, &sampled(25, 11)).unwrap();
    let token = CancelToken::new();
    let gate = Gate { deadline: None, cancel: Some(token.clone()) };
    let mut own = Vec::new();
    let mut cancellations = 0;
    loop {
        token.cancel();
        match cancelled.step(&gate) {
            Err(Error::Cancelled) => cancellations += 1,
            Ok(Step::Finished(_)) => break,
            other => panic!("{other:?}"),
        }
        token.reset();
        match cancelled.step(&gate).unwrap() {
            Step::Token { id, .. } => own.push(id),
            Step::Finished(_) => break,
            Step::Paused => panic!("nothing asked for a pause"),
        }
    }
    assert_eq!(own, wanted);
    assert!(cancellations >= wanted.len(), "{cancellations}");

    // From another thread, in the middle of a prompt; then a new generation on the same session.
    let long: Vec<u32> = (0..90).map(|i| prompt[i % prompt.len()]).collect();
    let cancel = CancelToken::new();
    let other = std::thread::spawn({
        let cancel = cancel.clone();
        move || cancel.cancel()
    });
    cancelled.truncate(0);
    let outcome = cancelled.eval(&long, false, Some(&cancel)).map(|_| ());
    other.join().unwrap();
    assert!(matches!(outcome, Ok(()) | Err(Error::Cancelled)), "{outcome:?}");
    assert_eq!(generate(&mut cancelled, &prompt, &sampled(25, 11)).0, wanted);
}

#[test]
fn the_context_is_a_limit() {
    let model = model();
    let prompt: Vec<u32> = (3..13).collect();
    let mut small = session(&model, 16);
    let (ids, _, reason) = generate(&mut small, &prompt, &options(0));
    assert_eq!(reason, FinishReason::Context);
    // The last token needs no place: nothing follows it.
    assert_eq!(ids.len(), 16 - prompt.len() + 1);
    assert_eq!(ids, generate(&mut session(&model, 64), &prompt, &options(ids.len())).0);
    let long: Vec<u32> = (3..19).collect();
    let refusal = small.start(&long, &options(1)).unwrap_err();
    assert!(matches!(refusal, Error::Limit(_)), "{refusal}");
    let refusal = session(&model, 16).eval(&[1; 17], false, None).map(|_| ()).unwrap_err();
    assert!(matches!(refusal, Error::Limit(_)), "{refusal}");
    assert_eq!(session(&model, 16).eval(&[1; 16], false, None).map(<[f32]>::len).ok(), Some(289));
}

#[test]
fn stop_strings_end_the_text() {
    let model = model();
    let prompt = model.tokenizer().unwrap().encode("the", true, true).unwrap();
    let mut session = session(&model, 200);
    let (ids, text, _) = generate(&mut session, &prompt, &sampled(60, 5));
    let characters: Vec<(usize, char)> = text.char_indices().filter(|(_, c)| *c != '\u{fffd}').collect();
    assert!(characters.len() > 10, "{text:?}");
    let mut tried = 0;
    for window in characters.windows(3).step_by(3) {
        let stop: String = text[window[0].0..window[2].0 + window[2].1.len_utf8()].to_owned();
        let end = text.find(&stop).unwrap();
        let with_stop = GenerateOptions { stop: vec!["never in it".into(), stop.clone()], ..sampled(60, 5) };
        let (own_ids, own, reason) = generate(&mut session, &prompt, &with_stop);
        assert_eq!(reason, FinishReason::Stop, "{stop:?} in {text:?}");
        assert_eq!(own, text[..end], "{stop:?}");
        assert_eq!(own_ids, ids[..own_ids.len()]);
        tried += 1;
    }
    assert!(tried > 3, "{tried}");
    let never = GenerateOptions { stop: vec!["\u{1f600}\u{1f601}".into()], ..sampled(60, 5) };
    assert_eq!(generate(&mut session, &prompt, &never).1, text, "what was held back is given at the end");
}

#[test]
fn seeds_choose_the_text() {
    let model = model();
    let prompt = [4, 5, 6];
    let mut session = session(&model, 100);
    let texts: Vec<Vec<u32>> =
        (0..8).map(|seed| generate(&mut session, &prompt, &sampled(30, seed)).0).collect();
    for (seed, text) in texts.iter().enumerate() {
        assert_eq!(&generate(&mut session, &prompt, &sampled(30, seed as u64)).0, text, "seed {seed}");
    }
    let different: std::collections::HashSet<&Vec<u32>> = texts.iter().collect();
    assert_eq!(different.len(), texts.len(), "each seed gives another text");
    let greedy = generate(&mut session, &prompt, &options(30)).0;
    let seeded = SamplingOptions { seed: 9, ..SamplingOptions::default() };
    let greedy_seeded = GenerateOptions { sampling: seeded, ..options(30) };
    assert_eq!(generate(&mut session, &prompt, &greedy_seeded).0, greedy, "greedy has no use for a seed");
}

#[test]
fn an_evaluation_holds_the_logits_of_few_tokens() {
    let model = model();
    let tokens: Vec<u32> = (0..700).map(|i| i % 289).collect();
    let run = |batch: usize| {
        let (mut session, mut rows, mut largest) = (session(&model, 700), 0, 0);
        let mut sink = |logits: &[f32]| {
            rows += logits.len() / 289;
            largest = largest.max(logits.len() / 289);
            Ok(())
        };
        let found = evaluate(&mut session, &tokens, batch, None, &mut sink, &mut |_| {}).unwrap();
        (found, rows, largest)
    };
    let (wanted, rows, largest) = run(usize::MAX);
    assert_eq!(rows, tokens.len());
    assert!(largest <= model.decoder().backend().max_batch(false), "{largest}");
    assert_eq!(run(50), (wanted, rows, 50));
}

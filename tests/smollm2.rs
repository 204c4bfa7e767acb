//! The real model against llama.cpp's outputs (tests/data; tests/tools/reference_smollm2.py and
//! xtask/python/peer.py wrote them).
//!
//! Both engines round activations to 8 bits before they meet quantised weights; in a model this small that
//! noise, independent in each engine, moves a few percent of the most likely tokens (docs/performance.md has
//! the measurements, llama.cpp against itself among them). So the strict comparison is made on the same
//! weights decoded to f32, where neither engine rounds activations, and the one on the quantised weights has
//! the bounds of that noise.
//!
//! Needs the model's path in CAPSULEGRAPH_TEST_MODEL; `cargo xtask test` gets it and sets it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed set-up is a failed test

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use capsulegraph::container::disk::{Disk, SystemDisk};
use capsulegraph::container::header::Kind;
use capsulegraph::container::manifest::Layout;
use capsulegraph::container::writer::Writer;
use capsulegraph::convert::import::{ConvertOptions, convert};
use capsulegraph::generate::eval::evaluate;
use capsulegraph::generate::model::{Model, ModelOptions};
use capsulegraph::generate::session::{Session, SessionOptions};
use capsulegraph::kernels::kv::KvFormat;
use capsulegraph::kernels::{encoding, pack};
use capsulegraph::store::fetch::{FetchLayout, rows_cols};
use capsulegraph::store::{OpenOptions, Origin, Store};

fn open(path: &Path) -> Arc<Model> {
    Arc::new(Model::open(&Origin::Path(path.to_owned()), &ModelOptions::default()).unwrap())
}

/// The converted model, shared by the tests of this file.
fn quantised() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    let make = || {
        let source = std::env::var_os("CAPSULEGRAPH_TEST_MODEL").expect(
            "CAPSULEGRAPH_TEST_MODEL must name SmolLM2's .gguf; run the tests with: cargo xtask test",
        );
        let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("smollm2.reference.cgraph");
        convert(source.as_ref(), &target, &ConvertOptions::default(), &mut |_, _| {}).unwrap();
        open(&target)
    };
    Arc::clone(MODEL.get_or_init(make))
}

/// The same model with every tensor decoded to f32.
fn decoded() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    let make = || {
        let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("smollm2.f32.cgraph");
        write_decoded(quantised().store().primary().source().path().unwrap(), &target);
        open(&target)
    };
    Arc::clone(MODEL.get_or_init(make))
}

fn write_decoded(source: &Path, target: &Path) {
    let store = Store::open(&Origin::Path(source.to_owned()), &OpenOptions::default()).unwrap();
    let f32_encoding = encoding::by_name("f32").unwrap();
    let mut manifest = store.manifest().clone();
    let mut writer = Writer::new(SystemDisk.create(target).unwrap()).unwrap();
    for capsule in &mut manifest.capsules {
        let fetched = store.fetch(&capsule.id, FetchLayout::F32).unwrap();
        writer.begin_capsule().unwrap();
        for (tensor, rows) in capsule.tensors.iter_mut().zip(&fetched.tensors) {
            let (n, cols) = rows_cols(tensor);
            let mut bytes = rows.bytes.to_vec();
            if tensor.layout == Layout::Packed8 {
                let mut packed = vec![0; pack::packed_len(f32_encoding, n, cols).unwrap()];
                pack::pack(f32_encoding, cols, &bytes, &mut packed).unwrap();
                bytes = packed;
            }
            tensor.encoding = "f32".into();
            tensor.planes = vec![writer.plane(&mut |sink| sink(&bytes)).unwrap()];
        }
        capsule.extent = writer.end_capsule().unwrap();
    }
    manifest.assets = manifest
        .assets
        .iter()
        .map(|a| writer.asset(&a.name, store.asset(&a.name).unwrap()).unwrap())
        .collect();
    writer.finish(Kind::Full, &manifest).unwrap();
}

fn session(model: Arc<Model>) -> Session {
    session_with(model, KvFormat::F16)
}

fn session_with(model: Arc<Model>, kv_format: KvFormat) -> Session {
    Session::new(model, &SessionOptions { context: 1024, kv_format, ..SessionOptions::default() }).unwrap()
}

struct Position {
    top: Vec<u32>,
    logit: Vec<f32>,
    lse: f32,
}

struct Passage {
    ids: Vec<u32>,
    positions: Vec<Position>,
}

fn passages(bytes: &[u8]) -> Vec<Passage> {
    let mut words = bytes.chunks_exact(4).map(|w| u32::from_le_bytes(w.try_into().unwrap()));
    let count = words.next().unwrap();
    let mut next = || words.next().unwrap();
    (0..count)
        .map(|_| {
            let (n, k) = (next(), next());
            let ids = (0..n).map(|_| next()).collect();
            let positions = (0..n).map(|_| Position {
                top: (0..k).map(|_| next()).collect(),
                logit: (0..k).map(|_| f32::from_bits(next())).collect(),
                lse: f32::from_bits(next()),
            });
            Passage { ids, positions: positions.collect() }
        })
        .collect()
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + row.iter().map(|x| (f64::from(*x) - max).exp()).sum::<f64>().ln()
}

fn most_likely(row: &[f32]) -> u32 {
    row.iter().enumerate().fold(0, |best, (i, x)| if *x > row[best] { i } else { best }) as u32
}

/// How far our logits lie from stored ones.
struct Distance {
    /// Share of positions with the same most likely token.
    same: f64,
    /// Mean Kullback-Leibler divergence over the stored tokens and all others as one.
    divergence: f64,
    /// Our perplexity over the stored one, where the next token is among the stored.
    perplexity_ratio: f64,
}

fn distance(model: Arc<Model>, reference: &[u8]) -> Distance {
    let mut session = session(model);
    let vocab = session.model().decoder().params().vocab_size as usize;
    let (mut same, mut total, mut divergence, mut nll, mut scored) = (0, 0, 0.0, 0.0, 0);
    for passage in passages(reference) {
        session.truncate(0);
        let logits = session.eval(&passage.ids, true, None).unwrap();
        for (at, (row, stored)) in logits.chunks_exact(vocab).zip(&passage.positions).enumerate() {
            total += 1;
            same += usize::from(most_likely(row) == stored.top[0]);
            let (ours_lse, theirs_lse) = (log_sum_exp(row), f64::from(stored.lse));
            let (mut p_rest, mut q_rest) = (1.0, 1.0);
            for (id, logit) in stored.top.iter().zip(&stored.logit) {
                let p = (f64::from(*logit) - theirs_lse).exp();
                let q = (f64::from(row[*id as usize]) - ours_lse).exp();
                divergence += p * (p / q).ln();
                (p_rest, q_rest) = (p_rest - p, q_rest - q);
            }
            divergence += p_rest.max(1e-12) * (p_rest.max(1e-12) / q_rest.max(1e-12)).ln();
            let next = passage.ids.get(at + 1);
            let place = next.and_then(|next| stored.top.iter().position(|t| t == next));
            if let (Some(next), Some(place)) = (next, place) {
                nll +=
                    ours_lse - f64::from(row[*next as usize]) - (theirs_lse - f64::from(stored.logit[place]));
                scored += 1;
            }
        }
    }
    assert!(total > 400 && scored > 250, "{total} positions, {scored} scored");
    let total = f64::from(total);
    let result = Distance {
        same: same as f64 / total,
        divergence: divergence / total,
        perplexity_ratio: (nll / f64::from(scored)).exp(),
    };
    println!(
        "{total} positions: same {:.4}, KL {:.6}, perplexity ratio {:.5}",
        result.same, result.divergence, result.perplexity_ratio
    );
    result
}

#[test]
fn decoded_weights_give_llama_cpps_logits() {
    let d = distance(decoded(), include_bytes!("data/smollm2.f32.reference.bin"));
    assert!(d.same >= 0.99, "the same most likely token at {:.4} of positions", d.same);
    assert!(d.divergence < 0.0002, "mean divergence {:.6}", d.divergence);
    assert!((d.perplexity_ratio - 1.0).abs() < 0.0005, "perplexity ratio {:.5}", d.perplexity_ratio);
}

#[test]
fn quantised_weights_stay_within_the_noise_of_8_bit_activations() {
    let d = distance(quantised(), include_bytes!("data/smollm2.reference.bin"));
    assert!(d.same >= 0.94, "the same most likely token at {:.4} of positions", d.same);
    assert!(d.divergence < 0.006, "mean divergence {:.6}", d.divergence);
    assert!((d.perplexity_ratio - 1.0).abs() < 0.005, "perplexity ratio {:.5}", d.perplexity_ratio);
}

/// Steps at which llama.cpp's two best logits are more than 0.05 apart, and at how many of them we choose
/// another token. Its own path is forced, so one difference does not make all later steps incomparable.
fn greedy_differences(model: Arc<Model>, reference: &str) -> (usize, usize) {
    let prompts: serde_json::Value = serde_json::from_str(reference).unwrap();
    let numbers = |v: &serde_json::Value| -> Vec<u32> {
        v.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
    };
    let mut session = session(model);
    let vocab = session.model().decoder().params().vocab_size as usize;
    let (mut sure, mut different) = (0, 0);
    for prompt in prompts.as_array().unwrap() {
        let (ids, out) = (numbers(&prompt["ids"]), numbers(&prompt["out"]));
        let text = prompt["text"].as_str().unwrap();
        let own_ids = session.model().tokenizer().unwrap().encode(text, true, true).unwrap();
        assert_eq!(own_ids, ids, "{text}");
        let path: Vec<u32> = ids.iter().chain(&out).copied().collect();
        session.truncate(0);
        let logits = session.eval(&path, true, None).unwrap();
        for (step, expected) in out.iter().enumerate() {
            let row = &logits[(ids.len() - 1 + step) * vocab..][..vocab];
            if prompt["gap"][step].as_f64().unwrap() > 0.05 {
                sure += 1;
                different += usize::from(most_likely(row) != *expected);
            }
        }
    }
    println!("{different} of {sure} sure steps differ");
    (sure, different)
}

#[test]
fn decoded_weights_give_llama_cpps_greedy_tokens() {
    let (sure, different) = greedy_differences(decoded(), include_str!("data/smollm2.f32.greedy.json"));
    assert!(sure > 900, "{sure} steps");
    assert_eq!(different, 0);
}

#[test]
fn quantised_weights_give_llama_cpps_greedy_tokens_but_for_noise() {
    let (sure, different) = greedy_differences(quantised(), include_str!("data/smollm2.greedy.json"));
    assert!(sure > 900, "{sure} steps");
    // These kernels give 21 of 988. Other orders of the attention's sums, which differ from theirs in last bits alone,
    // gave 10, 14 and 19: the rounding of activations to 8 bits makes other tokens of such bits at close steps. Such
    // a count scatters by about its square root, 5, so 2 % (19) is inside the noise and 3 % (29) above it. Whether the
    // sums are right is seen on decoded weights, where no step differs.
    assert!(different * 100 <= sure * 3, "{different} of {sure} differ");
}

/// Perplexity and the most likely token of every position.
fn read(session: &mut Session, tokens: &[u32]) -> (f64, Vec<u32>) {
    let vocab = session.model().decoder().params().vocab_size as usize;
    let mut likely = Vec::new();
    let mut sink = |rows: &[f32]| {
        likely.extend(rows.chunks_exact(vocab).map(most_likely));
        Ok(())
    };
    let evaluation = evaluate(session, tokens, 0, None, &mut sink, &mut |_| {}).unwrap();
    (evaluation.perplexity.unwrap(), likely)
}

#[test]
fn a_quantised_cache_changes_little() {
    let prose = passages(include_bytes!("data/smollm2.reference.bin"));
    let mut tokens: Vec<u32> = prose.into_iter().flat_map(|p| p.ids).collect();
    let licence = include_str!("../LICENSE-APACHE");
    tokens.extend(quantised().tokenizer().unwrap().encode(licence, false, false).unwrap());
    // Where weights are quantised, any difference, however small, meets the rounding of activations to 8 bits.
    for (model, bound) in [(quantised(), 0.94), (decoded(), 0.98)] {
        let of = |format| read(&mut session_with(Arc::clone(&model), format), &tokens);
        let ((plain, likely), (coarse, also)) = (of(KvFormat::F16), of(KvFormat::Q8_0));
        let same = likely.iter().zip(&also).filter(|(a, b)| a == b).count() as f64 / likely.len() as f64;
        println!("{} tokens: perplexity {plain:.4}, with q8_0 {coarse:.4}, same {same:.4}", tokens.len());
        assert!((coarse / plain - 1.0).abs() < 0.005, "perplexity {plain:.4}, with q8_0 {coarse:.4}");
        assert!(same >= bound, "the same most likely token at {same:.4} of positions");
    }
}

#[test]
fn the_last_logits_are_the_same_alone_and_among_all() {
    let tokens: Vec<u32> = (100..140).collect();
    let mut session = session(quantised());
    let vocab = session.model().decoder().params().vocab_size as usize;
    let all = session.eval(&tokens, true, None).unwrap();
    let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let last = bits(&all[(tokens.len() - 1) * vocab..]);
    session.truncate(0);
    assert_eq!(bits(session.eval(&tokens, false, None).unwrap()), last);
}

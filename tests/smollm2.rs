//! The real model: logits and greedy tokens against llama.cpp's (tests/data, tests/tools/reference_smollm2.py).
//!
//! Needs the model's path in CAPSULEGRAPH_TEST_MODEL; `cargo xtask test` gets it and sets it.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use capsulegraph::convert::import::{ConvertOptions, convert};
use capsulegraph::generate::model::{Model, ModelOptions};
use capsulegraph::generate::session::{Session, SessionOptions};
use capsulegraph::store::Origin;

/// The converted model, shared by the tests of this file.
fn model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    let open = || {
        let source = std::env::var_os("CAPSULEGRAPH_TEST_MODEL")
            .expect("CAPSULEGRAPH_TEST_MODEL must name SmolLM2's .gguf; run the tests with: cargo xtask test");
        let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("smollm2.reference.cgraph");
        convert(source.as_ref(), &target, &ConvertOptions::default(), &mut |_, _| {}).unwrap();
        Arc::new(Model::open(&Origin::Path(target), &ModelOptions::default()).unwrap())
    };
    Arc::clone(MODEL.get_or_init(open))
}

fn session() -> Session {
    Session::new(model(), &SessionOptions { context: 1024, batch: 0 }).unwrap()
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

fn passages() -> Vec<Passage> {
    let bytes = include_bytes!("data/smollm2.reference.bin");
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

#[test]
fn logits_agree_with_llama_cpp() {
    let mut session = session();
    let vocab = session.model().decoder().params().vocab_size as usize;
    let (mut same, mut total, mut divergence) = (0, 0, 0.0);
    let (mut ours_nll, mut theirs_nll, mut scored) = (0.0, 0.0, 0);
    for passage in passages() {
        session.truncate(0);
        let logits = session.eval(&passage.ids, true, None).unwrap();
        for (at, (row, reference)) in logits.chunks_exact(vocab).zip(&passage.positions).enumerate() {
            total += 1;
            same += usize::from(most_likely(row) == reference.top[0]);
            // Kullback-Leibler divergence over the 64 most likely tokens and the rest as one.
            let (ours_lse, theirs_lse) = (log_sum_exp(row), f64::from(reference.lse));
            let (mut p_rest, mut q_rest) = (1.0, 1.0);
            for (id, logit) in reference.top.iter().zip(&reference.logit) {
                let p = (f64::from(*logit) - theirs_lse).exp();
                let q = (f64::from(row[*id as usize]) - ours_lse).exp();
                divergence += p * (p / q).ln();
                (p_rest, q_rest) = (p_rest - p, q_rest - q);
            }
            divergence += p_rest.max(1e-12) * (p_rest.max(1e-12) / q_rest.max(1e-12)).ln();
            let next = passage.ids.get(at + 1);
            let place = next.and_then(|next| reference.top.iter().position(|t| t == next));
            if let (Some(next), Some(place)) = (next, place) {
                ours_nll += ours_lse - f64::from(row[*next as usize]);
                theirs_nll += theirs_lse - f64::from(reference.logit[place]);
                scored += 1;
            }
        }
    }
    let agreement = same as f64 / f64::from(total);
    let mean_divergence = divergence / f64::from(total);
    let perplexity_ratio = ((ours_nll - theirs_nll) / f64::from(scored)).exp();
    println!("{total} positions: same {agreement:.4}, KL {mean_divergence:.6}, perplexity ratio {perplexity_ratio:.5}");
    assert!(total > 400 && scored > 250, "{total} positions, {scored} scored");
    assert!(agreement >= 0.99, "the most likely token is the same in {agreement:.4} of positions");
    assert!(mean_divergence < 0.002, "mean KL divergence {mean_divergence:.6}");
    assert!((perplexity_ratio - 1.0).abs() < 0.005, "perplexity ratio {perplexity_ratio:.5}");
}

#[test]
fn greedy_tokens_are_llama_cpps_where_it_is_sure() {
    let prompts: serde_json::Value = serde_json::from_str(include_str!("data/smollm2.greedy.json")).unwrap();
    let numbers = |v: &serde_json::Value| -> Vec<u32> {
        v.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
    };
    let mut session = session();
    let vocab = session.model().decoder().params().vocab_size as usize;
    let (mut sure, mut unsure_differ) = (0, 0);
    for prompt in prompts.as_array().unwrap() {
        let (ids, out) = (numbers(&prompt["ids"]), numbers(&prompt["out"]));
        let text = prompt["text"].as_str().unwrap();
        let own_ids = session.model().tokenizer().unwrap().encode(text, true, true).unwrap();
        assert_eq!(own_ids, ids, "{text}");
        // llama.cpp's own path is forced, so one close call does not make all later steps incomparable.
        let path: Vec<u32> = ids.iter().chain(&out).copied().collect();
        session.truncate(0);
        let logits = session.eval(&path, true, None).unwrap();
        for (step, expected) in out.iter().enumerate() {
            let row = &logits[(ids.len() - 1 + step) * vocab..][..vocab];
            let gap = prompt["gap"][step].as_f64().unwrap();
            let own = most_likely(row);
            if gap > 0.05 {
                sure += 1;
                assert_eq!(own, *expected, "step {step} of {text:?}, gap {gap}");
            } else {
                unsure_differ += usize::from(own != *expected);
            }
        }
    }
    println!("{sure} sure steps equal, {unsure_differ} close calls differ");
    assert!(sure > 900);
}

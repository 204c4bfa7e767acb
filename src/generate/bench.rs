//! Speed of prefill and decode, measured as llama-bench does.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::session::Session;
use crate::error::{Error, Result};
use crate::pool::CancelToken;

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BenchOptions {
    /// Tokens of the prompt; 0 leaves this test out.
    pub prompt: usize,
    /// Tokens that are decoded one by one from an empty context; 0 leaves this test out.
    pub generate: usize,
    /// Measured repeats of each test, after one that is not measured.
    pub repeat: usize,
}

/// One test's result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchRow {
    /// `pp512` or `tg128`: prompt processing or text generation, and its tokens.
    pub test: String,
    /// Tokens of one repeat.
    pub tokens: usize,
    /// Mean of `repeats`.
    pub tokens_per_s: f64,
    /// Sample standard deviation of `repeats`; absent for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_s_sd: Option<f64>,
    /// Tokens a second of each repeat, in order.
    pub repeats: Vec<f64>,
}

/// Runs the tests. Token ids are random from a fixed seed: speed does not depend on them.
///
/// `progress` is told the runs done and the runs in all.
///
/// # Errors
/// [`Error::InvalidArgument`] where nothing is to be measured; [`Error::Limit`] where a test does not fit the
/// session's context; [`Error::Cancelled`].
pub fn bench(
    session: &mut Session,
    options: &BenchOptions,
    cancel: Option<&CancelToken>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Vec<BenchRow>> {
    if options.repeat == 0 || (options.prompt == 0 && options.generate == 0) {
        return Err(Error::InvalidArgument(
            "there is nothing to measure; give a prompt or a generation length and at least one repeat"
                .into(),
        ));
    }
    let tests = [("pp", options.prompt, false), ("tg", options.generate, true)];
    let tests = tests.into_iter().filter(|(_, tokens, _)| *tokens > 0);
    let total = (tests.clone().count() * (options.repeat + 1)) as u64;
    let mut done = 0;
    let mut rows = Vec::new();
    for (name, tokens, one_by_one) in tests {
        let ids = random_ids(tokens, session.model().decoder().params().vocab_size);
        let mut repeats = Vec::with_capacity(options.repeat);
        for number in 0..=options.repeat {
            let spent = run(session, &ids, one_by_one, cancel)?;
            if number > 0 {
                repeats.push(tokens as f64 / spent.as_secs_f64().max(1e-9));
            }
            done += 1;
            progress(done, total);
        }
        rows.push(row(format!("{name}{tokens}"), tokens, repeats));
    }
    Ok(rows)
}

fn run(
    session: &mut Session,
    ids: &[u32],
    one_by_one: bool,
    cancel: Option<&CancelToken>,
) -> Result<Duration> {
    session.truncate(0);
    let begun = Instant::now();
    for part in ids.chunks(if one_by_one { 1 } else { ids.len() }) {
        session.eval(part, false, cancel)?;
    }
    Ok(begun.elapsed())
}

fn row(test: String, tokens: usize, repeats: Vec<f64>) -> BenchRow {
    let n = repeats.len() as f64;
    let mean = repeats.iter().sum::<f64>() / n;
    let squares: f64 = repeats.iter().map(|r| (r - mean).powi(2)).sum();
    let sd = (repeats.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
    BenchRow { test, tokens, tokens_per_s: mean, tokens_per_s_sd: sd, repeats }
}

/// Ids from a linear congruential generator (Knuth's MMIX constants).
fn random_ids(count: usize, vocab: u32) -> Vec<u32> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % u64::from(vocab.max(1))) as u32
    };
    (0..count).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::{random_ids, row};

    #[test]
    fn means_and_deviations() {
        let r = row("pp2".into(), 2, vec![1.0, 3.0]);
        assert_eq!((r.tokens_per_s, r.tokens_per_s_sd), (2.0, Some(2f64.sqrt())));
        assert_eq!(row("tg1".into(), 1, vec![5.0]).tokens_per_s_sd, None);
        assert!(random_ids(100, 7).iter().all(|id| *id < 7));
    }
}

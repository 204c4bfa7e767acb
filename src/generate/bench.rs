//! Speed of prefill, decode and verification passes, measured as llama-bench does, and the first token.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::session::{Session, check_logits};
use super::{Sampler, SamplingOptions};
use crate::error::{Error, Result};
use crate::pool::CancelToken;

/// Most repeats of a test.
pub const MAX_REPEAT: usize = 1_000_000;

/// What to measure: every length of `prompts`, `generate` and `passes` at every one of `depths`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BenchOptions {
    /// Tokens of a prompt; 0 is left out.
    pub prompts: Vec<usize>,
    /// Tokens that are decoded one by one; 0 is left out.
    pub generate: Vec<usize>,
    /// Tokens of one pass that gives the logits of all of them, as speculative decoding verifies a draft; 0 is
    /// left out.
    pub passes: Vec<usize>,
    /// Tokens that the context holds before a test; none means one of 0.
    pub depths: Vec<usize>,
    /// Measured repeats of each test, after one that is not measured; at most [`MAX_REPEAT`].
    pub repeat: usize,
}

/// One test's result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchRow {
    /// `pp512`, `tg128` or `pass5`: prompt processing, text generation or passes, and their tokens; behind it
    /// ` @ d1024` where the context held tokens.
    pub test: String,
    /// Tokens of one repeat; of passes those of one pass.
    pub tokens: usize,
    /// Tokens that the context held before.
    #[serde(default)]
    pub depth: usize,
    /// Mean of `repeats`.
    pub tokens_per_s: f64,
    /// Sample standard deviation of `repeats`; absent for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_s_sd: Option<f64>,
    /// Tokens a second of each repeat, in order.
    pub repeats: Vec<f64>,
}

/// What a benchmark found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bench {
    /// From the beginning that the call names to the first token chosen after the first of the prompts; absent
    /// without a prompt.
    pub first_token: Option<Duration>,
    /// A row for each test, in the order of the depths and within one of prompts, generation, passes.
    pub rows: Vec<BenchRow>,
}

/// Tokens of a prompt, and decoded tokens, that a run which is not measured has at most.
const WARM_UP: [usize; 2] = [128, 16];
/// Passes of one repeat.
const PASSES: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Prompt,
    Generate,
    Pass,
}

#[derive(Clone, Copy)]
struct Test {
    kind: Kind,
    tokens: usize,
    depth: usize,
}

impl BenchOptions {
    /// Positions that a session needs for all tests.
    #[must_use]
    pub fn context(&self) -> usize {
        self.tests().iter().map(|t| t.depth.saturating_add(t.tokens)).max().unwrap_or(0)
    }

    fn tests(&self) -> Vec<Test> {
        let kinds =
            [(Kind::Prompt, &self.prompts), (Kind::Generate, &self.generate), (Kind::Pass, &self.passes)];
        let depths: &[usize] = if self.depths.is_empty() { &[0] } else { &self.depths };
        let at = |depth: usize| {
            kinds.iter().flat_map(move |(kind, sizes)| {
                let sizes = sizes.iter().filter(|tokens| **tokens > 0);
                sizes.map(move |tokens| Test { kind: *kind, tokens: *tokens, depth })
            })
        };
        depths.iter().flat_map(|depth| at(*depth)).collect()
    }
}

impl Test {
    fn name(&self) -> String {
        let kind = match self.kind {
            Kind::Prompt => "pp",
            Kind::Generate => "tg",
            Kind::Pass => "pass",
        };
        let depth = if self.depth > 0 { format!(" @ d{}", self.depth) } else { String::new() };
        format!("{kind}{}{depth}", self.tokens)
    }

    /// The run that is not measured: it wakes threads and fills caches, and need not be long for that.
    fn warm_up(self) -> Self {
        let [prompt, generate] = WARM_UP;
        let most = match self.kind {
            Kind::Prompt => prompt,
            Kind::Generate => generate,
            Kind::Pass => self.tokens,
        };
        Self { tokens: self.tokens.min(most), ..self }
    }

    /// Runs once and returns tokens a second.
    fn run(self, session: &mut Session, ids: &[u32], cancel: Option<&CancelToken>) -> Result<f64> {
        let held = session.tokens().len();
        if held < self.depth {
            session.eval(&ids[held..self.depth], false, cancel)?;
        }
        session.truncate(self.depth);
        let ids = &ids[self.depth..self.depth + self.tokens];
        let mut count = self.tokens;
        let begun = Instant::now();
        match self.kind {
            Kind::Prompt => {
                session.eval(ids, false, cancel)?;
            }
            Kind::Generate => {
                for id in ids {
                    session.eval(&[*id], false, cancel)?;
                }
            }
            Kind::Pass => {
                count *= PASSES;
                for _ in 0..PASSES {
                    session.truncate(self.depth);
                    session.eval(ids, true, cancel)?;
                }
            }
        }
        Ok(count as f64 / begun.elapsed().as_secs_f64().max(1e-9))
    }
}

/// Runs the tests. Token ids are random from a fixed seed: speed does not depend on them. A context that one
/// test leaves is kept for the next, so depths are best given from the greatest on.
///
/// The time to the first token counts from `begun`: for the whole of it, a moment before the session is made, on
/// which nothing is computed before the call. `progress` is told the runs done and the runs in all.
///
/// # Errors
/// [`Error::InvalidArgument`] where nothing is to be measured, and for more than [`MAX_REPEAT`] repeats;
/// [`Error::Limit`] where a test does not fit the session's context, or a pass the logits that one evaluation may
/// return; [`Error::Cancelled`].
pub fn bench(
    session: &mut Session,
    options: &BenchOptions,
    begun: Instant,
    cancel: Option<&CancelToken>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Bench> {
    let tests = options.tests();
    check(session, options, &tests)?;
    let ids = random_ids(options.context(), session.model().decoder().params().vocab_size);
    let total = (tests.len() as u64).saturating_mul(options.repeat as u64 + 1);
    let mut done = 0;
    let mut result = Bench::default();
    if let Some(prompt) = tests.iter().find(|t| t.kind == Kind::Prompt) {
        choose_first(session, &ids[..prompt.tokens], cancel)?;
        result.first_token = Some(begun.elapsed());
    }
    for test in tests {
        let mut repeats = Vec::new();
        for number in 0..=options.repeat {
            if number == 0 {
                test.warm_up().run(session, &ids, cancel)?;
            } else {
                repeats.push(test.run(session, &ids, cancel)?);
            }
            done += 1;
            progress(done, total);
        }
        result.rows.push(row(test, repeats));
    }
    Ok(result)
}

/// Finds what no test could be run with, before any is.
fn check(session: &Session, options: &BenchOptions, tests: &[Test]) -> Result<()> {
    if options.repeat == 0 || tests.is_empty() {
        return Err(Error::InvalidArgument(
            "there is nothing to measure; give a prompt, a generation or a pass length and at least one repeat"
                .into(),
        ));
    }
    if options.repeat > MAX_REPEAT {
        return Err(Error::InvalidArgument(format!(
            "{} repeats; 1 to {MAX_REPEAT} are possible",
            options.repeat
        )));
    }
    if options.context() > session.context() {
        return Err(Error::Limit(format!(
            "the tests need a context of {}, the session has {}; ask for a larger context or shorter tests",
            options.context(),
            session.context()
        )));
    }
    let mut passes = tests.iter().filter(|test| test.kind == Kind::Pass);
    passes.try_for_each(|pass| check_logits(session.model(), pass.tokens))
}

/// Chooses the token after `prompt`.
fn choose_first(session: &mut Session, prompt: &[u32], cancel: Option<&CancelToken>) -> Result<u32> {
    session.truncate(0);
    let mut logits = session.eval(prompt, false, cancel)?.to_vec();
    Sampler::new(SamplingOptions::default())?.sample(&mut logits, prompt, prompt.len() as u64)
}

fn row(test: Test, repeats: Vec<f64>) -> BenchRow {
    let n = repeats.len() as f64;
    let mean = repeats.iter().sum::<f64>() / n;
    let squares: f64 = repeats.iter().map(|r| (r - mean).powi(2)).sum();
    let sd = (repeats.len() > 1).then(|| (squares / (n - 1.0)).sqrt());
    BenchRow {
        test: test.name(),
        tokens: test.tokens,
        depth: test.depth,
        tokens_per_s: mean,
        tokens_per_s_sd: sd,
        repeats,
    }
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
    use super::{BenchOptions, Kind, Test, random_ids, row};

    #[test]
    fn means_and_deviations() {
        let pass = Test { kind: Kind::Pass, tokens: 2, depth: 0 };
        let r = row(pass, vec![1.0, 3.0]);
        assert_eq!((r.tokens_per_s, r.tokens_per_s_sd), (2.0, Some(2f64.sqrt())));
        assert_eq!(row(pass, vec![5.0]).tokens_per_s_sd, None);
        assert!(random_ids(100, 7).iter().all(|id| *id < 7));
    }

    #[test]
    fn every_length_is_tested_at_every_depth() {
        let lists = BenchOptions {
            prompts: vec![16, 0],
            generate: vec![4],
            passes: vec![5],
            depths: vec![32, 0],
            repeat: 1,
        };
        let names: Vec<String> = lists.tests().iter().map(Test::name).collect();
        assert_eq!(names, ["pp16 @ d32", "tg4 @ d32", "pass5 @ d32", "pp16", "tg4", "pass5"]);
        assert_eq!(lists.context(), 48);
        assert_eq!(BenchOptions::default().context(), 0);
        let one = BenchOptions { depths: Vec::new(), ..lists };
        assert_eq!(one.tests().len(), 3);
        let warm = Test { kind: Kind::Prompt, tokens: 2048, depth: 7 }.warm_up();
        assert_eq!((warm.tokens, warm.depth), (128, 7));
    }
}

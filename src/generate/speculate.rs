//! Speculation: guesses at the tokens that follow, which one pass at full precision verifies together.
//!
//! The passes give every position the logits that it would have alone, and the sampler depends on position and history
//! only, so the tokens are those of mode exact whatever was guessed (Leviathan et al. 2023; here by equality, not by
//! rejection sampling). How much is guessed follows what guesses and passes cost and how often guesses hold.

use std::time::Duration;

use crate::decoder::forward::Forward;
use crate::kernels::math::{NEGLIGIBLE, log_sum_exp};

/// Guesses of one round at most, and the bound in the smallest budget.
pub(super) const MOST: usize = 24;
pub(super) const FEWEST: usize = 4;
/// Guesses of a round of which nothing is known yet.
const FIRST: usize = 4;
/// Part of the best expected tokens a second down to which a round goes on where passes read from the disk: around the
/// fastest length its rate hardly depends on it, so that somewhat longer rounds save reads and lose little.
const SLACK: f64 = 0.88;
/// Weight of the newest measurement in a running mean.
const NEWEST: f64 = 0.15;
/// Tokens that must repeat before what followed them is guessed to follow again.
const REPEATED: usize = 3;
/// Rounds without a guess after which one is tried again: so many at first, twice as many after each that failed.
const RETRY: [u32; 2] = [3, 24];
/// How often guesses hold, and what the mini gives them, before anything is known.
const USUAL: f64 = 0.7;

/// Counts of a session's speculation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpeculationStats {
    /// Tokens guessed.
    pub drafted: u64,
    /// Guesses that held.
    pub accepted: u64,
    /// Passes that verified guesses or computed a token without any.
    pub passes: u64,
}

/// Where a round stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing is guessed.
    #[default]
    Idle,
    /// The mini guesses on.
    Drafting,
    /// A pass verifies the guesses.
    Verifying,
    /// The pass is through; this row of its logits comes next.
    Draining(usize),
}

/// Who guesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Mini,
    Lookup,
}

/// A session's speculation.
#[derive(Debug)]
pub(super) struct Speculator {
    pub phase: Phase,
    /// The guesses of the round.
    pub guesses: Vec<u32>,
    /// Computes with the mini; `None` where it cannot draft.
    pub draft: Option<Forward>,
    pub stats: SpeculationStats,
    /// Guesses of a round at most.
    most: usize,
    /// Part of the round's best rate that one guess more must keep.
    slack: f64,
    /// Whether repeated text is guessed to go on as before.
    lookup: bool,
    mini: Pace,
    repeats: Pace,
    source: Source,
    /// Time of a pass, and how much of it each guess costs.
    pass: Mean,
    each: Mean,
    /// Time of a pass of the prompt, before any other is known.
    prompt_pass: Option<f64>,
    /// Rounds since a guess was made, and after how many one is tried again.
    idle: u32,
    retry: u32,
    /// Whether the mini has guessed before: the first time it may have to be read.
    is_warm: bool,
    /// Of the guesses so far: the chance that all hold, how many hold on average, and the most tokens a second that the
    /// round was expected to give after any of them.
    chance: f64,
    hope: f64,
    best: f64,
    /// What the phase took so far, and what of it the guesses did.
    spent: Duration,
    guessed: Duration,
}

/// What guesses of one source cost and are worth.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// Seconds of a guess.
    seconds: Mean,
    /// Share of guesses that hold, and the probability that the mini gave them on average.
    holds: Mean,
    confidence: Mean,
}

/// A running mean.
#[derive(Clone, Copy, Debug, Default)]
struct Mean(Option<f64>);

impl Mean {
    fn add(&mut self, value: f64) {
        self.0 = Some(self.0.map_or(value, |mean| mean + NEWEST * (value - mean)));
    }

    /// As [`add`](Self::add), where `usual` is what was known before.
    fn learn(&mut self, usual: f64, value: f64) {
        let mean = self.or(usual);
        self.0 = Some(mean + NEWEST * (value - mean));
    }

    fn or(self, other: f64) -> f64 {
        self.0.unwrap_or(other)
    }
}

impl Pace {
    /// The probability that a guess holds to which the mini gave `confidence`: of what it doubts on average, only so much
    /// fails.
    fn chance(&self, confidence: f64) -> f64 {
        let (fails, doubt) = (1.0 - self.holds.or(USUAL), 1.0 - self.confidence.or(USUAL));
        let scale = (fails / doubt.max(0.01)).clamp(0.05, 2.0);
        (1.0 - scale * (1.0 - confidence)).clamp(0.01, 0.995)
    }
}

impl Speculator {
    /// `draft` computes with the mini where there is one; rounds have `most` guesses at most; whether passes read from the
    /// disk.
    pub fn new(draft: Option<Forward>, lookup: bool, most: usize, streams: bool) -> Self {
        Self {
            phase: Phase::Idle,
            guesses: Vec::new(),
            draft,
            stats: SpeculationStats::default(),
            most,
            slack: if streams { SLACK } else { 1.0 },
            lookup,
            mini: Pace::default(),
            repeats: Pace::default(),
            source: Source::Mini,
            pass: Mean::default(),
            each: Mean::default(),
            prompt_pass: None,
            idle: 0,
            retry: RETRY[0],
            is_warm: false,
            chance: 1.0,
            hope: 0.0,
            best: 0.0,
            spent: Duration::ZERO,
            guessed: Duration::ZERO,
        }
    }

    /// Gives the round in progress up.
    pub fn abandon(&mut self) {
        self.phase = Phase::Idle;
        self.guesses.clear();
        self.spent = Duration::ZERO;
        if let Some(draft) = &mut self.draft {
            draft.abandon();
        }
    }

    /// Begins a round after `tokens`, with at most `room` guesses. Guesses that cost nothing are made at once.
    pub fn begin(&mut self, tokens: &[u32], room: usize) {
        self.guesses.clear();
        (self.chance, self.hope, self.best) = (1.0, 0.0, 0.0);
        (self.spent, self.guessed) = (Duration::ZERO, Duration::ZERO);
        let room = room.min(self.most);
        let repeated = if self.lookup { continuation(tokens, room) } else { &[] };
        let holds = self.repeats.holds.or(0.6);
        let mini_holds = if self.draft.is_some() { self.mini.holds.or(USUAL) } else { 0.0 };
        if !repeated.is_empty() && self.repeats_win(repeated.len(), holds, mini_holds) {
            self.source = Source::Lookup;
            self.guesses.extend_from_slice(repeated);
            self.phase = Phase::Verifying;
        } else if self.draft.is_some() && room > 0 && self.pays() {
            self.source = Source::Mini;
            self.phase = Phase::Drafting;
        } else {
            self.idle += 1;
            self.phase = Phase::Verifying;
        }
        if self.phase == Phase::Drafting || !self.guesses.is_empty() {
            self.retry = if self.idle == 0 { RETRY[0] } else { (2 * self.retry).min(RETRY[1]) };
            self.idle = 0;
        }
    }

    /// Whether `n` guesses from repeated text give more tokens a second than the mini's.
    fn repeats_win(&self, n: usize, holds: f64, mini_holds: f64) -> bool {
        let pass = self.pass_seconds().unwrap_or(1.0);
        let mini = self.mini.seconds.or(pass / 8.0);
        let tokens = |p: f64, n: usize| 1.0 + series(p, n);
        let with_mini =
            (1..=self.most).map(|n| tokens(mini_holds, n) / self.cost(n, mini).max(1e-9)).fold(0.0, f64::max);
        let with_mini = if self.draft.is_some() { with_mini } else { tokens(0.0, 0) / pass.max(1e-9) };
        tokens(holds, n) / self.cost(n, 0.0).max(1e-9) >= with_mini
    }

    /// A pass of the prompt took that long: the first rounds count with it.
    pub fn expect_pass(&mut self, time: Duration) {
        self.prompt_pass = Some(time.as_secs_f64());
    }

    /// Seconds of a pass, as far as known.
    fn pass_seconds(&self) -> Option<f64> {
        self.pass.0.or(self.prompt_pass)
    }

    /// Seconds of a round of `n` guesses of `each` seconds.
    fn cost(&self, n: usize, each: f64) -> f64 {
        let pass = self.pass_seconds().unwrap_or(1.0);
        pass + n as f64 * (each + self.share())
    }

    /// Seconds that one guess more adds to a pass. Passes differ by more than that, so the mean may fall below 0.
    fn share(&self) -> f64 {
        self.each.or(0.05 * self.pass_seconds().unwrap_or(1.0)).max(0.0)
    }

    /// Whether a guess of the mini is worth its time at all. Now and then it is tried again.
    fn pays(&self) -> bool {
        let (Some(holds), Some(seconds)) = (self.mini.holds.0, self.mini.seconds.0) else { return true };
        let alone = 1.0 / self.pass_seconds().unwrap_or(1.0);
        let best =
            (1..=self.most).map(|n| (1.0 + series(holds, n)) / self.cost(n, seconds)).fold(0.0, f64::max);
        best > alone || self.idle >= self.retry
    }

    /// Whether the mini shall guess on, where at most `room` guesses have room.
    pub fn goes_on(&mut self, room: usize) -> bool {
        let n = self.guesses.len();
        if n >= room.min(self.most) {
            return false;
        }
        if n == 0 {
            return true;
        }
        let Some(seconds) = self.mini.seconds.0.filter(|_| self.pass_seconds().is_some()) else {
            return n < FIRST;
        };
        if n >= 2 * FIRST && self.pass.0.is_none() {
            // The prompt's passes are of more tokens, and may have read what stays: they tell no more than the order.
            return false;
        }
        // The next guess holds only where all before it do.
        let next = self.chance * self.mini.holds.or(USUAL);
        let rate = |hope: f64, n: usize| (1.0 + hope) / self.cost(n, seconds).max(1e-9);
        let best = self.best.max(rate(self.hope, n));
        let goes_on = rate(self.hope + next, n + 1) > self.slack * best;
        self.best = best;
        goes_on
    }

    /// The mini's next guess is `id`, with probability `confidence`; `time` after the last call to [`spend`](Self::spend).
    pub fn guess(&mut self, id: u32, confidence: f64, time: Duration) {
        let spent = self.spent + time;
        // For the first guess of all the mini is read.
        if std::mem::replace(&mut self.is_warm, true) {
            self.mini.seconds.add(spent.saturating_sub(self.guessed).as_secs_f64());
        }
        self.guessed = spent;
        self.guesses.push(id);
        self.chance *= self.mini.chance(confidence);
        self.mini.confidence.learn(USUAL, confidence);
        self.hope += self.chance;
        self.stats.drafted += 1;
    }

    /// Time that the round's phase took so far.
    pub fn spend(&mut self, time: Duration) {
        self.spent += time;
    }

    /// The mini has guessed enough.
    pub fn verify(&mut self) {
        self.spent = Duration::ZERO;
        self.phase = Phase::Verifying;
    }

    /// The pass is through.
    pub fn verified(&mut self) {
        let seconds = std::mem::take(&mut self.spent).as_secs_f64();
        let n = self.guesses.len();
        self.stats.passes += 1;
        if self.source == Source::Lookup {
            self.stats.drafted += n as u64;
        }
        match self.pass.0 {
            // What a longer pass takes beyond the usual is the guesses' share.
            Some(pass) if n > 0 => self.each.add((seconds - pass) / n as f64),
            _ => self.pass.add(seconds),
        }
        if n > 0 && self.pass.0.is_some_and(|pass| seconds < pass) {
            self.pass.add(seconds);
        }
        self.phase = Phase::Draining(0);
    }

    /// The token at row `row` of the pass is `id`. Whether the guess there held, and the next row counts too.
    pub fn held(&mut self, row: usize, id: u32) -> bool {
        let Some(guess) = self.guesses.get(row) else { return false };
        let held = *guess == id;
        let pace = if self.source == Source::Mini { &mut self.mini } else { &mut self.repeats };
        pace.holds.learn(USUAL, if held { 1.0 } else { 0.0 });
        self.stats.accepted += u64::from(held);
        held
    }
}

/// p + p^2 + ... + p^n: guesses that hold on average, where each does with probability p if all before it do.
fn series(p: f64, n: usize) -> f64 {
    (1..=n).map(|i| p.powi(i as i32)).sum()
}

/// What followed the last place where the end of `tokens` stood before, at most `most` tokens (prompt lookup,
/// Saxena 2023).
fn continuation(tokens: &[u32], most: usize) -> &[u32] {
    let Some(start) = tokens.len().checked_sub(REPEATED) else { return &[] };
    let (before, end) = (&tokens[..tokens.len() - 1], &tokens[start..]);
    let Some(found) = before.windows(REPEATED).rposition(|window| window == end) else { return &[] };
    let next = &tokens[found + REPEATED..];
    &next[..next.len().min(most)]
}

/// Probability of `id` in a distribution of these logits.
pub(super) fn probability(logits: &[f32], id: u32) -> f64 {
    let Some(own) = logits.get(id as usize) else { return 0.0 };
    let all = log_sum_exp(logits, NEGLIGIBLE);
    if all.is_finite() { libm::exp(f64::from(*own) - all) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_text_is_guessed_to_go_on() {
        assert_eq!(continuation(&[1, 2, 3, 4, 5, 1, 2, 3], 9), [4, 5, 1, 2, 3]);
        assert_eq!(continuation(&[1, 2, 3, 4, 5, 1, 2, 3], 2), [4, 5]);
        // The last place counts; what overlaps the end does too.
        assert_eq!(continuation(&[1, 2, 3, 8, 1, 2, 3, 9, 1, 2, 3], 1), [9]);
        assert_eq!(continuation(&[7, 7, 7, 7], 4), [7]);
        for none in [&[][..], &[1, 2], &[1, 2, 3], &[1, 2, 3, 4]] {
            assert!(continuation(none, 5).is_empty());
        }
    }

    #[test]
    fn probabilities_are_those_of_a_softmax() {
        let logits = [0.0, 1.0, f32::NEG_INFINITY, 1.0];
        let sum = 1.0 + 2.0 * 1f64.exp();
        assert!((probability(&logits, 1) - 1f64.exp() / sum).abs() < 1e-9);
        assert_eq!((probability(&logits, 2), probability(&logits, 9)), (0.0, 0.0));
    }

    /// A speculator whose mini guesses in `guess` seconds what holds with probability `holds`.
    fn paced(pass: f64, guess: f64, holds: f64) -> Speculator {
        let mut speculator = Speculator::new(Some(Forward::draft()), false, MOST, false);
        speculator.mini =
            Pace { seconds: Mean(Some(guess)), holds: Mean(Some(holds)), confidence: Mean(Some(holds)) };
        (speculator.pass, speculator.each) = (Mean(Some(pass)), Mean(Some(0.01 * pass)));
        speculator
    }

    fn round(speculator: &mut Speculator, confidence: f64) -> usize {
        let guess = Duration::from_secs_f64(speculator.mini.seconds.or(0.0));
        speculator.begin(&[1, 2], MOST);
        while speculator.phase == Phase::Drafting && speculator.goes_on(MOST) {
            speculator.guess(0, confidence, speculator.guessed + guess);
        }
        speculator.guesses.len()
    }

    #[test]
    fn cheap_and_good_guesses_are_many_and_poor_ones_none() {
        assert_eq!(round(&mut paced(1.0, 0.001, 0.98), 0.98), MOST);
        let usual = round(&mut paced(1.0, 0.1, 0.8), 0.8);
        assert!((2..=8).contains(&usual), "{usual}");
        let mut thrifty = paced(1.0, 0.1, 0.8);
        thrifty.slack = SLACK;
        assert!(round(&mut thrifty, 0.8) > usual);
        // The round ends where the mini is unsure.
        assert!(round(&mut paced(1.0, 0.05, 0.8), 0.2) < usual);
        assert_eq!(round(&mut paced(1.0, 0.9, 0.3), 0.3), 0);
    }

    #[test]
    fn the_first_round_counts_with_the_passes_of_the_prompt() {
        let guesses = |pass: Option<u64>| {
            let mut speculator = Speculator::new(Some(Forward::draft()), false, MOST, false);
            pass.into_iter().for_each(|ms| speculator.expect_pass(Duration::from_millis(ms)));
            speculator.begin(&[1, 2], MOST);
            while speculator.goes_on(MOST) {
                let time = speculator.guessed + Duration::from_millis(10);
                speculator.guess(0, 0.95, time);
            }
            speculator.guesses.len()
        };
        assert_eq!(guesses(None), FIRST);
        assert!(guesses(Some(2500)) == 2 * FIRST && guesses(Some(5)) < FIRST);
    }

    #[test]
    fn guesses_are_tried_again_after_a_while() {
        let mut poor = paced(1.0, 0.9, 0.3);
        let rounds = (0..4 * RETRY[1]).filter(|_| round(&mut poor, 0.3) > 0).count();
        assert!((4..=9).contains(&rounds), "{rounds}");
    }

    #[test]
    fn one_guess_that_fails_does_not_end_guessing() {
        let mut speculator = Speculator::new(Some(Forward::draft()), false, MOST, false);
        for _ in 0..2 {
            speculator.begin(&[1, 2], MOST);
            assert_eq!(speculator.phase, Phase::Drafting);
            speculator.guess(7, 0.5, Duration::from_millis(1));
            speculator.spend(Duration::from_millis(1));
            speculator.verify();
            speculator.spend(Duration::from_millis(20));
            speculator.verified();
            assert!(!speculator.held(0, 8));
        }
        speculator.begin(&[1, 2], MOST);
        assert_eq!(speculator.phase, Phase::Drafting);
    }

    #[test]
    fn what_held_is_counted() {
        let mut speculator = Speculator::new(None, true, MOST, false);
        speculator.begin(&[1, 2, 3, 4, 1, 2, 3], 8);
        assert_eq!((speculator.phase, &speculator.guesses[..]), (Phase::Verifying, &[4, 1, 2, 3][..]));
        speculator.verified();
        assert!(speculator.held(0, 4) && !speculator.held(1, 9) && !speculator.held(4, 1));
        assert_eq!(speculator.stats, SpeculationStats { drafted: 4, accepted: 1, passes: 1 });
    }
}

//! Choosing the next token from logits: the same seed and position always give the same token.

use crate::error::{Error, Result};

/// Tokens of the history that a repeat penalty looks at by default.
const DEFAULT_WINDOW: usize = 64;

/// How to choose tokens. Every zero is the default: greedy, nothing cut off, no penalty.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SamplingOptions {
    /// Divides the logits: 0 takes the best token always, 1 leaves the model's own distribution. At most 100.
    pub temperature: f32,
    /// Keeps this many best tokens; 0 keeps all.
    pub top_k: u32,
    /// Keeps the fewest best tokens whose probabilities reach this sum; 0 and 1 keep all.
    pub top_p: f32,
    /// Drops tokens less probable than this share of the best one's probability; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of recent tokens; 0 and 1 change nothing.
    pub repeat_penalty: f32,
    /// How many recent tokens are penalised; 0 means 64.
    pub repeat_window: u32,
    /// Chooses one of the possible random sequences.
    pub seed: u64,
}

impl SamplingOptions {
    /// Checks that every number is in range.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] naming the option and its range.
    pub fn validate(&self) -> Result<()> {
        for (name, value, most) in [
            ("temperature", self.temperature, 100.0),
            ("top_p", self.top_p, 1.0),
            ("min_p", self.min_p, 1.0),
            ("repeat_penalty", self.repeat_penalty, 100.0),
        ] {
            if !(0.0..=most).contains(&value) {
                return Err(Error::InvalidArgument(format!(
                    "{name} is {value}; it must be from 0 to {most}"
                )));
            }
        }
        Ok(())
    }
}

/// Chooses tokens by [`SamplingOptions`]. Keeps buffers between calls, but no state that changes a choice.
///
/// The order is that of llama.cpp: repeat penalty, top-k, top-p, min-p, and the temperature last, so that
/// top-p and min-p judge the model's own probabilities.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplingOptions,
    order: Vec<u32>,
    recent: Vec<u32>,
}

impl Sampler {
    /// A sampler with these options.
    ///
    /// # Errors
    /// As [`SamplingOptions::validate`].
    pub fn new(options: SamplingOptions) -> Result<Self> {
        options.validate()?;
        Ok(Self { options, order: Vec::new(), recent: Vec::new() })
    }

    /// The options it was made with.
    pub fn options(&self) -> &SamplingOptions {
        &self.options
    }

    /// Chooses the token at `position`, counted in tokens from the start of the session.
    ///
    /// `history` is what came before, oldest first. NaN counts as impossible, and equal logits are ordered
    /// by id. The repeat penalty is written into `logits`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] without logits or with more than `u32::MAX`; [`Error::Corrupt`] if no logit
    /// is a possible one.
    pub fn sample(&mut self, logits: &mut [f32], history: &[u32], position: u64) -> Result<u32> {
        let n = u32::try_from(logits.len())
            .ok()
            .filter(|&n| n > 0)
            .ok_or_else(|| Error::InvalidArgument(format!("cannot choose one of {} tokens", logits.len())))?;
        for logit in logits.iter_mut() {
            // Written in any case: without a branch it is a loop over vectors.
            *logit = if logit.is_nan() { f32::NEG_INFINITY } else { *logit };
        }
        self.penalise(logits, history);
        let best = best(logits);
        let top = logits[best as usize]; // an index of `logits`
        if top == f32::NEG_INFINITY {
            return Err(Error::Corrupt(format!(
                "the model gave no possible next token at position {position} (every logit is NaN or -inf); \
                 its weights are damaged or unsuitable"
            )));
        }
        let k = if self.options.top_k == 0 { n } else { self.options.top_k.min(n) };
        if self.options.temperature == 0.0 || k == 1 || top == f32::INFINITY {
            return Ok(best);
        }
        self.order.clear();
        self.order.extend(0..n);
        if k < n {
            keep_best(&mut self.order, logits, k as usize);
        }
        self.cut_top_p(logits, top);
        self.cut_min_p(logits, top);
        Ok(self.draw(logits, top, position).unwrap_or(best))
    }

    fn penalise(&mut self, logits: &mut [f32], history: &[u32]) {
        let penalty = self.options.repeat_penalty;
        if penalty == 0.0 || penalty == 1.0 {
            return;
        }
        let window = if self.options.repeat_window == 0 {
            DEFAULT_WINDOW
        } else {
            self.options.repeat_window as usize
        };
        self.recent.clear();
        self.recent.extend_from_slice(&history[history.len().saturating_sub(window)..]); // start <= len
        self.recent.sort_unstable();
        self.recent.dedup();
        for &id in &self.recent {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }

    /// Keeps the shortest run of best tokens that reaches `top_p` of the kept probability.
    fn cut_top_p(&mut self, logits: &[f32], top: f32) {
        let top_p = f64::from(self.options.top_p);
        if top_p == 0.0 || top_p >= 1.0 {
            return;
        }
        let weight = |&id: &u32| f64::from(libm::expf(logits[id as usize] - top)); // ids are indices of `logits`
        let total: f64 = self.order.iter().map(weight).sum();
        let (mut sum, mut sorted) = (0.0, 0);
        while sorted < self.order.len() {
            // Sort only as far as needed: a peaked distribution ends within the first batch.
            let batch = (sorted.max(32) * 2).min(self.order.len() - sorted);
            keep_sorted(&mut self.order[sorted..], logits, batch);
            for at in sorted..sorted + batch {
                sum += weight(&self.order[at]);
                if sum >= top_p * total {
                    self.order.truncate(at + 1);
                    return;
                }
            }
            sorted += batch;
        }
    }

    fn cut_min_p(&mut self, logits: &[f32], top: f32) {
        let min_p = self.options.min_p;
        if min_p > 0.0 {
            // The best token's weight is 1 and stays: min_p is at most 1.
            self.order.retain(|&id| libm::expf(logits[id as usize] - top) >= min_p);
        }
    }

    /// Draws one of the kept tokens by their weights at the temperature; `None` if none has any.
    ///
    /// Every token has a waiting time of its own, exponential with its weight as the rate, and the shortest wins (the race
    /// of exponential variables, as the Gumbel-max trick). So two models that nearly agree mostly draw the same token, and a
    /// mini's guess holds.
    fn draw(&self, logits: &[f32], top: f32, position: u64) -> Option<u32> {
        let scale = 1.0 / self.options.temperature;
        let mut drawn: Option<(f64, u32)> = None;
        for &id in &self.order {
            let weight = f64::from(libm::expf((logits[id as usize] - top) * scale));
            let x = uniform(self.options.seed, position, id);
            // -ln(1 - x) is at least x: most tokens have lost without a logarithm.
            let lost = |(shortest, _): (f64, u32)| x > shortest * weight;
            if weight == 0.0 || drawn.is_some_and(lost) {
                continue;
            }
            let time = -libm::log(1.0 - x) / weight;
            // Equal times are ordered by id: the order of the kept tokens must not matter.
            if drawn.is_none_or(|best| (time, id) < best) {
                drawn = Some((time, id));
            }
        }
        drawn.map(|(_, id)| id)
    }
}

/// The id of the greatest logit, the lowest among equals; 0 if there are none. None is NaN.
///
/// The other threads wait for it: in lanes, which compilers turn into vectors, it takes a fifth of the time.
fn best(logits: &[f32]) -> u32 {
    const LANES: usize = 16;
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (top, &logit) in lanes.iter_mut().zip(chunk) {
            *top = if logit > *top { logit } else { *top };
        }
    }
    let top =
        lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |top, &logit| if logit > top { logit } else { top });
    let holds = |chunk: &[f32; LANES]| chunk.iter().fold(false, |found, &logit| found | (logit == top));
    let first = chunks.iter().position(holds).unwrap_or(chunks.len()) * LANES;
    let within = logits[first..].iter().position(|&logit| logit == top); // first <= len
    within.map_or(0, |at| first + at) as u32
}

/// Best logit first, lowest id among equals. NaN has been replaced, so this is a total order.
fn by_logit(logits: &[f32], a: u32, b: u32) -> std::cmp::Ordering {
    let (x, y) = (logits[a as usize] + 0.0, logits[b as usize] + 0.0); // + 0.0: -0 equals 0
    y.total_cmp(&x).then(a.cmp(&b))
}

/// Truncates to the best `k`, in any order.
fn keep_best(order: &mut Vec<u32>, logits: &[f32], k: usize) {
    if k < order.len() {
        order.select_nth_unstable_by(k, |&a, &b| by_logit(logits, a, b));
        order.truncate(k);
    }
}

/// Brings the best `k` to the front, in order.
fn keep_sorted(order: &mut [u32], logits: &[f32], k: usize) {
    if k < order.len() {
        order.select_nth_unstable_by(k, |&a, &b| by_logit(logits, a, b));
    }
    let front = order.len().min(k);
    order[..front].sort_unstable_by(|&a, &b| by_logit(logits, a, b));
}

/// A number in [0, 1) that depends on seed, position and token alone.
///
/// Philox4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3"
/// (SC 2011); the counter is position and pair of tokens, the key the seed.
fn uniform(seed: u64, position: u64, id: u32) -> f64 {
    let counter = [position as u32, (position >> 32) as u32, id / 2, 0];
    let words = philox_words(counter, [seed as u32, (seed >> 32) as u32]);
    let [a, b] = if id.is_multiple_of(2) { [words[0], words[1]] } else { [words[2], words[3]] };
    let bits = (u64::from(a) << 32 | u64::from(b)) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

fn philox_words(counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let mut x = counter;
    for _ in 0..10 {
        let p0 = u64::from(x[0]) * 0xd251_1f53;
        let p1 = u64::from(x[2]) * 0xcd9e_8d57;
        x = [(p1 >> 32) as u32 ^ x[1] ^ key[0], p1 as u32, (p0 >> 32) as u32 ^ x[3] ^ key[1], p0 as u32];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(options: SamplingOptions) -> Sampler {
        Sampler::new(options).unwrap_or_else(|e| panic!("{e}"))
    }

    /// The known answers published with the reference implementation (Random123, kat_vectors).
    #[test]
    fn philox_gives_the_published_numbers() {
        assert_eq!(philox_words([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = philox_words([u32::MAX; 4], [u32::MAX; 2]);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi =
            philox_words([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn zeroes_are_greedy_with_the_lowest_id_first() {
        let mut greedy = sampler(SamplingOptions::default());
        assert_eq!(greedy.sample(&mut [1.0, 3.0, 3.0, f32::NAN], &[], 0).ok(), Some(1));
        assert_eq!(greedy.sample(&mut [f32::NAN, f32::NEG_INFINITY, -9.0], &[], 0).ok(), Some(2));
        assert!(matches!(greedy.sample(&mut [f32::NAN; 3], &[], 0), Err(Error::Corrupt(_))));
        assert!(matches!(greedy.sample(&mut [], &[], 0), Err(Error::InvalidArgument(_))));
        let mut warm = sampler(SamplingOptions { temperature: 1.0, ..Default::default() });
        assert_eq!(warm.sample(&mut [0.0, f32::INFINITY, f32::INFINITY], &[], 0).ok(), Some(1));
    }

    #[test]
    fn the_greatest_is_found_wherever_it_is() {
        for n in [1, 2, 15, 16, 17, 31, 32, 33, 100] {
            let mut greedy = sampler(SamplingOptions::default());
            for at in 0..n {
                for second in at..n {
                    let mut logits = vec![-5.0; n];
                    (logits[at], logits[second]) = (-0.0, 0.0);
                    assert_eq!(greedy.sample(&mut logits, &[], 0).ok(), Some(at as u32), "{at} of {n}");
                }
            }
        }
    }

    #[test]
    fn frequencies_follow_the_probabilities() {
        let mut warm = sampler(SamplingOptions { temperature: 1.0, seed: 7, ..Default::default() });
        let probabilities = [0.5f32, 0.25, 0.2, 0.05];
        let logits = probabilities.map(|p| p.ln());
        let mut counts = [0u32; 4];
        for position in 0..40_000 {
            let id = warm.sample(&mut logits.clone(), &[], position).unwrap_or(9);
            counts[id as usize] += 1;
        }
        for (count, p) in counts.iter().zip(probabilities) {
            assert!((f64::from(*count) / 40_000.0 - f64::from(p)).abs() < 0.01, "{counts:?}");
        }
    }

    #[test]
    fn models_that_nearly_agree_draw_the_same() {
        let mut warm = sampler(SamplingOptions { temperature: 1.0, seed: 3, ..Default::default() });
        let one: Vec<f32> = (0..500u32).map(|i| (uniform(1, 0, i) * 4.0) as f32).collect();
        // Their distributions lie about a twentieth apart.
        let other: Vec<f32> =
            (0..500u32).map(|i| one[i as usize] + (uniform(2, 0, i) * 0.2) as f32).collect();
        let mut draw = |logits: &[f32], at| warm.sample(&mut logits.to_vec(), &[], at).ok();
        let same = (0..1000).filter(|at| draw(&one, *at) == draw(&other, *at)).count();
        assert!(same > 880, "{same} of 1000");
    }

    #[test]
    fn limits_keep_the_right_tokens() {
        let logits = [0.5f32, 0.25, 0.2, 0.05].map(|p| p.ln());
        let seen = |options: SamplingOptions| {
            let mut s = sampler(SamplingOptions { temperature: 2.0, ..options });
            let mut ids: Vec<u32> =
                (0..2000).filter_map(|at| s.sample(&mut logits.clone(), &[], at).ok()).collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        assert_eq!(seen(SamplingOptions { top_k: 2, ..Default::default() }), [0, 1]);
        assert_eq!(seen(SamplingOptions { top_p: 0.7, ..Default::default() }), [0, 1]);
        assert_eq!(seen(SamplingOptions { top_p: 0.76, ..Default::default() }), [0, 1, 2]);
        assert_eq!(seen(SamplingOptions { min_p: 0.3, ..Default::default() }), [0, 1, 2]);
        assert_eq!(seen(SamplingOptions { min_p: 1.0, ..Default::default() }), [0]);
        assert_eq!(seen(SamplingOptions { top_p: 1.0, ..Default::default() }), [0, 1, 2, 3]);
    }

    #[test]
    fn large_vocabularies_agree_with_a_full_sort() {
        let logits: Vec<f32> = (0..50_000u64)
            .map(|i| (philox_words([i as u32, 0, 0, 0], [3, 0])[0] % 1000) as f32 / 100.0)
            .collect();
        let mut order: Vec<u32> = (0..50_000).collect();
        order.sort_by(|&a, &b| by_logit(&logits, a, b));
        let mut kept: Vec<u32> = (0..50_000).collect();
        keep_best(&mut kept, &logits, 77);
        kept.sort_by(|&a, &b| by_logit(&logits, a, b));
        assert_eq!(kept, order[..77]);
        let mut s = sampler(SamplingOptions { temperature: 1.0, top_p: 0.5, ..Default::default() });
        s.order = (0..50_000).collect();
        s.cut_top_p(&logits, logits[order[0] as usize]);
        assert_eq!(s.order[..], order[..s.order.len()]);
        assert!(s.order.len() > 100 && s.order.len() < 25_000, "{}", s.order.len());
    }

    #[test]
    fn repetition_is_penalised_once_within_the_window() {
        let options = SamplingOptions { repeat_penalty: 2.0, repeat_window: 3, ..Default::default() };
        let mut logits = [4.0, 3.0, -1.0, 2.5];
        let id = sampler(options).sample(&mut logits, &[3, 0, 0, 2], 0);
        assert_eq!((id.ok(), logits), (Some(1), [2.0, 3.0, -2.0, 2.5]));
        assert!(sampler(options).sample(&mut [1.0], &[99], 0).is_ok());
    }

    #[test]
    fn options_out_of_range_are_refused() {
        for bad in [-1.0, f32::NAN, f32::INFINITY] {
            assert!(SamplingOptions { temperature: bad, ..Default::default() }.validate().is_err());
            assert!(SamplingOptions { top_p: bad, ..Default::default() }.validate().is_err());
            assert!(SamplingOptions { min_p: bad, ..Default::default() }.validate().is_err());
            assert!(SamplingOptions { repeat_penalty: bad, ..Default::default() }.validate().is_err());
        }
        assert!(SamplingOptions { top_p: 1.01, ..Default::default() }.validate().is_err());
        assert!(SamplingOptions::default().validate().is_ok());
    }
}

//! How much a light form of each capsule changes what the model says, measured on a text.
//!
//! Every capsule in turn is computed in one light form, all others at full precision, and the logits are held against
//! those of the full file. The divergence grows with the squared error of the weights, so one measurement a capsule tells
//! what any form of it costs. What comes before the capsule is computed once.

use std::ops::Range;
use std::path::Path;

use super::agreement::{Text, open};
use super::importance::Importance;
use super::light;
use super::options::SplitOptions;
use super::plan::{is_weight, light_encoding};
use super::write::compose;
use crate::container::manifest::{Capsule, PlannedCapsule, Residence, SplitPlan};
use crate::convert::import::ProgressFn;
use crate::decoder::Decoder;
use crate::decoder::forward::{Forward, Input, Logits};
use crate::decoder::kv::KvCache;
use crate::error::{Error, Result};
use crate::kernels::encoding::{self, Encoding};
use crate::kernels::kv::KvFormat;
use crate::kernels::math::{NEGLIGIBLE, log_sum_exp};
use crate::pool::{CancelToken, Gate, Progress, StandardFloats};
use crate::store::fetch::encoding_of;
use crate::store::mapped::MappedFile;
use crate::store::{Mode, Origin};

/// The form that is tried: the first of these that is smaller than a tensor's own. All are written fast.
const PROBES: &[&str] = &["q4_0", "q3_k", "q2_k"];
/// Logits that are held at most, in bytes: those of the full file, and those of a form.
const LOGITS: usize = 64 << 20;
/// Tokens at least, and at most.
const TOKENS: [usize; 2] = [32, 256];

/// Of each capsule the divergence (Kullback-Leibler, nats a token) for a squared relative error of 1 in its weights;
/// `None` where nothing can be measured. `progress` is told the bytes of weights that were gone through, and how many there
/// are to go through: those that are written, and those of every pass.
///
/// # Errors
/// [`Error::Cancelled`]; those of reading, writing beside `target` and running.
pub(super) fn measure(
    full_path: &Path,
    full: &MappedFile,
    target: &Path,
    text: &Text,
    importance: &Importance,
    options: &SplitOptions,
    progress: &mut ProgressFn<'_>,
) -> Result<Option<Vec<f64>>> {
    let capsules = &full.contents().manifest.capsules;
    let forms: Vec<Vec<Option<&'static Encoding>>> = capsules.iter().map(probe).collect::<Result<_>>()?;
    if forms.iter().flatten().all(Option::is_none) {
        return Ok(None);
    }
    let plan = plan(capsules, &forms)?;
    let bytes: Vec<u64> = capsules.iter().map(Capsule::stored_bytes).collect();
    let total = bytes.iter().sum::<u64>().saturating_add(passed_bytes(&bytes, &forms));
    let mut work = Work { done: 0, total, progress };
    let mut written = |done: u64, _: u64| work.reach(done);
    let (mini, _) = compose(full, target, &plan, Some(importance), options, &mut written)?;
    let model = open(Origin::Source(mini.source()?), Some(full_path), Mode::Speculative, options)?;
    let decoder = model.decoder();
    let vocab = decoder.params().vocab_size as usize;
    let most = (LOGITS / (4 * vocab)).clamp(TOKENS[0], TOKENS[1]).min(decoder.backend().max_batch(false));
    let tokens = &text.tokens[..text.tokens.len().min(most)];
    let mut run = Run { decoder, tokens: tokens.len(), cancel: options.cancel.clone(), bytes: &bytes, work };
    let divergences = run.divergences(tokens, &forms)?;
    let mut weights = Vec::with_capacity(capsules.len());
    for (index, ((capsule, form), divergence)) in capsules.iter().zip(&forms).zip(divergences).enumerate() {
        let mut error = 0.0;
        for (number, (tensor, encoding)) in capsule.tensors.iter().zip(form).enumerate() {
            if let Some(encoding) = encoding {
                let columns = importance.of(index, number);
                error += light::sampled_error(full, capsule, tensor, encoding, columns)?;
            }
        }
        weights.push(if error > 0.0 { divergence / error } else { 0.0 });
    }
    Ok(Some(weights))
}

/// The form of each tensor that is tried; `None` where it stays as it is.
fn probe(capsule: &Capsule) -> Result<Vec<Option<&'static Encoding>>> {
    let mut form = Vec::with_capacity(capsule.tensors.len());
    for tensor in &capsule.tensors {
        let mut found = None;
        for name in PROBES.iter().filter(|_| is_weight(tensor)) {
            let Some(wanted) = encoding::by_name(name) else { continue };
            found = found.or(light_encoding(tensor, wanted)?);
        }
        form.push(found);
    }
    Ok(form)
}

fn plan(capsules: &[Capsule], forms: &[Vec<Option<&'static Encoding>>]) -> Result<SplitPlan> {
    let mut planned = Vec::with_capacity(capsules.len());
    for (capsule, form) in capsules.iter().zip(forms) {
        let light = form.iter().any(Option::is_some);
        let mut encodings = Vec::new();
        for (tensor, tried) in
            capsule.tensors.iter().zip(form).filter(|(tensor, _)| light && is_weight(tensor))
        {
            encodings.push(tried.map_or(encoding_of(tensor)?, |encoding| encoding).name.to_owned());
        }
        let residence = if light { Residence::Light } else { Residence::Pinned };
        planned.push(PlannedCapsule { id: capsule.id.clone(), residence, encodings });
    }
    Ok(SplitPlan { size: 0, light: "probe".into(), capsules: planned, agreement: None, output_error: None })
}

/// Bytes of weights that all passes of [`Run::divergences`] go through, where the capsules have so many each.
fn passed_bytes(bytes: &[u64], forms: &[Vec<Option<&'static Encoding>>]) -> u64 {
    let mut behind: u64 = bytes.iter().sum();
    let mut passed = behind;
    for (index, (own, form)) in bytes.iter().zip(forms).enumerate() {
        if form.iter().any(Option::is_some) {
            passed = passed.saturating_add(behind);
        }
        // Nothing reads what the last one gives.
        if index + 1 < bytes.len() {
            passed = passed.saturating_add(*own);
        }
        behind -= own;
    }
    passed
}

/// How far the work is.
struct Work<'a, 'p> {
    done: u64,
    total: u64,
    progress: &'a mut ProgressFn<'p>,
}

impl Work<'_, '_> {
    fn reach(&mut self, done: u64) {
        self.done = done.min(self.total);
        (self.progress)(self.done, self.total);
    }
}

struct Run<'a, 'p> {
    decoder: &'a Decoder,
    tokens: usize,
    cancel: Option<CancelToken>,
    /// Of each capsule.
    bytes: &'a [u64],
    work: Work<'a, 'p>,
}

impl Run<'_, '_> {
    /// Of each capsule, the mean divergence with its form alone.
    fn divergences(&mut self, tokens: &[u32], forms: &[Vec<Option<&'static Encoding>>]) -> Result<Vec<f64>> {
        let count = self.decoder.capsule_count();
        let mut exact = Forward::default();
        self.pass(&mut exact, Input::Tokens(tokens), 0..count)?;
        let wanted = exact.logits().to_vec();
        let mut found = Vec::with_capacity(count);
        let mut hidden: Vec<f32> = Vec::new();
        for (index, form) in forms.iter().enumerate() {
            let input = if index == 0 { Input::Tokens(tokens) } else { Input::Hidden(&hidden) };
            found.push(if form.iter().any(Option::is_some) {
                let mut probe = Forward::probe(index);
                self.pass(&mut probe, input, index..count)?;
                self.divergence(&wanted, probe.logits())
            } else {
                0.0
            });
            if index + 1 < count {
                self.pass(&mut exact, input, index..index + 1)?;
                hidden = exact.hidden().to_vec();
            }
        }
        Ok(found)
    }

    fn pass(&mut self, forward: &mut Forward, input: Input<'_>, capsules: Range<usize>) -> Result<()> {
        let mut cache = KvCache::new(self.decoder.params(), self.tokens, KvFormat::F16)?;
        let passed: u64 = self.bytes.get(capsules.clone()).unwrap_or_default().iter().sum();
        self.decoder.begin_part(forward, &cache, input, capsules, Logits::All)?;
        let gate = Gate { deadline: None, cancel: self.cancel.clone() };
        if let Progress::Paused(_) = self.decoder.advance(forward, &mut cache, &gate)? {
            return Err(Error::Cancelled);
        }
        self.work.reach(self.work.done.saturating_add(passed));
        Ok(())
    }

    /// Mean over the tokens of the divergence of `found` from `wanted`.
    fn divergence(&self, wanted: &[f32], found: &[f32]) -> f64 {
        let _floats = StandardFloats::enter();
        let vocab = self.decoder.params().vocab_size as usize;
        let rows = wanted.chunks_exact(vocab).zip(found.chunks_exact(vocab));
        rows.map(|(p, q)| divergence(p, q)).sum::<f64>() / self.tokens.max(1) as f64
    }
}

/// Kullback-Leibler divergence of the distribution of logits `q` from that of `p`.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let [p_sum, q_sum] = [p, q].map(|logits| log_sum_exp(logits, NEGLIGIBLE));
    let best = p.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let near = p.iter().zip(q).filter(|(p, _)| **p > best - NEGLIGIBLE);
    let each = near.map(|(p, q)| {
        let (p, q) = (f64::from(*p) - p_sum, f64::from(*q) - q_sum);
        libm::exp(p) * (p - q)
    });
    each.sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_is_what_the_passes_go_through() {
        let light = || vec![None, encoding::by_name("q4_0")];
        // All; from each light capsule on; and each by itself but the last.
        let forms = [light(), light(), vec![None], light()];
        assert_eq!(passed_bytes(&[8, 4, 2, 1], &forms), 15 + (15 + 7 + 1) + (8 + 4 + 2));
        assert_eq!(passed_bytes(&[5], &[light()]), 5 + 5);
        assert_eq!(passed_bytes(&[], &[]), 0);
    }

    #[test]
    fn divergences_are_those_of_the_distributions() {
        let p = [1.0, 2.0, 3.0];
        assert!(divergence(&p, &[4.0, 5.0, 6.0]).abs() < 1e-6, "a shift changes nothing");
        let (a, b) = ([0.0, 0.0], [0.0, f32::ln(3.0)]);
        let wanted = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert!((divergence(&a, &b) - wanted).abs() < 1e-6);
    }
}

//! Perplexity of a sequence of tokens, and the logits of every position.

use super::session::Session;
use crate::error::{Error, Result};
use crate::kernels::math::log_sum_exp;
use crate::pool::CancelToken;

/// Window where neither caller nor model ask for less, in tokens.
pub const DEFAULT_WINDOW: usize = 512;
/// Tokens evaluated together by default: enough to reuse each weight well, few enough that their logits stay
/// small beside the model.
pub const DEFAULT_BATCH: usize = 64;

/// What an evaluation found.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Tokens evaluated.
    pub tokens: usize,
    /// Tokens that were predicted: all but the first of each window.
    pub predicted: usize,
    /// Windows.
    pub windows: usize,
    /// Exponential of the mean negative log-likelihood of the predicted tokens; absent without any.
    pub perplexity: Option<f64>,
}

/// Evaluates `tokens` in windows of the session's context, from position 0 each and without overlap, in batches
/// of `batch` tokens (0: [`DEFAULT_BATCH`]; at most what suits the machine, as a batch's logits are all in memory;
/// it never changes a bit).
///
/// Every token but the first of each window is predicted from those before it in its window. Every row of
/// logits is given to `sink`, in order; `progress` is told the tokens done.
///
/// # Errors
/// [`Error::InvalidArgument`] without tokens or for ids out of range; [`Error::Cancelled`]; those of `sink`.
pub fn evaluate(
    session: &mut Session,
    tokens: &[u32],
    batch: usize,
    cancel: Option<&CancelToken>,
    sink: &mut dyn FnMut(&[f32]) -> Result<()>,
    progress: &mut dyn FnMut(usize),
) -> Result<Evaluation> {
    if tokens.is_empty() {
        return Err(Error::InvalidArgument("there are no tokens to evaluate; the text is empty".into()));
    }
    let vocab = session.model().decoder().params().vocab_size as usize;
    let most = session.model().decoder().backend().max_batch(false);
    let (chosen, mut batch) = (batch > 0, if batch == 0 { DEFAULT_BATCH } else { batch }.min(most));
    let mut result = Evaluation { tokens: tokens.len(), ..Evaluation::default() };
    let mut sum = 0.0;
    let mut done = 0;
    for window in tokens.chunks(session.context()) {
        session.truncate(0);
        result.windows += 1;
        let mut at = 0;
        while let Some(rest) = window.get(at..).filter(|rest| !rest.is_empty()) {
            let part = &rest[..batch.min(rest.len())];
            let next = rest.get(1..).unwrap_or_default();
            let logits = match session.eval(part, true, cancel) {
                // The budget has no room for the logits of as many; fewer at a time are the same.
                Err(Error::Limit(_)) if !chosen && batch > 1 => {
                    batch = batch.div_ceil(2);
                    continue;
                }
                logits => logits?,
            };
            at += part.len();
            for (row, target) in logits.chunks_exact(vocab).zip(next) {
                sum += negative_log_likelihood(row, *target);
                result.predicted += 1;
            }
            sink(logits)?;
            done += part.len();
            progress(done);
        }
    }
    result.perplexity = (result.predicted > 0).then(|| libm::exp(sum / result.predicted as f64));
    Ok(result)
}

/// `-log softmax(logits)[target]` in f64, in a fixed order.
fn negative_log_likelihood(logits: &[f32], target: u32) -> f64 {
    // `Session::eval` refused ids outside the vocabulary.
    let chosen = logits.get(target as usize).copied().unwrap_or(f32::NEG_INFINITY);
    log_sum_exp(logits, f32::INFINITY) - f64::from(chosen)
}

#[cfg(test)]
mod tests {
    use super::negative_log_likelihood;

    #[test]
    fn likelihoods_add_up_to_one() {
        let logits = [1.5f32, -2.0, 0.25, 80.0, 79.0];
        let total: f64 = (0..5).map(|id| (-negative_log_likelihood(&logits, id)).exp()).sum();
        assert!((total - 1.0).abs() < 1e-12, "{total}");
        assert!((negative_log_likelihood(&[0.0; 4], 2) - 4f64.ln()).abs() < 1e-12);
    }
}

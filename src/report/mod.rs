//! Reports: what a run did and cost, and what a file holds.
//!
//! Lives here: [`Report`], the one object that `--report` and `--json` write; [`memory`], what the process
//! holds; [`inspect`], a file's facts. Calls `generate` and everything below. May be called by `ffi` and
//! `cgraph`. Must not know: the command line's options.

pub mod inspect;
mod inspect_onnx;
pub mod memory;
pub mod onnx;

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::container::disk::Disk;
use crate::container::header::Kind;
use crate::container::manifest::{Capsule, Residence};
use crate::error::{Error, Result};
use crate::generate::bench::{Bench, BenchRow};
use crate::generate::eval::Evaluation;
use crate::generate::session::{FinishReason, Session};
use crate::store::Store;
use memory::MemorySampler;

/// Name and version of the report's form.
pub const SCHEMA: &str = "capsulegraph.report/1";

/// What a command did and cost. Times are in milliseconds, sizes in bytes; what does not apply is absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// `run`, `eval` or `bench`.
    pub command: String,
    /// Version of the library.
    pub version: String,
    /// The model.
    pub model: ModelReport,
    /// The run mode in force, never `auto`.
    pub mode: String,
    /// Why that mode was taken.
    pub mode_reason: String,
    /// Threads that computed.
    pub threads: usize,
    /// What computed: instruction set and threads.
    pub backend: String,
    /// Tokens of the prompt that were evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<usize>,
    /// Tokens generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated_tokens: Option<usize>,
    /// Opening the model.
    pub open_ms: f64,
    /// From the start of the generation to its first token; of a benchmark from the end of opening, so that the
    /// making of the session is part of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<f64>,
    /// Prompt tokens a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefill_tokens_per_s: Option<f64>,
    /// Generated tokens a second, those after the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode_tokens_per_s: Option<f64>,
    /// Memory.
    pub memory: MemoryReport,
    /// Capsules.
    pub capsules: CapsuleReport,
    /// Guesses and passes of mode speculative.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speculation: Option<SpeculationReport>,
    /// The text generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The tokens generated, the end-of-generation token left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// `end`, `stop`, `length`, `context`, or `cancelled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<String>,
    /// Exponential of the mean negative log-likelihood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perplexity: Option<f64>,
    /// Tokens that the perplexity is the mean over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_tokens: Option<usize>,
    /// Windows that the tokens were evaluated in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<usize>,
    /// Results of `bench`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<BenchRow>,
    /// Of an ONNX model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onnx: Option<onnx::OnnxReport>,
}

/// The model of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelReport {
    /// Its name.
    pub name: String,
    /// Its architecture.
    pub arch: String,
    /// The file that was opened.
    pub file: String,
    /// Length of the full file: of the one that is open, else as the mini has it on record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_bytes: Option<u64>,
    /// Length of the mini.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mini_bytes: Option<u64>,
}

/// Memory of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryReport {
    /// The budget that the host named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_bytes: Option<u64>,
    /// The library's own account: tables, buffers, the used part of the KV cache, and under a budget the memory that
    /// weights were read into. Pages of mapped files are the system's.
    pub peak_bytes: u64,
    /// Most resident memory of the process, mapped pages included, as the system counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_rss_bytes: Option<u64>,
    /// Most anonymous memory of the process at the moments when it was sampled ([`MemorySampler`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_anonymous_bytes: Option<u64>,
    /// Anonymous memory of the process before the model was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_anonymous_bytes: Option<u64>,
    /// Weights that stay in memory under the budget. Without one, those that the opened file holds bit for bit: of a
    /// full file all, of a mini its pinned capsules; they are mapped, and not part of `peak_bytes`.
    pub pinned_bytes: u64,
    /// The KV cache, at the length it was made for.
    pub kv_bytes: u64,
    /// How the KV cache stores its elements: `f16` or `q8_0`.
    pub kv_type: String,
    /// Buffers of activations and logits.
    pub buffers_bytes: u64,
}

/// Speculation of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeculationReport {
    /// Tokens guessed.
    pub drafted: u64,
    /// Guesses that held.
    pub accepted: u64,
    /// Passes at full precision, those too that had no guess to verify.
    pub passes: u64,
}

/// Capsules of a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CapsuleReport {
    /// All capsules.
    pub total: usize,
    /// Held by the opened file bit for bit.
    pub pinned: usize,
    /// Held in a light form.
    pub light: usize,
    /// Held as first planes.
    pub nested: usize,
    /// Only linked.
    pub linked: usize,
    /// Uses of a capsule that went to the full file.
    pub fetches: u64,
    /// Uses of a capsule that the opened file itself served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hits: Option<u64>,
    /// Bytes read from the disk under a budget, those too that then stayed in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub streamed_bytes: Option<u64>,
    /// Time that computing waited for weights under a budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stall_ms: Option<f64>,
    /// Reads from the disk that were under way at once, where weights were streamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads_in_flight: Option<usize>,
    /// Bytes of each of them at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bytes: Option<u64>,
}

impl Report {
    /// What is known of `command` on `session` by now: model, mode, memory, capsules.
    #[must_use]
    pub fn new(command: &str, session: &Session, sampler: &MemorySampler) -> Self {
        let model = session.model().as_ref();
        let (store, backend) = (model.store(), model.decoder().backend());
        let weights = store.weight_memory();
        Self {
            schema: SCHEMA.to_owned(),
            command: command.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model: model_report(store),
            mode: store.mode().name().to_owned(),
            mode_reason: store.mode_reason().to_owned(),
            threads: backend.threads(),
            backend: backend.describe(),
            open_ms: millis(model.open_time()),
            memory: memory_report(session, sampler),
            capsules: CapsuleReport {
                streamed_bytes: weights.map(|weights| weights.streamed),
                stall_ms: weights.map(|weights| millis(weights.stalled)),
                reads_in_flight: weights.and_then(|weights| weights.reads_in_flight),
                read_bytes: weights.filter(|w| w.reads_in_flight.is_some()).map(|w| w.read_bytes),
                ..capsule_report(store)
            },
            speculation: session.speculation().map(|stats| SpeculationReport {
                drafted: stats.drafted,
                accepted: stats.accepted,
                passes: stats.passes,
            }),
            ..Self::default()
        }
    }

    /// Adds the counts and times of the session's last generation, its text and its tokens. `reason` is absent
    /// for one that was cancelled.
    #[must_use]
    pub fn with_generation(
        mut self,
        session: &Session,
        text: String,
        token_ids: Vec<u32>,
        reason: Option<FinishReason>,
    ) -> Self {
        let timings = session.timings();
        self.prompt_tokens = Some(timings.prompt_tokens);
        self.generated_tokens = Some(timings.generated_tokens);
        if timings.generated_tokens > 0 {
            self.first_token_ms = Some(millis(timings.first_token));
            self.prefill_tokens_per_s = rate(timings.prompt_tokens, timings.prefill);
            self.decode_tokens_per_s = rate(timings.generated_tokens - 1, timings.decode);
        }
        self.text = Some(text);
        self.token_ids = Some(token_ids);
        self.finish_reason = Some(reason.map_or("cancelled", FinishReason::name).to_owned());
        self
    }

    /// Adds what an evaluation found and how long it took.
    #[must_use]
    pub fn with_evaluation(mut self, evaluation: &Evaluation, spent: Duration) -> Self {
        self.prompt_tokens = Some(evaluation.tokens);
        self.prefill_tokens_per_s = rate(evaluation.tokens, spent);
        self.perplexity = evaluation.perplexity;
        self.predicted_tokens = Some(evaluation.predicted);
        self.windows = Some(evaluation.windows);
        self
    }

    /// The report as JSON text with a line feed at its end.
    ///
    /// # Errors
    /// [`Error::Internal`]: every field can be written.
    pub fn to_json(&self) -> Result<String> {
        let text = serde_json::to_string_pretty(self);
        text.map(|t| t + "\n").map_err(|e| Error::Internal(format!("the report is no JSON: {e}")))
    }

    /// Writes the report to `path`, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn write(&self, path: &Path, disk: &dyn Disk) -> Result<()> {
        let mut file = disk.create(path)?;
        file.append(self.to_json()?.as_bytes())?;
        file.commit()
    }

    /// Adds the results of a benchmark; the speeds are those of its first prompt and its first generation.
    #[must_use]
    pub fn with_bench(mut self, bench: Bench) -> Self {
        let of = |kind: &str| bench.rows.iter().find(|t| t.test.starts_with(kind));
        self.prompt_tokens = of("pp").map(|t| t.tokens);
        self.generated_tokens = of("tg").map(|t| t.tokens);
        self.prefill_tokens_per_s = of("pp").map(|t| t.tokens_per_s);
        self.decode_tokens_per_s = of("tg").map(|t| t.tokens_per_s);
        self.first_token_ms = bench.first_token.map(millis);
        self.tests = bench.rows;
        self
    }
}

fn model_report(store: &Store) -> ModelReport {
    let contents = store.primary().contents();
    let recorded = || contents.manifest.full.as_ref().map(|f| f.len);
    ModelReport {
        name: contents.manifest.model.name.clone(),
        arch: contents.manifest.model.arch.clone(),
        file: contents.name.clone(),
        full_bytes: store.full().map(|f| f.contents().header.file_len).or_else(recorded),
        mini_bytes: (contents.header.kind == Kind::Mini).then_some(contents.header.file_len),
    }
}

/// How capsules are held, and where their uses went.
fn capsule_report(store: &Store) -> CapsuleReport {
    let counts = store.counts();
    CapsuleReport {
        total: counts.total,
        pinned: counts.pinned,
        light: counts.light,
        nested: counts.nested,
        linked: counts.linked,
        fetches: store.fetches(),
        hits: Some(store.hits()),
        ..CapsuleReport::default()
    }
}

/// What the system says of the process.
fn process_report(sampler: &MemorySampler) -> MemoryReport {
    let peak = sampler.peak();
    MemoryReport {
        peak_rss_bytes: peak.rss,
        peak_anonymous_bytes: peak.anonymous,
        start_anonymous_bytes: sampler.start(),
        ..MemoryReport::default()
    }
}

fn memory_report(session: &Session, sampler: &MemorySampler) -> MemoryReport {
    let model = session.model();
    let (kv_bytes, buffers_bytes) = (session.kv_bytes(), session.buffer_bytes());
    let capsules = &model.store().manifest().capsules;
    let pinned = capsules.iter().filter(|c| matches!(c.residence, None | Some(Residence::Pinned)));
    let weights = model.store().weight_memory();
    MemoryReport {
        budget_bytes: weights.map(|weights| weights.budget),
        peak_bytes: model.held_bytes()
            + weights.map_or(0, |weights| weights.peak)
            + session.kv_touched_bytes()
            + buffers_bytes,
        pinned_bytes: weights
            .map_or_else(|| pinned.map(Capsule::stored_bytes).sum(), |weights| weights.pinned),
        kv_bytes,
        kv_type: session.kv_format().name().to_owned(),
        buffers_bytes,
        ..process_report(sampler)
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Tokens a second; absent without tokens or without a measurable time.
fn rate(tokens: usize, time: Duration) -> Option<f64> {
    (tokens > 0 && !time.is_zero()).then(|| tokens as f64 / time.as_secs_f64())
}

//! Reports of ONNX models.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::memory::MemorySampler;
use super::{
    CapsuleReport, MemoryReport, Report, SCHEMA, capsule_report, millis, model_report, process_report,
};
use crate::onnx::model::OnnxModel;
use crate::onnx::value::Value;

/// What only ONNX models have in a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OnnxReport {
    /// Version of ONNX Runtime; absent where it was not needed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_version: Option<String>,
    /// Its library.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_path: Option<String>,
    /// Whether it computes with weights where they lie in the mapped file; one before 1.31 copies them.
    pub zero_copy: bool,
    /// Whether graphs are optimised.
    pub optimization: bool,
    /// The choice: `auto`, `on` or `off`.
    pub prepack: String,
    /// Capsules whose weights are prepacked now.
    pub prepacked: Vec<String>,
    /// Sessions that were made so far: one for each capsule, and again where one had to go.
    pub sessions_made: u64,
    /// How long making them took; it is part of the runs.
    pub sessions_ms: f64,
    /// Anonymous memory of the sessions that there are, copies of weights included.
    pub sessions_bytes: u64,
    /// Capsules whose weights stay in memory under the budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_capsules: Option<usize>,
    /// The first run, which makes the sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_run_ms: Option<f64>,
    /// The last run; of a benchmark the mean of those after the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_ms: Option<f64>,
    /// The fastest run of a benchmark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_min_ms: Option<f64>,
    /// Every run of a benchmark but the first, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs_ms: Vec<f64>,
    /// What came out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<OutputReport>,
}

/// An output of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputReport {
    /// Its name.
    pub name: String,
    /// `tensor`, `sequence`, `map`, `sparse`; `optional` for an absent value.
    pub kind: String,
    /// The element type of a tensor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub element: Option<String>,
    /// The shape of a tensor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Vec<u64>>,
    /// The file that it was written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

impl OutputReport {
    /// Of an output that was written to `file`, or not.
    #[must_use]
    pub fn new(name: &str, value: &Value, file: Option<String>) -> Self {
        let element = value.element();
        Self {
            name: name.to_owned(),
            kind: value.kind().name().to_owned(),
            element: element.map(|element| element.name().to_owned()),
            shape: element.map(|_| value.shape().to_vec()),
            file,
        }
    }
}

impl Report {
    /// What is known of `command` on an ONNX model by now.
    #[must_use]
    pub fn of_onnx(command: &str, model: &OnnxModel, sampler: &MemorySampler) -> Self {
        let (store, memory, stats) = (model.store(), model.memory(), model.stats());
        let runtime = model.runtime_if_loaded();
        Self {
            schema: SCHEMA.to_owned(),
            command: command.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model: model_report(store),
            mode: store.mode().name().to_owned(),
            mode_reason: store.mode_reason().to_owned(),
            threads: runtime.map_or(0, |runtime| runtime.threads()),
            backend: runtime
                .map_or_else(String::new, |runtime| format!("ONNX Runtime {}", runtime.version())),
            open_ms: millis(model.open_time()),
            memory: MemoryReport {
                budget_bytes: memory.budget,
                peak_bytes: memory.peak,
                pinned_bytes: memory.pinned,
                kv_bytes: 0,
                kv_type: "none".to_owned(),
                buffers_bytes: memory.activations,
                ..process_report(sampler)
            },
            capsules: CapsuleReport {
                streamed_bytes: memory.budget.map(|_| memory.streamed),
                ..capsule_report(store)
            },
            onnx: Some(OnnxReport {
                runtime_version: runtime.map(|runtime| runtime.version().to_owned()),
                runtime_path: runtime.map(|runtime| runtime.loaded().path.display().to_string()),
                zero_copy: runtime.is_some_and(|runtime| runtime.is_zero_copy()),
                optimization: model.options().optimization,
                prepack: model.options().prepack.name().to_owned(),
                prepacked: model.prepacked().into_iter().map(str::to_owned).collect(),
                sessions_made: stats.sessions_made,
                sessions_ms: millis(stats.making),
                sessions_bytes: memory.sessions,
                kept_capsules: memory.budget.map(|_| memory.pinned_capsules),
                first_run_ms: (stats.runs > 0).then(|| millis(stats.first_run)),
                run_ms: (stats.runs > 0).then(|| millis(stats.last_run)),
                ..OnnxReport::default()
            }),
            ..Self::default()
        }
    }

    /// Adds what came out of a run.
    #[must_use]
    pub fn with_outputs(mut self, outputs: Vec<OutputReport>) -> Self {
        if let Some(onnx) = &mut self.onnx {
            onnx.outputs = outputs;
        }
        self
    }

    /// Adds the runs of a benchmark, without the first.
    #[must_use]
    pub fn with_runs(mut self, runs: &[Duration]) -> Self {
        if let (Some(onnx), false) = (&mut self.onnx, runs.is_empty()) {
            onnx.runs_ms = runs.iter().copied().map(millis).collect();
            onnx.run_ms = Some(onnx.runs_ms.iter().sum::<f64>() / runs.len() as f64);
            onnx.run_min_ms = runs.iter().min().copied().map(millis);
        }
        self
    }
}

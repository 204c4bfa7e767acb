//! Mode speculative against mode exact in a budget: what a token reads from the disk and how fast tokens come, on the
//! prompts of tests/data.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::account;
use super::measure::length;
use crate::setup;
use crate::shell::{Outcome, capture, root};

/// A model in a budget, and what is demanded of it.
#[derive(Debug)]
pub struct Case {
    pub name: &'static str,
    pub title: &'static str,
    /// The budget in percent of the .gguf.
    pub percent: u64,
    /// Bytes a token against mode exact, at most.
    pub bytes: f64,
    /// Tokens a second against mode exact with a slow disk, at least; not measured without.
    pub speed: Option<f64>,
}

pub const CASES: [Case; 3] = [
    Case { name: "f16", title: "F16", percent: 60, bytes: 0.28, speed: Some(3.0) },
    Case { name: "q8_0", title: "Q8_0", percent: 75, bytes: 0.4, speed: Some(1.8) },
    Case { name: "q4_1", title: "Q4_1", percent: 85, bytes: 0.6, speed: None },
];
/// The budget that leaves mode auto of the last of them no room for a mini.
pub const AUTO_PERCENT: u64 = 60;
/// Temperatures.
pub const SAMPLINGS: [f64; 2] = [0.0, 0.8];
/// Bytes a second of the slow disk, and the variable that holds the store's reads to them.
const SLOW: (&str, u64) = ("CAPSULEGRAPH_TEST_READ_RATE", 100_000_000);
const SLOW_PROMPTS: usize = 3;
const SLOW_TOKENS: usize = 32;
/// Tokens of an answer at most.
const TOKENS: usize = 64;
/// How far the report's bytes may lie from the kernel's: part of them, and bytes a token.
const APART: (f64, f64) = (0.03, 2e5);

/// A prompt of tests/data.
#[derive(Debug, Deserialize)]
pub struct Prompt {
    pub prompt: String,
    /// Its tokens in the model's chat template.
    pub ids: Vec<u32>,
}

/// Those of tests/smollm2.rs.
pub fn prompts() -> Outcome<Vec<Prompt>> {
    let path = root().join("tests/data/smollm2.greedy.json");
    let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
}

/// How text is generated.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    pub mode: &'static str,
    pub tokens: usize,
    pub temperature: f64,
    /// Also the number of the prompt.
    pub seed: usize,
    pub slow: bool,
}

impl Way {
    /// Greedy, the whole number of tokens.
    pub const EXACT: Self = Self { mode: "exact", tokens: TOKENS, temperature: 0.0, seed: 0, slow: false };
}

/// What one process did.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sample {
    token_ids: Vec<u64>,
    generated: u64,
    /// Of the tokens after the first.
    seconds: f64,
    read_bytes: u64,
    streamed_bytes: u64,
    passes: u64,
    drafted: u64,
    accepted: u64,
}

impl Sample {
    fn parse(report: &Value, read_bytes: u64) -> Outcome<Self> {
        let whole = |value: &Value, what: &str| {
            value.as_u64().ok_or_else(|| format!("the report has no {what}: {report}"))
        };
        let generated = whole(&report["generated_tokens"], "number of tokens")?;
        let speed = report["decode_tokens_per_s"].as_f64();
        let ids = report["token_ids"].as_array().ok_or("the report has no tokens")?;
        let guesses = &report["speculation"];
        Ok(Self {
            token_ids: ids.iter().filter_map(Value::as_u64).collect(),
            generated,
            seconds: speed.map_or(0.0, |speed| (generated.saturating_sub(1)) as f64 / speed),
            read_bytes,
            streamed_bytes: whole(&report["capsules"]["streamed_bytes"], "streamed bytes")?,
            passes: guesses["passes"].as_u64().unwrap_or(0),
            drafted: guesses["drafted"].as_u64().unwrap_or(0),
            accepted: guesses["accepted"].as_u64().unwrap_or(0),
        })
    }
}

/// What tokens after the first cost in one mode, over all prompts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    pub tokens: u64,
    pub seconds: f64,
    /// By the kernel's account and by the report's.
    pub read_bytes: f64,
    pub streamed_bytes: f64,
    pub passes: u64,
    pub drafted: u64,
    pub accepted: u64,
}

impl Sums {
    /// Adds an answer, less what its first token took.
    fn add(&mut self, one: &Sample, whole: &Sample) {
        let less = |whole: u64, one: u64| whole as f64 - one as f64;
        self.tokens += whole.generated.saturating_sub(one.generated);
        self.seconds += whole.seconds;
        self.read_bytes += less(whole.read_bytes, one.read_bytes);
        self.streamed_bytes += less(whole.streamed_bytes, one.streamed_bytes);
        self.passes += whole.passes.saturating_sub(one.passes);
        self.drafted += whole.drafted.saturating_sub(one.drafted);
        self.accepted += whole.accepted.saturating_sub(one.accepted);
    }

    pub fn token_bytes(&self) -> f64 {
        self.read_bytes / self.tokens.max(1) as f64
    }

    /// The report's account in place of the kernel's.
    pub fn token_streamed(&self) -> f64 {
        self.streamed_bytes / self.tokens.max(1) as f64
    }

    pub fn speed(&self) -> f64 {
        self.tokens as f64 / self.seconds
    }

    /// Fails where both accounts of what was read differ.
    fn check(&self) -> Outcome {
        let (kernel, report) = (self.token_bytes(), self.token_streamed());
        if (kernel - report).abs() <= APART.0 * kernel.abs() + APART.1 {
            return Ok(());
        }
        Err(format!("a token reads {kernel:.0} bytes by the kernel's account, {report:.0} by the report's"))
    }
}

/// Both modes on the same prompts; their tokens are the same.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Row {
    /// [`Case::name`].
    pub case: String,
    pub temperature: f64,
    pub budget_bytes: u64,
    pub mini_bytes: u64,
    pub prompts: usize,
    pub exact: Sums,
    pub speculative: Sums,
}

impl Row {
    /// Bytes a token against mode exact.
    pub fn bytes_ratio(&self) -> f64 {
        self.speculative.token_bytes() / self.exact.token_bytes()
    }

    pub fn speed_ratio(&self) -> f64 {
        self.speculative.speed() / self.exact.speed()
    }
}

/// A case's files.
#[derive(Debug)]
pub struct Files<'a> {
    pub cgraph: &'a Path,
    pub case: &'a Case,
    pub source: PathBuf,
    pub full: PathBuf,
    pub mini: PathBuf,
    pub budget: u64,
}

impl<'a> Files<'a> {
    /// Makes the source where it is not there yet, and converts it.
    pub fn make(cgraph: &'a Path, folder: &Path, case: &'a Case) -> Outcome<Self> {
        let source = if case.name == "q4_1" { setup::model()? } else { noisy(folder, case.name)? };
        let full = folder.join(format!("drafts-{}.cgraph", case.name));
        let mut command = Command::new(cgraph);
        capture(command.arg("convert").arg(&source).arg("-o").arg(&full).args([
            "--planes",
            "divided",
            "--no-mini",
            "-q",
        ]))?;
        let budget = case.percent * length(&source)? / 100;
        Ok(Self { cgraph, case, mini: full.with_extension("mini.cgraph"), source, full, budget })
    }

    /// One answer; an error of the program is the second `Err`.
    fn answer(&self, prompt: &Prompt, way: Way) -> Outcome<Result<Sample, String>> {
        let file = if way.mode == "exact" { &self.full } else { &self.mini };
        let mut command = Command::new(self.cgraph);
        command.arg("run").arg(file).args(["--chat", "-p", &prompt.prompt, "--json", "-q", "--threads", "2"]);
        command.args(["--mode", way.mode, "--ctx", "256", "--memory", &self.budget.to_string()]);
        command.args(["-n", &way.tokens.to_string(), "--no-lookup"]);
        if way.temperature > 0.0 {
            command.args(["--temperature", &way.temperature.to_string(), "--seed", &way.seed.to_string()]);
        }
        if way.slow {
            command.env(SLOW.0, SLOW.1.to_string());
        }
        let ended = account::run(&mut command)?;
        let Some(output) = ended.output else { return Ok(Err(ended.errors)) };
        let report: Value = serde_json::from_str(&output).map_err(|e| format!("no JSON ({e}): {output}"))?;
        if report["mode"] != way.mode || report["prompt_tokens"] != prompt.ids.len() {
            return Err(format!("not mode {} on {} tokens: {output}", way.mode, prompt.ids.len()));
        }
        Sample::parse(&report, ended.read_bytes).map(Ok)
    }

    /// An answer and one of a single token beside it, from which the sums take it; its tokens.
    pub fn measure(&self, prompt: &Prompt, way: Way, sums: &mut Sums) -> Outcome<Result<Vec<u64>, String>> {
        let one = match self.answer(prompt, Way { tokens: 1, ..way })? {
            Ok(sample) => sample,
            Err(why) => return Ok(Err(why)),
        };
        let whole = self.answer(prompt, way)?;
        Ok(whole.map(|whole| {
            sums.add(&one, &whole);
            whole.token_ids
        }))
    }

    /// Both modes in alternation.
    pub fn row(&self, prompts: &[Prompt], temperature: f64) -> Outcome<Row> {
        self.both(prompts, Way { temperature, ..Way::EXACT })
    }

    /// Both modes with a slow disk, greedy.
    pub fn slow(&self, prompts: &[Prompt]) -> Outcome<Row> {
        let way = Way { tokens: SLOW_TOKENS, slow: true, ..Way::EXACT };
        self.both(&prompts[..SLOW_PROMPTS.min(prompts.len())], way)
    }

    fn both(&self, prompts: &[Prompt], way: Way) -> Outcome<Row> {
        let (mut exact, mut speculative) = (Sums::default(), Sums::default());
        for (seed, prompt) in prompts.iter().enumerate() {
            let way = Way { seed, ..way };
            let tokens = self.measure(prompt, way, &mut exact)??;
            let other = self.measure(prompt, Way { mode: "speculative", ..way }, &mut speculative)??;
            if tokens != other {
                return Err(format!(
                    "{}, temperature {}, seed {seed}: other tokens in mode speculative on {:?}",
                    self.case.title, way.temperature, prompt.prompt
                ));
            }
        }
        for sums in [&exact, &speculative] {
            sums.check().map_err(|why| format!("{}: {why}", self.case.title))?;
        }
        let mini_bytes = length(&self.mini)?;
        let (case, temperature) = (self.case.name.to_owned(), way.temperature);
        let (budget_bytes, prompts) = (self.budget, prompts.len());
        Ok(Row { case, temperature, budget_bytes, mini_bytes, prompts, exact, speculative })
    }
}

/// SmolLM2 with weights that lie on no 4-bit grid; made once.
fn noisy(folder: &Path, form: &str) -> Outcome<PathBuf> {
    let path = folder.join(format!("smollm2-{form}.gguf"));
    if !path.is_file() {
        let part = folder.join("smollm2.part");
        let mut python = Command::new(setup::python()?);
        python.arg(root().join("tests/tools/noisy_smollm2.py")).arg(setup::model()?).arg(&part).arg(form);
        capture(&mut python)?;
        fs::rename(&part, &path).map_err(|e| format!("cannot rename {}: {e}", part.display()))?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::{Sample, Sums, prompts};
    use serde_json::json;

    #[test]
    fn a_report_becomes_a_sample() {
        let mut report = json!({
            "generated_tokens": 5, "decode_tokens_per_s": 2.0, "token_ids": [7, 8, 9, 7],
            "capsules": {"streamed_bytes": 100}, "speculation": {"drafted": 6, "accepted": 3, "passes": 2},
        });
        let sample = Sample::parse(&report, 90).unwrap();
        assert_eq!((sample.seconds, sample.token_ids.len(), sample.read_bytes), (2.0, 4, 90));
        assert_eq!((sample.drafted, sample.accepted, sample.passes), (6, 3, 2));
        report["capsules"] = json!({});
        assert!(Sample::parse(&report, 90).is_err());
    }

    #[test]
    fn the_first_token_is_taken_off() {
        let one =
            Sample { generated: 1, read_bytes: 1000, streamed_bytes: 1010, passes: 1, ..Sample::default() };
        let whole = Sample {
            generated: 11,
            seconds: 2.0,
            read_bytes: 101_000,
            streamed_bytes: 99_010,
            passes: 6,
            drafted: 12,
            accepted: 5,
            ..Sample::default()
        };
        let mut sums = Sums::default();
        sums.add(&one, &whole);
        sums.add(&one, &whole);
        assert_eq!((sums.tokens, sums.passes, sums.drafted, sums.accepted), (20, 10, 24, 10));
        assert_eq!((sums.token_bytes(), sums.token_streamed(), sums.speed()), (10_000.0, 9_800.0, 5.0));
        assert!(sums.check().is_ok());
        let apart = Sums { streamed_bytes: 3.0 * sums.streamed_bytes * 1e4, ..sums };
        assert!(apart.check().is_err());
    }

    #[test]
    fn the_prompts_are_there() {
        assert_eq!(prompts().unwrap().len(), 20);
    }
}

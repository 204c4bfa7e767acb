//! Which mini drafts best in a budget, and what mode auto does.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::account;
use super::measure::length;
use super::speculate::{Files, Prompt, Sums, Way};
use crate::shell::{Outcome, capture};

/// Prompts that a mini is chosen by, minis that are tried, and steps of their sizes in percent of the budget.
const TRIED_PROMPTS: usize = 4;
const TRIED: usize = 4;
const SIZES: [u64; 10] = [95, 90, 85, 80, 75, 70, 65, 60, 55, 50];

/// A mini that was tried.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tried {
    pub case: String,
    pub mini_bytes: u64,
    pub token_bytes: f64,
}

/// What mode auto did.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Auto {
    pub budget_bytes: u64,
    pub mini_bytes: u64,
    pub mode: String,
    pub reason: String,
}

impl Files<'_> {
    /// Splits; the shortest length possible where that one is not.
    fn split(&self, size: Option<u64>) -> Outcome<Result<(), u64>> {
        let mut command = Command::new(self.cgraph);
        command.arg("split").arg(&self.full).arg("-o").arg(&self.mini).arg("-q");
        if let Some(size) = size {
            command.args(["--size", &size.to_string()]);
        }
        let ended = account::run(&mut command)?;
        match (ended.output, shortest(&ended.errors)) {
            (Some(_), _) => Ok(Ok(())),
            (None, Some(bytes)) => Ok(Err(bytes)),
            (None, None) => Err(ended.errors),
        }
    }

    /// Tries minis from large to small, the first that the budget has room for, and keeps the one whose tokens read
    /// least; false where there is room for none.
    pub fn choose(&self, prompts: &[Prompt], tried: &mut Vec<Tried>) -> Outcome<bool> {
        let best = self.full.with_extension("best.cgraph");
        let (begin, mut least) = (tried.len(), f64::INFINITY);
        for percent in SIZES {
            let shortest = self.split(Some(self.budget * percent / 100))?.err();
            if let Some(bytes) = shortest {
                self.split(Some(bytes))?.map_err(|_| format!("no mini of {bytes} bytes"))?;
            }
            if let Some(attempt) = self.attempt(&prompts[..TRIED_PROMPTS.min(prompts.len())])? {
                if attempt.token_bytes < least {
                    least = attempt.token_bytes;
                    rename(&self.mini, &best)?;
                }
                tried.push(attempt);
            }
            if shortest.is_some() || tried.len() - begin == TRIED {
                break;
            }
        }
        if tried.len() > begin {
            rename(&best, &self.mini)?;
        }
        Ok(tried.len() > begin)
    }

    /// What a token reads with the mini that is there; `None` where the budget has no room for it.
    fn attempt(&self, prompts: &[Prompt]) -> Outcome<Option<Tried>> {
        let mut sums = Sums::default();
        for prompt in prompts {
            let way = Way { mode: "speculative", ..Way::EXACT };
            match self.measure(prompt, way, &mut sums)? {
                Ok(_) => {}
                Err(why) if why.contains("the smallest possible one is") => return Ok(None),
                Err(why) => return Err(why),
            }
        }
        let (case, mini_bytes) = (self.case.name.to_owned(), length(&self.mini)?);
        Ok(Some(Tried { case, mini_bytes, token_bytes: sums.token_bytes() }))
    }

    /// What mode auto does with the default mini.
    pub fn auto(&self, percent: u64) -> Outcome<Auto> {
        self.split(None)?.map_err(|_| "there is no default mini")?;
        let budget_bytes = percent * length(&self.source)? / 100;
        let mut command = Command::new(self.cgraph);
        command.arg("run").arg(&self.mini).args(["-p", "Hello", "-n", "1", "--json", "-q", "--threads", "2"]);
        let text = capture(command.args(["--ctx", "256", "--memory", &budget_bytes.to_string()]))?;
        let report: Value = serde_json::from_str(&text).map_err(|e| format!("no JSON ({e}): {text}"))?;
        let [mode, reason] =
            ["mode", "mode_reason"].map(|key| report[key].as_str().unwrap_or_default().to_owned());
        Ok(Auto { budget_bytes, mini_bytes: length(&self.mini)?, mode, reason })
    }
}

/// The length that `cgraph split` names as the shortest.
fn shortest(errors: &str) -> Option<u64> {
    let (_, rest) = errors.split_once("the smallest is ")?;
    rest.split_whitespace().next()?.parse().ok()
}

fn rename(from: &Path, to: &Path) -> Outcome {
    fs::rename(from, to).map_err(|e| format!("cannot rename {}: {e}", from.display()))
}

#[cfg(test)]
mod tests {
    use super::shortest;

    #[test]
    fn the_shortest_mini_is_read() {
        let error =
            "a mini of 5 bytes is not possible with --light auto; the smallest is 73231599 bytes: rows";
        assert_eq!(shortest(error), Some(73_231_599));
        assert_eq!(shortest("no such file"), None);
    }
}

//! The results of checks that are not test runners of their own.

use crate::shell::Outcome;

/// How many checks passed, and what is wrong with each of the others.
#[derive(Debug, Default)]
pub struct Verdict {
    pub good: u64,
    pub bad: Vec<String>,
}

impl Verdict {
    /// Says how the checks called `name` went, where they are all that was asked for.
    pub fn conclude(self, name: &str) -> Outcome {
        let Self { good, bad } = self;
        if bad.is_empty() {
            println!("{name}: {good} passed, 0 failed");
            return Ok(());
        }
        Err(format!("{name}: {good} passed, {} failed:\n  {}", bad.len(), bad.join("\n  ")))
    }
}

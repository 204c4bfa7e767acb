//! What the program says besides its results: progress bars and remarks, on stderr.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use capsulegraph::Error;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use serde::Serialize;

use crate::failure::Failure;

/// How much is said.
#[derive(Clone, Copy, Debug)]
pub struct Ui {
    quiet: bool,
    verbose: bool,
}

impl Ui {
    pub fn new(quiet: bool, verbose: bool) -> Self {
        Self { quiet, verbose }
    }

    /// Whether `-q` was given.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether `-v` was given.
    pub fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// A line on stderr, with `-v` only.
    pub fn remark(&self, text: &str) {
        if self.verbose {
            say(&format!("{text}\n"));
        }
    }

    /// A line on stderr, unless `-q` was given: something that a person would want to know.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            say(&format!("cgraph: note: {text}\n"));
        }
    }

    /// A bar of bytes, seen on a terminal only.
    pub fn bytes_bar(&self, what: &str) -> ProgressBar {
        self.bar(what, "{msg:12} {bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}")
    }

    /// A bar of things counted, seen on a terminal only.
    pub fn count_bar(&self, what: &str) -> ProgressBar {
        self.bar(what, "{msg:12} {bar:30} {pos}/{len} {eta}")
    }

    fn bar(&self, what: &str, template: &str) -> ProgressBar {
        let seen = !self.quiet && io::stderr().is_terminal();
        let target = if seen { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(0), target).with_style(style);
        // A bar that an error cuts short must not stay before the message.
        let bar = bar.with_finish(ProgressFinish::AndClear);
        bar.set_message(what.to_owned());
        bar
    }
}

/// Tells a bar how far a job is.
pub fn show(bar: &ProgressBar, done: u64, total: u64) {
    bar.set_length(total);
    bar.set_position(done);
}

/// Writes to stderr. Where that cannot be written there is nobody to tell, and the work goes on.
pub fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Writes results to stdout.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::output)
}

/// Writes a value to stdout as JSON.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::Internal(format!("the result cannot be written as JSON: {e}")))?;
    print(&(text + "\n"))
}

/// Reads a text file.
pub fn read_text(path: &Path) -> Result<String, Failure> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Error::malformed(
            path.display().to_string(),
            format!("it is not UTF-8 at byte {at}; save it as UTF-8"),
        )
    })?;
    Ok(without_mark(text))
}

/// A text without the mark of UTF-8 that editors and shells on Windows put before it.
pub fn without_mark(mut text: String) -> String {
    if text.starts_with('\u{feff}') {
        text.remove(0);
    }
    text
}

/// A number of things: `1 capsule`, `2 capsules`.
pub fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The ending that a source's converted file gets.
pub fn converted_name(source: &Path) -> PathBuf {
    source.with_extension("cgraph")
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn things_are_counted() {
        let words = [0, 1, 2].map(|count| counted(count, "capsule"));
        assert_eq!(words, ["0 capsules", "1 capsule", "2 capsules"]);
    }
}

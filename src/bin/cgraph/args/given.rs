//! Which options were given: commands run language models and ONNX models, and some options are for one kind alone.

use std::path::Path;

use capsulegraph::{Error, Result};
use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory};

use super::Cli;

/// An option by the name of its field, and what serves in its place.
type Row = (&'static str, &'static str);

const TENSORS: &str = "tensors go in: --input NAME=F.npy";
const NO_TEXT: &str = "it makes tensors, no text: --output NAME=F.npy writes them";
const NO_CONTEXT: &str = "the inputs' shapes say how much is computed at once";
const NO_CACHE: &str = "it has no KV cache";
const MADE_UP: &str = "inputs are as long as --input or --dim makes them";
const OWN_THREADS: &str = "its threads are ONNX Runtime's: --threads";

/// Of language models.
const LANGUAGE: &[Row] = &[
    ("prompt", TENSORS),
    ("prompt_file", TENSORS),
    ("chat", TENSORS),
    ("system", TENSORS),
    ("n", NO_TEXT),
    ("temperature", NO_TEXT),
    ("top_k", NO_TEXT),
    ("top_p", NO_TEXT),
    ("min_p", NO_TEXT),
    ("repeat_penalty", NO_TEXT),
    ("seed", NO_TEXT),
    ("stop", NO_TEXT),
    ("batch", NO_CONTEXT),
    ("ctx", NO_CONTEXT),
    ("kv_type", NO_CACHE),
    ("no_lookup", "it guesses no tokens"),
    ("processors", OWN_THREADS),
    ("priority", OWN_THREADS),
    ("pass", MADE_UP),
    ("depth", MADE_UP),
    ("disk", "no times are told of it"),
];

/// Those of language models that a benchmark has with another meaning.
const BENCH: &[Row] = &[("prompt", MADE_UP), ("n", MADE_UP)];

const NO_RUNTIME: &str = "ONNX Runtime has no part in it";

/// Of ONNX models.
const ONNX: &[Row] = &[
    ("input", "it takes a prompt: -p TEXT"),
    ("output", "its text goes to standard output; --report OUT.json writes it to a file"),
    ("prepack", NO_RUNTIME),
    ("optimization", NO_RUNTIME),
    ("onnxruntime", NO_RUNTIME),
    ("dim", "-p N and -n N say how many tokens"),
];

/// The options of a command that stood on the command line.
#[derive(Clone, Debug, Default)]
pub struct Given {
    command: String,
    /// Field and how a person writes it, such as `--ctx`.
    options: Vec<(String, String)>,
}

impl Given {
    /// Of the command that `matches` is of.
    pub fn of(matches: &ArgMatches) -> Self {
        let Some((name, matches)) = matches.subcommand() else { return Self::default() };
        let known = Cli::command();
        let known = known.get_subcommands().find(|command| command.get_name() == name);
        let mut options = Vec::new();
        for arg in known.into_iter().flat_map(|command| command.get_arguments()) {
            let id = arg.get_id().as_str();
            let there = matches.ids().any(|known| known.as_str() == id);
            if !there || matches.value_source(id) != Some(ValueSource::CommandLine) {
                continue;
            }
            let long = arg.get_long().map(|long| format!("--{long}"));
            if let Some(flag) = long.or_else(|| arg.get_short().map(|short| format!("-{short}"))) {
                options.push((id.to_owned(), flag));
            }
        }
        Self { command: name.to_owned(), options }
    }

    /// Refuses what only a language model has a use for.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] that says of each such option what serves in its place.
    pub fn refuse_for_onnx(&self, file: &Path) -> Result<()> {
        let own: &[Row] = if self.command == "bench" { BENCH } else { &[] };
        self.refuse(file, "an ONNX model", &[own, LANGUAGE].concat())
    }

    /// Refuses what only an ONNX model has a use for.
    ///
    /// # Errors
    /// As [`refuse_for_onnx`](Self::refuse_for_onnx).
    pub fn refuse_for_language(&self, file: &Path) -> Result<()> {
        self.refuse(file, "a language model", ONNX)
    }

    fn refuse(&self, file: &Path, what: &str, rows: &[Row]) -> Result<()> {
        let mut wrong: Vec<(&str, Vec<&str>)> = Vec::new();
        for (id, flag) in &self.options {
            let Some((_, instead)) = rows.iter().find(|(own, _)| own == id) else { continue };
            match wrong.iter_mut().find(|(own, _)| own == instead) {
                Some((_, flags)) => flags.push(flag),
                None => wrong.push((instead, vec![flag])),
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let parts: Vec<String> =
            wrong.iter().map(|(instead, flags)| format!("{} ({instead})", flags.join(", "))).collect();
        Err(Error::InvalidArgument(format!(
            "{}: it is {what}, which has no use for {}",
            file.display(),
            parts.join(", ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(args: &[&str]) -> Given {
        Given::of(&Cli::command().try_get_matches_from(args).unwrap())
    }

    #[test]
    fn every_option_of_these_commands_is_known_by_its_kind() {
        // What both kinds of models take; an option that is added must be put somewhere.
        let both = [
            "file", "mode", "full", "memory", "threads", "report", "json", "repeat", "quiet", "verbose",
            "help",
        ];
        let command = Cli::command();
        for name in ["run", "bench", "plan"] {
            let known = command.get_subcommands().find(|command| command.get_name() == name).unwrap();
            for arg in known.get_arguments().map(|arg| arg.get_id().as_str()) {
                let rows = LANGUAGE.iter().chain(ONNX).filter(|(id, _)| *id == arg).count();
                assert_eq!(rows + usize::from(both.contains(&arg)), 1, "{name} {arg}");
            }
        }
    }

    #[test]
    fn what_was_given_is_told_from_defaults() {
        let file = Path::new("m.cgraph");
        let run = given(&[
            "cgraph", "run", "m.cgraph", "--memory", "1GiB", "--ctx", "8", "-n", "0", "--batch", "0",
        ]);
        let why = run.refuse_for_onnx(file).unwrap_err().to_string();
        assert_eq!(
            why,
            format!(
                "m.cgraph: it is an ONNX model, which has no use for -n ({NO_TEXT}), --batch, --ctx ({NO_CONTEXT})"
            )
        );
        assert!(run.refuse_for_language(file).is_ok());
        let bench = given(&["cgraph", "bench", "m.cgraph", "-p", "512", "--dim", "n=1", "--prepack", "auto"]);
        let why = bench.refuse_for_onnx(file).unwrap_err().to_string();
        assert!(why.ends_with(&format!("-p ({MADE_UP})")), "{why}");
        let why = bench.refuse_for_language(file).unwrap_err().to_string();
        assert!(why.contains("--prepack (") && why.contains("--dim (-p N"), "{why}");
        for args in [&["cgraph", "run", "m.cgraph", "--threads", "2"][..], &["cgraph", "bench", "m.cgraph"]] {
            let given = given(args);
            assert!(given.refuse_for_onnx(file).is_ok() && given.refuse_for_language(file).is_ok());
        }
    }
}

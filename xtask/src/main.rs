//! The project's own commands: `cargo xtask COMMAND`. Each installs what it needs and works in a fresh clone.

mod bench;
mod demo;
mod dist;
mod fuzz;
mod setup;
mod shell;
mod test;

use std::process::ExitCode;

const HELP: &str = "cargo xtask COMMAND

  demo              gets a small real model, converts, splits, answers a prompt, prints the report
  test              lints and runs every test; prints the counts
  bench [--peers]   measures speed and agreement; with --peers against llama.cpp, built from PyPI for this CPU
  dist              an archive of library, header and command line for this system in target/dist
  fuzz [SECONDS]    runs every fuzz target for that long (default 60)
  bless             rewrites the generated files that tests compare: header, symbols, schema, tables
  setup             only installs what the other commands need";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    let outcome = match (args.first().map(String::as_str), rest.as_slice()) {
        (Some("demo"), []) => demo::run(),
        (Some("test"), []) => test::run(),
        (Some("bench"), []) => bench::run(false),
        (Some("bench"), ["--peers"]) => bench::run(true),
        (Some("dist"), []) => dist::run(),
        (Some("fuzz"), []) => fuzz::run("60"),
        (Some("fuzz"), [seconds]) => fuzz::run(seconds),
        (Some("bless"), []) => test::bless(),
        (Some("setup"), []) => setup::all(),
        (Some("help" | "--help" | "-h"), _) => {
            println!("{HELP}");
            Ok(())
        }
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

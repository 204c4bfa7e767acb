//! `cgraph`: the command line of CapsuleGraph. Options and output live here; the work is the library's.

mod args;
mod bench;
mod chat;
mod convert;
mod eval;
mod export;
mod failure;
mod fetch;
mod inspect;
mod interrupt;
mod outputs;
mod plan;
mod quote;
mod run;
mod session;
mod size;
mod split;
mod tensors;
mod tokenize;
mod ui;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use args::{Cli, Command, Given};
use failure::Failure;
use ui::Ui;

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let ui = Ui::new(cli.quiet, cli.verbose);
    match dispatch(cli.command, &Given::of(&matches), &ui) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn dispatch(command: Command, given: &Given, ui: &Ui) -> Result<(), Failure> {
    let cancel = interrupt::install()?;
    match command {
        Command::Convert(args) => convert::convert(args, ui, &cancel),
        Command::Split(args) => split::split(args, ui, &cancel),
        Command::Run(args) => run::run(&args, given, ui, &cancel),
        Command::Chat(args) => chat::chat(&args, ui, &cancel),
        Command::Eval(args) => eval::eval(&args, ui, &cancel),
        Command::Tokenize(args) => tokenize::tokenize(args),
        Command::Export(args) => export::export(&args, ui, &cancel),
        Command::Fetch(args) => fetch::fetch(args, ui, &cancel),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Verify(args) => verify::verify(args, ui, &cancel),
        Command::Bench(args) => bench::bench(&args, given, ui, &cancel),
        Command::Plan(args) => plan::plan(&args, given, &cancel),
    }
}

//! The command line that was built with the tests.

use std::process::Command;

/// It, by the emulator that the tests run in, if any: `CAPSULEGRAPH_TEST_EMULATOR`, words between spaces.
pub fn cgraph() -> Command {
    let emulator = std::env::var("CAPSULEGRAPH_TEST_EMULATOR").unwrap_or_default();
    let mut words = emulator.split_whitespace().chain([env!("CARGO_BIN_EXE_cgraph")]);
    // There is one at least.
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}

//! The command line that was built with the tests.

use std::process::Command;

/// It, by the emulator that the tests run in, if any: `CAPSULEGRAPH_TEST_EMULATOR`.
pub fn cgraph() -> Command {
    let program = env!("CARGO_BIN_EXE_cgraph");
    let Some(emulator) = std::env::var_os("CAPSULEGRAPH_TEST_EMULATOR") else { return Command::new(program) };
    let mut command = Command::new(emulator);
    command.arg(program);
    command
}

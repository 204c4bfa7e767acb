//! Running programs, and where things are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What went wrong, for a person.
pub type Outcome<T = ()> = Result<T, String>;

/// The checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// Cargo's target folder.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Where xtask keeps what it downloads and builds.
pub fn cache() -> PathBuf {
    target().join("xtask")
}

/// Any Python of the system.
pub fn python() -> Command {
    Command::new(if cfg!(windows) { "python" } else { "python3" })
}

/// The cargo that runs us.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

fn describe(command: &Command) -> String {
    // An argument of several lines is a script; its first words say enough.
    let args = command.get_args().map(|a| match a.to_string_lossy() {
        text if text.contains('\n') => "(script)".into(),
        text => text,
    });
    std::iter::once(command.get_program().to_string_lossy()).chain(args).collect::<Vec<_>>().join(" ")
}

/// Runs to success, output shown.
pub fn run(command: &mut Command) -> Outcome {
    println!("$ {}", describe(command));
    let status = command.status().map_err(|e| format!("cannot start {}: {e}", describe(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{} failed: {status}", describe(command))) }
}

/// Runs to success and returns what was printed to stdout.
pub fn capture(command: &mut Command) -> Outcome<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("cannot start {}: {e}", describe(command)))?;
    if !output.status.success() {
        return Err(format!("{} failed: {}", describe(command), output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("{} printed no UTF-8", describe(command)))
}

/// Folders of this machine that compilers write into what they build, and what releases have in their place.
pub fn places() -> Vec<(PathBuf, &'static str)> {
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo = cargo.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let crates = cargo.map(|cargo| (cargo.join("registry/src"), "crates"));
    crates.into_iter().chain([(root(), "capsulegraph")]).collect()
}

/// What a compiler is told so that it writes none of them.
pub fn remapped() -> String {
    let one = |(from, to): &(PathBuf, &str)| format!("--remap-path-prefix={}={to}", from.display());
    places().iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Whether a program of this name can be started.
pub fn exists(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Whether a command can be started and succeeds, in silence.
pub fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

//! A process run to its end, and what it read from the disk by the kernel's own account.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::shell::Outcome;

/// How often a running process is looked at.
pub const LOOK: Duration = Duration::from_millis(5);

/// What a process left.
#[derive(Debug)]
pub struct Ended {
    /// Standard output, where it ended well.
    pub output: Option<String>,
    /// Standard error.
    pub errors: String,
    /// Bytes that it had read from the disk when it ended.
    pub read_bytes: u64,
}

/// Runs a process that prints less than a pipe holds.
pub fn run(command: &mut Command) -> Outcome<Ended> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let name = command.get_program().to_string_lossy().into_owned();
    let child = child.map_err(|e| format!("cannot start {name}: {e}"))?;
    let read_bytes = watch(&child);
    let output = child.wait_with_output().map_err(|e| format!("cannot wait for {name}: {e}"))?;
    let [text, errors] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    Ok(Ended { output: output.status.success().then_some(text), errors, read_bytes })
}

/// Waits until a process has ended, and gives the bytes that it read from the disk: a process that nobody has waited for
/// yet still has its account.
fn watch(child: &Child) -> u64 {
    let folder = PathBuf::from(format!("/proc/{}", child.id()));
    let mut read = 0;
    loop {
        let account = fs::read_to_string(folder.join("io")).unwrap_or_default();
        read = read_bytes(&account).map_or(read, |bytes| bytes.max(read));
        let state = fs::read_to_string(folder.join("stat")).unwrap_or_default();
        let ended = state.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'));
        if ended {
            return read;
        }
        thread::sleep(LOOK);
    }
}

/// The bytes that a process's account says it read from the disk.
fn read_bytes(account: &str) -> Option<u64> {
    account.lines().find_map(|line| line.strip_prefix("read_bytes: "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{read_bytes, run};
    use std::process::Command;

    #[test]
    fn the_account_is_read() {
        let account = "rchar: 1\nsyscr: 2\nread_bytes: 4096\nwrite_bytes: 8\n";
        assert_eq!(read_bytes(account), Some(4096));
        assert_eq!(read_bytes("rchar: 1\n"), None);
    }

    #[test]
    fn a_process_leaves_output_or_errors() {
        let ended = |script: &str| run(Command::new("sh").args(["-c", script])).unwrap();
        assert_eq!(ended("echo out").output.as_deref(), Some("out\n"));
        let failed = ended("echo why >&2; exit 1");
        assert_eq!((failed.output, failed.errors.as_str()), (None, "why\n"));
    }
}

//! A memory cgroup for one process: a bound that the kernel holds, and what it counted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use super::account::{self, LOOK};
use crate::shell::Outcome;

/// Where version 1 keeps its memory controller, and version 2 everything.
const VERSION_1: &str = "/sys/fs/cgroup/memory";
const VERSION_2: &str = "/sys/fs/cgroup";

/// A cgroup, until it is dropped.
#[derive(Debug)]
pub struct Cgroup {
    folder: PathBuf,
    peak: &'static str,
}

/// What a process did in a cgroup.
#[derive(Debug)]
pub struct Finished {
    /// Standard output, where it ended well.
    pub output: Option<String>,
    /// Bytes that it had read from the disk when it ended, by the kernel's own account.
    pub read_bytes: u64,
    /// Most memory of the cgroup, page cache included.
    pub peak_bytes: u64,
}

impl Cgroup {
    /// A cgroup of at most `limit` bytes of memory.
    pub fn new(limit: u64) -> Outcome<Self> {
        let name = format!("capsulegraph-{}", std::process::id());
        let [(base, bound, peak)] = if Path::new(VERSION_1).join("cgroup.procs").exists() {
            [(VERSION_1, "memory.limit_in_bytes", "memory.max_usage_in_bytes")]
        } else {
            // Fails where the controller is on already.
            let _ = fs::write(Path::new(VERSION_2).join("cgroup.subtree_control"), "+memory");
            [(VERSION_2, "memory.max", "memory.peak")]
        };
        let folder = Path::new(base).join(name);
        let failed = |e: std::io::Error| {
            format!("cannot make the memory cgroup {} ({e}); the memory table needs root", folder.display())
        };
        if !folder.exists() {
            fs::create_dir(&folder).map_err(failed)?;
        }
        let cgroup = Self { folder, peak };
        fs::write(cgroup.folder.join(bound), limit.to_string())
            .map_err(|e| format!("cannot set {bound} of {}: {e}", cgroup.folder.display()))?;
        Ok(cgroup)
    }

    /// Runs `command` in the cgroup to its end. A shell enters it first, so that all memory of the process counts.
    pub fn run(&self, command: &Command) -> Outcome<Finished> {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.folder.join("cgroup.procs"));
        shell.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            if let Some(value) = value {
                shell.env(key, value);
            }
        }
        let ended = account::run(&mut shell)?;
        let peak = fs::read_to_string(self.folder.join(self.peak)).unwrap_or_default();
        Ok(Finished {
            output: ended.output,
            read_bytes: ended.read_bytes,
            peak_bytes: peak.trim().parse().unwrap_or(0),
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel lets the last process go a moment after its end.
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            thread::sleep(LOOK);
        }
    }
}

//! A memory cgroup for one process: a bound that the kernel holds, and what it counted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::shell::Outcome;

/// Where version 1 keeps its memory controller, and version 2 everything.
const VERSION_1: &str = "/sys/fs/cgroup/memory";
const VERSION_2: &str = "/sys/fs/cgroup";
/// How often a running process is looked at.
const LOOK: Duration = Duration::from_millis(5);

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
        let child = shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.map_err(|e| format!("cannot start a shell: {e}"))?;
        let read_bytes = watch(&child);
        let output = child.wait_with_output().map_err(|e| format!("cannot wait: {e}"))?;
        let peak = fs::read_to_string(self.folder.join(self.peak)).unwrap_or_default();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(Finished {
            output: output.status.success().then_some(text),
            read_bytes,
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

/// Waits until a process has ended, and gives the bytes that it read from the disk: a process that nobody has waited for
/// yet still has its account.
fn watch(child: &Child) -> u64 {
    let folder = PathBuf::from(format!("/proc/{}", child.id()));
    let mut read = 0;
    loop {
        let account = fs::read_to_string(folder.join("io")).unwrap_or_default();
        let field = account.lines().find_map(|line| line.strip_prefix("read_bytes: "));
        read = field.and_then(|text| text.trim().parse().ok()).map_or(read, |bytes: u64| bytes.max(read));
        let state = fs::read_to_string(folder.join("stat")).unwrap_or_default();
        let ended = state.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'));
        if ended {
            return read;
        }
        thread::sleep(LOOK);
    }
}

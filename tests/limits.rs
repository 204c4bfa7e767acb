//! What converting and opening a large model costs, and what killing a conversion leaves: the real program on a
//! synthetic file.
//!
//! The file has CAPSULEGRAPH_TEST_MEGABYTES megabytes (600 where it is not set) and is removed afterwards.
#![allow(clippy::expect_used, clippy::unwrap_used)]
#![cfg(all(target_os = "linux", feature = "cli"))]

#[path = "support/built.rs"]
mod built;
mod support;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use capsulegraph::generate::model::{Model, ModelOptions};
use capsulegraph::kernels::encoding::by_ggml_type;
use capsulegraph::store::Origin;
use support::TinyModel;

/// Largest peak of resident memory while converting, in kB, whatever the model's size.
const CONVERT_PEAK_KB: i64 = 300 << 10;
/// Longest time to open with a warm cache.
const OPEN_TIME: Duration = Duration::from_millis(50);
/// Anonymous memory that opening may add, in kB.
const OPEN_ANONYMOUS_KB: i64 = 20 << 10;

/// Width of the feed-forward layer of the small model whose front becomes the large one's: no other dimension.
const MARKER: usize = 96;

fn megabytes() -> usize {
    match std::env::var("CAPSULEGRAPH_TEST_MEGABYTES") {
        Ok(text) => {
            text.parse().unwrap_or_else(|_| panic!("CAPSULEGRAPH_TEST_MEGABYTES={text} is no number"))
        }
        Err(_) => 600,
    }
}

/// Writes a GGUF model of about `megabytes` whose weights are a hole in the file, which reads as zeros: the front of
/// a small model, with another width of the feed-forward layer.
fn write_large(path: &Path, megabytes: usize) -> u64 {
    let model = TinyModel {
        width: 256,
        ffn: MARKER,
        blocks: 8,
        heads: 8,
        head_dim: 32,
        encoding: "q8_0",
        ..TinyModel::default()
    };
    // Three matrices a block, 34 bytes for 32 weights.
    let ffn = (megabytes * 1_000_000 / (model.blocks * 3 * model.width * 34 / 32)).next_multiple_of(32);
    let mut bytes = model.gguf();
    let word = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let key = b"llama.feed_forward_length\x04\0\0\0";
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len();
    bytes[at..at + 4].copy_from_slice(&(ffn as u32).to_le_bytes());
    let first = b"token_embd.weight";
    let mut at = bytes.windows(first.len()).position(|w| w == first).unwrap() - 8;
    let mut offset = 0;
    for _ in 0..word(&bytes, 8) {
        let dims = at + 8 + word(&bytes, at) as usize;
        let count = bytes[dims] as usize;
        let mut elements = 1;
        for dim in 0..count {
            let place = dims + 4 + 8 * dim;
            if word(&bytes, place) == MARKER as u64 {
                bytes[place..place + 8].copy_from_slice(&(ffn as u64).to_le_bytes());
            }
            elements *= word(&bytes, place) as usize;
        }
        let kind = dims + 4 + 8 * count;
        bytes[kind + 4..kind + 12].copy_from_slice(&(offset as u64).to_le_bytes());
        let encoding = by_ggml_type(u32::from(bytes[kind])).unwrap();
        offset += encoding.row_bytes(elements).unwrap().next_multiple_of(32);
        at = kind + 12;
    }
    let data = at.next_multiple_of(32);
    bytes.truncate(data);
    let len = (data + offset) as u64;
    let mut file = File::create(path).unwrap();
    file.write_all(&bytes).unwrap();
    file.set_len(len).unwrap();
    len
}

fn converting(source: &Path) -> Child {
    built::cgraph()
        .args(["convert", "--no-mini"])
        .arg(source)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits for a child; gives its exit code and the peak of its resident memory in kB.
fn wait(child: &Child) -> (i32, i64) {
    let (mut status, pid) = (0, child.id() as libc::pid_t);
    // SAFETY: all-zero bytes are a valid `rusage`: it has integers only.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both places live until the call returns, and nothing else waits for this child.
    let waited = unsafe { libc::wait4(pid, &mut status, 0, &mut usage) };
    assert_eq!(waited, pid);
    (if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -1 }, usage.ru_maxrss)
}

/// A number of kB out of /proc/self/status.
fn status_kb(field: &str) -> i64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_else(|| panic!("no {field}"));
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Starts a conversion and sends it `signal` once it writes; the child is then gone.
#[allow(clippy::zombie_processes, reason = "`wait` waits for it, with its use of memory")]
fn interrupted(dir: &Path, signal: i32) {
    let child = converting(&dir.join("large.gguf"));
    let begun = Instant::now();
    while !names(dir).iter().any(|name| name.ends_with(".tmp")) {
        assert!(begun.elapsed() < Duration::from_secs(30), "the conversion does not begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: the child is not waited for yet, so its number is still its own.
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, signal) }, 0);
    assert_ne!(wait(&child).0, 0, "the signal came after the end");
}

/// One test: the process measures itself, and nothing else may run in it meanwhile.
#[test]
fn large_models_cost_little_memory_and_leave_nothing_behind() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (source, target) = (dir.path().join("large.gguf"), dir.path().join("large.cgraph"));
    let len = write_large(&source, megabytes());

    interrupted(dir.path(), libc::SIGTERM);
    assert_eq!(names(dir.path()), ["large.gguf"], "a terminated conversion cleans up");
    interrupted(dir.path(), libc::SIGKILL);
    assert_eq!(names(dir.path()).len(), 2, "a killed one can only leave its temporary file");
    assert!(!target.exists());

    let begun = Instant::now();
    let (code, peak) = wait(&converting(&source));
    println!("{} MB converted in {:.1?}; peak of {} MB", len / 1_000_000, begun.elapsed(), peak / 1024);
    assert_eq!(code, 0);
    assert_eq!(names(dir.path()), ["large.cgraph", "large.gguf"], "the killed one's file is gone too");
    assert!(peak < CONVERT_PEAK_KB, "the conversion took {peak} kB");
    assert!(std::fs::metadata(&target).unwrap().len() > len * 99 / 100);

    // The first opening adds what opening adds, and warms the cache; the second one tells the time.
    let open = || Model::open(&Origin::Path(target.clone()), &ModelOptions::default()).unwrap();
    let before = status_kb("RssAnon");
    let first = open();
    let added = status_kb("RssAnon") - before;
    let begun = Instant::now();
    let model = open();
    let took = begun.elapsed();
    drop(first);
    println!("opened in {took:.2?}, {added} kB added");
    assert!(took < OPEN_TIME, "opening took {took:?}");
    assert!(added < OPEN_ANONYMOUS_KB, "opening added {added} kB");
    assert_eq!(model.decoder().params().block_count, 8);
}

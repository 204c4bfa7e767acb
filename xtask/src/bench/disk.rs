//! The disk and the page cache: what they do at best, and how a file gets out of the cache.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Instant;

use rustix::fs::{Advice, OFlags, fadvise};

use crate::shell::{Outcome, capture};

/// Bytes of one read or write.
const BLOCK: usize = 4 << 20;
/// Alignment that direct reads need on any disk.
const ALIGNMENT: usize = 4096;
/// Reads that are under way at once.
const QUEUES: [usize; 4] = [1, 2, 4, 8];
/// Bytes that one measurement of direct reads takes at most.
const READ_BYTES: u64 = 1 << 30;

fn failed(what: &str, path: &Path, error: impl std::fmt::Display) -> String {
    format!("cannot {what} {}: {error}", path.display())
}

/// Takes a file out of the page cache, and makes sure that it is out.
pub fn evict(path: &Path) -> Outcome {
    let file = File::open(path).map_err(|e| failed("open", path, e))?;
    // A page that is not written yet would stay.
    file.sync_all().map_err(|e| failed("sync", path, e))?;
    fadvise(&file, 0, None, Advice::DontNeed).map_err(|e| failed("evict", path, e))?;
    let mut fincore = Command::new("fincore");
    let text = capture(fincore.args(["--bytes", "--noheadings", "--output", "RES"]).arg(path))?;
    let cached: u64 = text.trim().parse().map_err(|e| format!("fincore printed {text:?}: {e}"))?;
    // Readahead of a page or two beside a mapping that just ended is no help to anyone.
    if cached > BLOCK as u64 {
        return Err(format!("{cached} bytes of {} stay in the page cache", path.display()));
    }
    Ok(())
}

/// Brings a file into the page cache.
pub fn warm(path: &Path) -> Outcome {
    let mut file = File::open(path).map_err(|e| failed("open", path, e))?;
    let mut block = vec![0; BLOCK];
    while file.read(&mut block).map_err(|e| failed("read", path, e))? > 0 {}
    Ok(())
}

/// Bytes a second of reads past the page cache, at the best of some numbers of reads at once.
pub fn direct_read(path: &Path) -> Outcome<f64> {
    let mut best = 0f64;
    for queue in QUEUES {
        best = best.max(read_with(path, queue)?);
    }
    Ok(best)
}

fn read_with(path: &Path, queue: usize) -> Outcome<f64> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::DIRECT.bits().cast_signed())
        .open(path)
        .map_err(|e| failed("open for direct reads", path, e))?;
    let length = file.metadata().map_err(|e| failed("stat", path, e))?.len();
    let blocks = length.min(READ_BYTES).div_ceil(BLOCK as u64);
    let begun = Instant::now();
    let read = thread::scope(|scope| {
        let reader = |first: usize| {
            let file = &file;
            move || -> std::io::Result<u64> {
                let mut buffer = vec![0u8; BLOCK + ALIGNMENT];
                let start = buffer.as_ptr().align_offset(ALIGNMENT);
                let mut total = 0;
                for block in (first as u64..blocks).step_by(queue) {
                    total += file.read_at(&mut buffer[start..start + BLOCK], block * BLOCK as u64)? as u64;
                }
                Ok(total)
            }
        };
        let readers: Vec<_> = (0..queue).map(|first| scope.spawn(reader(first))).collect();
        readers.into_iter().map(|r| r.join().map_err(|_| "a reader panicked".to_owned())).collect::<Vec<_>>()
    });
    let seconds = begun.elapsed().as_secs_f64();
    let mut total = 0;
    for part in read {
        total += part?.map_err(|e| failed("read", path, e))?;
    }
    Ok(total as f64 / seconds)
}

/// Bytes a second of writing a new file of `bytes` at `path` until it is on the disk. The file is removed.
pub fn sequential_write(path: &Path, bytes: u64) -> Outcome<f64> {
    let block: Vec<u8> = (0..BLOCK).map(|i| ((i * i) >> 7) as u8).collect();
    let mut file = File::create(path).map_err(|e| failed("create", path, e))?;
    let begun = Instant::now();
    let blocks = bytes.div_ceil(BLOCK as u64);
    for _ in 0..blocks {
        file.write_all(&block).map_err(|e| failed("write", path, e))?;
    }
    file.sync_data().map_err(|e| failed("sync", path, e))?;
    let seconds = begun.elapsed().as_secs_f64();
    fs::remove_file(path).map_err(|e| failed("remove", path, e))?;
    Ok((blocks * BLOCK as u64) as f64 / seconds)
}

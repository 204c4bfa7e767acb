//! The disk and the page cache: what they do at best, and how a file gets out of the cache. Made of calls that Linux alone
//! has; on other systems disk/elsewhere.rs is in its place.

mod block;
mod timing;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;

use rustix::fs::{Advice, FallocateFlags, OFlags, fadvise, fallocate};

use super::reads::Pages;
use crate::shell::{Outcome, capture};
use block::Block;
pub use timing::time_reads;

/// Bytes of one read or write.
const BLOCK: usize = 4 << 20;
/// Direct reads that are under way at once.
const READS: [usize; 4] = [1, 2, 4, 8];
/// Bytes that one measurement of direct reads takes at most.
const READ_BYTES: u64 = 1 << 30;
/// Blocks between two requests to bring what was written to the disk.
const SYNC_STEP: u64 = 8;

fn failed(what: &str, path: &Path, error: impl std::fmt::Display) -> String {
    format!("cannot {what} {}: {error}", path.display())
}

/// Whether anything can be measured on this system.
pub fn supported() -> Outcome {
    Ok(())
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

/// A file to be read past the page cache.
fn open_direct(path: &Path) -> Outcome<File> {
    direct(OpenOptions::new().read(true), path)
}

/// Writes a new file of `bytes` at `path`.
fn write(path: &Path, bytes: u64) -> Outcome {
    write_direct(path, bytes.div_ceil(BLOCK as u64))
}

/// Bytes a second of reads past the page cache, at the best of some numbers of reads at once.
pub fn direct_read(path: &Path) -> Outcome<f64> {
    let file = open_direct(path)?;
    let length = file.metadata().map_err(|e| failed("stat", path, e))?.len();
    let blocks = length.min(READ_BYTES).div_ceil(BLOCK as u64);
    let mut best = 0f64;
    for queue in READS {
        let begun = Instant::now();
        let bytes = in_turn(queue, blocks, &|block, at| file.read_at(block, at));
        let bytes = bytes.map_err(|e| failed("read", path, e))?;
        best = best.max(bytes as f64 / begun.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Bytes a second of writing a new file of `bytes` at `path` until it is on the disk, at the better of two ways to
/// write. The file is removed.
pub fn sequential_write(path: &Path, bytes: u64) -> Outcome<f64> {
    let blocks = bytes.div_ceil(BLOCK as u64);
    let mut best = 0f64;
    for write in [write_buffered, write_direct] {
        let begun = Instant::now();
        write(path, blocks)?;
        let seconds = begun.elapsed().as_secs_f64();
        fs::remove_file(path).map_err(|e| failed("remove", path, e))?;
        best = best.max((blocks * BLOCK as u64) as f64 / seconds);
    }
    Ok(best)
}

/// Through the page cache. A second thread brings to the disk what is written while more of it is: left to itself
/// the system begins only when gigabytes are waiting, and the disk idles until then.
fn write_buffered(path: &Path, blocks: u64) -> Outcome {
    let mut file = File::create(path).map_err(|e| failed("create", path, e))?;
    let syncing = file.try_clone().map_err(|e| failed("open", path, e))?;
    let mut block = Block::new(BLOCK, Pages::Huge).map_err(|e| failed("write", path, e))?;
    let written = thread::scope(|scope| -> io::Result<()> {
        let (requests, wanted) = sync_channel(1);
        // What goes wrong here goes wrong again at the end.
        scope.spawn(move || wanted.iter().for_each(|()| drop(syncing.sync_data())));
        for number in 1..=blocks {
            file.write_all(block.bytes())?;
            if number % SYNC_STEP == 0 {
                // Where a request is waiting it covers this one.
                let _ = requests.try_send(());
            }
        }
        Ok(())
    });
    written.and_then(|()| file.sync_data()).map_err(|e| failed("write", path, e))
}

/// Past the page cache, one block after the other. Room is made first: writes that lengthen a file also wait for the
/// file system's own records.
fn write_direct(path: &Path, blocks: u64) -> Outcome {
    let file = direct(OpenOptions::new().write(true).create(true).truncate(true), path)?;
    fallocate(&file, FallocateFlags::empty(), 0, blocks * BLOCK as u64)
        .map_err(|e| failed("make room in", path, e))?;
    in_turn(1, blocks, &|block, at| file.write_all_at(block, at).map(|()| block.len()))
        .and_then(|_| file.sync_data())
        .map_err(|e| failed("write", path, e))
}

fn direct(options: &mut OpenOptions, path: &Path) -> Outcome<File> {
    let direct = options.custom_flags(OFlags::DIRECT.bits().cast_signed());
    direct.open(path).map_err(|e| failed("open for direct access", path, e))
}

/// Reads or writes a block at a place in a file; how many bytes of it.
type Access<'a> = dyn Fn(&mut [u8], u64) -> io::Result<usize> + Sync + 'a;

/// Every block of a file by one of `queue` threads in turn, each with memory of its own, in huge pages, which a disk reads
/// into fastest (docs/memory.md); all bytes.
fn in_turn(queue: usize, blocks: u64, access: &Access<'_>) -> io::Result<u64> {
    let worker = |first: usize| -> io::Result<u64> {
        let mut buffer = Block::new(BLOCK, Pages::Huge)?;
        let places = (first as u64..blocks).step_by(queue).map(|block| block * BLOCK as u64);
        places.map(|at| access(buffer.bytes(), at).map(|n| n as u64)).sum()
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..queue).map(|first| scope.spawn(move || worker(first))).collect();
        let ended = workers.into_iter().map(|worker| worker.join());
        ended.map(|end| end.unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))).sum()
    })
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, in_turn};
    use std::sync::Mutex;

    #[test]
    fn every_block_is_taken_once_and_errors_are_told() {
        let places = Mutex::new(Vec::new());
        let note = |block: &mut [u8], at: u64| {
            places.lock().unwrap().push(at / BLOCK as u64);
            Ok(block.len())
        };
        assert_eq!(in_turn(3, 7, &note).unwrap(), 7 * BLOCK as u64);
        places.lock().unwrap().sort_unstable();
        assert_eq!(*places.lock().unwrap(), [0, 1, 2, 3, 4, 5, 6]);
        assert!(
            in_turn(2, 3, &|_, at| if at > 0 { Err(std::io::ErrorKind::Other.into()) } else { Ok(1) })
                .is_err()
        );
    }
}

//! How the reads of ../reads.rs are made and measured.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use io_uring::{IoUring, opcode, types};
use libc::iovec;
use rustix::time::{ClockId, clock_gettime};

use super::block::Block;
use super::{evict, open_direct, write};
use crate::bench::reads::{DEPTHS, KINDS, Row, SIZES, SPAN, Way};
use crate::shell::Outcome;

/// Bytes of the file at least: a disk has caches of its own.
const FILE_BYTES: u64 = 1 << 30;

/// Every candidate that the kernel allows, measured in every round, and what it said to `io_uring` where it refused.
pub fn time_reads(folder: &Path, rounds: usize, say: &dyn Fn(&str)) -> Outcome<(Vec<Row>, Option<String>)> {
    let (path, ours) = subject(folder)?;
    let measured = of_file(&path, rounds, say);
    if ours {
        fs::remove_file(&path).map_err(|e| format!("cannot remove {}: {e}", path.display()))?;
    }
    measured
}

fn of_file(path: &Path, rounds: usize, say: &dyn Fn(&str)) -> Outcome<(Vec<Row>, Option<String>)> {
    evict(path)?;
    let file = open_direct(path)?;
    let len = file.metadata().map_err(|e| format!("cannot stat {}: {e}", path.display()))?.len();
    let refused = ring(1).err().map(|e| e.to_string());
    let mut rows = Vec::new();
    for size in SIZES {
        for depth in DEPTHS {
            for (way, pages) in KINDS {
                if way == Way::Threads || refused.is_none() {
                    rows.push(Row { way, pages, depth, size, rates: Vec::new(), costs: Vec::new() });
                }
            }
        }
    }
    let places = Places { next: AtomicU64::new(0), len };
    for round in 0..rounds {
        say(&format!("reads: round {} of {rounds}", round + 1));
        // Every other round the other way around: what comes before a candidate is no part of it.
        let count = rows.len();
        for number in 0..count {
            let row = &mut rows[if round % 2 == 0 { number } else { count - 1 - number }];
            sample(row, &file, &places).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        }
    }
    Ok((rows, refused))
}

/// The biggest file that the benchmark has by now, or else one that is written, and whether it was.
fn subject(folder: &Path) -> Outcome<(PathBuf, bool)> {
    let failed = |e: io::Error| format!("cannot list {}: {e}", folder.display());
    let mut best: Option<(u64, PathBuf)> = None;
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let len = entry.metadata().map_err(failed)?.len();
        if len >= FILE_BYTES && best.as_ref().is_none_or(|(most, _)| len > *most) {
            best = Some((len, entry.path()));
        }
    }
    if let Some((_, path)) = best {
        return Ok((path, false));
    }
    let path = folder.join("reads.bin");
    write(&path, FILE_BYTES)?;
    Ok((path, true))
}

/// Where reads go: on through the file with gaps as long as a read, as past weights that are pinned; each goes on where
/// the one before ended, so that none finds what another left in a cache of the disk.
struct Places {
    next: AtomicU64,
    len: u64,
}

impl Places {
    fn take(&self, size: usize) -> u64 {
        let (size, step) = (size as u64, 2 * size as u64);
        let at = self.next.fetch_add(step, Ordering::Relaxed) % (self.len - size);
        at / size * size
    }
}

fn sample(row: &mut Row, file: &File, places: &Places) -> io::Result<()> {
    let buffers = (0..row.depth).map(|_| Block::new(row.size, row.pages));
    let mut buffers = buffers.collect::<io::Result<Vec<Block>>>()?;
    let (begun, spent) = (Instant::now(), processor_time());
    let bytes = match row.way {
        Way::Threads => by_threads(file, places, &mut buffers)?,
        Way::IoUring => by_io_uring(file, places, &mut buffers)?,
    };
    let (seconds, spent) = (begun.elapsed().as_secs_f64(), processor_time() - spent);
    row.rates.push(bytes as f64 / seconds);
    row.costs.push(spent / bytes as f64);
    Ok(())
}

/// Seconds of processors that this process used, the system's work for it included.
fn processor_time() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn by_threads(file: &File, places: &Places, buffers: &mut [Block]) -> io::Result<u64> {
    let begun = Instant::now();
    let read_on = |buffer: &mut Block| -> io::Result<u64> {
        let (mut bytes, block) = (0, buffer.bytes());
        while begun.elapsed() < SPAN {
            bytes += file.read_at(block, places.take(block.len()))? as u64;
        }
        Ok(bytes)
    };
    thread::scope(|scope| {
        let readers: Vec<_> = buffers.iter_mut().map(|buffer| scope.spawn(move || read_on(buffer))).collect();
        let ended = readers.into_iter().map(|reader| reader.join());
        ended.map(|end| end.unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))).sum()
    })
}

fn ring(reads: usize) -> io::Result<IoUring> {
    IoUring::builder().setup_single_issuer().setup_coop_taskrun().build(reads as u32)
}

/// With the file and the buffers made known beforehand, which spares the kernel work at every read.
fn by_io_uring(file: &File, places: &Places, buffers: &mut [Block]) -> io::Result<u64> {
    let begun = Instant::now();
    let mut ring = ring(buffers.len())?;
    let part =
        |block: &mut Block| iovec { iov_base: block.bytes().as_mut_ptr().cast(), iov_len: block.len() };
    let parts: Vec<iovec> = buffers.iter_mut().map(part).collect();
    ring.submitter().register_files(&[file.as_raw_fd()])?;
    // SAFETY: the buffers outlive the ring, which is dropped with no read under way.
    unsafe { ring.submitter().register_buffers(&parts)? };
    let push = |ring: &mut IoUring, number: usize| {
        let iovec { iov_base: start, iov_len: len } = parts[number];
        let read = opcode::ReadFixed::new(types::Fixed(0), start.cast(), len as u32, number as u16);
        let entry = read.offset(places.take(len)).build().user_data(number as u64);
        // SAFETY: the buffer is as long as the read, is used by no other read until this one is complete, and outlives it.
        unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)
    };
    (0..parts.len()).try_for_each(|number| push(&mut ring, number))?;
    let (mut bytes, mut flying, mut failed) = (0, parts.len(), None);
    while flying > 0 {
        ring.submit_and_wait(1)?;
        let done: Vec<(u64, i32)> =
            ring.completion().map(|entry| (entry.user_data(), entry.result())).collect();
        for (number, result) in done {
            flying -= 1;
            match u64::try_from(result) {
                Ok(read) => bytes += read,
                Err(_) => failed = Some(io::Error::from_raw_os_error(-result)),
            }
            if failed.is_none() && begun.elapsed() < SPAN {
                push(&mut ring, number as usize)?;
                flying += 1;
            }
        }
    }
    failed.map_or(Ok(bytes), Err)
}

#[cfg(test)]
mod tests {
    use super::{AtomicU64, Places};

    #[test]
    fn places_are_whole_reads_inside_the_file() {
        let places = Places { next: AtomicU64::new(0), len: 10 * 4096 + 5 };
        let taken: Vec<u64> = (0..8).map(|_| places.take(4096) / 4096).collect();
        assert!(taken.iter().all(|at| *at <= 9), "{taken:?}");
        assert_eq!(taken[..4], [0, 2, 4, 6]);
    }
}

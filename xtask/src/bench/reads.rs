//! Direct reads of a big file: by threads that wait for theirs, and by one thread through `io_uring`; into pages of the
//! usual size and into huge ones; how many at once, how long each, what they cost.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, types};
use libc::iovec;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::block::{Block, Pages};
use super::disk;
use super::run::Run;
use super::tables;
use crate::shell::Outcome;

/// Reads under way at once.
const DEPTHS: [usize; 4] = [1, 2, 4, 8];
/// Bytes of a read.
const SIZES: [usize; 4] = [256 << 10, 1 << 20, 2 << 20, 4 << 20];
/// How long one candidate reads in a round.
const SPAN: Duration = Duration::from_millis(300);
/// Rounds, each of which measures every candidate.
pub const ROUNDS: usize = 7;
/// Bytes of the file at least: a disk has caches of its own.
const FILE_BYTES: u64 = 1 << 30;

/// Who waits for a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Way {
    Threads,
    IoUring,
}

/// The table's groups of lines.
const KINDS: [(Way, Pages); 4] = [
    (Way::Threads, Pages::Small),
    (Way::Threads, Pages::Huge),
    (Way::IoUring, Pages::Small),
    (Way::IoUring, Pages::Huge),
];

/// The samples of one candidate.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    way: Way,
    pages: Pages,
    depth: usize,
    size: usize,
    /// Bytes a second.
    rates: Vec<f64>,
    /// Seconds of a processor for a byte, the system's work included.
    costs: Vec<f64>,
}

/// What reading costs, and in which run that was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ReadResults {
    run: Run,
    rows: Vec<Row>,
    /// What the kernel said to `io_uring`, where it refused.
    refused: Option<String>,
}

impl ReadResults {
    /// Those of an earlier run, or none.
    pub fn load(path: &Path) -> Self {
        fs::read_to_string(path).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn save(&self, path: &Path) -> Outcome {
        let text = serde_json::to_string_pretty(self).map_err(|e| e.to_string())?;
        fs::write(path, text + "\n").map_err(|e| format!("cannot write {}: {e}", path.display()))
    }

    /// Measures every candidate in every round.
    pub fn measure(folder: &Path, rounds: usize, run: Run, say: &dyn Fn(&str)) -> Outcome<Self> {
        let (path, ours) = subject(folder)?;
        let measured = Self::of_file(&path, rounds, run, say);
        if ours {
            fs::remove_file(&path).map_err(|e| format!("cannot remove {}: {e}", path.display()))?;
        }
        measured
    }

    fn of_file(path: &Path, rounds: usize, run: Run, say: &dyn Fn(&str)) -> Outcome<Self> {
        disk::evict(path)?;
        let file = disk::open_direct(path)?;
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
                row.sample(&file, &places).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
            }
        }
        Ok(Self { run, rows, refused })
    }

    /// The table of docs/memory.md.
    pub fn table(&self) -> String {
        if self.is_empty() {
            return "Nothing is measured yet.\n".to_owned();
        }
        let Run { commit, date, machine, .. } = &self.run;
        let rounds = self.rows.first().map_or(0, |row| row.rates.len());
        let mut text = format!(
            "Commit {commit}, {date} UTC; {machine}. GB/s, and in brackets milliseconds of a processor for a GB; medians \
             of {rounds} rounds of {} s.\n\n",
            SPAN.as_secs_f64()
        );
        if let Some(reason) = &self.refused {
            let _ = writeln!(text, "The kernel refuses io_uring here: {reason}.\n");
        }
        let mut titles = vec!["reads".to_owned()];
        titles.extend(SIZES.map(|size| match size >> 20 {
            0 => format!("{} KiB", size >> 10),
            mega => format!("{mega} MiB"),
        }));
        let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
        let lines = KINDS.into_iter().flat_map(|kind| DEPTHS.map(|depth| (kind, depth)));
        let lines = lines.map(|((way, pages), depth)| {
            let mut name = match (way, depth) {
                (Way::Threads, 1) => "1 thread".to_owned(),
                (Way::Threads, _) => format!("{depth} threads"),
                (Way::IoUring, _) => format!("io_uring, {depth} in flight"),
            };
            if pages == Pages::Huge {
                name += ", huge pages";
            }
            let cell = |size| {
                let mut rows = self.rows.iter();
                let row = rows.find(|r| (r.way, r.pages, r.depth, r.size) == (way, pages, depth, size));
                row.map_or_else(
                    || "refused".to_owned(),
                    |row| format!("{:.2} ({:.0})", median(&row.rates) / 1e9, median(&row.costs) * 1e12),
                )
            };
            [name].into_iter().chain(SIZES.map(cell)).collect()
        });
        text += &tables::table(&titles, lines);
        text
    }
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
    disk::write(&path, FILE_BYTES)?;
    Ok((path, true))
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let [low, high] = [sorted.len().saturating_sub(1) / 2, sorted.len() / 2];
    (sorted.get(low).unwrap_or(&0.0) + sorted.get(high).unwrap_or(&0.0)) / 2.0
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

impl Row {
    fn sample(&mut self, file: &File, places: &Places) -> io::Result<()> {
        let buffers = (0..self.depth).map(|_| Block::new(self.size, self.pages));
        let mut buffers = buffers.collect::<io::Result<Vec<Block>>>()?;
        let (begun, spent) = (Instant::now(), processor_time());
        let bytes = match self.way {
            Way::Threads => by_threads(file, places, &mut buffers)?,
            Way::IoUring => by_io_uring(file, places, &mut buffers)?,
        };
        let (seconds, spent) = (begun.elapsed().as_secs_f64(), processor_time() - spent);
        self.rates.push(bytes as f64 / seconds);
        self.costs.push(spent / bytes as f64);
        Ok(())
    }
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
    use super::*;

    #[test]
    fn places_are_whole_reads_inside_the_file() {
        let places = Places { next: AtomicU64::new(0), len: 10 * 4096 + 5 };
        let taken: Vec<u64> = (0..8).map(|_| places.take(4096) / 4096).collect();
        assert!(taken.iter().all(|at| *at <= 9), "{taken:?}");
        assert_eq!(taken[..4], [0, 2, 4, 6]);
    }

    #[test]
    fn the_table_has_a_cell_for_every_candidate_and_says_what_was_refused() {
        let (pages, size) = (Pages::Small, 1 << 20);
        let row = |way, rate| Row { way, pages, depth: 2, size, rates: vec![rate; 3], costs: vec![1e-10; 3] };
        let mut results = ReadResults { rows: vec![row(Way::Threads, 2e9)], ..ReadResults::default() };
        results.refused = Some("not here".to_owned());
        let text = results.table();
        assert!(text.contains("not here") && text.contains("2.00 (100)"), "{text}");
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[1.0, 2.0]) - 1.5).abs() < 1e-9);
    }
}

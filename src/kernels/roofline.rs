//! The machine's own limits, measured: how fast memory can be read and how fast numbers can be multiplied.
//! What `benches/kernels.rs` judges kernels against (Williams, Waterman & Patterson 2009).

use std::hint::black_box;
use std::time::Instant;

use super::backend::Backend as _;
use super::cpu::{Cpu, Isa};
use crate::error::{Error, Result};
use crate::pool::{CancelToken, Gate, Progress};

/// Bytes that one task reads: far more than a start costs, few enough to be shared evenly.
const CHUNK: usize = 1 << 20;
/// Passes of each way to read, and of a rate, of which the best counts: others may use the machine.
const READ_PASSES: usize = 12;
const RATE_PASSES: usize = 12;
/// Steps of one task of a rate, a fraction of a millisecond, and tasks of each thread.
const STEPS: usize = 1 << 17;
const TASKS: usize = 16;

/// Reads a chunk and returns a digest of all its bytes.
type Read = fn(&[u8]) -> u64;
/// Does `STEPS` steps of multiply-adds on registers.
type Multiply = fn();

/// Bytes a second that all threads of `cpu` together read from memory: the best of several passes over a buffer
/// of `bytes` bytes in ordinary pages, rounded down to whole MiB. Below some times the size of the last cache
/// this measures the cache; 1 GiB is enough for most machines and takes about two seconds.
///
/// # Errors
/// [`Error::InvalidArgument`] for less than 1 MiB; [`Error::Limit`] where there is no memory for the buffer;
/// [`Error::Cancelled`].
pub fn read_bandwidth(cpu: &Cpu, bytes: usize, cancel: Option<&CancelToken>) -> Result<f64> {
    let chunks = bytes / CHUNK;
    if chunks == 0 {
        return Err(Error::InvalidArgument(format!(
            "{bytes} bytes tell nothing of memory; read 1 GiB, or at least 1 MiB"
        )));
    }
    let mut buffer = Vec::new();
    buffer
        .try_reserve_exact(chunks * CHUNK)
        .map_err(|_| Error::Limit(format!("no memory for a buffer of {bytes} bytes; read fewer")))?;
    // Not zeros: those would not be pages of their own.
    buffer.resize(chunks * CHUNK, 1u8);
    let (pool, gate) = (cpu.pool(), Gate { deadline: None, cancel: cancel.cloned() });
    let mut best = f64::INFINITY;
    for _ in 0..READ_PASSES {
        for read in reads(cpu.isa()) {
            let begun = Instant::now();
            let progress = pool.run(&gate, 0, chunks, &|chunk| {
                black_box(read(&buffer[chunk * CHUNK..][..CHUNK]));
            });
            if progress != Progress::Done {
                return Err(Error::Cancelled);
            }
            best = best.min(begun.elapsed().as_secs_f64());
        }
    }
    Ok((chunks * CHUNK) as f64 / best.max(1e-9))
}

/// Multiply-adds a second of 8-bit integers that all threads of `cpu` reach with its instruction set, from
/// registers: what `vpdpbusd`, or `vpmaddubsw` and one addition, can do at best.
#[must_use]
pub fn int8_rate(cpu: &Cpu) -> f64 {
    let (multiply, lanes) = int8(cpu.isa());
    rate(cpu, multiply, lanes)
}

/// Fused multiply-adds a second of 32-bit floats, likewise.
#[must_use]
pub fn f32_rate(cpu: &Cpu) -> f64 {
    let (multiply, lanes) = f32(cpu.isa());
    rate(cpu, multiply, lanes)
}

/// `lanes`: multiply-adds of one instruction; a step has [`CHAINS`] of them.
fn rate(cpu: &Cpu, multiply: Multiply, lanes: usize) -> f64 {
    let pool = cpu.pool();
    let tasks = TASKS * cpu.threads();
    let pass = || {
        let begun = Instant::now();
        pool.run(&Gate::open(), 0, tasks, &|_| multiply());
        begun.elapsed().as_secs_f64()
    };
    let best = (0..RATE_PASSES).map(|_| pass()).fold(f64::INFINITY, f64::min);
    (tasks * STEPS * CHAINS * lanes) as f64 / best.max(1e-9)
}

/// Sums that do not wait for each other: more than latency times instructions a cycle.
const CHAINS: usize = 12;

/// Ways to read; which is the fastest depends on the processor's own prefetching.
fn reads(isa: Isa) -> &'static [Read] {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni | Isa::Avx512 => &x86_64::READS,
        _ => &[read_words],
    }
}

fn int8(isa: Isa) -> (Multiply, usize) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => (x86_64::int8_avx2, 32),
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni => (x86_64::int8_avxvnni, 32),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => (x86_64::int8_avx512, 64),
        _ => (int8_words, 1),
    }
}

fn f32(isa: Isa) -> (Multiply, usize) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::AvxVnni => (x86_64::f32_avx2, 8),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => (x86_64::f32_avx512, 16),
        _ => (f32_words, 1),
    }
}

fn read_words(chunk: &[u8]) -> u64 {
    let (words, _) = chunk.as_chunks::<8>();
    words.iter().fold(0, |digest, word| digest ^ u64::from_ne_bytes(*word))
}

/// Elements of the arrays that the plain forms multiply, again and again from the nearest cache.
const BLOCK: usize = 1 << 12;
/// Sums that the compiler may keep in vectors.
const SUMS: usize = 16;

fn int8_words() {
    let (a, b) = ([3i8; BLOCK], [5i8; BLOCK]);
    for _ in 0..STEPS * CHAINS / BLOCK {
        let (a, b) = black_box((&a, &b));
        black_box(a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum::<i32>());
    }
}

fn f32_words() {
    let (a, b) = ([0.5f32; BLOCK], [0.25f32; BLOCK]);
    for _ in 0..STEPS * CHAINS / BLOCK {
        let (a, b) = black_box((&a, &b));
        let mut sums = [0f32; SUMS];
        for (a, b) in a.as_chunks::<SUMS>().0.iter().zip(b.as_chunks::<SUMS>().0) {
            for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
                *sum += a * b;
            }
        }
        black_box(sums);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{CHAINS, CHUNK, Read, STEPS};

    pub(super) const READS: [Read; 3] = [read::<1, 0>, read::<1, 1024>, read::<4, 512>];

    fn read<const STREAMS: usize, const AHEAD: usize>(chunk: &[u8]) -> u64 {
        assert!(chunk.len() == CHUNK);
        // SAFETY: the chunk's length was checked; only a `Cpu` with AVX2 asks for this form.
        unsafe { read_avx2::<STREAMS, AHEAD>(chunk.as_ptr()) }
    }

    /// Reads the parts of a chunk in `STREAMS` streams side by side, each prefetched `AHEAD` bytes ahead.
    ///
    /// # Safety
    /// `CHUNK` bytes at `chunk` can be read; the processor has AVX2.
    #[target_feature(enable = "avx2")]
    unsafe fn read_avx2<const STREAMS: usize, const AHEAD: usize>(chunk: *const u8) -> u64 {
        let part = CHUNK / STREAMS;
        let mut digests = [[_mm256_setzero_si256(); 4]; STREAMS];
        for at in (0..part).step_by(128) {
            for (stream, digests) in digests.iter_mut().enumerate() {
                // SAFETY: `at` < part and both are multiples of 128, so all 128 bytes lie inside the chunk. A
                // prefetch may name any address.
                unsafe {
                    let from = chunk.add(stream * part + at);
                    if AHEAD > 0 {
                        _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(AHEAD).cast());
                        _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(AHEAD + 64).cast());
                    }
                    for (i, digest) in digests.iter_mut().enumerate() {
                        *digest = _mm256_xor_si256(*digest, _mm256_loadu_si256(from.add(32 * i).cast()));
                    }
                }
            }
        }
        let all = digests.as_flattened().iter().fold(_mm256_setzero_si256(), |a, b| _mm256_xor_si256(a, *b));
        let halves = _mm_xor_si128(_mm256_castsi256_si128(all), _mm256_extracti128_si256::<1>(all));
        _mm_cvtsi128_si64(halves).cast_unsigned() ^ _mm_extract_epi64::<1>(halves).cast_unsigned()
    }

    /// `STEPS` steps of one multiply-add on `CHAINS` sums; the compiler knows neither sums nor operands.
    macro_rules! multiply {
        ($name:ident, $features:literal, $fill:expr, |$sum:ident, $a:ident, $b:ident| $step:expr) => {
            pub(super) fn $name() {
                #[target_feature(enable = $features)]
                fn body() {
                    let ($a, $b) = (black_box($fill), black_box($fill));
                    let mut sums = black_box([$fill; CHAINS]);
                    for _ in 0..STEPS {
                        for $sum in &mut sums {
                            *$sum = $step;
                        }
                    }
                    black_box(sums);
                }
                // SAFETY: only a `Cpu` that has these features asks for this form.
                unsafe { body() }
            }
        };
    }

    multiply!(int8_avx2, "avx2", _mm256_set1_epi8(0), |sum, _a, b| {
        // The sum is a factor too: products of constants alone would be computed once.
        _mm256_add_epi16(*sum, _mm256_maddubs_epi16(*sum, b))
    });
    multiply!(int8_avxvnni, "avx2,avxvnni", _mm256_set1_epi8(1), |sum, a, b| {
        _mm256_dpbusd_avx_epi32(*sum, a, b)
    });
    multiply!(int8_avx512, "avx512f,avx512vnni", _mm512_set1_epi8(1), |sum, a, b| {
        _mm512_dpbusd_epi32(*sum, a, b)
    });
    multiply!(f32_avx2, "avx2,fma", _mm256_set1_ps(0.5), |sum, a, b| _mm256_fmadd_ps(a, b, *sum));
    multiply!(f32_avx512, "avx512f", _mm512_set1_ps(0.5), |sum, a, b| _mm512_fmadd_ps(a, b, *sum));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_reads_every_byte() {
        let mut chunk = vec![0u8; CHUNK];
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for read in reads(isa) {
                assert_eq!(read(&chunk), 0);
                for at in [0, 1, 63, CHUNK / 4 - 1, CHUNK / 2, CHUNK - 129, CHUNK - 1] {
                    chunk[at] = 1;
                    assert_ne!(read(&chunk), 0, "{isa}: byte {at}");
                    chunk[at] = 0;
                }
            }
        }
    }

    #[test]
    fn limits_are_measured_on_every_instruction_set() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let cpu = Cpu::with_isa(2, isa).unwrap();
            assert!(read_bandwidth(&cpu, CHUNK + 5, None).unwrap() > 1e6);
            assert!(int8_rate(&cpu) > 1e6 && f32_rate(&cpu) > 1e6, "{isa}");
        }
        let cpu = Cpu::with_isa(1, Isa::Scalar).unwrap();
        assert!(matches!(read_bandwidth(&cpu, 1000, None), Err(Error::InvalidArgument(_))));
        let cancel = CancelToken::new();
        cancel.cancel();
        assert!(matches!(read_bandwidth(&cpu, CHUNK, Some(&cancel)), Err(Error::Cancelled)));
    }
}

//! Joining the planes of divided weights with vectors of 512 bits; the layout of the planes is that of
//! [`crate::kernels::division`], whose own loops the compiler makes vectors of 256 bits of.

use std::arch::x86_64::*;

use crate::kernels::cpu::Isa;
use crate::kernels::division::{Division, Form};

/// [`Division::join`] with the vectors of `isa`.
pub(in crate::kernels) fn join(
    isa: Isa,
    division: &Division,
    first: &[u8],
    second: Option<&[u8]>,
    packed: &mut [u8],
) {
    match isa {
        Isa::Scalar => division.join(first, second, packed),
        // SAFETY: a `Cpu` has only instruction sets that `is_available` found.
        Isa::Avx512 => unsafe { avx512(division, first, second, packed) },
        // SAFETY: as above.
        _ => unsafe { avx2(division, first, second, packed) },
    }
}

#[target_feature(enable = "avx2")]
fn avx2(division: &Division, first: &[u8], second: Option<&[u8]>, packed: &mut [u8]) {
    division.join_inline(first, second, packed);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn avx512(division: &Division, first: &[u8], second: Option<&[u8]>, packed: &mut [u8]) {
    let Some(second) = second else { return division.join_inline(first, None, packed) };
    match division.form {
        Form::Q8_0 => {
            let planes = first.as_chunks().0.iter().zip(second.as_chunks().0);
            for (packed, (first, second)) in packed.as_chunks_mut().0.iter_mut().zip(planes) {
                ask_ahead(first);
                ask_ahead(second);
                join_q8_0(first, second, packed);
            }
        }
        Form::Q4_1 => {
            let planes = first.as_chunks().0.iter().zip(second.as_chunks().0);
            for (packed, (first, second)) in packed.as_chunks_mut().0.iter_mut().zip(planes) {
                ask_ahead(first);
                ask_ahead(second);
                join_q4_1(first, second, packed);
            }
        }
    }
}

/// Bytes between what is joined and what is asked for: two planes at a time are more streams than the processor follows
/// by itself.
const AHEAD: usize = 4096;

/// Asks for what lies as far ahead of `bytes` as is read meanwhile.
#[inline(always)]
fn ask_ahead<const N: usize>(bytes: &[u8; N]) {
    for line in (0..N).step_by(64) {
        // SAFETY: a prefetch changes nothing and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(AHEAD + line).cast()) };
    }
}

/// `a & b | c`.
const AND_OR: i32 = 0xea;

/// Numbers of bits by which the 16-bit lanes of the lower and of the upper half of a vector are moved.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn halves(low: i16, high: i16) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_set1_epi16(low), _mm256_set1_epi16(high))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn join_q8_0(first: &[u8; 176], second: &[u8; 96], packed: &mut [u8; 272]) {
    packed[..16].copy_from_slice(&first[..16]);
    // SAFETY: every load and store lies inside the arrays: 16 + 2 * 64, 144 + 32, 64 + 32, 16 + 4 * 64 bytes.
    unsafe {
        let (from, low, to) = (first.as_ptr().add(16), second.as_ptr(), packed.as_mut_ptr().add(16));
        let both = |at: *const u8| _mm512_broadcast_i64x4(_mm256_loadu_si256(at.cast()));
        // The highest bit is stored as that of the code plus 128.
        let highest = _mm512_xor_si512(both(from.add(128)), _mm512_set1_epi8(-1));
        let (lowest, twos) = (both(low.add(64)), _mm512_loadu_si512(low.cast()));
        let [sign, four, two, one] = [0x80u8 as i8, 0x78, 6, 1].map(|mask| _mm512_set1_epi8(mask));
        let nibbles = [0, 64].map(|at| _mm512_loadu_si512(from.add(at).cast()));
        let put = |run: usize, nibble: __m512i, two_bits: __m512i| {
            let b = 2 * run as i16;
            let top = _mm512_and_si512(_mm512_sllv_epi16(highest, halves(7 - b, 6 - b)), sign);
            let code = _mm512_ternarylogic_epi32::<AND_OR>(nibble, four, top);
            let code = _mm512_ternarylogic_epi32::<AND_OR>(two_bits, two, code);
            let last = _mm512_srlv_epi16(lowest, halves(b, b + 1));
            let code = _mm512_ternarylogic_epi32::<AND_OR>(last, one, code);
            _mm512_storeu_si512(to.add(64 * run).cast(), code);
        };
        put(0, _mm512_slli_epi16::<3>(nibbles[0]), _mm512_slli_epi16::<1>(twos));
        put(1, _mm512_slli_epi16::<3>(nibbles[1]), _mm512_srli_epi16::<1>(twos));
        put(2, _mm512_srli_epi16::<1>(nibbles[0]), _mm512_srli_epi16::<3>(twos));
        put(3, _mm512_srli_epi16::<1>(nibbles[1]), _mm512_srli_epi16::<5>(twos));
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn join_q4_1(first: &[u8; 128], second: &[u8; 32], packed: &mut [u8; 160]) {
    packed[..32].copy_from_slice(&first[..32]);
    // SAFETY: every load and store lies inside the arrays: 32 + 64 + 32, 32, 32 + 2 * 64 bytes.
    unsafe {
        let (from, to) = (first.as_ptr().add(32), packed.as_mut_ptr().add(32));
        let both = |at: *const u8| _mm512_broadcast_i64x4(_mm256_loadu_si256(at.cast()));
        let (middle, lowest) = (both(from.add(64)), both(second.as_ptr()));
        let [two, one] = [0xccu8 as i8, 0x11].map(|mask| _mm512_set1_epi8(mask));
        let high = _mm512_loadu_si512(from.cast());
        let put = |run: usize, high: __m512i| {
            let by = halves(2 * run as i16, 2 * run as i16 + 1);
            let middle = _mm512_and_si512(_mm512_srlv_epi16(middle, by), one);
            let code = _mm512_ternarylogic_epi32::<AND_OR>(high, two, _mm512_add_epi8(middle, middle));
            let code = _mm512_ternarylogic_epi32::<AND_OR>(_mm512_srlv_epi16(lowest, by), one, code);
            _mm512_storeu_si512(to.add(64 * run).cast(), code);
        };
        put(0, high);
        put(1, _mm512_slli_epi16::<2>(high));
    }
}

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
    let (Some(second), Form::Q4_1) = (second, division.form) else {
        return division.join_inline(first, second, packed);
    };
    let planes = first.as_chunks().0.iter().zip(second.as_chunks().0);
    for (packed, (first, second)) in packed.as_chunks_mut().0.iter_mut().zip(planes) {
        join_q4_1(first, second, packed);
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

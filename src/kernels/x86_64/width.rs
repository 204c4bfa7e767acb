//! Vectors with a lane of 32 bits for each weight row: eight rows (one group) in 256 bits, or sixteen (two groups)
//! in 512.

use std::arch::x86_64::*;

use crate::kernels::layout::GROUP;

/// A width of vectors. What is said of bytes, lanes and loads holds for each group that a vector covers.
///
/// All functions are unsafe for two reasons: the processor must have the width's instructions, and what is loaded
/// must be readable.
pub trait Width {
    /// Row groups of a vector.
    const GROUPS: usize;
    /// An address in each group.
    type Place: Copy;
    /// Codes and other integers.
    type Int: Copy;
    /// One f32 per row.
    type Float: Copy;

    /// The addresses of two groups' bytes, of which 256 bits take the first.
    fn place(groups: [&[u8]; 2]) -> Self::Place;
    /// `bytes` further on.
    unsafe fn at(place: Self::Place, bytes: usize) -> Self::Place;
    /// Asks for the 64 bytes `ahead` of `place`, which need not exist.
    unsafe fn prefetch(place: Self::Place, ahead: usize);
    /// Asks for the place of results, which need not exist, to be written.
    #[inline(always)]
    unsafe fn prefetch_output(place: *const f32) {
        // SAFETY: a prefetch never faults, also beyond the output.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(place.cast()) };
    }

    /// 32 bytes.
    unsafe fn load(place: Self::Place) -> Self::Int;
    /// Eight f16.
    unsafe fn load_f16(place: Self::Place) -> Self::Float;
    /// Eight u8.
    unsafe fn load_u8(place: Self::Place) -> Self::Int;
    /// Eight i8.
    unsafe fn load_i8(place: Self::Place) -> Self::Int;
    /// Eight u16.
    unsafe fn load_u16(place: Self::Place) -> Self::Int;

    /// `x` in every byte.
    unsafe fn splat8(x: i8) -> Self::Int;
    /// `x` in every lane.
    unsafe fn splat32(x: i32) -> Self::Int;
    /// The same of f32.
    unsafe fn splat(x: f32) -> Self::Float;
    /// The same 16 bytes in every 128 bits.
    unsafe fn splat128(x: __m128i) -> Self::Int;

    unsafe fn and(a: Self::Int, b: Self::Int) -> Self::Int;
    unsafe fn or(a: Self::Int, b: Self::Int) -> Self::Int;
    unsafe fn xor(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Differences of 32-bit lanes.
    unsafe fn sub(a: Self::Int, b: Self::Int) -> Self::Int;
    /// 16-bit lanes shifted to the right.
    unsafe fn shr16(a: Self::Int, count: i32) -> Self::Int;
    /// 16-bit lanes shifted to the left.
    unsafe fn shl16(a: Self::Int, count: i32) -> Self::Int;
    /// 32-bit lanes shifted to the right.
    unsafe fn shr32(a: Self::Int, count: i32) -> Self::Int;
    /// 32-bit lanes shifted to the left.
    unsafe fn shl32(a: Self::Int, count: i32) -> Self::Int;
    /// Bytes of `table` by the low four bits of the bytes of `index`, which are not negative; in each 128 bits.
    unsafe fn shuffle(table: Self::Int, index: Self::Int) -> Self::Int;
    /// `value` in each byte of `a` that has all bits of `mask`'s, else 0.
    unsafe fn where_set(a: Self::Int, mask: Self::Int, value: i8) -> Self::Int;

    /// i32 to f32.
    unsafe fn to_float(a: Self::Int) -> Self::Float;
    unsafe fn add(a: Self::Float, b: Self::Float) -> Self::Float;
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a * b + c` in one rounding.
    unsafe fn fma(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    unsafe fn negate(a: Self::Float) -> Self::Float;
    /// The rows of each group; of 256 bits the second are 0.
    unsafe fn rows(a: Self::Float) -> [[f32; GROUP]; 2];
    /// Writes all rows to `to`.
    unsafe fn store(to: *mut f32, a: Self::Float);
}

/// Eight rows in 256 bits: AVX2, FMA, F16C.
pub struct Narrow;

/// Sixteen rows in 512 bits: AVX-512 F and BW too.
pub struct Wide;

/// Functions of one expression; the caller's promises are those of [`Width`].
macro_rules! forward {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty = $body:expr;)*) => {
        $(#[inline(always)]
        unsafe fn $name($($argument: $type),*) -> $result {
            // SAFETY: passed on to the caller.
            unsafe { $body }
        })*
    };
}

impl Width for Narrow {
    const GROUPS: usize = 1;
    type Place = *const u8;
    type Int = __m256i;
    type Float = __m256;

    #[inline(always)]
    fn place([group, _]: [&[u8]; 2]) -> *const u8 {
        group.as_ptr()
    }

    #[inline(always)]
    unsafe fn prefetch(place: *const u8, ahead: usize) {
        // SAFETY: a prefetch never faults, also beyond the mapping.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place.wrapping_add(ahead).cast()) };
    }

    forward! {
        at(place: *const u8, bytes: usize) -> *const u8 = place.add(bytes);
        load(p: *const u8) -> __m256i = _mm256_loadu_si256(p.cast());
        load_f16(p: *const u8) -> __m256 = _mm256_cvtph_ps(_mm_loadu_si128(p.cast()));
        load_u8(p: *const u8) -> __m256i = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
        load_i8(p: *const u8) -> __m256i = _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()));
        load_u16(p: *const u8) -> __m256i = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
        splat8(x: i8) -> __m256i = _mm256_set1_epi8(x);
        splat32(x: i32) -> __m256i = _mm256_set1_epi32(x);
        splat(x: f32) -> __m256 = _mm256_set1_ps(x);
        splat128(x: __m128i) -> __m256i = _mm256_broadcastsi128_si256(x);
        and(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256(a, b);
        or(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256(a, b);
        xor(a: __m256i, b: __m256i) -> __m256i = _mm256_xor_si256(a, b);
        sub(a: __m256i, b: __m256i) -> __m256i = _mm256_sub_epi32(a, b);
        shr16(a: __m256i, count: i32) -> __m256i = _mm256_srl_epi16(a, _mm_cvtsi32_si128(count));
        shl16(a: __m256i, count: i32) -> __m256i = _mm256_sll_epi16(a, _mm_cvtsi32_si128(count));
        shr32(a: __m256i, count: i32) -> __m256i = _mm256_srl_epi32(a, _mm_cvtsi32_si128(count));
        shl32(a: __m256i, count: i32) -> __m256i = _mm256_sll_epi32(a, _mm_cvtsi32_si128(count));
        shuffle(table: __m256i, index: __m256i) -> __m256i = _mm256_shuffle_epi8(table, index);
        where_set(a: __m256i, mask: __m256i, value: i8) -> __m256i =
            _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(a, mask), mask), _mm256_set1_epi8(value));
        to_float(a: __m256i) -> __m256 = _mm256_cvtepi32_ps(a);
        add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        store(to: *mut f32, a: __m256) -> () = _mm256_storeu_ps(to, a);
        negate(a: __m256) -> __m256 = _mm256_xor_ps(a, _mm256_set1_ps(-0.0));
    }

    #[inline(always)]
    unsafe fn rows(a: __m256) -> [[f32; GROUP]; 2] {
        let mut rows = [[0.0; GROUP]; 2];
        // SAFETY: eight elements; the rest is the caller's promise.
        unsafe { _mm256_storeu_ps(rows[0].as_mut_ptr(), a) };
        rows
    }
}

/// The two halves of 512 bits.
#[inline(always)]
unsafe fn join(low: __m256i, high: __m256i) -> __m512i {
    // SAFETY: passed on to the caller.
    unsafe { _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high) }
}

/// The two halves of 256 bits.
#[inline(always)]
unsafe fn join_half(low: __m128i, high: __m128i) -> __m256i {
    // SAFETY: passed on to the caller.
    unsafe { _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high) }
}

/// Eight bytes of each of two addresses.
#[inline(always)]
unsafe fn bytes([low, high]: [*const u8; 2]) -> __m128i {
    // SAFETY: passed on to the caller.
    unsafe { _mm_unpacklo_epi64(_mm_loadl_epi64(low.cast()), _mm_loadl_epi64(high.cast())) }
}

/// Sixteen bytes of each of two addresses.
#[inline(always)]
unsafe fn words([low, high]: [*const u8; 2]) -> __m256i {
    // SAFETY: passed on to the caller.
    unsafe { join_half(_mm_loadu_si128(low.cast()), _mm_loadu_si128(high.cast())) }
}

impl Width for Wide {
    const GROUPS: usize = 2;
    type Place = [*const u8; 2];
    type Int = __m512i;
    type Float = __m512;

    #[inline(always)]
    fn place(groups: [&[u8]; 2]) -> [*const u8; 2] {
        groups.map(<[u8]>::as_ptr)
    }

    #[inline(always)]
    unsafe fn prefetch(place: [*const u8; 2], ahead: usize) {
        for address in place {
            // SAFETY: a prefetch never faults, also beyond the mapping.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.wrapping_add(ahead).cast()) };
        }
    }

    forward! {
        at(p: [*const u8; 2], bytes: usize) -> [*const u8; 2] = [p[0].add(bytes), p[1].add(bytes)];
        load(p: [*const u8; 2]) -> __m512i =
            join(_mm256_loadu_si256(p[0].cast()), _mm256_loadu_si256(p[1].cast()));
        load_f16(p: [*const u8; 2]) -> __m512 = _mm512_cvtph_ps(words(p));
        load_u8(p: [*const u8; 2]) -> __m512i = _mm512_cvtepu8_epi32(bytes(p));
        load_i8(p: [*const u8; 2]) -> __m512i = _mm512_cvtepi8_epi32(bytes(p));
        load_u16(p: [*const u8; 2]) -> __m512i = _mm512_cvtepu16_epi32(words(p));
        splat8(x: i8) -> __m512i = _mm512_set1_epi8(x);
        splat32(x: i32) -> __m512i = _mm512_set1_epi32(x);
        splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        splat128(x: __m128i) -> __m512i = _mm512_broadcast_i32x4(x);
        and(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512(a, b);
        or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        xor(a: __m512i, b: __m512i) -> __m512i = _mm512_xor_si512(a, b);
        sub(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi32(a, b);
        shr16(a: __m512i, count: i32) -> __m512i = _mm512_srl_epi16(a, _mm_cvtsi32_si128(count));
        shl16(a: __m512i, count: i32) -> __m512i = _mm512_sll_epi16(a, _mm_cvtsi32_si128(count));
        shr32(a: __m512i, count: i32) -> __m512i = _mm512_srl_epi32(a, _mm_cvtsi32_si128(count));
        shl32(a: __m512i, count: i32) -> __m512i = _mm512_sll_epi32(a, _mm_cvtsi32_si128(count));
        shuffle(table: __m512i, index: __m512i) -> __m512i = _mm512_shuffle_epi8(table, index);
        where_set(a: __m512i, mask: __m512i, value: i8) -> __m512i =
            _mm512_maskz_set1_epi8(_mm512_cmpeq_epi8_mask(_mm512_and_si512(a, mask), mask), value);
        to_float(a: __m512i) -> __m512 = _mm512_cvtepi32_ps(a);
        add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        store(to: *mut f32, a: __m512) -> () = _mm512_storeu_ps(to, a);
        negate(a: __m512) -> __m512 =
            _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a), _mm512_set1_epi32(i32::MIN)));
    }

    #[inline(always)]
    unsafe fn rows(a: __m512) -> [[f32; GROUP]; 2] {
        let mut rows = [[0.0; GROUP]; 2];
        // SAFETY: sixteen elements; the rest is the caller's promise.
        unsafe { _mm512_storeu_ps(rows.as_mut_ptr().cast(), a) };
        rows
    }
}

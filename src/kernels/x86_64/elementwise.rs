//! Element-wise kernels with 256-bit vectors; tails of rows are left to the scalar forms.

use std::arch::x86_64::*;

use crate::kernels::encoding::TILE;
use crate::kernels::math::sum_lanes_f64;
use crate::kernels::scalar::elementwise as scalar;

/// As the scalar form.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mut sums = [_mm256_setzero_pd(); 2];
    let (chunks, rest) = x.as_chunks::<8>();
    for chunk in chunks {
        // SAFETY: a chunk has eight elements.
        let v = unsafe { _mm256_loadu_ps(chunk.as_ptr()) };
        let halves = [_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v)];
        for (sum, half) in sums.iter_mut().zip(halves) {
            let wide = _mm256_cvtps_pd(half);
            // The square is exact, so that fusing changes nothing.
            *sum = _mm256_fmadd_pd(wide, wide, *sum);
        }
    }
    let mut lanes = [0.0f64; 8];
    for (four, sum) in lanes.chunks_exact_mut(4).zip(sums) {
        // SAFETY: `four` has four elements.
        unsafe { _mm256_storeu_pd(four.as_mut_ptr(), sum) };
    }
    for (lane, v) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(*v) * f64::from(*v);
    }
    let factor = scalar::rms_factor(sum_lanes_f64(&lanes), x.len(), eps);
    for ((o, v), w) in out.iter_mut().zip(x).zip(weight) {
        *o = v * factor * w;
    }
}

/// Codes of a block as `scalar::quantize` finds them, and their scale.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn codes(x: &[f32; TILE]) -> (f32, __m256i) {
    let mut v = [_mm256_setzero_ps(); 4];
    let mut amax = _mm256_setzero_si256();
    for (i, v) in v.iter_mut().enumerate() {
        // SAFETY: the block has 32 elements.
        *v = unsafe { _mm256_loadu_ps(x.as_ptr().add(8 * i)) };
        let bits = _mm256_and_si256(_mm256_castps_si256(*v), _mm256_set1_epi32(0x7fff_ffff));
        amax = _mm256_max_epu32(amax, bits);
    }
    let m = _mm_max_epu32(_mm256_castsi256_si128(amax), _mm256_extracti128_si256::<1>(amax));
    let m = _mm_max_epu32(m, _mm_shuffle_epi32::<0b00_00_11_10>(m));
    let m = _mm_max_epu32(m, _mm_shuffle_epi32::<0b00_00_00_01>(m));
    let (scale, factor) = scalar::block_scale(_mm_cvtsi128_si32(m) as u32);
    if factor == 0.0 {
        // Not finite, or almost zero.
        return (scale, _mm256_setzero_si256());
    }
    // Conversion rounds ties to even; the product is at most 127 and a rounding error: no clamp needed.
    let factors = _mm256_set1_ps(factor);
    let whole = v.map(|v| _mm256_cvtps_epi32(_mm256_mul_ps(v, factors)));
    let low = _mm256_packs_epi32(whole[0], whole[1]);
    let high = _mm256_packs_epi32(whole[2], whole[3]);
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    (scale, _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order))
}

/// As the scalar form.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn quantize(x: &[f32; TILE], out: &mut [i8; TILE]) -> f32 {
    let (scale, packed) = codes(x);
    // SAFETY: `out` has 32 elements.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), packed) };
    scale
}

/// As the scalar form.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn activations(x: &[f32], row: &mut scalar::Row<'_>) {
    let (blocks, rest) = x.as_chunks::<TILE>();
    if !rest.is_empty() {
        return scalar::activations(x, row);
    }
    for (t, block) in blocks.iter().enumerate() {
        let (scale, packed) = codes(block);
        let codes = &mut row.codes[t * TILE..][..TILE];
        // SAFETY: `codes` has 32 elements.
        unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), packed) };
        // Sums of four codes in each 32-bit lane, then of sixteen in each half.
        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), packed);
        let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
        let eights = _mm256_add_epi32(fours, _mm256_shuffle_epi32::<0b10_11_00_01>(fours));
        let sixteens = _mm256_add_epi32(eights, _mm256_shuffle_epi32::<0b01_00_11_10>(eights));
        let halves = [_mm256_extract_epi32::<0>(sixteens), _mm256_extract_epi32::<4>(sixteens)];
        scalar::finish_block(row, t, scale, halves);
    }
}

/// As the scalar form: (a, b) becomes (a cos - b sin, b cos + a sin).
#[target_feature(enable = "avx2,fma,f16c")]
pub fn rope(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    let fours = cos.len().min(sin.len()) / 4;
    let twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    for head in x.chunks_exact_mut(head_dim) {
        for (i, eight) in head.chunks_exact_mut(8).take(fours).enumerate() {
            // SAFETY: four pairs, cosines and sines begin at these places.
            unsafe {
                let c = _mm256_castps128_ps256(_mm_loadu_ps(cos.as_ptr().add(4 * i)));
                let s = _mm256_castps128_ps256(_mm_loadu_ps(sin.as_ptr().add(4 * i)));
                let (c, s) = (_mm256_permutevar8x32_ps(c, twice), _mm256_permutevar8x32_ps(s, twice));
                let v = _mm256_loadu_ps(eight.as_ptr());
                let swapped = _mm256_permute_ps::<0b10_11_00_01>(v);
                let turned = _mm256_addsub_ps(_mm256_mul_ps(v, c), _mm256_mul_ps(swapped, s));
                _mm256_storeu_ps(eight.as_mut_ptr(), turned);
            }
        }
        // The pairs that do not fill a vector.
        let done = fours.min(head_dim / 8) * 4;
        for ((pair, c), s) in head.chunks_exact_mut(2).zip(cos).zip(sin).skip(done) {
            let (a, b) = (pair[0], pair[1]);
            pair[0] = a * c - b * s;
            pair[1] = b * c + a * s;
        }
    }
}

/// As the scalar form.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn to_f16(x: &[f32], out: &mut [u16]) {
    let (chunks, rest) = x.as_chunks::<8>();
    let (outs, _) = out.as_chunks_mut::<8>();
    for (chunk, o) in chunks.iter().zip(outs) {
        // SAFETY: both have eight elements.
        unsafe {
            let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(chunk.as_ptr()));
            _mm_storeu_si128(o.as_mut_ptr().cast(), half);
        }
    }
    scalar::to_f16(rest, &mut out[chunks.len() * 8..]);
}

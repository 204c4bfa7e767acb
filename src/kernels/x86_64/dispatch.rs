//! From an encoding and an instruction set to the functions that compute.

use std::arch::x86_64::*;
use std::cell::RefCell;

use super::expand::{
    Expand, Generic, Iq4Nl, Iq4Xs, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Regs, Shape,
};
use super::matmul::{Avx2, DIRECT, Scratch, Vnni, Vnni512, direct, expand, expanded};
use super::{avx512, float};
use crate::kernels::backend::Activations;
use crate::kernels::cpu::Isa;
use crate::kernels::encoding::{Encoding, TILE, Tile};
use crate::kernels::layout::{self, GROUP, Part};
use crate::kernels::pack::gather_block;
use crate::kernels::panel::WIDTH;

thread_local! {
    /// One expanded row group (or pair), kept between tasks.
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// Columns `c ..` of a part, straight from the packed bytes.
type Direct = unsafe fn(&Part<'_>, &Activations, usize);
/// An expanded group (the first number) times columns from the second number on.
type Expanded = unsafe fn(&Part<'_>, &Activations, usize, usize, &mut Scratch);

/// What multiplies one encoding on one instruction set.
struct Kernels {
    /// One, two and three columns straight from the packed bytes, where the encoding has a vector form.
    direct: Option<[Direct; DIRECT]>,
    /// Expands a group into a lane of the scratch.
    expand: unsafe fn(&Encoding, &[u8], usize, &mut Scratch),
    /// Row groups that are expanded together.
    lanes: usize,
    /// Columns of `wide`.
    width: usize,
    /// Expanded groups times `width` columns, and times one.
    wide: Expanded,
    narrow: Expanded,
}

/// Wraps the generic bodies in functions with the target features of one instruction set.
macro_rules! wrap {
    ($module:ident, $features:literal, $dot:ty, $lanes:literal) => {
        mod $module {
            use super::*;

            const BIASED: bool = <$dot as super::super::matmul::Dot>::BIASED;

            #[target_feature(enable = $features)]
            unsafe fn direct_columns<E: Expand, const N: usize>(part: &Part<'_>, x: &Activations, c: usize) {
                // SAFETY: passed on to the caller.
                unsafe { direct::<E, $dot, N>(part, x, c) };
            }

            #[target_feature(enable = $features)]
            unsafe fn expand_group<E: Expand>(
                _: &Encoding,
                group: &[u8],
                lane: usize,
                scratch: &mut Scratch,
            ) {
                // SAFETY: passed on to the caller.
                unsafe { expand::<E>(group, lane, $lanes, BIASED, scratch) };
            }

            #[target_feature(enable = $features)]
            unsafe fn expand_any(encoding: &Encoding, group: &[u8], lane: usize, scratch: &mut Scratch) {
                // SAFETY: passed on to the caller.
                unsafe { expand_generic(encoding, group, lane, $lanes, BIASED, scratch) };
            }

            pub fn kernels<E: Expand>(wide: Expanded, narrow: Expanded, width: usize) -> Kernels {
                let direct =
                    Some([direct_columns::<E, 1> as Direct, direct_columns::<E, 2>, direct_columns::<E, 3>]);
                Kernels { direct, expand: expand_group::<E>, lanes: $lanes, width, wide, narrow }
            }

            pub fn generic(wide: Expanded, narrow: Expanded, width: usize) -> Kernels {
                Kernels { direct: None, expand: expand_any, lanes: $lanes, width, wide, narrow }
            }
        }
    };
}

/// The expanded form for 256-bit vectors, likewise.
macro_rules! wrap_columns {
    ($name:ident, $features:literal, $dot:ty) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<S: Shape, const N: usize>(
            part: &Part<'_>,
            x: &Activations,
            g: usize,
            c: usize,
            scratch: &mut Scratch,
        ) {
            // SAFETY: passed on to the caller.
            unsafe { expanded::<S, $dot, N>(part, x, g, c, scratch) };
        }
    };
}

wrap_columns!(columns_avx2, "avx2,fma,f16c", Avx2);
wrap_columns!(columns_avxvnni, "avx2,fma,f16c,avxvnni", Vnni);
wrap!(avx2, "avx2,fma,f16c", Avx2, 1);
wrap!(avxvnni, "avx2,fma,f16c,avxvnni", Vnni, 1);
wrap!(wide512, "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512vnni", Vnni512, 2);

/// Expands a packed group through `Encoding::tile`.
///
/// # Safety
/// As `Scratch::put`, for all tiles of the group.
#[inline(always)]
unsafe fn expand_generic(
    encoding: &Encoding,
    group: &[u8],
    lane: usize,
    lanes: usize,
    biased: bool,
    scratch: &mut Scratch,
) {
    let Some(decode) = encoding.tile else { return };
    let per_block = encoding.block_len / TILE;
    let mut rows = vec![0; encoding.block_bytes * GROUP];
    for (b, packed) in group.chunks_exact(encoding.block_bytes * GROUP).enumerate() {
        for (r, row) in rows.chunks_exact_mut(encoding.block_bytes).enumerate() {
            gather_block(encoding, packed, r, row);
        }
        for t in 0..per_block {
            let mut codes = [[[0i8; 4]; GROUP]; 8];
            let (mut scale, mut min) = ([[0.0f32; GROUP]; 2], [[0.0f32; GROUP]; 2]);
            for (r, row) in rows.chunks_exact(encoding.block_bytes).enumerate() {
                let mut tile = Tile { code: [0; TILE], scale: [0.0; 2], min: [0.0; 2] };
                decode(row, t, &mut tile);
                for (vector, four) in codes.iter_mut().zip(tile.code.chunks_exact(4)) {
                    vector[r].copy_from_slice(four);
                }
                for h in 0..2 {
                    scale[h][r] = tile.scale[h];
                    min[h][r] = tile.min[h];
                }
            }
            // SAFETY: each load reads an array of 32 bytes; the rest is the caller's promise.
            unsafe {
                let zero = _mm256_setzero_ps();
                let mut regs = Regs { codes: [_mm256_setzero_si256(); 8], scale: [zero; 2], min: [zero; 2] };
                for (to, from) in regs.codes.iter_mut().zip(&codes) {
                    *to = _mm256_loadu_si256(from.as_ptr().cast());
                }
                for h in 0..2 {
                    regs.scale[h] = _mm256_loadu_ps(scale[h].as_ptr());
                    regs.min[h] = _mm256_loadu_ps(min[h].as_ptr());
                }
                super::matmul::bias_codes::<Generic>(biased, &mut regs.codes);
                scratch.put::<Generic>(b * per_block + t, lane, lanes, &regs);
            }
        }
    }
}

/// The kernels for encoding `E` on `isa`.
fn of<E: Expand>(isa: Isa) -> Kernels {
    match isa {
        Isa::Avx512 => wide512::kernels::<E>(avx512::paneled::<E>, avx512::expanded::<E, 1>, WIDTH),
        Isa::AvxVnni => avxvnni::kernels::<E>(columns_avxvnni::<E, 4>, columns_avxvnni::<E, 1>, 4),
        _ => avx2::kernels::<E>(columns_avx2::<E, 4>, columns_avx2::<E, 1>, 4),
    }
}

/// The kernels for encodings without a vector form.
fn generic(isa: Isa) -> Kernels {
    match isa {
        Isa::Avx512 => wide512::generic(avx512::paneled::<Generic>, avx512::expanded::<Generic, 1>, WIDTH),
        Isa::AvxVnni => avxvnni::generic(columns_avxvnni::<Generic, 4>, columns_avxvnni::<Generic, 1>, 4),
        _ => avx2::generic(columns_avx2::<Generic, 4>, columns_avx2::<Generic, 1>, 4),
    }
}

/// The kernels for `encoding` on `isa`.
fn select(encoding: &Encoding, isa: Isa) -> Kernels {
    match encoding.name {
        "q4_0" => of::<Q4_0>(isa),
        "q4_1" => of::<Q4_1>(isa),
        "q5_0" => of::<Q5_0>(isa),
        "q5_1" => of::<Q5_1>(isa),
        "q8_0" => of::<Q8_0>(isa),
        "q2_k" => of::<Q2K>(isa),
        "q3_k" => of::<Q3K>(isa),
        "q4_k" => of::<Q4K>(isa),
        "q5_k" => of::<Q5K>(isa),
        "q6_k" => of::<Q6K>(isa),
        "iq4_nl" => of::<Iq4Nl>(isa),
        "iq4_xs" => of::<Iq4Xs>(isa),
        _ => generic(isa),
    }
}

/// Computes `part` on `isa`.
///
/// # Safety
/// `layout::is_sound` holds, the part lies inside the product, no other task computes it, and the processor
/// has `isa`, which is not `Scalar`.
pub unsafe fn matmul(isa: Isa, part: &Part<'_>, x: &Activations) {
    if let Some(kind) = layout::float(part.weight.encoding) {
        // SAFETY: passed on to the caller.
        return unsafe { float::run(kind, part, x) };
    }
    let kernels = select(part.weight.encoding, isa);
    let columns = part.columns.clone();
    if let (Some(direct), 1..=DIRECT) = (kernels.direct, columns.len()) {
        // SAFETY: passed on to the caller.
        return unsafe { direct[columns.len() - 1](part, x, columns.start) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.reserve(x.tiles());
        for g in part.groups.clone().step_by(kernels.lanes) {
            for (lane, group) in (g..part.groups.end.min(g + kernels.lanes)).enumerate() {
                // SAFETY: room for all tiles of the group was reserved; lane < lanes.
                unsafe { (kernels.expand)(part.weight.encoding, part.group(group), lane, scratch) };
            }
            let mut c = columns.start;
            while c < columns.end {
                // Panels are missing only where another instruction set prepared the activations.
                let woven = isa != Isa::Avx512 || (!x.panels.is_empty() && c.is_multiple_of(WIDTH));
                let wide = woven && columns.end - c >= kernels.width;
                let multiply = if wide { kernels.wide } else { kernels.narrow };
                // SAFETY: the scratch holds the group(s); columns c .. c + width are in the part.
                unsafe { multiply(part, x, g, c, scratch) };
                c += if wide { kernels.width } else { 1 };
            }
        }
    });
}

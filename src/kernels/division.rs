//! Nested planes: packed weights as two parts of which the first alone is a coarser form, and both together are the very
//! bytes that the kernels read.
//!
//! Row groups are divided block by block. In the first plane stand scales, offsets and the high bits of each code, in the
//! second the low bits; within a plane, bits that are moved together stand in bytes that are, so that joining is a few
//! operations on whole vectors. docs/format.md gives the layout.

use super::encoding::{Encoding, TILE};
use super::pack::GROUP;
use super::plan::TOGETHER;

/// How an encoding's packed bytes are divided.
#[derive(Debug, PartialEq, Eq)]
pub struct Division {
    /// Bits of a code in the first and in the second plane: `4+4`.
    pub name: &'static str,
    /// Bytes of a packed block (of eight rows) in the first and in the second plane.
    pub bytes: [usize; 2],
    pub(super) form: Form,
}

/// Whose blocks are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Q8_0,
    Q4_1,
}

/// q8_0: four high bits and four low ones. The coarse code is the middle of what the low bits leave open.
pub(super) static Q8_0: Division = Division { name: "4+4", bytes: [144, 128], form: Form::Q8_0 };
/// q4_1: three high bits and a low one. The coarse form has codes twice as far apart, and an offset that is half a step
/// higher.
pub(super) static Q4_1: Division = Division { name: "3+1", bytes: [128, 32], form: Form::Q4_1 };

/// What stands of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planes<'a> {
    /// Packed rows as they are.
    Whole(&'a [u8]),
    /// The first plane alone: the coarse form.
    First(&'a [u8]),
    /// Both planes.
    Both([&'a [u8]; 2]),
}

impl Planes<'_> {
    /// Whether there are the bytes of `rows` packed rows of `cols` elements.
    pub(super) fn hold(&self, encoding: &Encoding, rows: usize, cols: usize) -> bool {
        let blocks = rows.div_ceil(GROUP).checked_mul(cols.checked_div(encoding.block_len).unwrap_or(0));
        let has = |bytes: &[u8], each: usize| {
            blocks.and_then(|blocks| blocks.checked_mul(each)).is_some_and(|len| bytes.len() >= len)
        };
        match (self, encoding.division) {
            (Self::Whole(bytes), _) => has(bytes, GROUP * encoding.block_bytes),
            (Self::First(first), Some(division)) => has(first, division.bytes[0]),
            (Self::Both([first, second]), Some(division)) => {
                has(first, division.bytes[0]) && has(second, division.bytes[1])
            }
            (_, None) => false,
        }
    }
}

impl Division {
    /// Bytes of a row group of `cols` elements in the first and in the second plane.
    #[must_use]
    pub fn group_bytes(&self, cols: usize) -> [usize; 2] {
        self.bytes.map(|bytes| cols / TILE * bytes)
    }

    /// Divides whole packed blocks. Bytes of `first` and `second` that belong to no block stay as they are.
    pub fn divide(&self, packed: &[u8], first: &mut [u8], second: &mut [u8]) {
        let blocks = packed.chunks_exact(self.bytes[0] + self.bytes[1]);
        let planes = first.chunks_exact_mut(self.bytes[0]).zip(second.chunks_exact_mut(self.bytes[1]));
        for (block, (first, second)) in blocks.zip(planes) {
            match self.form {
                Form::Q8_0 => divide_q8_0(block, first, second),
                Form::Q4_1 => divide_q4_1(block, first, second),
            }
        }
    }

    /// The packed blocks of which `first` and, where it is at hand, `second` are the planes; else coarse ones.
    pub fn join(&self, first: &[u8], second: Option<&[u8]>, packed: &mut [u8]) {
        self.join_inline(first, second, packed);
    }

    /// [`join`](Self::join), for functions with the target features of an instruction set.
    #[inline(always)]
    pub(super) fn join_inline(&self, first: &[u8], second: Option<&[u8]>, packed: &mut [u8]) {
        match (self.form, second) {
            (Form::Q8_0, Some(second)) => {
                let planes = first.as_chunks().0.iter().zip(second.as_chunks().0);
                for (packed, (first, second)) in packed.as_chunks_mut().0.iter_mut().zip(planes) {
                    join_q8_0(first, second, packed);
                }
            }
            (Form::Q8_0, None) => {
                for (packed, first) in packed.as_chunks_mut().0.iter_mut().zip(first.as_chunks().0) {
                    coarse_q8_0(first, packed);
                }
            }
            (Form::Q4_1, Some(second)) => {
                let planes = first.as_chunks().0.iter().zip(second.as_chunks().0);
                for (packed, (first, second)) in packed.as_chunks_mut().0.iter_mut().zip(planes) {
                    join_q4_1(first, second, packed);
                }
            }
            (Form::Q4_1, None) => {
                for (packed, first) in packed.as_chunks_mut().0.iter_mut().zip(first.as_chunks().0) {
                    coarse_q4_1(first, packed);
                }
            }
        }
    }
}

/// Bytes of weights that are joined at a time, where more than a few row groups are.
const JOINED: usize = 16 << 10;

/// Row groups of `group` bytes that are joined at a time: a multiple of `together`.
pub(super) fn joined_groups(group: usize, together: usize) -> usize {
    (JOINED / group.max(1)).next_multiple_of(together).max(together)
}

/// Bytes of memory that a thread keeps to join row groups of at most `group` bytes; 0: none are joined.
#[must_use]
pub fn joined_bytes(group: usize) -> usize {
    if group == 0 { 0 } else { joined_groups(group, TOGETHER).saturating_mul(group) }
}

/// Bytes that are moved together.
const RUN: usize = 32;

/// First plane: the scales; of the codes i and i + 128 the high four bits in a byte. Second plane: the low ones likewise.
fn divide_q8_0(block: &[u8], first: &mut [u8], second: &mut [u8]) {
    let (scales, codes) = block.split_at(16);
    let (low, high) = codes.split_at(128);
    first[..16].copy_from_slice(scales);
    for (i, (a, b)) in low.iter().zip(high).enumerate() {
        first[16 + i] = a >> 4 | b & 0xf0;
        second[i] = a & 15 | b << 4;
    }
}

#[inline(always)]
fn join_q8_0(first: &[u8; 144], second: &[u8; 128], packed: &mut [u8; 272]) {
    packed[..16].copy_from_slice(&first[..16]);
    for i in 0..128 {
        packed[16 + i] = first[16 + i] << 4 | second[i] & 15;
        packed[144 + i] = first[16 + i] & 0xf0 | second[i] >> 4;
    }
}

#[inline(always)]
fn coarse_q8_0(first: &[u8; 144], packed: &mut [u8; 272]) {
    packed[..16].copy_from_slice(&first[..16]);
    for i in 0..128 {
        packed[16 + i] = first[16 + i] << 4 | 8;
        packed[144 + i] = first[16 + i] & 0xf0 | 8;
    }
}

/// A byte holds two codes, `hhml hhml`. First plane: scales and offsets; of the bytes k and k + 64 the h; of the bytes
/// j + 32 b the m. Second plane: of the bytes j + 32 b the l, in the bits b and b + 4 of byte j.
fn divide_q4_1(block: &[u8], first: &mut [u8], second: &mut [u8]) {
    let (scales, codes) = block.split_at(32);
    first[..32].copy_from_slice(scales);
    first[32..].fill(0);
    second.fill(0);
    for (i, byte) in codes.iter().enumerate() {
        first[32 + i % 64] |= (byte & 0xcc) >> (i / 64 * 2);
        first[96 + i % RUN] |= (byte >> 1 & 0x11) << (i / RUN);
        second[i % RUN] |= (byte & 0x11) << (i / RUN);
    }
}

#[inline(always)]
fn join_q4_1(first: &[u8; 128], second: &[u8; 32], packed: &mut [u8; 160]) {
    packed[..32].copy_from_slice(&first[..32]);
    for b in 0..4 {
        for j in 0..RUN {
            packed[32 + b * RUN + j] = high_q4_1(first, b, j) | second[j] >> b & 0x11;
        }
    }
}

#[inline(always)]
fn coarse_q4_1(first: &[u8; 128], packed: &mut [u8; 160]) {
    packed[..16].copy_from_slice(&first[..16]);
    for r in 0..GROUP {
        let half = |at: usize| u16::from_le_bytes([first[at + 2 * r], first[at + 2 * r + 1]]);
        let offset = half_step_up(half(16), half(0)).to_le_bytes();
        packed[16 + 2 * r..][..2].copy_from_slice(&offset);
    }
    for b in 0..4 {
        for j in 0..RUN {
            packed[32 + b * RUN + j] = high_q4_1(first, b, j);
        }
    }
}

/// The high bits of the two codes of byte `j + 32 b`, in place.
#[inline(always)]
fn high_q4_1(first: &[u8; 128], b: usize, j: usize) -> u8 {
    let high = first[32 + b % 2 * RUN + j];
    let two = if b < 2 { high & 0xcc } else { high << 2 & 0xcc };
    two | (first[96 + j] >> b & 0x11) << 1
}

/// The f16 `offset + scale / 2`, rounded; without branches, so that eight are computed at once. A sum beyond the range
/// of f16 keeps the offset as it is.
#[inline(always)]
fn half_step_up(offset: u16, scale: u16) -> u16 {
    // A product with a power of two moves the exponent's bias, for subnormal numbers too.
    let wide = |half: u16| {
        let magnitude = f32::from_bits(u32::from(half & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
        f32::from_bits(magnitude.to_bits() | u32::from(half & 0x8000) << 16)
    };
    let sum = wide(offset) + 0.5 * wide(scale);
    let magnitude = (sum.abs() * f32::from_bits(0x0780_0000)).to_bits();
    let rounded = magnitude.wrapping_add(0x1000) >> 13;
    let sign = sum.to_bits() >> 16 & 0x8000;
    if rounded < 0x7c00 { (rounded | sign) as u16 } else { offset }
}

#[cfg(test)]
mod tests {
    use super::super::encoding::all;
    use super::super::math::{f16_to_f32, f32_to_f16};
    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn both_planes_are_the_whole() {
        for encoding in all() {
            let Some(division) = encoding.division else { continue };
            assert_eq!(
                division.bytes.iter().sum::<usize>(),
                GROUP * encoding.block_bytes,
                "{}",
                encoding.name
            );
            assert_eq!(encoding.block_len, TILE);
            let packed = bytes(7 * GROUP * encoding.block_bytes);
            let [mut first, mut second] = division.group_bytes(7 * TILE).map(|len| vec![0xa5; len]);
            division.divide(&packed, &mut first, &mut second);
            let mut joined = vec![0; packed.len()];
            division.join(&first, Some(&second), &mut joined);
            assert_eq!(joined, packed, "{}", encoding.name);
            // The first plane knows nothing of the low bits.
            let mut coarse = vec![0; packed.len()];
            division.join(&first, None, &mut coarse);
            let mut again = first.clone();
            division.divide(&coarse, &mut again, &mut second);
            let codes = division.bytes[0] - 16 - if division.form == Form::Q4_1 { 16 } else { 0 };
            for (again, first) in again.chunks(division.bytes[0]).zip(first.chunks(division.bytes[0])) {
                let scales = division.bytes[0] - codes;
                assert_eq!(again[scales..], first[scales..], "{}", encoding.name);
            }
        }
    }

    #[test]
    fn coarse_codes_are_the_middle_of_what_is_left_open() {
        let packed = bytes(272);
        let (mut first, mut second, mut coarse) = (vec![0; 144], vec![0; 128], vec![0; 272]);
        Q8_0.divide(&packed, &mut first, &mut second);
        Q8_0.join(&first, None, &mut coarse);
        assert_eq!(coarse[..16], packed[..16]);
        for (coarse, exact) in coarse[16..].iter().zip(&packed[16..]) {
            assert_eq!(coarse.cast_signed(), (exact.cast_signed() & !15) + 8);
        }
    }

    #[test]
    fn coarse_offsets_are_half_a_step_higher() {
        for (offset, scale) in
            [(1.0, 0.25), (-3.0, 0.125), (0.0, 1e-6), (-1e-7, 2e-7), (0.1, -0.3), (60000.0, 3.0)]
        {
            let (offset, scale) = (f32_to_f16(offset), f32_to_f16(scale));
            let wanted = f16_to_f32(offset) + 0.5 * f16_to_f32(scale);
            let found = f16_to_f32(half_step_up(offset, scale));
            assert!((found - wanted).abs() <= 1e-3 * wanted.abs() + 6e-8, "{found} for {wanted}");
        }
        assert_eq!(half_step_up(0x7bff, 0x7bff), 0x7bff);
    }

    #[test]
    fn planes_that_are_too_short_are_seen() {
        let encoding = super::super::encoding::by_name("q8_0").unwrap_or_else(|| unreachable!("registered"));
        let [first, second] = [vec![0; 2 * 144], vec![0; 2 * 128]];
        assert!(Planes::Both([&first, &second]).hold(encoding, 9, 32));
        assert!(Planes::First(&first).hold(encoding, 16, 32));
        assert!(!Planes::Both([&first, &second[1..]]).hold(encoding, 9, 32));
        assert!(!Planes::First(&first).hold(encoding, 17, 32));
        assert!(!Planes::Whole(&first).hold(encoding, 9, 32));
        let whole = super::super::encoding::by_name("f16").unwrap_or_else(|| unreachable!("registered"));
        assert!(!Planes::First(&first).hold(whole, 1, 1));
    }
}

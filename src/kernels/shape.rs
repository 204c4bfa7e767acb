//! The integer forms of the encodings that have vector kernels, as far as no instruction set matters to them:
//! one table for all.

use super::layout::GROUP;

/// The integer form of an encoding: what decides the order of products and sums.
pub trait Shape {
    /// Codes are i8; else they are u8, from which `1 << ZERO_SHIFT` (if not 0) is to be subtracted.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // NEON multiplies both as signed
    const SIGNED: bool;
    /// Largest unsigned code; decides how many products fit into 16 bits.
    const LARGEST: i32;
    /// See `SIGNED`.
    const ZERO_SHIFT: i32;
    /// As `layout::Scheme::halves`.
    const HALVES: bool;
    /// As `layout::Scheme::min`.
    const MIN: bool;
}

/// An encoding with a vector form, as it lies in a packed row group.
pub trait Packed: Shape {
    /// Bytes of eight interleaved blocks.
    const BYTES: usize;
    /// Tiles of a block.
    const TILES: usize;
}

/// Any encoding, expanded through `Encoding::tile`.
pub struct Generic;

impl Shape for Generic {
    const SIGNED: bool = true;
    const LARGEST: i32 = 128;
    const ZERO_SHIFT: i32 = 0;
    const HALVES: bool = true;
    const MIN: bool = true;
}

/// Declares an encoding: name, block bytes, tiles, signed, largest code, zero shift, halves, min.
macro_rules! shape {
    ($name:ident, $bytes:literal, $tiles:literal, $signed:literal, $largest:literal, $zero:literal, $halves:literal,
     $min:literal) => {
        #[doc = concat!("ggml's ", stringify!($name), ".")]
        pub struct $name;
        impl Shape for $name {
            const SIGNED: bool = $signed;
            const LARGEST: i32 = $largest;
            const ZERO_SHIFT: i32 = $zero;
            const HALVES: bool = $halves;
            const MIN: bool = $min;
        }
        impl Packed for $name {
            const BYTES: usize = GROUP * $bytes;
            const TILES: usize = $tiles;
        }
    };
}

shape!(Q4_0, 18, 1, false, 15, 3, false, false);
shape!(Q4_1, 20, 1, false, 15, 0, false, true);
shape!(Q5_0, 22, 1, false, 31, 4, false, false);
shape!(Q5_1, 24, 1, false, 31, 0, false, true);
shape!(Q8_0, 34, 1, true, 128, 0, false, false);
shape!(Q2K, 84, 8, false, 3, 0, true, true);
shape!(Q3K, 110, 8, false, 7, 2, true, false);
shape!(Q4K, 144, 8, false, 15, 0, false, true);
shape!(Q5K, 176, 8, false, 31, 0, false, true);
shape!(Q6K, 210, 8, false, 63, 5, true, false);
shape!(Iq4Nl, 18, 1, true, 128, 0, false, false);
shape!(Iq4Xs, 136, 8, true, 128, 0, false, false);

/// Calls `$form::<E>($argument)` with the type `E` of an encoding that has a vector form, else `$generic($argument)`.
#[cfg(target_arch = "aarch64")]
macro_rules! by_encoding {
    ($encoding:expr, $form:ident, $generic:ident, $argument:expr) => {
        match $encoding.name {
            "q4_0" => $form::<$crate::kernels::shape::Q4_0>($argument),
            "q4_1" => $form::<$crate::kernels::shape::Q4_1>($argument),
            "q5_0" => $form::<$crate::kernels::shape::Q5_0>($argument),
            "q5_1" => $form::<$crate::kernels::shape::Q5_1>($argument),
            "q8_0" => $form::<$crate::kernels::shape::Q8_0>($argument),
            "q2_k" => $form::<$crate::kernels::shape::Q2K>($argument),
            "q3_k" => $form::<$crate::kernels::shape::Q3K>($argument),
            "q4_k" => $form::<$crate::kernels::shape::Q4K>($argument),
            "q5_k" => $form::<$crate::kernels::shape::Q5K>($argument),
            "q6_k" => $form::<$crate::kernels::shape::Q6K>($argument),
            "iq4_nl" => $form::<$crate::kernels::shape::Iq4Nl>($argument),
            "iq4_xs" => $form::<$crate::kernels::shape::Iq4Xs>($argument),
            _ => $generic($argument),
        }
    };
}
#[cfg(target_arch = "aarch64")]
pub(super) use by_encoding;

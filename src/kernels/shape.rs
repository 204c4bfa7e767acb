//! The integer forms of the encodings that have vector kernels, as far as no instruction set matters to them:
//! one table for all,
//! which must agree with the registry.

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
    /// As `encoding::Scheme::halves`.
    const HALVES: bool;
    /// As `encoding::Scheme::min`.
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

/// Calls `$form::<E>(arguments)` with the type `E` of an encoding that has a vector form, else
/// `$generic(arguments)`.
macro_rules! by_encoding {
    ($encoding:expr, $form:ident, $generic:ident, $arguments:tt) => {
        match $encoding.name {
            "q4_0" => $form::<$crate::kernels::shape::Q4_0> $arguments,
            "q4_1" => $form::<$crate::kernels::shape::Q4_1> $arguments,
            "q5_0" => $form::<$crate::kernels::shape::Q5_0> $arguments,
            "q5_1" => $form::<$crate::kernels::shape::Q5_1> $arguments,
            "q8_0" => $form::<$crate::kernels::shape::Q8_0> $arguments,
            "q2_k" => $form::<$crate::kernels::shape::Q2K> $arguments,
            "q3_k" => $form::<$crate::kernels::shape::Q3K> $arguments,
            "q4_k" => $form::<$crate::kernels::shape::Q4K> $arguments,
            "q5_k" => $form::<$crate::kernels::shape::Q5K> $arguments,
            "q6_k" => $form::<$crate::kernels::shape::Q6K> $arguments,
            "iq4_nl" => $form::<$crate::kernels::shape::Iq4Nl> $arguments,
            "iq4_xs" => $form::<$crate::kernels::shape::Iq4Xs> $arguments,
            _ => $generic $arguments,
        }
    };
}
pub(super) use by_encoding;

#[cfg(test)]
mod tests {
    use super::{Generic, Packed, Shape};
    use crate::kernels::encoding::{Encoding, Scheme, TILE, all};
    use crate::kernels::layout::GROUP;

    fn scheme<S: Shape>() -> Scheme {
        Scheme { halves: S::HALVES, min: S::MIN }
    }

    fn same<E: Packed>(encoding: &Encoding) -> bool {
        assert_eq!(encoding.scheme, scheme::<E>(), "{}", encoding.name);
        assert_eq!([GROUP * encoding.block_bytes, encoding.block_len], [E::BYTES, E::TILES * TILE]);
        true
    }

    fn general(encoding: &Encoding) -> bool {
        assert!(encoding.tile.is_none() || encoding.scheme == scheme::<Generic>(), "{}", encoding.name);
        false
    }

    #[test]
    fn vector_forms_are_those_of_the_registry() {
        let forms = all().iter().filter(|e| by_encoding!(e, same, general, (e))).count();
        assert_eq!(forms, 12);
    }
}

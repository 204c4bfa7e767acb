//! The forms in which keys and values are computed with, and decoding from one to another.

use crate::kernels::kv::{BLOCK, TILE};
use crate::kernels::math::f16_to_f32;
use crate::kernels::vector::{Operation, Vector};

/// Rows of values.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub count: usize,
    /// Elements and scales of a row.
    pub row: usize,
    pub blocks: usize,
}

/// Elements of keys or values in one of the forms that they are computed with.
pub(super) trait Source: Copy {
    /// Whether elements are still to be multiplied by their scales.
    const SCALED: bool;

    /// The source from an element, and a scale, on.
    fn skip(self, elements: usize, scales: usize) -> Self;

    /// The elements from `at` on.
    ///
    /// # Safety
    /// They are readable, and the machine has the instruction set.
    unsafe fn get<V: Vector>(self, at: usize) -> V;

    /// Asks for the elements from `at` on, which may lie anywhere.
    ///
    /// # Safety
    /// The machine has the instruction set.
    unsafe fn prefetch<V: Vector>(self, at: usize);

    /// The scales.
    fn scales(self) -> *const f32;
}

/// f16 as the cache holds them.
#[derive(Clone, Copy)]
pub(super) struct Halves(pub *const u16);

/// Decoded elements.
#[derive(Clone, Copy)]
pub(super) struct Floats(pub *const f32);

/// q8_0 as the cache holds it, but for the scales, which are decoded.
#[derive(Clone, Copy)]
pub(super) struct Codes {
    pub codes: *const i8,
    pub scales: *const f32,
}

impl Source for Halves {
    const SCALED: bool = false;

    #[inline(always)]
    fn skip(self, elements: usize, _: usize) -> Self {
        Self(self.0.wrapping_add(elements))
    }

    #[inline(always)]
    unsafe fn get<V: Vector>(self, at: usize) -> V {
        // SAFETY: passed on to the caller.
        unsafe { V::load_f16(self.0.add(at)) }
    }

    #[inline(always)]
    unsafe fn prefetch<V: Vector>(self, at: usize) {
        // SAFETY: passed on to the caller.
        unsafe { V::prefetch(self.0.wrapping_add(at).cast()) };
    }

    #[inline(always)]
    fn scales(self) -> *const f32 {
        std::ptr::null()
    }
}

impl Source for Floats {
    const SCALED: bool = false;

    #[inline(always)]
    fn skip(self, elements: usize, _: usize) -> Self {
        Self(self.0.wrapping_add(elements))
    }

    #[inline(always)]
    unsafe fn get<V: Vector>(self, at: usize) -> V {
        // SAFETY: passed on to the caller.
        unsafe { V::load(self.0.add(at)) }
    }

    #[inline(always)]
    unsafe fn prefetch<V: Vector>(self, _: usize) {}

    #[inline(always)]
    fn scales(self) -> *const f32 {
        std::ptr::null()
    }
}

impl Source for Codes {
    const SCALED: bool = true;

    #[inline(always)]
    fn skip(self, elements: usize, scales: usize) -> Self {
        Self { codes: self.codes.wrapping_add(elements), scales: self.scales.wrapping_add(scales) }
    }

    #[inline(always)]
    unsafe fn get<V: Vector>(self, at: usize) -> V {
        // SAFETY: passed on to the caller.
        unsafe { V::load_i8(self.codes.add(at)) }
    }

    #[inline(always)]
    unsafe fn prefetch<V: Vector>(self, at: usize) {
        // SAFETY: passed on to the caller.
        unsafe { V::prefetch(self.codes.wrapping_add(at).cast()) };
    }

    #[inline(always)]
    fn scales(self) -> *const f32 {
        self.scales
    }
}

/// Writes f16 elements, a multiple of `TILE`, as f32.
pub(super) struct DecodeHalves {
    pub from: Halves,
    pub len: usize,
    pub block: *mut f32,
}

impl<V: Vector> Operation<V> for DecodeHalves {
    type Output = ();

    #[inline(always)]
    unsafe fn run(self) {
        for at in (0..self.len).step_by(V::LANES) {
            // SAFETY: passed on to the caller.
            unsafe { self.from.get::<V>(at).store(self.block.add(at)) };
        }
    }
}

/// Writes tiles of q8_0 keys as f32.
pub(super) struct DecodeKeys {
    pub keys: Codes,
    pub tiles: usize,
    pub dim: usize,
    pub block: *mut f32,
}

impl<V: Vector> Operation<V> for DecodeKeys {
    type Output = ();

    #[inline(always)]
    unsafe fn run(self) {
        let blocks = self.dim.div_ceil(BLOCK);
        for tile in 0..self.tiles {
            for d in 0..self.dim {
                for lane in (0..TILE).step_by(V::LANES) {
                    let at = (tile * self.dim + d) * TILE + lane;
                    // SAFETY: passed on to the caller.
                    unsafe {
                        let scale = V::load(self.keys.scales.add((tile * blocks + d / BLOCK) * TILE + lane));
                        self.keys.get::<V>(at).mul(scale).store(self.block.add(at));
                    }
                }
            }
        }
    }
}

/// Writes rows of q8_0 values as f32.
pub(super) struct DecodeValues {
    pub values: Codes,
    pub rows: Rows,
    pub block: *mut f32,
}

impl<V: Vector> Operation<V> for DecodeValues {
    type Output = ();

    #[inline(always)]
    unsafe fn run(self) {
        let Rows { count, row, blocks } = self.rows;
        for j in 0..count {
            for d in (0..row).step_by(V::LANES) {
                // SAFETY: passed on to the caller.
                unsafe {
                    let scale = V::splat(*self.values.scales.add(j * blocks + d / BLOCK));
                    self.values.get::<V>(j * row + d).mul(scale).store(self.block.add(j * row + d));
                }
            }
        }
    }
}

/// Writes f16 scales as f32.
pub(super) struct DecodeScales<'a> {
    pub scales: &'a [u16],
    pub out: &'a mut [f32],
}

impl<V: Vector> Operation<V> for DecodeScales<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run(self) {
        let Self { scales, out } = self;
        assert!(out.len() >= scales.len());
        let whole = scales.len() / V::LANES * V::LANES;
        for at in (0..whole).step_by(V::LANES) {
            // SAFETY: inside both slices; else passed on to the caller.
            unsafe { V::load_f16(scales.as_ptr().add(at)).store(out.as_mut_ptr().add(at)) };
        }
        for (out, scale) in out[whole..].iter_mut().zip(&scales[whole..]) {
            *out = f16_to_f32(*scale);
        }
    }
}

//! Conversions between f16 and f32 by the processor's own instructions, whose intrinsics are younger than the
//! oldest supported compiler. They set the sticky exception flags, hence no `preserves_flags`.

use std::arch::aarch64::*;
use std::arch::asm;

/// Eight f16 (their bits) as f32; exact.
#[inline]
#[target_feature(enable = "neon")]
pub fn to_f32(bits: uint16x8_t) -> [float32x4_t; 2] {
    let (low, high);
    // SAFETY: reads and writes only the registers named.
    unsafe {
        asm!(
            "fcvtl {low:v}.4s, {bits:v}.4h",
            "fcvtl2 {high:v}.4s, {bits:v}.8h",
            low = out(vreg) low,
            high = lateout(vreg) high,
            bits = in(vreg) bits,
            options(pure, nomem, nostack),
        );
    }
    [low, high]
}

/// Four f16 likewise.
#[inline]
#[target_feature(enable = "neon")]
pub fn four(bits: uint16x4_t) -> float32x4_t {
    let values;
    // SAFETY: reads and writes only the registers named.
    unsafe {
        asm!(
            "fcvtl {values:v}.4s, {bits:v}.4h",
            values = lateout(vreg) values,
            bits = in(vreg) bits,
            options(pure, nomem, nostack),
        );
    }
    values
}

/// Bits of the f16 nearest to each value, ties to even.
#[inline]
#[target_feature(enable = "neon")]
pub fn to_f16(values: [float32x4_t; 2]) -> uint16x8_t {
    let bits;
    // SAFETY: reads and writes only the registers named.
    unsafe {
        asm!(
            "fcvtn {bits:v}.4h, {low:v}.4s",
            "fcvtn2 {bits:v}.8h, {high:v}.4s",
            low = in(vreg) values[0],
            high = in(vreg) values[1],
            bits = out(vreg) bits,
            options(pure, nomem, nostack),
        );
    }
    bits
}

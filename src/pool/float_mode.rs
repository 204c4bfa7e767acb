//! The floating-point mode in which everything is computed.

use std::marker::PhantomData;

/// Holds the calling thread in the default floating-point mode (round to nearest even, subnormals kept, no
/// traps) and gives the former one back on drop.
///
/// Games and audio programs often flush subnormals to zero or round otherwise; the same inputs would then give
/// other bits, and others again where the work is shared with threads in another mode. Rust itself assumes the
/// default mode.
#[derive(Debug)]
pub struct StandardFloats {
    former: Option<u64>,
    /// The mode is the thread's own.
    _not_send: PhantomData<*const ()>,
}

impl StandardFloats {
    /// Enters the default mode.
    #[must_use]
    pub fn enter() -> Self {
        let former = control::read();
        let other = (former & control::MODE) != control::DEFAULT;
        if other {
            control::write(control::DEFAULT);
        }
        Self { former: other.then_some(former), _not_send: PhantomData }
    }
}

impl Drop for StandardFloats {
    fn drop(&mut self) {
        if let Some(former) = self.former {
            control::write(former);
        }
    }
}

/// MXCSR (Intel SDM volume 1, 10.2.3).
#[cfg(target_arch = "x86_64")]
mod control {
    use std::arch::asm;

    /// Every bit but the six sticky exception flags.
    pub const MODE: u64 = 0xffc0;
    /// All exceptions masked, round to nearest, no flushing.
    pub const DEFAULT: u64 = 0x1f80;
    /// Flush to zero, denormals are zero.
    #[cfg(test)]
    pub const FLUSHING: u64 = DEFAULT | 0x8040;

    pub fn read() -> u64 {
        let mut value = 0u32;
        // SAFETY: stores MXCSR into `value`, which is writable and of the right size.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack, preserves_flags)) };
        u64::from(value)
    }

    pub fn write(value: u64) {
        let value = value as u32;
        // SAFETY: the value is the default or one that was read before, so no reserved bit is set.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const value, options(nostack, preserves_flags)) };
    }
}

/// FPCR (Arm architecture reference manual, C5.2.8).
#[cfg(target_arch = "aarch64")]
mod control {
    use std::arch::asm;

    /// FIZ: subnormal inputs are zero.
    const FLUSH_INPUTS: u64 = 1;
    /// AH: alternate handling.
    const ALTERNATE: u64 = 1 << 1;
    /// NEP: what scalar operations leave in the upper elements.
    const UPPER_ELEMENTS: u64 = 1 << 2;
    /// IOE, DZE, OFE, UFE, IXE and IDE.
    const TRAPS: u64 = 0x1f << 8 | 1 << 15;
    /// EBF: how BFloat16 products are rounded.
    const BFLOAT16: u64 = 1 << 13;
    /// FZ16: half-precision subnormals are zero.
    const FLUSH_HALVES: u64 = 1 << 19;
    /// RMode.
    const ROUNDING: u64 = 0b11 << 22;
    /// FZ: subnormals are zero.
    const FLUSH: u64 = 1 << 24;
    /// DN: every NaN is the default one.
    const DEFAULT_NAN: u64 = 1 << 25;
    /// AHP: the other half-precision format.
    const OTHER_HALVES: u64 = 1 << 26;

    /// Every bit that changes a result; Len and Stride, which have no meaning here, are not among them.
    pub const MODE: u64 = FLUSH_INPUTS
        | ALTERNATE
        | UPPER_ELEMENTS
        | TRAPS
        | BFLOAT16
        | FLUSH_HALVES
        | ROUNDING
        | FLUSH
        | DEFAULT_NAN
        | OTHER_HALVES;
    pub const DEFAULT: u64 = 0;
    #[cfg(test)]
    pub const FLUSHING: u64 = FLUSH;

    pub fn read() -> u64 {
        let value: u64;
        // SAFETY: reads a register that every thread may read.
        unsafe { asm!("mrs {}, fpcr", out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }

    pub fn write(value: u64) {
        // SAFETY: the value is the default or one that was read before.
        unsafe { asm!("msr fpcr, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
    }
}

/// Other processors: the mode is left as it is.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod control {
    pub const MODE: u64 = 0;
    pub const DEFAULT: u64 = 0;

    pub fn read() -> u64 {
        0
    }

    pub fn write(_: u64) {}
}

#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use super::*;

    /// A subnormal number where the mode keeps them; each call computes it anew.
    #[inline(never)]
    fn subnormal() -> f32 {
        std::hint::black_box(std::hint::black_box(f32::MIN_POSITIVE) * 0.5)
    }

    #[test]
    fn a_host_mode_is_left_and_given_back() {
        let before = control::read();
        control::write(control::FLUSHING);
        assert_eq!(subnormal(), 0.0, "the host's mode flushes");
        {
            let _mode = StandardFloats::enter();
            assert!(subnormal() > 0.0);
        }
        assert_eq!(control::read() & control::MODE, control::FLUSHING);
        control::write(before);
    }
}

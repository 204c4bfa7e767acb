//! Element-wise operations; what does not fill a vector is left to the scalar forms.

use super::{Operation, Vector, exp};
use crate::kernels::scalar::elementwise as scalar;

/// `gate = silu(gate) * up`, for slices of one length.
pub struct Swiglu<'a> {
    pub gate: &'a mut [f32],
    pub up: &'a [f32],
}

impl<V: Vector> Operation<V> for Swiglu<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run(self) {
        let Self { gate, up } = self;
        assert!(gate.len() == up.len());
        let whole = gate.len() / V::LANES * V::LANES;
        for at in (0..whole).step_by(V::LANES) {
            // SAFETY: inside both slices; else passed on to the caller.
            unsafe {
                let place = gate.as_mut_ptr().add(at);
                let x = V::load(place);
                let silu = x.div(V::splat(1.0).add(exp(x.mul(V::splat(-1.0)))));
                silu.mul(V::load(up.as_ptr().add(at))).store(place);
            }
        }
        scalar::swiglu(&mut gate[whole..], &up[whole..]);
    }
}

/// `x += y`, for slices of one length.
pub struct Add<'a> {
    pub x: &'a mut [f32],
    pub y: &'a [f32],
}

impl<V: Vector> Operation<V> for Add<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run(self) {
        let Self { x, y } = self;
        assert!(x.len() == y.len());
        let whole = x.len() / V::LANES * V::LANES;
        for at in (0..whole).step_by(V::LANES) {
            // SAFETY: inside both slices; else passed on to the caller.
            unsafe {
                let place = x.as_mut_ptr().add(at);
                V::load(place).add(V::load(y.as_ptr().add(at))).store(place);
            }
        }
        scalar::add(&mut x[whole..], &y[whole..]);
    }
}

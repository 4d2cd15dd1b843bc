//! The gated activation of a feed-forward block (Shazeer, 2020), as the beginning of a product.

use crate::kernels::{Kernels, Loop};
use rin_kernels::math::sigmoid;

/// `out = silu(gate) * up` in rows of `width`, by the runtime's kernel; a row of `x` holds the gate and then the up part.
pub(super) fn gate(out: &mut [f32], x: &[f32], width: usize, kernels: &Kernels) {
    for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(2 * width)) {
        let (gate, up) = x.split_at(width);
        out.copy_from_slice(gate);
        kernels.swiglu.run(out, up);
    }
}

/// The gradient `dx` of `x` from that of the result, `dy`.
pub(super) struct GateGradient<'a> {
    pub(super) dx: &'a mut [f32],
    pub(super) x: &'a [f32],
    pub(super) dy: &'a [f32],
    pub(super) width: usize,
}

impl Loop for GateGradient<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { dx, x, dy, width: n } = self;
        for ((dx, x), dy) in dx.chunks_exact_mut(2 * n).zip(x.chunks_exact(2 * n)).zip(dy.chunks_exact(n)) {
            let ((gate, up), (d_gate, d_up)) = (x.split_at(n), dx.split_at_mut(n));
            let parts = gate.iter().zip(up).zip(dy).zip(d_gate.iter_mut().zip(d_up));
            for (((gate, up), dy), (d_gate, d_up)) in parts {
                let s = sigmoid(*gate);
                let silu = gate * s;
                *d_up = dy * silu;
                *d_gate = dy * up * (s + silu * (1.0 - s));
            }
        }
    }
}

//! Softmax and its logarithm along an axis.

use super::ArrayKernels;
use super::reduce::Axis;
use super::workers::Workers;
use crate::Error;
use crate::arena::{cast, cast_mut};
use rin_kernels::ops::elementwise::{Binary, Unary};

/// What a number costs against a plain one.
const WORK: usize = 8;

/// Floats of scratch: rows that are gathered and computed where the axis is not the last.
pub(crate) fn scratch_len(axis: Axis) -> usize {
    if axis.inner == 1 { 0 } else { axis.n.saturating_mul(2) }
}

fn row(kernels: &ArrayKernels, log: bool, x: &[f32], y: &mut [f32]) {
    if !log {
        y.copy_from_slice(x);
        kernels.softmax.run(y);
        return;
    }
    // ln of a softmax: (x − max) − ln Σ e^(x − max).
    let largest = x.iter().copied().fold(f32::NEG_INFINITY, |a, b| if b > a || b.is_nan() { b } else { a });
    let mut lanes = [0.0_f32; 16];
    let mut room = [0.0; 64];
    let mut moved = [0.0; 64];
    for x in x.chunks(64) {
        let (room, moved) = (&mut room[..x.len()], &mut moved[..x.len()]);
        kernels.zip.run(moved, x, &[largest], Binary::Sub);
        kernels.map.run(room, moved, Unary::Exp, 0.0, 0.0);
        for sixteen in room.chunks(16) {
            lanes.iter_mut().zip(sixteen).for_each(|(lane, e)| *lane += e);
        }
    }
    let mut half = 8;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    let mut logarithm = [0.0];
    kernels.map.run(&mut logarithm, &lanes[..1], Unary::Log, 0.0, 0.0);
    kernels.zip.run(y, x, &[largest], Binary::Sub);
    for part in y.chunks_mut(64) {
        let n = part.len();
        moved[..n].copy_from_slice(part);
        kernels.zip.run(part, &moved[..n], &logarithm, Binary::Sub);
    }
}

/// Softmax, or its logarithm, of the floats along an axis.
pub(crate) fn softmax(
    kernels: &ArrayKernels,
    log: bool,
    axis: Axis,
    x: &[u8],
    out: &mut [u8],
    scratch: &mut [u8],
    workers: &mut Workers<'_>,
) -> Result<(), Error> {
    let (x, out, scratch) = (cast::<f32>(x)?, cast_mut::<f32>(out)?, cast_mut::<f32>(scratch)?);
    let (n, inner) = (axis.n, axis.inner);
    if n == 0 || inner == 0 {
        return Ok(());
    }
    if inner == 1 {
        let work = out.len() * WORK;
        workers.spread(out, n, work, |first, out| {
            for (i, out) in out.chunks_exact_mut(n).enumerate() {
                row(kernels, log, &x[(first + i) * n..][..n], out);
            }
        });
        return Ok(());
    }
    let (gathered, computed) = scratch.split_at_mut(n);
    for (o, out) in out.chunks_exact_mut(n * inner).enumerate() {
        for i in 0..inner {
            let column = x[o * n * inner + i..].iter().step_by(inner);
            gathered.iter_mut().zip(column).for_each(|(to, x)| *to = *x);
            row(kernels, log, gathered, &mut computed[..n]);
            out[i..].iter_mut().step_by(inner).zip(&*computed).for_each(|(to, y)| *to = *y);
        }
    }
    Ok(())
}

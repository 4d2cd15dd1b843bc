//! Sums, extremes and places along axes.
//!
//! The sum of floats is defined as everywhere: 16 lanes by the place in row-major order over the reduced axes, and one
//! fold. So it does not matter which axes they are, how the array lies, or who computes it.

use super::elements::{load_integers, size_of, store_integers};
use super::loops::Loops;
use super::workers::Workers;
use crate::Error;
use crate::arena::{cast, cast_mut};
use rin_kernels::math::canonical;
use rin_model::DType;
use rin_model::graph::{ArgKind, ReduceKind};

/// Lanes of a sum.
const LANES: usize = 16;

/// Folds 16 lanes in the one order of all kernels: halves onto halves.
fn fold(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = join(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

fn largest(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

fn smallest(a: f32, b: f32) -> f32 {
    if b < a || b.is_nan() { b } else { a }
}

/// One number of the floats that `inner` walks over from `base` on.
fn reduce_one(kind: ReduceKind, inner: &Loops<1>, x: &[f32], base: usize) -> f32 {
    let over = |start: f32, join: fn(f32, f32) -> f32| {
        let mut lanes = [start; LANES];
        inner.stretches(0, inner.count(), |at, n, [from], [step]| {
            if step == 1 && at % LANES == 0 {
                let (whole, rest) = x[base + from..][..n].as_chunks::<LANES>();
                for x in whole {
                    lanes.iter_mut().zip(x).for_each(|(lane, x)| *lane = join(*lane, *x));
                }
                lanes.iter_mut().zip(rest).for_each(|(lane, x)| *lane = join(*lane, *x));
                return;
            }
            let mut place = (base + from).cast_signed();
            for k in at..at + n {
                lanes[k % LANES] = join(lanes[k % LANES], x[place.cast_unsigned()]);
                place += step;
            }
        });
        fold(lanes, join)
    };
    canonical(match kind {
        ReduceKind::Sum => over(0.0, |a, b| a + b),
        ReduceKind::Mean => over(0.0, |a, b| a + b) / inner.count() as f32,
        ReduceKind::Prod => over(1.0, |a, b| a * b),
        ReduceKind::Max => over(f32::NEG_INFINITY, largest),
        ReduceKind::Min => over(f32::INFINITY, smallest),
    })
}

/// One float of those along axes.
pub(crate) fn reduce(
    kind: ReduceKind,
    outer: &Loops<1>,
    inner: &Loops<1>,
    x: &[u8],
    out: &mut [u8],
    workers: &mut Workers<'_>,
) -> Result<(), Error> {
    let (x, out) = (cast::<f32>(x)?, cast_mut::<f32>(out)?);
    let work = out.len() * inner.count();
    workers.spread(out, 1, work, |first, out| {
        let count = out.len();
        outer.stretches(first, count, |at, n, [from], [step]| {
            let mut place = from.cast_signed();
            for out in &mut out[at..][..n] {
                *out = reduce_one(kind, inner, x, place.cast_unsigned());
                place += step;
            }
        });
    });
    Ok(())
}

/// One integer, or truth value, of those along axes.
pub(crate) fn reduce_integers(
    kind: ReduceKind,
    dtype: DType,
    outer: &Loops<1>,
    inner: &Loops<1>,
    x: &[u8],
    out: &mut [u8],
) {
    let unsigned = dtype == DType::U64;
    let (least, most) = if unsigned { (0, -1) } else { super::elements::range_of(dtype) };
    let key = |n: i64| if unsigned { n ^ i64::MIN } else { n };
    for (i, out) in out.chunks_exact_mut(size_of(dtype)).enumerate() {
        let [base] = outer.places(i);
        let mut sum = match kind {
            ReduceKind::Sum | ReduceKind::Mean => 0,
            ReduceKind::Prod => 1,
            ReduceKind::Max => least,
            ReduceKind::Min => most,
        };
        for k in 0..inner.count() {
            let [at] = inner.places(k);
            let mut n = [0];
            load_integers(dtype, x, base + at, 1, &mut n);
            let [n] = n;
            sum = match kind {
                ReduceKind::Sum | ReduceKind::Mean => sum.wrapping_add(n),
                ReduceKind::Prod => sum.wrapping_mul(n),
                ReduceKind::Max => {
                    if key(n) > key(sum) {
                        n
                    } else {
                        sum
                    }
                }
                ReduceKind::Min => {
                    if key(n) < key(sum) {
                        n
                    } else {
                        sum
                    }
                }
            };
        }
        if kind == ReduceKind::Mean {
            sum = sum.checked_div(inner.count().cast_signed() as i64).unwrap_or(0);
        }
        store_integers(dtype, &[sum], out);
    }
}

/// An array as `(outer, n, inner)` around an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    pub(crate) outer: usize,
    pub(crate) n: usize,
    pub(crate) inner: usize,
}

impl Axis {
    /// Of an array of this shape.
    pub(crate) fn of(shape: &[usize], axis: usize) -> Self {
        let n = shape.get(axis).copied().unwrap_or(1);
        let outer = shape.iter().take(axis).product();
        Self { outer, n, inner: shape.iter().skip(axis + 1).product() }
    }
}

/// Whether element `a` of an array comes before `b` in the order from the extreme on.
fn before(kind: ArgKind, dtype: DType, x: &[u8], a: usize, b: usize) -> bool {
    if dtype == DType::F32 {
        let of = |at: usize| x[at * 4..].first_chunk().map_or(0.0, |b| f32::from_ne_bytes(*b));
        let (a, b) = (of(a), of(b));
        // NaN is beyond everything, as NumPy has it.
        return match kind {
            ArgKind::Max => a > b || a.is_nan() && !b.is_nan(),
            ArgKind::Min => a < b || a.is_nan() && !b.is_nan(),
        };
    }
    let of = |at: usize| {
        let mut n = [0];
        load_integers(dtype, x, at, 1, &mut n);
        if dtype == DType::U64 { n[0] ^ i64::MIN } else { n[0] }
    };
    match kind {
        ArgKind::Max => of(a) > of(b),
        ArgKind::Min => of(a) < of(b),
    }
}

/// The place of the extreme along an axis.
pub(crate) fn extreme(kind: ArgKind, last: bool, dtype: DType, axis: Axis, x: &[u8], out: &mut [u8]) {
    for (i, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let base = i / axis.inner * axis.n * axis.inner + i % axis.inner;
        let mut best = 0;
        for k in 1..axis.n {
            let (a, b) = (base + k * axis.inner, base + best * axis.inner);
            if before(kind, dtype, x, a, b) || last && !before(kind, dtype, x, b, a) {
                best = k;
            }
        }
        *out = (best as u64).to_ne_bytes();
    }
}

/// The `k` extremes along an axis, or their places; `scratch` holds a place for each number along it.
pub(crate) fn top_k(
    kind: ArgKind,
    places: bool,
    k: usize,
    dtype: DType,
    axis: Axis,
    x: &[u8],
    out: &mut [u8],
    scratch: &mut [u8],
) -> Result<(), Error> {
    let size = size_of(dtype);
    let order = cast_mut::<u64>(scratch)?;
    for o in 0..axis.outer {
        for i in 0..axis.inner {
            let order = &mut order[..axis.n];
            order.iter_mut().enumerate().for_each(|(at, place)| *place = at as u64);
            let element = |at: u64| (o * axis.n + usize::try_from(at).unwrap_or(0)) * axis.inner + i;
            order.sort_unstable_by(|&a, &b| {
                if before(kind, dtype, x, element(a), element(b)) {
                    std::cmp::Ordering::Less
                } else if before(kind, dtype, x, element(b), element(a)) {
                    std::cmp::Ordering::Greater
                } else {
                    a.cmp(&b)
                }
            });
            for (j, &place) in order[..k].iter().enumerate() {
                let to = (o * k + j) * axis.inner + i;
                if places {
                    out[to * 8..][..8].copy_from_slice(&place.to_ne_bytes());
                } else {
                    out[to * size..][..size].copy_from_slice(&x[element(place) * size..][..size]);
                }
            }
        }
    }
    Ok(())
}

/// Sums of all numbers up to each along an axis, one after the other.
pub(crate) fn running_sum(exclusive: bool, reverse: bool, dtype: DType, axis: Axis, x: &[u8], out: &mut [u8]) {
    let size = size_of(dtype);
    for o in 0..axis.outer {
        for i in 0..axis.inner {
            let (mut float, mut integer) = (0.0_f32, 0_i64);
            for k in 0..axis.n {
                let k = if reverse { axis.n - 1 - k } else { k };
                let at = (o * axis.n + k) * axis.inner + i;
                let out = &mut out[at * size..][..size];
                if dtype == DType::F32 {
                    let n = x[at * 4..].first_chunk().map_or(0.0, |b| f32::from_ne_bytes(*b));
                    let after = canonical(float + n);
                    out.copy_from_slice(&if exclusive { float } else { after }.to_ne_bytes());
                    float = after;
                } else {
                    let mut n = [0];
                    load_integers(dtype, x, at, 1, &mut n);
                    let after = integer.wrapping_add(n[0]);
                    store_integers(dtype, &[if exclusive { integer } else { after }], out);
                    integer = after;
                }
            }
        }
    }
}

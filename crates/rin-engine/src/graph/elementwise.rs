//! Functions of one, two and three numbers, and changes of type.

use super::elements::{STRETCH, float_of, integer_of, load_floats, load_integers, range_of, size_of, store_integers};
use super::loops::Loops;
use super::workers::Workers;
use crate::Error;
use crate::arena::{cast, cast_mut};
use rin_kernels::math::{canonical, round};
use rin_kernels::ops::elementwise::{Binary as FloatBinary, Map, Unary as FloatUnary, Zip};
use rin_model::DType;
use rin_model::graph::{Binary, Unary};

/// What a number costs against a plain one: most functions call an exponential.
const WORK: usize = 8;

/// The kernel of a function of one number.
pub(crate) fn unary_kernel(function: Unary) -> FloatUnary {
    FloatUnary::ALL.iter().copied().find(|f| f.name() == function.name()).unwrap_or(FloatUnary::Identity)
}

/// The kernel of a function of two numbers; none where it is for integers alone.
pub(crate) fn binary_kernel(function: Binary) -> Option<FloatBinary> {
    FloatBinary::ALL.iter().copied().find(|f| f.name() == function.name())
}

/// A function of each float.
pub(crate) fn map(
    kernel: &Map,
    function: Unary,
    [alpha, beta]: [f32; 2],
    x: &[u8],
    out: &mut [u8],
    workers: &mut Workers<'_>,
) -> Result<(), Error> {
    let (x, out) = (cast::<f32>(x)?, cast_mut::<f32>(out)?);
    let (function, work) = (unary_kernel(function), out.len() * WORK);
    workers.spread(out, 64, work, |first, out| {
        kernel.run(out, &x[first * 64..][..out.len()], function, alpha, beta);
    });
    Ok(())
}

/// A function of each integer.
pub(crate) fn map_integers(function: Unary, dtype: DType, x: &[u8], out: &mut [u8]) {
    each_integer(dtype, dtype, x, out, |n| match function {
        Unary::Neg => n.wrapping_neg(),
        Unary::Abs if dtype != DType::U64 => n.wrapping_abs(),
        Unary::Sign if dtype == DType::U64 => i64::from(n != 0),
        Unary::Sign => n.signum(),
        Unary::Relu if dtype != DType::U64 => n.max(0),
        _ => n,
    });
}

/// Integers of one type to integers of another, element by element.
fn each_integer(from: DType, to: DType, x: &[u8], out: &mut [u8], f: impl Fn(i64) -> i64) {
    let mut numbers = [0; STRETCH];
    for (at, out) in out.chunks_mut(STRETCH * size_of(to)).enumerate() {
        let numbers = &mut numbers[..out.len() / size_of(to)];
        load_integers(from, x, at * STRETCH, 1, numbers);
        for n in numbers.iter_mut() {
            *n = f(*n);
        }
        store_integers(to, numbers, out);
    }
}

/// The opposite of truth values.
pub(crate) fn not(x: &[u8], out: &mut [u8]) {
    out.iter_mut().zip(x).for_each(|(out, &x)| *out = u8::from(x == 0));
}

/// Whether floats are NaN.
pub(crate) fn is_nan(x: &[u8], out: &mut [u8]) -> Result<(), Error> {
    out.iter_mut().zip(cast::<f32>(x)?).for_each(|(out, x)| *out = u8::from(x.is_nan()));
    Ok(())
}

/// Another element type.
pub(crate) fn change_type([from, to]: [DType; 2], x: &[u8], out: &mut [u8]) -> Result<(), Error> {
    match (from, to) {
        (from, to) if from == to => out.copy_from_slice(x),
        (DType::F32, DType::Bool) => {
            out.iter_mut().zip(cast::<f32>(x)?).for_each(|(out, &x)| *out = u8::from(x != 0.0));
        }
        (DType::F32, to) => {
            let (x, mut numbers) = (cast::<f32>(x)?, [0; STRETCH]);
            for (x, out) in x.chunks(STRETCH).zip(out.chunks_mut(STRETCH * size_of(to))) {
                numbers.iter_mut().zip(x).for_each(|(n, &x)| *n = integer_of(to, x));
                store_integers(to, &numbers[..x.len()], out);
            }
        }
        (from, DType::F32) => {
            let mut numbers = [0; STRETCH];
            for (at, out) in cast_mut::<f32>(out)?.chunks_mut(STRETCH).enumerate() {
                let numbers = &mut numbers[..out.len()];
                load_integers(from, x, at * STRETCH, 1, numbers);
                out.iter_mut().zip(numbers).for_each(|(out, n)| *out = float_of(from, *n));
            }
        }
        (from, DType::Bool) => each_integer(from, to, x, out, |n| i64::from(n != 0)),
        (from, to) => each_integer(from, to, x, out, |n| n),
    }
    Ok(())
}

/// `n` numbers of an operand: borrowed where they lie side by side or are one, else gathered.
fn operand<'a>(x: &'a [f32], from: usize, step: isize, n: usize, room: &'a mut [f32; STRETCH]) -> &'a [f32] {
    match step {
        1 => &x[from..][..n],
        0 => &x[from..=from],
        _ => {
            load_floats(x, from, step, &mut room[..n]);
            &room[..n]
        }
    }
}

/// A function of two floats.
pub(crate) fn zip(
    kernel: &Zip,
    function: FloatBinary,
    loops: &Loops<2>,
    [a, b]: [&[u8]; 2],
    out: &mut [u8],
    workers: &mut Workers<'_>,
) -> Result<(), Error> {
    let (a, b, out) = (cast::<f32>(a)?, cast::<f32>(b)?, cast_mut::<f32>(out)?);
    let work = out.len() * if function == FloatBinary::Pow { WORK } else { 1 };
    workers.spread(out, 64, work, |first, out| {
        let n = out.len();
        loops.stretches(first * 64, n, |at, n, [i, j], [da, db]| {
            let out = &mut out[at..][..n];
            if da.unsigned_abs() <= 1 && db.unsigned_abs() <= 1 && da >= 0 && db >= 0 {
                let mut none = ([0.0; STRETCH], [0.0; STRETCH]);
                let (a, b) = (operand(a, i, da, n, &mut none.0), operand(b, j, db, n, &mut none.1));
                return kernel.run(out, a, b, function);
            }
            let (mut room_a, mut room_b) = ([0.0; STRETCH], [0.0; STRETCH]);
            for (c, out) in out.chunks_mut(STRETCH).enumerate() {
                let done = (c * STRETCH).cast_signed();
                let place = |from: usize, step: isize| (from.cast_signed() + done * step).cast_unsigned();
                let a = operand(a, place(i, da), da, out.len(), &mut room_a);
                let b = operand(b, place(j, db), db, out.len(), &mut room_b);
                kernel.run(out, a, b, function);
            }
        });
    });
    Ok(())
}

/// A comparison of two floats.
#[expect(clippy::float_cmp, reason = "equal is what is asked for")]
pub(crate) fn compare(function: Binary, loops: &Loops<2>, [a, b]: [&[u8]; 2], out: &mut [u8]) -> Result<(), Error> {
    let (a, b) = (cast::<f32>(a)?, cast::<f32>(b)?);
    let n = out.len();
    loops.stretches(0, n, |at, n, [i, j], [da, db]| {
        for (k, out) in out[at..][..n].iter_mut().enumerate() {
            let k = k.cast_signed();
            let (a, b) = (a[(i.cast_signed() + k * da).cast_unsigned()], b[(j.cast_signed() + k * db).cast_unsigned()]);
            *out = u8::from(match function {
                Binary::Equal => a == b,
                Binary::Less => a < b,
                Binary::LessOrEqual => a <= b,
                Binary::Greater => a > b,
                _ => a >= b,
            });
        }
    });
    Ok(())
}

/// A function of two integers or truth values, wrapping; a division by 0 gives 0.
pub(crate) fn zip_integers(
    function: Binary,
    [from, to]: [DType; 2],
    loops: &Loops<2>,
    [a, b]: [&[u8]; 2],
    out: &mut [u8],
) {
    let size = size_of(to);
    let count = out.len() / size;
    loops.stretches(0, count, |at, n, places, steps| {
        let (mut x, mut y) = ([0; STRETCH], [0; STRETCH]);
        for (c, out) in out[at * size..][..n * size].chunks_mut(STRETCH * size).enumerate() {
            let (n, done) = (out.len() / size, (c * STRETCH).cast_signed());
            let place = |o: usize| (places[o].cast_signed() + done * steps[o]).cast_unsigned();
            load_integers(from, a, place(0), steps[0], &mut x[..n]);
            load_integers(from, b, place(1), steps[1], &mut y[..n]);
            for (x, y) in x[..n].iter_mut().zip(&y) {
                *x = if from == DType::U64 {
                    unsigned(function, x.cast_unsigned(), y.cast_unsigned()).cast_signed()
                } else {
                    signed(function, *x, *y)
                };
            }
            store_integers(to, &x[..n], out);
        }
    });
}

macro_rules! integer_function {
    ($name:ident, $T:ty, $rem:ident) => {
        fn $name(function: Binary, a: $T, b: $T) -> $T {
            match function {
                Binary::Add => a.wrapping_add(b),
                Binary::Sub => a.wrapping_sub(b),
                Binary::Mul => a.wrapping_mul(b),
                Binary::Div => {
                    if b == 0 {
                        0
                    } else {
                        a.wrapping_div(b)
                    }
                }
                Binary::Pow => u32::try_from(b).map_or(if a == 1 { 1 } else { 0 }, |b| a.wrapping_pow(b)),
                Binary::Mod => {
                    if b == 0 {
                        0
                    } else {
                        $rem(a, b)
                    }
                }
                Binary::Fmod => {
                    if b == 0 {
                        0
                    } else {
                        a.wrapping_rem(b)
                    }
                }
                Binary::Min => a.min(b),
                Binary::Max => a.max(b),
                Binary::And => <$T>::from(a != 0 && b != 0),
                Binary::Or => <$T>::from(a != 0 || b != 0),
                Binary::Xor => <$T>::from((a != 0) != (b != 0)),
                Binary::Equal => <$T>::from(a == b),
                Binary::Less => <$T>::from(a < b),
                Binary::LessOrEqual => <$T>::from(a <= b),
                Binary::Greater => <$T>::from(a > b),
                Binary::GreaterOrEqual => <$T>::from(a >= b),
                _ => a,
            }
        }
    };
}

integer_function!(signed, i64, modulo);
integer_function!(unsigned, u64, remainder);

/// The remainder with the sign of the divisor, as Python has it.
fn modulo(a: i64, b: i64) -> i64 {
    let r = a.wrapping_rem(b);
    if r != 0 && (r < 0) != (b < 0) { r.wrapping_add(b) } else { r }
}

fn remainder(a: u64, b: u64) -> u64 {
    a % b
}

/// The second operand where the first is true, the third elsewhere; elements of `size` bytes.
pub(crate) fn choose(loops: &Loops<3>, size: usize, [condition, x, y]: [&[u8]; 3], out: &mut [u8]) {
    let count = out.len() / size;
    loops.stretches(0, count, |at, n, places, steps| {
        for (k, out) in out[at * size..][..n * size].chunks_exact_mut(size).enumerate() {
            let place = |o: usize| (places[o].cast_signed() + k.cast_signed() * steps[o]).cast_unsigned();
            let (source, from) = if condition[place(0)] != 0 { (x, place(1)) } else { (y, place(2)) };
            out.copy_from_slice(&source[from * size..][..size]);
        }
    });
}

/// What a scale and a zero do to numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scaling {
    /// `saturate(round(x ÷ scale) + zero)`.
    Quantize,
    /// `(x − zero) · scale`.
    Dequantize,
    /// `saturate(round(x · scale) + zero)`.
    Requantize,
}

/// Integers of floats, floats of integers, integers of sums. `zero` is empty where there is none.
pub(crate) fn scale(
    scaling: Scaling,
    [from, to]: [DType; 2],
    loops: &Loops<3>,
    [x, scale, zero]: [&[u8]; 3],
    out: &mut [u8],
    workers: &mut Workers<'_>,
) -> Result<(), Error> {
    let (scale, size) = (cast::<f32>(scale)?, size_of(to));
    let zero_type = if scaling == Scaling::Dequantize { from } else { to };
    // Checked here, so that a stretch cannot fail.
    let floats = if from == DType::F32 { cast::<f32>(x)? } else { &[] };
    let work = out.len() / size * 4;
    let unit = 64 * size;
    workers.spread(out, unit, work, |first, out| {
        let count = out.len() / size;
        loops.stretches(first * 64, count, |at, n, places, steps| {
            for (c, out) in out[at * size..][..n * size].chunks_mut(STRETCH * size).enumerate() {
                let (n, done) = (out.len() / size, (c * STRETCH).cast_signed());
                let place = |o: usize| (places[o].cast_signed() + done * steps[o]).cast_unsigned();
                let (mut numbers, mut zeros, mut scales) = ([0_i64; STRETCH], [0_i64; STRETCH], [0.0_f32; STRETCH]);
                load_floats(scale, place(1), steps[1], &mut scales[..n]);
                if !zero.is_empty() {
                    load_integers(zero_type, zero, place(2), steps[2], &mut zeros[..n]);
                }
                if scaling == Scaling::Quantize {
                    let mut values = [0.0_f32; STRETCH];
                    load_floats(floats, place(0), steps[0], &mut values[..n]);
                    for k in 0..n {
                        numbers[k] = nearest(values[k] / scales[k]);
                    }
                } else {
                    load_integers(from, x, place(0), steps[0], &mut numbers[..n]);
                }
                match scaling {
                    Scaling::Dequantize => {
                        for (k, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                            let y = numbers[k].wrapping_sub(zeros[k]) as f32 * scales[k];
                            *out = canonical(y).to_ne_bytes();
                        }
                        continue;
                    }
                    Scaling::Requantize => {
                        for k in 0..n {
                            numbers[k] = nearest(numbers[k] as f32 * scales[k]);
                        }
                    }
                    Scaling::Quantize => {}
                }
                let (least, most) = range_of(to);
                for k in 0..n {
                    numbers[k] = (numbers[k] + zeros[k]).clamp(least, most);
                }
                store_integers(to, &numbers[..n], out);
            }
        });
    });
    Ok(())
}

/// The nearest integer, ties to even, within 32 bits; NaN is 0.
#[inline(always)]
fn nearest(x: f32) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
    let n = round(x) as i32;
    n.into()
}

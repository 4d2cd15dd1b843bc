//! Elements of any type as numbers of one, stretch by stretch.

use rin_model::DType;

/// Numbers that are looked at together: on the stack.
pub(crate) const STRETCH: usize = 128;

/// Bytes of an element.
pub(crate) fn size_of(dtype: DType) -> usize {
    usize::try_from(dtype.block_bytes()).unwrap_or(1)
}

/// Elements from `from` on, each `step` behind the one before, widened; the bits of unsigned 64-bit numbers.
pub(crate) fn load_integers(dtype: DType, bytes: &[u8], from: usize, step: isize, to: &mut [i64]) {
    fn each<const N: usize>(bytes: &[u8], from: usize, step: isize, to: &mut [i64], of: impl Fn([u8; N]) -> i64) {
        let (elements, _) = bytes.as_chunks::<N>();
        if step == 1 {
            to.iter_mut().zip(&elements[from..]).for_each(|(to, &e)| *to = of(e));
            return;
        }
        let mut at = from.cast_signed();
        for to in to {
            *to = of(elements[at.cast_unsigned()]);
            at += step;
        }
    }
    match dtype {
        DType::I8 => each(bytes, from, step, to, |b| i8::from_ne_bytes(b).into()),
        DType::I16 => each(bytes, from, step, to, |b| i16::from_ne_bytes(b).into()),
        DType::U16 => each(bytes, from, step, to, |b| u16::from_ne_bytes(b).into()),
        DType::I32 => each(bytes, from, step, to, |b| i32::from_ne_bytes(b).into()),
        DType::U32 => each(bytes, from, step, to, |b| u32::from_ne_bytes(b).into()),
        DType::I64 | DType::U64 => each(bytes, from, step, to, i64::from_ne_bytes),
        _ => each(bytes, from, step, to, |[b]: [u8; 1]| b.into()),
    }
}

/// The low bits of numbers as elements of a type.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "integers wrap")]
pub(crate) fn store_integers(dtype: DType, numbers: &[i64], to: &mut [u8]) {
    fn each<const N: usize>(numbers: &[i64], to: &mut [u8], of: impl Fn(i64) -> [u8; N]) {
        to.as_chunks_mut::<N>().0.iter_mut().zip(numbers).for_each(|(to, &n)| *to = of(n));
    }
    match size_of(dtype) {
        1 => each(numbers, to, |n| [n as u8]),
        2 => each(numbers, to, |n| (n as u16).to_ne_bytes()),
        4 => each(numbers, to, |n| (n as u32).to_ne_bytes()),
        _ => each(numbers, to, i64::to_ne_bytes),
    }
}

/// Floats from `from` on, each `step` behind the one before.
pub(crate) fn load_floats(x: &[f32], from: usize, step: isize, to: &mut [f32]) {
    let mut at = from.cast_signed();
    for to in to {
        *to = x[at.cast_unsigned()];
        at += step;
    }
}

/// The range of an integer type.
pub(crate) fn range_of(dtype: DType) -> (i64, i64) {
    match dtype {
        DType::I8 => (i8::MIN.into(), i8::MAX.into()),
        DType::U8 => (0, u8::MAX.into()),
        DType::I16 => (i16::MIN.into(), i16::MAX.into()),
        DType::U16 => (0, u16::MAX.into()),
        DType::I32 => (i32::MIN.into(), i32::MAX.into()),
        DType::U32 => (0, u32::MAX.into()),
        DType::Bool => (0, 1),
        _ => (i64::MIN, i64::MAX),
    }
}

/// The float that is nearest to an integer of a type.
pub(crate) fn float_of(dtype: DType, n: i64) -> f32 {
    if dtype == DType::U64 { n.cast_unsigned() as f32 } else { n as f32 }
}

/// A float as an integer of a type: what is behind the point is cut off, what is out of range becomes the end of the
/// range, NaN 0.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "that is what it is for")]
pub(crate) fn integer_of(dtype: DType, x: f32) -> i64 {
    if dtype == DType::U64 {
        return (x as u64).cast_signed();
    }
    let (least, most) = range_of(dtype);
    (x as i64).clamp(least, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_widened_and_wrap() {
        let mut numbers = [0; 3];
        load_integers(DType::I8, &[0xff, 2, 0x80, 7], 2, -1, &mut numbers);
        assert_eq!(numbers, [-128, 2, -1]);
        load_integers(DType::U16, &[0xff, 0xff, 1, 0], 0, 0, &mut numbers);
        assert_eq!(numbers, [65535; 3]);
        let mut bytes = [0; 3];
        store_integers(DType::U8, &[-1, 256, 5], &mut bytes);
        assert_eq!(bytes, [255, 0, 5]);
        assert_eq!(integer_of(DType::I8, 300.7), 127);
        assert_eq!(integer_of(DType::U8, -1.5), 0);
        assert_eq!(integer_of(DType::I32, f32::NAN), 0);
        assert_eq!(integer_of(DType::I64, -2.9), -2);
        assert_eq!(float_of(DType::U64, -1).to_bits(), (65_536.0_f32 * 65_536.0 * 65_536.0 * 65_536.0).to_bits());
    }
}

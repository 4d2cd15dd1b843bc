//! Element by element: to 8 bits and back, sums, functions by a table.

use super::{Factor, MAX_ELEMENT, bounded, scaled};

/// Segments of a [`Curve`]'s table, one entry more than that.
pub const SEGMENTS: usize = 1 << 12;
/// Elements of a segment, as a power of two.
const SEGMENT_BITS: u32 = 9;
const _: () = assert!(SEGMENTS << SEGMENT_BITS == 2 * MAX_ELEMENT as usize);

kernel! {
    /// The largest magnitude of a row.
    pub struct Largest(x: &[i32], most: &mut i32);
    check: |_x: &&[i32], _most: &&mut i32| {};
    cases: tests::for_each_row;
    conformance: largest;
    variants {
        Scalar => largest_row::scalar,
        Avx2 if target_arch = "x86_64" => largest_row::avx2,
        Avx512Vnni if target_arch = "x86_64" => largest_row::avx512,
    }
}

tiers!(fn largest_row(x: &[i32], most: &mut i32) = largest_of;);

#[inline(always)]
fn largest_of(x: &[i32], most: &mut i32) {
    *most = x.iter().fold(0, |most, x| most.max(x.wrapping_abs()));
}

kernel! {
    /// A row in 8 bits: `q = round(x * 127 / most)`, halves up, zeros after the end of `x`; `most` is the row's largest
    /// magnitude, at most [`MAX_ELEMENT`]. The division is a multiplication by `floor(127 * 2^k / most)`, `k` such that it has
    /// 30 or 31 bits.
    pub struct ToBytes(q: &mut [i8], x: &[i32], most: i32);
    check: |q: &&mut [i8], x: &&[i32], most: &i32| {
        assert!(q.len() >= x.len() && (0..=MAX_ELEMENT).contains(most), "{} elements of at most {most}", x.len());
    };
    cases: tests::for_each_row;
    conformance: to_bytes;
    variants {
        Scalar => bytes_row::scalar,
        Avx2 if target_arch = "x86_64" => bytes_row::avx2,
        Avx512Vnni if target_arch = "x86_64" => bytes_row::avx512,
    }
}

tiers!(fn bytes_row(q: &mut [i8], x: &[i32], most: i32) = to_bytes_row;);

#[inline(always)]
fn to_bytes_row(q: &mut [i8], x: &[i32], most: i32) {
    let (q, rest) = q.split_at_mut(x.len());
    rest.fill(0);
    let most = i64::from(most.max(1));
    let shift = 23 + most.ilog2() + 1;
    #[expect(clippy::cast_possible_truncation, reason = "127 · 2^(23 + bits) over at least 2^(bits − 1)")]
    let inverse = ((127_i64 << shift) / most) as i32;
    let half = 1_i64 << (shift - 1);
    for (q, x) in q.iter_mut().zip(x) {
        #[expect(clippy::cast_possible_truncation, reason = "at most 127")]
        let byte = ((i64::from(*x) * i64::from(inverse) + half) >> shift) as i8;
        *q = byte;
    }
}

/// A factor times a whole number of at most 21 bits: what a row's scale makes of the factor of a product. It has 31 bits.
#[inline(always)]
#[must_use]
pub fn times(Factor { multiplier, shift }: Factor, most: i32) -> Factor {
    let product = i64::from(multiplier) * i64::from(most);
    let bits = 64 - product.leading_zeros().cast_signed();
    let drop = (bits - 31).clamp(0, shift - 1);
    #[expect(clippy::cast_possible_truncation, reason = "31 bits, or clamped")]
    let multiplier = (product >> drop).min(i64::from(i32::MAX)) as i32;
    Factor { multiplier, shift: shift - drop }
}

kernel! {
    /// Sums of a product as elements: `y = scaled(y, factor) + bias`, within ±[`MAX_ELEMENT`].
    pub struct Rescale(y: &mut [i32], bias: &[i32], factor: Factor);
    check: |y: &&mut [i32], bias: &&[i32], factor: &Factor| {
        assert!(y.len() == bias.len() && factor.is_sound(), "{} sums, {} summands, {factor:?}", y.len(), bias.len());
    };
    cases: tests::for_each_row;
    conformance: rescale;
    variants {
        Scalar => rescale_row::scalar,
        Avx2 if target_arch = "x86_64" => rescale_row::avx2,
        Avx512Vnni if target_arch = "x86_64" => rescale_row::avx512,
    }
}

tiers!(fn rescale_row(y: &mut [i32], bias: &[i32], factor: Factor) = rescale_all;);

#[inline(always)]
fn rescale_all(y: &mut [i32], bias: &[i32], factor: Factor) {
    for (y, bias) in y.iter_mut().zip(bias) {
        *y = bounded(scaled(*y, factor) + i64::from(*bias));
    }
}

kernel! {
    /// A sum in the steps of its result: `y = scaled(y, own) + scaled(x, other)`, within ±[`MAX_ELEMENT`].
    pub struct AddScaled(y: &mut [i32], x: &[i32], own: Factor, other: Factor);
    check: |y: &&mut [i32], x: &&[i32], own: &Factor, other: &Factor| {
        assert!(y.len() == x.len() && own.is_sound() && other.is_sound(), "{} and {} elements", y.len(), x.len());
    };
    cases: tests::for_each_row;
    conformance: add_scaled;
    variants {
        Scalar => add_row::scalar,
        Avx2 if target_arch = "x86_64" => add_row::avx2,
        Avx512Vnni if target_arch = "x86_64" => add_row::avx512,
    }
}

tiers!(fn add_row(y: &mut [i32], x: &[i32], own: Factor, other: Factor) = add_all;);

#[inline(always)]
fn add_all(y: &mut [i32], x: &[i32], own: Factor, other: Factor) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = bounded(scaled(*y, own) + scaled(*x, other));
    }
}

/// Bits that a product of two elements loses before it is scaled, so that it fits 32 bits.
pub const PRODUCT_BITS: u32 = 10;

kernel! {
    /// A product in the steps of its result: `y = scaled((y * x + 2^9) >> 10, factor)`, within ±[`MAX_ELEMENT`].
    pub struct MultiplyScaled(y: &mut [i32], x: &[i32], factor: Factor);
    check: |y: &&mut [i32], x: &&[i32], factor: &Factor| {
        assert!(y.len() == x.len() && factor.is_sound(), "{} and {} elements, {factor:?}", y.len(), x.len());
    };
    cases: tests::for_each_row;
    conformance: multiply_scaled;
    variants {
        Scalar => multiply_row::scalar,
        Avx2 if target_arch = "x86_64" => multiply_row::avx2,
        Avx512Vnni if target_arch = "x86_64" => multiply_row::avx512,
    }
}

tiers!(fn multiply_row(y: &mut [i32], x: &[i32], factor: Factor) = multiply_all;);

#[inline(always)]
fn multiply_all(y: &mut [i32], x: &[i32], factor: Factor) {
    for (y, x) in y.iter_mut().zip(x) {
        let product = (i64::from(*y).wrapping_mul(i64::from(*x)) + (1 << (PRODUCT_BITS - 1))) >> PRODUCT_BITS;
        #[expect(clippy::cast_possible_truncation, reason = "at most 2^30: elements have 21 bits")]
        let product = product as i32;
        *y = bounded(scaled(product, factor));
    }
}

kernel! {
    /// A function by its table: the values at the ends of 4096 segments of −2^20 to 2^20, and straight lines between, rounded
    /// down. The entries lie within ±[`MAX_ELEMENT`].
    pub struct Curve(y: &mut [i32], table: &[i32]);
    check: |_y: &&mut [i32], table: &&[i32]| assert!(table.len() == SEGMENTS + 1, "a table of {}", table.len());
    cases: tests::for_each_row;
    conformance: curve;
    variants {
        Scalar => curve_row::scalar,
        Avx2 if target_arch = "x86_64" => curve_row::avx2,
        Avx512Vnni if target_arch = "x86_64" => curve_row::avx512,
    }
}

tiers!(fn curve_row(y: &mut [i32], table: &[i32]) = curve_all;);

#[inline(always)]
fn curve_all(y: &mut [i32], table: &[i32]) {
    let Some(table) = table.first_chunk::<{ SEGMENTS + 1 }>() else { return };
    for y in y {
        let place = (*y).clamp(-MAX_ELEMENT, MAX_ELEMENT - 1).wrapping_add(MAX_ELEMENT);
        #[expect(clippy::cast_sign_loss, reason = "0 to 2^21 − 1")]
        let segment = (place >> SEGMENT_BITS) as usize & (SEGMENTS - 1);
        let (low, high) = (table[segment], table[segment + 1]);
        let part = place & ((1 << SEGMENT_BITS) - 1);
        // A step of at most 2^21 times 9 bits.
        *y = low.wrapping_add(high.wrapping_sub(low).wrapping_mul(part) >> SEGMENT_BITS);
    }
}

#[cfg(test)]
mod tests {
    use super::{AddScaled, Curve, Factor, Largest, MAX_ELEMENT, MultiplyScaled, Rescale, SEGMENTS, ToBytes, times};
    use crate::Cpu;
    use crate::ops::cases::Random;

    pub(super) struct Case {
        x: Vec<i32>,
        y: Vec<i32>,
        factors: [Factor; 2],
    }

    /// A handle of any of the operations, so that one list of cases serves all.
    pub(super) trait Op {
        fn of(&self, case: &Case) -> Vec<i32>;
    }

    impl Op for Largest {
        fn of(&self, case: &Case) -> Vec<i32> {
            let mut found = [-1; 2];
            self.run(&case.x, &mut found[0]);
            self.run(&case.y, &mut found[1]);
            found.to_vec()
        }
    }

    fn most(x: &[i32]) -> i32 {
        let mut most = 0;
        Largest::select(&Cpu::detect()).run(x, &mut most);
        most
    }

    impl Op for ToBytes {
        fn of(&self, case: &Case) -> Vec<i32> {
            let mut q = vec![99; case.x.len() + 5];
            self.run(&mut q, &case.x, most(&case.x));
            q.into_iter().map(i32::from).collect()
        }
    }

    impl Op for Rescale {
        fn of(&self, case: &Case) -> Vec<i32> {
            let mut y: Vec<i32> = case.y.iter().map(|y| y.wrapping_mul(1021)).collect();
            self.run(&mut y, &case.x, case.factors[0]);
            y
        }
    }

    impl Op for AddScaled {
        fn of(&self, case: &Case) -> Vec<i32> {
            let mut y = case.y.clone();
            self.run(&mut y, &case.x, case.factors[0], case.factors[1]);
            y
        }
    }

    impl Op for MultiplyScaled {
        fn of(&self, case: &Case) -> Vec<i32> {
            let mut y = case.y.clone();
            self.run(&mut y, &case.x, case.factors[0]);
            y
        }
    }

    impl Op for Curve {
        fn of(&self, case: &Case) -> Vec<i32> {
            let mut y = case.x.clone();
            self.run(&mut y, &squares());
            y
        }
    }

    fn squares() -> Vec<i32> {
        let half = i32::try_from(SEGMENTS / 2).unwrap();
        (-half..=half).map(|i| i * i / 4).collect()
    }

    impl Case {
        pub(super) fn check<O: Op>(&self, reference: &O, candidate: &O) {
            assert_eq!(reference.of(self), candidate.of(self), "{} elements", self.x.len());
        }
    }

    pub(super) fn for_each_row(mut f: impl FnMut(Case)) {
        let mut random = Random::new(73);
        for n in (0..70).chain([1000]) {
            for bits in [3, 12, 20] {
                let span = 2 * (1_usize << bits) + 1;
                let mut row = || -> Vec<i32> {
                    (0..n).map(|_| i32::try_from(random.below(span)).unwrap() - (1 << bits)).collect()
                };
                let (x, y) = (row(), row());
                let factor = |random: &mut Random| Factor {
                    multiplier: (random.bits() >> 1).cast_signed(),
                    shift: 20 + i32::try_from(random.below(40)).unwrap(),
                };
                let factors = [factor(&mut random), factor(&mut random)];
                f(Case { x, y, factors });
            }
        }
    }

    #[test]
    fn a_row_fills_eight_bits_whatever_its_size() {
        let op = ToBytes::select(&Cpu::detect());
        assert_eq!((most(&[]), most(&[-7, 3]), most(&[5; 100])), (0, 7, 5));
        for size in [1, 2, 3, 127, 128, 1000, MAX_ELEMENT - 1, MAX_ELEMENT] {
            let x = [size, -size, size / 2, 0, -(size / 3)];
            let mut q = [9; 7];
            op.run(&mut q, &x, most(&x));
            for (x, q) in x.iter().zip(q) {
                let exact = f64::from(*x) * 127.0 / f64::from(size);
                assert!((f64::from(q) - exact).abs() <= 0.5 + 1e-6, "{x} of {size}: {q}");
            }
            assert_eq!((q[0], q[5], q[6]), (127, 0, 0));
        }
        let mut q = [9; 3];
        op.run(&mut q, &[0; 3], 0);
        assert_eq!(q, [0; 3]);
    }

    #[test]
    #[expect(clippy::cast_precision_loss, reason = "52 bits")]
    fn factors_keep_31_bits() {
        for (multiplier, shift, most) in [(1 << 30, 44, 1 << 20), (7, 33, 3), (i32::MAX, 62, 999_999), (1 << 30, 2, 1)]
        {
            let Factor { multiplier: found, shift: left } = times(Factor { multiplier, shift }, most);
            let want = i64::from(multiplier) * i64::from(most);
            let exact = want as f64 / 2_f64.powi(shift);
            assert!((f64::from(found) / 2_f64.powi(left) / exact - 1.0).abs() < 2e-9, "{multiplier} {shift} {most}");
            assert!((1..=62).contains(&left));
        }
        assert_eq!(times(Factor { multiplier: 5, shift: 40 }, 0).multiplier, 0);
    }

    #[test]
    fn products_are_in_the_steps_of_their_result() {
        let op = MultiplyScaled::select(&Cpu::detect());
        // Steps of 2^-18 each, and of the product: 2^-18, of which 10 bits are gone before.
        let factor = Factor { multiplier: 1 << 30, shift: 38 };
        let one = 1 << 18;
        let mut y = [one, -one, one / 2, 3 * one, MAX_ELEMENT, -MAX_ELEMENT, 0, 3];
        op.run(&mut y, &[one, one, one / 2, -one, MAX_ELEMENT, MAX_ELEMENT, one, one / 2], factor);
        assert_eq!(y, [one, -one, one / 4, -3 * one, MAX_ELEMENT, -MAX_ELEMENT, 0, 2]);
    }

    #[test]
    fn lines_lie_between_the_entries() {
        let op = Curve::select(&Cpu::detect());
        let mut y = [0, 512, 768, -768, MAX_ELEMENT, -MAX_ELEMENT, i32::MAX];
        op.run(&mut y, &squares());
        // 1 · 1 / 4 is 0 and 2 · 2 / 4 is 1: half of it is rounded down.
        assert_eq!(y[..4], [0, 0, 0, 0]);
        assert!(y[4] >= MAX_ELEMENT - 3 && y[4] == y[6] && y[5] == MAX_ELEMENT, "{y:?}");
    }
}

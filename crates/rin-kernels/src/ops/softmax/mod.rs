//! Softmax of a row: scores become shares of 1.

use crate::math::{canonical, exp, fold16};

kernel! {
    /// One row: `x[i] = exp(x[i] - max) / sum of exp(x - max)`. A row that holds a NaN or plus infinity, or minus
    /// infinity alone, becomes [`f32::NAN`].
    pub struct Softmax(x: &mut [f32]);
    check: |_x: &[f32]| ();
    cases: tests::for_each_case;
    conformance: conformance;
    variants {
        Scalar => row::scalar,
        Avx2 if target_arch = "x86_64" => row::avx2,
        Avx512Vnni if target_arch = "x86_64" => row::avx512,
    }
}

tiers!(fn row(x: &mut [f32]) = body;);

/// The larger one; NaN where either is.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

#[inline(always)]
fn body(x: &mut [f32]) {
    let mut most = [f32::NEG_INFINITY; 16];
    let (blocks, tail) = x.as_chunks::<16>();
    for block in blocks {
        for i in 0..16 {
            most[i] = larger(most[i], block[i]);
        }
    }
    for (most, x) in most.iter_mut().zip(tail) {
        *most = larger(*most, *x);
    }
    let max = fold16(&most, larger);
    let mut sums = [0.0; 16];
    let (blocks, tail) = x.as_chunks_mut::<16>();
    for block in blocks {
        for i in 0..16 {
            block[i] = exp(block[i] - max);
            sums[i] += block[i];
        }
    }
    for (sum, x) in sums.iter_mut().zip(tail) {
        *x = exp(*x - max);
        *sum += *x;
    }
    let scale = 1.0 / fold16(&sums, |a, b| a + b);
    for x in x.iter_mut() {
        *x = canonical(*x * scale);
    }
}

#[cfg(test)]
mod tests {
    use super::Softmax;
    use crate::Cpu;
    use crate::ops::cases::{Random, bits};

    pub(super) struct Case(Vec<f32>);

    impl Case {
        pub(super) fn check(&self, reference: &Softmax, candidate: &Softmax) {
            let (mut want, mut got) = (self.0.clone(), self.0.clone());
            reference.run(&mut want);
            candidate.run(&mut got);
            assert_eq!(bits(&want), bits(&got), "{} at {}", candidate.tier(), self.0.len());
        }
    }

    pub(super) fn for_each_case(mut f: impl FnMut(Case)) {
        let mut random = Random::new(31);
        for n in (0..100).chain([1000, 4097]) {
            f(Case(random.normals(n).iter().map(|x| x * 20.0).collect()));
            f(Case(random.anything(n)));
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the platform's f64 exponential is the reference of a test")]
    fn is_the_definition_in_f64() {
        let mut random = Random::new(32);
        for n in [1, 2, 10, 17, 300] {
            let x: Vec<f32> = random.normals(n).iter().map(|x| x * 8.0 + 500.0).collect();
            let mut y = x.clone();
            Softmax::select(&Cpu::detect()).run(&mut y);
            let max = x.iter().copied().fold(f32::MIN, f32::max);
            let e: Vec<f64> = x.iter().map(|&x| (f64::from(x) - f64::from(max)).exp()).collect();
            let sum: f64 = e.iter().sum();
            for (y, e) in y.iter().zip(&e) {
                assert!((f64::from(*y) - e / sum).abs() <= 1e-6 * (e / sum) + 1e-37, "{y} for {}", e / sum);
            }
        }
    }

    #[test]
    fn rows_without_a_share_are_nan() {
        for row in [[f32::NEG_INFINITY; 3], [0.0, f32::INFINITY, 1.0], [0.0, 1.0, f32::from_bits(0xffc0_0001)]] {
            let mut y = row;
            Softmax::select(&Cpu::detect()).run(&mut y);
            assert_eq!(bits(&y), [f32::NAN.to_bits(); 3], "{row:?}");
        }
    }
}

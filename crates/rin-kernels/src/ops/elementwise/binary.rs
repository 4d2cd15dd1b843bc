//! Functions of two numbers.

use crate::math::{canonical, pow};

/// Declares the functions once: variant, name in files, definition.
macro_rules! functions {
    ($( $(#[$doc:meta])+ $Variant:ident $name:literal $f:expr; )+) => {
        /// A function of two numbers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Binary { $( $(#[$doc])+ $Variant, )+ }

        impl Binary {
            /// All functions.
            pub const ALL: &[Self] = &[$( Self::$Variant ),+];

            /// The name that model files give it.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$Variant => $name, )+ }
            }
        }

        #[inline(always)]
        fn body(y: &mut [f32], a: &[f32], b: &[f32], function: Binary) {
            match function {
                $( Binary::$Variant => zip(y, a, b, $f), )+
            }
        }
    };
}

functions! {
    /// `a + b`.
    Add "add" |a, b| a + b;
    /// `a − b`.
    Sub "sub" |a, b| a - b;
    /// `a · b`.
    Mul "mul" |a, b| a * b;
    /// `a ÷ b`.
    Div "div" |a, b| a / b;
    /// `a` to the power `b`.
    Pow "pow" pow;
    /// The smaller; NaN where one is.
    Min "min" |a, b| if a < b || a.is_nan() { a } else { b };
    /// The larger; NaN where one is.
    Max "max" |a, b| if a > b || a.is_nan() { a } else { b };
    /// `a` from 0 on, else `a · b`.
    PRelu "p_relu" |a, b| if a < 0.0 { a * b } else { a };
}

/// One loop per kind of operands: an array of one number stands for an array of that number.
#[inline(always)]
fn zip(y: &mut [f32], a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) {
    match (a, b) {
        (&[a], &[b]) => y.fill(canonical(f(a, b))),
        (a, &[b]) => y.iter_mut().zip(a).for_each(|(y, &a)| *y = canonical(f(a, b))),
        (&[a], b) => y.iter_mut().zip(b).for_each(|(y, &b)| *y = canonical(f(a, b))),
        (a, b) => y.iter_mut().zip(a.iter().zip(b)).for_each(|(y, (&a, &b))| *y = canonical(f(a, b))),
    }
}

fn check(y: &[f32], a: &[f32], b: &[f32]) {
    let fits = |n: usize| n == y.len() || n == 1;
    assert!(fits(a.len()) && fits(b.len()), "{} and {} operands for {} results", a.len(), b.len(), y.len());
}

kernel! {
    /// `y[i] = function(a[i], b[i])`; an operand may be one number for all. A NaN result is [`f32::NAN`].
    pub struct Zip(y: &mut [f32], a: &[f32], b: &[f32], function: Binary);
    check: |y: &&mut [f32], a: &&[f32], b: &&[f32], _f: &Binary| check(y, a, b);
    cases: tests::for_each_case;
    conformance: conformance;
    variants {
        Scalar => zipped::scalar,
        Avx2 if target_arch = "x86_64" => zipped::avx2,
        Avx512Vnni if target_arch = "x86_64" => zipped::avx512,
    }
}

tiers!(fn zipped(y: &mut [f32], a: &[f32], b: &[f32], function: Binary) = body;);

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "what is exact is compared exactly")]
mod tests {
    use super::{Binary, Zip};
    use crate::Cpu;
    use crate::ops::cases::{Random, bits};

    pub(super) struct Case {
        a: Vec<f32>,
        b: Vec<f32>,
        function: Binary,
    }

    impl Case {
        fn run(&self, op: &Zip) -> Vec<f32> {
            let mut y = vec![7.0; self.a.len().max(self.b.len())];
            op.run(&mut y, &self.a, &self.b, self.function);
            y
        }

        pub(super) fn check(&self, reference: &Zip, candidate: &Zip) {
            let (want, got) = (self.run(reference), self.run(candidate));
            assert_eq!(bits(&want), bits(&got), "{} {}", candidate.tier(), self.function.name());
        }
    }

    pub(super) fn for_each_case(mut f: impl FnMut(Case)) {
        let mut random = Random::new(37);
        for &function in Binary::ALL {
            for (n, m) in [(1, 1), (1, 19), (19, 1), (40, 40), (333, 333)] {
                f(Case { a: random.normals(n), b: random.normals(m), function });
                f(Case { a: random.anything(n), b: random.anything(m), function });
            }
        }
    }

    #[test]
    fn powers_are_those_of_f64() {
        let op = Zip::select(&Cpu::detect());
        let bases = [-3.0, -1.0, -0.5, -0.0, 0.0, 0.25, 1.0, 1.5, 10.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        let powers = [-2.5, -3.0, -2.0, -0.0, 0.0, 0.5, 1.0, 2.0, 3.0, 7.3, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
        for a in bases {
            for b in powers {
                let mut y = [0.0];
                op.run(&mut y, &[a], &[b], Binary::Pow);
                #[expect(clippy::disallowed_methods, reason = "the platform's f64 function is the reference of a test")]
                #[expect(clippy::cast_possible_truncation, reason = "to the nearest f32")]
                let want = f64::from(a).powf(f64::from(b)) as f32;
                assert!(y[0] == want || y[0].is_nan() && want.is_nan(), "{a}^{b} = {}, not {want}", y[0]);
                assert!(want.is_nan() || y[0].is_sign_negative() == want.is_sign_negative(), "{a}^{b}");
            }
        }
        let (mut random, mut y) = (Random::new(5), [0.0; 2000]);
        let a: Vec<f32> = random.normals(2000).iter().map(|x| x.abs() * 20.0).collect();
        let b: Vec<f32> = random.normals(2000).iter().map(|x| x * 5.0).collect();
        op.run(&mut y, &a, &b, Binary::Pow);
        for ((y, a), b) in y.iter().zip(&a).zip(&b) {
            #[expect(clippy::disallowed_methods, reason = "the platform's f64 function is the reference of a test")]
            let want = f64::from(*a).powf(f64::from(*b));
            assert!((f64::from(*y) - want).abs() <= want * 6.1e-8 + 1.5e-45, "{a}^{b} = {y}, not {want}");
        }
    }

    #[test]
    fn extremes_are_nan_where_one_is() {
        let op = Zip::select(&Cpu::detect());
        for function in [Binary::Min, Binary::Max] {
            for (a, b) in [(1.0, f32::NAN), (f32::NAN, 1.0)] {
                let mut y = [0.0];
                op.run(&mut y, &[a], &[b], function);
                assert!(y[0].is_nan());
            }
        }
    }
}

//! Activation functions, element by element.

use crate::math::{canonical, gelu, gelu_tanh, sigmoid, silu, tanh};

/// Declares the functions once: variant, meaning, name in files, definition.
macro_rules! functions {
    ($( $(#[$doc:meta])+ $Variant:ident $name:literal $f:expr; )+) => {
        /// An activation function.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Function {
            /// The argument itself.
            #[default]
            Identity,
            $( $(#[$doc])+ $Variant, )+
        }

        impl Function {
            /// All functions.
            pub const ALL: &[Self] = &[Self::Identity, $( Self::$Variant ),+];

            /// The name that model files give it.
            pub const fn name(self) -> &'static str {
                match self {
                    Self::Identity => "identity",
                    $( Self::$Variant => $name, )+
                }
            }
        }

        #[inline(always)]
        fn body(x: &mut [f32], function: Function) {
            match function {
                Function::Identity => {}
                $( Function::$Variant => {
                    for x in x.iter_mut() {
                        *x = canonical($f(*x));
                    }
                } )+
            }
        }
    };
}

functions! {
    /// `max(x, 0)`; NaN stays.
    Relu "relu" relu;
    /// `min(max(x, 0), 6)` (Sandler et al., 2018).
    Relu6 "relu6" |x: f32| at_most_6(relu(x));
    /// `x` above 0, else `x / 100`, the slope that frameworks take where none is named.
    LeakyRelu "leaky_relu" |x: f32| if x < 0.0 { x * 0.01 } else { x };
    /// `x * Phi(x)` with the error function (Hendrycks and Gimpel, 2016).
    Gelu "gelu" gelu;
    /// The same by a hyperbolic tangent.
    GeluTanh "gelu_tanh" gelu_tanh;
    /// `x * sigmoid(x)`, also called swish (Ramachandran et al., 2017).
    Silu "silu" silu;
    /// Hyperbolic tangent.
    Tanh "tanh" tanh;
    /// `1 / (1 + exp(-x))`.
    Sigmoid "sigmoid" sigmoid;
    /// `min(max(x / 6 + 1/2, 0), 1)`.
    HardSigmoid "hard_sigmoid" hard_sigmoid;
    /// `x * hard_sigmoid(x)` (Howard et al., 2019).
    HardSwish "hard_swish" |x: f32| x * hard_sigmoid(x);
}

#[inline(always)]
fn relu(x: f32) -> f32 {
    // A comparison with NaN is false, so NaN stays.
    if x <= 0.0 { 0.0 } else { x }
}

#[inline(always)]
fn at_most_6(x: f32) -> f32 {
    if x > 6.0 { 6.0 } else { x }
}

#[inline(always)]
fn hard_sigmoid(x: f32) -> f32 {
    let y = relu(x.mul_add(1.0 / 6.0, 0.5));
    if y > 1.0 { 1.0 } else { y }
}

kernel! {
    /// `x[i] = function(x[i])`. A NaN result is [`f32::NAN`].
    pub struct Activate(x: &mut [f32], function: Function);
    check: |_x: &[f32], _function: &Function| ();
    cases: tests::for_each_case;
    conformance: conformance;
    variants {
        Scalar => map::scalar,
        Avx2 if target_arch = "x86_64" => map::avx2,
        Avx512Vnni if target_arch = "x86_64" => map::avx512,
    }
}

tiers!(fn map(x: &mut [f32], function: Function) = body;);

#[cfg(test)]
mod tests {
    use super::{Activate, Function};
    use crate::Cpu;
    use crate::math::GELU_MAX_ERROR;
    use crate::ops::cases::{Random, bits};

    pub(super) struct Case {
        x: Vec<f32>,
        function: Function,
    }

    impl Case {
        pub(super) fn check(&self, reference: &Activate, candidate: &Activate) {
            let (mut want, mut got) = (self.x.clone(), self.x.clone());
            reference.run(&mut want, self.function);
            candidate.run(&mut got, self.function);
            let tier = candidate.tier();
            assert_eq!(bits(&want), bits(&got), "{tier} {} at {}", self.function.name(), self.x.len());
        }
    }

    pub(super) fn for_each_case(mut f: impl FnMut(Case)) {
        let mut random = Random::new(11);
        for &function in Function::ALL {
            for n in (0..40).chain([1000]) {
                f(Case { x: random.normals(n).iter().map(|x| x * 10.0).collect(), function });
                f(Case { x: random.anything(n), function });
            }
        }
    }

    /// The error function by its series (Abramowitz and Stegun, 7.1.5), to double precision for `|x| <= 4`.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..120 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * std::f64::consts::FRAC_2_SQRT_PI
    }

    #[expect(clippy::disallowed_methods, reason = "the platform's f64 functions are the reference of a test")]
    fn definition(function: Function, x: f64) -> f64 {
        let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
        match function {
            Function::Identity => x,
            Function::Relu => x.max(0.0),
            Function::Relu6 => x.clamp(0.0, 6.0),
            Function::LeakyRelu => x.max(0.01 * x),
            Function::Gelu => 0.5 * x * (1.0 + erf(x / 2.0_f64.sqrt())),
            Function::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
            }
            Function::Silu => x * logistic(x),
            Function::Tanh => x.tanh(),
            Function::Sigmoid => logistic(x),
            Function::HardSigmoid => (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Function::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        }
    }

    #[test]
    fn each_is_its_definition_in_f64() {
        let op = Activate::select(&Cpu::detect());
        let x: Vec<f32> = (-5500_i16..=5500).map(|i| f32::from(i) / 1000.0).collect();
        for &function in Function::ALL {
            let mut y = x.clone();
            op.run(&mut y, function);
            for (y, x) in y.iter().zip(&x) {
                let want = definition(function, f64::from(*x));
                let size = f64::from(x.abs());
                let bound = match function {
                    Function::Gelu => size * GELU_MAX_ERROR,
                    _ => size.max(1e-3).max(want.abs()) * 3e-7,
                };
                assert!((f64::from(*y) - want).abs() <= bound, "{}({x}) = {y}, not {want}", function.name());
            }
        }
    }

    #[test]
    fn the_tail_of_the_normal_distribution_keeps_its_digits() {
        // x * erfc(-x / sqrt 2) / 2 at x = -4, -6, -8, -10 by mpmath 1.3.0 with 30 digits.
        let known = [
            (-4.0_f32, -1.266_849_673_324_797e-4_f64),
            (-6.0, -5.919_525_870_226_188e-9),
            (-8.0, -4.976_768_459_417_427e-15),
            (-10.0, -7.619_853_024_160_526e-23),
        ];
        for (x, want) in known {
            let mut y = [x];
            Activate::select(&Cpu::detect()).run(&mut y, Function::Gelu);
            let found = f64::from(y[0]);
            assert!((found - want).abs() <= 1e-5 * want.abs(), "gelu({x}) = {found}, not {want}");
        }
    }

    #[test]
    fn edges_are_defined() {
        let op = Activate::select(&Cpu::detect());
        for &function in Function::ALL {
            let mut y = [f32::from_bits(0xffc0_1234), f32::INFINITY, 0.0];
            op.run(&mut y, function);
            if function != Function::Identity {
                assert_eq!(y[0].to_bits(), f32::NAN.to_bits(), "{}", function.name());
            }
            let top: f32 = match function {
                Function::Relu6 => 6.0,
                Function::Tanh | Function::Sigmoid | Function::HardSigmoid => 1.0,
                _ => f32::INFINITY,
            };
            assert_eq!(y[1].to_bits(), top.to_bits(), "{}", function.name());
            let middle: f32 = if matches!(function, Function::Sigmoid | Function::HardSigmoid) { 0.5 } else { 0.0 };
            assert_eq!(y[2].to_bits(), middle.to_bits(), "{}", function.name());
        }
    }
}

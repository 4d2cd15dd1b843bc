//! Functions of one number.

use crate::half::{f16_to_f32, f32_to_f16};
use crate::math::{canonical, ceil, erf, exp, floor, gelu, gelu_tanh, log, round, sigmoid, sin_cos, tanh};

/// Declares the functions once: variant, name in files, definition of `x` and two parameters.
macro_rules! functions {
    ($( $(#[$doc:meta])+ $Variant:ident $name:literal $f:expr; )+) => {
        /// A function of one number with up to two parameters, `alpha` and `beta`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Unary { $( $(#[$doc])+ $Variant, )+ }

        impl Unary {
            /// All functions.
            pub const ALL: &[Self] = &[$( Self::$Variant ),+];

            /// The name that model files give it.
            pub const fn name(self) -> &'static str {
                match self { $( Self::$Variant => $name, )+ }
            }
        }

        #[inline(always)]
        fn body(y: &mut [f32], x: &[f32], function: Unary, alpha: f32, beta: f32) {
            match function {
                $( Unary::$Variant => {
                    let f: fn(f32, f32, f32) -> f32 = $f;
                    for (y, x) in y.iter_mut().zip(x) {
                        *y = canonical(f(*x, alpha, beta));
                    }
                } )+
            }
        }
    };
}

functions! {
    /// The number itself.
    Identity "identity" |x, _, _| x;
    /// `−x`.
    Neg "neg" |x, _, _| -x;
    /// `|x|`.
    Abs "abs" |x, _, _| x.abs();
    /// −1, 0 or 1.
    Sign "sign" |x, _, _| if x > 0.0 { 1.0 } else if x < 0.0 { -1.0 } else { x * 0.0 };
    /// `1 ÷ x`.
    Reciprocal "reciprocal" |x, _, _| 1.0 / x;
    /// `√x`.
    Sqrt "sqrt" |x, _, _| x.sqrt();
    /// e to the power `x`.
    Exp "exp" |x, _, _| exp(x);
    /// Natural logarithm.
    Log "log" |x, _, _| log(x);
    /// Error function.
    Erf "erf" |x, _, _| erf(x);
    /// The largest integer that is not above.
    Floor "floor" |x, _, _| floor(x);
    /// The smallest integer that is not below.
    Ceil "ceil" |x, _, _| ceil(x);
    /// The nearest integer, ties to even.
    Round "round" |x, _, _| round(x);
    /// Sine.
    Sin "sin" |x, _, _| sin_cos(x).0;
    /// Cosine.
    Cos "cos" |x, _, _| sin_cos(x).1;
    /// `max(x, 0)`; NaN stays.
    Relu "relu" |x, _, _| if x <= 0.0 { 0.0 } else { x };
    /// `x` from 0 on, else `alpha · x`.
    LeakyRelu "leaky_relu" |x, alpha, _| if x < 0.0 { alpha * x } else { x };
    /// `x` from 0 on, else `alpha · (e^x − 1)`.
    Elu "elu" |x, alpha, _| if x < 0.0 { alpha * (exp(x) - 1.0) } else { x };
    /// `max(0, x) + min(0, alpha · (e^(x ÷ alpha) − 1))`.
    Celu "celu" |x, alpha, _| if x < 0.0 { alpha * (exp(x / alpha) - 1.0) } else { x };
    /// `beta · x` above 0, else `beta · (alpha · e^x − alpha)`.
    Selu "selu" |x, alpha, beta| beta * if x > 0.0 { x } else { alpha * exp(x) - alpha };
    /// `x` above `alpha`, else 0.
    ThresholdedRelu "thresholded_relu" |x, alpha, _| if x <= alpha { 0.0 } else { x };
    /// `1 ÷ (1 + e^−x)`.
    Sigmoid "sigmoid" |x, _, _| sigmoid(x);
    /// `max(0, min(1, alpha · x + beta))`.
    HardSigmoid "hard_sigmoid" |x, alpha, beta| unit(x.mul_add(alpha, beta));
    /// `x · max(0, min(1, x ÷ 6 + 1/2))`.
    HardSwish "hard_swish" |x, _, _| x * unit(x.mul_add(1.0 / 6.0, 0.5));
    /// Hyperbolic tangent.
    Tanh "tanh" |x, _, _| tanh(x);
    /// `ln(1 + e^x)`.
    Softplus "softplus" |x, _, _| softplus(x);
    /// `x ÷ (1 + |x|)`.
    Softsign "softsign" |x, _, _| x / (1.0 + x.abs());
    /// `x · tanh(ln(1 + e^x))` (Misra, 2019).
    Mish "mish" |x, _, _| x * tanh(softplus(x));
    /// `x · Φ(x)` with the error function (Hendrycks and Gimpel, 2016).
    Gelu "gelu" |x, _, _| gelu(x);
    /// The same by a hyperbolic tangent.
    GeluTanh "gelu_tanh" |x, _, _| gelu_tanh(x);
    /// `x · sigmoid(alpha · x)` (Ramachandran et al., 2017).
    Swish "swish" |x, alpha, _| x * sigmoid(alpha * x);
    /// The nearest IEEE half.
    RoundF16 "round_f16" |x, _, _| f16_to_f32(f32_to_f16(x));
    /// The nearest bfloat16.
    RoundBf16 "round_bf16" |x, _, _| bfloat16(x);
}

/// Held between 0 and 1; NaN stays.
#[inline(always)]
fn unit(x: f32) -> f32 {
    let y = if x < 0.0 { 0.0 } else { x };
    if y > 1.0 { 1.0 } else { y }
}

#[inline(always)]
fn softplus(x: f32) -> f32 {
    // e^-|x| is at most 1, so nothing overflows.
    let above = if x > 0.0 { x } else { x * 0.0 };
    let e = exp(-x.abs());
    // ln(1 + e) with what the sum has lost put back (Kahan, as told by Goldberg, 1991, theorem 4).
    let u = 1.0 + e;
    let lost = u - 1.0;
    above + if lost == 0.0 { e } else { log(u) * (e / lost) }
}

#[inline(always)]
fn bfloat16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff).wrapping_add(bits >> 16 & 1) & 0xffff_0000;
    if x.is_nan() { x } else { f32::from_bits(rounded) }
}

fn check(y: &[f32], x: &[f32]) {
    assert_eq!(y.len(), x.len(), "one result per number");
}

kernel! {
    /// `y[i] = function(x[i])`. A NaN result is [`f32::NAN`].
    pub struct Map(y: &mut [f32], x: &[f32], function: Unary, alpha: f32, beta: f32);
    check: |y: &&mut [f32], x: &&[f32], _f: &Unary, _a: &f32, _b: &f32| check(y, x);
    cases: tests::for_each_case;
    conformance: conformance;
    variants {
        Scalar => map::scalar,
        Avx2 if target_arch = "x86_64" => map::avx2,
        Avx512Vnni if target_arch = "x86_64" => map::avx512,
    }
}

tiers!(fn map(y: &mut [f32], x: &[f32], function: Unary, alpha: f32, beta: f32) = body;);

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "what is exact is compared exactly")]
mod tests {
    use super::{Map, Unary};
    use crate::Cpu;
    use crate::ops::cases::{Random, bits};

    pub(super) struct Case {
        x: Vec<f32>,
        function: Unary,
    }

    impl Case {
        fn run(&self, op: &Map) -> Vec<f32> {
            let mut y = vec![7.0; self.x.len()];
            op.run(&mut y, &self.x, self.function, 0.3, 0.55);
            y
        }

        pub(super) fn check(&self, reference: &Map, candidate: &Map) {
            let (want, got) = (self.run(reference), self.run(candidate));
            assert_eq!(bits(&want), bits(&got), "{} {}", candidate.tier(), self.function.name());
        }
    }

    pub(super) fn for_each_case(mut f: impl FnMut(Case)) {
        let mut random = Random::new(31);
        for &function in Unary::ALL {
            for n in [0, 1, 7, 33, 1000] {
                f(Case { x: random.normals(n).iter().map(|x| x * 10.0).collect(), function });
                f(Case { x: random.anything(n), function });
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the platform's f64 functions are the reference of a test")]
    fn definition(function: Unary, x: f64, alpha: f64, beta: f64) -> Option<f64> {
        Some(match function {
            Unary::Identity => x,
            Unary::Neg => -x,
            Unary::Abs => x.abs(),
            Unary::Sign if x == 0.0 => 0.0,
            Unary::Sign => x.signum(),
            Unary::Reciprocal => 1.0 / x,
            Unary::Sqrt => x.sqrt(),
            Unary::Exp => x.exp(),
            Unary::Log => x.ln(),
            Unary::Floor => x.floor(),
            Unary::Ceil => x.ceil(),
            Unary::Round => x.round_ties_even(),
            Unary::Sin => x.sin(),
            Unary::Cos => x.cos(),
            Unary::Relu => x.max(0.0),
            Unary::LeakyRelu => x.max(alpha * x),
            Unary::Elu => {
                if x < 0.0 {
                    alpha * x.exp_m1()
                } else {
                    x
                }
            }
            Unary::Celu => x.max(0.0) + (alpha * (x / alpha).exp_m1()).min(0.0),
            Unary::Selu => beta * if x > 0.0 { x } else { alpha * x.exp_m1() },
            Unary::ThresholdedRelu => {
                if x > alpha {
                    x
                } else {
                    0.0
                }
            }
            Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Unary::HardSigmoid => (alpha * x + beta).clamp(0.0, 1.0),
            Unary::HardSwish => x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
            Unary::Tanh => x.tanh(),
            Unary::Softplus => x.exp().ln_1p(),
            Unary::Softsign => x / (1.0 + x.abs()),
            Unary::Mish => x * x.exp().ln_1p().tanh(),
            Unary::Swish => x / (1.0 + (-alpha * x).exp()),
            Unary::GeluTanh => {
                0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
            }
            // Beside the functions of the same names elsewhere.
            Unary::Erf | Unary::Gelu | Unary::RoundF16 | Unary::RoundBf16 => return None,
        })
    }

    #[test]
    fn each_is_its_definition_in_f64() {
        let op = Map::select(&Cpu::detect());
        let x: Vec<f32> = (-4500_i16..=4500).map(|i| f32::from(i) / 1024.0).collect();
        let (alpha, beta) = (0.3, 0.55);
        for &function in Unary::ALL {
            let mut y = vec![0.0; x.len()];
            op.run(&mut y, &x, function, alpha, beta);
            for (y, x) in y.iter().zip(&x) {
                let Some(want) = definition(function, f64::from(*x), alpha.into(), beta.into()) else { continue };
                if want.is_nan() {
                    assert!(y.is_nan(), "{}({x}) = {y}", function.name());
                    continue;
                }
                let near = (f64::from(*y) - want).abs() <= want.abs().max(0.5) * 5e-7;
                assert!(near || f64::from(*y) == want, "{}({x}) = {y}, not {want}", function.name());
            }
        }
    }

    #[test]
    fn halves_round_to_even() {
        let op = Map::select(&Cpu::detect());
        let mut y = [0.0; 4];
        op.run(&mut y, &[2049.0, 2051.0, 65520.0, 1e-9], Unary::RoundF16, 0.0, 0.0);
        assert_eq!(y, [2048.0, 2052.0, f32::INFINITY, 0.0]);
        op.run(&mut y, &[257.0, 259.0, 1.0, f32::NAN], Unary::RoundBf16, 0.0, 0.0);
        assert_eq!(y[..3], [256.0, 260.0, 1.0]);
        assert_eq!(y[3].to_bits(), 0x7fc0_0000);
    }
}

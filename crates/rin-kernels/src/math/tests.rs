#![expect(clippy::disallowed_methods, reason = "the platform's f64 functions are the reference")]

use super::{
    EXP_MAX, EXP_MAX_ULP, EXP_MIN, SIGMOID_MAX_ULP, SILU_MAX_ULP, SIN_COS_MAX, SIN_COS_MAX_ULP, SOFTPLUS_MAX_ULP,
    TANH_MAX_ULP,
};
use crate::{Cpu, Tier};

const BATCH: usize = 256;
/// Prime, so that the sample meets every exponent with ever other mantissas.
const SAMPLE_STEP: usize = 4099;

/// One function over a batch, compiled per tier.
macro_rules! maps {
    ($($name:ident => $f:expr;)*) => { $(
        mod $name {
            use super::BATCH;
            tiers!(fn map(y: &mut [f32; BATCH], x: &[f32; BATCH]) = body;);
            #[inline(always)]
            fn body(y: &mut [f32; BATCH], x: &[f32; BATCH]) {
                for i in 0..BATCH {
                    y[i] = $f(x[i]);
                }
            }
            pub(super) fn on(tier: crate::Tier, y: &mut [f32; BATCH], x: &[f32; BATCH]) {
                assert!(crate::Cpu::detect().has(tier));
                match tier {
                    crate::Tier::Scalar => map::scalar(y, x),
                    #[cfg(target_arch = "x86_64")]
                    // SAFETY: the tier can run here, as was just asked.
                    crate::Tier::Avx2 => unsafe { map::avx2(y, x) },
                    #[cfg(target_arch = "x86_64")]
                    // SAFETY: the tier can run here, as was just asked.
                    crate::Tier::Avx512Vnni => unsafe { map::avx512(y, x) },
                    other => panic!("no variant for {other}"),
                }
            }
        }
    )* };
}

maps! {
    exp => super::super::exp;
    sin => |x| super::super::sin_cos(x).0;
    cos => |x| super::super::sin_cos(x).1;
    tanh => super::super::tanh;
    sigmoid => super::super::sigmoid;
    silu => super::super::silu;
    softplus => super::super::softplus;
}

type Map = fn(Tier, &mut [f32; BATCH], &[f32; BATCH]);

/// A function, its reference and its promise.
struct Function {
    name: &'static str,
    map: Map,
    reference: fn(f64) -> f64,
    max_ulp: f64,
    /// Results that are defined rather than computed.
    defined: fn(f32) -> Option<f32>,
    /// Where the bound holds in units in the last place; elsewhere 1.1e-36 holds.
    relative: fn(f32) -> bool,
}

const FUNCTIONS: [Function; 7] = [
    Function {
        name: "exp",
        map: exp::on,
        reference: f64::exp,
        max_ulp: EXP_MAX_ULP,
        defined: |x| if x > EXP_MAX { Some(f32::INFINITY) } else { (x < EXP_MIN).then_some(0.0) },
        relative: |_| true,
    },
    Function {
        name: "sin",
        map: sin::on,
        reference: f64::sin,
        max_ulp: SIN_COS_MAX_ULP,
        defined: |x| (x.abs() > SIN_COS_MAX).then_some(f32::NAN),
        relative: |_| true,
    },
    Function {
        name: "cos",
        map: cos::on,
        reference: f64::cos,
        max_ulp: SIN_COS_MAX_ULP,
        defined: |x| (x.abs() > SIN_COS_MAX).then_some(f32::NAN),
        relative: |_| true,
    },
    Function {
        name: "tanh",
        map: tanh::on,
        reference: f64::tanh,
        max_ulp: TANH_MAX_ULP,
        defined: |_| None,
        relative: |_| true,
    },
    Function {
        name: "sigmoid",
        map: sigmoid::on,
        reference: |x| 1.0 / (1.0 + (-x).exp()),
        max_ulp: SIGMOID_MAX_ULP,
        defined: |x| (x < EXP_MIN).then_some(0.0),
        relative: |_| true,
    },
    Function {
        name: "silu",
        map: silu::on,
        reference: |x| x / (1.0 + (-x).exp()),
        max_ulp: SILU_MAX_ULP,
        defined: |x| (x == f32::NEG_INFINITY).then_some(f32::NAN),
        relative: |x| x >= EXP_MIN,
    },
    Function {
        name: "softplus",
        map: softplus::on,
        reference: |x| x.max(0.0) + (-x.abs()).exp().ln_1p(),
        max_ulp: SOFTPLUS_MAX_ULP,
        defined: |x| (x < EXP_MIN).then_some(0.0),
        relative: |x| x >= EXP_MIN,
    },
];

/// The spacing of `f32` at `v`.
fn ulp(v: f64) -> f64 {
    let exponent = i32::try_from((v.abs().to_bits() >> 52) & 0x7ff).unwrap() - 1023;
    2.0_f64.powi(exponent.max(-126) - 23)
}

impl Function {
    /// The error at `x` in units in the last place, or a message.
    fn error(&self, x: f32, y: f32) -> f64 {
        let fail =
            |want: &dyn std::fmt::Debug| panic!("{}({x:e} = {:#x}) is {y:e}, not {want:?}", self.name, x.to_bits());
        let want = if x.is_nan() { Some(f32::NAN) } else { (self.defined)(x) };
        if let Some(want) = want {
            if want.to_bits() != y.to_bits() {
                fail(&want);
            }
            return 0.0;
        }
        let want = (self.reference)(f64::from(x));
        if want.is_infinite() && y.is_infinite() && want.is_sign_negative() == y.is_sign_negative() {
            return 0.0;
        }
        let error = (f64::from(y) - want).abs();
        let units = if (self.relative)(x) { error / ulp(want) } else { error / 1.1e-36 * self.max_ulp };
        if units.is_nan() || units > self.max_ulp {
            fail(&format!("{want:e}, off by {units} ulp"));
        }
        units
    }

    /// Holds every tier against the first, and the first against the reference; returns the largest error.
    fn check(&self, inputs: impl Iterator<Item = u32>) -> f64 {
        let tiers: Vec<Tier> =
            Cpu::detect().tiers().filter(|t| matches!(t, Tier::Scalar | Tier::Avx2 | Tier::Avx512Vnni)).collect();
        let mut worst = 0.0_f64;
        let mut inputs = inputs.peekable();
        while inputs.peek().is_some() {
            let x = std::array::from_fn(|_| f32::from_bits(inputs.next().unwrap_or(0)));
            let mut y = [0.0; BATCH];
            (self.map)(tiers[0], &mut y, &x);
            for &tier in &tiers[1..] {
                let mut other = [1.0; BATCH];
                (self.map)(tier, &mut other, &x);
                for i in 0..BATCH {
                    let (a, b, x) = (y[i].to_bits(), other[i].to_bits(), x[i].to_bits());
                    assert!(a == b, "{} of {x:#x}: {a:#x}, but {b:#x} on {tier}", self.name);
                }
            }
            for (x, y) in x.into_iter().zip(y) {
                worst = worst.max(self.error(x, y));
            }
        }
        worst
    }
}

/// Bit patterns around every power of two and every place where a definition changes.
fn edges() -> impl Iterator<Item = u32> {
    let places = [EXP_MAX, -EXP_MAX, EXP_MIN, -EXP_MIN, SIN_COS_MAX, 0.625, 9.01, 88.0, 104.0, std::f32::consts::PI];
    let powers = (0..=255).map(|e| e << 23);
    let near = |centre: u32| (0..64).map(move |i| centre.wrapping_add(i).wrapping_sub(32));
    powers.chain(places.map(f32::to_bits)).flat_map(near).flat_map(|b| [b, b ^ 0x8000_0000])
}

#[test]
fn errors_stay_within_their_bounds_on_a_sample() {
    for f in FUNCTIONS {
        let worst = f.check((0..=u32::MAX).step_by(SAMPLE_STEP).chain(edges()));
        eprintln!("{}: {worst:.4} ulp on a sample", f.name);
    }
}

/// One test per function, so that each can be run alone.
macro_rules! on_every_input { ($($name:ident)*) => { $(
    mod $name {
        #[test]
        #[ignore = "all 2^32 inputs of a function on every tier: some ten minutes of a core"]
        fn errors_stay_within_their_bounds_on_every_input() {
            let f = super::FUNCTIONS.iter().find(|f| f.name == stringify!($name)).unwrap();
            eprintln!("{}: {:.6} ulp over all inputs", f.name, f.check(0..=u32::MAX));
        }
    }
)* } }

mod every_input {
    use super::FUNCTIONS;
    on_every_input! { exp sin cos tanh sigmoid silu softplus }
}

#[test]
fn the_fixed_points_are_exact() {
    assert_eq!(super::exp(0.0).to_bits(), 1.0_f32.to_bits());
    assert_eq!(super::exp(-0.0).to_bits(), 1.0_f32.to_bits());
    assert_eq!(super::exp(f32::NEG_INFINITY).to_bits(), 0);
    assert_eq!(super::exp(f32::INFINITY).to_bits(), f32::INFINITY.to_bits());
    assert_eq!(super::sin_cos(-0.0).0.to_bits(), (-0.0_f32).to_bits());
    assert_eq!(super::sin_cos(0.0).1.to_bits(), 1.0_f32.to_bits());
    assert_eq!(super::tanh(-0.0).to_bits(), (-0.0_f32).to_bits());
    assert_eq!(super::tanh(f32::NEG_INFINITY).to_bits(), (-1.0_f32).to_bits());
    assert_eq!(super::sigmoid(0.0).to_bits(), 0.5_f32.to_bits());
    assert_eq!(super::canonical(f32::from_bits(0xffc0_0001)).to_bits(), f32::NAN.to_bits());
}

/// `conformance/math/NAME.bin` holds pairs of little-endian `f32`: x and the correctly rounded result (there is none
/// for the sigmoid, which is half of `silu`, and for softplus).
#[test]
fn agrees_with_the_recorded_values() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../conformance/math");
    for f in FUNCTIONS.iter().filter(|f| f.name != "sigmoid" && f.name != "softplus") {
        let bytes = std::fs::read(format!("{folder}/{}.bin", f.name)).unwrap();
        let value = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        for pair in bytes.chunks_exact(8) {
            let (x, want) = (value(pair), value(&pair[4..]));
            let (mut y, x) = ([0.0; BATCH], [x; BATCH]);
            (f.map)(Tier::Scalar, &mut y, &x);
            if (f.defined)(x[0]).is_some() || !want.is_finite() || !(f.relative)(x[0]) {
                continue;
            }
            let units = (f64::from(y[0]) - f64::from(want)).abs() / ulp(f64::from(want));
            // The recorded value is itself rounded.
            assert!(units <= f.max_ulp + 0.5, "{}({:e}) is {:e}, recorded {want:e}", f.name, x[0], y[0]);
        }
    }
}

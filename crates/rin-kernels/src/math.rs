//! Elementary functions with the same bits on every tier.
//!
//! Own polynomials over additions, products, divisions and `mul_add`, all of which IEEE 754 rounds correctly, so a
//! result does not depend on the processor, the vector width or the platform's libm. Branch-free: a loop of one of
//! these over 16 lanes vectorises. A NaN result is always the one of [`f32::NAN`].
//!
//! An error bound is the distance to the real result in units in the last place of that result, held over all 2^32
//! inputs. The polynomials are Remez fits made for this file.

/// Largest error of [`exp`] where the result is a normal number.
pub const EXP_MAX_ULP: f64 = 1.02;
/// Largest error of either result of [`sin_cos`].
pub const SIN_COS_MAX_ULP: f64 = 0.501;
/// Largest error of [`tanh`].
pub const TANH_MAX_ULP: f64 = 1.34;
/// Largest error of [`sigmoid`] where `x >= EXP_MIN`.
pub const SIGMOID_MAX_ULP: f64 = 2.41;
/// Largest error of [`silu`] where `x >= EXP_MIN`.
pub const SILU_MAX_ULP: f64 = 3.2;

/// Largest error of [`softplus`] where `x >= EXP_MIN`.
pub const SOFTPLUS_MAX_ULP: f64 = 3.0;

/// Bound on the error of [`gelu`] as a share of its argument; 2.1e-7 is the largest of two million arguments in ±5.5.
pub const GELU_MAX_ERROR: f64 = 2.5e-7;

/// The largest argument whose exponential is finite.
pub const EXP_MAX: f32 = 88.722_83;
/// The smallest argument whose exponential is a normal number; below it [`exp`] is 0.
pub const EXP_MIN: f32 = -87.336_54;
/// The largest magnitude that [`sin_cos`] takes; 2^32, above every position times frequency.
pub const SIN_COS_MAX: f32 = 65_536.0 * 65_536.0;

/// 1.5 * 2^23: adding it to `|v| < 2^22` rounds `v` to an integer, ties to even, and leaves it in the low bits.
pub(crate) const ROUND_F32: f32 = 12_582_912.0;
/// 1.5 * 2^52, the same for `f64`.
const ROUND_F64: f64 = 6_755_399_441_055_744.0;

/// `x`, with every NaN replaced by [`f32::NAN`], whose bits are `0x7fc0_0000`.
///
/// Which operand's NaN an instruction passes on, and the sign of a new one, differ between processors: x86 makes
/// negative ones, Arm positive ones. Every operation whose result can become a logit stores NaNs through this.
#[inline(always)]
pub fn canonical(x: f32) -> f32 {
    if x.is_nan() { f32::NAN } else { x }
}

const _: () = assert!(f32::NAN.to_bits() == 0x7fc0_0000, "digests hold the bits of a NaN");

/// Folds 16 lanes in the one order that every kernel uses: halves onto halves.
#[inline(always)]
pub(crate) fn fold16<T: Copy>(lanes: &[T; 16], join: impl Fn(T, T) -> T) -> T {
    // Written out, because a loop over the halves is not always unrolled, and then nothing around it is vectorised.
    let at = |i: usize| join(lanes[i], lanes[i + 8]);
    let quarter = |i: usize| join(at(i), at(i + 4));
    let pair = |i: usize| join(quarter(i), quarter(i + 2));
    join(pair(0), pair(1))
}

/// e to the power `x`: infinite above [`EXP_MAX`], 0 below [`EXP_MIN`] (no subnormal results), exactly 1 at 0.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN_2_HIGH: f32 = std::f32::consts::LN_2;
    const LN_2_LOW: f32 = -1.904_654_2e-9;
    // x = n ln 2 + r with |r| <= ln 2 / 2.
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND_F32);
    let n = shifted - ROUND_F32;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    // (e^r - 1 - r) / r^2, relative error of e^r 2^-28.2.
    let p = r.mul_add(0.001_381_446_7, 0.008_368_781);
    let p = r.mul_add(p, 0.041_668_393);
    let p = r.mul_add(p, 0.166_665_2);
    let p = r.mul_add(p, 0.499_999_94);
    let power = (r * r).mul_add(p, r) + 1.0;
    // The low bits of `shifted` are n (the constant's own bits fall off at the top): add it to the exponent.
    let y = f32::from_bits(power.to_bits().wrapping_add(shifted.to_bits() << 23));
    let y = if x > EXP_MAX { f32::INFINITY } else { y };
    let y = if x < EXP_MIN { 0.0 } else { y };
    if x.is_nan() { f32::NAN } else { y }
}

/// Sine and cosine of `x` radians; NaN where `|x|` is above [`SIN_COS_MAX`].
#[inline(always)]
pub fn sin_cos(x: f32) -> (f32, f32) {
    const HALF_PI_LOW: f64 = 6.123_233_995_736_766e-17;
    // x = n pi/2 + r with |r| <= pi/4; two words of pi/2 keep r to 2^-45 of itself for every f32 in range.
    let wide = f64::from(x);
    let shifted = wide.mul_add(std::f64::consts::FRAC_2_PI, ROUND_F64);
    let n = shifted - ROUND_F64;
    let r = n.mul_add(-HALF_PI_LOW, n.mul_add(-std::f64::consts::FRAC_PI_2, wide));
    let quadrant = shifted.to_bits();
    let u = r * r;
    // (sin r / r - 1) / r^2 and (cos r - 1 + r^2/2) / r^4, errors 2^-47 and 2^-43.
    let s = u.mul_add(-2.476_166_698_497_953e-8, 2.755_535_797_036_972_4e-6);
    let s = u.mul_add(s, -0.000_198_412_638_240_633_46);
    let s = u.mul_add(s, 0.008_333_333_325_273_962);
    let s = u.mul_add(s, -0.166_666_666_666_316_08);
    let s = (r * u).mul_add(s, r);
    let c = u.mul_add(-2.721_020_375_331_404_7e-7, 2.479_951_960_232_224_3e-5);
    let c = u.mul_add(c, -0.001_388_888_375_189_155_4);
    let c = u.mul_add(c, 0.041_666_666_622_810_72);
    let c = (u * u).mul_add(c, u.mul_add(-0.5, 1.0));
    let swapped = quadrant & 1 != 0;
    let (sin, cos) = if swapped { (c, s) } else { (s, c) };
    let sin = if quadrant & 2 != 0 { -sin } else { sin };
    let cos = if quadrant.wrapping_add(1) & 2 != 0 { -cos } else { cos };
    // The sum above loses the sign of a zero.
    let sin = if x == 0.0 { wide } else { sin };
    let outside = x.is_nan() || x.abs() > SIN_COS_MAX;
    let narrow = |v: f64| if outside { f32::NAN } else { narrow(v) };
    (narrow(sin), narrow(cos))
}

/// The nearest `f32`.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what it is for")]
fn narrow(v: f64) -> f32 {
    v as f32
}

/// Hyperbolic tangent.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    // Below this the quotient cancels.
    const SMALL: f32 = 0.625;
    let a = x.abs();
    let u = x * x;
    // (tanh x / x - 1) / x^2, relative error 2^-32.
    let p = u.mul_add(0.002_147_539_8, -0.008_182_677);
    let p = u.mul_add(p, 0.021_702_97);
    let p = u.mul_add(p, -0.053_947_203);
    let p = u.mul_add(p, 0.133_332_1);
    let p = u.mul_add(p, -0.333_333_3);
    let small = (a * u).mul_add(p, a);
    let large = 1.0 - 2.0 / (exp(a + a) + 1.0);
    canonical(if a < SMALL { small } else { large }.copysign(x))
}

/// `1 / (1 + exp(-x))`; 0 below [`EXP_MIN`].
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    let e = exp(-x.abs());
    canonical(if x < 0.0 { e } else { 1.0 } / (1.0 + e))
}

/// `x * sigmoid(x)`; -0 below [`EXP_MIN`] (an error below 1.1e-36), NaN at minus infinity.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    canonical(x * sigmoid(x))
}

/// `ln(1 + e^x)`: `x` where `x` is large, `e^x` where it is very negative.
#[inline(always)]
pub fn softplus(x: f32) -> f32 {
    // ln(1 + e^-|x|) by ln(1 + y) = 2 atanh(y / (2 + y)), whose argument is at most 1/3; Taylor's series to z^17.
    let y = exp(-x.abs());
    let z = y / (2.0 + y);
    let u = z * z;
    let p = u.mul_add(1.0 / 17.0, 1.0 / 15.0);
    let p = u.mul_add(p, 1.0 / 13.0);
    let p = u.mul_add(p, 1.0 / 11.0);
    let p = u.mul_add(p, 1.0 / 9.0);
    let p = u.mul_add(p, 1.0 / 7.0);
    let p = u.mul_add(p, 0.2);
    let p = u.mul_add(p, 1.0 / 3.0);
    let log = 2.0 * (z * u).mul_add(p, z);
    canonical(if x > 0.0 { x } else { 0.0 } + log)
}

/// The nearest integer, ties to even.
#[inline(always)]
pub fn round(x: f32) -> f32 {
    // From 2^23 on every number is an integer; below, the sum loses exactly the fraction.
    const WHOLE: f32 = 8_388_608.0;
    let a = x.abs();
    let rounded = (a + WHOLE) - WHOLE;
    if a < WHOLE { rounded.copysign(x) } else { x }
}

/// The largest integer that is not above `x`.
#[inline(always)]
pub fn floor(x: f32) -> f32 {
    let near = round(x);
    // −0 stays: 0 is above no zero.
    if near > x { near - 1.0 } else { near }
}

/// The smallest integer that is not below `x`.
#[inline(always)]
pub fn ceil(x: f32) -> f32 {
    -floor(-x)
}

/// Natural logarithm of a positive finite number, to about 2^-48 of itself.
#[inline(always)]
fn log_wide(x: f64) -> f64 {
    const SQRT_HALF: u64 = 0x3fe6_a09e_667f_3bcd;
    // x = 2^e m with m from sqrt(1/2) to sqrt 2. Every f32, subnormal ones too, is a normal f64.
    let e = x.to_bits().wrapping_sub(SQRT_HALF).cast_signed() >> 52;
    let m = f64::from_bits(x.to_bits().wrapping_sub(e.cast_unsigned() << 52));
    // ln m = 2 artanh s, a series in s^2 <= 0.0295.
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let p = z.mul_add(1.0 / 19.0, 1.0 / 17.0);
    let p = z.mul_add(p, 1.0 / 15.0);
    let p = z.mul_add(p, 1.0 / 13.0);
    let p = z.mul_add(p, 1.0 / 11.0);
    let p = z.mul_add(p, 1.0 / 9.0);
    let p = z.mul_add(p, 1.0 / 7.0);
    let p = z.mul_add(p, 1.0 / 5.0);
    let p = z.mul_add(p, 1.0 / 3.0);
    let tail = (s + s) * (z * p);
    let e = e as f64;
    e.mul_add(std::f64::consts::LN_2, (s + s) + tail)
}

/// e to the power `x` for `|x| < 700`, to about 2^-45 of itself.
#[inline(always)]
fn exp_wide(x: f64) -> f64 {
    const LN_2_HIGH: f64 = 0.693_147_180_369_123_8;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let shifted = x.mul_add(std::f64::consts::LOG2_E, ROUND_F64);
    let n = shifted - ROUND_F64;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    // The series of e^r up to r^12 / 12!, |r| <= ln 2 / 2.
    let p = r.mul_add(1.0 / 479_001_600.0, 1.0 / 39_916_800.0);
    let p = r.mul_add(p, 1.0 / 3_628_800.0);
    let p = r.mul_add(p, 1.0 / 362_880.0);
    let p = r.mul_add(p, 1.0 / 40_320.0);
    let p = r.mul_add(p, 1.0 / 5_040.0);
    let p = r.mul_add(p, 1.0 / 720.0);
    let p = r.mul_add(p, 1.0 / 120.0);
    let p = r.mul_add(p, 1.0 / 24.0);
    let p = r.mul_add(p, 1.0 / 6.0);
    let p = r.mul_add(p, 0.5);
    let p = r.mul_add(p, 1.0);
    let power = r.mul_add(p, 1.0);
    // The low bits of `shifted` are n: add it to the exponent.
    f64::from_bits(power.to_bits().wrapping_add(shifted.to_bits() << 52))
}

/// Natural logarithm: −infinity at 0, NaN below.
#[inline(always)]
pub fn log(x: f32) -> f32 {
    let y = narrow(log_wide(f64::from(x)));
    let y = if x == f32::INFINITY { x } else { y };
    let y = if x == 0.0 { f32::NEG_INFINITY } else { y };
    if x < 0.0 || x.is_nan() { f32::NAN } else { y }
}

/// `x` to the power `y`, with C's answers for zeros, infinities and negative bases.
#[inline(always)]
#[expect(clippy::float_cmp, reason = "1 and whole numbers are meant exactly")]
pub fn pow(x: f32, y: f32) -> f32 {
    let a = x.abs();
    let logarithm = if a == f32::INFINITY { f64::INFINITY } else { log_wide(f64::from(a)) };
    let logarithm = if a == 0.0 { f64::NEG_INFINITY } else { logarithm };
    let exponent = f64::from(y) * logarithm;
    // Far outside of what an f32 holds, and inside of what the exponential takes.
    let held = if exponent > 200.0 { 200.0 } else { exponent };
    let held = if held < -200.0 { -200.0 } else { held };
    let magnitude = narrow(exp_wide(held));
    let whole = floor(y) == y;
    let odd = whole && y.abs() < 16_777_216.0 && floor(y * 0.5) * 2.0 != y;
    let negative = x.is_sign_negative();
    let signed = if negative && odd { -magnitude } else { magnitude };
    let z = if x < 0.0 && a != f32::INFINITY && !whole { f32::NAN } else { signed };
    let z = if a == 1.0 && (x > 0.0 || y.abs() == f32::INFINITY) { 1.0 } else { z };
    let z = if (x.is_nan() || y.is_nan()) && x != 1.0 { f32::NAN } else { z };
    if y == 0.0 { 1.0 } else { canonical(z) }
}

/// Error function.
#[inline(always)]
pub fn erf(x: f32) -> f32 {
    let a = x.abs();
    // The series of erf x / x in x^2 (Abramowitz and Stegun, 7.1.5), to 2^-30 below 1.
    let wide = f64::from(x);
    let z = wide * wide;
    let p = z.mul_add(1.0 / 11_975_040_000.0, -1.0 / 918_086_400.0);
    let p = z.mul_add(p, 1.0 / 76_204_800.0);
    let p = z.mul_add(p, -1.0 / 6_894_720.0);
    let p = z.mul_add(p, 1.0 / 685_440.0);
    let p = z.mul_add(p, -1.0 / 75_600.0);
    let p = z.mul_add(p, 1.0 / 9_360.0);
    let p = z.mul_add(p, -1.0 / 1_320.0);
    let p = z.mul_add(p, 1.0 / 216.0);
    let p = z.mul_add(p, -1.0 / 42.0);
    let p = z.mul_add(p, 1.0 / 10.0);
    let p = z.mul_add(p, -1.0 / 3.0);
    let p = z.mul_add(p, 1.0);
    let small = narrow(wide * std::f64::consts::FRAC_2_SQRT_PI * p);
    let large = (1.0 - (half_erfc(a) + half_erfc(a))).copysign(x);
    canonical(if a < 1.0 { small } else { large })
}

/// Half of the complement of the error function of `t >= 0`.
#[inline(always)]
fn half_erfc(t: f32) -> f32 {
    // erfc t = exp(-t^2) * u * p(u), relative error of u * p(u) 2^-26 for all t >= 0.
    let u = 1.0 / t.mul_add(0.4, 1.0);
    let p = u.mul_add(-0.029_215_269, 0.140_447_52);
    let p = u.mul_add(p, -0.235_529_11);
    let p = u.mul_add(p, 0.137_563_8);
    let p = u.mul_add(p, -0.046_897_084);
    let p = u.mul_add(p, 0.083_917_39);
    let p = u.mul_add(p, 0.119_007_975);
    let p = u.mul_add(p, 0.171_739_35);
    let p = u.mul_add(p, 0.207_613_72);
    let p = u.mul_add(p, 0.225_675_87);
    let p = u.mul_add(p, 0.225_675_84);
    0.5 * (exp(-t * t) * (u * p))
}

/// `x` times the share of a standard normal distribution below `x`: `x * (1 + erf(x / sqrt 2)) / 2`, the exact GELU
/// (Hendrycks and Gimpel, 2016). The error is below [`GELU_MAX_ERROR`] times `|x|`; NaN at minus infinity.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    let half_erfc = half_erfc(x.abs() * std::f32::consts::FRAC_1_SQRT_2);
    canonical(x * if x < 0.0 { half_erfc } else { 1.0 - half_erfc })
}

/// The approximation of [`gelu`] by a hyperbolic tangent that GPT-2 and others are trained with:
/// `x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2`. NaN at minus infinity.
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    // (1 + tanh v) / 2 is sigmoid(2 v).
    let v = (x * x).mul_add(0.071_354_814, 1.595_769_2) * x;
    canonical(x * sigmoid(v))
}

#[cfg(test)]
mod tests;

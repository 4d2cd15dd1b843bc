//! Rows of a layer with a memory: norms of heads, decays, the convolution over the last tokens.

use crate::math::{canonical, exp, fold16, sigmoid, silu, softplus};

/// Most taps of a [`CausalConv`].
pub const MAX_CONV: usize = 8;

/// How a projected number becomes the share of a memory that is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecayKind {
    /// `sigmoid(x + bias)^(1/16)`; the complement is what is written (Yang et al., 2023; Zhang et al., 2024).
    SixteenthSigmoid,
    /// `exp(a * step)` with `step = softplus(x + bias)` and a negative `a` (Gu and Dao, 2023).
    Step,
    /// `exp(-e^(-1/2) * sigmoid(x + bias))` (Peng et al., 2025).
    Rwkv7,
}

/// What a head's output is multiplied with beside its norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// Nothing.
    None,
    /// `silu(gate)` after the norm.
    SiluAfter,
    /// `silu(gate)` before the norm.
    SiluBefore,
    /// `sigmoid(gate)` after the norm.
    SigmoidAfter,
}

kernel! {
    /// `x[i] += (other[i] - x[i]) * share[i]`, all of one length.
    pub struct Blend(x: &mut [f32], other: &[f32], share: &[f32]);
    check: |x: &&mut [f32], other: &&[f32], share: &&[f32]| {
        assert!(x.len() == other.len() && x.len() == share.len(), "one length");
    };
    cases: crate::ops::memory::tests::for_each_blend;
    conformance: blend_conformance;
    variants {
        Scalar => blend::scalar,
        Avx2 if target_arch = "x86_64" => blend::avx2,
        Avx512Vnni if target_arch = "x86_64" => blend::avx512,
    }
}

tiers!(fn blend(x: &mut [f32], other: &[f32], share: &[f32]) = blend_body;);

#[inline(always)]
fn blend_body(x: &mut [f32], other: &[f32], share: &[f32]) {
    for ((x, other), share) in x.iter_mut().zip(other).zip(share) {
        *x = canonical((other - *x).mul_add(*share, *x));
    }
}

kernel! {
    /// `x[i] *= y[i]`.
    pub struct Multiply(x: &mut [f32], y: &[f32]);
    check: |x: &&mut [f32], y: &&[f32]| assert!(x.len() == y.len(), "one length");
    cases: crate::ops::memory::tests::for_each_multiply;
    conformance: multiply_conformance;
    variants {
        Scalar => multiply::scalar,
        Avx2 if target_arch = "x86_64" => multiply::avx2,
        Avx512Vnni if target_arch = "x86_64" => multiply::avx512,
    }
}

tiers!(fn multiply(x: &mut [f32], y: &[f32]) = multiply_body;);

#[inline(always)]
fn multiply_body(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x = canonical(*x * y);
    }
}

kernel! {
    /// `x[i] += y[i] * factor`.
    pub struct AddScaled(x: &mut [f32], y: &[f32], factor: f32);
    check: |x: &&mut [f32], y: &&[f32], _factor: &f32| assert!(x.len() == y.len(), "one length");
    cases: crate::ops::memory::tests::for_each_add_scaled;
    conformance: add_scaled_conformance;
    variants {
        Scalar => add_scaled::scalar,
        Avx2 if target_arch = "x86_64" => add_scaled::avx2,
        Avx512Vnni if target_arch = "x86_64" => add_scaled::avx512,
    }
}

tiers!(fn add_scaled(x: &mut [f32], y: &[f32], factor: f32) = add_scaled_body;);

#[inline(always)]
fn add_scaled_body(x: &mut [f32], y: &[f32], factor: f32) {
    for (x, y) in x.iter_mut().zip(y) {
        *x = canonical(factor.mul_add(*y, *x));
    }
}

kernel! {
    /// `x[i] = max(x[i], 0)^2` (So et al., 2021).
    pub struct ReluSquared(x: &mut [f32]);
    check: |_x: &&mut [f32]| ();
    cases: crate::ops::memory::tests::for_each_relu_squared;
    conformance: relu_squared_conformance;
    variants {
        Scalar => relu_squared::scalar,
        Avx2 if target_arch = "x86_64" => relu_squared::avx2,
        Avx512Vnni if target_arch = "x86_64" => relu_squared::avx512,
    }
}

tiers!(fn relu_squared(x: &mut [f32]) = relu_squared_body;);

#[inline(always)]
fn relu_squared_body(x: &mut [f32]) {
    for x in x {
        // A comparison with NaN is false, so NaN stays.
        *x = canonical(if *x <= 0.0 { 0.0 } else { *x * *x });
    }
}

kernel! {
    /// Shares of a delta write: `keep[i] *= 1 - write[i] * beta`, then `write[i] *= beta`.
    pub struct DeltaShares(keep: &mut [f32], write: &mut [f32], beta: f32);
    check: |keep: &&mut [f32], write: &&mut [f32], _beta: &f32| assert!(keep.len() == write.len(), "one length");
    cases: crate::ops::memory::tests::for_each_delta_shares;
    conformance: delta_shares_conformance;
    variants {
        Scalar => delta_shares::scalar,
        Avx2 if target_arch = "x86_64" => delta_shares::avx2,
        Avx512Vnni if target_arch = "x86_64" => delta_shares::avx512,
    }
}

tiers!(fn delta_shares(keep: &mut [f32], write: &mut [f32], beta: f32) = delta_shares_body;);

#[inline(always)]
fn delta_shares_body(keep: &mut [f32], write: &mut [f32], beta: f32) {
    for (keep, write) in keep.iter_mut().zip(write) {
        *write = canonical(*write * beta);
        *keep = canonical(*keep * (1.0 - *write));
    }
}

kernel! {
    /// `x[i] *= factor`.
    pub struct Scale(x: &mut [f32], factor: f32);
    check: |_x: &&mut [f32], _factor: &f32| ();
    cases: crate::ops::memory::tests::for_each_scale;
    conformance: scale_conformance;
    variants {
        Scalar => scale::scalar,
        Avx2 if target_arch = "x86_64" => scale::avx2,
        Avx512Vnni if target_arch = "x86_64" => scale::avx512,
    }
}

tiers!(fn scale(x: &mut [f32], factor: f32) = scale_body;);

#[inline(always)]
fn scale_body(x: &mut [f32], factor: f32) {
    for x in x {
        *x = canonical(*x * factor);
    }
}

kernel! {
    /// Head by head `x[i] *= scale / sqrt(sum(x^2) + eps)`; `head` divides the row.
    pub struct UnitNorm(x: &mut [f32], head: usize, eps: f32, scale: f32);
    check: |x: &&mut [f32], head: &usize, _eps: &f32, _scale: &f32| check_heads(x.len(), *head);
    cases: crate::ops::memory::tests::for_each_unit_norm;
    conformance: unit_norm_conformance;
    variants {
        Scalar => unit_norm::scalar,
        Avx2 if target_arch = "x86_64" => unit_norm::avx2,
        Avx512Vnni if target_arch = "x86_64" => unit_norm::avx512,
    }
}

tiers!(fn unit_norm(x: &mut [f32], head: usize, eps: f32, scale: f32) = unit_norm_body;);

#[inline(always)]
fn unit_norm_body(x: &mut [f32], head: usize, eps: f32, scale: f32) {
    for x in x.chunks_exact_mut(head) {
        let scale = scale / (sum(x, |x| x * x) + eps).sqrt();
        for x in x {
            *x = canonical(*x * scale);
        }
    }
}

kernel! {
    /// Head by head `x[i] *= weight[i] / sqrt(mean(x^2) + eps)`, and the gate. `head` divides the row; `weight` is as long
    /// as a head, or as the row, or empty; `gate` is as long as the row, or empty where there is none.
    pub struct HeadNorm(x: &mut [f32], gate: &[f32], weight: &[f32], head: usize, eps: f32, gating: Gating);
    check: |x: &&mut [f32], gate: &&[f32], weight: &&[f32], head: &usize, _eps: &f32, gating: &Gating| {
        check_heads(x.len(), *head);
        assert!(*gating == Gating::None || gate.len() == x.len(), "{} gates of {}", gate.len(), x.len());
        let weights = weight.len();
        assert!(weights == 0 || weights == *head || weights == x.len(), "{weights} weights for heads of {head}");
    };
    cases: crate::ops::memory::tests::for_each_head_norm;
    conformance: head_norm_conformance;
    variants {
        Scalar => head_norm::scalar,
        Avx2 if target_arch = "x86_64" => head_norm::avx2,
        Avx512Vnni if target_arch = "x86_64" => head_norm::avx512,
    }
}

tiers!(fn head_norm(x: &mut [f32], gate: &[f32], weight: &[f32], head: usize, eps: f32, gating: Gating)
    = head_norm_body;);

#[inline(always)]
fn head_norm_body(x: &mut [f32], gate: &[f32], weight: &[f32], head: usize, eps: f32, gating: Gating) {
    if gating == Gating::SiluBefore {
        for (x, gate) in x.iter_mut().zip(gate) {
            *x *= silu(*gate);
        }
    }
    for (h, x) in x.chunks_exact_mut(head).enumerate() {
        let scale = 1.0 / (sum(x, |x| x * x) / head as f32 + eps).sqrt();
        if weight.is_empty() {
            for x in x {
                *x = canonical(*x * scale);
            }
        } else {
            let first = if weight.len() == head { 0 } else { h * head };
            for (x, weight) in x.iter_mut().zip(&weight[first..][..head]) {
                *x = canonical(*x * scale * weight);
            }
        }
    }
    match gating {
        Gating::SiluAfter => {
            for (x, gate) in x.iter_mut().zip(gate) {
                *x = canonical(*x * silu(*gate));
            }
        }
        Gating::SigmoidAfter => {
            for (x, gate) in x.iter_mut().zip(gate) {
                *x = canonical(*x * sigmoid(*gate));
            }
        }
        Gating::None | Gating::SiluBefore => {}
    }
}

kernel! {
    /// Projected numbers become shares in place; `steps` takes the step, or the complement, where it is not empty.
    ///
    /// `bias` is as long as `x` or empty; `a` is as long as `x` for [`DecayKind::Step`] and otherwise not looked at.
    pub struct Decays(x: &mut [f32], steps: &mut [f32], a: &[f32], bias: &[f32], kind: DecayKind);
    check: |x: &&mut [f32], steps: &&mut [f32], a: &&[f32], bias: &&[f32], kind: &DecayKind| {
        let n = x.len();
        assert!(bias.is_empty() || bias.len() == n, "{} biases of {n}", bias.len());
        assert!(steps.is_empty() || steps.len() == n, "{} steps of {n}", steps.len());
        assert!(*kind != DecayKind::Step || a.len() == n, "{} rates of {n}", a.len());
    };
    cases: crate::ops::memory::tests::for_each_decays;
    conformance: decays_conformance;
    variants {
        Scalar => decays::scalar,
        Avx2 if target_arch = "x86_64" => decays::avx2,
        Avx512Vnni if target_arch = "x86_64" => decays::avx512,
    }
}

tiers!(fn decays(x: &mut [f32], steps: &mut [f32], a: &[f32], bias: &[f32], kind: DecayKind) = decays_body;);

#[inline(always)]
fn decays_body(x: &mut [f32], steps: &mut [f32], a: &[f32], bias: &[f32], kind: DecayKind) {
    /// e^(-1/2).
    const SLOWEST: f32 = 0.606_530_66;
    for (x, bias) in x.iter_mut().zip(bias) {
        *x += bias;
    }
    match kind {
        DecayKind::SixteenthSigmoid => {
            for x in x.iter_mut() {
                *x = canonical(exp(softplus(-*x) * -0.0625));
            }
            for (step, x) in steps.iter_mut().zip(x.iter()) {
                *step = 1.0 - x;
            }
        }
        DecayKind::Step => {
            for x in x.iter_mut() {
                *x = softplus(*x);
            }
            for (step, x) in steps.iter_mut().zip(x.iter()) {
                *step = *x;
            }
            for (x, a) in x.iter_mut().zip(a) {
                *x = canonical(exp(*x * a));
            }
        }
        DecayKind::Rwkv7 => {
            for x in x.iter_mut() {
                *x = canonical(exp(-SLOWEST * sigmoid(*x)));
            }
        }
    }
}

kernel! {
    /// One token of a convolution over the last tokens, channel by channel: `y[c] = bias[c] + sum over j of w[c, j] taps[j][c]`
    /// with `taps[0]` the oldest, then `silu` where wanted. `w` is `(channels, taps)`; an empty bias is none.
    pub struct CausalConv(y: &mut [f32], taps: &[&[f32]], w: &[f32], bias: &[f32], with_silu: bool);
    check: |y: &&mut [f32], taps: &&[&[f32]], w: &&[f32], bias: &&[f32], _silu: &bool| {
        let n = y.len();
        assert!((1..=MAX_CONV).contains(&taps.len()), "{} taps, from 1 to {MAX_CONV}", taps.len());
        assert!(taps.iter().all(|tap| tap.len() == n), "all taps are {n} long");
        assert_eq!(Some(w.len()), n.checked_mul(taps.len()), "weights for {n} channels");
        assert!(bias.is_empty() || bias.len() == n, "{} biases of {n}", bias.len());
    };
    cases: crate::ops::memory::tests::for_each_conv;
    conformance: conv_conformance;
    variants {
        Scalar => conv::scalar,
        Avx2 if target_arch = "x86_64" => conv::avx2,
        Avx512Vnni if target_arch = "x86_64" => conv::avx512,
    }
}

tiers!(fn conv(y: &mut [f32], taps: &[&[f32]], w: &[f32], bias: &[f32], with_silu: bool) = conv_body;);

#[inline(always)]
fn conv_body(y: &mut [f32], taps: &[&[f32]], w: &[f32], bias: &[f32], with_silu: bool) {
    if bias.is_empty() {
        y.fill(0.0);
    } else {
        y.copy_from_slice(bias);
    }
    for (j, tap) in taps.iter().enumerate() {
        for ((y, x), w) in y.iter_mut().zip(*tap).zip(w.chunks_exact(taps.len())) {
            *y = w[j].mul_add(*x, *y);
        }
    }
    for y in y {
        *y = canonical(if with_silu { silu(*y) } else { *y });
    }
}

pub(super) fn check_heads(n: usize, head: usize) {
    assert!(head > 0 && n.is_multiple_of(head), "heads of {head} in a row of {n}");
}

/// The sum of `f` over a row, in 16 lanes.
#[inline(always)]
pub(super) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; 16];
    let (blocks, tail) = x.as_chunks::<16>();
    for block in blocks {
        for i in 0..16 {
            lanes[i] += f(block[i]);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(tail) {
        *lane += f(*x);
    }
    fold16(&lanes, |a, b| a + b)
}

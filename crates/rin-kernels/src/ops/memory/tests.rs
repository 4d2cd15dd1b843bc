//! Cases of the operations on rows: each tier against the scalar one, and the scalar one against f64.
#![expect(clippy::disallowed_methods, reason = "the platform's f64 functions are the reference")]
#![expect(clippy::float_cmp, reason = "these sums are exact to the bit")]

use super::gates::{
    AddScaled, Blend, CausalConv, DecayKind, Decays, DeltaShares, Gating, HeadNorm, Multiply, ReluSquared, Scale,
    UnitNorm,
};
use super::rwkv::{RwkvKeys, RwkvOut, RwkvRows};
use super::slots::{Bind, Quant, Route, SlotState, SlotStep, SlotTokens, Unbind, hash_slot};
use crate::Cpu;
use crate::ops::cases::{Random, bits};

/// A case of an operation: its name, and how to run it on a variant; what it writes is compared.
type Run<Op> = Box<dyn Fn(&Op) -> Vec<f32>>;

pub(super) struct Case<Op> {
    name: String,
    run: Run<Op>,
}

impl<Op> Case<Op> {
    fn new(name: String, run: impl Fn(&Op) -> Vec<f32> + 'static) -> Self {
        Self { name, run: Box::new(run) }
    }

    pub(super) fn check(&self, reference: &Op, candidate: &Op) {
        assert_eq!(bits(&(self.run)(reference)), bits(&(self.run)(candidate)), "{}", self.name);
    }
}

/// Lengths of rows of heads of 16, and rows of usual numbers and of any bits at all.
fn rows(mut f: impl FnMut(&mut Random, usize, fn(&mut Random, usize) -> Vec<f32>)) {
    let mut random = Random::new(21);
    for n in [16, 32, 48, 208] {
        f(&mut random, n, Random::normals);
        f(&mut random, n, Random::anything);
    }
}

pub(super) fn for_each_blend(mut f: impl FnMut(Case<Blend>)) {
    rows(|random, n, make| {
        let x = make(random, 3 * n);
        f(Case::new(format!("{n}"), move |op: &Blend| {
            let mut y = x[..n].to_vec();
            op.run(&mut y, &x[n..2 * n], &x[2 * n..]);
            y
        }));
    });
}

pub(super) fn for_each_scale(mut f: impl FnMut(Case<Scale>)) {
    rows(|random, n, make| {
        let x = make(random, n);
        f(Case::new(format!("{n}"), move |op: &Scale| {
            let mut y = x.clone();
            op.run(&mut y, 0.3);
            y
        }));
    });
}

pub(super) fn for_each_multiply(mut f: impl FnMut(Case<Multiply>)) {
    rows(|random, n, make| {
        let (x, y) = (make(random, n), make(random, n));
        f(Case::new(format!("{n}"), move |op: &Multiply| {
            let mut x = x.clone();
            op.run(&mut x, &y);
            x
        }));
    });
}

pub(super) fn for_each_add_scaled(mut f: impl FnMut(Case<AddScaled>)) {
    rows(|random, n, make| {
        let (x, y) = (make(random, n), make(random, n));
        f(Case::new(format!("{n}"), move |op: &AddScaled| {
            let mut x = x.clone();
            op.run(&mut x, &y, -0.7);
            x
        }));
    });
}

pub(super) fn for_each_relu_squared(mut f: impl FnMut(Case<ReluSquared>)) {
    rows(|random, n, make| {
        let x = make(random, n);
        f(Case::new(format!("{n}"), move |op: &ReluSquared| {
            let mut x = x.clone();
            op.run(&mut x);
            x
        }));
    });
}

pub(super) fn for_each_delta_shares(mut f: impl FnMut(Case<DeltaShares>)) {
    rows(|random, n, make| {
        let (keep, write) = (make(random, n), make(random, n));
        f(Case::new(format!("{n}"), move |op: &DeltaShares| {
            let (mut keep, mut write) = (keep.clone(), write.clone());
            op.run(&mut keep, &mut write, 0.6);
            [keep, write].concat()
        }));
    });
}

#[test]
fn small_operations_are_their_definitions() {
    let cpu = Cpu::detect();
    let mut x = [2.0, -3.0, 0.5];
    Multiply::select(&cpu).run(&mut x, &[1.0, 2.0, 4.0]);
    assert_eq!(x, [2.0, -6.0, 2.0]);
    AddScaled::select(&cpu).run(&mut x, &[1.0, 1.0, -1.0], 0.5);
    assert_eq!(x, [2.5, -5.5, 1.5]);
    ReluSquared::select(&cpu).run(&mut x);
    assert_eq!(x, [6.25, 0.0, 2.25]);
    let (mut keep, mut write) = ([1.0, 0.5], [0.5, 1.0]);
    DeltaShares::select(&cpu).run(&mut keep, &mut write, 0.5);
    assert_eq!((keep, write), ([0.75, 0.25], [0.25, 0.5]));
    let mut y = [1.0, 2.0];
    Blend::select(&cpu).run(&mut y, &[3.0, 0.0], &[0.5, 0.25]);
    assert_eq!(y, [2.0, 1.5]);
}

pub(super) fn for_each_unit_norm(mut f: impl FnMut(Case<UnitNorm>)) {
    rows(|random, n, make| {
        let x = make(random, n);
        f(Case::new(format!("{n}"), move |op: &UnitNorm| {
            let mut y = x.clone();
            op.run(&mut y, 16, 1e-6, 0.25);
            y
        }));
    });
}

pub(super) fn for_each_head_norm(mut f: impl FnMut(Case<HeadNorm>)) {
    rows(|random, n, make| {
        for gating in [Gating::None, Gating::SiluAfter, Gating::SiluBefore, Gating::SigmoidAfter] {
            for weights in [0, 16, n] {
                let (x, gate, weight) = (make(random, n), make(random, n), random.normals(weights));
                f(Case::new(format!("{n} {gating:?} {weights}"), move |op: &HeadNorm| {
                    let mut y = x.clone();
                    op.run(&mut y, &gate, &weight, 16, 1e-5, gating);
                    y
                }));
            }
        }
    });
}

pub(super) fn for_each_decays(mut f: impl FnMut(Case<Decays>)) {
    rows(|random, n, make| {
        for kind in [DecayKind::SixteenthSigmoid, DecayKind::Step, DecayKind::Rwkv7] {
            for with in [false, true] {
                let (x, bias) = (make(random, n), random.normals(if with { n } else { 0 }));
                let a: Vec<f32> = random.normals(n).iter().map(|a| -a.abs()).collect();
                f(Case::new(format!("{n} {kind:?} {with}"), move |op: &Decays| {
                    let (mut y, mut steps) = (x.clone(), vec![0.0; if with { n } else { 0 }]);
                    op.run(&mut y, &mut steps, &a, &bias, kind);
                    y.extend(steps.iter().map(|&x| crate::math::canonical(x)));
                    y
                }));
            }
        }
    });
}

pub(super) fn for_each_conv(mut f: impl FnMut(Case<CausalConv>)) {
    rows(|random, n, make| {
        for taps in [1, 3, 4, 8] {
            let (x, w, bias) = (make(random, taps * n), random.normals(taps * n), random.normals(n * (taps % 2)));
            f(Case::new(format!("{n} channels, {taps} taps"), move |op: &CausalConv| {
                let rows: Vec<&[f32]> = x.chunks_exact(n).collect();
                let mut y = vec![0.0; n];
                op.run(&mut y, &rows, &w, &bias, taps > 2);
                y
            }));
        }
    });
}

pub(super) fn for_each_rwkv_keys(mut f: impl FnMut(Case<RwkvKeys>)) {
    rows(|random, n, make| {
        let (k, a, rates) = (make(random, n), make(random, n), random.normals(2 * n));
        f(Case::new(format!("{n}"), move |op: &RwkvKeys| {
            let (mut k, mut a, mut take) = (k.clone(), a.clone(), vec![0.0; n]);
            op.run(&mut k, &mut a, &mut take, [&rates[..n], &rates[n..]], 16);
            [k, a, take].concat()
        }));
    });
}

pub(super) fn for_each_rwkv_out(mut f: impl FnMut(Case<RwkvOut>)) {
    rows(|random, n, make| {
        let x = make(random, 8 * n);
        f(Case::new(format!("{n}"), move |op: &RwkvOut| {
            let mut y = x[..n].to_vec();
            op.run(&mut y, rwkv_rows(&x, n), 16, 1e-5);
            y
        }));
    });
}

fn rwkv_rows(x: &[f32], n: usize) -> RwkvRows<'_> {
    let part = |i: usize| &x[i * n..][..n];
    RwkvRows { r: part(1), k: part(2), v: part(3), g: part(4), r_k: part(5), norm: [part(6), part(7)] }
}

pub(super) fn for_each_route(mut f: impl FnMut(Case<Route>)) {
    rows(|random, n, make| {
        for (slots, top) in [(1, 1), (8, 1), (8, 3), (32, 32)] {
            for with in [false, true] {
                let heads = n / 16;
                let (x, book) = (make(random, n), random.normals(if with { slots * n } else { 0 }));
                f(Case::new(format!("{n} numbers, {slots} slots, {top}, {with}"), move |op: &Route| {
                    let mut y = vec![0.0; heads * slots];
                    op.run(&mut y, &x, &book, slots, top);
                    y
                }));
            }
        }
    });
}

const QUANTS: [Quant; 4] = [Quant::Float, Quant::Sign, Quant::Steps(7), Quant::Steps(127)];

pub(super) fn for_each_bind(mut f: impl FnMut(Case<Bind>)) {
    rows(|random, n, make| {
        for quant in QUANTS {
            let (v, k) = (make(random, n), make(random, n));
            f(Case::new(format!("{n} {quant:?}"), move |op: &Bind| {
                let mut y = v.clone();
                op.run(&mut y, &k, quant);
                // The sign of a NaN is not looked at by what comes after.
                y.iter().map(|&y| crate::math::canonical(y)).collect()
            }));
        }
    });
}

pub(super) fn for_each_unbind(mut f: impl FnMut(Case<Unbind>)) {
    rows(|random, n, make| {
        let (x, q) = (make(random, n), make(random, n));
        f(Case::new(format!("{n}"), move |op: &Unbind| {
            let mut y = x.clone();
            op.run(&mut y, &q, 0.125);
            y
        }));
    });
}

pub(super) fn for_each_slot_step(mut f: impl FnMut(Case<SlotStep>)) {
    rows(|random, n, _| {
        let slots = 5;
        let start: Vec<i32> = (0..slots * n).map(|_| i32::try_from(random.below(2000)).unwrap() - 1000).collect();
        let bound: Vec<Vec<f32>> =
            (0..6).map(|_| random.normals(n).iter().map(|x| Quant::Steps(127).of(*x)).collect()).collect();
        let places: Vec<(usize, usize)> = (0..6).map(|_| (random.below(slots), random.below(slots))).collect();
        f(Case::new(format!("{n}"), move |op: &SlotStep| {
            let mut wide = start.clone();
            let mut narrow: Vec<i16> = start.iter().map(|&z| i16::try_from(z).unwrap()).collect();
            let (mut all, mut out) = (Vec::new(), vec![0.0; n]);
            for (bound, &(read, write)) in bound.iter().zip(&places) {
                let token = SlotTokens { read, write, bound };
                op.run(SlotState::I32(&mut wide), &mut out, token);
                let first = out.clone();
                op.run(SlotState::I16(&mut narrow), &mut out, token);
                assert_eq!(first, out, "both widths hold the same");
                all.extend_from_slice(&out);
            }
            assert!(wide.iter().zip(&narrow).all(|(&a, &b)| a == i32::from(b)));
            all
        }));
    });
}

fn close(got: f32, want: f64, tolerance: f64) {
    assert!((f64::from(got) - want).abs() <= tolerance * want.abs().max(1.0), "{got} for {want}");
}

#[test]
fn decays_are_their_definitions_in_f64() {
    let mut random = Random::new(31);
    let op = Decays::select(&Cpu::detect());
    let (x, bias) = (random.normals(64), random.normals(64));
    let a: Vec<f32> = random.normals(64).iter().map(|a| -a.exp()).collect();
    for kind in [DecayKind::SixteenthSigmoid, DecayKind::Step, DecayKind::Rwkv7] {
        let (mut y, mut steps) = (x.clone(), vec![0.0; 64]);
        op.run(&mut y, &mut steps, &a, &bias, kind);
        for i in 0..64 {
            let z = f64::from(x[i] + bias[i]);
            let sigmoid = 1.0 / (1.0 + (-z).exp());
            let (share, step) = match kind {
                DecayKind::SixteenthSigmoid => (sigmoid.powf(0.0625), 1.0 - sigmoid.powf(0.0625)),
                DecayKind::Step => ((f64::from(a[i]) * z.exp().ln_1p()).exp(), z.exp().ln_1p()),
                DecayKind::Rwkv7 => ((-(-0.5_f64).exp() * sigmoid).exp(), 0.0),
            };
            close(y[i], share, 1e-6);
            close(steps[i], step, 1e-6);
        }
    }
}

#[test]
fn norms_and_gates_are_their_definitions_in_f64() {
    let mut random = Random::new(32);
    let cpu = Cpu::detect();
    let (x, gate, weight) = (random.normals(64), random.normals(64), random.normals(16));
    let silu = |g: f64| g / (1.0 + (-g).exp());
    for gating in [Gating::None, Gating::SiluAfter, Gating::SiluBefore, Gating::SigmoidAfter] {
        let mut y = x.clone();
        HeadNorm::select(&cpu).run(&mut y, &gate, &weight, 16, 1e-5, gating);
        for h in 0..4 {
            let before = |i: usize| {
                let x = f64::from(x[h * 16 + i]);
                if gating == Gating::SiluBefore { x * silu(f64::from(gate[h * 16 + i])) } else { x }
            };
            let mean = (0..16).map(|i| before(i).powi(2)).sum::<f64>() / 16.0;
            for i in 0..16 {
                let g = f64::from(gate[h * 16 + i]);
                let factor = match gating {
                    Gating::SiluAfter => silu(g),
                    Gating::SigmoidAfter => 1.0 / (1.0 + (-g).exp()),
                    _ => 1.0,
                };
                close(y[h * 16 + i], before(i) / (mean + 1e-5).sqrt() * f64::from(weight[i]) * factor, 1e-6);
            }
        }
    }
    let mut y = x.clone();
    UnitNorm::select(&cpu).run(&mut y, 16, 1e-6, 0.25);
    let length = y[..16].iter().map(|y| f64::from(*y).powi(2)).sum::<f64>().sqrt();
    assert!((length - 0.25).abs() < 1e-6, "{length}");
}

#[test]
fn a_convolution_sees_the_newest_token_last() {
    let op = CausalConv::select(&Cpu::detect());
    let taps: [&[f32]; 3] = [&[1.0, 0.0], &[0.0, 2.0], &[3.0, 4.0]];
    let mut y = [0.0; 2];
    op.run(&mut y, &taps, &[1.0, 10.0, 100.0, 1.0, 10.0, 100.0], &[0.5, -0.5], false);
    assert_eq!(y, [301.5, 419.5]);
}

#[test]
fn slots_are_addressed_by_hash_and_by_the_nearest_rows() {
    // Positions 1, 2 and 4 are positive, a zero among them: 7 modulo 5.
    assert_eq!(hash_slot(&[1.0, 0.0, -1.0, 2.0], 5), 2);
    let op = Route::select(&Cpu::detect());
    let mut x = [0.0; 16];
    x[0] = 1.0;
    let mut book = [0.0; 4 * 16];
    (book[0], book[16], book[32], book[48]) = (1.0, 3.0, 3.0, 2.0);
    let mut out = [0.0; 4];
    op.run(&mut out, &x, &book, 4, 1);
    assert_eq!(out, [0.0, 1.0, 0.0, 0.0], "the earlier of two equal ones");
    op.run(&mut out, &x, &book, 4, 3);
    let e = (-1.0_f64).exp();
    assert!(out[0] == 0.0);
    for (got, want) in out[1..].iter().zip([1.0 / (2.0 + e), 1.0 / (2.0 + e), e / (2.0 + e)]) {
        close(*got, want, 1e-6);
    }
}

#[test]
fn values_are_rounded_to_the_nearest_step() {
    let steps = Quant::Steps(7);
    let rounded = [0.5, -0.5, 1.0, -2.0, 0.07, f32::INFINITY, f32::NAN].map(|x| steps.of(x));
    assert_eq!(rounded, [4.0, -4.0, 7.0, -7.0, 0.0, 7.0, 0.0]);
    assert_eq!([0.0, -0.0, 3.0, -1e-9].map(|x| Quant::Sign.of(x)), [1.0, 1.0, 1.0, -1.0]);
}

#[test]
fn rwkv_rows_are_their_definitions_in_f64() {
    let mut random = Random::new(33);
    let cpu = Cpu::detect();
    let n = 32;
    let (k0, a0, rates) = (random.normals(n), random.normals(n), random.normals(2 * n));
    let (mut k, mut a, mut take) = (k0.clone(), a0.clone(), vec![0.0; n]);
    RwkvKeys::select(&cpu).run(&mut k, &mut a, &mut take, [&rates[..n], &rates[n..]], 16);
    let wide = |x: f32| f64::from(x);
    for h in 0..2 {
        let at = |i: usize| h * 16 + i;
        let length = (0..16).map(|i| (wide(k0[at(i)]) * wide(rates[at(i)])).powi(2)).sum::<f64>().sqrt();
        for i in (0..16).map(at) {
            let kk = wide(k0[i]) * wide(rates[i]) / length;
            close(take[i], -kk, 1e-6);
            close(a[i], kk * wide(a0[i]), 1e-6);
            close(k[i], wide(k0[i]) * (1.0 + (wide(a0[i]) - 1.0) * wide(rates[n + i])), 1e-6);
        }
    }
    let x = random.normals(8 * n);
    let rows = rwkv_rows(&x, n);
    let mut y = x[..n].to_vec();
    RwkvOut::select(&cpu).run(&mut y, rows, 16, 1e-5);
    for h in 0..2 {
        let at = h * 16..h * 16 + 16;
        let mean = at.clone().map(|i| wide(x[i])).sum::<f64>() / 16.0;
        let variance = at.clone().map(|i| (wide(x[i]) - mean).powi(2)).sum::<f64>() / 16.0;
        let share: f64 = at.clone().map(|i| wide(rows.r[i]) * wide(rows.k[i]) * wide(rows.r_k[i])).sum();
        for i in at {
            let normed = (wide(x[i]) - mean) / (variance + 1e-5).sqrt();
            let normed = normed * wide(rows.norm[0][i]) + wide(rows.norm[1][i]);
            close(y[i], (normed + share * wide(rows.v[i])) * wide(rows.g[i]), 1e-5);
        }
    }
}

//! What is RWKV-7's own (Peng et al., 2025, "RWKV-7 Goose", section 4): its keys and its output.

use super::gates::{check_heads, sum};
use crate::math::canonical;

kernel! {
    /// From keys and rates of learning to what the memory is corrected with. Head by head:
    ///
    /// ```text
    /// kk = k * k_k / |k * k_k|      take = -kk      k = k (1 + (a - 1) k_a)      a = kk a
    /// ```
    ///
    /// `rates` are `k_k` and `k_a`. All rows are equally long; `head` divides them.
    pub struct RwkvKeys(k: &mut [f32], a: &mut [f32], take: &mut [f32], rates: [&[f32]; 2], head: usize);
    check: |k: &&mut [f32], a: &&mut [f32], take: &&mut [f32], rates: &[&[f32]; 2], head: &usize| {
        check_heads(k.len(), *head);
        assert!(a.len() == k.len() && take.len() == k.len() && rates.iter().all(|row| row.len() == k.len()), "one length");
    };
    cases: crate::ops::memory::tests::for_each_rwkv_keys;
    conformance: keys_conformance;
    variants {
        Scalar => keys::scalar,
        Avx2 if target_arch = "x86_64" => keys::avx2,
        Avx512Vnni if target_arch = "x86_64" => keys::avx512,
    }
}

tiers!(fn keys(k: &mut [f32], a: &mut [f32], take: &mut [f32], rates: [&[f32]; 2], head: usize) = keys_body;);

/// Added to the sum of squares, so that a key of zeros stays one.
const TINY: f32 = 1e-24;

#[inline(always)]
fn keys_body(k: &mut [f32], a: &mut [f32], take: &mut [f32], rates: [&[f32]; 2], head: usize) {
    let [k_k, k_a] = rates;
    for ((take, k), k_k) in take.iter_mut().zip(k.iter()).zip(k_k) {
        *take = k * k_k;
    }
    for take in take.chunks_exact_mut(head) {
        let scale = -1.0 / (sum(take, |x| x * x) + TINY).sqrt();
        for x in take {
            *x = canonical(*x * scale);
        }
    }
    for (((k, a), take), k_a) in k.iter_mut().zip(a.iter_mut()).zip(take.iter()).zip(k_a) {
        *k = canonical(*k * (*a - 1.0).mul_add(*k_a, 1.0));
        *a = canonical(-*take * *a);
    }
}

/// The rows of a token that its output is made of.
#[derive(Clone, Copy, Debug)]
pub struct RwkvRows<'a> {
    /// Receptance.
    pub r: &'a [f32],
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
    /// Gate.
    pub g: &'a [f32],
    /// Weights of the product of receptance and keys.
    pub r_k: &'a [f32],
    /// Weights and biases of the norm.
    pub norm: [&'a [f32]; 2],
}

kernel! {
    /// Head by head: the norm of what was read, plus the value weighted by `sum(r k r_k)`, times the gate.
    ///
    /// The variance is taken of the differences from the mean. All rows are equally long; `head` divides them.
    pub struct RwkvOut(x: &mut [f32], rows: RwkvRows<'_>, head: usize, eps: f32);
    check: |x: &&mut [f32], rows: &RwkvRows<'_>, head: &usize, _eps: &f32| {
        check_heads(x.len(), *head);
        let all = [rows.r, rows.k, rows.v, rows.g, rows.r_k, rows.norm[0], rows.norm[1]];
        assert!(all.iter().all(|row| row.len() == x.len()), "one length");
    };
    cases: crate::ops::memory::tests::for_each_rwkv_out;
    conformance: out_conformance;
    variants {
        Scalar => output::scalar,
        Avx2 if target_arch = "x86_64" => output::avx2,
        Avx512Vnni if target_arch = "x86_64" => output::avx512,
    }
}

tiers!(fn output(x: &mut [f32], rows: RwkvRows<'_>, head: usize, eps: f32) = out_body;);

#[inline(always)]
fn out_body(x: &mut [f32], rows: RwkvRows<'_>, head: usize, eps: f32) {
    let n = head as f32;
    for (h, x) in x.chunks_exact_mut(head).enumerate() {
        let of = |row: &'_ [f32], i: usize| row[h * head + i];
        let mean = sum(x, |x| x) / n;
        let variance = sum(x, |x| (x - mean) * (x - mean)) / n;
        let scale = 1.0 / (variance + eps).sqrt();
        // In 16 lanes, as all sums over a row are.
        let mut lanes = [0.0_f32; 16];
        for i in 0..head {
            lanes[i % 16] += of(rows.r, i) * of(rows.k, i) * of(rows.r_k, i);
        }
        let share = crate::math::fold16(&lanes, |a, b| a + b);
        for (i, x) in x.iter_mut().enumerate() {
            let normed = (*x - mean) * scale * of(rows.norm[0], i) + of(rows.norm[1], i);
            *x = canonical(share.mul_add(of(rows.v, i), normed) * of(rows.g, i));
        }
    }
}

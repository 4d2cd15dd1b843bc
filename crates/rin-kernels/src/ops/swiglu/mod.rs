//! The gated activation of a feed-forward block (Shazeer, 2020, "GLU Variants Improve Transformer").

use crate::math::{canonical, silu};

kernel! {
    /// `gate[i] = silu(gate[i]) * up[i]`, both of one length. A NaN result is [`f32::NAN`].
    pub struct SwiGlu(gate: &mut [f32], up: &[f32]);
    check: check;
    cases: tests::for_each_case;
    conformance: conformance;
    variants {
        Scalar => rows::scalar,
        Avx2 if target_arch = "x86_64" => rows::avx2,
        Avx512Vnni if target_arch = "x86_64" => rows::avx512,
    }
}

tiers!(fn rows(gate: &mut [f32], up: &[f32]) = body;);

fn check(gate: &[f32], up: &[f32]) {
    assert!(gate.len() == up.len(), "one length: gate {}, up {}", gate.len(), up.len());
}

#[inline(always)]
fn body(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = canonical(silu(*gate) * up);
    }
}

#[cfg(test)]
mod tests {
    use super::SwiGlu;
    use crate::Cpu;
    use crate::ops::cases::{Random, bits};

    pub(super) struct Case {
        gate: Vec<f32>,
        up: Vec<f32>,
    }

    impl Case {
        pub(super) fn check(&self, reference: &SwiGlu, candidate: &SwiGlu) {
            let mut want = self.gate.clone();
            let mut got = self.gate.clone();
            reference.run(&mut want, &self.up);
            candidate.run(&mut got, &self.up);
            assert_eq!(bits(&want), bits(&got), "{} at {}", candidate.tier(), self.up.len());
        }
    }

    pub(super) fn for_each_case(mut f: impl FnMut(Case)) {
        let mut random = Random::new(3);
        for n in (0..100).chain([4000]) {
            f(Case { gate: random.normals(n).iter().map(|x| x * 30.0).collect(), up: random.normals(n) });
            f(Case { gate: random.anything(n), up: random.anything(n) });
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the platform's f64 exponential is the reference of a test")]
    fn is_the_definition_in_f64() {
        let mut random = Random::new(4);
        let (gate, up) = (random.normals(1000), random.normals(1000));
        let mut y = gate.clone();
        SwiGlu::select(&Cpu::detect()).run(&mut y, &up);
        for ((y, gate), up) in y.iter().zip(&gate).zip(&up) {
            let gate = f64::from(*gate);
            let want = gate / (1.0 + (-gate).exp()) * f64::from(*up);
            assert!((f64::from(*y) - want).abs() <= 5e-7 * want.abs(), "{y} for {want}");
        }
    }
}

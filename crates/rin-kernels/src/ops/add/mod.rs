//! The residual sum.

use crate::math::canonical;

kernel! {
    /// `y[i] += x[i]`, both of one length. A NaN result is [`f32::NAN`].
    pub struct Add(y: &mut [f32], x: &[f32]);
    check: check;
    cases: tests::for_each_case;
    conformance: conformance;
    variants {
        Scalar => rows::scalar,
        Avx2 if target_arch = "x86_64" => rows::avx2,
        Avx512Vnni if target_arch = "x86_64" => rows::avx512,
    }
}

tiers!(fn rows(y: &mut [f32], x: &[f32]) = body;);

fn check(y: &[f32], x: &[f32]) {
    assert!(y.len() == x.len(), "one length: y {}, x {}", y.len(), x.len());
}

#[inline(always)]
fn body(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = canonical(*y + x);
    }
}

#[cfg(test)]
mod tests {
    use super::Add;
    use crate::Cpu;
    use crate::ops::cases::{Random, bits};

    pub(super) struct Case {
        y: Vec<f32>,
        x: Vec<f32>,
    }

    impl Case {
        pub(super) fn check(&self, reference: &Add, candidate: &Add) {
            let mut want = self.y.clone();
            let mut got = self.y.clone();
            reference.run(&mut want, &self.x);
            candidate.run(&mut got, &self.x);
            assert_eq!(bits(&want), bits(&got), "{} at {}", candidate.tier(), self.x.len());
        }
    }

    pub(super) fn for_each_case(mut f: impl FnMut(Case)) {
        let mut random = Random::new(5);
        for n in (0..100).chain([4000]) {
            f(Case { y: random.normals(n), x: random.normals(n) });
            f(Case { y: random.anything(n), x: random.anything(n) });
        }
    }

    #[test]
    fn adds() {
        let mut y = [1.0, f32::INFINITY, 0.1];
        Add::select(&Cpu::detect()).run(&mut y, &[2.0, f32::NEG_INFINITY, 0.2]);
        assert_eq!(bits(&y), bits(&[3.0, f32::NAN, 0.1 + 0.2]));
    }
}

//! Where numbers come in: the one place of integer networks that sees floats.

use crate::math::ROUND_F32;

kernel! {
    /// A row to 8 bits with one scale that does not depend on it: `q = round(x * inverse)` within −127..=127, ties to even;
    /// 0 for NaN, and after the end of `x`.
    pub struct QuantizeStatic(q: &mut [i8], x: &[f32], inverse: f32);
    check: |q: &[i8], x: &[f32], _inverse: &f32| assert!(q.len() >= x.len(), "room for {} of {}", q.len(), x.len());
    cases: tests::for_each_case;
    conformance: conformance;
    variants {
        Scalar => row::scalar,
        Avx2 if target_arch = "x86_64" => row::avx2,
        Avx512Vnni if target_arch = "x86_64" => row::avx512,
    }
}

tiers!(fn row(q: &mut [i8], x: &[f32], inverse: f32) = body;);

#[inline(always)]
fn body(q: &mut [i8], x: &[f32], inverse: f32) {
    let (q, rest) = q.split_at_mut(x.len());
    for (q, x) in q.iter_mut().zip(x) {
        let steps = x * inverse;
        let steps = if steps.is_nan() { 0.0 } else { steps.clamp(-127.0, 127.0) };
        // The addition rounds to an integer and leaves it in the low bits.
        let whole = (steps + ROUND_F32).to_bits().wrapping_sub(ROUND_F32.to_bits()).cast_signed();
        #[expect(clippy::cast_possible_truncation, reason = "clamped")]
        let whole = whole as i8;
        *q = whole;
    }
    rest.fill(0);
}

#[cfg(test)]
mod tests {
    use super::QuantizeStatic;
    use crate::Cpu;
    use crate::ops::cases::Random;

    pub(super) struct Case(Vec<f32>, f32);

    impl Case {
        fn of(&self, op: &QuantizeStatic) -> Vec<i8> {
            let mut q = vec![99; self.0.len() + 3];
            op.run(&mut q, &self.0, self.1);
            q
        }

        pub(super) fn check(&self, reference: &QuantizeStatic, candidate: &QuantizeStatic) {
            assert_eq!(self.of(reference), self.of(candidate), "{} at {}", candidate.tier(), self.0.len());
        }
    }

    pub(super) fn for_each_case(mut f: impl FnMut(Case)) {
        let mut random = Random::new(51);
        for n in (0..70).chain([1000]) {
            f(Case(random.normals(n), 40.0));
            f(Case(random.anything(n), 3.0));
        }
    }

    #[test]
    fn ties_go_to_even_and_what_is_too_large_to_the_end() {
        let x = vec![0.5, 1.5, -2.5, 200.0, -1e30, f32::NAN, f32::NEG_INFINITY, 126.5];
        let q = Case(x, 1.0).of(&QuantizeStatic::select(&Cpu::detect()));
        assert_eq!(q, [0, 2, -2, 127, -127, 0, -127, 126, 0, 0, 0]);
    }
}

//! Root-mean-square normalisation (Zhang and Sennrich, 2019).

use crate::math::{canonical, fold16};

kernel! {
    /// One row: `y[i] = x[i] * (1 / sqrt(mean(x^2) + eps)) * g[i]`, all of one length.
    ///
    /// Squares are summed in 16 lanes and a fixed tree. A NaN result is [`f32::NAN`].
    pub struct RmsNorm(y: &mut [f32], x: &[f32], g: &[f32], eps: f32);
    check: |y: &[f32], x: &[f32], g: &[f32], _eps: &f32| check(y, x, g);
    cases: tests::for_each_case;
    conformance: conformance;
    variants {
        Scalar => row::scalar,
        Avx2 if target_arch = "x86_64" => row::avx2,
        Avx512Vnni if target_arch = "x86_64" => row::avx512,
    }
}

tiers!(fn row(y: &mut [f32], x: &[f32], g: &[f32], eps: f32) = body;);

fn check(y: &[f32], x: &[f32], g: &[f32]) {
    assert!(y.len() == x.len() && x.len() == g.len(), "one length: y {}, x {}, g {}", y.len(), x.len(), g.len());
}

#[inline(always)]
#[expect(clippy::cast_precision_loss, reason = "rows are far shorter than 2^24")]
fn body(y: &mut [f32], x: &[f32], g: &[f32], eps: f32) {
    let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
    for ((y, x), g) in y.iter_mut().zip(x).zip(g) {
        *y = canonical(x * scale * g);
    }
}

#[inline(always)]
fn sum_of_squares(x: &[f32]) -> f32 {
    let mut lanes = [0.0; 16];
    let (blocks, tail) = x.as_chunks::<16>();
    for block in blocks {
        for i in 0..16 {
            lanes[i] += block[i] * block[i];
        }
    }
    for (lane, x) in lanes.iter_mut().zip(tail) {
        *lane += x * x;
    }
    fold16(&lanes, |a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::RmsNorm;
    use crate::Cpu;
    use crate::ops::cases::{Random, bits};

    pub(super) struct Case {
        x: Vec<f32>,
        g: Vec<f32>,
    }

    impl Case {
        pub(super) fn check(&self, reference: &RmsNorm, candidate: &RmsNorm) {
            let mut want = vec![0.0; self.x.len()];
            let mut got = vec![1.0; self.x.len()];
            reference.run(&mut want, &self.x, &self.g, 1e-5);
            candidate.run(&mut got, &self.x, &self.g, 1e-5);
            assert_eq!(bits(&want), bits(&got), "{} at {}", candidate.tier(), self.x.len());
        }
    }

    pub(super) fn for_each_case(mut f: impl FnMut(Case)) {
        let mut random = Random::new(1);
        for n in (0..200).chain([1000, 4096]) {
            f(Case { x: random.normals(n), g: random.normals(n) });
            f(Case { x: random.anything(n), g: random.anything(n) });
            let mut one_nan = random.normals(n);
            if let Some(x) = one_nan.get_mut(n / 2) {
                *x = f32::from_bits(0xffc0_1234);
            }
            f(Case { x: one_nan, g: random.anything(n) });
        }
    }

    #[test]
    #[expect(clippy::cast_precision_loss, reason = "short rows")]
    fn is_the_definition_in_f64() {
        let mut random = Random::new(2);
        for n in [1, 7, 16, 100, 2048] {
            let (x, g) = (random.normals(n), random.normals(n));
            let mut y = vec![0.0; n];
            RmsNorm::select(&Cpu::detect()).run(&mut y, &x, &g, 1e-6);
            let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n as f64;
            for ((y, x), g) in y.iter().zip(&x).zip(&g) {
                let want = f64::from(*x) / (mean + 1e-6).sqrt() * f64::from(*g);
                assert!((f64::from(*y) - want).abs() <= 1e-6 * want.abs(), "{y} for {want} at {n}");
            }
        }
    }

    #[test]
    fn a_nan_spreads_over_the_row_as_the_canonical_one() {
        let mut y = [0.0; 20];
        let mut x = [1.0; 20];
        x[18] = f32::from_bits(0xffff_ffff);
        RmsNorm::select(&Cpu::detect()).run(&mut y, &x, &[1.0; 20], 1e-6);
        assert_eq!(bits(&y), [f32::NAN.to_bits(); 20]);
    }

    #[test]
    #[should_panic(expected = "one length")]
    fn another_length_is_refused() {
        RmsNorm::select(&Cpu::detect()).run(&mut [0.0; 3], &[0.0; 4], &[0.0; 4], 1e-6);
    }
}

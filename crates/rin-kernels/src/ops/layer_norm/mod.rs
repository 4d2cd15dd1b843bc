//! Layer normalisation (Ba, Kiros and Hinton, 2016).

use crate::math::{canonical, fold16};

kernel! {
    /// One row: `y[i] = (x[i] - mean) * (1 / sqrt(variance + eps)) * g[i] + b[i]`, all of one length.
    ///
    /// The mean is taken first, the variance of the differences from it after; both sums run over 16 lanes and a fixed
    /// tree. A NaN result is [`f32::NAN`].
    pub struct LayerNorm(y: &mut [f32], x: &[f32], g: &[f32], b: &[f32], eps: f32);
    check: |y: &[f32], x: &[f32], g: &[f32], b: &[f32], _eps: &f32| check(y, x, g, b);
    cases: tests::for_each_case;
    conformance: conformance;
    variants {
        Scalar => row::scalar,
        Avx2 if target_arch = "x86_64" => row::avx2,
        Avx512Vnni if target_arch = "x86_64" => row::avx512,
    }
}

tiers!(fn row(y: &mut [f32], x: &[f32], g: &[f32], b: &[f32], eps: f32) = body;);

fn check(y: &[f32], x: &[f32], g: &[f32], b: &[f32]) {
    let n = x.len();
    assert!(
        y.len() == n && g.len() == n && b.len() == n,
        "one length: y {}, x {n}, g {}, b {}",
        y.len(),
        g.len(),
        b.len()
    );
}

#[inline(always)]
fn body(y: &mut [f32], x: &[f32], g: &[f32], b: &[f32], eps: f32) {
    let n = x.len() as f32;
    let mean = sum(x, |x| x) / n;
    let variance = sum(x, |x| (x - mean) * (x - mean)) / n;
    let scale = 1.0 / (variance + eps).sqrt();
    for (((y, x), g), b) in y.iter_mut().zip(x).zip(g).zip(b) {
        *y = canonical((x - mean) * scale * g + b);
    }
}

/// The sum of `f` over a row, in 16 lanes.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
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

#[cfg(test)]
mod tests {
    use super::LayerNorm;
    use crate::Cpu;
    use crate::ops::cases::{Random, bits};

    pub(super) struct Case {
        x: Vec<f32>,
        g: Vec<f32>,
        b: Vec<f32>,
    }

    impl Case {
        pub(super) fn check(&self, reference: &LayerNorm, candidate: &LayerNorm) {
            let mut want = vec![0.0; self.x.len()];
            let mut got = vec![1.0; self.x.len()];
            reference.run(&mut want, &self.x, &self.g, &self.b, 1e-5);
            candidate.run(&mut got, &self.x, &self.g, &self.b, 1e-5);
            assert_eq!(bits(&want), bits(&got), "{} at {}", candidate.tier(), self.x.len());
        }
    }

    pub(super) fn for_each_case(mut f: impl FnMut(Case)) {
        let mut random = Random::new(21);
        for n in (0..100).chain([1000, 4096]) {
            f(Case { x: random.normals(n), g: random.normals(n), b: random.normals(n) });
            f(Case { x: random.anything(n), g: random.anything(n), b: random.anything(n) });
        }
    }

    #[test]
    fn is_the_definition_in_f64() {
        let mut random = Random::new(22);
        for n in [1, 7, 16, 100, 2048] {
            // A mean far from 0: the variance must be of the differences.
            let x: Vec<f32> = random.normals(n).iter().map(|x| x + 100.0).collect();
            let (g, b) = (random.normals(n), random.normals(n));
            let mut y = vec![0.0; n];
            LayerNorm::select(&Cpu::detect()).run(&mut y, &x, &g, &b, 1e-5);
            let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
            let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n as f64;
            for (((y, x), g), b) in y.iter().zip(&x).zip(&g).zip(&b) {
                let want = (f64::from(*x) - mean) / (variance + 1e-5).sqrt() * f64::from(*g) + f64::from(*b);
                assert!((f64::from(*y) - want).abs() <= 5e-5 * (1.0 + want.abs()), "{y} for {want} at {n}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "one length")]
    fn another_length_is_refused() {
        LayerNorm::select(&Cpu::detect()).run(&mut [0.0; 4], &[0.0; 4], &[0.0; 4], &[0.0; 3], 1e-6);
    }
}

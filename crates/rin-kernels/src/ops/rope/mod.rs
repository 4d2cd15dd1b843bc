//! Rotary position embedding (Su et al., 2021, "RoFormer").

use crate::math::{canonical, sin_cos};

kernel! {
    /// The rotation of one position: `cos[i] = cos(pos * inv_freq[i]) * mscale` and the sine likewise, one length.
    ///
    /// The angle is rounded to `f32`, as in the reference implementations; NaN where it exceeds
    /// [`SIN_COS_MAX`](crate::math::SIN_COS_MAX).
    pub struct RopeTable(cos: &mut [f32], sin: &mut [f32], inv_freq: &[f32], pos: f32, mscale: f32);
    check: |cos: &[f32], sin: &[f32], inv_freq: &[f32], _pos: &f32, _mscale: &f32| check_table(cos, sin, inv_freq);
    cases: tests::for_each_table;
    conformance: table_conformance;
    variants {
        Scalar => table::scalar,
        Avx2 if target_arch = "x86_64" => table::avx2,
        Avx512Vnni if target_arch = "x86_64" => table::avx512,
    }
}

kernel! {
    /// Rotates the first `2 * cos.len()` dimensions of every head of `x` (`n_heads * head_dim`).
    ///
    /// A pair is `(2i, 2i + 1)` if `interleaved`, else `(i, i + cos.len())`; it becomes
    /// `(a cos - b sin, a sin + b cos)`. A NaN result is [`f32::NAN`].
    pub struct Rope(x: &mut [f32], cos: &[f32], sin: &[f32], head_dim: usize, interleaved: bool);
    check: |x: &[f32], cos: &[f32], sin: &[f32], head_dim: &usize, _interleaved: &bool| {
        check_rotation(x, cos, sin, *head_dim);
    };
    cases: tests::for_each_rotation;
    conformance: rotation_conformance;
    variants {
        Scalar => rotation::scalar,
        Avx2 if target_arch = "x86_64" => rotation::avx2,
        Avx512Vnni if target_arch = "x86_64" => rotation::avx512,
    }
}

tiers!(fn table(cos: &mut [f32], sin: &mut [f32], inv_freq: &[f32], pos: f32, mscale: f32) = fill_table;);
tiers!(fn rotation(x: &mut [f32], cos: &[f32], sin: &[f32], head_dim: usize, interleaved: bool) = rotate;);

fn check_table(cos: &[f32], sin: &[f32], inv_freq: &[f32]) {
    let n = inv_freq.len();
    assert!(cos.len() == n && sin.len() == n, "one length: cos {}, sin {}, inv_freq {n}", cos.len(), sin.len());
}

fn check_rotation(x: &[f32], cos: &[f32], sin: &[f32], head_dim: usize) {
    assert!(cos.len() == sin.len(), "one length: cos {}, sin {}", cos.len(), sin.len());
    assert!(cos.len() <= head_dim / 2, "{} pairs do not fit {head_dim} dimensions", cos.len());
    assert!(x.len().is_multiple_of(head_dim), "{} is no multiple of {head_dim}", x.len());
}

#[inline(always)]
fn fill_table(cos: &mut [f32], sin: &mut [f32], inv_freq: &[f32], pos: f32, mscale: f32) {
    for ((cos, sin), inv_freq) in cos.iter_mut().zip(sin).zip(inv_freq) {
        let (s, c) = sin_cos(pos * inv_freq);
        *cos = canonical(c * mscale);
        *sin = canonical(s * mscale);
    }
}

#[inline(always)]
fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32], head_dim: usize, interleaved: bool) {
    let n = cos.len();
    for head in x.chunks_exact_mut(head_dim.max(1)) {
        if interleaved {
            let (pairs, _) = head[..2 * n].as_chunks_mut::<2>();
            for ((pair, cos), sin) in pairs.iter_mut().zip(cos).zip(sin) {
                (pair[0], pair[1]) = rotated(pair[0], pair[1], *cos, *sin);
            }
        } else {
            let (first, second) = head[..2 * n].split_at_mut(n);
            for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                (*a, *b) = rotated(*a, *b, *cos, *sin);
            }
        }
    }
}

#[inline(always)]
fn rotated(a: f32, b: f32, cos: f32, sin: f32) -> (f32, f32) {
    (canonical(a * cos - b * sin), canonical(a * sin + b * cos))
}

#[cfg(test)]
mod tests {
    use super::{Rope, RopeTable};
    use crate::Cpu;
    use crate::ops::cases::{Random, bits};

    pub(super) struct Table {
        inv_freq: Vec<f32>,
        pos: f32,
        mscale: f32,
    }

    impl Table {
        fn of(&self, op: &RopeTable) -> (Vec<f32>, Vec<f32>) {
            let (mut cos, mut sin) = (vec![0.0; self.inv_freq.len()], vec![0.0; self.inv_freq.len()]);
            op.run(&mut cos, &mut sin, &self.inv_freq, self.pos, self.mscale);
            (cos, sin)
        }

        pub(super) fn check(&self, reference: &RopeTable, candidate: &RopeTable) {
            let (want, got) = (self.of(reference), self.of(candidate));
            assert_eq!(bits(&want.0), bits(&got.0), "cosines of {} at {}", candidate.tier(), self.pos);
            assert_eq!(bits(&want.1), bits(&got.1), "sines of {} at {}", candidate.tier(), self.pos);
        }
    }

    pub(super) fn for_each_table(mut f: impl FnMut(Table)) {
        let mut random = Random::new(7);
        for n in (0..40).chain([64, 128]) {
            for pos in [0.0, 1.0, 4095.0, 1_048_575.0, 3e9, f32::NAN] {
                f(Table { inv_freq: random.normals(n), pos, mscale: 1.25 });
                f(Table { inv_freq: random.anything(n), pos, mscale: 1.0 });
            }
        }
    }

    pub(super) struct Rotation {
        x: Vec<f32>,
        cos: Vec<f32>,
        sin: Vec<f32>,
        head_dim: usize,
        interleaved: bool,
    }

    impl Rotation {
        pub(super) fn check(&self, reference: &Rope, candidate: &Rope) {
            let (mut want, mut got) = (self.x.clone(), self.x.clone());
            reference.run(&mut want, &self.cos, &self.sin, self.head_dim, self.interleaved);
            candidate.run(&mut got, &self.cos, &self.sin, self.head_dim, self.interleaved);
            assert_eq!(bits(&want), bits(&got), "{} at {} of {}", candidate.tier(), self.cos.len(), self.head_dim);
        }
    }

    pub(super) fn for_each_rotation(mut f: impl FnMut(Rotation)) {
        let mut random = Random::new(8);
        for head_dim in [2, 6, 8, 16, 48, 64, 80, 128] {
            for (n, heads, interleaved) in
                [(head_dim / 2, 3, true), (head_dim / 2, 2, false), (1, 1, true), (1, 2, false)]
            {
                let (cos, sin) = (random.normals(n), random.normals(n));
                let x = random.normals(heads * head_dim);
                f(Rotation { x, cos, sin, head_dim, interleaved });
                let (cos, sin) = (random.anything(n), random.anything(n));
                let x = random.anything(heads * head_dim);
                f(Rotation { x, cos, sin, head_dim, interleaved });
            }
        }
    }

    #[test]
    fn the_table_is_cosine_and_sine_of_the_rounded_angle() {
        let inv_freq: Vec<f32> = (0..64).map(|i| 0.8660_f32.powi(i)).collect();
        for pos in [0.0, 1.0, 777.0, 131_071.0] {
            let (cos, sin) =
                Table { inv_freq: inv_freq.clone(), pos, mscale: 2.0 }.of(&RopeTable::select(&Cpu::detect()));
            for ((inv_freq, cos), sin) in inv_freq.iter().zip(cos).zip(sin) {
                let angle = f64::from(pos * inv_freq);
                assert!((f64::from(cos) - 2.0 * angle.cos()).abs() < 1.3e-7, "cos {angle}");
                assert!((f64::from(sin) - 2.0 * angle.sin()).abs() < 1.3e-7, "sin {angle}");
            }
        }
    }

    #[test]
    fn both_pairings_rotate_by_a_quarter_turn_and_leave_the_rest() {
        let op = Rope::select(&Cpu::detect());
        let (cos, sin) = ([0.0; 2], [1.0; 2]);
        let mut x = [1.0, 2.0, 3.0, 4.0, 5.0];
        op.run(&mut x, &cos, &sin, 5, true);
        assert_eq!(bits(&x), bits(&[-2.0, 1.0, -4.0, 3.0, 5.0]));
        let mut x = [1.0, 2.0, 3.0, 4.0, 5.0];
        op.run(&mut x, &cos, &sin, 5, false);
        assert_eq!(bits(&x), bits(&[-3.0, -4.0, 1.0, 2.0, 5.0]));
    }

    #[test]
    #[should_panic(expected = "do not fit")]
    fn more_pairs_than_dimensions_are_refused() {
        Rope::select(&Cpu::detect()).run(&mut [0.0; 4], &[0.0; 3], &[0.0; 3], 4, false);
    }
}

//! Rotary positions in integers (Su et al., 2021): cosines and sines with [`ANGLE_BITS`] fractional bits.
//!
//! ```text
//! a' = (a cos - b sin + 2^14) >> 15        b' = (a sin + b cos + 2^14) >> 15
//! ```
//!
//! A pair keeps the scale that it has, so queries rotate in their steps and keys in theirs.

use super::bounded;

/// Fractional bits of a cosine and a sine.
pub const ANGLE_BITS: u32 = 15;
/// Largest magnitude of a cosine or a sine: YaRN multiplies both with a factor above 1.
pub const MAX_ANGLE: i32 = 1 << 20;

kernel! {
    /// Rotates the first dimensions of every head of `x`: `angles` are the cosines of all pairs, then their sines. A pair is
    /// `(2i, 2i + 1)` if `interleaved`, else `(i, i + pairs)`.
    pub struct WideRotate(x: &mut [i32], angles: &[i32], head: usize, interleaved: bool);
    check: |x: &&mut [i32], angles: &&[i32], head: &usize, _interleaved: &bool| {
        assert!(*head > 0 && x.len().is_multiple_of(*head), "{} elements in heads of {head}", x.len());
        assert!(angles.len().is_multiple_of(2) && angles.len() <= *head, "{} angles of {head}", angles.len());
    };
    cases: tests::for_each_case;
    conformance: conformance;
    variants {
        Scalar => row::scalar,
        Avx2 if target_arch = "x86_64" => row::avx2,
        Avx512Vnni if target_arch = "x86_64" => row::avx512,
    }
}

tiers!(fn row(x: &mut [i32], angles: &[i32], head: usize, interleaved: bool) = rotate;);

#[inline(always)]
fn rotate(x: &mut [i32], angles: &[i32], head: usize, interleaved: bool) {
    let (cos, sin) = angles.split_at(angles.len() / 2);
    for head in x.chunks_exact_mut(head) {
        if interleaved {
            for (pair, (cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos.iter().zip(sin)) {
                *pair = turned(*pair, *cos, *sin);
            }
        } else {
            let (low, high) = head[..angles.len()].split_at_mut(cos.len());
            for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(cos.iter().zip(sin)) {
                [*a, *b] = turned([*a, *b], *cos, *sin);
            }
        }
    }
}

#[inline(always)]
fn turned([a, b]: [i32; 2], cos: i32, sin: i32) -> [i32; 2] {
    const HALF: i64 = 1 << (ANGLE_BITS - 1);
    let [a, b, cos, sin] = [a, b, cos, sin].map(i64::from);
    let [first, second] = [a.wrapping_mul(cos) - b.wrapping_mul(sin), a.wrapping_mul(sin) + b.wrapping_mul(cos)];
    [bounded((first + HALF) >> ANGLE_BITS), bounded((second + HALF) >> ANGLE_BITS)]
}

#[cfg(test)]
mod tests {
    use super::super::MAX_ELEMENT;
    use super::WideRotate;
    use crate::Cpu;
    use crate::ops::cases::Random;

    pub(super) struct Case {
        x: Vec<i32>,
        angles: Vec<i32>,
        head: usize,
        interleaved: bool,
    }

    impl Case {
        fn of(&self, op: &WideRotate) -> Vec<i32> {
            let mut x = self.x.clone();
            op.run(&mut x, &self.angles, self.head, self.interleaved);
            x
        }

        pub(super) fn check(&self, reference: &WideRotate, candidate: &WideRotate) {
            assert_eq!(self.of(reference), self.of(candidate), "{} of {}", candidate.tier(), self.head);
        }
    }

    pub(super) fn for_each_case(mut f: impl FnMut(Case)) {
        let mut random = Random::new(76);
        for (head, pairs, heads) in [(2, 1, 1), (8, 4, 3), (12, 3, 2), (64, 32, 5), (64, 16, 1), (33, 16, 2), (8, 0, 1)]
        {
            for interleaved in [false, true] {
                let mut row = |n: usize, most: i32| -> Vec<i32> {
                    let span = usize::try_from(2 * most + 1).unwrap();
                    (0..n).map(|_| i32::try_from(random.below(span)).unwrap() - most).collect()
                };
                f(Case { x: row(head * heads, MAX_ELEMENT), angles: row(2 * pairs, 32_768), head, interleaved });
            }
        }
    }

    #[test]
    fn pairs_turn_and_the_rest_stays() {
        let op = WideRotate::select(&Cpu::detect());
        // A quarter turn of the first pair, half a turn of the second; the last element belongs to none.
        let angles = [0, -32_768, 32_768, 0];
        let mut x = [1000, 2000, 3000, 4000, 5000];
        op.run(&mut x, &angles, 5, false);
        assert_eq!(x, [-3000, -2000, 1000, -4000, 5000]);
        let mut x = [1000, 2000, 3000, 4000, 5000];
        op.run(&mut x, &angles, 5, true);
        assert_eq!(x, [-2000, 1000, -3000, -4000, 5000]);
        // An eighth of a turn of the largest elements stays within bounds.
        let mut x = [MAX_ELEMENT, MAX_ELEMENT];
        op.run(&mut x, &[23_170, 23_170], 2, true);
        assert_eq!(x, [0, MAX_ELEMENT]);
    }
}

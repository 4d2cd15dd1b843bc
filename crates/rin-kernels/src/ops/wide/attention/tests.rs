use super::{Attend, Attended, FRACTION, Factor, Powers, key_pairs, put_key, put_value, to_query, value_pairs};
use crate::Cpu;
use crate::ops::cases::Random;

pub(super) struct Case {
    head: usize,
    q: Vec<i32>,
    k: Vec<i32>,
    v: Vec<i32>,
    factor: Factor,
    /// Positions that are attended to; more may be there.
    seen: usize,
}

impl Case {
    fn of(&self, op: &Attend) -> Vec<i32> {
        let n = self.k.len() / self.head;
        let mut q = vec![[0; 2]; self.head.div_ceil(2)];
        let mut keys = vec![[0; 2]; key_pairs(n, self.head)];
        let mut values = vec![[0; 2]; value_pairs(n, self.head)];
        to_query(&mut q, &self.q);
        for position in 0..n {
            put_key(&mut keys, position, &self.k[position * self.head..][..self.head]);
            put_value(&mut values, position, &self.v[position * self.head..][..self.head]);
        }
        let powers = Powers::new(FRACTION);
        let to = Attended { keys: &keys, values: &values, factor: self.factor, powers: &powers };
        let mut y = vec![9; self.head];
        op.run(&mut y, &q, to, &mut vec![0; self.seen], &mut vec![0; self.seen]);
        y
    }

    pub(super) fn check(&self, reference: &Attend, candidate: &Attend) {
        assert_eq!(self.of(reference), self.of(candidate), "{} of {}", candidate.tier(), self.k.len());
    }
}

fn case(random: &mut Random, head: usize, n: usize, factor: Factor, seen: usize) -> Case {
    let mut row =
        |n: usize| -> Vec<i32> { (0..n).map(|_| i32::try_from(random.below(1 << 19)).unwrap() - (1 << 18)).collect() };
    Case { head, q: row(head), k: row(n * head), v: row(n * head), factor, seen }
}

pub(super) fn for_each_case(mut f: impl FnMut(Case)) {
    let mut random = Random::new(74);
    for (head, n) in [(1, 1), (12, 7), (32, 70), (64, 3), (64, 0), (64, 128), (33, 300), (100, 17), (255, 65), (256, 5)]
    {
        for shift in [35, 44, 50] {
            for seen in [n, n / 2, n.min(1)] {
                f(case(&mut random, head, n, Factor { multiplier: 1 << 30, shift }, seen));
            }
        }
    }
}

#[test]
fn it_is_attention() {
    let mut random = Random::new(75);
    let op = Attend::select(&Cpu::detect());
    for (head, n, seen) in [(16, 40, 40), (64, 9, 9), (7, 33, 21)] {
        let case = case(&mut random, head, n, Factor { multiplier: 1 << 30, shift: 42 }, seen);
        let found = case.of(&op);
        let twelve = |x: &i32| f64::from((x + 256) >> 9);
        let scores: Vec<f64> = case
            .k
            .chunks(head)
            .take(seen)
            .map(|k| k.iter().zip(&case.q).map(|(k, q)| twelve(k) * twelve(q)).sum::<f64>() / 4096.0 / 256.0)
            .collect();
        let most = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|x| (x - most).exp2()).collect();
        let sum: f64 = weights.iter().sum();
        for (d, found) in found.iter().enumerate() {
            let want: f64 = weights.iter().zip(case.v.chunks(head)).map(|(w, v)| w / sum * f64::from(v[d])).sum();
            // Probabilities are off by less than 1e-3, values lie within 2^18.
            assert!((f64::from(*found) - want).abs() < 600.0, "{head} {n} {d}: {found} for {want}");
        }
    }
}

use super::{Attention, FinishAttention, KvType, PAGE, RowState, f16_pages, f32_pages, q8_pages};
use crate::half::{f16_to_f32, f32_to_f16};
use crate::ops::cases::{Random, bits};
use crate::{Cpu, Tier};

const SCALE: f32 = 0.125;

/// The K and V page of one head, at a multiple of 64 bytes, filled with what must never be read.
#[derive(Clone)]
struct Pages {
    memory: Vec<u8>,
    bytes: usize,
}

impl Pages {
    fn new(kv: KvType, head_dim: usize) -> Self {
        let bytes = kv.k_page_bytes(head_dim);
        assert_eq!(bytes, kv.v_page_bytes(head_dim));
        Self { memory: vec![0xff; 2 * bytes + 64], bytes }
    }

    fn k_and_v(&mut self) -> (&mut [u8], &mut [u8]) {
        let start = self.memory.as_ptr().align_offset(64);
        self.memory[start..start + 2 * self.bytes].split_at_mut(self.bytes)
    }
}

/// One signature over the three page types.
trait StoreOp {
    const KV: KvType;
    fn tier(&self) -> Tier;
    fn store(&self, k_page: &mut [u8], v_page: &mut [u8], slot: usize, k: &[f32], v: &[f32]);
}

trait AttendOp {
    const KV: KvType;
    fn tier(&self) -> Tier;
    fn attend(&self, rows: &mut Rows, q: &[f32], k_page: &[u8], v_page: &[u8], valid: &[(u32, u32)]);
}

macro_rules! ops {
    ($($pages:ident $kv:ident),*) => { $(
        impl StoreOp for $pages::Store {
            const KV: KvType = KvType::$kv;
            fn tier(&self) -> Tier { self.tier() }
            fn store(&self, k_page: &mut [u8], v_page: &mut [u8], slot: usize, k: &[f32], v: &[f32]) {
                self.run(k_page, v_page, slot, k, v);
            }
        }
        impl AttendOp for $pages::Attend {
            const KV: KvType = KvType::$kv;
            fn tier(&self) -> Tier { self.tier() }
            fn attend(&self, rows: &mut Rows, q: &[f32], k_page: &[u8], v_page: &[u8], valid: &[(u32, u32)]) {
                self.run(&mut rows.out, &mut rows.state, q, k_page, v_page, &[], valid, SCALE);
            }
        }
    )* };
}
ops!(f32_pages F32, f16_pages F16, q8_pages Q8);

#[derive(Clone)]
struct Rows {
    out: Vec<f32>,
    state: Vec<RowState>,
}

impl Rows {
    /// Rows before their first page; the output holds what must never be read.
    fn new(rows: usize, head_dim: usize) -> Self {
        Self { out: vec![f32::NAN; rows * head_dim], state: vec![RowState::EMPTY; rows] }
    }

    /// Bit patterns of output and state, all NaN as one.
    fn bits(&self) -> Vec<u32> {
        let state = self.state.iter().flat_map(|s| [s.m, s.l]);
        self.out.iter().copied().chain(state).map(|x| crate::math::canonical(x).to_bits()).collect()
    }
}

pub(super) struct Store {
    k: Vec<f32>,
    v: Vec<f32>,
    slot: usize,
}

impl Store {
    fn of<S: StoreOp>(&self, op: &S) -> Vec<u8> {
        let mut pages = Pages::new(S::KV, self.k.len());
        let (k_page, v_page) = pages.k_and_v();
        op.store(k_page, v_page, self.slot, &self.k, &self.v);
        [k_page, v_page].concat()
    }

    #[expect(private_bounds, reason = "the trait belongs to these tests")]
    pub(super) fn check<S: StoreOp>(&self, reference: &S, candidate: &S) {
        assert!(self.of(reference) == self.of(candidate), "{} {} at {}", S::KV, candidate.tier(), self.k.len());
    }
}

pub(super) fn for_each_store(mut f: impl FnMut(Store)) {
    let mut random = Random::new(20);
    for head_dim in [1, 8, 16, 20, 48, 64, 80, 128] {
        for slot in [0, 1, 15, 16, 63] {
            f(Store { k: random.normals(head_dim), v: random.normals(head_dim), slot });
            f(Store { k: random.anything(head_dim), v: random.anything(head_dim), slot });
        }
    }
}

pub(super) struct Attend {
    head_dim: usize,
    k: Vec<f32>,
    v: Vec<f32>,
    q: Vec<f32>,
    valid: Vec<(u32, u32)>,
}

impl Attend {
    fn pages(&self, kv: KvType) -> Pages {
        let mut pages = Pages::new(kv, self.head_dim);
        let (k_page, v_page) = pages.k_and_v();
        let store = Attention::select(kv, &Cpu::detect().up_to(Tier::Scalar)).store;
        for slot in 0..PAGE {
            let row = slot * self.head_dim..(slot + 1) * self.head_dim;
            store.run(k_page, v_page, slot, &self.k[row.clone()], &self.v[row]);
        }
        pages
    }

    #[expect(private_bounds, reason = "the trait belongs to these tests")]
    pub(super) fn check<A: AttendOp>(&self, reference: &A, candidate: &A) {
        let mut pages = self.pages(A::KV);
        let (k_page, v_page) = pages.k_and_v();
        let mut want = Rows::new(self.valid.len(), self.head_dim);
        let mut got = want.clone();
        // Twice: into an empty state, then onto a state that is not.
        for _ in 0..2 {
            reference.attend(&mut want, &self.q, k_page, v_page, &self.valid);
            candidate.attend(&mut got, &self.q, k_page, v_page, &self.valid);
            assert_eq!(want.bits(), got.bits(), "{} {} at {}", A::KV, candidate.tier(), self.head_dim);
        }
    }
}

pub(super) fn for_each_attend(mut f: impl FnMut(Attend)) {
    let mut random = Random::new(21);
    let mut range = Random::new(22);
    let mut valid = |_| match range.below(4) {
        0 => (0, 64),
        1 => (0, u32::try_from(range.below(65)).unwrap()),
        2 => (9, 9),
        _ => {
            let lo = range.below(64);
            (u32::try_from(lo).unwrap(), u32::try_from(lo + range.below(65 - lo)).unwrap())
        }
    };
    for head_dim in [1, 8, 16, 20, 48, 64, 80, 128] {
        for rows in (0..10).chain([12, 17]) {
            let mut case = Attend {
                head_dim,
                k: random.normals(PAGE * head_dim),
                v: random.normals(PAGE * head_dim),
                q: random.normals(rows * head_dim),
                valid: (0..rows).map(&mut valid).collect(),
            };
            f(Attend { valid: vec![(0, 64); rows], k: case.k.clone(), v: case.v.clone(), q: case.q.clone(), ..case });
            // Large scores: weights that underflow, and a maximum that moves.
            case.q.iter_mut().for_each(|q| *q *= 100.0);
            f(case);
            let (k, v) = (random.anything(PAGE * head_dim), random.anything(PAGE * head_dim));
            f(Attend {
                head_dim,
                k,
                v,
                q: random.normals(rows * head_dim),
                valid: (0..rows).map(&mut valid).collect(),
            });
        }
    }
}

pub(super) struct Finish {
    out: Vec<f32>,
    state: Vec<RowState>,
    head_dim: usize,
}

impl Finish {
    pub(super) fn check(&self, reference: &FinishAttention, candidate: &FinishAttention) {
        let (mut want, mut got) = (self.out.clone(), self.out.clone());
        reference.run(&mut want, &self.state, self.head_dim);
        candidate.run(&mut got, &self.state, self.head_dim);
        assert_eq!(bits(&want), bits(&got), "{} at {}", candidate.tier(), self.head_dim);
    }
}

pub(super) fn for_each_finish(mut f: impl FnMut(Finish)) {
    let mut random = Random::new(23);
    for head_dim in [0, 1, 8, 20, 64] {
        for rows in 0..6 {
            let mut state: Vec<_> = (0..rows).map(|_| RowState { m: 1.0, l: 1.0 + random.normal().abs() }).collect();
            f(Finish { out: random.normals(rows * head_dim), state: state.clone(), head_dim });
            if let Some(first) = state.first_mut() {
                *first = RowState::EMPTY;
            }
            f(Finish { out: random.anything(rows * head_dim), state, head_dim });
        }
    }
}

/// A sequence of keys and values of one head, and queries of several heads that share it.
struct Sequence {
    head_dim: usize,
    heads: usize,
    k: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
    q: Vec<Vec<f32>>,
}

impl Sequence {
    fn new(positions: usize, head_dim: usize, heads: usize) -> Self {
        let mut random = Random::new(24);
        let mut rows = |n: usize| (0..positions).map(|_| random.normals(n)).collect();
        Self { head_dim, heads, k: rows(head_dim), v: rows(head_dim), q: rows(heads * head_dim) }
    }

    /// The outputs of all positions, computed in chunks of `chunk` positions, each attending to itself and before.
    fn attend(&self, attention: &Attention, chunk: usize) -> Vec<f32> {
        let positions = self.k.len();
        let mut pages = vec![Pages::new(attention.kv, self.head_dim); positions.div_ceil(PAGE)];
        let mut outputs = Vec::new();
        for start in (0..positions).step_by(chunk) {
            let tokens = start..positions.min(start + chunk);
            for t in tokens.clone() {
                let (k_page, v_page) = pages[t / PAGE].k_and_v();
                attention.store.run(k_page, v_page, t % PAGE, &self.k[t], &self.v[t]);
            }
            let q = self.q[tokens.clone()].concat();
            let mut rows = Rows::new(tokens.len() * self.heads, self.head_dim);
            for (page, pages) in pages.iter_mut().enumerate().take((tokens.end - 1) / PAGE + 1) {
                let valid = tokens.clone().map(|t| (t + 1).saturating_sub(page * PAGE).min(PAGE));
                let valid: Vec<_> = valid.flat_map(|hi| vec![(0, u32::try_from(hi).unwrap()); self.heads]).collect();
                let (k_page, v_page) = pages.k_and_v();
                attention.page.run(&mut rows.out, &mut rows.state, &q, k_page, v_page, &[], &valid, SCALE);
            }
            attention.finish.run(&mut rows.out, &rows.state, self.head_dim);
            outputs.extend(rows.out);
        }
        outputs
    }

    /// Plain softmax attention in f64 over `k` and `v`, all positions.
    #[expect(clippy::disallowed_methods, reason = "the platform's f64 exponential is the reference of a test")]
    fn naive(&self, k: &[Vec<f32>], v: &[Vec<f32>]) -> Vec<f64> {
        let mut outputs = Vec::new();
        for t in 0..k.len() {
            for q in self.q[t].chunks(self.head_dim) {
                let dot = |k: &[f32]| q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum::<f64>();
                let scores: Vec<f64> = k[..=t].iter().map(|k| dot(k) * f64::from(SCALE)).collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for d in 0..self.head_dim {
                    outputs.push(weights.iter().zip(v).map(|(w, v)| w * f64::from(v[d])).sum::<f64>() / sum);
                }
            }
        }
        outputs
    }
}

/// What a page gives back for `row`, by the definition of the type.
fn stored(kv: KvType, row: &[f32]) -> Vec<f32> {
    let amax = row.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
    let narrowed = |&x: &f32| match kv {
        KvType::F32 => x,
        KvType::F16 => f16_to_f32(f32_to_f16(x)),
        KvType::Q8 => (x * (127.0 / amax)).round_ties_even() * (amax / 127.0),
    };
    row.iter().map(narrowed).collect()
}

fn largest_difference(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(&a, b)| (f64::from(a) - b).abs()).fold(0.0, |m, d| if d <= m { m } else { d })
}

#[test]
fn is_softmax_attention_over_what_is_stored() {
    for (positions, head_dim, heads) in [(1, 64, 4), (64, 16, 1), (65, 8, 3), (150, 20, 5), (130, 80, 2), (200, 128, 6)]
    {
        let sequence = Sequence::new(positions, head_dim, heads);
        let exact = sequence.naive(&sequence.k, &sequence.v);
        for kv in KvType::ALL {
            let got = sequence.attend(&Attention::select(kv, &Cpu::detect()), 32);
            let narrow = |rows: &[Vec<f32>]| rows.iter().map(|row| stored(kv, row)).collect::<Vec<_>>();
            let want = sequence.naive(&narrow(&sequence.k), &narrow(&sequence.v));
            let rounding = largest_difference(&got, &want);
            assert!(rounding < 3e-6, "{kv}: {rounding:e} off the stored values at {positions} x {head_dim}");
            // Values of standard deviation 1: what the type itself may cost.
            let bound = match kv {
                KvType::F32 => 3e-6,
                KvType::F16 => 2e-3,
                KvType::Q8 => 3e-2,
            };
            let total = largest_difference(&got, &exact);
            assert!(total < bound, "{kv}: {total:e} off the exact values at {positions} x {head_dim}");
        }
    }
}

#[test]
fn chunks_do_not_change_bits() {
    for (positions, head_dim, heads) in [(150, 64, 3), (70, 20, 1), (129, 16, 4), (67, 8, 7)] {
        let sequence = Sequence::new(positions, head_dim, heads);
        for kv in KvType::ALL {
            let attention = Attention::select(kv, &Cpu::detect());
            let want = bits(&sequence.attend(&attention, 1));
            for chunk in [2, 7, 33, 64, 100, positions] {
                assert!(want == bits(&sequence.attend(&attention, chunk)), "{kv} in chunks of {chunk}");
            }
        }
    }
}

#[test]
fn a_row_without_positions_keeps_its_state_and_ends_as_zero() {
    let attention = Attention::select(KvType::F32, &Cpu::detect());
    let mut pages = Pages::new(KvType::F32, 8);
    let (k_page, v_page) = pages.k_and_v();
    attention.store.run(k_page, v_page, 0, &[1.0; 8], &[2.0; 8]);
    let mut rows = Rows::new(2, 8);
    attention.page.run(&mut rows.out, &mut rows.state, &[1.0; 16], k_page, v_page, &[], &[(5, 5), (0, 1)], SCALE);
    assert_eq!(rows.state, [RowState::EMPTY, RowState { m: 1.0, l: 1.0 }]);
    attention.finish.run(&mut rows.out, &rows.state, 8);
    assert_eq!(rows.out, [[0.0; 8], [2.0; 8]].concat());
}

#[test]
fn a_nan_that_is_attended_to_shows() {
    for kv in KvType::ALL {
        for bad in [f32::NAN, f32::INFINITY] {
            for in_k in [true, false] {
                let attention = Attention::select(kv, &Cpu::detect());
                let mut pages = Pages::new(kv, 4);
                let (k_page, v_page) = pages.k_and_v();
                let (sound, broken) = ([1.0; 4], [1.0, bad, -bad, 1.0]);
                let (k, v) = if in_k { (&broken, &sound) } else { (&sound, &broken) };
                attention.store.run(k_page, v_page, 0, k, v);
                attention.store.run(k_page, v_page, 1, &sound, &sound);
                let mut rows = Rows::new(1, 4);
                attention.page.run(&mut rows.out, &mut rows.state, &[1.0; 4], k_page, v_page, &[], &[(0, 2)], SCALE);
                attention.finish.run(&mut rows.out, &rows.state, 4);
                assert!(!rows.out[1].is_finite(), "{kv} {bad} gives {:?}", rows.out);
            }
        }
    }
}

#[test]
fn names_parse_back_and_pages_are_whole_lines() {
    for kv in KvType::ALL {
        assert_eq!(kv.to_string().parse(), Ok(kv));
        for head_dim in 1..200 {
            assert_eq!(kv.k_page_bytes(head_dim) % 64, 0);
            assert_eq!(kv.v_page_bytes(head_dim) % 64, 0);
        }
    }
    assert!("q4".parse::<KvType>().is_err());
}

#[test]
#[should_panic(expected = "not aligned")]
fn a_page_that_is_not_aligned_is_refused() {
    let mut memory = vec![0; 3 * 2048];
    let start = memory.as_ptr().align_offset(64) + 4;
    let (k_page, v_page) = memory[start..start + 4096].split_at_mut(2048);
    Attention::select(KvType::F32, &Cpu::detect()).store.run(k_page, v_page, 0, &[0.0; 8], &[0.0; 8]);
}

#[test]
#[should_panic(expected = "positions 0..65")]
fn a_range_past_the_page_is_refused() {
    let attention = Attention::select(KvType::Q8, &Cpu::detect());
    let mut pages = Pages::new(KvType::Q8, 8);
    let (k_page, v_page) = pages.k_and_v();
    attention.page.run(&mut [0.0; 8], &mut [RowState::EMPTY], &[0.0; 8], k_page, v_page, &[], &[(0, 65)], SCALE);
}

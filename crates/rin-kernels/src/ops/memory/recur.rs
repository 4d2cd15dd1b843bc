//! The recurrence of a head over the tokens of a step.

use crate::MatMut;
use crate::math::canonical;
use crate::ops::attention::lanes::{self, Lanes};

/// One value or one row of values per token: that of token `t` begins at `t * stride`.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The values.
    pub data: &'a [f32],
    /// Values from one token to the next.
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// The `n` values of token `t`.
    #[inline(always)]
    fn of(&self, t: usize, n: usize) -> &'a [f32] {
        &self.data[t * self.stride..][..n]
    }

    /// Whether there are `n` values for each of `tokens` tokens.
    fn holds(&self, tokens: usize, n: usize) -> bool {
        tokens == 0 || (tokens - 1).checked_mul(self.stride).and_then(|at| at.checked_add(n)) <= Some(self.data.len())
    }
}

/// What is left of a memory from one token to the next.
#[derive(Clone, Copy, Debug)]
pub enum Decay<'a> {
    /// All of it.
    None,
    /// The same share always.
    Constant(f32),
    /// One share per token.
    Token(Rows<'a>),
    /// One share per row of the memory.
    ByRow(Rows<'a>),
    /// One share per column of the memory.
    ByColumn(Rows<'a>),
}

/// What a token takes back of what the memory held before it.
#[derive(Clone, Copy, Debug)]
pub enum Correction<'a> {
    /// Nothing.
    None,
    /// What the memory, decayed, holds at the key: the value becomes `beta * (v - u)`.
    Delta {
        /// One value per token.
        beta: Rows<'a>,
    },
    /// `b * u` is added, where `u` is what the memory holds at `a`.
    RankOne {
        /// One value per row.
        a: Rows<'a>,
        /// One value per row.
        b: Rows<'a>,
    },
}

/// Whether a token reads the memory with its own pair in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// After its write.
    After,
    /// Before decay and write.
    Before,
}

/// The tokens of a sequence for one head.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// Factors of the read, one per row of the memory.
    pub q: Rows<'a>,
    /// Factors of the write, one per row.
    pub k: Rows<'a>,
    /// What is written, one value per column.
    pub v: Rows<'a>,
    /// What is left of the memory.
    pub decay: Decay<'a>,
    /// What is taken back.
    pub correction: Correction<'a>,
    /// When a token reads.
    pub read: Read,
}

kernel! {
    /// Runs a head's memory over the tokens of a sequence; see the module for the equations.
    ///
    /// `state` is `(rows, cols)` and `out` `(tokens, cols)`, with `cols` a positive multiple of 16. A correction comes
    /// with a read after the write and without a decay by columns. Outputs that are NaN are [`f32::NAN`].
    pub struct Recur(state: &mut [f32], out: &mut MatMut<'_, f32>, tokens: Tokens<'_>);
    check: |state: &&mut [f32], out: &&mut MatMut<'_, f32>, tokens: &Tokens<'_>| check(state, out, tokens);
    cases: tests::for_each_case;
    conformance: conformance;
    variants {
        Scalar => scalar,
        Avx2 if target_arch = "x86_64" => avx2,
        Avx512Vnni if target_arch = "x86_64" => avx512,
        NeonDot if target_arch = "aarch64" => neon,
    }
}

fn check(state: &[f32], out: &MatMut<'_, f32>, tokens: &Tokens<'_>) {
    let (n, cols) = (out.rows(), out.cols());
    assert!(cols > 0 && cols.is_multiple_of(super::MEMORY_LANES), "{cols} columns are no multiple of 16");
    assert!(state.len().is_multiple_of(cols), "{} values in rows of {cols}", state.len());
    let rows = state.len() / cols;
    let mut sound = tokens.q.holds(n, rows) && tokens.k.holds(n, rows) && tokens.v.holds(n, cols);
    sound &= match tokens.decay {
        Decay::None | Decay::Constant(_) => true,
        Decay::Token(w) => w.holds(n, 1),
        Decay::ByRow(w) => w.holds(n, rows),
        Decay::ByColumn(w) => w.holds(n, cols),
    };
    let corrected = match tokens.correction {
        Correction::None => false,
        Correction::Delta { beta } => {
            sound &= beta.holds(n, 1);
            true
        }
        Correction::RankOne { a, b } => {
            sound &= a.holds(n, rows) && b.holds(n, rows);
            true
        }
    };
    assert!(sound, "one value for each row or column of {n} tokens");
    let plain = tokens.read == Read::After && !matches!(tokens.decay, Decay::ByColumn(_));
    assert!(!corrected || plain, "a correction with a read before it, or with a decay by columns");
}

fn scalar(state: &mut [f32], out: &mut MatMut<'_, f32>, tokens: Tokens<'_>) {
    body::<lanes::Portable, 1, 1>(state, out, tokens);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2(state: &mut [f32], out: &mut MatMut<'_, f32>, tokens: Tokens<'_>) {
    body::<lanes::Avx2, 2, 2>(state, out, tokens);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn avx512(state: &mut [f32], out: &mut MatMut<'_, f32>, tokens: Tokens<'_>) {
    body::<lanes::Avx512, 4, 4>(state, out, tokens);
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod")]
fn neon(state: &mut [f32], out: &mut MatMut<'_, f32>, tokens: Tokens<'_>) {
    body::<lanes::Neon, 2, 2>(state, out, tokens);
}

/// Blocks of `C × 16` columns, of which `R` rows at a time stay in registers over all tokens.
#[inline(always)]
fn body<L: Lanes, const R: usize, const C: usize>(state: &mut [f32], out: &mut MatMut<'_, f32>, tokens: Tokens<'_>) {
    let cols = out.cols();
    let mut at = 0;
    while at < cols {
        if cols - at >= 16 * C {
            columns::<L, R, C>(state, out, &tokens, at);
            at += 16 * C;
        } else {
            columns::<L, R, 1>(state, out, &tokens, at);
            at += 16;
        }
    }
    for t in 0..out.rows() {
        for x in out.row_mut(t) {
            *x = canonical(*x);
        }
    }
}

#[inline(always)]
fn columns<L: Lanes, const R: usize, const C: usize>(
    state: &mut [f32],
    out: &mut MatMut<'_, f32>,
    tokens: &Tokens<'_>,
    at: usize,
) {
    if !matches!(tokens.correction, Correction::None) {
        return corrected::<L, C>(state, out, tokens, at);
    }
    for t in 0..out.rows() {
        out.row_mut(t)[at..at + 16 * C].fill(0.0);
    }
    let rows = state.len() / out.cols();
    let before = tokens.read == Read::Before;
    let mut i = 0;
    while i < rows {
        let tall = rows - i >= R;
        match (tokens.decay, before, tall) {
            (Decay::None, false, true) => tile::<L, R, C, NONE, false>(state, out, tokens, i, at),
            (Decay::None, false, false) => tile::<L, 1, C, NONE, false>(state, out, tokens, i, at),
            (Decay::None, true, true) => tile::<L, R, C, NONE, true>(state, out, tokens, i, at),
            (Decay::None, true, false) => tile::<L, 1, C, NONE, true>(state, out, tokens, i, at),
            (Decay::ByColumn(_), false, true) => tile::<L, R, C, COLUMN, false>(state, out, tokens, i, at),
            (Decay::ByColumn(_), false, false) => tile::<L, 1, C, COLUMN, false>(state, out, tokens, i, at),
            (Decay::ByColumn(_), true, _) => tile::<L, 1, C, COLUMN, true>(state, out, tokens, i, at),
            (_, false, true) => tile::<L, R, C, ROW, false>(state, out, tokens, i, at),
            (_, false, false) => tile::<L, 1, C, ROW, false>(state, out, tokens, i, at),
            (_, true, true) => tile::<L, R, C, ROW, true>(state, out, tokens, i, at),
            (_, true, false) => tile::<L, 1, C, ROW, true>(state, out, tokens, i, at),
        }
        i += match (tokens.decay, before, tall) {
            (Decay::ByColumn(_), true, _) | (_, _, false) => 1,
            _ => R,
        };
    }
}

/// No decay.
const NONE: u8 = 0;
/// A decay by rows, or one for all rows.
const ROW: u8 = 1;
/// A decay by columns.
const COLUMN: u8 = 2;

/// `C × 16` values from `at` on.
#[inline(always)]
fn load<L: Lanes, const C: usize>(x: &[f32], at: usize) -> [L; C] {
    let (blocks, _) = x[at..][..16 * C].as_chunks::<16>();
    std::array::from_fn(|c| L::load(&blocks[c]))
}

#[inline(always)]
fn store<L: Lanes, const C: usize>(values: [L; C], x: &mut [f32], at: usize) {
    let (blocks, _) = x[at..][..16 * C].as_chunks_mut::<16>();
    for (c, value) in values.into_iter().enumerate() {
        value.store(&mut blocks[c]);
    }
}

/// The share of row `i` that token `t` leaves.
#[inline(always)]
fn share(decay: &Decay<'_>, t: usize, i: usize) -> f32 {
    match decay {
        Decay::None | Decay::ByColumn(_) => 1.0,
        Decay::Constant(w) => *w,
        Decay::Token(w) => w.data[t * w.stride],
        Decay::ByRow(w) => w.data[t * w.stride + i],
    }
}

/// Rows `first..first + R` over all tokens. The outputs so far come from memory, so their sums ascend over all rows.
#[inline(always)]
fn tile<L: Lanes, const R: usize, const C: usize, const D: u8, const BEFORE: bool>(
    state: &mut [f32],
    out: &mut MatMut<'_, f32>,
    tokens: &Tokens<'_>,
    first: usize,
    at: usize,
) {
    let cols = out.cols();
    let zero = L::splat(0.0);
    let mut s: [[L; C]; R] = std::array::from_fn(|r| load(state, (first + r) * cols + at));
    for t in 0..out.rows() {
        let (q, k) = (tokens.q.of(t, first + R), tokens.k.of(t, first + R));
        let v: [L; C] = load(tokens.v.of(t, at + 16 * C), at);
        let mut o: [L; C] = load(out.row(t), at);
        let by_column: [L; C] = match &tokens.decay {
            Decay::ByColumn(w) if D == COLUMN => load(w.of(t, at + 16 * C), at),
            _ => [zero; C],
        };
        for r in 0..R {
            let (q, k) = (L::splat(q[first + r]), L::splat(k[first + r]));
            let w = if D == ROW { L::splat(share(&tokens.decay, t, first + r)) } else { zero };
            for c in 0..C {
                if BEFORE {
                    o[c] = q.mul_add(s[r][c], o[c]);
                }
                let left = match D {
                    ROW => w.mul_add(s[r][c], zero),
                    COLUMN => by_column[c].mul_add(s[r][c], zero),
                    _ => s[r][c],
                };
                s[r][c] = k.mul_add(v[c], left);
                if !BEFORE {
                    o[c] = q.mul_add(s[r][c], o[c]);
                }
            }
        }
        store(o, out.row_mut(t), at);
    }
    for (r, s) in s.into_iter().enumerate() {
        store(s, state, (first + r) * cols + at);
    }
}

/// Tokens that take back: what the memory holds at an address is a sum over all rows, which comes before the write.
#[inline(always)]
fn corrected<L: Lanes, const C: usize>(state: &mut [f32], out: &mut MatMut<'_, f32>, tokens: &Tokens<'_>, at: usize) {
    let cols = out.cols();
    let rows = state.len() / cols;
    let zero = L::splat(0.0);
    let decays = !matches!(tokens.decay, Decay::None);
    for t in 0..out.rows() {
        let (q, k) = (tokens.q.of(t, rows), tokens.k.of(t, rows));
        let mut v: [L; C] = load(tokens.v.of(t, at + 16 * C), at);
        let mut u = [zero; C];
        match &tokens.correction {
            Correction::RankOne { a, b } => {
                let (a, b) = (a.of(t, rows), b.of(t, rows));
                for i in 0..rows {
                    let s: [L; C] = load(state, i * cols + at);
                    let a = L::splat(a[i]);
                    for c in 0..C {
                        u[c] = a.mul_add(s[c], u[c]);
                    }
                }
                let mut o = [zero; C];
                for i in 0..rows {
                    let mut s: [L; C] = load(state, i * cols + at);
                    let w = L::splat(share(&tokens.decay, t, i));
                    let (q, k, b) = (L::splat(q[i]), L::splat(k[i]), L::splat(b[i]));
                    for c in 0..C {
                        let left = if decays { w.mul_add(s[c], zero) } else { s[c] };
                        s[c] = k.mul_add(v[c], b.mul_add(u[c], left));
                        o[c] = q.mul_add(s[c], o[c]);
                    }
                    store(s, state, i * cols + at);
                }
                store(o, out.row_mut(t), at);
            }
            Correction::Delta { beta } => {
                for i in 0..rows {
                    let s: [L; C] = load(state, i * cols + at);
                    let (k, w) = (L::splat(k[i]), L::splat(share(&tokens.decay, t, i)));
                    for c in 0..C {
                        let left = if decays { w.mul_add(s[c], zero) } else { s[c] };
                        u[c] = k.mul_add(left, u[c]);
                    }
                }
                let (minus, beta) = (L::splat(-1.0), L::splat(beta.of(t, 1)[0]));
                for c in 0..C {
                    v[c] = beta.mul_add(minus.mul_add(u[c], v[c]), zero);
                }
                let mut o = [zero; C];
                for i in 0..rows {
                    let mut s: [L; C] = load(state, i * cols + at);
                    let w = L::splat(share(&tokens.decay, t, i));
                    let (q, k) = (L::splat(q[i]), L::splat(k[i]));
                    for c in 0..C {
                        let left = if decays { w.mul_add(s[c], zero) } else { s[c] };
                        s[c] = k.mul_add(v[c], left);
                        o[c] = q.mul_add(s[c], o[c]);
                    }
                    store(s, state, i * cols + at);
                }
                store(o, out.row_mut(t), at);
            }
            Correction::None => {}
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Correction, Decay, Read, Recur, Rows, Tokens};
    use crate::ops::cases::{Random, bits};
    use crate::{Cpu, MatMut};

    pub(super) struct Case {
        rows: usize,
        cols: usize,
        tokens: usize,
        decay: u8,
        correction: u8,
        read: Read,
        state: Vec<f32>,
        /// q, k, v, w, a, b in this order, each `(tokens, widest)`.
        x: Vec<f32>,
    }

    impl Case {
        fn new(random: &mut Random, [rows, cols, tokens]: [usize; 3], decay: u8, correction: u8, read: Read) -> Self {
            let widest = rows.max(cols);
            let mut x = random.normals(6 * tokens * widest);
            // Shares of at most 1, so that nothing grows beyond bounds.
            for w in &mut x[3 * tokens * widest..4 * tokens * widest] {
                *w = crate::math::sigmoid(*w);
            }
            for ab in &mut x[4 * tokens * widest..] {
                *ab *= 0.2;
            }
            Self { rows, cols, tokens, decay, correction, read, state: random.normals(rows * cols), x }
        }

        fn tokens(&self) -> Tokens<'_> {
            let stride = self.rows.max(self.cols);
            let part = |i: usize| Rows { data: &self.x[i * self.tokens * stride..][..self.tokens * stride], stride };
            let decay = match self.decay {
                0 => Decay::None,
                1 => Decay::Constant(0.9),
                2 => Decay::Token(part(3)),
                3 => Decay::ByRow(part(3)),
                _ => Decay::ByColumn(part(3)),
            };
            let correction = match self.correction {
                0 => Correction::None,
                1 => Correction::Delta { beta: part(4) },
                _ => Correction::RankOne { a: part(4), b: part(5) },
            };
            Tokens { q: part(0), k: part(1), v: part(2), decay, correction, read: self.read }
        }

        fn run(&self, recur: &Recur, chunk: usize) -> (Vec<f32>, Vec<f32>) {
            let mut state = self.state.clone();
            let mut out = vec![7.0; self.tokens * self.cols];
            let all = self.tokens();
            for first in (0..self.tokens).step_by(chunk.max(1)) {
                let n = chunk.min(self.tokens - first);
                let tokens = Tokens {
                    q: later(all.q, first),
                    k: later(all.k, first),
                    v: later(all.v, first),
                    decay: match all.decay {
                        Decay::Token(w) => Decay::Token(later(w, first)),
                        Decay::ByRow(w) => Decay::ByRow(later(w, first)),
                        Decay::ByColumn(w) => Decay::ByColumn(later(w, first)),
                        other => other,
                    },
                    correction: match all.correction {
                        Correction::Delta { beta } => Correction::Delta { beta: later(beta, first) },
                        Correction::RankOne { a, b } => Correction::RankOne { a: later(a, first), b: later(b, first) },
                        Correction::None => Correction::None,
                    },
                    read: all.read,
                };
                let mut out = MatMut::new(&mut out[first * self.cols..], n, self.cols);
                recur.run(&mut state, &mut out, tokens);
            }
            (state, out)
        }

        pub(super) fn check(&self, reference: &Recur, candidate: &Recur) {
            let want = self.run(reference, 1);
            for chunk in [1, 3, self.tokens.max(1)] {
                let got = self.run(candidate, chunk);
                let what = (self.rows, self.cols, self.tokens, self.decay, self.correction, self.read);
                assert_eq!(bits(&want.1), bits(&got.1), "{} {what:?} outputs in chunks of {chunk}", candidate.tier());
                assert_eq!(bits(&want.0), bits(&got.0), "{} {what:?} memory in chunks of {chunk}", candidate.tier());
            }
        }
    }

    /// The values from token `first` on.
    fn later(r: Rows<'_>, first: usize) -> Rows<'_> {
        Rows { data: &r.data[first * r.stride..], stride: r.stride }
    }

    pub(super) fn for_each_case(mut f: impl FnMut(Case)) {
        let mut random = Random::new(11);
        let sizes = [[1, 16, 1], [5, 16, 4], [8, 48, 7], [16, 64, 9], [33, 80, 5], [64, 128, 3], [3, 32, 0]];
        for size in sizes {
            for decay in 0..5 {
                for read in [Read::After, Read::Before] {
                    f(Case::new(&mut random, size, decay, 0, read));
                }
                for correction in 1..3 {
                    if decay < 4 {
                        f(Case::new(&mut random, size, decay, correction, Read::After));
                    }
                }
            }
        }
        let mut hostile = Case::new(&mut random, [6, 32, 5], 3, 2, Read::After);
        hostile.x = random.anything(hostile.x.len());
        hostile.state = vec![0.0; 6 * 32];
        // What a NaN looks like within a memory is nobody's business; in the outputs it is canonical.
        let recur = Recur::select(&Cpu::detect());
        let nan = |x: &f32| !x.is_nan() || x.to_bits() == f32::NAN.to_bits();
        assert!(hostile.run(&recur, 5).1.iter().all(nan));
    }

    /// The equations of the module in f64, one line each.
    fn naive(case: &Case) -> Vec<f64> {
        let t = case.tokens();
        let mut s: Vec<Vec<f64>> =
            case.state.chunks_exact(case.cols).map(|row| row.iter().map(|&x| f64::from(x)).collect()).collect();
        let mut out = Vec::new();
        let value = |r: Rows<'_>, t: usize, i: usize| f64::from(r.data[t * r.stride + i]);
        for n in 0..case.tokens {
            let share = |i: usize, c: usize| match t.decay {
                Decay::None => 1.0,
                Decay::Constant(w) => f64::from(w),
                Decay::Token(w) => value(w, n, 0),
                Decay::ByRow(w) => value(w, n, i),
                Decay::ByColumn(w) => value(w, n, c),
            };
            for c in 0..case.cols {
                let before: f64 = (0..case.rows).map(|i| value(t.q, n, i) * s[i][c]).sum();
                let (mut v, mut u) = (value(t.v, n, c), 0.0);
                match t.correction {
                    Correction::None => {}
                    Correction::Delta { beta } => {
                        let held: f64 = (0..case.rows).map(|i| value(t.k, n, i) * share(i, c) * s[i][c]).sum();
                        v = value(beta, n, 0) * (v - held);
                    }
                    Correction::RankOne { a, .. } => u = (0..case.rows).map(|i| value(a, n, i) * s[i][c]).sum(),
                }
                for i in 0..case.rows {
                    let b = if let Correction::RankOne { b, .. } = t.correction { value(b, n, i) } else { 0.0 };
                    s[i][c] = share(i, c) * s[i][c] + b * u + value(t.k, n, i) * v;
                }
                let after: f64 = (0..case.rows).map(|i| value(t.q, n, i) * s[i][c]).sum();
                out.push(if t.read == Read::Before { before } else { after });
            }
        }
        out
    }

    #[test]
    fn is_the_recurrence_in_f64() {
        let recur = Recur::select(&Cpu::detect());
        for_each_case(|case| {
            let (_, got) = case.run(&recur, case.tokens.max(1));
            let want = naive(&case);
            let most = want.iter().fold(1.0_f64, |m, x| m.max(x.abs()));
            for (got, want) in got.iter().zip(&want) {
                assert!((f64::from(*got) - want).abs() <= 1e-5 * most, "{got} for {want}");
            }
        });
    }

    #[test]
    #[should_panic(expected = "no multiple of 16")]
    fn columns_that_no_register_holds_are_refused() {
        let x = Rows { data: &[0.0; 8], stride: 8 };
        let tokens = Tokens { q: x, k: x, v: x, decay: Decay::None, correction: Correction::None, read: Read::After };
        let mut out = [0.0; 8];
        Recur::select(&Cpu::detect()).run(&mut [0.0; 8], &mut MatMut::new(&mut out, 1, 8), tokens);
    }

    #[test]
    #[should_panic(expected = "one value for each row")]
    fn missing_values_are_refused() {
        let (x, short) = (Rows { data: &[0.0; 16], stride: 16 }, Rows { data: &[0.0; 1], stride: 1 });
        let tokens =
            Tokens { q: x, k: x, v: x, decay: Decay::ByRow(short), correction: Correction::None, read: Read::After };
        let mut out = [0.0; 16];
        Recur::select(&Cpu::detect()).run(&mut [0.0; 32], &mut MatMut::new(&mut out, 1, 16), tokens);
    }
}

//! The hint of attention: how far the heads of a student look elsewhere than those of its teacher.

use super::attention::AttentionShape;
use super::attention_head::{Heads, Scratch, weights_of_head};
use super::small_gemm::{Read, small_gemm};
use super::{host, tensor};
use crate::kernels::{Kernels, Loop};
use candle_core::{CpuStorage, CustomOp1, Error, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// `mean of KL(teacher's attention ‖ student's)` over sequences, heads and rows, in nats, a scalar.
///
/// A row is the distribution of one token's attention in one head, after rotation of queries and keys. `qkv` and
/// `teacher` are what [`super::attention`] takes; heads are compared in their order, key heads may be fewer in either.
/// Only `qkv` has a gradient, in its queries and keys.
///
/// # Errors
/// When a shape does not fit, or the two differ in sequences, heads or what a token sees.
pub fn attention_hint(
    qkv: &Tensor,
    teacher: &Tensor,
    [shape, of_teacher]: [&AttentionShape; 2],
    kernels: Kernels,
) -> Result<Tensor> {
    let ((rows, width), (teacher_rows, teacher_width)) = (qkv.dims2()?, teacher.dims2()?);
    let seq = shape.seq;
    let fits = width == shape.width() && teacher_width == of_teacher.width() && rows > 0 && rows % seq.max(1) == 0;
    let same = rows == teacher_rows
        && (seq, shape.heads) == (of_teacher.seq, of_teacher.heads)
        && shape.window.min(seq) == of_teacher.window.min(seq);
    if !fits || !same {
        return Err(Error::Msg(format!(
            "{} heads, {rows} x {width} in sequences of {seq}, against {}, {teacher_rows} x {teacher_width} of {}",
            shape.heads, of_teacher.heads, of_teacher.seq
        )));
    }
    let (x, y) = (host(qkv)?, host(teacher)?);
    let (x, y) = (&*x, &*y);
    let mut gradient = vec![0.0; x.len()];
    let share = 1.0 / (rows * shape.heads) as f64;
    #[expect(clippy::cast_possible_truncation, reason = "gradients are f32")]
    let pair = Pair { student: shape, teacher: of_teacher, kernels: &kernels, share: share as f32 };
    let sums: Vec<f64> = gradient
        .par_chunks_mut(seq * width)
        .zip(x.par_chunks(seq * width))
        .zip(y.par_chunks(seq * teacher_width))
        .map_init(
            || [Scratch::new(shape), Scratch::new(of_teacher)],
            |scratch, ((dx, x), y)| pair.run(x, y, dx, scratch),
        )
        .collect();
    #[expect(clippy::cast_possible_truncation, reason = "the loss is an f32")]
    let loss = (sums.iter().sum::<f64>() * share) as f32;
    qkv.apply_op1(Known { loss, gradient })
}

/// A student's attention and its teacher's.
struct Pair<'a> {
    student: &'a AttentionShape,
    teacher: &'a AttentionShape,
    kernels: &'a Kernels,
    /// Of a row in the mean.
    share: f32,
}

impl Pair<'_> {
    /// One sequence: the sum of its rows; `dx` is the gradient of `share` times it.
    fn run(&self, x: &[f32], y: &[f32], dx: &mut [f32], [w, of_teacher]: &mut [Scratch; 2]) -> f64 {
        let (s, t) = (self.student, self.teacher);
        let heads = Heads { shape: s, kernels: self.kernels };
        let teachers = Heads { shape: t, kernels: self.kernels };
        let mut sum = 0.0;
        for query in 0..s.heads {
            if query % s.group() == 0 {
                heads.load_keys(x, query / s.group(), w);
            }
            if query % t.group() == 0 {
                teachers.load_keys(y, query / t.group(), of_teacher);
            }
            heads.load_query(x, query, w);
            teachers.load_query(y, query, of_teacher);
            let part = HeadHint { w, of_teacher, shapes: [s, t], share: self.share, sum: &mut sum };
            self.kernels.dispatch(part);
            for (at, row) in dx.chunks_exact_mut(s.width()).enumerate() {
                let to = &mut row[query * s.head_dim..][..s.head_dim];
                to.copy_from_slice(&w.dq[at * w.hd..][..s.head_dim]);
                s.rotate_back(self.kernels, at, to);
                if (query + 1) % s.group() == 0 {
                    let to = &mut row[s.kv_columns(query / s.group()).0..][..s.head_dim];
                    to.copy_from_slice(&w.dk[at * w.hd..][..s.head_dim]);
                    s.rotate_back(self.kernels, at, to);
                }
            }
        }
        sum
    }
}

/// One head: `dq` is set, `dk` and the sum of the rows are added to. With scores `S` the gradient is
/// `dS = share (P − P of the teacher)`.
struct HeadHint<'a> {
    w: &'a mut Scratch,
    of_teacher: &'a mut Scratch,
    shapes: [&'a AttentionShape; 2],
    share: f32,
    sum: &'a mut f64,
}

impl Loop for HeadHint<'_> {
    #[inline(always)]
    fn run(self) {
        let Self { w, of_teacher, shapes: [s, t], share, sum } = self;
        let (seq, hd, len) = (s.seq, w.hd, w.len);
        weights_of_head(w, s);
        weights_of_head(of_teacher, t);
        let factor = share / (s.head_dim as f32).sqrt();
        for i in 0..seq {
            let (p, ds) = (&w.p[i * len..][..len], &mut w.ds[i * len..][..len]);
            let target = &of_teacher.p[i * len..][..len];
            for ((ds, p), target) in ds[..=i].iter_mut().zip(&p[..=i]).zip(&target[..=i]) {
                *ds = (p - target) * factor;
            }
            ds[i + 1..].fill(0.0);
            *sum += divergence(&target[..=i], &p[..=i]);
        }
        let width = |_: usize| hd;
        let before = |_: usize, end: usize| 0..end;
        let after = |start: usize, _: usize| start..seq;
        small_gemm(seq, Read::rows(&w.ds, len), &w.k, hd, &mut w.dq, hd, false, width, before);
        small_gemm(seq, Read::transposed(&w.ds, len), &w.q, hd, &mut w.dk, hd, true, width, after);
    }
}

/// `KL(p ‖ q)`; what is too small for an f32 in `q` counts as the smallest.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let parts = p.iter().zip(q).filter(|(p, _)| **p > 0.0);
    parts.map(|(p, q)| f64::from(p * libm::logf(p / q.max(f32::MIN_POSITIVE)))).sum()
}

/// A scalar whose gradient is known.
struct Known {
    loss: f32,
    gradient: Vec<f32>,
}

impl CustomOp1 for Known {
    fn name(&self) -> &'static str {
        "attention-hint"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![self.loss]), Shape::from(())))
    }

    fn bwd(&self, qkv: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let scale = grad.to_scalar::<f32>()?;
        Ok(Some(tensor(self.gradient.iter().map(|g| g * scale).collect(), qkv)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};
    use rin_kernels::Cpu;
    use rin_model::{Config, Pairing};

    /// The attention of each head, `(heads, seq, seq)`, in double precision; heads of 2 pairs, base 10000.
    fn defined(x: &[f64], heads: usize, kv_heads: usize, seq: usize) -> Vec<f64> {
        const HD: usize = 4;
        let width = (heads + 2 * kv_heads) * HD;
        let rotated = |t: usize, at: usize| -> Vec<f64> {
            let head = &x[t * width + at..][..HD];
            let turn = |pair: usize| {
                let angle = t as f64 * libm::pow(10_000.0, -2.0 * pair as f64 / HD as f64);
                let (sin, cos) = libm::sincos(angle);
                let (a, b) = (head[2 * pair], head[2 * pair + 1]);
                [a * cos - b * sin, a * sin + b * cos]
            };
            (0..HD / 2).flat_map(turn).collect()
        };
        let mut all = vec![0.0; heads * seq * seq];
        for head in 0..heads {
            for t in 0..seq {
                let q = rotated(t, head * HD);
                let row = &mut all[(head * seq + t) * seq..][..=t];
                for (j, p) in row.iter_mut().enumerate() {
                    let k = rotated(j, (heads + head / (heads / kv_heads)) * HD);
                    *p = libm::exp(q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() / (HD as f64).sqrt());
                }
                let sum: f64 = row.iter().sum();
                for p in row {
                    *p /= sum;
                }
            }
        }
        all
    }

    fn shape(heads: usize, kv_heads: usize, seq: usize) -> AttentionShape {
        let model = crate::config::ModelConfig {
            dim: 4 * heads,
            layers: 1,
            heads,
            kv_heads: Some(kv_heads),
            ffn: 4,
            ctx: seq,
            ..crate::config::ModelConfig::plain(crate::config::TokenizerKind::Byte)
        };
        let network = crate::network::build(&model, 8, "shape").unwrap();
        let config: &Config = network.config();
        assert_eq!(config.rope.pairing, Pairing::Interleaved);
        AttentionShape::new(config, seq, &Kernels::select(&Cpu::detect()))
    }

    #[test]
    fn the_distance_and_its_gradient_are_those_of_the_definition() {
        let (seq, sequences, heads) = (5, 2, 2);
        // Keys are shared by the student's heads, not by the teacher's.
        let (width, teacher_width) = ((heads + 2) * 4, 3 * heads * 4);
        let number = |i: usize, a: f64| ((i as f64 * a).sin() * 2.0 * 64.0).round() / 64.0;
        let student: Vec<f64> = (0..sequences * seq * width).map(|i| number(i, 1.7)).collect();
        let teacher: Vec<f64> = (0..sequences * seq * teacher_width).map(|i| number(i, 2.3)).collect();
        let target: Vec<f64> =
            teacher.chunks(seq * teacher_width).flat_map(|y| defined(y, heads, heads, seq)).collect();
        let distance = |x: &[f64]| {
            let p = x.chunks(seq * width).flat_map(|x| defined(x, heads, 1, seq));
            let parts = target.iter().zip(p).filter(|(t, _)| **t > 0.0);
            parts.map(|(t, p)| t * libm::log(t / p)).sum::<f64>() / (sequences * heads * seq) as f64
        };
        #[expect(clippy::cast_possible_truncation, reason = "the numbers are exact")]
        let of = |x: &[f64]| x.iter().map(|x| *x as f32).collect::<Vec<_>>();
        let qkv = Var::from_vec(of(&student), (sequences * seq, width), &Device::Cpu).unwrap();
        let other = Tensor::from_vec(of(&teacher), (sequences * seq, teacher_width), &Device::Cpu).unwrap();
        let kernels = Kernels::select(&Cpu::detect());
        let shapes = [&shape(heads, 1, seq), &shape(heads, heads, seq)];
        let found = attention_hint(qkv.as_tensor(), &other, shapes, kernels).unwrap();
        let want = distance(&student);
        assert!(want > 0.1 && (f64::from(found.to_scalar::<f32>().unwrap()) - want).abs() < 1e-5 * want);
        let gradient = (found * 3.0).unwrap().backward().unwrap();
        let gradient = host(gradient.get(qkv.as_tensor()).unwrap()).unwrap().to_vec();
        let mut largest = 0.0_f64;
        for (i, found) in gradient.iter().enumerate() {
            let (mut above, mut below) = (student.clone(), student.clone());
            (above[i], below[i]) = (student[i] + 1e-5, student[i] - 1e-5);
            let want = 3.0 * (distance(&above) - distance(&below)) / 2e-5;
            assert!((f64::from(*found) - want).abs() < 1e-5, "{i}: {found}, not {want}");
            largest = largest.max(want.abs());
        }
        assert!(largest > 0.05, "the gradient is not nothing: {largest}");

        let same = [shapes[1]; 2];
        let none = attention_hint(&other, &other, same, kernels).unwrap().to_scalar::<f32>().unwrap();
        assert!(none.abs() < 1e-6, "{none}");
        assert!(attention_hint(qkv.as_tensor(), &other, same, kernels).is_err());
        assert!(attention_hint(qkv.as_tensor(), &other, [shapes[0], &shape(4, 1, seq)], kernels).is_err());
    }
}

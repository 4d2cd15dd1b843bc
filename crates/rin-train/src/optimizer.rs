//! AdamW (Loshchilov and Hutter, 2019) over plain numbers, with a moving average of the weights.

use crate::config::LoopConfig;
use crate::parameters::{Parameters, Role};
use rayon::prelude::*;

/// Added to the root of the second moment.
const EPS: f32 = 1e-8;
/// Numbers that a thread takes at a time.
const CHUNK: usize = 1 << 14;

/// The learning rate of step `step`, counted from 1: a linear rise, then a cosine (Loshchilov and Hutter, 2017).
pub fn learning_rate(train: &LoopConfig, step: usize) -> f64 {
    let warmup = train.warmup.unwrap_or(train.steps / 100);
    if step <= warmup {
        return train.lr * step as f64 / warmup as f64;
    }
    let least = train.min_lr.unwrap_or(train.lr / 10.0);
    let progress = (step - warmup) as f64 / (train.steps - warmup).max(1) as f64;
    least + 0.5 * (train.lr - least) * (1.0 + libm::cos(std::f64::consts::PI * progress.min(1.0)))
}

/// The norm of all gradients together.
pub fn global_norm(gradients: &[Vec<f32>]) -> f64 {
    let square = |part: &[f32]| part.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
    let parts: Vec<f64> = gradients.par_iter().flat_map_iter(|g| g.chunks(CHUNK).map(square)).collect();
    parts.iter().sum::<f64>().sqrt()
}

/// Moments of the gradients and the moving average of the weights, in the order of the parameters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdamW {
    /// Steps done.
    pub step: usize,
    /// Moving averages of the gradients.
    pub first: Vec<Vec<f32>>,
    /// Moving averages of their squares.
    pub second: Vec<Vec<f32>>,
    /// Moving averages of the weights; empty where there are none.
    pub ema: Vec<Vec<f32>>,
}

/// What one step applies.
#[derive(Clone, Copy)]
struct Update {
    lr: f32,
    beta1: f32,
    beta2: f32,
    /// Corrections of the moments' start at 0.
    correct1: f32,
    correct2: f32,
    decay: f32,
    /// Factor on the gradients.
    scale: f32,
    /// Share of the new weights in their average.
    ema: f32,
}

impl AdamW {
    /// Before the first step.
    pub fn new(parameters: &Parameters, with_ema: bool) -> Self {
        let zeros = || parameters.0.iter().map(|p| vec![0.0; p.values.len()]).collect::<Vec<_>>();
        let ema = if with_ema { parameters.0.iter().map(|p| p.values.clone()).collect() } else { Vec::new() };
        Self { step: 0, first: zeros(), second: zeros(), ema }
    }

    /// One step with `gradients` times `scale`, at the learning rate of that step.
    pub fn update(&mut self, parameters: &mut Parameters, gradients: &[Vec<f32>], scale: f64, train: &LoopConfig) {
        self.update_at(learning_rate(train, self.step + 1), parameters, gradients, scale, train);
    }

    /// As [`AdamW::update`] at the learning rate `lr`.
    #[expect(clippy::cast_possible_truncation, reason = "the arithmetic of the optimiser is f32")]
    pub fn update_at(
        &mut self,
        lr: f64,
        parameters: &mut Parameters,
        gradients: &[Vec<f32>],
        scale: f64,
        train: &LoopConfig,
    ) {
        self.step += 1;
        let [beta1, beta2] = train.betas;
        let t = self.step as f64;
        // The average takes in the first steps faster, or it would hold on to the random start.
        let ema = train.ema.min((1.0 + t) / (10.0 + t));
        let update = Update {
            lr: lr as f32,
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            correct1: (1.0 / (1.0 - libm::pow(beta1, t))) as f32,
            correct2: (1.0 / (1.0 - libm::pow(beta2, t))) as f32,
            decay: 0.0,
            scale: scale as f32,
            ema: (1.0 - ema) as f32,
        };
        for (i, (p, g)) in parameters.0.iter_mut().zip(gradients).enumerate() {
            let decays = matches!(p.role, Role::Matrix { .. });
            let update = Update { decay: if decays { (lr * train.weight_decay) as f32 } else { 0.0 }, ..update };
            let moments = self.first[i].par_chunks_mut(CHUNK).zip(self.second[i].par_chunks_mut(CHUNK));
            p.values.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).zip(moments).for_each(|((w, g), (m, v))| {
                update.apply(w, g, m, v);
            });
            if let Some(average) = self.ema.get_mut(i) {
                average.par_chunks_mut(CHUNK).zip(p.values.par_chunks(CHUNK)).for_each(|(average, w)| {
                    for (average, w) in average.iter_mut().zip(w) {
                        *average += update.ema * (w - *average);
                    }
                });
            }
        }
    }

    /// The weights to evaluate and export: their average where there is one.
    pub fn averaged(&self, parameters: &Parameters) -> Parameters {
        let mut averaged = parameters.clone();
        for (p, average) in averaged.0.iter_mut().zip(&self.ema) {
            p.values.clone_from(average);
        }
        averaged
    }
}

impl Update {
    fn apply(self, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            let g = g * self.scale;
            *m += (1.0 - self.beta1) * (g - *m);
            *v += (1.0 - self.beta2) * (g * g - *v);
            let step = *m * self.correct1 / ((*v * self.correct2).sqrt() + EPS);
            *w -= self.lr * step + self.decay * *w;
        }
    }
}

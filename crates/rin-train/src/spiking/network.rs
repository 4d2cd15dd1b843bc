//! The network in real numbers, forwards and backwards.

use super::config::{ResetKind, SpikingConfig, Surrogate};
use crate::parameters::{Parameter, Parameters, Role};

/// What does not change in a training.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Inputs, hidden layers, classes.
    pub widths: Vec<usize>,
    /// Time steps.
    pub steps: usize,
    /// What a step keeps of a membrane.
    pub beta: f32,
    /// What a spike does.
    pub reset: ResetKind,
    /// The slope of a spike, and its parameter.
    pub surrogate: (Surrogate, f32),
    /// λ.
    pub rate_penalty: f32,
    /// Factor on the inputs.
    pub scale: f32,
}

/// What a row gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Mean membrane of each output.
    pub logits: Vec<f32>,
    /// Loss, with the penalty.
    pub loss: f64,
    /// Spikes of all hidden neurons.
    pub spikes: usize,
}

/// A row on its way through a layer: membranes before the reset and spikes, `steps × n`.
struct Trace {
    v: Vec<f32>,
    s: Vec<f32>,
}

impl Shape {
    /// Of a configuration, for data of these sizes.
    pub fn new(config: &SpikingConfig, inputs: usize, classes: usize) -> Self {
        let mut widths = vec![inputs];
        widths.extend(&config.model.hidden);
        widths.push(classes);
        let lost = 1.0 / f64::from(1_u32 << config.model.leak);
        #[expect(clippy::cast_possible_truncation, reason = "a power of two less than 1 is exact")]
        let beta = (1.0 - lost) as f32;
        Self {
            widths,
            steps: config.model.steps,
            beta,
            reset: config.model.reset,
            surrogate: (config.train.surrogate, config.train.slope()),
            rate_penalty: config.train.rate_penalty,
            scale: config.data.scale,
        }
    }

    /// Layers, the output among them.
    pub fn layers(&self) -> usize {
        self.widths.len() - 1
    }

    /// First weights and biases: per layer `(inputs, outputs)` and `(outputs)`.
    pub fn parameters(&self, seed: u64) -> Parameters {
        let mut parameters = Vec::new();
        for layer in 0..self.layers() {
            let (inputs, outputs) = (self.widths[layer], self.widths[layer + 1]);
            let std = (2.0 / inputs as f64).sqrt();
            parameters.push(Parameter::new(format!("layer.{layer}.weight"), &[inputs, outputs], Role::Matrix { std }));
            parameters.push(Parameter::new(format!("layer.{layer}.bias"), &[outputs], Role::Vector { value: 0.0 }));
        }
        Parameters::initialized(parameters, seed)
    }

    /// The derivative of a spike with respect to the membrane, at a distance `x` from the threshold.
    pub fn slope(&self, x: f32) -> f32 {
        let (surrogate, a) = self.surrogate;
        match surrogate {
            Surrogate::Atan => {
                let y = std::f32::consts::FRAC_PI_2 * a * x;
                0.5 * a / (1.0 + y * y)
            }
            Surrogate::FastSigmoid => {
                let y = 1.0 + a * x.abs();
                1.0 / (y * y)
            }
        }
    }

    /// An input as the integer network takes it: 7 bits with sign, as real numbers.
    pub fn encode(&self, x: f32) -> f32 {
        (x * self.scale * 128.0).round_ties_even().clamp(-127.0, 127.0) / 128.0
    }

    /// A row as the integer network takes it.
    pub fn encoded(&self, row: &[f32]) -> Vec<f32> {
        row.iter().map(|&x| self.encode(x)).collect()
    }

    /// Runs a row forwards.
    pub fn forward(&self, parameters: &[Parameter], row: &[f32]) -> Outcome {
        self.run(parameters, &self.encoded(row)).1
    }

    fn run(&self, parameters: &[Parameter], inputs: &[f32]) -> (Vec<Trace>, Outcome) {
        let steps = self.steps;
        let mut traces: Vec<Trace> = Vec::new();
        let mut spikes = 0;
        for layer in 0..self.layers() {
            let n = self.widths[layer + 1];
            let (weight, bias) = (&parameters[2 * layer].values, &parameters[2 * layer + 1].values);
            let mut trace = Trace { v: vec![0.0; steps * n], s: vec![0.0; steps * n] };
            let last = layer + 1 == self.layers();
            let mut constant = bias.clone();
            if layer == 0 {
                for (&x, weights) in inputs.iter().zip(weight.chunks_exact(n)) {
                    add_scaled(&mut constant, x, weights);
                }
            }
            let mut v = vec![0.0; n];
            for t in 0..steps {
                let mut current = constant.clone();
                if let Some(before) = traces.last() {
                    let width = self.widths[layer];
                    for (&s, weights) in before.s[t * width..][..width].iter().zip(weight.chunks_exact(n)) {
                        if s != 0.0 {
                            add_scaled(&mut current, 1.0, weights);
                        }
                    }
                }
                for j in 0..n {
                    let next = self.beta * v[j] + current[j];
                    trace.v[t * n + j] = next;
                    let fires = !last && next > 1.0;
                    trace.s[t * n + j] = f32::from(u8::from(fires));
                    spikes += usize::from(fires);
                    v[j] = match (fires, self.reset) {
                        (false, _) => next,
                        (true, ResetKind::Zero) => 0.0,
                        (true, ResetKind::Subtract) => next - 1.0,
                    };
                }
            }
            traces.push(trace);
        }
        let n = self.widths[self.layers()];
        let mut logits = vec![0.0; n];
        if let Some(output) = traces.last() {
            output.v.chunks_exact(n).for_each(|v| add_scaled(&mut logits, 1.0 / steps as f32, v));
        }
        (traces, Outcome { logits, loss: 0.0, spikes })
    }

    /// Runs a row, [encoded](Self::encoded), forwards and backwards, and adds its gradients to `gradients`.
    pub fn backward(
        &self,
        parameters: &[Parameter],
        inputs: &[f32],
        label: usize,
        gradients: &mut [Vec<f32>],
    ) -> Outcome {
        let (traces, mut outcome) = self.run(parameters, inputs);
        let steps = self.steps;
        let hidden: usize = self.widths[1..self.layers()].iter().sum();
        let each = self.rate_penalty / (hidden * steps).max(1) as f32;
        let (loss, d_logits) = cross_entropy(&outcome.logits, label);
        outcome.loss = loss + f64::from(each) * outcome.spikes as f64;
        // Gradients of the spikes of the layer at hand, from the layer above.
        let mut d_spikes: Vec<f32> = Vec::new();
        for layer in (0..self.layers()).rev() {
            let n = self.widths[layer + 1];
            let weight = &parameters[2 * layer].values;
            let trace = &traces[layer];
            let last = layer + 1 == self.layers();
            let width = self.widths[layer];
            let mut below = vec![if layer > 0 { each } else { 0.0 }; if layer > 0 { steps * width } else { 0 }];
            let mut d_v = vec![0.0; n];
            let mut d_constant = vec![0.0; n];
            for t in (0..steps).rev() {
                for j in 0..n {
                    let at = t * n + j;
                    if last {
                        d_v[j] = self.beta * d_v[j] + d_logits[j] / steps as f32;
                        continue;
                    }
                    // The reset is a constant: by subtraction it passes the gradient on, to zero it stops it.
                    let stopped = self.reset == ResetKind::Zero && trace.s[at] != 0.0;
                    let later = if stopped { 0.0 } else { self.beta * d_v[j] };
                    d_v[j] = later + d_spikes[at] * self.slope(trace.v[at] - 1.0);
                }
                add_scaled(&mut d_constant, 1.0, &d_v);
                if layer > 0 {
                    let s = &traces[layer - 1].s[t * width..][..width];
                    let rows = weight.chunks_exact(n).zip(gradients[2 * layer].chunks_exact_mut(n));
                    for ((&s, below), (weights, gradient)) in s.iter().zip(&mut below[t * width..][..width]).zip(rows) {
                        *below += weights.iter().zip(&d_v).map(|(w, d)| w * d).sum::<f32>();
                        if s != 0.0 {
                            add_scaled(gradient, 1.0, &d_v);
                        }
                    }
                }
            }
            add_scaled(&mut gradients[2 * layer + 1], 1.0, &d_constant);
            if layer == 0 {
                for (&x, gradient) in inputs.iter().zip(gradients[0].chunks_exact_mut(n)) {
                    if x != 0.0 {
                        add_scaled(gradient, x, &d_constant);
                    }
                }
            }
            d_spikes = below;
        }
        outcome
    }
}

fn add_scaled(sum: &mut [f32], factor: f32, values: &[f32]) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += factor * value);
}

/// Loss in nats, and its gradient.
pub(crate) fn cross_entropy(logits: &[f32], label: usize) -> (f64, Vec<f32>) {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f64> = logits.iter().map(|&x| libm::exp(f64::from(x - most))).collect();
    let sum: f64 = powers.iter().sum();
    #[expect(clippy::cast_possible_truncation, reason = "the arithmetic of the training is f32")]
    let mut gradient: Vec<f32> = powers.iter().map(|power| (power / sum) as f32).collect();
    gradient[label] -= 1.0;
    (libm::log(sum) - f64::from(logits[label] - most), gradient)
}

/// The weights rounded to 127 steps of each output's largest magnitude; biases as they are.
pub fn rounded(parameters: &Parameters) -> Parameters {
    let mut rounded = parameters.clone();
    for parameter in rounded.0.iter_mut().filter(|parameter| parameter.shape.len() == 2) {
        let n = parameter.shape[1];
        let units = units(&parameter.values, n);
        for row in parameter.values.chunks_exact_mut(n) {
            row.iter_mut().zip(&units).for_each(|(w, unit)| *w = (*w / unit).round_ties_even() * unit);
        }
    }
    rounded
}

/// The step of each output's weights.
pub(super) fn units(weights: &[f32], n: usize) -> Vec<f32> {
    let mut most = vec![0.0_f32; n];
    for row in weights.chunks_exact(n) {
        most.iter_mut().zip(row).for_each(|(most, w)| *most = most.max(w.abs()));
    }
    most.iter().map(|most| most.max(1e-6) / 127.0).collect()
}

//! The network in real numbers, rounded or not, forwards and backwards.

use crate::parameters::{Parameter, Parameters, Role};
use crate::spiking::network::cross_entropy;

/// Steps of 8 bits.
const STEPS: f32 = 127.0;

/// Inputs, hidden layers with a relu each, classes.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Widths of all values.
    pub widths: Vec<usize>,
    /// Factor on the inputs.
    pub scale: f32,
}

/// What a row gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// One score per class.
    pub logits: Vec<f32>,
    /// Loss in nats.
    pub loss: f64,
}

impl Shape {
    /// Layers, the last among them.
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

    /// The values of every layer's input, then the logits; `most` are the largest magnitudes that 8 bits hold, of each
    /// layer's input, or none where nothing is rounded.
    fn values(&self, parameters: &[Parameter], row: &[f32], most: Option<&[f32]>) -> Vec<Vec<f32>> {
        let round = |values: &mut Vec<f32>, layer: usize| {
            if let Some(most) = most.and_then(|most| most.get(layer)) {
                let step = most.max(1e-6) / STEPS;
                values.iter_mut().for_each(|x| *x = (*x / step).round_ties_even().clamp(-STEPS, STEPS) * step);
            }
        };
        let mut x: Vec<f32> = row.iter().map(|x| x * self.scale).collect();
        round(&mut x, 0);
        let mut all = vec![x];
        for layer in 0..self.layers() {
            let n = self.widths[layer + 1];
            let mut y = parameters[2 * layer + 1].values.clone();
            for (&x, weights) in all[layer].iter().zip(parameters[2 * layer].values.chunks_exact(n)) {
                if x != 0.0 {
                    y.iter_mut().zip(weights).for_each(|(y, w)| *y += x * w);
                }
            }
            if layer + 1 < self.layers() {
                y.iter_mut().for_each(|y| *y = y.max(0.0));
                round(&mut y, layer + 1);
            }
            all.push(y);
        }
        all
    }

    /// The scores of a row.
    pub fn logits(&self, parameters: &[Parameter], row: &[f32]) -> Vec<f32> {
        self.values(parameters, row, None).pop().unwrap_or_default()
    }

    /// The largest magnitude of each layer's input over some rows.
    pub fn ranges<'a>(&self, parameters: &[Parameter], rows: impl Iterator<Item = &'a [f32]>) -> Vec<f32> {
        let mut most = vec![0.0_f32; self.layers()];
        for row in rows {
            for (most, values) in most.iter_mut().zip(self.values(parameters, row, None)) {
                *most = values.iter().fold(*most, |most, x| most.max(x.abs()));
            }
        }
        most
    }

    /// Runs a row forwards and backwards, and adds its gradients to `gradients`.
    pub fn backward(
        &self,
        parameters: &[Parameter],
        row: &[f32],
        label: usize,
        most: Option<&[f32]>,
        gradients: &mut [Vec<f32>],
    ) -> Outcome {
        let values = self.values(parameters, row, most);
        let logits = values.last().cloned().unwrap_or_default();
        let (loss, mut d) = cross_entropy(&logits, label);
        for layer in (0..self.layers()).rev() {
            let n = self.widths[layer + 1];
            gradients[2 * layer + 1].iter_mut().zip(&d).for_each(|(g, d)| *g += d);
            let weights = parameters[2 * layer].values.chunks_exact(n);
            let mut below = vec![0.0; if layer > 0 { self.widths[layer] } else { 0 }];
            for (i, (weights, gradient)) in weights.zip(gradients[2 * layer].chunks_exact_mut(n)).enumerate() {
                let x = values[layer][i];
                if x != 0.0 {
                    gradient.iter_mut().zip(&d).for_each(|(g, d)| *g += x * d);
                }
                // A relu at 0, and a value beyond the last step, pass nothing on.
                let inside = most.is_none_or(|most| x < most[layer]);
                if layer > 0 && x > 0.0 && inside {
                    below[i] = weights.iter().zip(&d).map(|(w, d)| w * d).sum();
                }
            }
            d = below;
        }
        Outcome { logits, loss }
    }
}

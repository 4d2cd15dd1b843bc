//! Ways through the feed-forward part in which most neurons can be left out, for comparisons with SwiGLU.
//!
//! A neuron is left out where its gate is 0: neither its row of the up matrix nor its column of the down matrix would have
//! to be read.
//! Here they are: this is about what is predicted, in plain operations with candle's own gradients.

use super::Batch;
use crate::Error;
use crate::parameters::{Parameter, Role};
use crate::random::{stream, uniform};
use crate::weights::Weights;
use candle_core::{D, Device, Tensor};

/// What becomes of the gate before it multiplies the up part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activated {
    /// `x sigmoid(x)`.
    Silu,
    /// `max(x, 0)^2` (So et al., 2021, "Primer").
    ReluSquared,
}

/// Which neurons a token may reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Route {
    /// All.
    All,
    /// Those whose learned phase is nearer to the token's than `tau` radians; the token's phase is the angle of two
    /// learned products with the residual stream. Gradients are those of a sigmoid in the place of the step.
    Phase {
        /// Radians.
        tau: f64,
    },
    /// A share drawn at random for each token of the vocabulary, layer by layer (as the hash layers of Roller et al.,
    /// 2021, which are routes that are not learned).
    Hash {
        /// Share that is reached.
        share: f64,
    },
}

/// A way through the feed-forward part.
#[derive(Clone, Debug)]
pub struct FeedForward {
    /// Of the gate.
    pub activated: Activated,
    /// Which neurons count.
    pub route: Route,
    /// Neurons whose activated gate is below this size are left out, layer by layer; empty: none (Lee et al., 2024, "CATS").
    pub thresholds: Vec<f32>,
}

/// Width of the sigmoid that a route by phase has its gradient from, in units of the cosine.
const SOFT: f64 = 0.2;
/// Standard deviation of first phases, in radians: nearly even on the circle.
const SPREAD: f64 = 3.0;

impl FeedForward {
    /// The parameters that a layer has beside those of SwiGLU.
    pub(super) fn parameters(&self, layer: usize, dim: usize, ffn: usize) -> Vec<Parameter> {
        match self.route {
            Route::Phase { .. } => vec![
                Parameter::new(format!("blk.{layer}.ffn_phase"), &[ffn], Role::Numbers { std: SPREAD }),
                Parameter::new(format!("blk.{layer}.ffn_angle"), &[2, dim], Role::Numbers { std: 0.1 }),
            ],
            _ => Vec::new(),
        }
    }

    /// The gates, 0 where a neuron is left out, and the neurons, both `(tokens, ffn)`, from rows of gate and up part, and
    /// the residual stream `x`.
    pub(super) fn neurons(
        &self,
        layer: usize,
        gate_up: &Tensor,
        x: &Tensor,
        weights: &Weights,
        batch: Batch<'_>,
    ) -> Result<(Tensor, Tensor), Error> {
        let ffn = gate_up.dim(1)? / 2;
        let gate = gate_up.narrow(1, 0, ffn)?.contiguous()?;
        let up = gate_up.narrow(1, ffn, ffn)?.contiguous()?;
        let mut gate = match self.activated {
            Activated::Silu => gate.silu()?,
            Activated::ReluSquared => gate.relu()?.sqr()?,
        };
        match self.route {
            Route::All => {}
            Route::Phase { tau } => gate = (gate * near(layer, x, weights, tau)?)?,
            Route::Hash { share } => {
                let mask: Vec<f32> = batch.ids.iter().flat_map(|&id| drawn(layer, id, ffn, share)).collect();
                gate = (gate * Tensor::from_vec(mask, (batch.ids.len(), ffn), &Device::Cpu)?)?;
            }
        }
        if let Some(&threshold) = self.thresholds.get(layer) {
            let large = gate.abs()?.ge(f64::from(threshold))?.to_dtype(gate.dtype())?;
            gate = (gate * large)?;
        }
        let neurons = (&gate * up)?;
        Ok((gate, neurons))
    }
}

/// 1 where the phase of a neuron is nearer to the token's than `tau`, else 0; gradients of a sigmoid.
fn near(layer: usize, x: &Tensor, weights: &Weights, tau: f64) -> Result<Tensor, Error> {
    let phase = weights.tensor(&format!("blk.{layer}.ffn_phase"))?;
    let angle = weights.tensor(&format!("blk.{layer}.ffn_angle"))?;
    // The cosine of the difference of two angles is the product of their unit vectors.
    let of_token = x.matmul(&angle.t()?)?;
    let length = (of_token.sqr()?.sum_keepdim(D::Minus1)? + 1e-6)?.sqrt()?;
    let of_token = of_token.broadcast_div(&length)?;
    let of_neuron = Tensor::stack(&[phase.cos()?, phase.sin()?], 0)?;
    let beyond = (of_token.matmul(&of_neuron)? - libm::cos(tau))?;
    let hard = beyond.gt(0.0)?.to_dtype(beyond.dtype())?;
    // 1 / (1 + exp(-t)) by what candle has a gradient for.
    let soft = (((beyond / -SOFT)?.exp()? + 1.0)?).recip()?;
    Ok((hard + (&soft - soft.detach())?)?)
}

/// The neurons that a token of the vocabulary reaches.
fn drawn(layer: usize, id: u32, ffn: usize, share: f64) -> impl Iterator<Item = f32> {
    let state = stream(0x9a5e, &[layer as u64, u64::from(id)]);
    (0..ffn as u64).map(move |n| if uniform(state, n) < share { 1.0 } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::{Activated, FeedForward, Route, drawn};
    use crate::config::{ModelConfig, TokenizerKind};
    use crate::kernels::Kernels;
    use crate::network::{Batch, Decoder, Inside, Network, Pass, initialize};
    use crate::weights::{Arithmetic, Weights};
    use candle_core::Tensor;
    use rin_kernels::Cpu;

    fn numbers(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn network() -> Decoder {
        let model =
            ModelConfig { dim: 32, layers: 2, heads: 2, ffn: 400, ctx: 16, ..ModelConfig::plain(TokenizerKind::Byte) };
        Decoder::new(&model, 40, "ways").unwrap()
    }

    /// Logits, and the share of gates that are 0 in each layer.
    fn run(network: &Decoder) -> (Vec<f32>, Vec<f64>) {
        let parameters = initialize(network, 3);
        let weights = Weights::constant(&parameters, Arithmetic::Float, Kernels::select(&Cpu::detect())).unwrap();
        let ids: Vec<u32> = (0..16).collect();
        let mut inside = Inside::default();
        let batch = Batch { ids: &ids, seq: 16 };
        let logits = network.forward_seen(&weights, batch, Pass::Evaluate, Some(&mut inside)).unwrap();
        let zero = |t: &Tensor| {
            let all = numbers(t);
            all.iter().filter(|x| **x == 0.0).count() as f64 / all.len() as f64
        };
        (numbers(&logits), inside.gates.iter().map(zero).collect())
    }

    fn run_with(way: FeedForward) -> (Vec<f32>, Vec<f64>) {
        run(&network().with_feed_forward(way))
    }

    fn way(activated: Activated, route: Route, thresholds: Vec<f32>) -> FeedForward {
        FeedForward { activated, route, thresholds }
    }

    #[test]
    fn silu_through_all_neurons_is_swiglu() {
        let ((want, none), (found, zero)) = (run(&network()), run_with(way(Activated::Silu, Route::All, Vec::new())));
        assert!(none.is_empty() && zero == [0.0, 0.0]);
        assert!(want.iter().zip(&found).all(|(a, b)| (a - b).abs() < 1e-5));
        // Nothing is left of the feed-forward parts beyond every threshold.
        assert_eq!(run_with(way(Activated::Silu, Route::All, vec![1e9, 0.0])).1, [1.0, 0.0]);
    }

    #[test]
    fn routes_leave_out_what_they_say() {
        let half = run_with(way(Activated::ReluSquared, Route::All, Vec::new())).1;
        assert!(half.iter().all(|share| (share - 0.5).abs() < 0.05), "{half:?}");
        // A sixteenth of the circle on both sides.
        let tau = std::f64::consts::PI / 8.0;
        let phase = run_with(way(Activated::Silu, Route::Phase { tau }, Vec::new())).1;
        assert!(phase.iter().all(|share| (share - 0.875).abs() < 0.05), "{phase:?}");
        let hash = run_with(way(Activated::Silu, Route::Hash { share: 0.125 }, Vec::new())).1;
        assert!(hash.iter().all(|share| (share - 0.875).abs() < 0.02), "{hash:?}");
        let reached = |layer, id| drawn(layer, id, 400, 0.5).collect::<Vec<_>>();
        assert!(reached(0, 1) == reached(0, 1) && reached(0, 1) != reached(1, 1) && reached(0, 1) != reached(0, 2));
    }

    #[test]
    fn phases_and_angles_have_gradients() {
        let network = network().with_feed_forward(way(Activated::Silu, Route::Phase { tau: 0.4 }, Vec::new()));
        let parameters = initialize(&network, 3);
        let kernels = Kernels::select(&Cpu::detect());
        let (weights, vars) = Weights::variable(&parameters, Arithmetic::Float, kernels).unwrap();
        let ids: Vec<u32> = (0..16).collect();
        let logits = network.forward(&weights, Batch { ids: &ids, seq: 16 }, Pass::Evaluate).unwrap();
        let loss = crate::ops::cross_entropy(&logits, &ids, kernels).unwrap();
        let store = loss.backward().unwrap();
        for (p, var) in parameters.0.iter().zip(&vars) {
            let gradient = store.get(var.as_tensor()).map(numbers).unwrap_or_default();
            assert!(gradient.iter().any(|g| *g != 0.0) && gradient.iter().all(|g| g.is_finite()), "{}", p.name);
        }
    }
}

//! Ways through the feed-forward part in which most neurons can be left out, for comparisons with SwiGLU.
//!
//! A neuron is left out where its gate is 0: neither its row of the up matrix nor its column of the down matrix would have
//! to be read.
//! Here they are: this is about what is predicted, in plain operations with candle's own gradients.

use super::Batch;
use crate::Error;
use crate::ops::host;
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

/// Says which neurons a token has before their gates are known: those with the largest gates in the space of a few
/// directions of gates. Since `U U^T W h` is what a gate matrix of that rank gives, only `U` and `U^T W` would have to be
/// read (after Liu et al., 2023, "Deja Vu", whose predictors have a layer between and learn classes).
#[derive(Clone, Debug, PartialEq)]
pub struct Predictor {
    /// Layer by layer the directions, row-major `(ffn, rank)`.
    pub left: Vec<Vec<f32>>,
    /// Neurons that a token has.
    pub neurons: usize,
}

/// What is left out of a network after its training.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Cut {
    /// Nothing.
    #[default]
    Nothing,
    /// Layer by layer, neurons whose activated gate is below this size (Lee et al., 2024, "CATS").
    Below(Vec<f32>),
    /// Neurons that are not chosen.
    Predicted(Predictor),
    /// The same for all tokens: layer by layer the numbers of neurons that are left.
    Pruned(Vec<Vec<usize>>),
}

impl Cut {
    /// 1 for the neurons that are left, else 0, from gates `(tokens, ffn)` before and after their activation. None where
    /// all are.
    fn left(&self, layer: usize, gate: &Tensor, activated: &Tensor) -> Result<Option<Tensor>, Error> {
        Ok(match self {
            Self::Nothing => None,
            Self::Below(thresholds) => match thresholds.get(layer) {
                Some(&threshold) => Some(activated.abs()?.ge(f64::from(threshold))?.to_dtype(gate.dtype())?),
                None => None,
            },
            Self::Predicted(predictor) => Some(predictor.chosen(layer, gate)?),
            Self::Pruned(neurons) => {
                let mut mask = vec![0.0_f32; gate.dim(1)?];
                for neuron in neurons.get(layer).into_iter().flatten() {
                    mask.get_mut(*neuron).into_iter().for_each(|mask| *mask = 1.0);
                }
                Some(Tensor::new(mask, &Device::Cpu)?.broadcast_as(gate.shape())?.contiguous()?)
            }
        })
    }
}

/// The neurons of a layer, each `(tokens, ffn)`.
#[derive(Clone, Debug)]
pub struct Neurons {
    /// Gates before their activation.
    pub inputs: Tensor,
    /// Activated gates, 0 where a neuron is left out.
    pub gates: Tensor,
    /// What the down matrix multiplies.
    pub outputs: Tensor,
}

impl Predictor {
    /// 1 for the neurons that are chosen by `gate`, `(tokens, ffn)`, else 0.
    fn chosen(&self, layer: usize, gate: &Tensor) -> Result<Tensor, Error> {
        let (tokens, ffn) = gate.dims2()?;
        let left = self.left.get(layer).cloned().unwrap_or_default();
        let left = Tensor::from_vec(left.clone(), (ffn, left.len() / ffn.max(1)), &Device::Cpu)?;
        let predicted = gate.matmul(&left)?.matmul(&left.t()?)?;
        let kept = self.neurons.min(ffn);
        let mut mask = vec![0.0_f32; tokens * ffn];
        let mut order: Vec<usize> = (0..ffn).collect();
        for (mask, row) in mask.chunks_exact_mut(ffn).zip(host(&predicted)?.chunks_exact(ffn)) {
            order.sort_unstable_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
            order[..kept].iter().for_each(|n| mask[*n] = 1.0);
        }
        Ok(Tensor::from_vec(mask, (tokens, ffn), &Device::Cpu)?)
    }
}

/// A way through the feed-forward part.
#[derive(Clone, Debug)]
pub struct FeedForward {
    /// Of the gate.
    pub activated: Activated,
    /// Which neurons count.
    pub route: Route,
    /// Which of them are left out after training.
    pub cut: Cut,
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

    /// The neurons from rows of gate and up part, and the residual stream `x`.
    pub(super) fn neurons(
        &self,
        layer: usize,
        gate_up: &Tensor,
        x: &Tensor,
        weights: &Weights,
        batch: Batch<'_>,
    ) -> Result<Neurons, Error> {
        let ffn = gate_up.dim(1)? / 2;
        let inputs = gate_up.narrow(1, 0, ffn)?.contiguous()?;
        let up = gate_up.narrow(1, ffn, ffn)?.contiguous()?;
        let mut gates = match self.activated {
            Activated::Silu => inputs.silu()?,
            Activated::ReluSquared => inputs.relu()?.sqr()?,
        };
        match self.route {
            Route::All => {}
            Route::Phase { tau } => gates = (gates * near(layer, x, weights, tau)?)?,
            Route::Hash { share } => {
                let mask: Vec<f32> = batch.ids.iter().flat_map(|&id| drawn(layer, id, ffn, share)).collect();
                gates = (gates * Tensor::from_vec(mask, (batch.ids.len(), ffn), &Device::Cpu)?)?;
            }
        }
        if let Some(left) = self.cut.left(layer, &inputs, &gates)? {
            gates = (gates * left)?;
        }
        let outputs = (&gates * up)?;
        Ok(Neurons { inputs, gates, outputs })
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
    use super::{Activated, Cut, FeedForward, Predictor, Route, drawn};
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
        (numbers(&logits), inside.neurons.iter().map(|n| zero(&n.gates)).collect())
    }

    fn run_with(way: FeedForward) -> (Vec<f32>, Vec<f64>) {
        run(&network().with_feed_forward(way))
    }

    fn way(activated: Activated, route: Route, cut: Cut) -> FeedForward {
        FeedForward { activated, route, cut }
    }

    #[test]
    fn silu_through_all_neurons_is_swiglu() {
        let ((want, none), (found, zero)) = (run(&network()), run_with(way(Activated::Silu, Route::All, Cut::Nothing)));
        assert!(none.is_empty() && zero == [0.0, 0.0]);
        assert!(want.iter().zip(&found).all(|(a, b)| (a - b).abs() < 1e-5));
        // Nothing is left of the feed-forward parts beyond every threshold.
        assert_eq!(run_with(way(Activated::Silu, Route::All, Cut::Below(vec![1e9, 0.0]))).1, [1.0, 0.0]);
    }

    #[test]
    fn routes_leave_out_what_they_say() {
        let half = run_with(way(Activated::ReluSquared, Route::All, Cut::Nothing)).1;
        assert!(half.iter().all(|share| (share - 0.5).abs() < 0.05), "{half:?}");
        // A sixteenth of the circle on both sides.
        let tau = std::f64::consts::PI / 8.0;
        let phase = run_with(way(Activated::Silu, Route::Phase { tau }, Cut::Nothing)).1;
        assert!(phase.iter().all(|share| (share - 0.875).abs() < 0.05), "{phase:?}");
        let hash = run_with(way(Activated::Silu, Route::Hash { share: 0.125 }, Cut::Nothing)).1;
        assert!(hash.iter().all(|share| (share - 0.875).abs() < 0.02), "{hash:?}");
        let reached = |layer, id| drawn(layer, id, 400, 0.5).collect::<Vec<_>>();
        assert!(reached(0, 1) == reached(0, 1) && reached(0, 1) != reached(1, 1) && reached(0, 1) != reached(0, 2));
    }

    #[test]
    fn predictors_choose_the_largest_gates_of_their_space() {
        let all = |neurons| {
            let identity = (0..400 * 400).map(|i| if i / 400 == i % 400 { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
            let predictor = Predictor { left: vec![identity; 2], neurons };
            run_with(way(Activated::ReluSquared, Route::All, Cut::Predicted(predictor)))
        };
        // Gates that are 0 anyhow are the first to go.
        let (whole, half) = run_with(way(Activated::ReluSquared, Route::All, Cut::Nothing));
        let (most, zero) = all(300);
        assert!(zero == half && whole.iter().zip(&most).all(|(a, b)| a.to_bits() == b.to_bits()));
        assert_eq!(all(20).1, [0.95, 0.95]);
        // A space of one vector knows one order and its opposite.
        let one = vec![vec![0.05; 400]; 2];
        let predictor = Predictor { left: one, neurons: 40 };
        let (_, zero) = run_with(way(Activated::Silu, Route::All, Cut::Predicted(predictor)));
        assert_eq!(zero, [0.9, 0.9]);
    }

    #[test]
    fn pruning_leaves_the_neurons_that_it_names() {
        let pruned = |neurons| run_with(way(Activated::Silu, Route::All, Cut::Pruned(neurons)));
        let all = (0..400).collect::<Vec<_>>();
        assert_eq!(pruned(vec![all[..40].to_vec(), all[390..].to_vec()]).1, [0.9, 0.975]);
        let (whole, same) = (run(&network()).0, pruned(vec![all.clone(), all]).0);
        assert!(whole.iter().zip(&same).all(|(a, b)| (a - b).abs() < 1e-5));
    }

    #[test]
    fn phases_and_angles_have_gradients() {
        let network = network().with_feed_forward(way(Activated::Silu, Route::Phase { tau: 0.4 }, Cut::Nothing));
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

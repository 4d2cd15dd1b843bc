//! Ways through the feed-forward part in which most neurons can be left out, for comparisons with SwiGLU.
//!
//! A neuron is left out where its gate is 0: neither its row of the up matrix nor its column of the down matrix would have
//! to be read.
//! Here they are: this is about what is predicted, in plain operations with candle's own gradients.

use crate::Error;
use candle_core::Tensor;

/// What becomes of the gate before it multiplies the up part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activated {
    /// `x sigmoid(x)`.
    Silu,
    /// `max(x, 0)^2` (So et al., 2021, "Primer").
    ReluSquared,
}

/// A way through the feed-forward part.
#[derive(Clone, Debug)]
pub struct FeedForward {
    /// Of the gate.
    pub activated: Activated,
    /// Neurons whose activated gate is below this size are left out, layer by layer; empty: none (Lee et al., 2024, "CATS").
    pub thresholds: Vec<f32>,
}

impl FeedForward {
    /// The gates, 0 where a neuron is left out, and the neurons, both `(tokens, ffn)`, from rows of gate and up part.
    pub(super) fn neurons(&self, layer: usize, gate_up: &Tensor) -> Result<(Tensor, Tensor), Error> {
        let ffn = gate_up.dim(1)? / 2;
        let gate = gate_up.narrow(1, 0, ffn)?.contiguous()?;
        let up = gate_up.narrow(1, ffn, ffn)?.contiguous()?;
        let mut gate = match self.activated {
            Activated::Silu => gate.silu()?,
            Activated::ReluSquared => gate.relu()?.sqr()?,
        };
        if let Some(&threshold) = self.thresholds.get(layer) {
            let large = gate.abs()?.ge(f64::from(threshold))?.to_dtype(gate.dtype())?;
            gate = (gate * large)?;
        }
        let neurons = (&gate * up)?;
        Ok((gate, neurons))
    }
}

#[cfg(test)]
mod tests {
    use super::{Activated, FeedForward};
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

    fn way(activated: Activated, thresholds: Vec<f32>) -> FeedForward {
        FeedForward { activated, thresholds }
    }

    #[test]
    fn silu_through_all_neurons_is_swiglu() {
        let ((want, none), (found, zero)) = (run(&network()), run_with(way(Activated::Silu, Vec::new())));
        assert!(none.is_empty() && zero == [0.0, 0.0]);
        assert!(want.iter().zip(&found).all(|(a, b)| (a - b).abs() < 1e-5));
        // Nothing is left of the feed-forward parts beyond every threshold.
        assert_eq!(run_with(way(Activated::Silu, vec![1e9, 0.0])).1, [1.0, 0.0]);
    }

    #[test]
    fn squared_relu_leaves_out_half_of_the_first_neurons() {
        let half = run_with(way(Activated::ReluSquared, Vec::new())).1;
        assert!(half.iter().all(|share| (share - 0.5).abs() < 0.05), "{half:?}");
    }
}

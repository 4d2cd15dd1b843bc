//! Networks of spiking neurons, as a `.rin` file describes them.
//!
//! The arrays of a layer are tensors `layer.L.keep_v` and `.keep_u` (u16), `.threshold`, `.current` and `.bias` (i32), `.unit` (f32), one
//! element per neuron, and `layer.L.weight.P` (i8, `[source, outputs]`) for its projections. What they mean is defined
//! where they run, in `rin_engine::snn` and `rin_kernels::ops::lif`.

use serde::{Deserialize, Serialize};

use crate::config::inconsistent;
use crate::dtype::DType;
use crate::error::Error;
use crate::network::{Output, Port};
use crate::tensor::{TensorTable, check_tensor};

/// Most layers, and most projections of a layer.
const MAX_LAYERS: usize = 64;
/// Most neurons of a layer.
const MAX_WIDTH: usize = 1 << 20;

/// A network of spiking neurons.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spiking {
    /// Time steps of a row; with trains as input, the most that a row may have.
    pub steps: usize,
    /// How a row becomes spikes.
    pub coding: SpikingCoding,
    /// What the last layer is read for.
    pub readout: SpikingReadout,
    /// The layers, in order.
    pub layers: Vec<SpikingLayer>,
}

/// How a row becomes spikes; `scale` brings a value to at most 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SpikingCoding {
    /// A constant current.
    Direct {
        /// Factor on the values.
        scale: f32,
    },
    /// The value is the probability of a spike in each step.
    Rate {
        /// Factor on the values.
        scale: f32,
        /// Seed of the draws.
        seed: u64,
    },
    /// One spike, the earlier the larger the value.
    Latency {
        /// Factor on the values.
        scale: f32,
    },
    /// The row is trains: `(steps, inputs)`.
    Spikes,
}

/// What the last layer is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpikingReadout {
    /// Spikes over all steps.
    SpikeCount,
    /// The mean membrane.
    Membrane,
}

/// What a spike does to the membrane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpikingReset {
    /// To 0.
    Zero,
    /// By the threshold.
    Subtract,
}

/// Where the spikes of a projection come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpikingSource {
    /// The network's input.
    Input,
    /// A layer, by its place.
    Layer(usize),
}

/// A layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpikingLayer {
    /// Neurons.
    pub outputs: usize,
    /// Fractional bits of the membrane.
    pub shift: u32,
    /// What a spike does.
    pub reset: SpikingReset,
    /// Whether there is a synapse's current.
    pub synapse: bool,
    /// Whether membranes have units.
    pub units: bool,
    /// Where the projections come from.
    pub projections: Vec<SpikingSource>,
}

impl Spiking {
    /// Inputs of a step, given the port: of trains the last dimension.
    pub fn inputs(&self, port: &Port) -> usize {
        match self.coding {
            SpikingCoding::Spikes => port.shape.last().copied().unwrap_or(0),
            _ => port.width(),
        }
    }

    /// Holds the description against the ports and the tensors.
    ///
    /// # Errors
    /// `InconsistentConfig`, `MissingTensor`, `BadType`, `BadShape`.
    pub(crate) fn check(&self, inputs: &[Port], outputs: &[Output], tensors: &TensorTable) -> Result<(), Error> {
        let ([input], [_]) = (inputs, outputs) else {
            return Err(inconsistent("inputs", "one input and one output", inputs.len()));
        };
        let trains = self.coding == SpikingCoding::Spikes;
        if trains && input.shape.first() != Some(&self.steps) || input.shape.len() != if trains { 2 } else { 1 } {
            let expected = if trains { "trains of the shape [steps, inputs]" } else { "rows of the shape [inputs]" };
            return Err(inconsistent("inputs", expected, format!("{:?}", input.shape)));
        }
        if !(1..=MAX_LAYERS).contains(&self.layers.len()) {
            return Err(inconsistent("layers", format!("1 to {MAX_LAYERS}"), self.layers.len()));
        }
        for (at, layer) in self.layers.iter().enumerate() {
            if !(1..=MAX_WIDTH).contains(&layer.outputs) || layer.projections.len() > MAX_LAYERS {
                let found = format!("{} neurons, {} projections", layer.outputs, layer.projections.len());
                return Err(inconsistent(
                    "layers",
                    format!("1 to {MAX_WIDTH} neurons, {MAX_LAYERS} projections"),
                    found,
                ));
            }
            let each =
                |name: &str, dtype| check_tensor(tensors, &format!("layer.{at}.{name}"), dtype, &[layer.outputs]);
            each("keep_v", DType::U16)?;
            each("threshold", DType::I32)?;
            each("current", DType::I32)?;
            each("bias", DType::I32)?;
            if layer.synapse {
                each("keep_u", DType::U16)?;
            }
            if layer.units {
                each("unit", DType::F32)?;
            }
            for (number, from) in layer.projections.iter().enumerate() {
                let width = match *from {
                    SpikingSource::Input => Some(self.inputs(input)),
                    SpikingSource::Layer(from) => self.layers.get(from).map(|layer| layer.outputs),
                };
                let width =
                    width.ok_or_else(|| inconsistent("projections", "a layer that exists", format!("{from:?}")))?;
                check_tensor(tensors, &format!("layer.{at}.weight.{number}"), DType::I8, &[width, layer.outputs])?;
            }
        }
        Ok(())
    }
}

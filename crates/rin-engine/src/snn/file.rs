//! A network between its file and its integers.

use super::network::{Coding, Layer, Network, Projection, Readout, Source};
use crate::Error;
use rin_kernels::ops::lif::Reset;
use rin_model::{
    Body, Mode, ModelFile, Output, OutputKind, Port, Spiking, SpikingCoding, SpikingLayer, SpikingReadout,
    SpikingReset, SpikingSource,
};

impl Network {
    /// The network of a `.rin` file of the mode `snn`.
    ///
    /// # Errors
    ///
    /// [`Error::NoPlan`] for a file of another mode; when the network is unsound.
    pub fn of_file(file: &ModelFile) -> Result<Self, Error> {
        let mode = file.mode().map_or("unknown", Mode::name);
        let Some(described) = file.network() else { return Err(Error::NoPlan(mode)) };
        let (Body::Spiking(spiking), [input]) = (&described.body, described.inputs.as_slice()) else {
            return Err(Error::NoPlan(mode));
        };
        let layers = spiking.layers.iter().enumerate().map(|(at, layer)| read_layer(file, at, layer)).collect();
        let network = Self {
            inputs: spiking.inputs(input),
            steps: spiking.steps,
            coding: match spiking.coding {
                SpikingCoding::Direct { scale } => Coding::Direct { scale },
                SpikingCoding::Rate { scale, seed } => Coding::Rate { scale, seed },
                SpikingCoding::Latency { scale } => Coding::Latency { scale },
                SpikingCoding::Spikes => Coding::Spikes,
            },
            layers,
            readout: match spiking.readout {
                SpikingReadout::SpikeCount => Readout::SpikeCount,
                SpikingReadout::Membrane => Readout::Membrane,
            },
        };
        network.check()?;
        Ok(network)
    }

    /// What a file says of the network, beside the arrays of its layers.
    pub fn describe(&self, name: Option<&str>) -> rin_model::Network {
        let layer = |layer: &Layer| SpikingLayer {
            outputs: layer.outputs(),
            shift: layer.shift,
            reset: match layer.reset {
                Reset::Zero => SpikingReset::Zero,
                Reset::Subtract => SpikingReset::Subtract,
            },
            synapse: !layer.keep_u.is_empty(),
            units: !layer.unit.is_empty(),
            projections: layer
                .projections
                .iter()
                .map(|projection| match projection.from {
                    Source::Input => SpikingSource::Input,
                    Source::Layer(at) => SpikingSource::Layer(at),
                })
                .collect(),
        };
        let shape = match self.coding {
            Coding::Spikes => vec![self.steps, self.inputs],
            _ => vec![self.inputs],
        };
        rin_model::Network {
            mode: Mode::Snn,
            name: name.map(str::to_owned),
            inputs: vec![Port::row("input", shape)],
            outputs: vec![Output { name: "output".to_owned(), kind: OutputKind::Logits, labels: Vec::new() }],
            body: Body::Spiking(Spiking {
                steps: self.steps,
                coding: match self.coding {
                    Coding::Direct { scale } => SpikingCoding::Direct { scale },
                    Coding::Rate { scale, seed } => SpikingCoding::Rate { scale, seed },
                    Coding::Latency { scale } => SpikingCoding::Latency { scale },
                    Coding::Spikes => SpikingCoding::Spikes,
                },
                readout: match self.readout {
                    Readout::SpikeCount => SpikingReadout::SpikeCount,
                    Readout::Membrane => SpikingReadout::Membrane,
                },
                layers: self.layers.iter().map(layer).collect(),
            }),
        }
    }
}

/// The arrays of a layer. That they are there, of the right type and shape, was checked when the file was opened; a
/// length that is wrong all the same is found by [`Network::check`].
fn read_layer(file: &ModelFile, at: usize, layer: &SpikingLayer) -> Layer {
    let bytes = |name: &str| file.tensor(&format!("layer.{at}.{name}")).map_or(&[][..], |tensor| file.bytes(tensor));
    let words = |name: &str| -> Vec<i32> { bytes(name).as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect() };
    let halves =
        |name: &str| -> Vec<u16> { bytes(name).as_chunks().0.iter().map(|b| u16::from_le_bytes(*b)).collect() };
    let projection = |(number, from): (usize, &SpikingSource)| Projection {
        from: match *from {
            SpikingSource::Input => Source::Input,
            SpikingSource::Layer(from) => Source::Layer(from),
        },
        weights: bytes(&format!("weight.{number}")).iter().map(|b| b.cast_signed()).collect(),
    };
    Layer {
        projections: layer.projections.iter().enumerate().map(projection).collect(),
        keep_v: halves("keep_v"),
        keep_u: if layer.synapse { halves("keep_u") } else { Vec::new() },
        threshold: words("threshold"),
        current: words("current"),
        bias: words("bias"),
        shift: layer.shift,
        reset: match layer.reset {
            SpikingReset::Zero => Reset::Zero,
            SpikingReset::Subtract => Reset::Subtract,
        },
        unit: if layer.units {
            words("unit").iter().map(|&b| f32::from_bits(b.cast_unsigned())).collect()
        } else {
            Vec::new()
        },
    }
}

//! What a spiking network is, and what makes one sound.

use rin_kernels::ops::lif::{KEEP_ALL, Reset};

/// Layers that a network may have.
pub const MAX_LAYERS: usize = 64;

/// Neurons that a layer, and inputs that a network, may have.
const MAX_WIDTH: usize = 1 << 20;
/// Time steps that a row may take.
const MAX_STEPS: usize = 1 << 20;
/// The least shift of a sum to the left that can no longer be told from an error.
const MAX_SHIFT: u32 = 16;

/// A spiking network.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Values, or spike trains, that a row of input has.
    pub inputs: usize,
    /// Time steps per row; with [`Coding::Spikes`] the most that a row may have.
    pub steps: usize,
    /// How a row becomes spikes.
    pub coding: Coding,
    /// The layers, in the order in which a step computes them. The last one is the output.
    pub layers: Vec<Layer>,
    /// What the output layer's neurons are read for.
    pub readout: Readout,
}

/// How a row of input becomes spikes. `scale` brings a value to its unit: `x * scale` is at most 1 in magnitude.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Coding {
    /// A constant current: each value in 7 bits with sign, `round(x * scale * 128)` up to 127, weighs in each step like
    /// that many 128ths of a spike.
    Direct {
        /// Factor on the values.
        scale: f32,
    },
    /// A spike with probability `x * scale` in each step, drawn for (seed, row, step, input).
    Rate {
        /// Factor on the values.
        scale: f32,
        /// Seed of the draws.
        seed: u64,
    },
    /// One spike, the earlier the larger the value: at step `round((1 - x * scale) * (steps - 1))`; none for 0 and below.
    Latency {
        /// Factor on the values.
        scale: f32,
    },
    /// The row holds the trains: `steps × inputs` zeros and ones.
    Spikes,
}

/// What the neurons of the output layer are read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readout {
    /// Spikes over all steps.
    SpikeCount,
    /// The mean over all steps of the membrane, in the network's own units ([`Layer::unit`]).
    Membrane,
}

/// Where spikes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The network's input.
    Input,
    /// A layer, by its place.
    Layer(usize),
}

/// Weights from a source to a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    /// Where the spikes come from.
    pub from: Source,
    /// `source × outputs`, input-major.
    pub weights: Vec<i8>,
}

/// A layer of neurons, one entry per neuron in each vector. See [`rin_kernels::ops::lif`] for what they do.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// What feeds the layer.
    pub projections: Vec<Projection>,
    /// What a step keeps of the membrane, of 4096.
    pub keep_v: Vec<u16>,
    /// What a step keeps of the synapse's current, of 4096; empty where there is no synapse.
    pub keep_u: Vec<u16>,
    /// The membrane above which a neuron spikes; [`i32::MAX`] for one that never does.
    pub threshold: Vec<i32>,
    /// A constant input current.
    pub current: Vec<i32>,
    /// Added to the membrane in each step, past the synapse.
    pub bias: Vec<i32>,
    /// Fractional bits of the membrane.
    pub shift: u32,
    /// What a spike does.
    pub reset: Reset,
    /// What one unit of the membrane stands for; empty where that is 1.
    pub unit: Vec<f32>,
}

impl Layer {
    /// A layer of like neurons without synapse, current or bias.
    pub fn new(outputs: usize, keep_v: u16, threshold: i32, shift: u32, reset: Reset) -> Self {
        Self {
            projections: Vec::new(),
            keep_v: vec![keep_v; outputs],
            keep_u: Vec::new(),
            threshold: vec![threshold; outputs],
            current: vec![0; outputs],
            bias: vec![0; outputs],
            shift,
            reset,
            unit: Vec::new(),
        }
    }

    /// Neurons of the layer.
    pub fn outputs(&self) -> usize {
        self.keep_v.len()
    }
}

/// What is wrong with a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spiking network, {place}: {what}; the model was made or converted wrongly")]
pub struct SnnError {
    /// The part of the network.
    pub place: String,
    /// What is wrong with it.
    pub what: String,
}

impl Network {
    /// Values that a row of input holds, given its number of steps.
    pub fn row_len(&self, steps: usize) -> Option<usize> {
        match self.coding {
            Coding::Spikes => self.inputs.checked_mul(steps),
            _ => Some(self.inputs),
        }
    }

    /// Values that a row of output holds.
    pub fn outputs(&self) -> usize {
        self.layers.last().map_or(0, Layer::outputs)
    }

    /// How many neurons or inputs a source has; none where there is no such layer.
    pub fn width(&self, source: Source) -> Option<usize> {
        match source {
            Source::Input => Some(self.inputs),
            Source::Layer(at) => self.layers.get(at).map(Layer::outputs),
        }
    }

    /// Checks that every part fits every other and that no sum of a step leaves 32 bits.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), SnnError> {
        let wrong = |place: &str, what: String| Err(SnnError { place: place.to_owned(), what });
        if self.inputs == 0 || self.inputs > MAX_WIDTH {
            return wrong("inputs", format!("{} of them, but it may have 1 to {MAX_WIDTH}", self.inputs));
        }
        if self.steps == 0 || self.steps > MAX_STEPS {
            return wrong("steps", format!("{} of them, but it may take 1 to {MAX_STEPS}", self.steps));
        }
        if let Coding::Direct { scale } | Coding::Rate { scale, .. } | Coding::Latency { scale } = self.coding
            && !(scale.is_finite() && scale > 0.0)
        {
            return wrong("coding", format!("a scale of {scale}, but it must be positive"));
        }
        if self.layers.is_empty() || self.layers.len() > MAX_LAYERS {
            return wrong("layers", format!("{} of them, but it may have 1 to {MAX_LAYERS}", self.layers.len()));
        }
        self.layers.iter().enumerate().try_for_each(|(at, layer)| self.check_layer(at, layer))
    }

    fn check_layer(&self, at: usize, layer: &Layer) -> Result<(), SnnError> {
        let wrong = |what: String| Err(SnnError { place: format!("layer {at}"), what });
        let n = layer.outputs();
        if n == 0 || n > MAX_WIDTH {
            return wrong(format!("{n} neurons, but it may have 1 to {MAX_WIDTH}"));
        }
        let lengths = [
            ("thresholds", layer.threshold.len(), false),
            ("currents", layer.current.len(), false),
            ("biases", layer.bias.len(), false),
            ("synapses", layer.keep_u.len(), true),
            ("units", layer.unit.len(), true),
        ];
        for (name, found, optional) in lengths {
            if found != n && !(optional && found == 0) {
                return wrong(format!("{found} {name} for {n} neurons"));
            }
        }
        if let Some(keep) = layer.keep_v.iter().chain(&layer.keep_u).find(|&&keep| keep > KEEP_ALL) {
            return wrong(format!("a decay that keeps {keep} of {KEEP_ALL}"));
        }
        if let Some(threshold) = layer.threshold.iter().find(|&&threshold| threshold < 0) {
            return wrong(format!("a threshold of {threshold}, but it must not be negative"));
        }
        if let Some(unit) = layer.unit.iter().find(|unit| !(unit.is_finite() && **unit > 0.0)) {
            return wrong(format!("a unit of {unit}, but it must be positive"));
        }
        if layer.shift > MAX_SHIFT {
            return wrong(format!("{} fractional bits, but it may have at most {MAX_SHIFT}", layer.shift));
        }
        // Largest magnitude of a step's sum, shifted, with the constants; weights may be −128.
        let mut most: u64 = 0;
        for projection in &layer.projections {
            let Some(width) = self.width(projection.from) else {
                return wrong(format!("a projection from {:?}, which does not exist", projection.from));
            };
            if width.checked_mul(n) != Some(projection.weights.len()) {
                return wrong(format!("{} weights for {width} × {n}", projection.weights.len()));
            }
            if projection.from == Source::Input && matches!(self.coding, Coding::Direct { .. }) {
                if layer.projections.iter().filter(|p| p.from == Source::Input).count() > 1 {
                    return wrong("two projections from a direct input, but there may be one".to_owned());
                }
                // Values of 7 bits make 127 times as much before they are scaled back.
                if width > (1 << 31) / (128 * 128) {
                    return wrong(format!("{width} direct inputs are more than 32 bits can add"));
                }
            }
            most = most.saturating_add(u64::try_from(width).unwrap_or(u64::MAX).saturating_mul(128));
        }
        let constant = layer.current.iter().chain(&layer.bias).map(|c| u64::from(c.unsigned_abs())).max().unwrap_or(0);
        let most = (most << layer.shift).saturating_add(constant.saturating_mul(2));
        if most > 1 << 30 {
            return wrong(format!(
                "sums of up to {most}, but 32 bits with a margin hold {}; use a smaller shift",
                1 << 30
            ));
        }
        Ok(())
    }
}

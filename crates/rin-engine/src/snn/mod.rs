//! Spiking networks: layers of integer leaky integrate-and-fire (LIF) neurons over a number of time steps.
//!
//! A [`Network`] says what there is: layers, the projections between them, how inputs become spikes and how spikes
//! become an answer. A [`Simulator`] holds it ready to run, in one mapping, and takes rows of inputs. What a neuron does
//! in a step is defined in [`rin_kernels::ops::lif`]; all of it is integers, so a row's result is the same on every
//! tier and for any number of threads, which share rows and nothing else.
//!
//! Within a step the layers are computed in their order. A projection from an earlier layer sees the spikes of the same
//! step; one from the layer itself or from a later one, a recurrent connection, sees those of the step before.

mod coding;
mod file;
mod layout;
mod network;
mod run;

#[cfg(test)]
mod tests;

pub(crate) use layout::Layout;
pub use layout::Piece;
pub use network::{Coding, Layer, MAX_LAYERS, Network, Projection, Readout, SnnError, Source};
pub use run::{Activity, Simulator, SimulatorOptions, Watch};
pub(crate) use run::{Counts, Run, SpikingKernels, check_input, lay_out};

/// Spikes of a hundred inputs above which the product with all inputs is taken instead of a row per spike.
///
/// Measured by `cargo bench -p rin-kernels --bench lif`; the table stands in `docs/snn.md`. The two give the same
/// integers, so the figure decides on time alone.
pub const DENSE_PERCENT: usize = 45;

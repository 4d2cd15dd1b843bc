//! Training of dense classifiers for the integers that they will run in.
//!
//! From `quant_from` on the forward pass rounds weights to the 8-bit steps of each output, and the input and every hidden
//! layer to 8 bits with one step per layer, as the exported file will have them; gradients pass through the rounding
//! (Bengio et al., 2013) and stop where a value lies beyond the last step. What comes out is a `.rin` file of the mode
//! `rin`, and an evaluation that compares its integers with the real numbers.

pub mod config;
pub mod network;
mod train;

pub use crate::classifier::Paired as Comparison;
pub use config::MlpConfig;
pub use train::{Epoch, MlpSummary, compare, dense, run, train};

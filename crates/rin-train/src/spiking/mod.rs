//! Training of spiking networks by backpropagation through time with surrogate gradients (Neftci, Mostafa and Zenke, 2019).
//!
//! The forward pass is that of the integer network in real numbers: the same leak of `1 - 2^-k`, the same 7-bit inputs,
//! a threshold of 1, and, from `quant_from` on, weights rounded to the 8-bit steps that the exported file will have. In
//! the backward pass a spike has the slope of a smooth function ([`Surrogate`]), and its reset counts as a constant.
//! What comes out is a `.rin` file whose network is integers, and an evaluation that compares it with the real numbers.

pub mod config;
pub mod data;
pub mod evaluate;
mod export;
pub mod network;
mod train;

pub use crate::classifier::mcnemar;
pub use config::{SpikingConfig, Surrogate};
pub use evaluate::Comparison;
pub use train::{Epoch, SpikingSummary, run, train};

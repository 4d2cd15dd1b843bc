//! Trains the networks that RIN runs, with the runtime's own arithmetic in the forward pass.
//!
//! A [`TrainConfig`] (a TOML file) comes in; a `.rin` file, a log and checkpoints come out. The way of the data: text →
//! [`vocabulary`] → [`data`] → [`network`] over [`ops`] → loss → gradients → [`optimizer`] → [`parameters`] → export.
//! [`run`] goes it step by step.
//!
//! The forward pass calls the kernels of `rin-kernels` themselves, so that with `quant` the logits of the training are
//! the bits that the runtime computes from the exported file. Backward passes are written out per operation and tied
//! together by candle's automatic differentiation.

pub mod arms;
pub mod checkpoint;
mod classifier;
mod clock;
pub mod config;
pub mod data;
mod error;
pub mod evaluate;
pub mod export;
mod heap;
mod journal;
pub mod kernels;
mod memory_config;
pub mod mlp;
pub mod mqar;
pub mod network;
pub mod ops;
pub mod optimizer;
pub mod parameters;
mod plot;
pub mod random;
pub mod spiking;
pub mod train;
pub mod trials;
pub mod vocabulary;
pub mod weights;

pub use config::TrainConfig;
pub use error::Error;
pub use train::{Event, Outcome, Progress, RunOptions, Summary, run};

//! From weights to text: plan, arena, run, logits, sampler.
//!
//! A [`ModelFile`](rin_model::ModelFile) comes in; [`plan`] says what every step does and what every byte is for;
//! [`arena`] holds the bytes; [`run`] executes the steps on the workers of [`pool`]; [`engine`] feeds sequences of
//! tokens and hands out logits; [`sampler`], [`tokenizer`] and [`text_stop`] turn them into text. Nothing calls back up
//! this line, and after [`Engine::load`] nothing allocates.
#![deny(unsafe_code)]

pub mod arch;
pub mod arena;
pub mod cache;
pub mod chain;
pub mod digest;
pub mod engine;
mod error;
pub mod eval;
mod feed;
pub mod generate;
pub mod graph;
pub mod limits;
pub mod network;
pub mod plan;
pub mod pool;
pub mod run;
pub mod sampler;
pub mod snn;
pub mod state;
pub mod text_stop;
pub mod tokenizer;
pub mod topology;
pub mod verify;
pub mod weights;

pub use engine::{Engine, LoadOptions};
pub use error::Error;
pub use feed::{Feed, Rows, Sequence, Trace};
pub use network::NetworkEngine;
pub use plan::{Plan, PlanOptions};

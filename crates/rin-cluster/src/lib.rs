//! One network over several processes: who they are, what each loads, and what they tell each other.
//!
//! Every process is started with the same command line. A [`World`] numbers them and carries bytes between any two: MPI
//! (feature `mpi`), or memory ([`in_memory`]), over the same code. Rank 0 leads: it hears who is there ([`Ranks::gather`]),
//! shares the layers out, has every rank open its file and compares what they found, and then uses the [`Engine`] that
//! [`Ranks::load`] gives as any other. The others [`serve`](Follower::serve) until it ends. What goes wrong in any of them is
//! told by rank 0, with the rank and its host; and all end with one exit code.
//!
//! What the stages of a network say to each other while they run is [`rin_engine::chain`]'s matter.
//!
//! [`Engine`]: rin_engine::Engine

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::panic, clippy::expect_used, clippy::unwrap_used))]

pub mod energy;
mod fingerprint;
mod follower;
mod memory;
#[cfg(feature = "mpi")]
pub mod mpi;
pub mod predict;
mod ranks;
mod ring;
mod stages;
mod wire;
mod world;

pub use fingerprint::fingerprint;
pub use follower::{Follower, Program};
pub use memory::in_memory;
pub use ranks::Ranks;
pub use rin_engine::chain::Failure;
pub use stages::{Stages, stages};
pub use wire::{Hello, LoadOrder};
pub use world::{Tag, World, launched_size};

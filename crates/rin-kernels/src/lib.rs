//! The arithmetic of the RIN engine: one folder per operation, one file per instruction tier.
//!
//! Every operation is declared once with `kernel!`, which gives a typed handle, the only unsafe call, and
//! a test that holds each variant against the scalar definition bit for bit. The scalar tier is the definition of
//! the result; every other tier is a faster way to the same bits.
//!
//! What comes in: packed weights ([`pack`]), activations, views. What goes out: f32 rows. Nothing here allocates,
//! detects the processor per call, or holds state.
#![expect(unsafe_code, reason = "CPU instructions live in this crate and nowhere else")]

pub mod alloc;
mod cpu;
#[macro_use]
mod table;
pub mod format;
pub mod half;
pub mod math;
pub mod ops;
pub mod pack;
mod view;

pub use cpu::{Cpu, FloatEnv, FloatScope, Tier, UnknownTier};
pub use format::Format;
pub use view::MatMut;

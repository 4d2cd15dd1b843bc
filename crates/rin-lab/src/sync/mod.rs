//! Clocks that agree: coupled oscillators, offsets measured there and back, and the beacon of a leader.

pub mod clocks;
pub mod kuramoto;

//! Topological data analysis: the shape of a cloud of points as bars, and how far two shapes are apart.
//!
//! [`Distances`] come in; [`persistence`] gives the bars of connected components (H0), loops (H1) and voids (H2);
//! [`bottleneck`] and [`wasserstein`] compare bars, [`rtd`] compares two clouds of the same things.

mod diagram;
mod distances;
pub mod read;
mod rips;
mod rtd;
#[cfg(test)]
mod tests;

pub use diagram::{Ground, betti, bottleneck, total_persistence, wasserstein};
pub use distances::Distances;
pub use rips::persistence;
pub use rtd::rtd;

/// How long a feature lives, as the scale grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bar {
    /// The scale at which it appears.
    pub birth: f64,
    /// The scale at which it is filled; infinite where it stays.
    pub death: f64,
}

impl Bar {
    /// Its length.
    pub fn length(&self) -> f64 {
        self.death - self.birth
    }
}

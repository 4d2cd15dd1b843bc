//! What the machine itself can do, measured with the threads of the engine: bytes read and products made per second.
//!
//! The figures say how much of the machine a model's speed takes. They are lower bounds of the hardware's own.

mod bandwidth;
mod int8;

use rin_engine::pool::{Pool, PoolOptions};
use rin_engine::topology::{Policy, Topology};
use rin_kernels::{Cpu, FloatEnv, Tier};
use serde::Serialize;

use crate::Error;
use crate::stats::sorted;

pub use bandwidth::{BufferSize, read_bandwidth};
pub use int8::int8_throughput;

/// Repeated measurements of a rate, and the best of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Peak {
    /// The highest rate.
    pub best: f64,
    /// All rates, in the order of measurement.
    pub samples: Vec<f64>,
}

impl Peak {
    /// Of rates; none of no rates.
    fn of(samples: Vec<f64>) -> Option<Self> {
        let best = *sorted(&samples).last()?;
        Some(Self { best, samples })
    }
}

/// The limits of the machine for one configuration of threads.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Peaks {
    /// Workers.
    pub threads: usize,
    /// Tier of the products.
    pub tier: &'static str,
    /// Bytes read from memory, in 10⁹ per second.
    pub gb_per_s: Option<Peak>,
    /// Operations of products of 8-bit integers, in 10¹² per second; a product and its addition are two.
    pub tops: Option<Peak>,
    /// What could not be measured as it should be, in words.
    pub notes: Vec<String>,
}

/// Measures with `threads` workers, placed as the engine's would be, on the calling thread and new ones.
///
/// # Errors
///
/// When the threads or the memory are not to be had.
pub fn measure(threads: usize, tier: Tier, affinity: Policy) -> Result<Peaks, Error> {
    let topology = Topology::of_this_machine();
    let cpus = topology.placement(threads, affinity);
    let pin_caller = affinity != Policy::None;
    let options = PoolOptions { threads, cpus, pin_caller, worker_setup: FloatEnv::set, ..PoolOptions::default() };
    let mut pool = Pool::new(options)?;
    let size = BufferSize::of_this_machine(&topology);
    let gb_per_s = read_bandwidth(&mut pool, size.bytes)?;
    let cpu = Cpu::detect().up_to(tier);
    let tops = int8_throughput(&mut pool, cpu);
    Ok(Peaks { threads, tier: cpu.best().name(), gb_per_s, tops, notes: size.notes })
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "exact in binary, or made by the same division")]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_the_highest() {
        assert_eq!(Peak::of(vec![1.0, 3.0, 2.0]).unwrap().best, 3.0);
        assert_eq!(Peak::of(Vec::new()), None);
    }
}

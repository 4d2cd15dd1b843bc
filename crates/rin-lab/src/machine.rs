//! Which machine made a result.

use rin_engine::topology::Topology;
use rin_kernels::Cpu;
use serde::{Deserialize, Serialize};

/// A machine, as far as results depend on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name, as the system tells it; empty where it does not.
    pub processor: String,
    /// Processors that may be used.
    pub cores: usize,
    /// The best instruction tier.
    pub tier: String,
}

impl Machine {
    /// This machine.
    pub fn here() -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Self {
            processor: name.map(|(_, name)| name.trim().to_owned()).unwrap_or_default(),
            cores: Topology::of_this_machine().allowed_cores(),
            tier: Cpu::detect().tiers().last().map(|tier| tier.name().to_owned()).unwrap_or_default(),
        }
    }
}

//! The memories that are compared, by name.

use crate::config::MemoryConfig;
use rin_model::{Address, ReadBy, SlotStateType, SlotValues};

/// The arms by name. The numbered ones are BHRR's: up to `a6` each adds to the one before (norm and gate of what is read;
/// fixed directions and reads by queries; a learned router; three slots and real numbers; decays; delta writes). `a7` is
/// `a3` with values of 8 bits, `a9` has a matrix of keys by values in each slot, and decays, `a10` is `a9` with delta
/// writes.
pub const ARMS: [&str; 20] = [
    "softmax",
    "window",
    "linear",
    "retnet",
    "gla",
    "delta",
    "gated-delta",
    "mamba2",
    "gsa",
    "rwkv7",
    "a0",
    "a1",
    "a2",
    "a3",
    "a4",
    "a5",
    "a6",
    "a7",
    "a9",
    "a10",
];

/// The memory of an arm, with `slots` slots where it has any; none for softmax, with or without a window.
pub fn arm(name: &str, slots: usize) -> Option<MemoryConfig> {
    let Some(number) = name.strip_prefix('a').and_then(|n| n.parse::<u32>().ok()) else {
        return (!matches!(name, "softmax" | "window")).then(|| MemoryConfig { slots, ..MemoryConfig::of(name) });
    };
    let mut m = MemoryConfig { slots, output_gate: false, output_norm: false, ..MemoryConfig::of("bhrr") };
    (m.address, m.read_by, m.state) = (Address::Hash, ReadBy::Key, SlotStateType::I32);
    if number >= 1 {
        (m.output_norm, m.output_gate) = (true, true);
    }
    if number >= 2 {
        (m.address, m.read_by) = (Address::Lsh, ReadBy::Query);
    }
    if number >= 3 {
        m.address = Address::Router;
    }
    match number {
        7 => m.values = SlotValues::Bits8,
        9.. => {
            (m.outer, m.decay, m.delta) = (true, true, number >= 10);
            (m.values, m.state) = (SlotValues::Float, SlotStateType::F32);
        }
        4.. => {
            (m.top, m.state) = (slots.min(3), SlotStateType::F32);
            m.values = SlotValues::Float;
            m.decay = number >= 5;
            m.delta = number >= 6;
        }
        _ => {}
    }
    Some(m)
}

#[cfg(test)]
mod tests {
    use super::{ARMS, arm};
    use crate::config::{ModelConfig, TokenizerKind};

    #[test]
    fn every_arm_can_be_built() {
        for name in ARMS {
            let memory = arm(name, 16);
            assert_eq!(memory.is_none(), matches!(name, "softmax" | "window"), "{name}");
            let model = ModelConfig {
                dim: 32,
                layers: 2,
                heads: 2,
                ffn: 64,
                ctx: 32,
                memory,
                ..ModelConfig::plain(TokenizerKind::Byte)
            };
            assert!(model.check().is_ok(), "{name}: {:?}", model.check());
        }
    }
}

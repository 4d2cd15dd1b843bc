//! Memories of a fixed size in the place of attention: which kind a layer has, and its numbers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::config::{Config, inconsistent};
use crate::error::Error;

/// Columns of a memory come in blocks of this many.
const LANES: usize = 16;
/// Most heads, rows or slots.
const MAX_PART: usize = 1 << 16;
/// Most taps of the convolution before a memory.
pub const MAX_CONV: usize = 8;

/// What a layer remembers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum MemoryKind {
    /// Sums of keys times values (Katharopoulos et al., 2020).
    Linear,
    /// The same with one constant decay per head (Sun et al., 2023).
    Retnet,
    /// A decay per key number that depends on the token (Yang et al., 2023).
    Gla,
    /// The delta rule: what is held at a key is replaced (Yang et al., 2024).
    Delta,
    /// The delta rule with a decay per head that depends on the token (Yang et al., 2024).
    GatedDelta,
    /// A decay and a step per head that depend on the token (Dao and Gu, 2024).
    Mamba2,
    /// Slots read by a softmax (Zhang et al., 2024).
    Gsa,
    /// The generalised delta rule (Peng et al., 2025).
    Rwkv7,
    /// Slots addressed by keys and queries, values bound by signs: the first generation's memory.
    Bhrr,
}

impl MemoryKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Linear,
        Self::Retnet,
        Self::Gla,
        Self::Delta,
        Self::GatedDelta,
        Self::Mamba2,
        Self::Gsa,
        Self::Rwkv7,
        Self::Bhrr,
    ];

    /// The name in configurations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Retnet => "retnet",
            Self::Gla => "gla",
            Self::Delta => "delta",
            Self::GatedDelta => "gated-delta",
            Self::Mamba2 => "mamba2",
            Self::Gsa => "gsa",
            Self::Rwkv7 => "rwkv7",
            Self::Bhrr => "bhrr",
        }
    }
}

impl fmt::Display for MemoryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that no memory has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownMemory(pub String);

impl fmt::Display for UnknownMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = MemoryKind::ALL.map(MemoryKind::name).join(", ");
        write!(f, "no memory is called '{}'; known: softmax, {known}", self.0)
    }
}

impl std::error::Error for UnknownMemory {}

impl FromStr for MemoryKind {
    type Err = UnknownMemory;

    fn from_str(name: &str) -> Result<Self, UnknownMemory> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| UnknownMemory(name.to_owned()))
    }
}

/// How BHRR finds slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Address {
    /// The first generation's sum over positive numbers.
    Hash,
    /// The nearest of fixed random directions.
    Lsh,
    /// The nearest of learned rows, the same for keys and queries.
    Router,
}

/// Which vector says where a token reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadBy {
    /// Its key, as the first generation's program has it.
    Key,
    /// Its query, as the first generation's text has it.
    Query,
}

/// What BHRR writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotValues {
    /// Signs.
    Sign,
    /// 15 steps from −1 to 1.
    Bits4,
    /// 255 steps from −1 to 1.
    Bits8,
    /// Numbers as they are.
    Float,
}

impl SlotValues {
    /// The largest whole number; none where values are not rounded.
    pub const fn most(self) -> Option<usize> {
        match self {
            Self::Sign => Some(1),
            Self::Bits4 => Some(7),
            Self::Bits8 => Some(127),
            Self::Float => None,
        }
    }
}

/// How the numbers of slots are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotStateType {
    /// Real numbers.
    F32,
    /// 32-bit whole numbers.
    I32,
    /// 16-bit whole numbers, in contexts so short that no sum can leave them.
    I16,
}

/// The arms of BHRR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bhrr {
    /// How slots are found.
    pub address: Address,
    /// What says where a token reads.
    pub read_by: ReadBy,
    /// Slots that a token writes and reads.
    pub top: usize,
    /// Whether slots decay, each by a share that depends on the token.
    pub decay: bool,
    /// Whether a write replaces rather than adds.
    pub delta: bool,
    /// What is written.
    pub values: SlotValues,
    /// Whether a slot holds a whole matrix of keys by values.
    pub outer: bool,
    /// How slots are held.
    pub state: SlotStateType,
}

/// The memory of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// What it is.
    pub kind: MemoryKind,
    /// Heads of queries and keys; divides `v_heads`.
    pub k_heads: usize,
    /// Heads of values: memories.
    pub v_heads: usize,
    /// Numbers of a key.
    pub k_dim: usize,
    /// Numbers of a value, a multiple of 16.
    pub v_dim: usize,
    /// Which keys a head `h` of values has: those of head `h mod k_heads`, as llama.cpp orders Qwen3.5's heads, rather
    /// than of `h / (v_heads / k_heads)`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tiled: bool,
    /// Slots of a head; 0 for kinds that have none.
    #[serde(default)]
    pub slots: usize,
    /// Tokens that the convolution before the memory spans; 0: there is none.
    #[serde(default)]
    pub conv: usize,
    /// Whether what is read is brought to one length, head by head.
    #[serde(default)]
    pub output_norm: bool,
    /// Whether what is read is multiplied with a gate.
    #[serde(default)]
    pub output_gate: bool,
    /// The arms of `bhrr`; none for other kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bhrr: Option<Bhrr>,
}

impl Memory {
    /// Width of all keys together, and of all queries.
    pub fn k_width(&self) -> usize {
        self.k_heads.saturating_mul(self.k_dim)
    }

    /// Width of all values together.
    pub fn v_width(&self) -> usize {
        self.v_heads.saturating_mul(self.v_dim)
    }

    /// Channels that pass the convolution: queries, keys, values.
    pub fn channels(&self) -> usize {
        self.k_width().saturating_mul(2).saturating_add(self.v_width())
    }

    /// Shares per token: none for kinds without a decay that depends on the token.
    pub fn decay_width(&self) -> usize {
        match self.kind {
            MemoryKind::Gla | MemoryKind::Rwkv7 => self.k_width(),
            MemoryKind::GatedDelta | MemoryKind::Mamba2 => self.v_heads,
            MemoryKind::Gsa => self.v_heads.saturating_mul(self.slots),
            MemoryKind::Bhrr if self.slots_decay() => self.v_heads.saturating_mul(self.slots),
            MemoryKind::Linear | MemoryKind::Retnet | MemoryKind::Delta | MemoryKind::Bhrr => 0,
        }
    }

    fn slots_decay(&self) -> bool {
        self.bhrr.as_ref().is_some_and(|arms| arms.decay)
    }

    /// Whether a token says how much of what a key holds it replaces.
    pub fn has_beta(&self) -> bool {
        match self.kind {
            MemoryKind::Delta | MemoryKind::GatedDelta => true,
            MemoryKind::Bhrr => self.bhrr.as_ref().is_some_and(|arms| arms.delta),
            _ => false,
        }
    }

    /// Rows of a head's memory, in the order of its parts: one for all kinds but `gsa`, which has two.
    pub fn state_rows(&self) -> usize {
        match (self.kind, &self.bhrr) {
            (MemoryKind::Bhrr, Some(arms)) if arms.outer => self.slots.saturating_mul(self.k_dim),
            (MemoryKind::Gsa | MemoryKind::Bhrr, _) => self.slots,
            _ => self.k_dim,
        }
    }

    /// Numbers that a sequence's memory has in this layer, without the convolution's: what limits what it can hold.
    pub fn state_numbers(&self) -> usize {
        let keys = if self.kind == MemoryKind::Gsa { self.k_dim.saturating_mul(self.slots) } else { 0 };
        self.v_heads.saturating_mul(self.state_rows().saturating_mul(self.v_dim).saturating_add(keys))
    }

    /// The head of keys that a head of values has.
    pub fn k_head(&self, head: usize) -> usize {
        if self.tiled {
            return head.checked_rem(self.k_heads).unwrap_or(0);
        }
        let over = self.v_heads.checked_div(self.k_heads).unwrap_or(1);
        head.checked_div(over).unwrap_or(0)
    }

    /// Holds the numbers against each other.
    ///
    /// # Errors
    /// `InconsistentConfig` names the first that does not fit.
    pub fn validate(&self) -> Result<(), Error> {
        for (field, n) in [
            ("memory.k_heads", self.k_heads),
            ("memory.v_heads", self.v_heads),
            ("memory.k_dim", self.k_dim),
            ("memory.v_dim", self.v_dim),
        ] {
            if !(1..=MAX_PART).contains(&n) {
                return Err(inconsistent(field, format!("from 1 to {MAX_PART}"), n));
            }
        }
        if !self.v_heads.is_multiple_of(self.k_heads) {
            let found = format!("{} heads of values over {} of keys", self.v_heads, self.k_heads);
            return Err(inconsistent("memory.k_heads", "a divisor of memory.v_heads", found));
        }
        if !self.v_dim.is_multiple_of(LANES) {
            return Err(inconsistent("memory.v_dim", format!("a multiple of {LANES}"), self.v_dim));
        }
        if self.conv == 1 || self.conv > MAX_CONV {
            return Err(inconsistent("memory.conv", format!("0, or from 2 to {MAX_CONV}"), self.conv));
        }
        if self.output_gate && !self.output_norm {
            return Err(inconsistent("memory.output_gate", "false where there is no output_norm", true));
        }
        match self.kind {
            MemoryKind::Gsa if self.slots == 0 || !self.slots.is_multiple_of(LANES) || self.slots > MAX_PART => {
                Err(inconsistent("memory.slots", format!("a positive multiple of {LANES}"), self.slots))
            }
            MemoryKind::Bhrr => self.validate_bhrr(),
            MemoryKind::Gsa | MemoryKind::Rwkv7 | MemoryKind::Gla if self.k_heads != self.v_heads => {
                Err(inconsistent("memory.k_heads", format!("{} as memory.v_heads", self.v_heads), self.k_heads))
            }
            kind if self.slots != 0 && kind != MemoryKind::Gsa => {
                Err(inconsistent("memory.slots", format!("0, for {kind} has none"), self.slots))
            }
            _ => Ok(()),
        }
    }

    fn validate_bhrr(&self) -> Result<(), Error> {
        let Some(arms) = &self.bhrr else {
            return Err(inconsistent("memory.bhrr", "the arms of bhrr", "none"));
        };
        if !(1..=MAX_PART).contains(&self.slots) {
            return Err(inconsistent("memory.slots", format!("from 1 to {MAX_PART}"), self.slots));
        }
        if !(1..=self.slots).contains(&arms.top) {
            return Err(inconsistent("memory.bhrr.top", format!("from 1 to {} slots", self.slots), arms.top));
        }
        if arms.address == Address::Hash && arms.top != 1 {
            return Err(inconsistent("memory.bhrr.top", "1, for a hash names one slot", arms.top));
        }
        if self.k_heads != self.v_heads || (!arms.outer && self.k_dim != self.v_dim) {
            let found = format!("{} × {} and {} × {}", self.k_heads, self.k_dim, self.v_heads, self.v_dim);
            return Err(inconsistent("memory.k_dim", "keys and values of one shape, which bhrr binds", found));
        }
        if arms.outer && arms.address == Address::Hash {
            return Err(inconsistent("memory.bhrr.outer", "false beside a hash", true));
        }
        let whole = arms.state != SlotStateType::F32;
        let plain = arms.top == 1 && !arms.decay && !arms.delta && !arms.outer && arms.values.most().is_some();
        if whole && !plain {
            let expected = "f32, or one slot per token, no decay, no delta, no outer product and rounded values";
            return Err(inconsistent("memory.bhrr.state", expected, format!("{:?}", arms.state)));
        }
        Ok(())
    }

    /// The longest text whose sums are sure to fit the numbers of the slots; none where there is no limit.
    pub fn longest_text(&self) -> Option<usize> {
        let arms = self.bhrr.as_ref()?;
        let room = match arms.state {
            SlotStateType::F32 => return None,
            SlotStateType::I32 => i32::MAX as usize,
            SlotStateType::I16 => i16::MAX as usize,
        };
        room.checked_div(arms.values.most()?)
    }
}

impl Config {
    /// The memory of a layer; none where it attends.
    pub fn memory_of(&self, layer: usize) -> Option<&Memory> {
        self.memory.get(layer)?.as_ref()
    }

    /// Whether any layer attends to all tokens before it, and so has a cache that grows.
    pub fn attends(&self) -> bool {
        self.memory.is_empty() || self.memory.iter().any(Option::is_none)
    }

    pub(crate) fn validate_memory(&self) -> Result<(), Error> {
        if !self.memory.is_empty() && self.memory.len() != self.n_layers {
            let expected = format!("{}, one per layer", self.n_layers);
            return Err(inconsistent("memory", expected, self.memory.len()));
        }
        self.memory.iter().flatten().try_for_each(Memory::validate)
    }
}

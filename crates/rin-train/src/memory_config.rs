//! `[model.memory]`: which layers have memories of a fixed size in the place of attention, and which.

use crate::Error;
use crate::config::ModelConfig;
use crate::ops::MemoryShape;
use rin_model::{Address, Bhrr, Memory, MemoryKind, ReadBy, SlotStateType, SlotValues};
use serde::{Deserialize, Serialize};

/// `[model.memory]`.
#[expect(clippy::struct_excessive_bools, reason = "independent options of a file, none a state")]
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct MemoryConfig {
    /// What each layer remembers with, from the first one on and over again: `softmax`, or the name of a memory.
    #[serde(default = "gated_delta")]
    pub layers: Vec<String>,
    /// Numbers of a key; none: `dim / heads`.
    pub k_dim: Option<usize>,
    /// Numbers of a value, a multiple of 16; none: `dim / heads`.
    pub v_dim: Option<usize>,
    /// Slots of a head, for `bhrr` and, in multiples of 16, `gsa`.
    #[serde(default = "slots")]
    pub slots: usize,
    /// Tokens that the convolution before a memory spans; 0: there is none.
    #[serde(default = "conv")]
    pub conv: usize,
    /// Whether what is read is brought to one length.
    #[serde(default = "yes")]
    pub output_norm: bool,
    /// Whether what is read is gated.
    #[serde(default = "yes")]
    pub output_gate: bool,
    /// How `bhrr` finds slots.
    #[serde(default = "router")]
    pub address: Address,
    /// What says where `bhrr` reads.
    #[serde(default = "query")]
    pub read_by: ReadBy,
    /// Slots that a token writes and reads.
    #[serde(default = "one")]
    pub top: usize,
    /// Whether slots decay.
    #[serde(default)]
    pub decay: bool,
    /// Whether writes replace.
    #[serde(default)]
    pub delta: bool,
    /// Whether a slot of `bhrr` holds a matrix of keys by values.
    #[serde(default)]
    pub outer: bool,
    /// What `bhrr` writes.
    #[serde(default = "sign")]
    pub values: SlotValues,
    /// How slots are held; whole numbers where that is asked for and nothing forbids it.
    #[serde(default = "f32_state")]
    pub state: SlotStateType,
}

/// The best of the bounded memories on text: docs/research/memory.md.
fn gated_delta() -> Vec<String> {
    vec!["gated-delta".to_owned()]
}
fn slots() -> usize {
    8
}
fn conv() -> usize {
    4
}
fn yes() -> bool {
    true
}
fn router() -> Address {
    Address::Router
}
fn query() -> ReadBy {
    ReadBy::Query
}
fn one() -> usize {
    1
}
fn sign() -> SlotValues {
    SlotValues::Sign
}
fn f32_state() -> SlotStateType {
    SlotStateType::F32
}

impl MemoryConfig {
    /// One kind in all layers, everything else as it is by default.
    pub fn of(kind: &str) -> Self {
        Self {
            layers: vec![kind.to_owned()],
            k_dim: None,
            v_dim: None,
            slots: slots(),
            conv: conv(),
            output_norm: true,
            output_gate: true,
            address: router(),
            read_by: query(),
            top: one(),
            decay: false,
            delta: false,
            outer: false,
            values: sign(),
            state: f32_state(),
        }
    }

    /// The memory of each layer, as the exported file has it.
    ///
    /// # Errors
    /// [`Error::ConfigValue`] names what does not fit.
    pub fn memories(&self, model: &ModelConfig) -> Result<Vec<Option<Memory>>, Error> {
        if self.layers.is_empty() {
            return Err(Error::value("model.memory.layers", "[]", "at least one name"));
        }
        (0..model.layers).map(|layer| self.memory(model, &self.layers[layer % self.layers.len()])).collect()
    }

    fn memory(&self, model: &ModelConfig, name: &str) -> Result<Option<Memory>, Error> {
        if name == "softmax" {
            return Ok(None);
        }
        let kind: MemoryKind = name
            .parse()
            .map_err(|error| Error::value("model.memory.layers", name, format!("a known name ({error})")))?;
        if !MemoryShape::is_trained(kind) {
            let expected =
                "softmax, linear, retnet, gla, delta, gated-delta, mamba2, gsa, rwkv7 or bhrr, which can be trained";
            return Err(Error::value("model.memory.layers", name, expected));
        }
        let head = model.dim / model.heads;
        let arms = (kind == MemoryKind::Bhrr).then_some(Bhrr {
            address: self.address,
            read_by: self.read_by,
            top: self.top,
            decay: self.decay,
            delta: self.delta,
            values: self.values,
            outer: self.outer,
            state: self.state,
        });
        let memory = Memory {
            kind,
            k_heads: model.heads,
            v_heads: model.heads,
            k_dim: self.k_dim.unwrap_or(head),
            v_dim: self.v_dim.unwrap_or(head),
            tiled: false,
            slots: if arms.is_some() || kind == MemoryKind::Gsa { self.slots } else { 0 },
            conv: self.conv,
            output_norm: self.output_norm,
            output_gate: self.output_gate && self.output_norm,
            bhrr: arms,
        };
        memory.validate().map_err(|error| Error::value("model.memory", name, error.to_string()))?;
        Ok(Some(memory))
    }

    pub(crate) fn check(&self, model: &ModelConfig) -> Result<(), Error> {
        self.memories(model).map(drop)
    }
}

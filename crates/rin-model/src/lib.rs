//! A model file becomes checked, borrowed data.
//!
//! In go bytes that nobody vouches for: a GGUF file (version 2 or 3, split or whole), a safetensors file or a Hugging
//! Face folder, or a `.rin` file (a safetensors file with a configuration inside). Out comes a [`ModelFile`]: the
//! [`Config`] of the network, a list of [`TensorInfo`] whose bytes lie inside the mapping, the source of the tokenizer
//! and the metadata. Nothing here panics on input, trusts a count before it is held against the bytes that are left,
//! or allocates more than a small multiple of the header; what is wrong comes back as an [`Error`] that names the place.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects
    )
)]

pub mod array;
mod config;
mod cursor;
mod dtype;
mod error;
mod family;
pub mod gguf;
mod gguf_config;
mod gguf_split;
pub mod graph;
pub mod hdf5;
mod hf_config;
mod hf_folder;
mod integer;
mod json;
#[cfg(unix)]
mod lost_page;
mod memory;
mod mmap;
mod mode;
mod model_file;
mod network;
pub mod onnx;
mod qwen3_next;
pub mod rin_format;
pub mod safetensors;
mod spiking;
mod tensor;
mod value;
mod vocab;
mod whole;

pub use config::{Activation, Arch, Config, Norm, Pairing, Rope, RopeScaling};
pub use dtype::DType;
pub use error::{Error, Fault};
pub use family::{POSITIONS, TensorName};
pub use integer::{Integer, IntegerLayer};
#[cfg(unix)]
pub use lost_page::exit_on_lost_page;
pub use memory::{Address, Bhrr, MAX_CONV, Memory, MemoryKind, ReadBy, SlotStateType, SlotValues, UnknownMemory};
pub use mmap::release_code;
pub use mode::Mode;
pub use model_file::{FileFormat, ModelFile};
pub use network::{
    Body, Extent, Extents, Function, Network, Node, Op, Output, OutputKind, Pool, Port, PortKind, Positions,
};
pub use spiking::{Spiking, SpikingCoding, SpikingLayer, SpikingReadout, SpikingReset, SpikingSource};
pub use tensor::{RowOrder, TensorInfo};
pub use value::{Array, Element, List, Value};
pub use vocab::{GgufVocab, TokenizerSource};
pub use whole::{NodeScales, Whole};

//! Architectures: each writes its network down as a plan.

mod decoder;
mod mamba2;
mod memory;
pub mod rope;
mod rwkv7;

use crate::Error;
use crate::plan::{Plan, PlanOptions};
use rin_model::{Arch, Config, ModelFile};

/// The plan of a file's network.
///
/// # Errors
///
/// When a tensor is missing or of an unsupported type, or a size leaves the address space.
pub(crate) fn plan(file: &ModelFile, config: Config, options: PlanOptions) -> Result<Plan, Error> {
    match config.arch {
        Arch::Llama | Arch::Qwen2 | Arch::Qwen3Next | Arch::Gpt2 => decoder::plan(file, config, options),
        Arch::Mamba2 => mamba2::plan(file, config, options),
        Arch::Rwkv7 => rwkv7::plan(file, config, options),
        other => Err(Error::NoPlan(other.name())),
    }
}

//! Architectures: each writes its network down as a plan.

mod decoder;
pub mod rope;

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
        Arch::Llama | Arch::Qwen2 => decoder::plan(file, config, options),
        other => Err(Error::NoPlan(other.name())),
    }
}

//! Operations with the runtime's forward pass and a backward pass of their own, for candle's differentiation.
//!
//! All matrices are row-major f32, rows are tokens. A forward pass calls the kernels that the runtime calls; a backward
//! pass is the analytic gradient, recomputing what the forward pass did not keep.

mod attention;
mod attention_head;
mod attention_hint;
mod cross_entropy;
mod distillation;
mod dropout;
mod embedding;
mod fake_quant;
mod linear;
#[cfg(test)]
mod linear_tests;
pub(crate) mod memory;
mod memory_gradient;
mod memory_published;
mod memory_shape;
mod memory_slots;
mod rms_norm;
mod scaled;
mod small_gemm;
mod swiglu;

pub use attention::{AttentionShape, attention};
pub use attention_hint::attention_hint;
pub use cross_entropy::cross_entropy;
pub(crate) use cross_entropy::log_sums;
pub use distillation::distillation;
pub use dropout::{Dropout, dropout};
pub use embedding::embedding;
pub(crate) use fake_quant::first_step;
pub use fake_quant::{Quantized, fake_quant, fake_quant_learned};
pub use linear::{Packed, Product, Source, Tail, linear};
pub use memory::memory;
pub use memory_shape::{MemoryShape, Straight};
pub use scaled::{Scope, scaled_quant};

use candle_core::{CpuStorage, Error, Layout, Result, Storage, StorageRef, Tensor};
use std::ops::{Deref, Range};

/// The numbers of a contiguous tensor on the CPU, borrowed.
pub(crate) struct Host<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

/// Borrows the numbers of a tensor.
pub(crate) fn host(t: &Tensor) -> Result<Host<'_>> {
    let (storage, layout) = t.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        return Err(Error::Msg(format!("a contiguous tensor is needed, found the layout {layout:?}")));
    };
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) if end <= values.len() => Ok(Host { storage, range: start..end }),
        _ => Err(Error::Msg("an f32 tensor on the CPU is needed".to_owned())),
    }
}

impl Deref for Host<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => &[],
        }
    }
}

/// The numbers of an operation's argument.
pub(crate) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let all = storage.as_slice::<f32>()?;
    let range = layout.contiguous_offsets().and_then(|(start, end)| all.get(start..end));
    range.ok_or_else(|| Error::Msg(format!("a contiguous argument is needed, found the layout {layout:?}")))
}

/// A tensor of `values` on the CPU.
pub(crate) fn tensor(values: Vec<f32>, like: &Tensor) -> Result<Tensor> {
    Tensor::from_vec(values, like.shape(), like.device())
}

//! Networks as graphs of typed arrays ([`rin_model::graph`]), run row by row on the slots, workers and kernels that all
//! plans share.
//!
//! [`plan`] places every value of a row in the arena and prepares every operation, so that `run` neither allocates nor
//! decides anything. The operations lie beside: `elementwise`, `reduce`, `copy`, `product`, `image`. What the
//! importer of ONNX computes beforehand, `fold` computes with the same code.

mod copy;
mod elements;
mod elementwise;
mod fold;
mod image;
mod loops;
pub mod plan;
mod prepare;
mod product;
mod reduce;
mod run;
mod softmax;
mod workers;

pub use fold::{Held, evaluate};
pub(crate) use plan::{Program, plan};
pub(crate) use run::make_ready;

use rin_kernels::ops::activation::Activate;
use rin_kernels::ops::elementwise::{Map, Zip};
use rin_kernels::ops::integer_product::IntegerProduct;
use rin_kernels::ops::layer_norm::LayerNorm;
use rin_kernels::ops::linear::Linear;
use rin_kernels::ops::softmax::Softmax;
use rin_kernels::{Cpu, Format};

/// The handles of the operations on arrays, resolved once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ArrayKernels {
    pub(crate) linear: Linear,
    pub(crate) activate: Activate,
    pub(crate) layer_norm: LayerNorm,
    pub(crate) softmax: Softmax,
    pub(crate) map: Map,
    pub(crate) zip: Zip,
    pub(crate) integers: IntegerProduct,
}

impl ArrayKernels {
    /// Picks the best variants that `cpu` can run.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as all kernels take it")]
    pub(crate) fn select(cpu: &Cpu) -> Self {
        Self {
            linear: Linear::select(Format::F32, cpu),
            activate: Activate::select(cpu),
            layer_norm: LayerNorm::select(cpu),
            softmax: Softmax::select(cpu),
            map: Map::select(cpu),
            zip: Zip::select(cpu),
            integers: IntegerProduct::select(cpu),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::elementwise::{binary_kernel, unary_kernel};
    use rin_model::graph::{Binary, Unary};

    #[test]
    fn every_function_of_a_file_has_its_kernel() {
        for &function in Unary::ALL {
            assert_eq!(unary_kernel(function).name(), function.name());
        }
        let integers_alone = |f: Binary| f.compares() || f.is_logic() || matches!(f, Binary::Mod | Binary::Fmod);
        for &function in Binary::ALL {
            assert_eq!(binary_kernel(function).is_none(), integers_alone(function), "{}", function.name());
        }
    }
}

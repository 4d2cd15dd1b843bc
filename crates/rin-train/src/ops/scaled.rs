//! Rounding to 8 bits with one scale for many numbers, which the runtime's formats do not have: for comparisons with them.
//!
//! `round(x / s) s` with `s = max|x| / 127`. Nothing lies outside the range, so gradients go straight through (Bengio et
//! al., 2013).

use super::values;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// Numbers that share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of a matrix; of inputs, those of all tokens of a batch.
    Tensor,
    /// A row of a matrix: an output's weights, a token's inputs.
    Row,
}

const LARGEST: f32 = 127.0;

impl Scope {
    /// Rounds rows of `cols` numbers.
    pub(crate) fn round(self, values: &mut [f32], cols: usize) {
        let group = match self {
            Self::Tensor => values.len(),
            Self::Row => cols,
        };
        for group in values.chunks_mut(group.max(1)) {
            let scale = group.iter().fold(0.0_f32, |most, x| most.max(x.abs())) / LARGEST;
            if scale > 0.0 {
                for x in group {
                    *x = (*x / scale).round_ties_even() * scale;
                }
            }
        }
    }
}

/// A matrix `(rows, cols)` rounded; gradients go straight through.
///
/// # Errors
/// When it is no contiguous f32 matrix on the CPU.
pub fn scaled_quant(w: &Tensor, scope: Scope) -> Result<Tensor> {
    w.apply_op1(ScaledQuant(scope))
}

struct ScaledQuant(Scope);

impl CustomOp1 for ScaledQuant {
    fn name(&self) -> &'static str {
        "scaled_quant"
    }

    fn cpu_fwd(&self, w: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, cols) = layout.shape().dims2()?;
        let mut rounded = values(w, layout)?.to_vec();
        self.0.round(&mut rounded, cols);
        Ok((CpuStorage::F32(rounded), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(grad.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Scope, scaled_quant};
    use crate::kernels::Kernels;
    use crate::ops::{Product, Source, Tail, linear};
    use candle_core::{Device, Tensor, Var};
    use rin_kernels::Cpu;

    #[test]
    fn a_scale_reaches_as_far_as_it_says() {
        let values = [1.0_f32, -127.0, 0.4, 0.002, 0.26, -0.508];
        let rounded = |scope: Scope| {
            let mut values = values;
            scope.round(&mut values, 3);
            values
        };
        assert!(rounded(Scope::Tensor).map(f32::to_bits) == [1.0, -127.0, 0.0, 0.0, 0.0, -1.0].map(f32::to_bits));
        // Codes 0, 65 and -127 of 0.004.
        let row = rounded(Scope::Row);
        assert!(row[..3] == [1.0, -127.0, 0.0] && row[3..] == [0.0, 65.0 * (0.508 / 127.0), -127.0 * (0.508 / 127.0)]);
        let mut zeros = [0.0; 2];
        Scope::Row.round(&mut zeros, 2);
        assert!(zeros.iter().all(|x| *x == 0.0));
    }

    #[test]
    fn products_see_rounded_inputs_and_gradients_those_that_products_saw() {
        let kernels = Kernels::select(&Cpu::detect());
        let x = Var::from_slice(&[1.0_f32, -127.0, 0.4, 0.002, 0.26, -0.508], (2, 3), &Device::Cpu).unwrap();
        let w = Var::from_slice(&[1.0_f32, 2.0, 3.0, 0.001, 0.5, 127.0], (2, 3), &Device::Cpu).unwrap();
        let rounded = scaled_quant(w.as_tensor(), Scope::Tensor).unwrap();
        let product = Product::Rounded(Scope::Tensor);
        let y = linear(Source::Plain(x.as_tensor()), &rounded, &product, Tail::default(), kernels).unwrap();
        // Of the second row of weights only 127 is left (0.5 is halfway, and goes to 0).
        assert_eq!(y.to_vec2::<f32>().unwrap(), [[1.0 - 254.0, 0.0], [-3.0, -127.0]]);
        let found = y.sum_all().unwrap().backward().unwrap();
        let of = |v: &Var| found.get(v.as_tensor()).map(|g: &Tensor| g.to_vec2::<f32>().unwrap()).unwrap();
        assert_eq!(of(&w), [[1.0, -127.0, -1.0]; 2]);
        assert_eq!(of(&x), [[1.0, 2.0, 130.0]; 2]);
    }
}

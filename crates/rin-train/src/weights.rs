//! Parameters as a forward pass takes them: tensors, and panels where the runtime's kernels compute.

use crate::Error;
use crate::kernels::Kernels;
use crate::ops::{Packed, Product, Quantized, Scope, fake_quant, fake_quant_learned, scaled_quant};
use crate::parameters::{Parameters, Role, steps_of};
use candle_core::{Device, Tensor, Var};
use rin_kernels::Format;
use std::borrow::Cow;
use std::sync::Arc;

/// How products with matrices are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// In f32 by the fastest product there is.
    Float,
    /// In f32 by the runtime's kernels: its bits.
    Exact,
    /// With matrices in a quantised format and 8-bit activations: the runtime's bits. The matrices outside of the layers
    /// (embedding and output) are Q8_0 where the format is ternary, as in BitNet, which leaves them as they are.
    Quant(Format),
    /// In f32 with weights and activations rounded to 8 bits that share a scale as far as this says. The runtime has no
    /// such format.
    Scaled(Scope),
}

impl Arithmetic {
    /// Format of the matrix called `name`.
    pub(crate) fn format_of(self, name: &str) -> Format {
        match self {
            Self::Float | Self::Exact | Self::Scaled(_) => Format::F32,
            Self::Quant(Format::TQ2_0) if !name.starts_with("blk.") => Format::Q8_0,
            Self::Quant(format) => format,
        }
    }
}

/// One parameter, bound.
#[derive(Clone, Debug)]
struct Bound {
    name: String,
    /// What products see: quantised and turned back into numbers where that is asked for.
    tensor: Tensor,
    quantized: Option<Arc<Quantized>>,
}

/// A matrix, or several with the same inputs one below the other.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// `(rows, cols)`.
    pub tensor: Tensor,
    /// How it is multiplied.
    pub product: Product,
}

/// Parameters bound for a forward pass.
#[derive(Clone, Debug)]
pub struct Weights {
    bound: Vec<Bound>,
    arithmetic: Arithmetic,
    /// The kernels that compute.
    pub kernels: Kernels,
}

impl Weights {
    /// Binds parameters as constants: no gradients are kept.
    ///
    /// # Errors
    /// When a matrix does not fit the format.
    pub fn constant(parameters: &Parameters, arithmetic: Arithmetic, kernels: Kernels) -> Result<Self, Error> {
        let tensors = parameters.0.iter().map(|p| Tensor::from_slice(&p.values, p.shape.as_slice(), &Device::Cpu));
        Self::bind(parameters, &tensors.collect::<Result<Vec<_>, _>>()?, arithmetic, kernels)
    }

    /// Binds parameters as variables, which come along in the order of the parameters.
    ///
    /// # Errors
    /// When a matrix does not fit the format.
    pub fn variable(
        parameters: &Parameters,
        arithmetic: Arithmetic,
        kernels: Kernels,
    ) -> Result<(Self, Vec<Var>), Error> {
        let vars = parameters.0.iter().map(|p| Var::from_slice(&p.values, p.shape.as_slice(), &Device::Cpu));
        let vars = vars.collect::<Result<Vec<_>, _>>()?;
        let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
        Ok((Self::bind(parameters, &tensors, arithmetic, kernels)?, vars))
    }

    fn bind(
        parameters: &Parameters,
        tensors: &[Tensor],
        arithmetic: Arithmetic,
        kernels: Kernels,
    ) -> Result<Self, Error> {
        let mut bound = Vec::with_capacity(tensors.len());
        for (p, tensor) in parameters.0.iter().zip(tensors) {
            let (tensor, quantized) = match (arithmetic, p.role) {
                (Arithmetic::Quant(_), Role::Matrix { .. }) => {
                    let quantized = Arc::new(quantize(parameters, &p.name, arithmetic));
                    let steps = parameters.0.iter().position(|s| s.name == steps_of(&p.name));
                    let seen = match steps {
                        Some(at) => fake_quant_learned(tensor, &tensors[at], &quantized)?,
                        None => fake_quant(tensor, &quantized)?,
                    };
                    (seen, Some(quantized))
                }
                (Arithmetic::Scaled(scope), Role::Matrix { .. }) => (scaled_quant(tensor, scope)?, None),
                _ => (tensor.clone(), None),
            };
            bound.push(Bound { name: p.name.clone(), tensor, quantized });
        }
        Ok(Self { bound, arithmetic, kernels })
    }

    /// Whether forward passes have the runtime's bits.
    pub fn is_exact(&self) -> bool {
        matches!(self.arithmetic, Arithmetic::Exact | Arithmetic::Quant(_))
    }

    fn find(&self, name: &str) -> Result<&Bound, Error> {
        let found = self.bound.iter().find(|b| b.name == name);
        found.ok_or_else(|| candle_core::Error::Msg(format!("the network has no parameter '{name}'")).into())
    }

    /// The numbers of a parameter, quantised where matrices are.
    ///
    /// # Errors
    /// When there is no such parameter.
    pub fn tensor(&self, name: &str) -> Result<&Tensor, Error> {
        Ok(&self.find(name)?.tensor)
    }

    /// Matrices with the same inputs, one below the other, for one product.
    ///
    /// # Errors
    /// When there is no such parameter, or the inputs differ.
    pub fn matrix(&self, names: &[&str]) -> Result<Matrix, Error> {
        let parts = names.iter().map(|name| self.find(name)).collect::<Result<Vec<_>, _>>()?;
        let tensor = match parts[..] {
            [one] => one.tensor.clone(),
            _ => Tensor::cat(&parts.iter().map(|part| &part.tensor).collect::<Vec<_>>(), 0)?,
        };
        let cols = tensor.dim(1)?;
        let product = match self.arithmetic {
            Arithmetic::Float => Product::Float,
            Arithmetic::Scaled(scope) => Product::Rounded(scope),
            Arithmetic::Exact => {
                let values = tensor.flatten_all()?.to_vec1::<f32>()?;
                Product::Packed(Arc::new(Packed::new(Format::F32, cols, bytemuck::cast_slice(&values))?))
            }
            Arithmetic::Quant(_) => {
                let format = parts.first().map_or(Format::F32, |part| self.arithmetic.format_of(&part.name));
                let blocks: Vec<&[u8]> =
                    parts.iter().filter_map(|part| part.quantized.as_ref()).map(|q| q.blocks.as_slice()).collect();
                let blocks = match blocks[..] {
                    [one] => Cow::Borrowed(one),
                    _ => Cow::Owned(blocks.concat()),
                };
                Product::Packed(Arc::new(Packed::new(format, cols, &blocks)?))
            }
        };
        Ok(Matrix { tensor, product })
    }
}

/// The blocks of a matrix, as training computes with them and export writes them.
///
/// # Panics
/// When `name` is no matrix of `parameters`.
pub(crate) fn quantize(parameters: &Parameters, name: &str, arithmetic: Arithmetic) -> Quantized {
    let p = parameters.get(name).expect("a matrix of the network");
    let cols = p.shape.last().copied().unwrap_or(1);
    let steps = parameters.get(&steps_of(name));
    match (arithmetic.format_of(name), steps) {
        (Format::Q4_0, Some(steps)) => Quantized::with_steps(&p.values, &steps.values, cols),
        (Format::TQ2_0, _) => Quantized::ternary(&p.values, cols),
        (format, _) => Quantized::by_magnitude(format, &p.values, cols),
    }
}

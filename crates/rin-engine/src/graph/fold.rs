//! One operation on arrays at hand: what an importer computes beforehand.

use super::ArrayKernels;
use super::copy;
use super::prepare::{MAX_INPUTS, Prepared, prepare};
use super::workers::Workers;
use crate::Error;
use rin_kernels::Cpu;
use rin_model::DType;
use rin_model::graph::{GraphOp, ValueType};

/// An array at hand, aligned for all element types.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    value: ValueType,
    words: Vec<u64>,
}

impl Held {
    /// Zeros. A size that [`GraphOp::infer`] or the reader of a file has not seen may be too large for memory.
    pub fn zeros(value: ValueType) -> Self {
        let words = vec![0; value.bytes().div_ceil(8)];
        Self { value, words }
    }

    /// Floats, as many as the shape asks for; missing ones are 0.
    pub fn floats(shape: &[usize], values: &[f32]) -> Self {
        let mut held = Self::zeros(ValueType::new(DType::F32, shape));
        let (to, _) = held.bytes_mut().as_chunks_mut::<4>();
        to.iter_mut().zip(values).for_each(|(to, x)| *to = x.to_ne_bytes());
        held
    }

    /// Integers of a type, as many as the shape asks for; missing ones are 0, and the low bits count.
    pub fn integers(dtype: DType, shape: &[usize], values: &[i64]) -> Self {
        let mut held = Self::zeros(ValueType::new(dtype, shape));
        super::elements::store_integers(dtype, values, held.bytes_mut());
        held
    }

    /// Type and shape.
    pub fn value(&self) -> &ValueType {
        &self.value
    }

    /// The same elements in another shape of as many.
    #[must_use]
    pub fn reshaped(mut self, shape: &[usize]) -> Self {
        if ValueType::new(self.value.dtype, shape).count() == self.value.count() {
            self.value.shape = shape.to_vec();
        }
        self
    }

    /// The elements, row-major, in the order of this machine.
    pub fn bytes(&self) -> &[u8] {
        let bytes: &[u8] = bytemuck::cast_slice(&self.words);
        &bytes[..self.value.bytes().min(bytes.len())]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let n = self.value.bytes();
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.words);
        let n = n.min(bytes.len());
        &mut bytes[..n]
    }

    /// The elements as integers; none for floats.
    pub fn to_integers(&self) -> Option<Vec<i64>> {
        let mut found = vec![0; self.value.count()];
        super::elements::load_integers(self.value.dtype, self.bytes(), 0, 1, &mut found);
        (self.value.dtype != DType::F32).then_some(found)
    }

    /// The elements as floats; none for integers.
    pub fn to_floats(&self) -> Option<Vec<f32>> {
        let (floats, _) = self.bytes().as_chunks::<4>();
        (self.value.dtype == DType::F32).then(|| floats.iter().map(|&b| f32::from_ne_bytes(b)).collect())
    }
}

/// What an operation makes of arrays, on the caller alone. `made` is what [`GraphOp::infer`] said of them.
///
/// # Errors
///
/// For an index out of range, and for an operation that takes weights from a file.
pub fn evaluate(op: &GraphOp, inputs: &[&Held], made: &ValueType) -> Result<Held, Error> {
    let types: Vec<&ValueType> = inputs.iter().map(|held| &held.value).collect();
    let prepared = prepare(op, &types, made);
    let mut out = Held::zeros(made.clone());
    match &prepared {
        Prepared::Linear => return Err(Error::NoPlan(op.name())),
        Prepared::Alias => {
            if let Some(x) = inputs.first() {
                out.bytes_mut().copy_from_slice(x.bytes());
            }
        }
        Prepared::Copy { size, blocks, fill, .. } => {
            if let Some(element) = inputs.last().filter(|_| *fill) {
                copy::fill(*size, element.bytes(), out.bytes_mut());
            }
            for block in blocks {
                if let Some(x) = inputs.get(block.input) {
                    block.run(*size, x.bytes(), out.bytes_mut());
                }
            }
        }
        _ => {
            let mut bytes = [&[][..]; MAX_INPUTS];
            bytes.iter_mut().zip(inputs).for_each(|(bytes, held)| *bytes = held.bytes());
            let scratch = prepared.scratch_bytes().ok_or(Error::PlanOverflow { what: "scratch" })?;
            let mut scratch = vec![0_u64; scratch.div_ceil(8)];
            let room = bytemuck::cast_slice_mut(&mut scratch);
            prepared.run(&ArrayKernels::select(&Cpu::detect()), bytes, out.bytes_mut(), room, &mut Workers(None))?;
        }
    }
    Ok(out)
}

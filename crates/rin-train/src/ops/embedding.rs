//! The embedding look-up.

use super::{host, tensor, values};
use candle_core::{CpuStorage, CustomOp1, Error, Layout, Result, Shape, Tensor};
use std::sync::Arc;

/// Rows `ids` of `table` `(vocab, dim)`, as `(ids, dim)`.
///
/// # Errors
/// When an id is no row of the table.
pub fn embedding(table: &Tensor, ids: &[u32]) -> Result<Tensor> {
    table.apply_op1(EmbeddingOp { ids: ids.into() })
}

struct EmbeddingOp {
    ids: Arc<[u32]>,
}

impl CustomOp1 for EmbeddingOp {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (vocab, dim) = layout.shape().dims2()?;
        let table = values(table, layout)?;
        let mut y = Vec::with_capacity(self.ids.len() * dim);
        for &id in self.ids.iter() {
            let row = table.get(id as usize * dim..).and_then(|rows| rows.get(..dim));
            y.extend_from_slice(row.ok_or_else(|| Error::Msg(format!("token {id} of a vocabulary of {vocab}")))?);
        }
        Ok((CpuStorage::F32(y), Shape::from((self.ids.len(), dim))))
    }

    fn bwd(&self, table: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (vocab, dim) = table.dims2()?;
        let grad = grad.contiguous()?;
        let dy = host(&grad)?;
        let mut sum = vec![0.0; vocab * dim];
        for (&id, dy) in self.ids.iter().zip(dy.chunks_exact(dim)) {
            for (sum, dy) in sum[id as usize * dim..][..dim].iter_mut().zip(dy) {
                *sum += dy;
            }
        }
        Ok(Some(tensor(sum, table)?))
    }
}

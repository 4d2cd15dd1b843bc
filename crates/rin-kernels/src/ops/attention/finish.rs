//! The division by the sum of the softmax.

use super::RowState;
use crate::math::canonical;

kernel! {
    /// Normalises the output of every row: `out[r][d] *= 1 / state[r].l`.
    ///
    /// `out` holds `head_dim` values per row. A row that attended to nothing becomes 0. A NaN result is [`f32::NAN`].
    pub struct FinishAttention(out: &mut [f32], state: &[RowState], head_dim: usize);
    check: |out: &[f32], state: &[RowState], head_dim: &usize| check(out, state, *head_dim);
    cases: crate::ops::attention::tests::for_each_finish;
    conformance: conformance;
    variants {
        Scalar => rows::scalar,
        Avx2 if target_arch = "x86_64" => rows::avx2,
        Avx512Vnni if target_arch = "x86_64" => rows::avx512,
    }
}

tiers!(fn rows(out: &mut [f32], state: &[RowState], head_dim: usize) = body;);

fn check(out: &[f32], state: &[RowState], head_dim: usize) {
    let (values, rows) = (out.len(), state.len());
    assert!(rows.checked_mul(head_dim) == Some(values), "out holds {values} values for {rows} rows of {head_dim}");
}

#[inline(always)]
fn body(out: &mut [f32], state: &[RowState], head_dim: usize) {
    for (row, state) in out.chunks_exact_mut(head_dim.max(1)).zip(state) {
        if state.l == 0.0 {
            row.fill(0.0);
            continue;
        }
        let inverse = 1.0 / state.l;
        for o in row {
            *o = canonical(*o * inverse);
        }
    }
}

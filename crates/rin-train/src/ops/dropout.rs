//! Dropout (Srivastava et al., 2014) whose mask is a function of its place.

use super::{host, tensor, values};
use crate::kernels::for_row_groups;
use crate::random::draw;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// Which elements are dropped: those whose 16 random bits lie below a threshold.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// The stream of this operation in this step.
    key: u64,
    /// Of 65,536.
    threshold: u16,
}

impl Dropout {
    /// Drops a share `p` of the elements, rounded to 1/65,536; none where that is nothing.
    pub fn new(key: u64, p: f64) -> Option<Self> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 65,535")]
        let threshold = (p * 65_536.0).round().clamp(0.0, 65_535.0) as u16;
        (threshold > 0).then_some(Self { key, threshold })
    }

    /// Multiplies `values`, which start at element `first` (a multiple of 4), by 0 or 1 / (1 - p).
    #[inline(always)]
    pub(crate) fn apply(self, first: usize, values: &mut [f32]) {
        let keep = 65_536.0 / (65_536.0 - f32::from(self.threshold));
        let start = (first / 4) as u64;
        for (n, four) in (start..).zip(values.chunks_mut(4)) {
            let bits = draw(self.key, n);
            for (i, value) in four.iter_mut().enumerate() {
                #[expect(clippy::cast_possible_truncation, reason = "16 bits at a time")]
                let part = (bits >> (16 * i)) as u16;
                *value = if part < self.threshold { 0.0 } else { *value * keep };
            }
        }
    }
}

/// `x`, with a share of its elements dropped and the others scaled up.
///
/// # Errors
/// When `x` is not contiguous f32.
pub fn dropout(x: &Tensor, dropout: Option<Dropout>) -> Result<Tensor> {
    dropout.map_or_else(|| Ok(x.clone()), |dropout| x.apply_op1(DropoutOp(dropout)))
}

struct DropoutOp(Dropout);

impl DropoutOp {
    fn masked(&self, x: &[f32]) -> Vec<f32> {
        let mut y = x.to_vec();
        for_row_groups(&mut y, 4, |first, rows| self.0.apply(first * 4, rows));
        y
    }
}

impl CustomOp1 for DropoutOp {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(self.masked(values(x, layout)?)), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let masked = self.masked(&host(&grad)?);
        Ok(Some(tensor(masked, x)?))
    }
}

#[cfg(test)]
mod tests {
    use super::Dropout;

    #[test]
    fn the_share_is_dropped_the_mean_stays_and_pieces_agree_with_the_whole() {
        let dropout = Dropout::new(7, 0.2).unwrap();
        let mut x = vec![1.0; 40_000];
        dropout.apply(0, &mut x);
        let dropped = x.iter().filter(|&&x| x == 0.0).count();
        assert!((7_700..8_300).contains(&dropped), "{dropped} of 40000");
        assert!((x.iter().sum::<f32>() / 40_000.0 - 1.0).abs() < 0.01);
        let mut piece = vec![1.0; 100];
        dropout.apply(400, &mut piece);
        assert_eq!(piece, x[400..500]);
        assert!(Dropout::new(7, 0.0).is_none());
    }
}

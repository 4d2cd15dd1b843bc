//! Log-probabilities of one row of logits.
//!
//! All sums are f64 in ascending order of the ids, `exp` and `log` are libm's: equal logit bits give equal results
//! everywhere.

/// The log-softmax of a row, up to the row itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogSoftmax {
    max: f64,
    sum: f64,
    log_sum: f64,
}

impl LogSoftmax {
    /// Reads a row; `weights` receives the probability of each id times their sum. None where a logit is infinite or not a
    /// number.
    pub fn of(row: &[f32], weights: &mut Vec<f64>) -> Option<Self> {
        weights.clear();
        if row.is_empty() || !row.iter().all(|x| x.is_finite()) {
            return None;
        }
        let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        weights.extend(row.iter().map(|x| libm::exp(f64::from(*x) - max)));
        let sum: f64 = weights.iter().sum();
        Some(Self { max, sum, log_sum: libm::log(sum) })
    }

    /// The log-probability of the id whose logit is `x`, in nats.
    pub fn log_p(&self, x: f32) -> f64 {
        f64::from(x) - self.max - self.log_sum
    }
}

/// A row and its log-softmax.
#[derive(Debug, Clone, Copy)]
pub(super) struct Distribution<'a> {
    pub(super) row: &'a [f32],
    pub(super) softmax: LogSoftmax,
}

impl Distribution<'_> {
    /// KL(self ‖ other) in nats, `weights` being those of `self`.
    ///
    /// The divergence is no less than 0; what rounding takes below is 0.
    pub(super) fn divergence(&self, weights: &[f64], other: &Distribution<'_>) -> f64 {
        let mut sum = 0.0;
        for ((p, q), weight) in self.row.iter().zip(other.row).zip(weights) {
            sum += weight * (self.softmax.log_p(*p) - other.softmax.log_p(*q));
        }
        (sum / self.softmax.sum).max(0.0)
    }
}

/// The id of the highest logit; of equals the lowest.
pub(super) fn argmax(row: &[f32]) -> usize {
    let mut best = 0;
    for (id, x) in row.iter().enumerate() {
        if row.get(best).is_some_and(|b| x > b) {
            best = id;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distribution<'a>(row: &'a [f32], weights: &mut Vec<f64>) -> Distribution<'a> {
        Distribution { row, softmax: LogSoftmax::of(row, weights).unwrap() }
    }

    #[test]
    fn probabilities_are_those_of_the_definition() {
        let row = [0.0, 1.0, -2.5, 700.0, 699.0];
        let mut weights = Vec::new();
        let softmax = LogSoftmax::of(&row, &mut weights).unwrap();
        // 1 / (1 + e⁻¹), the others being below the last bit.
        assert!((softmax.log_p(700.0) + 0.313_261_687_518_222_8).abs() < 1e-15);
        assert!((softmax.log_p(0.0) + 700.313_261_687_518_2).abs() < 1e-12);
        let total: f64 = row.iter().map(|x| libm::exp(softmax.log_p(*x))).sum();
        assert!((total - 1.0).abs() < 1e-14);
    }

    #[test]
    fn divergence_of_two_coins() {
        let (mut p, mut q) = (Vec::new(), Vec::new());
        let (fair, unfair) = ([0.0, 0.0], [libm::logf(3.0), 0.0]);
        let (a, b) = (distribution(&fair, &mut p), distribution(&unfair, &mut q));
        // Σ ½ ln(½ / ¾) + ½ ln(½ / ¼), and the other way round; f32 holds ln 3 to 1e-7.
        assert!((a.divergence(&p, &b) - 0.143_841_036_225_890_4).abs() < 1e-7);
        assert!((b.divergence(&q, &a) - 0.130_812_035_941_136_9).abs() < 1e-7);
        assert_eq!(a.divergence(&p, &a).to_bits(), 0);
        assert_eq!(b.divergence(&q, &b).to_bits(), 0);
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(LogSoftmax::of(&[0.0, bad, 1.0], &mut Vec::new()), None);
        }
        assert_eq!(LogSoftmax::of(&[], &mut Vec::new()), None);
    }

    #[test]
    fn ties_go_to_the_lowest_id() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0, 2.0]), 1);
        assert_eq!(argmax(&[0.0, -0.0]), 0);
        assert_eq!(argmax(&[-0.0, 0.0]), 0);
    }
}

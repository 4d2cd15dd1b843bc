//! The filters and the draw, each over a set of candidates that is never empty.
//!
//! A candidate's weight is `exp(logit − highest logit of the set)` in f64 with the exponential of `libm`, which is the same
//! on every platform; a probability is a weight over the sum of weights. Sums run over the set in its order (see
//! [`Ranked`]), one addition after another.

use std::cmp::Ordering;

use super::ranked::{Candidate, Ranked};

/// Difference of a candidate's logit to the highest one: 0 or less.
fn distance(candidate: Candidate, highest: f32) -> f64 {
    f64::from(candidate.logit()) - f64::from(highest)
}

fn highest_logit(set: &Ranked<Candidate>) -> f32 {
    set.first().map_or(0.0, Candidate::logit)
}

/// Keeps the `k` highest logits.
pub(super) fn top_k(set: &mut Ranked<Candidate>, k: usize) {
    set.truncate(k);
}

/// Keeps the shortest prefix by rank whose probabilities sum to at least `p`.
///
/// Source: Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020, section 3.1 (nucleus sampling).
pub(super) fn top_p(set: &mut Ranked<Candidate>, p: f32) {
    let highest = highest_logit(set);
    let weight = |candidate| libm::exp(distance(candidate, highest));
    let wanted = f64::from(p) * set.items().iter().map(|&candidate| weight(candidate)).sum::<f64>();
    let (mut n_kept, mut reached) = (0, 0.0);
    while let Some(candidate) = set.at(n_kept) {
        n_kept += 1;
        reached += weight(candidate);
        if reached >= wanted {
            break;
        }
    }
    set.truncate(n_kept);
}

/// Keeps the candidates with at least `p` times the highest probability: `logit ≥ highest + ln p`.
///
/// Source: Nguyen et al., "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs", 2024, section 3.
pub(super) fn min_p(set: &mut Ranked<Candidate>, p: f32) {
    let lowest = f64::from(highest_logit(set)) + libm::log(f64::from(p));
    set.retain(|candidate| f64::from(candidate.logit()) >= lowest);
}

/// A candidate in the order of typicality: deviation ascending, then the order of candidates.
#[derive(Clone, Copy, Debug)]
pub(super) struct Typical {
    /// How far the candidate's information, −ln p, lies from the entropy of the set, in nats.
    deviation: f64,
    candidate: Candidate,
}

impl Ord for Typical {
    fn cmp(&self, other: &Self) -> Ordering {
        self.deviation.total_cmp(&other.deviation).then(self.candidate.cmp(&other.candidate))
    }
}

impl PartialOrd for Typical {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Typical {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Typical {}

/// Keeps the candidates whose information lies nearest to the entropy, until their probabilities sum to more than `p`.
///
/// With `d = logit − highest`, information minus entropy is `mean(d) − d`, the mean taken over the probabilities: the
/// logarithm of the normaliser cancels. The kept set stands in the order of ranks.
///
/// Source: Meister, Pimentel, Wiher, Cotterell, "Locally Typical Sampling", 2023, section 4.
pub(super) fn typical_p(set: &mut Ranked<Candidate>, by_deviation: &mut Ranked<Typical>, p: f32) {
    let highest = highest_logit(set);
    let (mut total, mut moment) = (0.0, 0.0);
    for &candidate in set.items() {
        let d = distance(candidate, highest);
        let weight = libm::exp(d);
        total += weight;
        moment += weight * d;
    }
    let mean = moment / total;
    by_deviation.fill(
        set.items()
            .iter()
            .map(|&candidate| Typical { deviation: (distance(candidate, highest) - mean).abs(), candidate }),
    );
    let wanted = f64::from(p) * total;
    let (mut n_kept, mut reached) = (0, 0.0);
    while let Some(typical) = by_deviation.at(n_kept) {
        n_kept += 1;
        reached += libm::exp(distance(typical.candidate, highest));
        if reached > wanted {
            break;
        }
    }
    set.fill(by_deviation.items().iter().take(n_kept).map(|typical| typical.candidate));
    set.truncate(n_kept);
}

/// Draws by inversion: the first rank at which the sum of weights exceeds `uniform` times the sum of all weights, with
/// `weight = exp((logit − highest) / temp)`.
///
/// Returns `None` for an empty set.
pub(super) fn draw(set: &mut Ranked<Candidate>, temp: f32, uniform: f64) -> Option<u32> {
    let (highest, temp) = (highest_logit(set), f64::from(temp));
    let weight = |candidate| libm::exp(distance(candidate, highest) / temp);
    let wanted = uniform * set.items().iter().map(|&candidate| weight(candidate)).sum::<f64>();
    let (mut rank, mut reached, mut drawn) = (0, 0.0, None);
    while let Some(candidate) = set.at(rank) {
        let weight = weight(candidate);
        // The weights fall with the rank: from here on they are all zero. Only rounding in the two sums leads here.
        if weight <= 0.0 {
            break;
        }
        drawn = Some(candidate.id());
        reached += weight;
        if reached > wanted {
            break;
        }
        rank += 1;
    }
    drawn
}

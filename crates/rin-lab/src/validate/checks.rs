//! The checks but that of heat, each over what it looks at as a function.

use std::time::Instant;

use rin_bench::stats::{median, percentile, sorted};
use rin_energy::protocol::{Protocol, ProtocolError};
use rin_energy::{Error as EnergyError, Sensors};

use super::{Beside, Bound, Curve, Measured};
use crate::Error;
use crate::representation::logit_distance;
use crate::tda::{Bar, Distances, Ground, persistence, total_persistence, wasserstein};

/// The energy of a thousand units of work, judged on the upper end of its interval. `work` does some and tells how many units.
///
/// # Errors
/// What `work` meets.
pub fn joule(
    sensors: &Sensors,
    protocol: Protocol,
    threshold: f64,
    mut work: impl FnMut() -> Result<u64, Error>,
) -> Result<Measured, Error> {
    let mut meter = match sensors.meter() {
        Ok(meter) => meter,
        Err(why) => return Ok(Measured::untestable(why.to_string())),
    };
    let found = protocol.run(sensors, &mut meter, &["generation"], &mut |_| work(), &mut |_| {});
    let report = match found {
        Ok(report) => report,
        Err(ProtocolError::Work(error)) => return Err(error),
        Err(ProtocolError::Meter(error)) => return Ok(Measured::untestable(error.to_string())),
    };
    let variant = report.variants.first();
    let Some((figure, variant)) = variant.and_then(|variant| Some((variant.joules_per_unit?, variant))) else {
        let why =
            report.all_dropped().map_or_else(|| "no window was measured".to_owned(), |e: EnergyError| e.to_string());
        return Ok(Measured::untestable(why));
    };
    let Some([low, high]) = figure.ci95 else {
        let (counted, dropped) = (variant.windows, variant.dropped);
        return Ok(Measured::untestable(format!(
            "{counted} windows count and {dropped} were dropped: too few for a 95 % interval"
        )));
    };
    let detail = format!("{} windows from {}, judged on the upper end", variant.windows, meter.name());
    let judged = Measured::judged(1e3 * high, Bound::AtMost, threshold, detail);
    Ok(Measured { value: Some(1e3 * figure.median), ci95: Some([1e3 * low, 1e3 * high]), ..judged })
}

/// The token that a row of logits ranks first.
pub(super) fn first(row: &[f32]) -> usize {
    row.iter().enumerate().fold((0, f32::NEG_INFINITY), |b, (i, x)| if *x > b.1 { (i, *x) } else { b }).0
}

/// The nats per token that `KL(floats ‖ engine)` may have. The seed names no threshold for it. This is what a text drawn from the
/// one costs more when the other codes it: a thousandth of a nat is a tenth of a percent of perplexity.
pub const MOST_KL: f64 = 0.001;
/// How far the perplexity of a real text may be from that of floats, relative to it: what the seed's 0.99 leaves.
pub const MOST_PERPLEXITY: f64 = 0.01;

/// The share of rows of `n_vocab` logits in which both have the same first token, and beside it the divergence and the change of
/// the perplexity; `targets` is the token after each row.
pub fn fidelity(found: &[f32], expected: &[f32], targets: &[u32], n_vocab: usize, threshold: f64) -> Measured {
    let rows = targets.len();
    let distance = match logit_distance(found, expected, n_vocab, targets) {
        Ok(distance) if rows >= 100 => distance,
        Ok(_) => return Measured::untestable(format!("{rows} rows of logits are less than a hundred")),
        Err(error) => return Measured::untestable(error.to_string()),
    };
    let mut kinds: Vec<usize> = expected.chunks_exact(n_vocab).map(first).collect();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.len() < 5 {
        return Measured::untestable(format!(
            "only {} tokens are ever ranked first: any two models would agree",
            kinds.len()
        ));
    }
    let same = rows - distance.disagreements;
    let (perplexity, floats) = (libm::exp(distance.nats), libm::exp(distance.teacher_nats));
    let detail = format!(
        "{same} of {rows} positions, {} tokens are ranked first somewhere; perplexity {perplexity:.4}, in floats {floats:.4}",
        kinds.len()
    );
    Measured::judged(same as f64 / rows as f64, Bound::AtLeast, threshold, detail)
        .and(Beside::new("mean KL(floats ‖ engine)", "nats per token", distance.kl, Bound::AtMost, MOST_KL))
        .and(Beside::new(
            "perplexity of the text, difference from floats",
            "relative",
            (perplexity / floats - 1.0).abs(),
            Bound::AtMost,
            MOST_PERPLEXITY,
        ))
}

/// The speed of single steps, from the median of `steps` of them.
///
/// # Errors
/// What `step` meets.
pub fn latency(steps: usize, threshold: f64, mut step: impl FnMut() -> Result<(), Error>) -> Result<Measured, Error> {
    let mut seconds = Vec::with_capacity(steps);
    for _ in 0..steps {
        let began = Instant::now();
        step()?;
        seconds.push(began.elapsed().as_secs_f64());
    }
    let Some(middle) = median(&seconds).filter(|middle| *middle > 0.0) else {
        return Ok(Measured::untestable("no step was timed"));
    };
    let p99 = percentile(&sorted(&seconds), 990).unwrap_or(f64::NAN);
    let detail = format!("{steps} steps, median {:.1} µs, 99th percentile {:.1} µs", 1e6 * middle, 1e6 * p99);
    Ok(Measured::judged(1.0 / middle, Bound::AtLeast, threshold, detail))
}

/// The digest of a result, and the way in which it was computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The way, in words.
    pub name: String,
    /// The digest.
    pub digest: String,
}

/// The share of ways to compute that give the same digest, and of neurons that fire when they should, whichever is less.
///
/// `ways` begins with the definition's; `fired` and `expected` say which neurons fired, step by step.
pub fn numerical(ways: &[Way], fired: &[bool], expected: &[bool], threshold: f64) -> Measured {
    let Some((first, others)) = ways.split_first().filter(|(_, others)| !others.is_empty()) else {
        return Measured::untestable("there is only one way to compute here: nothing could differ");
    };
    let spikes = expected.iter().filter(|fired| **fired).count();
    let share = spikes as f64 / expected.len().max(1) as f64;
    if fired.len() != expected.len() || !(0.01..=0.99).contains(&share) {
        return Measured::untestable(format!("{spikes} of {} neurons fire: any two would agree", expected.len()));
    }
    let other: Vec<&Way> = others.iter().filter(|way| way.digest != first.digest).collect();
    let equal = others.len() - other.len();
    let alike = fired.iter().zip(expected).filter(|(a, b)| a == b).count();
    let (of_bits, of_spikes) = (equal as f64 / others.len() as f64, alike as f64 / expected.len() as f64);
    let which = other.first().map_or_else(String::new, |way| format!(" (not {})", way.name));
    let detail = format!(
        "{equal} of {} ways have the bits of {}{which}; {alike} of {} neurons do as defined, {:.1} % of them fire",
        others.len(),
        first.name,
        expected.len(),
        100.0 * share
    );
    Measured::judged(of_bits.min(of_spikes), Bound::AtLeast, threshold, detail)
}

/// The largest share of neurons that can be left out for at most `margin` nats: the largest of `shares`, which ascend from above 0
/// to below 1, that costs no more and below which none costs more. `loss` tells, for a share that is asked for, the loss and the
/// share that was really left out.
///
/// The whole curve is measured and kept: nothing is assumed of its form, and of shares between its points nothing is said.
///
/// # Errors
/// What `loss` meets.
pub fn sparsity(
    margin: f64,
    threshold: f64,
    shares: &[f64],
    mut loss: impl FnMut(f64) -> Result<(f64, f64), Error>,
) -> Result<Measured, Error> {
    let (base, _) = loss(0.0)?;
    let mut points = vec![[0.0, 0.0]];
    for share in shares {
        let (found, really) = loss(*share)?;
        points.push([really, found - base]);
    }
    let all = loss(1.0)?.0 - base;
    if all.is_nan() || all <= 2.0 * margin {
        return Ok(Measured::untestable(format!(
            "leaving out every neuron costs {all:.4} nats: the loss does not see them"
        )));
    }
    points.push([1.0, all]);
    // A cost that is no number keeps no margin.
    let kept = points.iter().take_while(|[_, cost]| *cost <= margin).count();
    let ([share, cost], next) = (points[kept.saturating_sub(1)], points.get(kept));
    let next = next.map_or_else(String::new, |[share, cost]| format!(", {:.1} % {cost:+.4}", 100.0 * share));
    let detail = format!("{:.1} % left out cost {cost:+.4} nats{next}, all of them {all:+.2}", 100.0 * share);
    let curve = Curve { x: "share left out".to_owned(), y: "nats more than with all neurons".to_owned(), points };
    Ok(Measured { curve: Some(curve), ..Measured::judged(share, Bound::AtLeast, threshold, detail) })
}

/// Allocations in `steps` steps, by a counter.
///
/// # Errors
/// What `step` meets.
pub fn memory(
    steps: usize,
    threshold: f64,
    counter: impl Fn() -> u64,
    mut step: impl FnMut() -> Result<(), Error>,
) -> Result<Measured, Error> {
    let before = counter();
    let probe = std::hint::black_box(vec![1_u8; 64]);
    if counter() == before {
        return Ok(Measured::untestable("this program does not count allocations"));
    }
    drop(probe);
    // The first step may have to touch what was never used.
    step()?;
    let began = counter();
    for _ in 0..steps {
        step()?;
    }
    let found = counter() - began;
    Ok(Measured::judged(found as f64, Bound::AtMost, threshold, format!("{found} allocations in {steps} steps")))
}

/// How far the shapes of two clouds of the same things are apart: the Wasserstein distance of their bars over the total length
/// of the second's, the larger of H0 and H1. Rows have `width` values.
///
/// # Errors
/// [`Error::Input`] where the clouds are none.
pub fn topology(found: &[f32], expected: &[f32], width: usize, threshold: f64) -> Result<Measured, Error> {
    let bars = |values: &[f32]| -> Result<Vec<Vec<Bar>>, Error> {
        let values: Vec<f64> = values.iter().map(|x| f64::from(*x)).collect();
        persistence(&Distances::euclidean(&values, width)?, 1, None)
    };
    let (a, b) = (bars(found)?, bars(expected)?);
    let mut most = 0.0_f64;
    let mut words = Vec::new();
    for (k, (a, b)) in a.iter().zip(&b).enumerate() {
        let total = total_persistence(b);
        if b.len() < 5 || total <= 0.0 {
            return Ok(Measured::untestable(format!("only {} bars of H{k}: any two clouds would agree", b.len())));
        }
        let distance = wasserstein(a, b, 1.0, Ground::Max)? / total;
        most = most.max(distance);
        words.push(format!("H{k}: {distance:.4} over {} bars", b.len()));
    }
    Ok(Measured::judged(most, Bound::AtMost, threshold, words.join(", ")))
}

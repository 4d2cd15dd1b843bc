//! The eight checks, each over what it looks at as a function.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rin_bench::stats::{median, percentile, sorted};
use rin_energy::protocol::{Protocol, ProtocolError};
use rin_energy::{Error as EnergyError, Sensors};

use super::{Bound, Measured};
use crate::Error;
use crate::tda::{Bar, Distances, Ground, persistence, total_persistence, wasserstein};

/// The energy of a thousand units of work. `work` does some and tells how many units.
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
    let figure = report.variants.first().and_then(|variant| variant.joules_per_unit);
    let Some(figure) = figure else {
        let why =
            report.all_dropped().map_or_else(|| "no window was measured".to_owned(), |e: EnergyError| e.to_string());
        return Ok(Measured::untestable(why));
    };
    let ci = figure
        .ci95
        .map_or_else(String::new, |[low, high]| format!(", 95 % interval {:.4} to {:.4}", 1e3 * low, 1e3 * high));
    let detail = format!("{} windows from {}{ci}", report.windows.len(), meter.name());
    Ok(Measured::judged(1e3 * figure.median, Bound::AtMost, threshold, detail))
}

/// The share of rows of `n_vocab` logits in which both have the same first token; of equal logits the lowest id is first.
pub fn fidelity(found: &[f32], expected: &[f32], n_vocab: usize, threshold: f64) -> Measured {
    let first = |row: &[f32]| {
        row.iter().enumerate().fold((0, f32::NEG_INFINITY), |b, (i, x)| if *x > b.1 { (i, *x) } else { b }).0
    };
    let rows = found.len().checked_div(n_vocab).unwrap_or(0);
    if rows < 100 || found.len() != expected.len() {
        return Measured::untestable(format!(
            "{} and {} logits are not a hundred rows of {n_vocab}",
            found.len(),
            expected.len()
        ));
    }
    let right: Vec<usize> = expected.chunks_exact(n_vocab).map(first).collect();
    let mut kinds = right.clone();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.len() < 5 {
        return Measured::untestable(format!(
            "only {} tokens are ever ranked first: any two models would agree",
            kinds.len()
        ));
    }
    let same = found.chunks_exact(n_vocab).map(first).zip(&right).filter(|(a, b)| a == *b).count();
    let detail = format!("{same} of {rows} positions; {} tokens are ranked first somewhere", kinds.len());
    Measured::judged(same as f64 / rows as f64, Bound::AtLeast, threshold, detail)
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

/// How much the hottest sensor rises while `work` is repeated for so long.
///
/// # Errors
/// What `work` meets.
pub fn thermal(
    root: &Path,
    time: Duration,
    threshold: f64,
    mut work: impl FnMut() -> Result<(), Error>,
) -> Result<Measured, Error> {
    let sensors = thermometers(root);
    let read = || -> Vec<Option<f64>> { sensors.iter().map(|path| kelvin(path)).collect() };
    let before = read();
    if before.iter().all(Option::is_none) {
        let zones = root.join("sys/class/thermal");
        return Ok(Measured::untestable(format!("no sensor of temperature below {} or hwmon", zones.display())));
    }
    let began = Instant::now();
    let mut most = f64::NEG_INFINITY;
    let mut readings = 0;
    while began.elapsed() < time || readings == 0 {
        work()?;
        let rises = read().into_iter().zip(&before).filter_map(|(now, before)| Some(now? - (*before)?));
        most = rises.fold(most, f64::max);
        readings += 1;
    }
    let detail = format!("{} sensors over {:.0} s, {readings} readings", sensors.len(), began.elapsed().as_secs_f64());
    Ok(Measured::judged(most.max(0.0), Bound::AtMost, threshold, detail))
}

/// Files of temperatures in thousandths of a degree.
fn thermometers(root: &Path) -> Vec<PathBuf> {
    let list = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        entries.map(|entry| entry.path()).collect()
    };
    let named = |path: &Path, start: &str, end: &str| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with(start) && name.ends_with(end))
    };
    let mut found: Vec<PathBuf> = list(&root.join("sys/class/thermal"))
        .into_iter()
        .filter(|zone| named(zone, "thermal_zone", ""))
        .map(|zone| zone.join("temp"))
        .collect();
    for device in list(&root.join("sys/class/hwmon")) {
        found.extend(list(&device).into_iter().filter(|file| named(file, "temp", "_input")));
    }
    found.sort();
    found
}

fn kelvin(path: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().parse::<f64>().ok()? / 1000.0 + 273.15)
}

/// The share of ways to compute that give the same digest, and of neurons that fire when they should.
///
/// `digests` are those of every way, the definition's first; `fired` and `expected` say which neurons fired, step by step.
pub fn numerical(digests: &[String], fired: &[bool], expected: &[bool], threshold: f64) -> Measured {
    let Some((first, others)) = digests.split_first().filter(|(_, others)| !others.is_empty()) else {
        return Measured::untestable("there is only one way to compute here: nothing could differ");
    };
    let spikes = expected.iter().filter(|fired| **fired).count();
    let share = spikes as f64 / expected.len().max(1) as f64;
    if fired.len() != expected.len() || !(0.01..=0.99).contains(&share) {
        return Measured::untestable(format!("{spikes} of {} neurons fire: any two would agree", expected.len()));
    }
    let equal = others.iter().filter(|digest| *digest == first).count();
    let alike = fired.iter().zip(expected).filter(|(a, b)| a == b).count();
    let (of_bits, of_spikes) = (equal as f64 / others.len() as f64, alike as f64 / expected.len() as f64);
    let detail = format!(
        "{equal} of {} ways have the definition's bits; {alike} of {} neurons do as defined, {:.1} % of them fire",
        others.len(),
        expected.len(),
        100.0 * share
    );
    Measured::judged(of_bits.min(of_spikes), Bound::AtLeast, threshold, detail)
}

/// The largest share of neurons that can be left out for at most `margin` nats. `loss` tells, for a share that is asked for,
/// the loss and the share that was really left out.
///
/// # Errors
/// What `loss` meets.
pub fn sparsity(
    margin: f64,
    threshold: f64,
    mut loss: impl FnMut(f64) -> Result<(f64, f64), Error>,
) -> Result<Measured, Error> {
    let (base, _) = loss(0.0)?;
    let (all, _) = loss(1.0)?;
    if (all - base).is_nan() || all <= base + 2.0 * margin {
        return Ok(Measured::untestable(format!(
            "leaving out every neuron costs {:.4} nats: the loss does not see them",
            all - base
        )));
    }
    // The loss grows with the share: halve the range.
    let (mut low, mut high, mut share, mut cost) = (0.0, 1.0, 0.0, 0.0);
    for _ in 0..7 {
        let middle = f64::midpoint(low, high);
        let (found, really) = loss(middle)?;
        if found <= base + margin {
            (low, share, cost) = (middle, really, found - base);
        } else {
            high = middle;
        }
    }
    let detail = format!("{:.1} % left out cost {cost:+.4} nats, all of them {:+.2}", 100.0 * share, all - base);
    Ok(Measured::judged(share, Bound::AtLeast, threshold, detail))
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

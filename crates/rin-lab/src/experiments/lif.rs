//! LIF neurons: exactness, and the law of their speed.

use std::time::Instant;

use rin_bench::stats::{bootstrap, mean, median};
use rin_kernels::ops::integer::{DenseWide, IntegerLayer, integer_bytes, pack_integer};
use rin_kernels::ops::lif::{
    AddSpikes, DenseSpikes, KEEP_ALL, LifNeurons, LifStep, Reset, collect_spikes, dense_bytes, pack_dense,
};
use rin_kernels::{Cpu, MatMut, Tier};
use serde_json::{Value, json};

use super::crossover::{Crossover, crossover};
use crate::random::Random;
use crate::report::{Axis, Picture, Series, Table, digits, percent};
use crate::results::Results;
use crate::{Case, Context, Error, Experiment, Findings, Scale, Verdict};

const SHAPES: [(usize, usize); 5] = [(256, 256), (784, 256), (1024, 1024), (4096, 1024), (4096, 4096)];
/// Spikes of a thousand inputs.
const RATES: [u32; 13] = [5, 10, 20, 40, 80, 120, 200, 300, 400, 500, 650, 800, 1000];
const PATTERNS: usize = 16;
/// What a straight line has to explain.
const FIT: f64 = 0.98;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "lif",
    title: "LIF neurons (spiking networks)",
    claim: "Multiplication-free neurons with zero multiplications. The seed's leak keeps 1/8 instead of 7/8, its membranes stick at −1, every weight \
            below one decodes as negative, its neurons cannot fire, and it goes through every input whether it spikes or not.",
    definition: "Integer leaky integrate-and-fire as Lava simulates Loihi: 8-bit weights, 24-bit membranes, 12-bit decays, reset to zero or by \
                 subtraction (`rin_kernels::ops::lif`). A spike adds one contiguous row of weights; the product with all inputs is the other way \
                 to the same integers.",
    reference: "Lava's PyLifModelBitAcc and snntorch 1.0.0 (tests `crates/rin-kernels/tests/lif_vectors.rs`, 0 LSB); here the definition written out \
                with shifts.",
    method: "A million neuron steps against the definition on every instruction tier. Time of the sums of a layer's step by its spike rate, 0.5 to 100 %, \
             in turn with two products with all inputs, that of spikes and the int8 layer of networks of numbers; a line a + b · spikes shall explain 98 % of the variance; the crossover is the rate at which the faster product \
             is as fast, between the measured rates (same layer, one thread, the best tier up to AVX-512 VNNI).",
    expected: "Equal; a line; a crossover at 2 to 6 % per step, since a VNNI instruction multiplies 64 weights.",
    reopens: "A neuron step that differs. Accuracy against an int8 and a float network over six seeds was not run here: `rin train` reports it for one \
              network at a time (docs/snn.md). AMX. spikingjelly, and a spiking language model.",
    revision: 2,
    cases,
    judge,
};

fn cases(scale: Scale) -> Vec<Case> {
    let samples = scale.pick(5, 30);
    let mut cases = vec![Case::new("exact", |_| Ok(exact()))];
    for (inputs, outputs) in SHAPES {
        cases.push(Case::new(format!("time, {inputs} x {outputs}"), move |context| {
            time(inputs, outputs, samples, context)
        }));
    }
    cases
}

/// Neurons of every tier against shifts: k from 1 to 8, both resets.
fn exact() -> Value {
    const NEURONS: usize = 256;
    const STEPS: usize = 250;
    let (mut steps, mut spikes, mut differ) = (0_u64, 0_u64, 0_u64);
    let mut tiers = Vec::new();
    for tier in Cpu::detect().tiers() {
        tiers.push(tier.name());
        let step = LifStep::select(&Cpu::detect().up_to(tier));
        for k in 1..=8_u32 {
            let reset = if k % 2 == 0 { Reset::Zero } else { Reset::Subtract };
            let (keep, threshold) = (vec![KEEP_ALL - (1 << (12 - k)); NEURONS], vec![40_000_i32; NEURONS]);
            let zeros = vec![0; NEURONS];
            let neurons = LifNeurons {
                keep_v: &keep,
                keep_u: &[],
                threshold: &threshold,
                current: &zeros,
                bias: &zeros,
                shift: 6,
                reset,
            };
            let (mut v, mut fired, mut defined) = (vec![0; NEURONS], vec![0; NEURONS], vec![0_i32; NEURONS]);
            let mut random = Random::new(k, 800);
            for _ in 0..STEPS {
                let sums: Vec<i32> = (0..NEURONS).map(|_| (400.0 * random.normal()) as i32).collect();
                step.run(&mut v, &mut [], &mut fired, &sums, neurons);
                for ((d, sum), (v, fired)) in defined.iter_mut().zip(&sums).zip(v.iter().zip(&fired)) {
                    let left = d.abs() - ((d.abs() + (1 << k) - 1) >> k);
                    *d = (d.signum() * left + (sum << 6)).clamp(-(1 << 23) + 1, (1 << 23) - 1);
                    let spike = *d > 40_000;
                    if spike {
                        *d = if reset == Reset::Zero { 0 } else { *d - 40_000 };
                    }
                    steps += 1;
                    spikes += u64::from(spike);
                    differ += u64::from(*d != *v || spike != (*fired != 0));
                }
            }
        }
    }
    json!({ "tiers": tiers, "steps": steps, "spikes": spikes, "differ": differ })
}

/// Microseconds of a step's sums, by spike rate; the products with all inputs right after each.
fn time(inputs: usize, outputs: usize, samples: usize, context: &Context<'_>) -> Result<Value, Error> {
    let misfit = || Error::input("layer", format!("{inputs} x {outputs}"));
    let mut random = Random::new(inputs as u32, outputs as u32);
    // Both layers of numbers have weights without -128.
    let rows: Vec<i8> = (0..inputs * outputs).map(|_| ((random.word() >> 24) as u8).cast_signed().max(-127)).collect();
    let by_output: Vec<i8> = (0..outputs).flat_map(|n| rows.iter().skip(n).step_by(outputs).copied()).collect();
    let mut panels = vec![0; dense_bytes(inputs, outputs).ok_or_else(misfit)?];
    pack_dense(&rows, outputs, &mut panels);
    let mut lines = vec![0; integer_bytes(outputs, inputs).ok_or_else(misfit)?];
    pack_integer(&by_output, inputs, &mut lines);
    // The sums are halved: the factor of a layer is below 1.
    let (bias, multiplier, shift) = (vec![0; outputs], vec![1 << 30; outputs], vec![31; outputs]);
    let layer =
        IntegerLayer { w: &lines, bias: &bias, multiplier: &multiplier, shift: &shift, low: -(1 << 24), high: 1 << 24 };
    let cpu = Cpu::detect().up_to(Tier::Avx512Vnni);
    let (add, dense, wide) = (AddSpikes::select(&cpu), DenseSpikes::select(&cpu), DenseWide::select(&cpu));
    let (mut acc, mut list, mut halves) = (vec![0; outputs], vec![0; inputs], vec![0; outputs]);
    let mut found = Vec::new();
    for rate in RATES {
        context.check()?;
        let spiking = |random: &mut Random| u8::from(random.below(1000) < rate as usize);
        let patterns: Vec<Vec<u8>> =
            (0..PATTERNS).map(|_| (0..inputs).map(|_| spiking(&mut random)).collect()).collect();
        let signed: Vec<Vec<i8>> = patterns.iter().map(|p| p.iter().map(|x| x.cast_signed()).collect()).collect();
        let spikes: usize = patterns.iter().flatten().map(|x| usize::from(*x)).sum();
        let mut seconds = [Vec::new(), Vec::new(), Vec::new()];
        // Long enough for the clock: about two million weights a sample.
        let repeats = (2_000_000 / (inputs * outputs)).max(1);
        for _ in 0..samples {
            let began = Instant::now();
            for fired in std::iter::repeat_n(&patterns, repeats).flatten() {
                acc.fill(0);
                let count = collect_spikes(fired, &mut list);
                add.run(&mut acc, &rows, &list[..count]);
                std::hint::black_box(&acc);
            }
            let sums = acc.clone();
            let per_step = 1e6 / (repeats * PATTERNS) as f64;
            seconds[0].push(began.elapsed().as_secs_f64() * per_step);
            let began = Instant::now();
            for fired in std::iter::repeat_n(&patterns, repeats).flatten() {
                acc.fill(0);
                dense.run(&mut acc, &panels, fired);
                std::hint::black_box(&acc);
            }
            seconds[1].push(began.elapsed().as_secs_f64() * per_step);
            let began = Instant::now();
            for fired in std::iter::repeat_n(&signed, repeats).flatten() {
                wide.run(&mut MatMut::new(&mut halves, 1, outputs), fired, layer);
                std::hint::black_box(&halves);
            }
            seconds[2].push(began.elapsed().as_secs_f64() * per_step);
            if sums != acc || acc.iter().zip(&halves).any(|(sum, half)| (sum - 2 * half).abs() > 1) {
                return Err(Error::input("layer", format!("the ways of {inputs} x {outputs} differ")));
            }
        }
        let [events, products, layers] = &seconds;
        found.push(json!({
            "rate": f64::from(rate) / 1000.0, "spikes": spikes as f64 / PATTERNS as f64,
            "events": median(events), "events_ci": bootstrap::median_interval(events),
            "products": median(products), "layers": median(layers),
        }));
    }
    Ok(json!({ "tier": add.tier().name(), "rows": found }))
}

/// The rate at which events reach the time of a product; none where they stay below.
fn reached(rates: &[f64], events: &[f64], dense: f64) -> Option<f64> {
    let points: Vec<_> = rates.iter().copied().zip(events.iter().copied()).collect();
    match crossover(&points, dense) {
        Crossover::Never => rates.first().copied(),
        Crossover::At(rate) => Some(rate),
        Crossover::Always => None,
    }
}

/// Least squares of `y = a + b x`: a, b and R².
fn line(points: &[(f64, f64)]) -> Option<(f64, f64, f64)> {
    let (x, y): (Vec<f64>, Vec<f64>) = points.iter().copied().unzip();
    let (mean_x, mean_y) = (mean(&x)?, mean(&y)?);
    let xx: f64 = x.iter().map(|x| (x - mean_x).powi(2)).sum();
    let xy: f64 = points.iter().map(|p| (p.0 - mean_x) * (p.1 - mean_y)).sum();
    let b = xy / xx;
    let a = mean_y - b * mean_x;
    let rest: f64 = points.iter().map(|p| (p.1 - a - b * p.0).powi(2)).sum();
    let all: f64 = y.iter().map(|y| (y - mean_y).powi(2)).sum();
    (xx > 0.0 && all > 0.0).then(|| (a, b, 1.0 - rest / all))
}

fn judge(results: &Results) -> Result<Findings, Error> {
    let number = |key: &str| results.number("exact", key);
    let (steps, spikes, differ) = (number("/steps")?, number("/spikes")?, number("/differ")?);
    let mut table = Table::new(
        "Microseconds of the sums of a step, one thread, medians:",
        &[
            "inputs × outputs",
            "0.5 %",
            "2 %",
            "8 %",
            "20 %",
            "50 %",
            "100 %",
            "all inputs",
            "int8 layer",
            "a + b · spikes",
            "R²",
            "crossover",
        ],
    );
    let (mut least_fit, mut crossovers, mut series) = (1.0_f64, Vec::new(), Vec::new());
    for (inputs, outputs) in SHAPES {
        let case = format!("time, {inputs} x {outputs}");
        let rows = results.at(&case, "/rows")?.as_array().cloned().unwrap_or_default();
        let of = |key: &str| rows.iter().filter_map(|row| row[key].as_f64()).collect::<Vec<_>>();
        let (rates, spiking, events) = (of("rate"), of("spikes"), of("events"));
        let points: Vec<(f64, f64)> = spiking.iter().copied().zip(events.iter().copied()).collect();
        let (a, b, fit) = line(&points).unwrap_or((f64::NAN, f64::NAN, f64::NAN));
        least_fit = least_fit.min(fit);
        let [products, layers] = ["products", "layers"].map(|key| median(&of(key)).unwrap_or(f64::NAN));
        let dense = products.min(layers);
        let crossover = reached(&rates, &events, dense);
        crossovers.push(crossover.unwrap_or(1.0));
        let mut cells = vec![format!("{inputs} × {outputs}")];
        cells.extend([0, 2, 4, 6, 9, 12].map(|i| events.get(i).map_or_else(|| "-".to_owned(), |x| digits(*x))));
        cells.extend([
            digits(products),
            digits(layers),
            format!("{} + {} n", digits(a), digits(b)),
            format!("{fit:.4}"),
            crossover.map_or_else(|| "none".to_owned(), percent),
        ]);
        table.row(cells);
        let rates = rates.into_iter().map(|rate| 100.0 * rate);
        series
            .push(Series::line(format!("{inputs} × {outputs}"), rates.zip(events.iter().map(|x| x / dense)).collect()));
    }
    let (low, high) = crossovers.iter().fold((f64::INFINITY, 0.0_f64), |(l, h), x| (l.min(*x), h.max(*x)));
    let because = format!(
        "{} of {} neuron steps differ from the definition; a line a + b · spikes explains {} of the variance at least ({} of 98 %); events are faster than the faster product with all inputs below \
         {} to {} spikes per input and step, by the layer's size (expected: 2 to 6 %).",
        digits(differ),
        digits(steps),
        percent(least_fit),
        if least_fit >= FIT { "above the goal" } else { "short of the goal" },
        percent(low),
        percent(high),
    );
    let exact = differ == 0.0 && spikes > 0.01 * steps && spikes < 0.99 * steps;
    // The accuracy of networks was no part of it.
    let verdict = if exact { Verdict::ValidatedWithLimits } else { Verdict::Negative };
    Ok(Findings::judged(results, verdict, because)
        .table(table)
        .picture(Picture {
            title: "Time of a step over that of the product with all inputs".to_owned(),
            x: ("spikes, % of the inputs".to_owned(), Axis::Log),
            y: ("relative time".to_owned(), Axis::Log),
            series,
        })
        .note(
            "\"Multiplication-free\" is a property of the definition. On a processor a multiplication is free beside the byte that it reads, so what \
             pays are the rows that are not read. Timed are the sums (the list of spikes included), not the neurons' own step, which is the same either way. \
             The int8 layer scales its sums, too. One machine, layers on their own: docs/snn.md has the figures of others, on AVX2 the crossover of large layers lies lower. \
             The accuracy of spiking networks was not part of this run.",
        ))
}

#[cfg(test)]
mod tests {
    use super::reached;

    #[test]
    fn a_crossover_lies_between_measured_rates() {
        let (rates, events) = ([0.1, 0.2, 0.4], [1.0, 2.0, 6.0]);
        assert_eq!(reached(&rates, &events, 7.0), None);
        let of = |dense| reached(&rates, &events, dense).unwrap();
        assert!((of(4.0) - 0.3).abs() < 1e-12 && (of(1.5) - 0.15).abs() < 1e-12 && (of(0.5) - 0.1).abs() < 1e-12);
    }
}

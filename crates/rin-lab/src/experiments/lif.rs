//! LIF neurons: exactness, and the law of their speed.

use std::time::Instant;

use rin_bench::stats::{bootstrap, mean, median};
use rin_kernels::ops::lif::{
    AddSpikes, DenseSpikes, KEEP_ALL, LifNeurons, LifStep, Reset, collect_spikes, dense_bytes, pack_dense,
};
use rin_kernels::{Cpu, Tier};
use serde_json::{Value, json};

use crate::random::Random;
use crate::report::{Axis, Picture, Series, Table, digits, percent};
use crate::results::Results;
use crate::{Case, Context, Error, Experiment, Findings, Scale, Verdict};

const SHAPES: [(usize, usize); 4] = [(256, 256), (784, 256), (1024, 1024), (4096, 1024)];
/// Spikes of a thousand inputs.
const RATES: [u32; 10] = [5, 10, 20, 40, 80, 120, 200, 300, 400, 500];
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
    method: "A million neuron steps against the definition on every instruction tier. Time of a step of a layer by its spike rate, 0.5 to 50 %, \
             the two ways in turn; a line a + b · spikes shall explain 98 % of the variance; the crossover is the rate at which the product with all \
             inputs is as fast (same layer, one thread, the best tier).",
    expected: "Equal; a line; a crossover at 2 to 6 % per step, since a VNNI instruction multiplies 64 weights.",
    reopens: "A neuron step that differs. Accuracy against an int8 and a float network over six seeds was not run here: `rin train` reports it for one \
              network at a time.",
    revision: 1,
    cases,
    judge,
};

fn cases(scale: Scale) -> Vec<Case> {
    let samples = scale.pick(5, 15);
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

/// Microseconds of a step, by spike rate; the product with all inputs right after each.
fn time(inputs: usize, outputs: usize, samples: usize, context: &Context<'_>) -> Result<Value, Error> {
    let misfit = || Error::input("layer", format!("{inputs} x {outputs}"));
    let mut random = Random::new(inputs as u32, outputs as u32);
    let rows: Vec<i8> = (0..inputs * outputs).map(|_| ((random.word() >> 24) as u8).cast_signed()).collect();
    let mut panels = vec![0; dense_bytes(inputs, outputs).ok_or_else(misfit)?];
    pack_dense(&rows, outputs, &mut panels);
    let cpu = Cpu::detect().up_to(Tier::Avx512Vnni);
    let (add, dense) = (AddSpikes::select(&cpu), DenseSpikes::select(&cpu));
    let (mut acc, mut list) = (vec![0; outputs], vec![0; inputs]);
    let mut found = Vec::new();
    for rate in RATES {
        context.check()?;
        let spiking = |random: &mut Random| u8::from(random.below(1000) < rate as usize);
        let patterns: Vec<Vec<u8>> =
            (0..PATTERNS).map(|_| (0..inputs).map(|_| spiking(&mut random)).collect()).collect();
        let spikes: usize = patterns.iter().flatten().map(|x| usize::from(*x)).sum();
        let (mut events, mut products) = (Vec::new(), Vec::new());
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
            let per_step = 1e6 / (repeats * PATTERNS) as f64;
            events.push(began.elapsed().as_secs_f64() * per_step);
            let began = Instant::now();
            for fired in std::iter::repeat_n(&patterns, repeats).flatten() {
                acc.fill(0);
                dense.run(&mut acc, &panels, fired);
                std::hint::black_box(&acc);
            }
            products.push(began.elapsed().as_secs_f64() * per_step);
        }
        found.push(json!({
            "rate": f64::from(rate) / 1000.0, "spikes": spikes as f64 / PATTERNS as f64,
            "events": median(&events), "events_ci": bootstrap::median_interval(&events), "products": median(&products),
        }));
    }
    Ok(json!({ "tier": add.tier().name(), "rows": found }))
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
        "Microseconds of a step, one thread, medians:",
        &["inputs × outputs", "0.5 %", "2 %", "8 %", "20 %", "50 %", "all inputs", "a + b · spikes", "R²", "crossover"],
    );
    let (mut least_fit, mut crossovers, mut series) = (1.0_f64, Vec::new(), Vec::new());
    for (inputs, outputs) in SHAPES {
        let case = format!("time, {inputs} x {outputs}");
        let rows = results.at(&case, "/rows")?.as_array().cloned().unwrap_or_default();
        let of = |key: &str| rows.iter().filter_map(|row| row[key].as_f64()).collect::<Vec<_>>();
        let (spiking, events, products) = (of("spikes"), of("events"), of("products"));
        let points: Vec<(f64, f64)> = spiking.iter().copied().zip(events.iter().copied()).collect();
        let (a, b, fit) = line(&points).unwrap_or((f64::NAN, f64::NAN, f64::NAN));
        least_fit = least_fit.min(fit);
        let dense = median(&products).unwrap_or(f64::NAN);
        let crossover = (dense - a) / b / inputs as f64;
        crossovers.push(crossover);
        let mut cells = vec![format!("{inputs} × {outputs}")];
        cells.extend([0, 2, 4, 6, 9].map(|i| events.get(i).map_or_else(|| "-".to_owned(), |x| digits(*x))));
        cells.extend([
            digits(dense),
            format!("{} + {} n", digits(a), digits(b)),
            format!("{fit:.4}"),
            percent(crossover),
        ]);
        table.row(cells);
        let rates = of("rate").into_iter().map(|rate| 100.0 * rate);
        series
            .push(Series::line(format!("{inputs} × {outputs}"), rates.zip(events.iter().map(|x| x / dense)).collect()));
    }
    let (low, high) = crossovers.iter().fold((f64::INFINITY, 0.0_f64), |(l, h), x| (l.min(*x), h.max(*x)));
    let because = format!(
        "{} of {} neuron steps differ from the definition; a line a + b · spikes explains {} of the variance at least ({} of 98 %); events are faster than the product with all inputs below \
         {} to {} spikes per input and step.",
        digits(differ),
        digits(steps),
        percent(least_fit),
        if least_fit >= FIT { "above the goal" } else { "short of the goal" },
        percent(low),
        percent(high),
    );
    let exact = differ == 0.0 && spikes > 0.01 * steps && spikes < 0.99 * steps;
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
             pays are the rows that are not read. Limits: one machine, layers on their own; the accuracy of spiking networks was not part of this run.",
        ))
}

//! Currents of a spiking layer on one core: rows added per spike against the product with all inputs.
//!
//! ```text
//! cargo bench -p rin-kernels --bench lif -- [TIER …]
//! ```
//!
//! For each tier and layer: microseconds of one time step by spike rate (the list of spikes included, without the step
//! of the neurons), the line `a + b × spikes` fitted to the event-driven times with its R², and the rate from which on
//! the product is faster. Each time is the best of several samples over 32 random patterns of spikes; the two
//! kernels take turns sample by sample.
#![expect(clippy::print_stdout, reason = "a bench tells what it measured")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on may end")]

use std::time::{Duration, Instant};

use rin_kernels::ops::lif::{AddSpikes, DenseSpikes, collect_spikes, dense_bytes, pack_dense};
use rin_kernels::{Cpu, Tier};

const SAMPLES: usize = 15;
const SAMPLE: Duration = Duration::from_millis(4);
const PATTERNS: usize = 32;
const SHAPES: [(usize, usize); 5] = [(256, 256), (784, 256), (1024, 1024), (4096, 1024), (4096, 4096)];
/// Spikes of a thousand inputs.
const RATES: [u32; 12] = [5, 10, 20, 40, 60, 80, 120, 160, 200, 300, 400, 500];

struct Layer {
    rows: Vec<i8>,
    panels: Vec<i8>,
    inputs: usize,
    outputs: usize,
}

impl Layer {
    fn new(inputs: usize, outputs: usize, next: &mut impl FnMut() -> u32) -> Self {
        let rows: Vec<i8> = (0..inputs * outputs).map(|_| next().to_be_bytes()[0].cast_signed()).collect();
        let mut panels = vec![0; dense_bytes(inputs, outputs).unwrap()];
        pack_dense(&rows, outputs, &mut panels);
        Self { rows, panels, inputs, outputs }
    }

    /// Seconds of one step, by spikes and by the product.
    fn time(&self, cpu: Cpu, patterns: &[Vec<u8>]) -> (f64, f64) {
        let (add, dense) = (AddSpikes::select(&cpu), DenseSpikes::select(&cpu));
        let (mut acc, mut list) = (vec![0; self.outputs], vec![0; self.inputs]);
        let mut events = |times: usize| {
            let start = Instant::now();
            for _ in 0..times {
                for fired in patterns {
                    acc.fill(0);
                    let count = collect_spikes(fired, &mut list);
                    add.run(&mut acc, &self.rows, &list[..count]);
                    std::hint::black_box(&acc);
                }
            }
            start.elapsed().as_secs_f64() / (times * patterns.len()) as f64
        };
        let mut sums = vec![0; self.outputs];
        let mut products = |times: usize| {
            let start = Instant::now();
            for _ in 0..times {
                for fired in patterns {
                    sums.fill(0);
                    dense.run(&mut sums, &self.panels, fired);
                    std::hint::black_box(&sums);
                }
            }
            start.elapsed().as_secs_f64() / (times * patterns.len()) as f64
        };
        let repeats = |once: f64| (SAMPLE.as_secs_f64() / (once * patterns.len() as f64)).ceil().max(1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
        let (event_times, product_times) = (repeats(events(1)) as usize, repeats(products(1)) as usize);
        let mut best = (f64::INFINITY, f64::INFINITY);
        for _ in 0..SAMPLES {
            best.0 = best.0.min(events(event_times));
            best.1 = best.1.min(products(product_times));
        }
        best
    }
}

/// Least squares of `y = a + b x`: a, b and R².
fn line(points: &[(f64, f64)]) -> (f64, f64, f64) {
    let n = points.len() as f64;
    let mean = |f: fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let (xx, xy) = points.iter().fold((0.0, 0.0), |s, p| (s.0 + (p.0 - x).powi(2), s.1 + (p.0 - x) * (p.1 - y)));
    let b = xy / xx;
    let a = y - b * x;
    let rest: f64 = points.iter().map(|p| (p.1 - a - b * p.0).powi(2)).sum();
    let all: f64 = points.iter().map(|p| (p.1 - y).powi(2)).sum();
    (a, b, 1.0 - rest / all)
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let cpu = Cpu::detect();
    let chosen = |tier: &Tier| match words.len() {
        0 => !matches!(tier, Tier::Scalar | Tier::AmxInt8),
        _ => words.iter().any(|word| word == tier.name()),
    };
    let mut seed = 1_u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed
    };
    for tier in cpu.tiers().filter(chosen) {
        let rates: Vec<String> = RATES.iter().map(|rate| format!("{} %", f64::from(*rate) / 10.0)).collect();
        println!(
            "\n{tier}: µs of a step by spike rate\n\n| inputs × outputs | {} | all inputs | a + b × spikes | R² | crossover |",
            rates.join(" | ")
        );
        println!("|---|{}", "---|".repeat(RATES.len() + 4));
        for (inputs, outputs) in SHAPES {
            let layer = Layer::new(inputs, outputs, &mut next);
            let (mut points, mut dense, mut cells) = (Vec::new(), f64::INFINITY, Vec::new());
            for rate in RATES {
                let patterns: Vec<Vec<u8>> = (0..PATTERNS)
                    .map(|_| (0..inputs).map(|_| u8::from((next() >> 12) % 1000 < rate)).collect())
                    .collect();
                let spikes: usize = patterns.iter().flatten().map(|&x| usize::from(x)).sum();
                let (event, product) = layer.time(cpu.up_to(tier), &patterns);
                dense = dense.min(product * 1e6);
                points.push((spikes as f64 / PATTERNS as f64, event * 1e6));
                cells.push(format!("{:.2}", event * 1e6));
            }
            let (a, b, fit) = line(&points);
            let crossover = 100.0 * (dense - a) / b / inputs as f64;
            println!(
                "| {inputs} × {outputs} | {} | {dense:.2} | {a:.3} + {b:.5} | {fit:.4} | {crossover:.0} % |",
                cells.join(" | ")
            );
        }
    }
}

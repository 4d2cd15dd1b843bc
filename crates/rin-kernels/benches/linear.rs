//! Products on one core, by format, tier and number of tokens: 10¹² operations and 10⁹ bytes of weights per second.
//!
//! ```text
//! cargo bench -p rin-kernels --bench linear -- [FORMAT|TIER|memory …]
//! ```
//!
//! Two matrices: one whose panels stay in the caches of a core, which shows the arithmetic, and with one token one of
//! 256 MiB, which shows how well memory is read (`memory`: this one alone). The best of several samples counts, as disturbances only ever add time.
//! Variants that are to be compared take turns sample by sample.
#![expect(clippy::print_stdout, reason = "a bench tells what it measured")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot go on may end")]

use std::time::{Duration, Instant};

use rin_kernels::format::Activation;
use rin_kernels::ops::linear::{Epilogue, Input, Linear, QuantRows};
use rin_kernels::ops::quantize::QuantizeRow;
use rin_kernels::pack::{LANES, pack_panel};
use rin_kernels::{Cpu, Format, MatMut, Tier};

const SAMPLES: usize = 12;
const SAMPLE: Duration = Duration::from_millis(15);

/// A matrix and the rows it is multiplied with.
struct Case {
    panels: Vec<u8>,
    rows: usize,
    cols: usize,
    tokens: usize,
    x: Vec<f32>,
    q: Vec<i8>,
    d: Vec<f32>,
    sums: Vec<i16>,
}

impl Case {
    fn new(format: Format, rows: usize, cols: usize, tokens: usize, cpu: Cpu) -> Self {
        let mut seed = 1_u32;
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed
        };
        let panel_bytes = format.panel_bytes(cols).unwrap();
        let mut panels = vec![0; rows.div_ceil(LANES) * panel_bytes];
        let row: Vec<Vec<u8>> = (0..LANES).map(|_| row(format, cols, &mut next)).collect();
        let (first, rest) = panels.split_at_mut(panel_bytes);
        pack_panel(format, cols, |lane| row.get(lane).map(Vec::as_slice), first).unwrap();
        rest.chunks_exact_mut(panel_bytes).for_each(|panel| panel.copy_from_slice(first));
        let x: Vec<f32> = (0..tokens * cols).map(|_| (next() >> 8) as f32 / 1e7 - 0.8).collect();
        let (mut q, mut d, mut sums) = (Vec::new(), Vec::new(), Vec::new());
        let block = format.activation().block_len();
        if block > 1 {
            q.resize(tokens * cols, 0);
            d.resize(tokens * cols / block, 0.0);
            sums.resize(tokens * cols / 16, 0);
            QuantizeRow::select(&cpu).run(&mut q, &mut d, &mut sums, &x, block);
        }
        Self { panels, rows, cols, tokens, x, q, d, sums }
    }

    fn input(&self, format: Format) -> Input<'_> {
        match format.activation() {
            Activation::F32 => Input::Float { x: &self.x, cols: self.cols },
            kind => Input::Quant(QuantRows {
                q: &self.q,
                d: &self.d,
                sums: &self.sums,
                cols: self.cols,
                block: kind.block_len(),
            }),
        }
    }

    /// Seconds of the fastest pass of each operation, which take turns.
    fn time(&self, format: Format, ops: &[Linear]) -> Vec<f64> {
        let mut out = vec![0.0; self.tokens * self.rows];
        let mut run = |op: &Linear, times: usize| {
            let start = Instant::now();
            for _ in 0..times {
                let mut y = MatMut::new(&mut out, self.tokens, self.rows);
                op.run(&mut y, &self.panels, self.input(format), Epilogue::default());
            }
            start.elapsed().as_secs_f64() / times as f64
        };
        let times: Vec<usize> = ops
            .iter()
            .map(|op| {
                let once = Duration::from_secs_f64(run(op, 1).max(1e-7));
                usize::try_from(SAMPLE.as_nanos() / once.as_nanos()).unwrap().max(1)
            })
            .collect();
        let mut best = vec![f64::INFINITY; ops.len()];
        for _ in 0..SAMPLES {
            for (i, op) in ops.iter().enumerate() {
                best[i] = best[i].min(run(op, times[i]));
            }
        }
        best
    }
}

/// A file row with random codes and scales that are small numbers.
fn row(format: Format, cols: usize, next: &mut impl FnMut() -> u32) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..format.row_bytes(cols).unwrap()).map(|_| next().to_be_bytes()[0]).collect();
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        let scales: &[usize] = match format {
            Format::F32 => {
                block.copy_from_slice(&((next() >> 8) as f32 / 1e7).to_le_bytes());
                &[]
            }
            Format::Q4_K | Format::Q5_K => &[0, 2],
            Format::Q6_K => &[208],
            Format::TQ1_0 => &[52],
            Format::TQ2_0 => &[64],
            _ => &[0],
        };
        for at in scales {
            block[*at..at + 2].copy_from_slice(&0x2000_u16.to_le_bytes());
        }
    }
    bytes
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let named = |name: &str| words.iter().any(|word| word == name);
    let cpu = Cpu::detect();
    let any_tier = Tier::ALL.iter().any(|tier| named(tier.name()));
    let any_format = Format::ALL.iter().any(|format| named(format.name()));
    let chosen = |tier: &Tier| if any_tier { named(tier.name()) } else { *tier != Tier::Scalar };
    let tiers: Vec<Tier> = cpu.tiers().filter(chosen).collect();
    println!("| format | tier | tokens | rows × cols | TOPS | GB/s |\n|---|---|---|---|---|---|");
    for format in Format::ALL.into_iter().filter(|format| !any_format || named(format.name())) {
        let ops: Vec<Linear> = tiers.iter().map(|tier| Linear::select(format, &cpu.up_to(*tier))).collect();
        let large = (256 << 20) / format.panel_bytes(2048).unwrap() * LANES;
        let in_caches = [(128, 2048, 1), (128, 2048, 8), (128, 2048, 16), (128, 2048, 128), (64, 8192, 128)];
        let in_caches = if named("memory") { &[][..] } else { &in_caches };
        for &(rows, cols, tokens) in in_caches.iter().chain(&[(large, 2048, 1)]) {
            let case = Case::new(format, rows, cols, tokens, cpu);
            for (op, (tier, seconds)) in ops.iter().zip(tiers.iter().zip(case.time(format, &ops))) {
                let tops = 2.0 * (rows * cols * tokens) as f64 / seconds / 1e12;
                let rate = case.panels.len() as f64 / seconds / 1e9;
                println!("| {format} | {tier} ({}) | {tokens} | {rows} × {cols} | {tops:.3} | {rate:.1} |", op.tier());
            }
        }
    }
}

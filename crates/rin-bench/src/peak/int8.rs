//! Products of 8-bit integers as fast as the instructions make them, or as the engine's own kernel does where that has
//! faster ones (AMX), all operands in registers and the nearest caches.

use std::time::{Duration, Instant};

use rin_engine::pool::Pool;
use rin_kernels::format::{Activation, Codes};
use rin_kernels::ops::byte_rate::{ByteRate, CHAINS, PRODUCTS};
use rin_kernels::ops::linear::{Epilogue, Input, Linear, QuantRows};
use rin_kernels::pack::{LANES, LINE, pack_panel};
use rin_kernels::{Cpu, Format, MatMut};

use super::Peak;

/// Outputs, inputs and tokens of the product: 70 KB of panels, 64 KB of activations and 16 KB of results for each worker.
const ROWS: usize = 64;
const COLS: usize = 1024;
const TOKENS: usize = 64;

/// How long one sample shall take at least.
const SAMPLE: Duration = Duration::from_millis(10);
const SAMPLES: usize = 20;

/// The operands, shared by all workers.
#[derive(Debug)]
struct Operands {
    panels: Vec<u8>,
    q: Vec<i8>,
    d: Vec<f32>,
    sums: Vec<i16>,
}

impl Operands {
    /// Codes and activations that are no special values; none where the format cannot pack them.
    fn new() -> Option<Self> {
        let format = Format::Q8_0;
        let block = format.block_len();
        let mut panels = vec![0; format.packed_bytes(ROWS, COLS)?];
        for (p, panel) in panels.chunks_exact_mut(format.panel_bytes(COLS)?).enumerate() {
            let rows: Vec<Vec<u8>> = (0..LANES).map(|lane| row(format, p * LANES + lane)).collect();
            pack_panel(format, COLS, |lane| rows.get(lane).map(Vec::as_slice), panel).ok()?;
        }
        let q: Vec<i8> = (0..TOKENS * COLS).map(|i| small(i * 31 + 7)).collect();
        let sums = q.chunks(16).map(|group| group.iter().map(|&q| i16::from(q)).sum()).collect();
        Some(Self { panels, q, d: vec![1.0 / 128.0; TOKENS * COLS / block], sums })
    }

    fn input(&self) -> Input<'_> {
        let block = Activation::Block32.block_len();
        Input::Quant(QuantRows { q: &self.q, d: &self.d, sums: &self.sums, cols: COLS, block })
    }
}

/// A number in −125..=125.
fn small(i: usize) -> i8 {
    i8::try_from(i16::try_from(i % 251).unwrap_or(0) - 125).unwrap_or(0)
}

/// A row of weights as the file format has it, with scales of 2⁻⁷.
fn row(format: Format, r: usize) -> Vec<u8> {
    const SCALE: u16 = 0x2000;
    let mut bytes = vec![0; format.row_bytes(COLS).unwrap_or(0)];
    for (b, block) in bytes.chunks_exact_mut(format.block_bytes()).enumerate() {
        let mut codes = Codes { d: SCALE, ..Codes::ZERO };
        for (i, q) in codes.q.iter_mut().take(format.block_len()).enumerate() {
            // A code is the number plus 128.
            *q = small(r * 17 + b * 5 + i * 3).cast_unsigned() ^ 0x80;
        }
        codes.write(format, block);
    }
    bytes
}

/// Runs products of 8-bit numbers on all workers at once: 10¹² operations per second of each sample, a product and its
/// addition being two.
pub fn int8_throughput(pool: &mut Pool, cpu: Cpu) -> Option<Peak> {
    let bare = bare(pool, cpu, SAMPLE, SAMPLES);
    let kernel = kernel(pool, cpu, SAMPLE, SAMPLES);
    [bare, kernel].into_iter().flatten().max_by(|a, b| a.best.total_cmp(&b.best))
}

/// Of the instructions alone.
fn bare(pool: &mut Pool, cpu: Cpu, sample: Duration, n_samples: usize) -> Option<Peak> {
    /// Rounds of a run.
    const ROUNDS: usize = 1000;
    let op = ByteRate::select(&cpu);
    let (w, x) = ([77; LINE], [[3, -5, 7, -11]; CHAINS]);
    let mut sums = vec![[[0; LANES]; CHAINS]; pool.threads()];
    rate(pool, &mut sums, 2.0 * (PRODUCTS * ROUNDS) as f64, sample, n_samples, |sums| op.run(sums, &w, &x, ROUNDS))
}

/// Of the kernel for 8-bit weights, with its scales.
fn kernel(pool: &mut Pool, cpu: Cpu, sample: Duration, n_samples: usize) -> Option<Peak> {
    let operands = Operands::new()?;
    let op = Linear::select(Format::Q8_0, &cpu);
    let mut results = vec![vec![0.0; TOKENS * ROWS]; pool.threads()];
    rate(pool, &mut results, 2.0 * (ROWS * COLS * TOKENS) as f64, sample, n_samples, |result| {
        let mut y = MatMut::new(result, TOKENS, ROWS);
        op.run(&mut y, &operands.panels, operands.input(), Epilogue::default());
    })
}

/// The rate of a run on every worker, each with a result of its own, in 10¹² operations per second.
fn rate<T: Send>(
    pool: &mut Pool,
    results: &mut [T],
    ops: f64,
    sample: Duration,
    n_samples: usize,
    run: impl Fn(&mut T) + Sync,
) -> Option<Peak> {
    let threads = results.len();
    let mut all = |times: usize| {
        let mut parts: Vec<Option<&mut T>> = results.iter_mut().map(Some).collect();
        let start = Instant::now();
        pool.run_parts(&mut parts, |_, result| (0..times).for_each(|_| run(result)));
        start.elapsed()
    };
    let mut times = 1;
    while all(times) < sample && times < 1 << 24 {
        times *= 2;
    }
    let ops = ops * (times * threads) as f64;
    Peak::of((0..n_samples).map(|_| ops / all(times).as_secs_f64().max(1e-9) / 1e12).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rin_engine::pool::PoolOptions;
    use rin_kernels::Tier;
    use rin_kernels::format::dequantize;

    /// The operands make sense: the product equals that of the numbers that they stand for.
    #[test]
    fn the_product_is_a_real_one() {
        let operands = Operands::new().unwrap();
        let mut result = vec![0.0; TOKENS * ROWS];
        let op = Linear::select(Format::Q8_0, &Cpu::detect());
        op.run(&mut MatMut::new(&mut result, TOKENS, ROWS), &operands.panels, operands.input(), Epilogue::default());
        let mut weights = vec![0.0; COLS];
        for (r, t) in [(0, 0), (17, 3), (63, 63)] {
            dequantize(Format::Q8_0, &row(Format::Q8_0, r), &mut weights);
            let x = &operands.q[t * COLS..][..COLS];
            let expected: f64 = weights.iter().zip(x).map(|(w, q)| f64::from(*w) * f64::from(*q) / 128.0).sum();
            let found = f64::from(result[t * ROWS + r]);
            assert!((found - expected).abs() < 1e-4 * expected.abs().max(1.0), "{found} for {expected}");
        }
    }

    #[test]
    fn every_tier_has_a_rate() {
        let mut pool = Pool::new(PoolOptions { threads: 2, ..PoolOptions::default() }).unwrap();
        for tier in [Tier::Scalar, Cpu::detect().best()] {
            for measure in [bare, kernel] {
                let peak = measure(&mut pool, Cpu::detect().up_to(tier), Duration::from_millis(1), 2).unwrap();
                assert!(peak.samples.len() == 2 && peak.best > 0.0);
            }
        }
    }
}

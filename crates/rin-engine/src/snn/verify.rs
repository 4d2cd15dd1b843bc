//! The numerics contract of spiking networks, tried out: the same rows over all tiers, thread counts and batches, by
//! lists of spikes and by products.
//!
//! The baseline is the scalar tier on one thread, all rows at once. Where a row's spikes are drawn for its number in the run
//! (the rate code), rows are never run apart.

use super::network::{Coding, Network};
use super::run::{Simulator, SimulatorOptions};
use crate::Error;
use crate::digest::{DigestHex, LogitDigest};
use crate::engine::make_pool;
use crate::network::verify::{Axes, Mismatch, Report};
use crate::topology::Policy;
use rin_kernels::{Cpu, Tier};

/// Runs all cases on rows that look random.
///
/// # Errors
///
/// When the network is unsound, or threads cannot be started.
pub fn verify(network: &Network, axes: &Axes, affinity: Policy) -> Result<Report, Error> {
    let n = axes.rows();
    let rows = rows(network, n);
    let batches: &[usize] = if matches!(network.coding, Coding::Rate { .. }) { &[n] } else { &axes.batch };
    let (expected, digest) = outputs(network, &rows, n, Case { tier: Tier::Scalar, threads: 1, affinity, batch: n })?;
    let mut report = Report { cases: 0, equal: 0, digest, mismatches: Vec::new() };
    for &threads in &axes.threads {
        for &tier in &axes.tiers {
            for &batch in batches {
                let (found, _) = outputs(network, &rows, n, Case { tier, threads, affinity, batch })?;
                report.cases += 1;
                let differs = expected.iter().zip(&found).position(|(a, b)| a.to_bits() != b.to_bits());
                let Some(at) = differs else {
                    report.equal += 1;
                    continue;
                };
                let width = network.outputs().max(1);
                let (row, element) = (at / width, at % width);
                let (expected, found) = (expected[at], found[at]);
                report.mismatches.push(Mismatch { tier, threads, batch, output: 0, row, element, expected, found });
            }
        }
    }
    Ok(report)
}

/// Whole rows as the coding takes them: trains of which a third spikes, or numbers that the scale brings to -1..1.
fn rows(network: &Network, n: usize) -> Vec<f32> {
    let len = network.row_len(network.steps).unwrap_or(0);
    let mut state = 0x9e37_79b9_u32;
    let mut next = || {
        // Xorshift (Marsaglia, 2003).
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    let value = |x: f32| match network.coding {
        Coding::Spikes => f32::from(u8::from(x > 1.0 / 3.0)),
        Coding::Direct { scale } => x / scale,
        Coding::Rate { scale, .. } | Coding::Latency { scale } => x.abs() / scale,
    };
    (0..n * len).map(|_| value(next())).collect()
}

#[derive(Clone, Copy)]
struct Case {
    tier: Tier,
    threads: usize,
    affinity: Policy,
    batch: usize,
}

fn outputs(network: &Network, rows: &[f32], n: usize, case: Case) -> Result<(Vec<f32>, DigestHex), Error> {
    let pool = make_pool(Some(case.threads), case.affinity)?;
    let options = SimulatorOptions::new(Cpu::detect().up_to(case.tier));
    let mut simulator = Simulator::new(network.clone(), pool, options)?;
    let (len, width) = (rows.len() / n.max(1), network.outputs());
    let mut found = vec![0.0; n * width];
    let batches = rows.chunks(case.batch.max(1) * len.max(1)).zip(found.chunks_mut(case.batch.max(1) * width.max(1)));
    for (rows, found) in batches {
        simulator.run(rows, network.steps, found)?;
    }
    let mut digest = LogitDigest::new();
    found.chunks(width.max(1)).for_each(|row| digest.update(row));
    Ok((found, digest.finish()))
}

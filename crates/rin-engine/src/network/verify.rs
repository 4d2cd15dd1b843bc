//! The numerics contract, tried out: the same rows over all tiers, thread counts and batches.
//!
//! The baseline is the scalar tier on one thread, row by row.

use super::NetworkEngine;
use crate::Error;
use crate::digest::{DigestHex, LogitDigest};
use crate::topology::Policy;
use rin_kernels::Tier;

/// The values of each axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axes {
    /// Instruction tiers.
    pub tiers: Vec<Tier>,
    /// Numbers of threads.
    pub threads: Vec<usize>,
    /// Rows in a run.
    pub batch: Vec<usize>,
}

impl Axes {
    /// The threads and batches of the contract.
    pub fn contract(tiers: Vec<Tier>) -> Self {
        Self { tiers, threads: vec![1, 2, 3, 5, 8], batch: vec![1, 2, 3, 7, 16] }
    }

    /// Rows that a case computes: those of the largest batch.
    pub fn rows(&self) -> usize {
        self.batch.iter().copied().max().unwrap_or(1)
    }
}

/// The first difference of a case.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    /// Instruction tier.
    pub tier: Tier,
    /// Threads.
    pub threads: usize,
    /// Rows in a run.
    pub batch: usize,
    /// Which output.
    pub output: usize,
    /// Which row.
    pub row: usize,
    /// Which value of the row.
    pub element: usize,
    /// Its value in the baseline.
    pub expected: f32,
    /// Its value here.
    pub found: f32,
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Cases, without the baseline.
    pub cases: usize,
    /// Those with the bits of the baseline.
    pub equal: usize,
    /// SHA-256 over the baseline's outputs, row by row.
    pub digest: DigestHex,
    /// The first difference of each case that has one.
    pub mismatches: Vec<Mismatch>,
}

/// Runs all cases on an engine that was loaded for [`Axes::rows`] rows, on rows that look random.
///
/// # Errors
///
/// When threads cannot be started, or the engine was loaded for fewer rows.
pub fn verify(engine: &mut NetworkEngine, axes: &Axes, affinity: Policy) -> Result<Report, Error> {
    let n = axes.rows();
    let input = |(i, port): (usize, &rin_model::Port)| {
        let domain = engine.domain(i);
        rows(n * port.width(), i).into_iter().map(|x| domain.fit(x)).collect()
    };
    let inputs: Vec<Vec<f32>> = engine.inputs().iter().enumerate().map(input).collect();
    engine.reconfigure(Tier::Scalar, 1, affinity)?;
    let (expected, digest) = outputs(engine, &inputs, n, 1)?;
    let mut report = Report { cases: 0, equal: 0, digest, mismatches: Vec::new() };
    for &threads in &axes.threads {
        for &tier in &axes.tiers {
            engine.reconfigure(tier, threads, affinity)?;
            for &batch in &axes.batch {
                let (found, _) = outputs(engine, &inputs, n, batch)?;
                report.cases += 1;
                match difference(&expected, &found) {
                    None => report.equal += 1,
                    Some((output, at)) => report.mismatches.push(Mismatch {
                        tier,
                        threads,
                        batch,
                        output,
                        row: at / engine.output_width(output),
                        element: at % engine.output_width(output),
                        expected: expected[output][at],
                        found: found[output][at],
                    }),
                }
            }
        }
    }
    Ok(report)
}

/// Numbers from -2 to 2.
fn rows(n: usize, input: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_u32.wrapping_add(u32::try_from(input).unwrap_or(0).wrapping_mul(0x85eb_ca6b)) | 1;
    let mut next = || {
        // Xorshift (Marsaglia, 2003).
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / 4_194_304.0 - 2.0
    };
    (0..n).map(|_| next()).collect()
}

fn outputs(
    engine: &mut NetworkEngine,
    inputs: &[Vec<f32>],
    n: usize,
    batch: usize,
) -> Result<(Vec<Vec<f32>>, DigestHex), Error> {
    let mut all = vec![Vec::new(); engine.outputs().len()];
    let mut digest = LogitDigest::new();
    for first in (0..n).step_by(batch.max(1)) {
        let rows = batch.min(n - first);
        let widths = engine.inputs().iter().map(rin_model::Port::width);
        let slices: Vec<&[f32]> =
            inputs.iter().zip(widths).map(|(values, width)| &values[first * width..][..rows * width]).collect();
        engine.run_from(first, &slices, rows)?;
        for (i, all) in all.iter_mut().enumerate() {
            all.extend_from_slice(engine.output(i));
        }
        engine.digest(&mut digest);
    }
    Ok((all, digest.finish()))
}

/// The first output and value whose bits differ.
fn difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> Option<(usize, usize)> {
    a.iter()
        .zip(b)
        .enumerate()
        .find_map(|(output, (a, b))| Some((output, a.iter().zip(b).position(|(a, b)| a.to_bits() != b.to_bits())?)))
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn differences_are_of_bits() {
        let a = [vec![1.0, 0.0], vec![f32::NAN, 2.0]];
        assert_eq!(difference(&a, &a), None);
        assert_eq!(difference(&a, &[vec![1.0, -0.0], vec![f32::NAN, 2.0]]), Some((0, 1)));
        assert_eq!(difference(&a, &[vec![1.0, 0.0], vec![f32::NAN, 2.5]]), Some((1, 1)));
    }
}

//! From a difference in the logits to the first value of the network that differs.

use super::VerifyOptions;
use super::case::{Case, run_traced};
use crate::digest::{DigestHex, LogitDigest};
use crate::{Engine, Error, Trace};
use std::collections::BTreeMap;
use std::hash::Hasher;

/// A value within the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Position of the token.
    pub position: usize,
    /// The step of the plan.
    pub step: usize,
    /// The layer of that step; none before and after the layers.
    pub layer: Option<usize>,
    /// What the step computes.
    pub operation: &'static str,
    /// Which of its outputs.
    pub part: usize,
    /// The element of the row.
    pub element: usize,
    /// Its value in the baseline.
    pub expected: f32,
    /// Its value in the case.
    pub found: f32,
}

/// The first element whose bits differ, with both values.
pub(super) fn first_difference(expected: &[f32], found: &[f32]) -> Option<(usize, f32, f32)> {
    let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
    let element = expected.iter().zip(found).position(differs)?;
    Some((element, expected[element], found[element]))
}

/// Position, step and part, in the order in which a network computes one token after the other.
type Key = (usize, usize, usize);

/// The first value up to `position` in which a case differs from the baseline; none where it does not do so again.
pub(super) fn find(
    engine: &mut Engine,
    case: &Case,
    options: &VerifyOptions,
    text: &mut [u32],
    position: usize,
) -> Result<Option<Place>, Error> {
    let mut rows = |case: &Case, tracer: &mut dyn FnMut(&Trace<'_>)| {
        let end = (position + 1).max(options.prompt.len()).min(text.len());
        run_traced(engine, case, options, &mut text[..end], |_, _, _| {}, Some(tracer))
    };
    let mut expected: BTreeMap<Key, u64> = BTreeMap::new();
    rows(&Case::BASELINE, &mut |trace| {
        expected.insert((trace.position, trace.step, trace.part), hash(trace.values));
    })?;
    let mut first: Option<Key> = None;
    rows(case, &mut |trace| {
        let key = (trace.position, trace.step, trace.part);
        if expected.get(&key) != Some(&hash(trace.values)) && first.is_none_or(|first| key < first) {
            first = Some(key);
        }
    })?;
    let Some(key) = first else { return Ok(None) };
    let mut values = Vec::new();
    rows(&Case::BASELINE, &mut |trace| {
        if (trace.position, trace.step, trace.part) == key {
            values = trace.values.to_vec();
        }
    })?;
    let mut place = None;
    rows(case, &mut |trace| {
        if (trace.position, trace.step, trace.part) == key
            && let Some((element, expected, found)) = first_difference(&values, trace.values)
        {
            let &Trace { position, step, layer, operation, part, .. } = trace;
            place = Some(Place { position, step, layer, operation, part, element, expected, found });
        }
    })?;
    Ok(place)
}

/// What one step of the plan computed, over all tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepDigest {
    /// The layer of the step; none before and after the layers.
    pub layer: Option<usize>,
    /// What it computes.
    pub operation: &'static str,
    /// SHA-256 over the bits of its f32 outputs, token by token.
    pub digest: DigestHex,
}

/// Digests of every step of the plan over the prompt, as the definition computes it: machines can be compared by them.
///
/// # Errors
///
/// As for [`verify`](super::verify).
pub fn step_digests(engine: &mut Engine, options: &VerifyOptions) -> Result<Vec<StepDigest>, Error> {
    let mut steps: BTreeMap<usize, (Option<usize>, &'static str, LogitDigest)> = BTreeMap::new();
    let mut tracer = |trace: &Trace<'_>| {
        let step = steps.entry(trace.step).or_insert_with(|| (trace.layer, trace.operation, LogitDigest::new()));
        step.2.update(trace.values);
    };
    let mut text = options.prompt.clone();
    run_traced(engine, &Case::BASELINE, options, &mut text, |_, _, _| {}, Some(&mut tracer))?;
    let digest =
        |(layer, operation, digest): (_, _, LogitDigest)| StepDigest { layer, operation, digest: digest.finish() };
    Ok(steps.into_values().map(digest).collect())
}

/// A hash of the bits of a row, the same in every run of the program.
fn hash(values: &[f32]) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    for value in values {
        hasher.write_u32(value.to_bits());
    }
    hasher.finish()
}

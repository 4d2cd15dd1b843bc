//! The numerics contract, tried out: one text over all tiers, thread counts, batches, chunks and cache states.
//!
//! The baseline is the scalar tier on one thread, one sequence, token by token, from an empty cache. Each case runs the same
//! tokens in another way and compares the logits after the prompt and after each generated token, bit by bit. Where a case
//! differs, the steps of the network are traced to the first value that does.

mod case;
mod trace;

pub use case::{Axes, Case};
pub use trace::{Place, StepDigest, step_digests};

use crate::digest::{DigestHex, LogitDigest};
use crate::sampler::argmax;
use crate::topology::Policy;
use crate::{Engine, Error, LoadOptions};
use case::run_case;
use std::ops::ControlFlow;

/// What to verify.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// The values of each axis.
    pub axes: Axes,
    /// Ids of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// Tokens to generate after it, greedily.
    pub n_generate: usize,
    /// Whether every combination is run; otherwise every pair of values of two axes, and a quarter of all.
    pub full: bool,
    /// Where threads are pinned.
    pub affinity: Policy,
}

/// A difference.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    /// Where it was found.
    pub case: Case,
    /// Position of the token whose logits differ.
    pub position: usize,
    /// The first element of the logits that differs.
    pub element: usize,
    /// Its value in the baseline.
    pub expected: f32,
    /// Its value here.
    pub found: f32,
    /// The first value within the network that differs; none where a second run shows none.
    pub place: Option<Place>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Cases, without the baseline.
    pub cases: usize,
    /// Those with the bits of the baseline.
    pub equal: usize,
    /// SHA-256 over the baseline's logits.
    pub digest: DigestHex,
    /// The ids that were generated.
    pub tokens: Vec<u32>,
    /// The first difference of each case that has one.
    pub mismatches: Vec<Mismatch>,
}

/// The prompt of a verification where none is given: ids spread over the vocabulary.
pub fn default_prompt(n_vocab: usize, n: usize) -> Vec<u32> {
    case::text(0, n_vocab, n)
}

/// The options that an engine to be verified is loaded with: room for all sequences of the largest batch.
pub fn load_options(options: &LoadOptions, verify: &VerifyOptions) -> LoadOptions {
    let axes = &verify.axes;
    let n_sequences = axes.batch.iter().copied().max().unwrap_or(1);
    let chunk = axes.chunk.iter().copied().max().unwrap_or(1).min(verify.prompt.len()).max(1);
    LoadOptions {
        ctx: Some(verify.prompt.len() + verify.n_generate + 1),
        n_sequences,
        n_batch: chunk + n_sequences,
        n_logits: n_sequences,
        ..options.clone()
    }
}

/// Runs all cases on an engine that was loaded with [`load_options`]. `progress` hears of each case, before it runs, and
/// may break to end early; then the cases so far count.
///
/// # Errors
///
/// When an engine refuses a step: the sizes do not fit, an id is unknown.
pub fn verify(
    engine: &mut Engine,
    options: &VerifyOptions,
    mut progress: impl FnMut(usize, usize, &Case) -> ControlFlow<()>,
) -> Result<Report, Error> {
    let vocab = engine.plan().config.vocab;
    let baseline = Case::BASELINE;
    let mut text = options.prompt.clone();
    let mut expected: Vec<f32> = Vec::new();
    // The baseline draws the text; the cases are fed with it, so that one difference does not become many.
    text.extend(std::iter::repeat_n(0, options.n_generate));
    let mut drawn = Ok(());
    run_case(engine, &baseline, options, &mut text, |text, position, logits| {
        expected.extend_from_slice(logits);
        match argmax(logits) {
            Ok(id) => {
                if let Some(next) = text.get_mut(position + 1) {
                    *next = id;
                }
            }
            Err(error) => drawn = Err(error),
        }
    })?;
    drawn?;
    let mut digest = LogitDigest::new();
    digest.update(&expected);
    let cases = options.axes.cases(options.full);
    let mut report = Report {
        cases: 0,
        equal: 0,
        digest: digest.finish(),
        tokens: text.split_off(options.prompt.len()),
        mismatches: Vec::new(),
    };
    let mut text: Vec<u32> = options.prompt.iter().chain(&report.tokens).copied().collect();
    for (i, case) in cases.iter().enumerate() {
        if progress(i, cases.len(), case).is_break() {
            break;
        }
        let mut mismatch: Option<Mismatch> = None;
        let mut rows = expected.chunks_exact(vocab);
        run_case(engine, case, options, &mut text, |_, position, logits| {
            let row = rows.next().unwrap_or_default();
            if mismatch.is_none()
                && let Some((element, expected, found)) = trace::first_difference(row, logits)
            {
                mismatch = Some(Mismatch { case: *case, position, element, expected, found, place: None });
            }
        })?;
        report.cases += 1;
        match mismatch {
            None => report.equal += 1,
            Some(mut mismatch) => {
                mismatch.place = trace::find(engine, case, options, &mut text, mismatch.position)?;
                report.mismatches.push(mismatch);
            }
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rin_kernels::Tier;
    use rin_model::ModelFile;
    use rin_testkit::data::conformance;

    #[test]
    fn a_difference_is_found_where_it_begins() {
        let axes = Axes {
            tiers: vec![Tier::Scalar],
            threads: vec![1, 2],
            batch: vec![1, 3],
            chunk: vec![7],
            cache_hit: vec![false, true],
        };
        let file = ModelFile::open(&conformance("models/tiny-llama-b32/tiny-llama-b32-q8_0.gguf")).unwrap();
        let prompt = default_prompt(file.config().unwrap().vocab, 80);
        let options = VerifyOptions { axes, prompt, n_generate: 5, full: true, affinity: Policy::None };
        let mut engine = Engine::load(file, &load_options(&LoadOptions::default(), &options), |_| {}).unwrap();
        let all = |_: usize, _: usize, _: &Case| ControlFlow::Continue(());
        let sound = verify(&mut engine, &options, all).unwrap();
        assert_eq!((sound.cases, sound.equal, sound.tokens.len()), (8, 8, 5));

        // The keys of the second layer: with two threads, from the first position that is computed on.
        let products = engine.plan().steps.iter().enumerate();
        let step = products.filter(|(_, step)| step.matrices().len() == 3).nth(1).unwrap().0;
        engine.break_step(Some(step));
        let found = verify(&mut engine, &options, all).unwrap();
        assert_eq!((found.digest, found.cases, found.equal), (sound.digest, 8, 4), "one thread is sound");
        for mismatch in &found.mismatches {
            assert_eq!(mismatch.case.threads, 2);
            let place = mismatch.place.as_ref().unwrap();
            let first = if mismatch.case.cache_hit { 64 } else { 0 };
            let expected = (first, step, Some(1), "linear", 1, 5);
            let Place { position, step, layer, operation, part, element, .. } = *place;
            assert_eq!((position, step, layer, operation, part, element), expected);
            assert_eq!(place.expected.to_bits() ^ 0x10_0000, place.found.to_bits());
        }

        let mut heard = 0;
        let stop = |_: usize, n: usize, _: &Case| {
            heard += 1;
            if heard > 3 {
                ControlFlow::Break(())
            } else if n == 8 {
                ControlFlow::Continue(())
            } else {
                panic!("{n}")
            }
        };
        assert_eq!(verify(&mut engine, &options, stop).unwrap().cases, 3);
    }
}

//! Evaluations against naive computations, and of models against themselves.
#![expect(clippy::unwrap_used, reason = "a test")]

use rin_engine::eval::{EvalError, EvalText, Evaluation, evaluate};
use rin_engine::tokenizer::Tokenizer;
use rin_engine::{Engine, Error, LoadOptions};
use rin_kernels::Cpu;
use rin_kernels::ops::attention::KvType;
use rin_model::ModelFile;
use rin_testkit::data::{conformance, shared};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

fn engine(path: &Path, change: impl FnOnce(&mut LoadOptions)) -> Engine {
    let mut options = LoadOptions {
        threads: Some(2),
        ctx: Some(32),
        n_batch: 16,
        n_logits: 16,
        kv_type: Some(KvType::F32),
        ..LoadOptions::default()
    };
    change(&mut options);
    let file = ModelFile::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Engine::load(file, &options, |_| {}).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn tiny() -> PathBuf {
    conformance("models/tiny-llama-tied")
}

fn text(n: u32, bos: Option<u32>) -> EvalText {
    let ids = (0..n).map(|i| (i * 37 + i * i) % 280).collect();
    EvalText { ids, bos, bytes: 3 * n as usize, chars: 2 * n as usize }
}

fn run(model: &mut Engine, reference: Option<&mut Engine>, text: &EvalText) -> Result<Evaluation, Error> {
    evaluate(model, reference, text, |_| ControlFlow::Continue(()))
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// −ln of the last token's probability after the others.
fn naive(engine: &mut Engine, tokens: &[u32]) -> f64 {
    let (target, before) = tokens.split_last().unwrap();
    let sequence = engine.sequence().unwrap();
    let row: Vec<f64> = engine.feed(&sequence, before).unwrap().iter().map(|x| f64::from(*x)).collect();
    engine.release(sequence);
    let sum: f64 = row.iter().map(|x| libm::exp(*x)).sum();
    libm::log(sum) - row[*target as usize]
}

#[test]
fn one_window_is_the_plain_log_softmax() {
    for bos in [None, Some(1)] {
        let mut engine = engine(&tiny(), |_| {});
        let text = text(31, bos);
        let found = run(&mut engine, None, &text).unwrap();
        let tokens: Vec<u32> = bos.into_iter().chain(text.ids.iter().copied()).collect();
        let expected: Vec<f64> = (2..=tokens.len()).map(|n| naive(&mut engine, &tokens[..n])).collect();
        assert_eq!(found.nll.len(), expected.len());
        assert_eq!(found.nll.len(), text.scored());
        for (found, expected) in found.nll.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-12, "{found} instead of {expected}");
        }
        let sum: f64 = expected.iter().sum();
        let n = expected.len() as f64;
        assert!((found.nll_mean - sum / n).abs() < 1e-12);
        assert!((found.perplexity - libm::exp(sum / n)).abs() < 1e-8);
        assert!((found.nll_per_byte.unwrap() - sum / 93.0).abs() < 1e-12);
        assert!((found.nll_per_char.unwrap() - sum / 62.0).abs() < 1e-12);
        assert_eq!((found.comparison, found.nll_ci95, found.ctx), (None, None, 32));
    }
}

/// Windows of 16 positions: with a beginning-of-text token they hold 15 tokens and move by 7, without one 16 and 8.
#[test]
fn each_token_sees_the_window_of_the_protocol() {
    for (bos, held, stride) in [(None, 16, 8), (Some(1), 15, 7)] {
        let mut engine = engine(&tiny(), |o| o.ctx = Some(16));
        let text = text(75, bos);
        let found = run(&mut engine, None, &text).unwrap();
        let skipped = usize::from(bos.is_none());
        assert_eq!(found.nll.len(), 75 - skipped);
        for (i, found) in found.nll.iter().enumerate() {
            let target = i + skipped;
            // The first window that holds the target.
            let first = (0..).step_by(stride).find(|first| target < first + held).unwrap();
            let shown: Vec<u32> = bos.into_iter().chain(text.ids[first..=target].iter().copied()).collect();
            let expected = naive(&mut engine, &shown);
            assert!((found - expected).abs() < 1e-12, "token {target}: {found} instead of {expected}");
        }
    }
}

#[test]
fn one_figure_over_tiers_threads_and_batches() {
    let quantised = conformance("models/tiny-llama-b32/tiny-llama-b32-q4_0.gguf");
    let float = conformance("models/tiny-llama");
    let text = text(100, Some(1));
    for path in [quantised, float] {
        let mut reference = engine(&path, |_| {});
        let want = run(&mut reference, None, &text).unwrap();
        for tier in Cpu::detect().tiers() {
            for (threads, batch, rows) in [(1, 1, 1), (3, 7, 4), (2, 32, 32)] {
                let mut engine = engine(&path, |o| {
                    (o.tier, o.threads, o.n_batch, o.n_logits) = (Some(tier), Some(threads), batch, rows);
                });
                let found = run(&mut engine, Some(&mut reference), &text).unwrap();
                assert_eq!(bits(&found.nll), bits(&want.nll), "{tier}, {threads} threads, batch {batch}");
                assert_eq!(found.nll_mean.to_bits(), want.nll_mean.to_bits());
                let comparison = found.comparison.unwrap();
                assert_eq!(bits(&[comparison.kl_mean, comparison.kl_p99]), [0, 0]);
                assert_eq!(comparison.top1_agreement.to_bits(), f64::to_bits(1.0));
            }
        }
    }
}

/// Against sums over the two models' rows in the order of the definition.
#[test]
fn the_distance_to_a_reference_is_that_of_the_definition() {
    let paths = ["q4_0", "q8_0"].map(|name| conformance(&format!("models/tiny-llama-b32/tiny-llama-b32-{name}.gguf")));
    let text = text(32, None);
    let [mut model, mut reference] = paths.map(|path| engine(&path, |_| {}));
    let found = run(&mut model, Some(&mut reference), &text).unwrap().comparison.unwrap();
    let [p, q] = [&mut reference, &mut model].map(|engine| {
        let mut rows: Vec<Vec<f64>> = Vec::new();
        let sequence = engine.sequence().unwrap();
        let each = |row: &[f32]| rows.push(row.iter().map(|x| f64::from(*x)).collect());
        engine.feed_all(&sequence, &text.ids[..31], each).unwrap();
        engine.release(sequence);
        rows
    });
    let softmax = |row: &[f64]| {
        let sum: f64 = row.iter().map(|x| libm::exp(*x)).sum();
        row.iter().map(|x| libm::exp(*x) / sum).collect::<Vec<_>>()
    };
    let (mut kl, mut more) = (Vec::new(), 0.0);
    let mut agreed = 0;
    for ((p, q), &target) in p.iter().zip(&q).zip(&text.ids[1..]) {
        let best = |row: &[f64]| (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        agreed += u32::from(best(p) == best(q));
        more += libm::log(softmax(p)[target as usize] / softmax(q)[target as usize]);
        kl.push(softmax(p).iter().zip(softmax(q)).map(|(p, q)| p * libm::log(p / q)).sum::<f64>());
    }
    let n = kl.len() as f64;
    assert!((found.nll_more - more / n).abs() < 1e-12, "{} instead of {}", found.nll_more, more / n);
    assert!(more.abs() > 1e-6 && found.nll_more_ci95.is_none());
    let mean = kl.iter().sum::<f64>() / n;
    eprintln!("KL {mean:e} nats, {agreed} of {n} agree");
    assert!((found.kl_mean - mean).abs() < 1e-12 * mean.max(1.0), "{} instead of {mean}", found.kl_mean);
    // Of 31 values, the 99th percentile is the largest.
    let largest = kl.iter().copied().fold(0.0, f64::max);
    assert!((found.kl_p99 - largest).abs() < 1e-12 * largest.max(1.0));
    assert_eq!(found.top1_agreement.to_bits(), (f64::from(agreed) / n).to_bits());
    assert!(mean > 1e-6, "the two differ");
}

#[test]
fn what_cannot_be_evaluated_is_named() {
    let failure = |result: Result<Evaluation, Error>| match result {
        Err(Error::Eval(error)) => error,
        other => panic!("{other:?}"),
    };
    let mut model = engine(&tiny(), |_| {});
    assert_eq!(failure(run(&mut model, None, &text(1, Some(1)))), EvalError::TextTooShort { tokens: 1 });
    let mut small = engine(&tiny(), |o| o.ctx = Some(3));
    let too_small = EvalError::ContextTooSmall { ctx: 3, least: 4 };
    assert_eq!(failure(run(&mut small, None, &text(9, None))), too_small);
    assert_eq!(failure(run(&mut model, Some(&mut small), &text(9, None))), too_small);
    if let Some(stories) = shared("models/stories260k/stories260K.gguf") {
        let found = failure(run(&mut model, Some(&mut engine(&stories, |_| {})), &text(9, None)));
        assert_eq!(found, EvalError::OtherVocabulary { model: 288, reference: 512 });
    }
    let mut unknown = text(9, None);
    unknown.ids[4] = 288;
    assert!(matches!(run(&mut model, None, &unknown), Err(Error::UnknownToken { id: 288, .. })));
    // The last token is not fed, and still has to be known.
    unknown = text(9, None);
    unknown.ids[8] = 288;
    assert!(matches!(run(&mut model, None, &unknown), Err(Error::UnknownToken { id: 288, .. })));
    // Nothing of that keeps a sequence.
    assert!(run(&mut model, None, &text(9, None)).is_ok());
}

#[test]
fn progress_counts_and_cancels() {
    let mut model = engine(&tiny(), |_| {});
    let mut told = Vec::new();
    let text = text(50, None);
    evaluate(&mut model, None, &text, |n| {
        told.push(n);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(told.is_sorted() && told.first() == Some(&0) && told.last() == Some(&49), "{told:?}");
    let stop = |n| if n > 20 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
    assert!(matches!(evaluate(&mut model, None, &text, stop), Err(Error::Eval(EvalError::Cancelled))));
    assert!(run(&mut model, None, &text).is_ok());
}

fn tokenizer(path: &Path) -> Tokenizer {
    Tokenizer::from_source(&ModelFile::open(path).unwrap().tokenizer().unwrap()).unwrap()
}

#[test]
fn a_text_knows_what_its_scored_tokens_spell() {
    let Some(stories) = shared("models/stories260k/stories260K.gguf") else { return };
    let sentence = "Once upon a time, there was a caf\u{e9} \u{1f600}.";
    let (bytes, chars) = (sentence.len(), sentence.chars().count());
    let with_bos = tokenizer(&stories);
    let all = EvalText::encode(&with_bos, sentence, None).unwrap();
    assert_eq!((all.bos, all.bytes, all.chars, all.scored()), (Some(1), bytes, chars, all.ids.len()));
    for n in 2..all.ids.len() {
        let part = EvalText::encode(&with_bos, sentence, Some(n)).unwrap();
        assert_eq!(part.ids, all.ids[..n]);
        let pieces: Vec<u8> = part.ids.iter().flat_map(|id| with_bos.piece(*id).unwrap().to_vec()).collect();
        // The first piece has a space that the tokenizer put there.
        assert_eq!(part.bytes, pieces.len() - 1);
        assert!(sentence.as_bytes().starts_with(&pieces[1..]));
    }
    let Some(gpt2) = shared("tokenizers/ggml-vocab-gpt-2.gguf") else { return };
    let without = tokenizer(&gpt2);
    let all = EvalText::encode(&without, "Hello World!", None).unwrap();
    assert_eq!((all.bos, all.ids.len(), all.scored(), all.bytes, all.chars), (None, 3, 2, 7, 7));
    for short in ["", "Hello"] {
        let found = EvalText::encode(&without, short, None);
        assert!(matches!(found, Err(Error::Eval(EvalError::TextTooShort { .. }))), "{short:?}");
    }
}

#[test]
fn q8_0_is_close_to_f32() {
    let (Some(f32_path), Some(q8_path), Some(text)) = (
        shared("models/stories260k/stories260K.gguf"),
        shared("models/stories260k/stories260K-Q8_0.gguf"),
        shared("models/stories260k/greedy-200.txt"),
    ) else {
        return;
    };
    let text = EvalText::encode(&tokenizer(&f32_path), &std::fs::read_to_string(text).unwrap(), None).unwrap();
    let [mut model, mut reference] = [q8_path, f32_path].map(|path| engine(&path, |o| o.ctx = Some(256)));
    let found = run(&mut model, Some(&mut reference), &text).unwrap();
    let plain = run(&mut reference, None, &text).unwrap();
    let comparison = found.comparison.unwrap();
    eprintln!("Q8_0: {comparison:?}, {} nats beside {}", found.nll_mean, plain.nll_mean);
    assert!(comparison.kl_mean > 0.0 && comparison.kl_mean < 1e-3, "{comparison:?}");
    assert!(comparison.kl_p99 >= comparison.kl_mean && comparison.top1_agreement > 0.97, "{comparison:?}");
    // Its own greedy text is no surprise to the model.
    assert!(plain.nll_mean < 1.0 && (found.nll_mean - plain.nll_mean).abs() < 0.02);
}

//! The sampler against naive definitions that sort everything and allocate freely.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "small counts, and random values that may round anywhere"
)]

use proptest::prelude::*;

use super::*;

/// A sampler's parameters with every filter, penalty and bias off.
fn plain(temp: f32) -> SamplingParams {
    SamplingParams { temp, top_k: 0, top_p: 1.0, min_p: 0.0, ..SamplingParams::default() }
}

/// Logits between −`spread` and `spread`, from the generator itself.
fn random_logits(n_vocab: usize, spread: f64, seed: u64) -> Vec<f32> {
    (0..n_vocab as u64).map(|i| ((philox::uniform(seed, i) * 2.0 - 1.0) * spread) as f32).collect()
}

/// The candidates that the sampler's filters leave, by rank.
fn kept_ids(params: &SamplingParams, logits: &[f32]) -> Vec<u32> {
    let mut sampler = Sampler::new(params.clone(), logits.len()).unwrap();
    sampler.adjust(logits, &[]).unwrap();
    sampler.filter();
    let n_kept = sampler.candidates.items().len();
    (0..n_kept).map(|rank| sampler.candidates.at(rank).unwrap().id()).collect()
}

/// Token ids by logit descending, then id ascending; forbidden ones left out.
fn naive_ranking(logits: &[f32]) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..logits.len() as u32).filter(|&id| logits[id as usize] > f32::NEG_INFINITY).collect();
    ids.sort_by(|&a, &b| logits[b as usize].partial_cmp(&logits[a as usize]).unwrap());
    ids
}

/// Probabilities of a set of tokens, in its order.
fn naive_softmax(logits: &[f32], ids: &[u32], temp: f64) -> Vec<f64> {
    let highest = ids.iter().map(|&id| f64::from(logits[id as usize])).fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> =
        ids.iter().map(|&id| libm::exp((f64::from(logits[id as usize]) - highest) / temp)).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

/// The shortest prefix whose probabilities reach `p`.
fn naive_top_p(logits: &[f32], ids: &[u32], p: f64) -> Vec<u32> {
    let probabilities = naive_softmax(logits, ids, 1.0);
    let n_kept = (1..ids.len()).find(|&n| probabilities[..n].iter().sum::<f64>() >= p).unwrap_or(ids.len());
    ids[..n_kept].to_vec()
}

fn naive_min_p(logits: &[f32], ids: &[u32], p: f64) -> Vec<u32> {
    let probabilities = naive_softmax(logits, ids, 1.0);
    let highest = probabilities.iter().copied().fold(0.0, f64::max);
    ids.iter().zip(&probabilities).filter(|(_, q)| **q >= p * highest).map(|(id, _)| *id).collect()
}

fn naive_typical(logits: &[f32], ids: &[u32], p: f64) -> Vec<u32> {
    let probabilities = naive_softmax(logits, ids, 1.0);
    let entropy: f64 = probabilities.iter().filter(|q| **q > 0.0).map(|q| -q * libm::log(*q)).sum();
    let mut by_deviation: Vec<(f64, u32, f64)> =
        ids.iter().zip(&probabilities).map(|(id, q)| ((-libm::log(*q) - entropy).abs(), *id, *q)).collect();
    by_deviation.sort_by(|a, b| a.0.partial_cmp(&b.0).unwrap());
    let (mut kept, mut sum) = (Vec::new(), 0.0);
    for (_, id, probability) in by_deviation {
        if sum <= p {
            kept.push(id);
        }
        sum += probability;
    }
    ids.iter().copied().filter(|id| kept.contains(id)).collect()
}

/// All filters in order, over random logits, where no two sums lie within rounding of a limit.
fn naive_kept(params: &SamplingParams, logits: &[f32]) -> Vec<u32> {
    let mut ids = naive_ranking(logits);
    if params.top_k > 0 {
        ids.truncate(params.top_k);
    }
    if params.typical_p < 1.0 {
        ids = naive_typical(logits, &ids, f64::from(params.typical_p));
    }
    if params.top_p < 1.0 {
        ids = naive_top_p(logits, &ids, f64::from(params.top_p));
    }
    if params.min_p > 0.0 {
        ids = naive_min_p(logits, &ids, f64::from(params.min_p));
    }
    ids
}

fn naive_draw(logits: &[f32], ids: &[u32], temp: f64, uniform: f64) -> u32 {
    let mut sum = 0.0;
    for (id, probability) in ids.iter().zip(naive_softmax(logits, ids, temp)) {
        sum += probability;
        if sum > uniform {
            return *id;
        }
    }
    *ids.last().unwrap()
}

#[test]
fn greedy_takes_the_highest_logit_and_of_ties_the_lowest_id() {
    let mut sampler = Sampler::new(SamplingParams { temp: 0.0, ..SamplingParams::default() }, 5).unwrap();
    let mut greedy = |logits: [f32; 5]| sampler.sample(&logits, 0, &[]).unwrap();
    assert_eq!(greedy([1.0, 3.0, 2.0, 3.0, 0.0]), 1);
    assert_eq!(greedy([-1.0, -0.0, 0.0, -0.0, -2.0]), 1);
    assert_eq!(greedy([f32::NEG_INFINITY, f32::MIN, f32::MIN, f32::NEG_INFINITY, f32::MIN]), 1);
    assert_eq!(argmax(&[0.0, 7.0, 7.0]), Ok(1));
    assert_eq!(argmax(&[]), Err(SamplingError::AllForbidden));
}

#[test]
fn one_candidate_is_the_greedy_choice_also_for_ties_and_signed_zeros() {
    let logits = [-1.0, -0.0, 0.0, -0.0, -2.0];
    for params in [
        SamplingParams { top_k: 1, ..plain(1.0) },
        SamplingParams { top_p: 0.0, ..plain(1.0) },
        SamplingParams { top_p: 0.1, ..plain(1.0) },
    ] {
        assert_eq!(kept_ids(&params, &logits), [1], "{params:?}");
    }
    assert_eq!(kept_ids(&SamplingParams { min_p: 1.0, ..plain(1.0) }, &logits), [1, 2, 3]);
}

#[test]
fn each_filter_and_their_chain_match_the_naive_definition() {
    let changes: [fn(&mut SamplingParams, f32); 8] = [
        |_, _| (),
        |p, v| p.top_k = (v * 300.0) as usize + 1,
        |p, v| p.top_p = v,
        |p, v| p.min_p = v * v * v,
        |p, v| p.typical_p = v,
        |p, v| (p.top_p, p.min_p) = (1.0 - v / 10.0, v * v * v / 100.0),
        |p, v| (p.typical_p, p.top_p, p.min_p) = (1.0 - v / 10.0, 0.9, v / 20.0),
        |p, v| (p.top_k, p.typical_p, p.top_p, p.min_p) = (200, 0.95, 1.0 - v / 10.0, 0.01),
    ];
    for (case, change) in changes.iter().enumerate() {
        for trial in 0..60u64 {
            let n_vocab = [3, 50, 700, 3000][trial as usize % 4];
            let spread = [0.01, 2.0, 8.0, 30.0, 500.0][trial as usize % 5];
            let logits = random_logits(n_vocab, spread, 1000 * case as u64 + trial);
            let temp = [0.2, 0.8, 1.5][trial as usize % 3];
            let mut params = SamplingParams { seed: trial, ..plain(temp) };
            change(&mut params, philox::uniform(99, trial) as f32);
            let naive = naive_kept(&params, &logits);
            assert_eq!(kept_ids(&params, &logits), naive, "case {case}, trial {trial}, {params:?}");

            let mut sampler = Sampler::new(params, n_vocab).unwrap();
            for position in 0..5 {
                let uniform = philox::uniform(trial, position);
                let expected = naive_draw(&logits, &naive, f64::from(temp), uniform);
                assert_eq!(sampler.sample(&logits, position, &[]), Ok(expected), "case {case}, trial {trial}");
            }
        }
    }
}

#[test]
fn typical_may_drop_the_most_probable_token() {
    // One token at 0.2 and 400 at 0.002: the entropy is 5.3 nats, to which 6.2 (the tail) lies nearer than 1.6 (the top).
    let mut logits = vec![libm::log(0.2) as f32];
    logits.extend(std::iter::repeat_n(libm::log(0.8 / 400.0) as f32, 400));
    let kept = kept_ids(&SamplingParams { typical_p: 0.5, ..plain(1.0) }, &logits);
    // More than 0.5 / 0.002 of the tail, the lowest ids first.
    assert_eq!(kept, (1..=kept.len() as u32).collect::<Vec<_>>());
    assert!((250..=251).contains(&kept.len()), "{}", kept.len());
}

proptest! {
    /// Many ties, forbidden tokens and zeros of both signs: survivors are a prefix of the naive ranking, as filters other
    /// than typical are, and the draw is one of them.
    #[test]
    fn survivors_are_a_prefix_of_the_ranking(
        quarters in prop::collection::vec(prop::option::weighted(0.9, -12i8..12), 1..600),
        top_k in 0usize..700, top_p in 0f32..=1.0, min_p in 0f32..0.5, temp in 0.01f32..3.0, position: u64,
    ) {
        let logits: Vec<f32> = quarters
            .iter()
            .map(|quarter| quarter.map_or(f32::NEG_INFINITY, |q| if q == 1 { -0.0 } else { f32::from(q / 2) / 4.0 }))
            .collect();
        let params = SamplingParams { top_k, top_p, min_p, ..plain(temp) };
        let mut sampler = Sampler::new(params.clone(), logits.len()).unwrap();
        let ranking = naive_ranking(&logits);
        let sampled = sampler.sample(&logits, position, &[]);
        if ranking.is_empty() {
            prop_assert_eq!(sampled, Err(SamplingError::AllForbidden));
            return Ok(());
        }
        let kept = kept_ids(&params, &logits);
        prop_assert!(!kept.is_empty());
        prop_assert_eq!(&kept[..], &ranking[..kept.len()]);
        prop_assert!(kept.contains(&sampled.unwrap()));
    }

    #[test]
    fn penalties_and_bias_match_a_naive_count(
        seed: u64,
        history in prop::collection::vec(0u32..8, 0..40),
        repeat_last_n in 0usize..50,
        repeat_penalty in 0.5f32..2.0, presence_penalty in -2f32..2.0, frequency_penalty in -2f32..2.0,
        bias in prop::collection::vec((0u32..8, -5f32..5.0), 0..4),
    ) {
        let logits = random_logits(8, 5.0, seed);
        let params = SamplingParams {
            repeat_last_n, repeat_penalty, presence_penalty, frequency_penalty, logit_bias: bias.clone(), ..plain(1.0)
        };
        let mut sampler = Sampler::new(params, 8).unwrap();
        // Twice, so that counts left over from the first call would show.
        for _ in 0..2 {
            sampler.adjust(&logits, &history).unwrap();
            for id in 0..8u32 {
                let biased = bias.iter().filter(|b| b.0 == id).fold(logits[id as usize], |sum, b| sum + b.1);
                let count = history.iter().rev().take(repeat_last_n).filter(|&&h| h == id).count();
                let mut expected = f64::from(biased);
                if count > 0 {
                    let factor = f64::from(repeat_penalty);
                    expected = if expected > 0.0 { expected / factor } else { expected * factor };
                    expected -= f64::from(presence_penalty) + count as f64 * f64::from(frequency_penalty);
                }
                prop_assert_eq!(sampler.logits[id as usize].to_bits(), (expected as f32).to_bits(), "token {}", id);
            }
        }
    }
}

#[test]
fn extreme_bias_and_penalties_leave_finite_logits_and_minus_infinity_forbids() {
    let params = SamplingParams {
        logit_bias: vec![(0, f32::MAX), (0, f32::MAX), (1, f32::NEG_INFINITY), (1, f32::MAX), (2, f32::MAX)],
        repeat_penalty: 1e-30,
        frequency_penalty: f32::MAX,
        ..plain(0.0)
    };
    let mut sampler = Sampler::new(params, 4).unwrap();
    sampler.adjust(&[1.0, 1.0, f32::NEG_INFINITY, 1.0], &[3, 3]).unwrap();
    assert_eq!(sampler.logits, [f32::MAX, f32::NEG_INFINITY, f32::NEG_INFINITY, f32::MIN]);
}

#[test]
fn bad_input_is_an_error_that_leaves_the_sampler_usable() {
    for temp in [0.0, 1.0] {
        let mut sampler = Sampler::new(plain(temp), 3).unwrap();
        for value in [f32::NAN, f32::INFINITY] {
            let error = sampler.sample(&[0.0, value, 1.0], 0, &[]).unwrap_err();
            assert!(matches!(error, SamplingError::NonFiniteLogit { index: 1, .. }), "{error}");
        }
        let error = sampler.sample(&[f32::NEG_INFINITY; 3], 0, &[]);
        assert_eq!(error, Err(SamplingError::AllForbidden));
        let error = sampler.sample(&[0.0; 4], 0, &[]);
        assert_eq!(error, Err(SamplingError::LogitCount { expected: 3, found: 4 }));
        let error = sampler.sample(&[0.0; 3], 0, &[0, 1, 3]);
        assert_eq!(error, Err(SamplingError::UnknownToken { index: 2, id: 3, n_vocab: 3 }));
        assert!(sampler.counts.iter().all(|&count| count == 0));
        assert_eq!(sampler.sample(&[f32::NEG_INFINITY, 5.0, f32::NEG_INFINITY], 0, &[0]), Ok(1));
    }
    assert!(Sampler::new(plain(f32::NAN), 3).is_err());
}

#[test]
fn a_position_is_independent_of_the_calls_before_it() {
    let params = SamplingParams { typical_p: 0.95, repeat_penalty: 1.3, seed: 7, ..SamplingParams::default() };
    let steps: Vec<Vec<f32>> = (0..40).map(|step| random_logits(500, 6.0, step)).collect();
    let history: Vec<u32> = (0..40).map(|i| i * 7 % 500).collect();
    let mut running = Sampler::new(params.clone(), 500).unwrap();
    for (position, logits) in steps.iter().enumerate() {
        let in_sequence = running.sample(logits, position as u64, &history[..position]);
        let alone = Sampler::new(params.clone(), 500).unwrap().sample(logits, position as u64, &history[..position]);
        assert_eq!(in_sequence, alone, "position {position}");
    }
}

#[test]
fn seed_and_position_both_change_the_draws() {
    let logits = [0.0; 1000];
    let draws = |seed: u64, first: u64| -> Vec<u32> {
        let mut sampler = Sampler::new(SamplingParams { seed, ..plain(1.0) }, 1000).unwrap();
        (first..first + 8).map(|position| sampler.sample(&logits, position, &[]).unwrap()).collect()
    };
    assert_eq!(draws(1, 0), draws(1, 0));
    assert_ne!(draws(1, 0), draws(2, 0));
    assert_ne!(draws(1, 0), draws(1, 8));
}

/// Pearson's chi-square test of 100,000 draws against the probabilities, by a fixed seed.
#[test]
fn draws_follow_the_probabilities() {
    const DRAWS: u32 = 100_000;
    let logits = random_logits(40, 2.0, 3);
    for (params, temp) in [
        (plain(1.0), 1.0),
        (plain(0.7), f64::from(0.7f32)),
        (SamplingParams { top_k: 20, min_p: 0.05, ..plain(1.3) }, f64::from(1.3f32)),
    ] {
        let kept = naive_kept(&params, &logits);
        let probabilities = naive_softmax(&logits, &kept, temp);
        let mut counts = vec![0u32; logits.len()];
        let mut sampler = Sampler::new(SamplingParams { seed: 2011, ..params }, logits.len()).unwrap();
        for position in 0..u64::from(DRAWS) {
            counts[sampler.sample(&logits, position, &[]).unwrap() as usize] += 1;
        }
        assert_eq!(kept.iter().map(|&id| counts[id as usize]).sum::<u32>(), DRAWS, "a filtered token was drawn");
        let chi_square: f64 = kept
            .iter()
            .zip(&probabilities)
            .map(|(&id, probability)| {
                let expected = probability * f64::from(DRAWS);
                assert!(expected > 5.0, "the test needs five expected draws per token");
                (f64::from(counts[id as usize]) - expected).powi(2) / expected
            })
            .sum();
        // Mean and standard deviation of the distribution: df and sqrt(2 df); 3.1 deviations leave about 0.1 %.
        let df = kept.len() as f64 - 1.0;
        assert!(chi_square < df + 3.1 * (2.0 * df).sqrt(), "chi-square {chi_square} with {df} degrees of freedom");
        assert!(chi_square > df - 3.1 * (2.0 * df).sqrt(), "chi-square {chi_square} is too good for {df} degrees");
    }
}

#[test]
fn buffers_never_grow() {
    let params = SamplingParams { top_k: 0, typical_p: 0.99, top_p: 0.999, min_p: 0.001, ..plain(1.0) };
    let mut sampler = Sampler::new(params, 5000).unwrap();
    let addresses = |s: &Sampler| {
        (s.candidates.items().as_ptr(), s.by_deviation.items().as_ptr(), s.logits.as_ptr(), s.counts.as_ptr())
    };
    let before = addresses(&sampler);
    for position in 0..20 {
        let logits = random_logits(5000, 0.5, position);
        sampler.sample(&logits, position, &[1, 2, 3]).unwrap();
    }
    assert_eq!(addresses(&sampler), before);
}

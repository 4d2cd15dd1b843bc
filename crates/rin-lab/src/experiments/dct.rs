//! The discrete cosine transform: its accuracy in fixed point, and whether weights are any smaller in it.

use serde_json::{Value, json};

use super::{dct_uses, loss};
use crate::dct::{Basis, Fixed, Graph, definition, ieee1180, rounded};
use crate::decoder::{Arithmetic, Matrix};
use crate::random::Random;
use crate::report::{Axis, Picture, Series, Table, digits, interval, percent};
use crate::results::Results;
use crate::{Case, Error, Experiment, Findings, Scale, Verdict};

const AMPLITUDES: [i32; 3] = [128, 2048, 23_000];
const MARGIN: f64 = 0.02;
/// Weights that are transformed together and share a scale.
const GROUP: usize = 64;
const BITS: [u32; 2] = [3, 4];
const BASES: [(&str, Basis); 3] = [("as they are", Basis::None), ("Hadamard", Basis::Hadamard), ("DCT", Basis::Cosine)];

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "dct",
    title: "Fixed-point DCT, and spectral compression of weights",
    claim: "An AAN cosine transform with an error of 7.3 %. The seed's transform is neither AAN nor a cosine transform: its odd rows have \
            cosines of −0.22 to 0.68 with the right ones, and its inverse is the forward transform, so the way there and back has an error \
            of 99 %.",
    definition: "AAN (Arai, Agui, Nakajima 1988) with five and Loeffler, Ligtenberg and Moschytz (1989) with twelve multiplications, constants in \
                 8, 13 or 15 bits, products rounded or cut off, values with guard bits; both ways, in one and two dimensions. Compression: \
                 groups of 64 weights of a row, as they are, turned by a Hadamard matrix, or by a cosine transform, then rounded to 3 or 4 bits \
                 with a 16-bit scale per group; or the product of two factors of the singular vectors, rounded to 3, 4 or 6 bits, of the rank that takes the same bits. \
                 Cache: keys (after rotation) and values in blocks of 16 tokens, as they are or turned along time, a 16-bit scale for each coefficient of a head's 32 channels; turned \
                 ones have bits by the powers of the coefficients over training text, of the same number on average (`rin_lab::dct::TimeCoder`).",
    reference: "scipy.fft.dct 1.17.1 (orthonormal, type 2) in double precision; the procedure and limits of IEEE 1180-1990 for the inverse.",
    method: "Relative root-mean-square error of random vectors at three amplitudes. The IEEE procedure over its six ranges, 10,000 blocks each. \
             Loss of the model inside the binary with compressed weights; the cosine transform and the Hadamard matrix are the same if the \
             difference lies within 0.02 nats (two one-sided t tests over blocks of 1,000 characters). The same for a rounded cache on the first 20,000 characters, with paired t tests and \
             Holm's adjustment; each token sees the blocks that were complete before it rounded, and those of its own block as they are.",
    expected: "AAN with 15 bits and 4 guard bits: 0.01 % at an amplitude of 2048. Weights have no order along a row, so the cosine transform is \
               one random rotation among others. Keys and values have an order along time, so there it may be better than a Hadamard matrix and than none.",
    reopens: "Weights that were trained in the transformed basis, other models, six seeds: one model, compressed after training, is what was \
              measured. A cache of 3 and 4 bits, keys before rotation, longer blocks and contexts than the model's, codes of unequal length.",
    revision: 1,
    cases,
    judge,
};

fn kinds() -> Vec<(String, Fixed)> {
    let mut kinds = Vec::new();
    for (name, graph) in [("AAN", Graph::Aan), ("Loeffler", Graph::Loeffler)] {
        for (constant_bits, guard_bits, rounds) in
            [(8, 0, false), (13, 0, true), (15, 0, true), (15, 4, true), (15, 6, true)]
        {
            let how = if rounds { "rounded" } else { "cut off" };
            kinds.push((
                format!("{name}, {constant_bits} bits, {guard_bits} guard bits, {how}"),
                Fixed { graph, constant_bits, guard_bits, rounds },
            ));
        }
    }
    kinds
}

fn cases(scale: Scale) -> Vec<Case> {
    let vectors = scale.pick(5_000, 100_000);
    let blocks = scale.pick(500, ieee1180::BLOCKS);
    let chars = scale.pick(20_000, usize::MAX);
    let mut cases = Vec::new();
    for (name, fixed) in kinds() {
        cases.push(Case::new(format!("forward, {name}"), move |_| Ok(forward(&fixed, vectors))));
        cases.push(Case::new(format!("inverse, {name}"), move |context| {
            let mut found = Vec::new();
            for range in ieee1180::RANGES {
                context.check()?;
                let a = ieee1180::measure(|block| fixed.inverse_2d(block), range, blocks);
                found.push(json!({
                    "peak": a.peak, "mse": a.mse, "overall_mse": a.overall_mse, "mean": a.mean,
                    "overall_mean": a.overall_mean, "meets": a.meets(),
                }));
            }
            Ok(json!({ "blocks": blocks, "zero": fixed.inverse_2d(&[0; 64]) == [0; 64], "ranges": found }))
        }));
    }
    cases.push(loss::case(loss::FLOAT, chars, |_, _, _| Ok(Arithmetic::FLOAT)));
    for bits in BITS {
        for (name, basis) in BASES {
            cases.push(loss::case(format!("loss, {bits} bits, {name}"), chars, move |decoder, _, _| {
                decoder.change_weights(|matrix| compressed(matrix, bits, basis))?;
                Ok(Arithmetic::FLOAT)
            }));
        }
    }
    cases.extend(dct_uses::cases(scale, &BITS));
    cases
}

fn forward(fixed: &Fixed, vectors: usize) -> Value {
    let found = AMPLITUDES.map(|amplitude| {
        let mut random = Random::new(amplitude.unsigned_abs(), 600);
        let (mut wrong, mut right, mut worst) = (0.0, 0.0, 0.0_f64);
        for _ in 0..vectors {
            let span = f64::from(amplitude);
            let x: [i32; 8] = std::array::from_fn(|_| libm::round(random.within(-span, span)) as i32);
            let exact = definition(&x.map(f64::from));
            let (mut of_vector, mut size) = (0.0, 0.0);
            for (k, y) in fixed.forward(x).into_iter().enumerate() {
                of_vector += (fixed.value(k, y) - exact[k]).powi(2);
                size += exact[k] * exact[k];
            }
            wrong += of_vector;
            right += size;
            worst = worst.max((of_vector / size.max(1e-9)).sqrt());
        }
        json!({ "amplitude": amplitude, "error": (wrong / right).sqrt(), "worst": worst })
    });
    json!({ "amplitudes": found })
}

/// The weights of a matrix after rounding in a basis.
fn compressed(matrix: &Matrix, bits: u32, basis: Basis) -> Result<Vec<f32>, Error> {
    if !matrix.cols.is_multiple_of(GROUP) {
        return Err(Error::input("matrix", format!("rows of {} weights are no groups of {GROUP}", matrix.cols)));
    }
    let mut values = Vec::with_capacity(matrix.values().len());
    for group in matrix.values().chunks_exact(GROUP) {
        let x: Vec<f64> = group.iter().map(|x| f64::from(*x)).collect();
        let back = basis.back(rounded(&basis.turn(x), bits));
        values.extend(back.into_iter().map(|x| x as f32));
    }
    Ok(values)
}

/// The table of bases, and whether the two rotations are the same at 3 and 4 bits.
fn bases_table(results: &Results) -> Result<(Table, bool), Error> {
    let mut losses = Table::new(
        format!(
            "Loss with rounded weights (of singular vectors on the first 20,000 characters, against the same characters); float: {:.5} nats:",
            results.number(loss::FLOAT, "/mean")?
        ),
        &[
            "bits (and 0.25 for scales)",
            "as they are",
            "Hadamard",
            "DCT",
            "singular vectors",
            "DCT less Hadamard",
            "95 % interval",
            "p of equivalence",
        ],
    );
    let mut same = true;
    for bits in BITS {
        let more = |name: &str| loss::difference(results, &format!("loss, {bits} bits, {name}"), loss::FLOAT, MARGIN);
        let cells = BASES.iter().map(|(name, _)| Ok(format!("{:+.4}", more(name)?.paired.mean)));
        let mut cells = cells.collect::<Result<Vec<_>, Error>>()?;
        let of_svd = loss::difference(results, &dct_uses::svd_case(bits), loss::FLOAT, MARGIN)?;
        cells.push(format!("{:+.4}", of_svd.paired.mean));
        let between = loss::difference(
            results,
            &format!("loss, {bits} bits, DCT"),
            &format!("loss, {bits} bits, Hadamard"),
            MARGIN,
        )?;
        same &= between.equivalence.holds();
        let ci = between.ci95.map_or_else(|| "-".to_owned(), interval);
        losses.row([bits.to_string()].into_iter().chain(cells).chain([
            format!("{:+.4}", between.paired.mean),
            ci,
            digits(between.equivalence.p),
        ]));
    }
    Ok((losses, same))
}

fn judge(results: &Results) -> Result<Findings, Error> {
    let mut accuracy = Table::new(
        "Forward transform, relative root-mean-square error by amplitude:",
        &["graph", "±128", "±2048", "±23,000", "worst vector at ±2048"],
    );
    let mut inverse = Table::new(
        "Inverse in two dimensions by IEEE 1180, the worst of six ranges (limits: 1; 0.06; 0.02; 0.015; 0.0015):",
        &["graph", "peak", "mean square, a place", "over all", "mean, a place", "over all", "meets"],
    );
    let mut curves = Vec::new();
    let mut aan = f64::NAN;
    let mut meets = Vec::new();
    for (name, fixed) in kinds() {
        let case = format!("forward, {name}");
        let error = |i: usize| results.number(&case, &format!("/amplitudes/{i}/error"));
        let errors = [error(0)?, error(1)?, error(2)?];
        let worst = results.number(&case, "/amplitudes/1/worst")?;
        accuracy.row([name.clone()].into_iter().chain(errors.map(percent)).chain([percent(worst)]));
        if fixed.graph == Graph::Aan && fixed.constant_bits == 15 && fixed.guard_bits == 4 {
            aan = errors[1];
        }
        curves.push(Series::line(
            name.clone(),
            AMPLITUDES.iter().zip(errors).map(|(a, e)| (f64::from(*a), 100.0 * e)).collect(),
        ));
        let case = format!("inverse, {name}");
        let ranges = results.at(&case, "/ranges")?.as_array().cloned().unwrap_or_default();
        let most = |key: &str| ranges.iter().filter_map(|r| r[key].as_f64()).fold(0.0, f64::max);
        let all = ranges.len() == 6
            && ranges.iter().all(|r| r["meets"] == true)
            && results.at(&case, "/zero")?.as_bool() == Some(true);
        if all {
            meets.push(name.clone());
        }
        let cells = ["peak", "mse", "overall_mse", "mean", "overall_mean"].map(|key| digits(most(key)));
        inverse.row([name].into_iter().chain(cells).chain([if all { "yes" } else { "no" }.to_owned()]));
    }
    let (losses, same) = bases_table(results)?;
    let (caches, cached) = dct_uses::cache_table(results)?;
    let good = aan <= 1e-4 && !meets.is_empty();
    let verdict = if good { Verdict::ValidatedWithLimits } else { Verdict::Negative };
    let because = format!(
        "AAN with 15-bit constants and four guard bits is within {} at ±2048; {} of {} fixed-point inverses meet IEEE 1180. As a basis for \
         rounded weights the cosine transform {} a Hadamard matrix at 3 and 4 bits. Along the time of keys and values it is {cached}.",
        percent(aan),
        meets.len(),
        kinds().len(),
        if same { "is the same as" } else { "was not shown to be the same as" }
    );
    Ok(Findings::judged(results, verdict, because)
        .table(accuracy)
        .table(inverse)
        .table(losses)
        .table(caches)
        .picture(Picture {
            title: "Forward transform: error by amplitude".to_owned(),
            x: ("amplitude".to_owned(), Axis::Log),
            y: ("relative error, %".to_owned(), Axis::Log),
            series: curves,
        })
        .note(
            "The verdict is about the transform. Spectral compression of weights is negative here: what the cosine transform gains over plain \
             groups, any rotation gains. One model was compressed after training.",
        ))
}

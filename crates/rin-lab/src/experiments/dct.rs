//! The discrete cosine transform: its accuracy in fixed point, and whether weights are any smaller in it.

use serde_json::{Value, json};

use super::loss;
use crate::dct::{Fixed, Graph, definition, definition_inverse, ieee1180};
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
                 with a 16-bit scale per group.",
    reference: "scipy.fft.dct 1.17.1 (orthonormal, type 2) in double precision; the procedure and limits of IEEE 1180-1990 for the inverse.",
    method: "Relative root-mean-square error of random vectors at three amplitudes. The IEEE procedure over its six ranges, 10,000 blocks each. \
             Loss of the model inside the binary with compressed weights; the cosine transform and the Hadamard matrix are the same if the \
             difference lies within 0.02 nats (two one-sided t tests over blocks of 1,000 characters).",
    expected: "AAN with 15 bits and 4 guard bits: 0.01 % at an amplitude of 2048. Weights have no order along a row, so the cosine transform is \
               one random rotation among others.",
    reopens: "Weights that were trained in the transformed basis, other models, six seeds: one model, compressed after training, is what was \
              measured. Signals that have an order, such as keys and values along time, were not tried.",
    revision: 1,
    cases,
    judge,
};

/// What a group is turned by before it is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Basis {
    None,
    Hadamard,
    Cosine,
}

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
        let turned = match basis {
            Basis::None => x,
            Basis::Hadamard => hadamard(x),
            Basis::Cosine => definition(&x),
        };
        let rounded = rounded(&turned, bits);
        let back = match basis {
            Basis::None => rounded,
            Basis::Hadamard => hadamard(rounded),
            Basis::Cosine => definition_inverse(&rounded),
        };
        values.extend(back.into_iter().map(|x| x as f32));
    }
    Ok(values)
}

/// The orthonormal Walsh–Hadamard transform, its own inverse.
fn hadamard(mut x: Vec<f64>) -> Vec<f64> {
    let mut half = 1;
    while half < x.len() {
        for block in x.chunks_exact_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (x.len() as f64).sqrt();
    x.into_iter().map(|x| x * scale).collect()
}

/// Rounds to 2^bits levels spaced evenly about zero, with the scale out of forty that leaves the least error.
fn rounded(x: &[f64], bits: u32) -> Vec<f64> {
    let most = x.iter().fold(0.0_f64, |m, x| m.max(x.abs()));
    if most <= 0.0 {
        return x.to_vec();
    }
    let levels = f64::from(1_u32 << (bits - 1));
    // Levels at (i + 1/2) · step, i from −levels to levels − 1.
    let at = |step: f64| {
        let one = |x: &f64| ((x / step).floor().clamp(-levels, levels - 1.0) + 0.5) * step;
        x.iter().map(one).collect::<Vec<f64>>()
    };
    let error = |rounded: &[f64]| rounded.iter().zip(x).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
    let steps = (1..=40).map(|i| most / levels * f64::from(i) / 40.0);
    let candidates = steps
        .map(|step| at(f64::from(rin_kernels::half::f16_to_f32(rin_kernels::half::f32_to_f16(step as f32)).max(1e-7))));
    let best = candidates.min_by(|a, b| error(a).total_cmp(&error(b)));
    best.unwrap_or_else(|| x.to_vec())
}

/// The table of bases, and whether the two rotations are the same at 3 and 4 bits.
fn bases_table(results: &Results) -> Result<(Table, bool), Error> {
    let mut losses = Table::new(
        format!("Loss with rounded weights; float: {:.5} nats:", results.number(loss::FLOAT, "/mean")?),
        &[
            "bits (and 0.25 for scales)",
            "as they are",
            "Hadamard",
            "DCT",
            "DCT less Hadamard",
            "95 % interval",
            "p of equivalence",
        ],
    );
    let mut same = true;
    for bits in BITS {
        let more = |name: &str| loss::difference(results, &format!("loss, {bits} bits, {name}"), loss::FLOAT, MARGIN);
        let cells = BASES.iter().map(|(name, _)| Ok(format!("{:+.4}", more(name)?.paired.mean)));
        let cells = cells.collect::<Result<Vec<_>, Error>>()?;
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
    let good = aan <= 1e-4 && !meets.is_empty();
    let verdict = if good { Verdict::ValidatedWithLimits } else { Verdict::Negative };
    let because = format!(
        "AAN with 15-bit constants and four guard bits is within {} at ±2048; {} of {} fixed-point inverses meet IEEE 1180. As a basis for \
         rounded weights the cosine transform {} a Hadamard matrix at 3 and 4 bits.",
        percent(aan),
        meets.len(),
        kinds().len(),
        if same { "is the same as" } else { "was not shown to be the same as" }
    );
    Ok(Findings::judged(results, verdict, because)
        .table(accuracy)
        .table(inverse)
        .table(losses)
        .picture(Picture {
            title: "Forward transform: error by amplitude".to_owned(),
            x: ("amplitude".to_owned(), Axis::Log),
            y: ("relative error, %".to_owned(), Axis::Log),
            series: curves,
        })
        .note(
            "The verdict is about the transform. Spectral compression of weights is negative here: what the cosine transform gains over plain \
             groups, any rotation gains. SVD was not compared, and one model was compressed after training.",
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotations_keep_lengths_and_rounding_is_near() {
        let mut random = Random::new(1, 6);
        let x: Vec<f64> = (0..GROUP).map(|_| random.normal()).collect();
        let back = hadamard(hadamard(x.clone()));
        assert!(back.iter().zip(&x).all(|(a, b)| (a - b).abs() < 1e-12));
        let error = |bits| {
            let r = rounded(&x, bits);
            (r.iter().zip(&x).map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / x.iter().map(|x| x * x).sum::<f64>())
                .sqrt()
        };
        // Lloyd and Max's best even steps for normal values: 0.345 (2 bits), 0.193 (3 bits), 0.107 (4 bits).
        for (bits, best) in [(2, 0.345), (3, 0.193), (4, 0.107)] {
            assert!(error(bits) > 0.8 * best && error(bits) < 1.25 * best, "{bits} bits: {}", error(bits));
        }
        assert_eq!(rounded(&[0.0; 4], 3), [0.0; 4]);
    }
}

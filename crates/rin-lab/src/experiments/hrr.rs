//! Holographic reduced representations: accuracy of the fixed-point library, and capacity against theory.

use rin_bench::stats::proportion::chi_square_tail;
use rin_bench::stats::{mean, stddev};
use serde_json::{Value, json};

use crate::hrr::capacity::{Binding, expected, measure};
use crate::hrr::{Binder, Block, float};
use crate::random::Random;
use crate::report::{Axis, Picture, Series, Table, digits};
use crate::results::Results;
use crate::{Case, Error, Experiment, Findings, Scale, Verdict};

const WIDTHS: [usize; 3] = [256, 1024, 4096];
const CANDIDATES: usize = 64;
/// Half of what may lie between the two bindings.
const MARGIN: f64 = 0.02;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "hrr",
    title: "Holographic reduced representations",
    claim: "Circular convolution by an integer FFT stores pairs in one vector. The seed's inverse lacks the factor 1/N, so 97 to 99.9 % of its \
            outputs saturate, and what is unbound has a cosine of 0.44 to 0.57 with what was bound.",
    definition: "Block-floating FFT with mantissas of 16 or 32 bits and one exponent, rounded at every stage; keys of unit magnitude at every \
                 frequency; unbinding by the conjugate; decoding by the nearest of 64 code words. `rin_lab::hrr`.",
    reference: "numpy.fft in double precision for binding and for unitary keys; for capacity the integral of Frady, Kleyko and Sommer (Neural \
                Computation 2018).",
    method: "Errors of binding and cosines of unbinding over random vectors. The share of right answers against the number of pairs, for convolution \
             with unitary keys and for products of signs, vectors of 256, 1024 and 4096: χ² of the trials' means against theory at 1 %, each with the larger of its own standard error and that of independent answers; \
             the two bindings are the same if each difference lies within 0.02 (90 % interval).",
    expected: "Errors below 1e-3 (16 bits) and 1e-6 (32 bits); cosines above 0.999; both bindings on one curve, that of theory.",
    reopens: "A width or number of pairs off the curve. As a memory of a language model it was not tried; the bindings compress pairs and do not \
              replace a cache of keys and values.",
    revision: 1,
    cases,
    judge,
};

/// Numbers of pairs that are asked about at a width: from nearly all right to few right.
fn loads(n: usize) -> [usize; 6] {
    [n / 32, n / 16, n / 8, n / 6, n / 4, n / 2]
}

fn cases(scale: Scale) -> Vec<Case> {
    let trials = move |n: usize| scale.pick(8, 400 * 256 / n);
    let mut cases = vec![Case::new("accuracy", move |_| accuracy(scale.pick(20, 500)))];
    for (name, binding) in [("convolution", Binding::Convolution), ("signs", Binding::Signs)] {
        for n in scale.pick(&WIDTHS[..2], &WIDTHS[..]).iter().copied() {
            for pairs in loads(n) {
                cases.push(Case::new(format!("{name}, {n}, {pairs} pairs"), move |context| {
                    context.check()?;
                    let seed = (n * 1000 + pairs) as u32;
                    let found = measure(binding, n, pairs, CANDIDATES, trials(n).max(8), seed)?;
                    Ok(json!({ "mean": mean(&found), "sd": stddev(&found), "trials": found.len() }))
                }));
            }
        }
    }
    cases
}

fn accuracy(trials: usize) -> Result<Value, Error> {
    let mut found = Vec::new();
    for bits in [16, 32] {
        for n in [64, 256, 1024, 4096] {
            let binder = Binder::new(n, bits)?;
            let mut random = Random::new(n as u32, bits);
            let (mut worst, mut least) = (0.0_f64, 1.0_f64);
            for _ in 0..trials {
                let value = float::normal(n, &mut random);
                let key = float::unitary(&float::normal(n, &mut random))?;
                let right = float::bind(&key, &value)?;
                let (k, v) = (Block::of(&key, bits), Block::of(&value, bits));
                let bound = binder.bind(&k, &v)?;
                let wrong: f64 = bound.values().iter().zip(&right).map(|(a, b)| (a - b) * (a - b)).sum();
                worst = worst.max((wrong / right.iter().map(|x| x * x).sum::<f64>()).sqrt());
                least = least.min(float::cosine(&binder.unbind(&k, &bound)?.values(), &value));
            }
            found.push(json!({ "bits": bits, "n": n, "error": worst, "cosine": least }));
        }
    }
    Ok(json!({ "trials": trials, "rows": found }))
}

/// What was found at a point, and what theory says.
struct Point {
    pairs: usize,
    mean: f64,
    error: f64,
    theory: f64,
}

fn points(results: &Results, name: &str, n: usize) -> Result<Vec<Point>, Error> {
    let point = |pairs: usize| {
        let case = format!("{name}, {n}, {pairs} pairs");
        let number = |key: &str| results.number(&case, key);
        let theory = expected(n, pairs, CANDIDATES);
        // Where nearly all is right the spread of so few trials says little: the answers' own chance is the least.
        let trials = number("/trials")?;
        let chance = (theory * (1.0 - theory) / (pairs as f64 * trials)).sqrt();
        let error = (number("/sd")? / trials.sqrt()).max(chance);
        Ok(Point { pairs, mean: number("/mean")?, error, theory })
    };
    loads(n).into_iter().map(point).collect()
}

/// The table of errors, and whether all bounds are kept.
fn accuracy_table(results: &Results) -> Result<(Table, bool), Error> {
    let mut exact = Table::new(
        "Fixed point against double precision, the worst of all trials:",
        &["bits", "elements", "relative error of binding", "least cosine of unbinding"],
    );
    let mut accurate = true;
    for row in results.at("accuracy", "/rows")?.as_array().into_iter().flatten() {
        let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
        let (most, least) = if number("bits") < 20.0 { (1e-3, 0.999) } else { (1e-6, 1.0 - 1e-6) };
        accurate &= number("error") <= most && number("cosine") >= least;
        exact.row([
            format!("{}", number("bits")),
            format!("{}", number("n")),
            digits(number("error")),
            format!("{:.9}", number("cosine")),
        ]);
    }
    Ok((exact, accurate))
}

fn judge(results: &Results) -> Result<Findings, Error> {
    let (exact, accurate) = accuracy_table(results)?;
    let mut capacity = Table::new(
        "Share of right answers out of 64:",
        &[
            "elements",
            "pairs",
            "theory",
            "convolution ± standard error",
            "signs ± standard error",
            "difference, 90 % interval",
        ],
    );
    let mut fit = Table::new("χ² against theory:", &["binding", "elements", "χ²", "degrees", "p"]);
    let mut series = Vec::new();
    let (mut on_curve, mut same, mut widest) = (true, true, 0.0_f64);
    for n in WIDTHS {
        let Ok(convolution) = points(results, "convolution", n) else { continue };
        let signs = points(results, "signs", n)?;
        for (name, found) in [("convolution", &convolution), ("signs", &signs)] {
            let chi_square: f64 = found.iter().map(|p| ((p.mean - p.theory) / p.error).powi(2)).sum();
            let p = chi_square_tail(chi_square, found.len());
            on_curve &= p > 0.01;
            widest = found.iter().map(|p| (p.mean - p.theory).abs()).fold(widest, f64::max);
            fit.row([name.to_owned(), n.to_string(), digits(chi_square), found.len().to_string(), digits(p)]);
            series.push(Series::dots(format!("{name}, {n}"), found.iter().map(|p| (p.pairs as f64, p.mean)).collect()));
        }
        series.push(Series::line(
            format!("theory, {n}"),
            convolution.iter().map(|p| (p.pairs as f64, p.theory)).collect(),
        ));
        for (a, b) in convolution.iter().zip(&signs) {
            let reach = 1.645 * (a.error * a.error + b.error * b.error).sqrt();
            let (low, high) = (a.mean - b.mean - reach, a.mean - b.mean + reach);
            same &= low > -MARGIN && high < MARGIN;
            capacity.row([
                n.to_string(),
                a.pairs.to_string(),
                format!("{:.4}", a.theory),
                format!("{:.4} ± {:.4}", a.mean, a.error),
                format!("{:.4} ± {:.4}", b.mean, b.error),
                format!("{low:+.4} to {high:+.4}"),
            ]);
        }
    }
    let verdict = match (accurate, on_curve && same) {
        (true, true) => Verdict::Validated,
        (true, false) => Verdict::ValidatedWithLimits,
        (false, _) => Verdict::Negative,
    };
    let because = format!(
        "Fixed point {} its bounds at every width; shares of right answers are within {} of theory{}; both bindings are {} within {MARGIN}.",
        if accurate { "keeps" } else { "misses" },
        digits(widest),
        if on_curve {
            ", no farther than chance explains"
        } else {
            ", at places farther than chance explains (χ² below)"
        },
        if same { "the same" } else { "not shown to be the same" },
    );
    Ok(Findings::judged(results, verdict, because)
        .table(exact)
        .table(capacity)
        .table(fit)
        .picture(Picture {
            title: "Right answers out of 64 by number of pairs".to_owned(),
            x: ("pairs in the vector".to_owned(), Axis::Log),
            y: ("share of right answers".to_owned(), Axis::Linear),
            series,
        })
        .note(
            "Equal capacity at O(n) instead of O(n log n) is what speaks for products of signs. A vector of n numbers holds about half a bit per number \
             either way: compare that with a cache before calling it constant memory.",
        ))
}

//! Softmax in integers.

use serde_json::{Value, json};

use super::loss;
use crate::decoder::{Arithmetic, Softmax};
use crate::random::Random;
use crate::report::{Axis, Picture, Series, Table, digits, percent};
use crate::results::Results;
use crate::softmax::{IntSoftmax, UNIT_BITS, bound, bound_of_whole, float, i_bert_exp, nearest_power};
use crate::{Case, Error, Experiment, Findings, Scale, Verdict};

const FRACTIONS: [u32; 4] = [4, 6, 8, 10];
const MARGIN: f64 = 0.005;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "softmax",
    title: "Power-of-two and integer softmax",
    claim: "PTsoftmax replaces softmax by powers of two and shifts, without loss. The seed's code clamps every score of zero and \
            above to one value, does not subtract the maximum, and loses 43 % of the mass of a row of 200.",
    definition: "`exact`: scores times log2(e) rounded to f fractional bits, a table of 2^f powers and a shift, one rounded \
                 division per row, results in 2^-15. `whole`: the same as differences of rounded sums, so that a row sums to one. `denominator power`: the same numerators over the power of two nearest to \
                 their sum, no division. `powers only`: numerators that are powers of two as well, which is Sorbet's PTsoftmax \
                 (Tang, Yan, Wong, ICML 2025, arXiv 2409.15298). `rin_lab::softmax`, with the proof of the bound.",
    reference: "Softmax in double precision, which a test holds against scipy's; I-BERT's polynomial exponential (Kim et al., \
                ICML 2021) from its paper.",
    method: "The bound of `exact` on random rows of 1 to 300 scores of five spreads, and on single rows up to 131,072 scores. The \
             mass of the forms without division. The loss of the model inside the binary with each form exchanged for its \
             softmax after training, on the validation split of tiny Shakespeare (windows of 256 characters, blocks of 1,000): \
             two one-sided t tests over the blocks against a margin of 0.005 nats.",
    expected: "`exact` with f = 8: less than 0.001 nats; `powers only` after training: 0.1 nats or more; `denominator power` before a head \
               norm: about nothing. No gain of speed on x86.",
    reopens: "Models trained with these forms and with norms after each head, six seeds each: one trained model, changed after \
              training, is what was measured here. A vectorised kernel timed against the polynomial exponential.",
    revision: 1,
    cases,
    judge,
};

fn cases(scale: Scale) -> Vec<Case> {
    let rows = scale.pick(5_000, 200_000);
    let chars = scale.pick(20_000, usize::MAX);
    let mut cases: Vec<Case> = FRACTIONS
        .into_iter()
        .map(|f| Case::new(format!("bound, f = {f}"), move |_| error_of_rows(f, if f == 8 { 5 * rows } else { rows })))
        .collect();
    cases.push(Case::new("lengths", |_| lengths()));
    cases.push(Case::new(SUMS, |_| sums()));
    cases.push(Case::new("mass", move |_| mass(rows / 5)));
    cases.push(Case::new("i-bert", |_| {
        let error = |i: i32| {
            let p = -std::f64::consts::LN_2 * f64::from(i) / 1e4;
            (i_bert_exp(p) - libm::exp(p)).abs()
        };
        Ok(json!({ "error": (0..=10_000).map(error).fold(0.0, f64::max) }))
    }));
    cases.push(loss::case(loss::FLOAT, chars, |_, _, _| Ok(Arithmetic::FLOAT)));
    for (name, f, form) in arms() {
        cases.push(loss::case(name, chars, move |_, _, _| {
            Ok(Arithmetic { softmax: form(IntSoftmax::new(f)?), ..Arithmetic::FLOAT })
        }));
    }
    cases
}

type Arm = (String, u32, fn(IntSoftmax) -> Softmax);

fn arms() -> Vec<Arm> {
    let exact = FRACTIONS.map(|f| -> Arm { (format!("loss, exact, f = {f}"), f, Softmax::Exact) });
    let others: [Arm; 2] = [
        ("loss, denominator power, f = 8".to_owned(), 8, Softmax::DenominatorPower),
        ("loss, powers only".to_owned(), 8, Softmax::PowersOnly),
    ];
    exact.into_iter().chain(others).collect()
}

fn shares(weights: &[u32]) -> impl Iterator<Item = f64> {
    weights.iter().map(|w| f64::from(*w) / f64::from(1_u32 << UNIT_BITS))
}

/// The largest error over random rows.
fn error_of_rows(f: u32, rows: usize) -> Result<Value, Error> {
    let softmax = IntSoftmax::new(f)?;
    let mut random = Random::new(f, 100);
    let (mut most, mut beyond) = (0.0_f64, 0_u64);
    for _ in 0..rows {
        let n = 1 + random.below(300);
        let spread = random.one_of(&[0.1, 1.0, 3.0, 30.0, 1e4]).unwrap_or(1.0);
        let scores: Vec<f64> = (0..n).map(|_| spread * random.normal()).collect();
        let found = softmax.exact(&softmax.exponents(&scores)?);
        for (found, p) in shares(&found).zip(float(&scores)) {
            let error = (found - p).abs();
            most = most.max(error);
            beyond += u64::from(error > bound(f, n));
        }
    }
    Ok(json!({ "rows": rows, "error": most, "bound": bound(f, 300), "beyond": beyond }))
}

/// Single rows of many lengths, with f = 8.
fn lengths() -> Result<Value, Error> {
    let softmax = IntSoftmax::new(8)?;
    let mut found = Vec::new();
    for n in [1, 16, 256, 4096, 65_536, 131_072] {
        let mut random = Random::new(7, n as u32);
        let scores: Vec<f64> = (0..n).map(|_| 3.0 * random.normal()).collect();
        let p = softmax.exact(&softmax.exponents(&scores)?);
        let error = shares(&p).zip(float(&scores)).map(|(p, q)| (p - q).abs()).fold(0.0, f64::max);
        let sum: f64 = shares(&p).sum();
        found.push(json!({ "n": n, "error": error, "bound": bound(8, n), "sum": sum }));
    }
    Ok(json!({ "rows": found }))
}

/// Sums of long rows.
const SUMS: &str = "sums of long rows";
/// Spreads of the scores: equal ones, flat rows, peaked ones.
const SPREADS: [f64; 5] = [0.0, 0.1, 0.5, 1.0, 3.0];

/// The sum of the results of rows by length and spread, with f = 8, and how far in all they are from softmax.
fn sums() -> Result<Value, Error> {
    let softmax = IntSoftmax::new(8)?;
    let mut found = Vec::new();
    for n in [256, 4096, 16_384, 65_536, 131_072] {
        for spread in SPREADS {
            let mut random = Random::new(8, n as u32);
            let scores: Vec<f64> = (0..n).map(|_| spread * random.normal()).collect();
            let (t, p) = (softmax.exponents(&scores)?, float(&scores));
            let of = |found: Vec<u32>| {
                let sum: f64 = shares(&found).sum();
                let variation = shares(&found).zip(&p).map(|(found, p)| (found - p).abs()).sum::<f64>() / 2.0;
                let error = shares(&found).zip(&p).map(|(found, p)| (found - p).abs()).fold(0.0, f64::max);
                json!({ "sum": sum, "variation": variation, "error": error })
            };
            found.push(json!({
                "n": n, "spread": spread, "exact": of(softmax.exact(&t)), "whole": of(softmax.whole(&t)),
                "bound": bound_of_whole(8, n),
            }));
        }
    }
    Ok(json!({ "rows": found }))
}

/// The table of long rows, whether all of `whole` sum to one within their bound, and the range of the sums of `exact`.
fn sums_table(results: &Results) -> Result<(Table, bool, [f64; 2]), Error> {
    let mut table = Table::new(
        "Sums of rows of normal scores, f = 8, and the total variation from softmax:",
        &["scores", "spread", "sum of `exact`", "total variation", "sum of `whole`", "total variation"],
    );
    let (mut held, mut range) = (true, [f64::INFINITY, 0.0_f64]);
    for row in results.at(SUMS, "/rows")?.as_array().into_iter().flatten() {
        let number = |pointer: &str| row.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN);
        held &= (number("/whole/sum") - 1.0).abs() < 1e-12 && number("/whole/error") <= number("/bound");
        let sum = number("/exact/sum");
        range = [range[0].min(sum), range[1].max(sum)];
        table.row([
            format!("{}", number("/n")),
            format!("{}", number("/spread")),
            format!("{sum:.6}"),
            digits(number("/exact/variation")),
            format!("{:.6}", number("/whole/sum")),
            digits(number("/whole/variation")),
        ]);
    }
    Ok((table, held, range))
}

/// Mass and total variation of the forms without division.
fn mass(rows: usize) -> Result<Value, Error> {
    let softmax = IntSoftmax::new(8)?;
    let mut found = serde_json::Map::new();
    for (name, whole) in [("denominator power", false), ("powers only", true)] {
        for spread in [1.0, 3.0] {
            let mut random = Random::new(9, u32::from(whole));
            let (mut low, mut high) = (f64::INFINITY, 0.0_f64);
            let (mut variation, mut renormed, mut most) = (0.0, 0.0, 0.0_f64);
            for _ in 0..rows {
                let n = 1 + random.below(256);
                let scores: Vec<f64> = (0..n).map(|_| spread * random.normal()).collect();
                let t = softmax.exponents(&scores)?;
                let numerators = if whole { softmax.whole_numerators(&t) } else { softmax.numerators(&t) };
                let unit = libm::exp2(-f64::from(nearest_power(numerators.sum)));
                let mass = numerators.sum as f64 * unit;
                (low, high) = (low.min(mass), high.max(mass));
                let p = float(&scores);
                let distance = |factor: f64| {
                    let each = numerators.weights.iter().zip(&p).map(|(w, p)| (f64::from(*w) * factor - p).abs());
                    each.sum::<f64>() / 2.0
                };
                variation += distance(unit);
                renormed += distance(1.0 / numerators.sum as f64);
                let largest = numerators.weights.iter().zip(&p).map(|(w, p)| (f64::from(*w) * unit - p).abs());
                most = largest.fold(most, f64::max);
            }
            let n = rows as f64;
            found.insert(
                format!("{name}, sd {spread}"),
                json!({ "low": low, "high": high, "variation": variation / n, "renormed": renormed / n, "most": most }),
            );
        }
    }
    Ok(Value::Object(found))
}

/// The table of masses, and whether all lie within their interval.
fn masses_table(results: &Results) -> Result<(Table, bool), Error> {
    let mut within = true;
    let mut masses = Table::new(
        "The forms without division, random rows of 1 to 256 scores:",
        &[
            "form, spread of the scores",
            "least mass",
            "most mass",
            "mean total variation",
            "after renormalising",
            "largest error",
        ],
    );
    for name in ["denominator power, sd 1", "denominator power, sd 3", "powers only, sd 1", "powers only, sd 3"] {
        let number = |key: &str| results.number("mass", &format!("/{name}/{key}"));
        let (low, high) = (number("low")?, number("high")?);
        within &= low >= 0.75 && high < 1.5;
        let rest = [number("variation")?, number("renormed")?, number("most")?].map(digits);
        masses.row([name.to_owned(), format!("{low:.6}"), format!("{high:.6}")].into_iter().chain(rest));
    }
    Ok((masses, within))
}

fn judge(results: &Results) -> Result<Findings, Error> {
    let mut bounds =
        Table::new("Largest error of a probability of `exact`:", &["f", "rows", "found", "bound", "beyond the bound"]);
    let (mut held, mut points) = (true, (Vec::new(), Vec::new()));
    for f in FRACTIONS {
        let case = format!("bound, f = {f}");
        let [rows, error, most, beyond] =
            ["/rows", "/error", "/bound", "/beyond"].map(|key| results.number(&case, key));
        let (rows, error, most, beyond) = (rows?, error?, most?, beyond?);
        held &= beyond == 0.0;
        points.0.push((f64::from(f), error));
        points.1.push((f64::from(f), most));
        bounds.row([f.to_string(), digits(rows), digits(error), digits(most), format!("{beyond}")]);
    }
    let mut long = Table::new("Single rows, f = 8:", &["scores", "largest error", "bound", "sum"]);
    for row in results.at("lengths", "/rows")?.as_array().into_iter().flatten() {
        let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
        held &= number("error") <= number("bound");
        long.row([
            format!("{}", number("n")),
            digits(number("error")),
            digits(number("bound")),
            format!("{:.6}", number("sum")),
        ]);
    }
    let (masses, within) = masses_table(results)?;
    held &= within;
    let (sums, whole, range) = sums_table(results)?;
    held &= whole;
    let (losses, same) = loss::table(results, "softmax", arms().into_iter().map(|(name, ..)| name), MARGIN)?;
    let at = |name: &str| same.iter().find(|(arm, _)| arm == name).map(|(_, found)| found);
    let fine = at("loss, exact, f = 8").is_some_and(|d| d.equivalence.holds())
        && at("loss, exact, f = 10").is_some_and(|d| d.equivalence.holds());
    let more = |name: &str| at(name).map_or(f64::NAN, |d| d.paired.mean);
    let because = format!(
        "The bound of the exact form holds on every row (f = 8: largest error {}, bound {}); after training it costs {:+.5} nats. Not \
         \"without loss\" are the seed's own forms: the power-of-two denominator costs {:+.4} nats, powers alone {:+.4} (margin {MARGIN}). \
         Rows of up to 131,072 flat scores sum to {} to {} with it, and to 1 with differences of rounded sums.",
        digits(results.number("bound, f = 8", "/error")?),
        digits(results.number("bound, f = 8", "/bound")?),
        more("loss, exact, f = 8"),
        more("loss, denominator power, f = 8"),
        more("loss, powers only"),
        digits(range[0]),
        digits(range[1]),
    );
    let verdict = if held && fine { Verdict::ValidatedWithLimits } else { Verdict::Negative };
    Ok(Findings::judged(results, verdict, because)
        .table(bounds)
        .table(long)
        .table(sums)
        .table(masses)
        .table(losses)
        .picture(Picture {
            title: "Largest error of a probability, and its bound".to_owned(),
            x: ("fractional bits of the exponent".to_owned(), Axis::Linear),
            y: ("error".to_owned(), Axis::Log),
            series: vec![Series::dots("found", points.0), Series::line("bound", points.1)],
        })
        .note(format!(
            "I-BERT's polynomial is off by up to {} on its interval; a table of 2^8 powers keeps the probability itself within {}.",
            digits(results.number("i-bert", "/error")?),
            digits(bound(8, 300))
        ))
        .note(format!(
            "What the power-of-two denominator has wrong is one factor per row, between 3/4 and 3/2: renormalised, its mean total \
             variation is {}. A norm behind each head divides by the size of the head's output, which such a factor scales, so it would take it out up to \
             the norm's epsilon; the model here has none, and its loss shows what the factor alone does. No model with such norms was trained.",
            percent(results.number("mass", "/denominator power, sd 1/renormed")?)
        ))
        .note("The engine's integer attention takes `exact` over at most 16,384 positions, where whose sums the table shows.")
        .note("Limits: one trained model, changed after training; no form was trained; no speed was measured; powers alone cost less than the 0.1 nats that were expected."))
}

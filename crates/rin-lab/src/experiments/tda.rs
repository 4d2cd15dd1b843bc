//! Persistent homology: equal to others', and how fast.

use std::f64::consts::TAU;
use std::path::Path;
use std::time::Instant;

use rin_bench::stats::{bootstrap, median};
use serde_json::{Value, json};

use crate::random::Random;
use crate::report::{Axis, Picture, Series, Table, digits, interval};
use crate::results::Results;
use crate::tda::{Bar, Distances, Ground, bottleneck, persistence, read, rtd, wasserstein};
use crate::{Case, Context, Error, Experiment, Findings, Scale, Verdict};

/// Barcodes by GUDHI and Ripser, distances of diagrams by GUDHI, divergences by the recipe of RTD's authors.
const GOLDENS: &str = include_str!("../../../../conformance/lab/tda.json");
/// Reads distances from its input and tells the seconds of Ripser on them.
const TIME_RIPSER: &str = include_str!("../../../../conformance/scripts/time_ripser.py");
const SIZES: [usize; 4] = [100, 200, 500, 1000];

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "tda",
    title: "Persistent homology (the seed's Betti calculator)",
    claim: "Betti numbers of a teacher's and a student's representations validate a distillation. The seed's numbers are wrong: one \
            component wherever there is an edge, loops and voids from Euler's characteristic without ranks, and triangles among the \
            first fifty points only; a filled triangle has (1, 1, 1) there, an octahedron (1, 7, 8).",
    definition: "Vietoris–Rips persistent cohomology over the field of two elements, dimensions 0 to 2, with clearing, apparent and emergent \
                 pairs (U. Bauer, Ripser, 2021); bottleneck and Wasserstein distances; representation topology divergence (Barannikov et \
                 al., ICML 2022). `rin_lab::tda`.",
    reference: "GUDHI 3.13.0 in double precision, held against Ripser 0.6.15; persim 0.4.1; bars equal as multisets within 1e-6 of \
                each value (`conformance/scripts/make_tda_goldens.py`).",
    method: "Nineteen clouds (circles, tori, spheres, RP², S³ with 192 points, grids and duplicates with many ties, random clouds, thresholds); \
             six pairs of diagrams; three pairs of clouds for the divergence. Time of H1 on points of a noisy torus, against ripser.py on \
             the same distances in turn, where an interpreter with it is given (`--python`). Validated where all bars and values are equal and ripser.py takes at least as long at 500 points; with limits, where only the former.",
    expected: "Equal bars; at least as fast as ripser.py at 500 points.",
    reopens: "A cloud on which a bar differs. Whether any of these numbers says how good a distilled student is has a page of its own (betti.md).",
    revision: 1,
    cases,
    judge,
};

fn cases(scale: Scale) -> Vec<Case> {
    let repeats = scale.pick(3, 15);
    let mut cases = vec![
        Case::new("barcodes", barcodes),
        Case::new("distances", |_| distances()),
        Case::new("divergences", |_| divergences()),
    ];
    let sizes = scale.pick(&SIZES[..3], &SIZES[..]);
    for n in sizes {
        let n = *n;
        cases.push(Case::new(format!("time, {n} points"), move |context| time(n, repeats, context)));
    }
    cases
}

fn goldens() -> Result<Value, Error> {
    serde_json::from_str(GOLDENS).map_err(|error| Error::input("stored answers", error.to_string()))
}

fn bars(value: &Value) -> Vec<Bar> {
    let number = |x: &Value| x.as_f64().unwrap_or(f64::INFINITY);
    let bars = value.as_array().into_iter().flatten();
    bars.map(|bar| Bar { birth: number(&bar[0]), death: number(&bar[1]) }).collect()
}

fn cloud(value: &Value) -> Result<Distances, Error> {
    let rows = value.as_array().cloned().unwrap_or_default();
    let width = rows.first().and_then(Value::as_array).map_or(0, Vec::len);
    let points: Vec<f64> =
        rows.iter().flat_map(|row| row.as_array().into_iter().flatten().filter_map(Value::as_f64)).collect();
    Distances::euclidean(&points, width)
}

fn of_file(context: &Context<'_>, file: &str) -> Result<Distances, Error> {
    let path = context.data(&format!("tda/{file}"))?;
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    if Path::new(file).extension().is_some_and(|end| end == "off") {
        let (points, width) = read::off(&text)?;
        return Distances::euclidean(&points, width);
    }
    read::lower_distances(&text)
}

fn sorted(mut bars: Vec<Bar>) -> Vec<Bar> {
    bars.sort_by(|a, b| a.birth.total_cmp(&b.birth).then(a.death.total_cmp(&b.death)));
    bars
}

/// The largest relative difference of sorted bars; none where their number differs or one is infinite on one side only.
fn difference(found: Vec<Bar>, expected: Vec<Bar>) -> Option<f64> {
    if found.len() != expected.len() {
        return None;
    }
    let one = |x: f64, y: f64| match (x.is_infinite(), y.is_infinite()) {
        (true, true) => Some(0.0),
        (false, false) => Some((x - y).abs() / y.abs().max(1e-12)),
        _ => None,
    };
    sorted(found)
        .iter()
        .zip(&sorted(expected))
        .try_fold(0.0_f64, |most, (a, b)| Some(most.max(one(a.birth, b.birth)?).max(one(a.death, b.death)?)))
}

fn barcodes(context: &Context<'_>) -> Result<Value, Error> {
    let mut found = Vec::new();
    for case in goldens()?["barcodes"].as_array().into_iter().flatten() {
        context.check()?;
        let distances = match case["file"].as_str() {
            Some(file) => of_file(context, file)?,
            None => cloud(&case["points"])?,
        };
        let dimension = case["dimension"].as_u64().unwrap_or(0) as usize;
        let began = Instant::now();
        let computed = persistence(&distances, dimension, case["threshold"].as_f64())?;
        let seconds = began.elapsed().as_secs_f64();
        let counts: Vec<usize> = computed.iter().map(Vec::len).collect();
        let each = computed.into_iter().enumerate().map(|(k, computed)| difference(computed, bars(&case["bars"][k])));
        let most = each.collect::<Option<Vec<f64>>>().map(|each| each.into_iter().fold(0.0, f64::max));
        found.push(json!({
            "name": case["name"], "points": distances.len(), "bars": counts, "difference": most, "seconds": seconds,
        }));
    }
    Ok(json!({ "clouds": found }))
}

fn distances() -> Result<Value, Error> {
    let mut most = 0.0_f64;
    let mut pairs = 0;
    for pair in goldens()?["distances"].as_array().into_iter().flatten() {
        let (a, b) = (bars(&pair["a"]), bars(&pair["b"]));
        let mut compare = |found: f64, expected: &Value| {
            let expected = expected.as_f64().unwrap_or(f64::NAN);
            let difference = (found - expected).abs() / expected.abs().max(1e-9);
            // A missing answer is no agreement.
            most = if difference.is_nan() { f64::INFINITY } else { most.max(difference) };
        };
        compare(bottleneck(&a, &b)?, &pair["bottleneck"]);
        for (name, ground) in [("max", Ground::Max), ("euclidean", Ground::Euclidean)] {
            for order in [1.0, 2.0] {
                compare(wasserstein(&a, &b, order, ground)?, &pair["wasserstein"][format!("{name} {order}")]);
            }
        }
        pairs += 1;
    }
    Ok(json!({ "pairs": pairs, "difference": most }))
}

fn divergences() -> Result<Value, Error> {
    let mut found = Vec::new();
    for case in goldens()?["rtd"].as_array().into_iter().flatten() {
        let value = rtd(&cloud(&case["a"])?, &cloud(&case["b"])?)?;
        found.push(json!({ "found": value, "expected": case["rtd"] }));
    }
    Ok(json!({ "pairs": found }))
}

/// Points of a torus with noise, the same on every machine.
fn torus(n: usize) -> Result<Distances, Error> {
    let mut random = Random::new(n as u32, 500);
    let mut points = Vec::with_capacity(3 * n);
    for _ in 0..n {
        let (u, v) = (random.within(0.0, TAU), random.within(0.0, TAU));
        let ring = 2.0 + libm::cos(v);
        let place = [ring * libm::cos(u), ring * libm::sin(u), libm::sin(v)];
        points.extend(place.map(|x| x + 0.05 * random.normal()));
    }
    Distances::euclidean(&points, 3)
}

/// Seconds of H0 and H1; and those of ripser.py on the same distances, each time right after.
fn time(n: usize, repeats: usize, context: &Context<'_>) -> Result<Value, Error> {
    let distances = torus(n)?;
    let lower: Vec<f64> = (0..n).flat_map(|i| distances.row(i)[..i].to_vec()).collect();
    let (mut own, mut ripser, mut counts) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..repeats {
        context.check()?;
        let began = Instant::now();
        let bars = persistence(&distances, 1, None)?;
        own.push(began.elapsed().as_secs_f64());
        counts = bars.iter().map(Vec::len).collect();
        if let Some(found) = context.ask_python(TIME_RIPSER, &json!({ "lower": lower }))? {
            ripser.extend(found["seconds"].as_f64());
        }
    }
    Ok(json!({ "own": own, "ripser": ripser, "bars": counts }))
}

/// The table of barcodes, whether all are equal, and their number.
fn clouds_table(results: &Results) -> Result<(Table, bool, usize), Error> {
    let mut table = Table::new(
        "Bars against GUDHI's and Ripser's:",
        &["cloud", "points", "bars of H0, H1, …", "largest relative difference", "ms"],
    );
    let (mut equal, mut number) = (true, 0);
    for cloud in results.at("barcodes", "/clouds")?.as_array().into_iter().flatten() {
        let difference = cloud["difference"].as_f64();
        equal &= difference.is_some_and(|d| d <= 1e-6);
        number += 1;
        table.row([
            cloud["name"].as_str().unwrap_or_default().to_owned(),
            cloud["points"].to_string(),
            cloud["bars"].to_string(),
            difference.map_or_else(|| "other bars".to_owned(), digits),
            digits(1e3 * cloud["seconds"].as_f64().unwrap_or(f64::NAN)),
        ]);
    }
    Ok((table, equal, number))
}

/// The table of times, its curves, and how much longer ripser.py takes at 500 points.
fn times_table(results: &Results) -> Result<(Table, Vec<Series>, Option<f64>), Error> {
    let mut table = Table::new(
        "Seconds of H0 and H1 on a noisy torus, median and 95 % interval:",
        &["points", "rin", "ripser.py", "ripser.py / rin"],
    );
    let (mut own_curve, mut ripser_curve, mut at_500) = (Vec::new(), Vec::new(), None);
    for n in SIZES {
        let case = format!("time, {n} points");
        let Ok(own) = results.numbers(&case, "/own") else { continue };
        let ripser = results.numbers(&case, "/ripser")?;
        let show = |x: &[f64]| match (median(x), bootstrap::median_interval(x)) {
            (Some(m), Some(ci)) => format!("{} ({})", digits(m), interval(ci)),
            (Some(m), None) => digits(m),
            _ => "not measured".to_owned(),
        };
        let ratio = median(&ripser).zip(median(&own)).map(|(theirs, own)| theirs / own);
        if n == 500 {
            at_500 = ratio;
        }
        own_curve.extend(median(&own).map(|m| (n as f64, m)));
        ripser_curve.extend(median(&ripser).map(|m| (n as f64, m)));
        table.row([n.to_string(), show(&own), show(&ripser), ratio.map_or_else(|| "-".to_owned(), digits)]);
    }
    let mut series = vec![Series::line("rin", own_curve)];
    if !ripser_curve.is_empty() {
        series.push(Series::line("ripser.py", ripser_curve));
    }
    Ok((table, series, at_500))
}

fn judge(results: &Results) -> Result<Findings, Error> {
    let (clouds, mut equal, number) = clouds_table(results)?;
    let (times, series, at_500) = times_table(results)?;
    let of_diagrams = results.number("distances", "/difference")?;
    equal &= of_diagrams <= 1e-6;
    for pair in results.at("divergences", "/pairs")?.as_array().into_iter().flatten() {
        let [found, expected] = ["found", "expected"].map(|key| pair[key].as_f64().unwrap_or(f64::NAN));
        equal &= (found - expected).abs() <= 1e-6 * expected.max(1e-3);
    }
    let speed = match at_500 {
        Some(ratio) => format!("H1 of 500 points takes ripser.py {} times as long", digits(ratio)),
        None => "ripser.py was not timed".to_owned(),
    };
    let because = format!(
        "All bars of {number} clouds {} GUDHI's and Ripser's; {speed}. Whether Betti numbers validate a distillation has a page of its own.",
        if equal { "equal" } else { "do not all equal" }
    );
    let verdict = match (equal, at_500.is_some_and(|ratio| ratio >= 1.0)) {
        (true, true) => Verdict::Validated,
        (true, false) => Verdict::ValidatedWithLimits,
        (false, _) => Verdict::Negative,
    };
    let slow = at_500
        .filter(|ratio| *ratio < 1.0)
        .map_or("", |_| " It is slower than ripser.py at 500 points, which misses the goal.");
    Ok(Findings::judged(results, verdict, because)
        .table(clouds)
        .table(times)
        .picture(Picture {
            title: "Time of H0 and H1 on a noisy torus".to_owned(),
            x: ("points".to_owned(), Axis::Log),
            y: ("seconds".to_owned(), Axis::Log),
            series,
        })
        .note(format!(
            "Bottleneck and Wasserstein distances of {} pairs of diagrams differ from GUDHI's by at most {} of their value; the \
             divergences are those of the definition on GUDHI's bars.",
            results.number("distances", "/pairs")?,
            digits(of_diagrams)
        ))
        .note(format!(
            "The verdict is about the engine of persistence.{slow} The lead falls with the number of points (table); H2 was not timed; among the clouds that are compared the random ones have at most 30 points, \
             the largest in H2 without a threshold 60, the largest in H1 300. A test holds the bars of H0 to H2 of a torus of 1,307 points, up to its void, against those that GUDHI publishes. \
             The divergence is held against a program of its definition on GUDHI, not against its authors' code. Good networks have been found to destroy topology layer by layer \
             (Naitzat, Zhitnikov, Lim, JMLR 2020), so kept Betti numbers are no virtue in themselves."
        )))
}

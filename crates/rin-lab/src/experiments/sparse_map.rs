//! From which density on sparse products lose to the dense one, and what two of four gain: the lines that
//! `cargo bench -p rin-kernels --bench sparse` printed.

use std::path::Path;

use serde::Deserialize;

use super::crossover::{Crossover, crossover};
use crate::Error;
use crate::report::{Axis, Picture, Series, Table, digits, interval};

/// Where the lines lie in the repository.
const FILE: &str = "bench/results/2026-11-27-sparse.jsonl";
const LINES: &str = include_str!("../../../../bench/results/2026-11-27-sparse.jsonl");
/// How many times as fast as the dense product two of four shall be, out of the caches.
const GOAL: f64 = 1.4;
/// Outputs and inputs, and where such a matrix lies; the last one is out of the caches.
const PLACES: [(usize, usize, &str); 4] =
    [(128, 256, "first cache"), (1024, 1024, "second cache"), (2048, 4096, "last cache"), (4096, 4096, "memory")];

/// A measured product.
#[derive(Deserialize)]
struct Line {
    tier: String,
    outputs: usize,
    inputs: usize,
    /// `dense`, `2:4`, or the shape of blocks and how many of a hundred are kept.
    form: String,
    us: f64,
    ci95: [f64; 2],
}

/// The forms of a shape on a tier.
struct Shape {
    tier: String,
    outputs: usize,
    inputs: usize,
    place: &'static str,
    dense: Line,
    two_of_four: Line,
    others: Vec<Line>,
}

/// Times as fast as the dense product, and the least and most by the intervals of both.
struct Ratio {
    ratio: f64,
    bounds: [f64; 2],
}

impl Shape {
    fn against_dense(&self, line: &Line) -> Ratio {
        let [low, high] = self.dense.ci95;
        Ratio { ratio: self.dense.us / line.us, bounds: [low / line.ci95[1], high / line.ci95[0]] }
    }

    /// Shares of kept blocks in percent, and the time, from the least share on.
    fn blocks(&self, form: &str) -> Vec<(f64, &Line)> {
        let share = |line: &Line| {
            let (of, share) = line.form.strip_suffix(" %")?.split_once(' ')?;
            share.parse::<f64>().ok().filter(|_| of == form)
        };
        let mut all: Vec<_> = self.others.iter().filter_map(|line| Some((share(line)?, line))).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all
    }

    /// Up to which share of kept blocks a form is faster than the dense product.
    fn faster_up_to(&self, form: &str) -> String {
        let points: Vec<_> = self.blocks(form).into_iter().map(|(share, line)| (share, line.us)).collect();
        match crossover(&points, self.dense.us) {
            Crossover::Never => {
                let least = points.first().map_or(f64::NAN, |point| point.0);
                format!("never ({least} %)")
            }
            Crossover::At(share) => format!("{share:.0} %"),
            Crossover::Always => "always".to_owned(),
        }
    }
}

fn shapes(text: &str) -> Result<Vec<Shape>, Error> {
    let damaged = |line: usize, what: String| Error::Damaged { path: Path::new(FILE).to_owned(), line, what };
    let mut lines = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line: Line = serde_json::from_str(line).map_err(|error| damaged(at + 1, error.to_string()))?;
        lines.push(line);
    }
    let mut shapes = Vec::new();
    while let Some(first) = lines.first() {
        let key = |line: &Line| (line.tier.clone(), line.outputs, line.inputs);
        let (tier, outputs, inputs) = key(first);
        let (mut of, rest): (Vec<Line>, Vec<Line>) =
            lines.into_iter().partition(|line| key(line) == (tier.clone(), outputs, inputs));
        lines = rest;
        let mut take = |form: &str| {
            let at = of.iter().position(|line| line.form == form);
            at.map(|at| of.remove(at)).ok_or_else(|| damaged(1, format!("no {form} of {outputs} x {inputs} on {tier}")))
        };
        let (dense, two_of_four) = (take("dense")?, take("2:4")?);
        let place = PLACES.iter().find(|place| (place.0, place.1) == (outputs, inputs)).map_or("", |place| place.2);
        shapes.push(Shape { tier, outputs, inputs, place, dense, two_of_four, others: of });
    }
    Ok(shapes)
}

/// What the lines say.
pub(super) struct Map {
    pub(super) table: Table,
    pub(super) picture: Picture,
    /// How fast two of four are, and whether that is enough.
    pub(super) words: String,
}

/// The map of the stored lines.
pub(super) fn map() -> Result<Map, Error> {
    let shapes = shapes(LINES)?;
    let mut table = Table::new(
        format!(
            "Time of one product of a matrix and a row, on one core of an Intel Xeon (Emerald Rapids) with AVX-512 VNNI, 2026-11-27, 30 samples in turns, random masks: the \
             dense 8-bit product; how many times as fast 2:4 and blocks of which 5 % are kept are (below 1: slower); and up to which share of kept blocks a form is faster than the dense product, \
             between measured shares of 5, 10, 20, 30, 50, 70 and 100 %, linearly (`{FILE}`):"
        ),
        &[
            "tier",
            "outputs × inputs, where they lie",
            "dense, µs",
            "2:4",
            "4 × 4, 5 %",
            "1 × 16, 5 %",
            "4 × 4 faster up to",
            "1 × 16 faster up to",
        ],
    );
    let mut series = Vec::new();
    for shape in &shapes {
        let least = |form: &str| {
            let first = shape.blocks(form).first().map(|(_, line)| shape.against_dense(line).ratio);
            first.map_or_else(|| "-".to_owned(), digits)
        };
        let two = shape.against_dense(&shape.two_of_four);
        table.row([
            shape.tier.clone(),
            format!("{} × {}, {}", shape.outputs, shape.inputs, shape.place),
            format!("{} ({})", digits(shape.dense.us), interval(shape.dense.ci95)),
            format!("{} ({})", digits(two.ratio), interval(two.bounds)),
            least("4x4"),
            least("1x16"),
            shape.faster_up_to("4x4"),
            shape.faster_up_to("1x16"),
        ]);
        let points = shape.blocks("4x4").into_iter().map(|(share, line)| (share, shape.against_dense(line).ratio));
        series.push(Series::line(format!("{}, {}", shape.tier, shape.place), points.collect()));
    }
    let picture = Picture {
        title: "Blocks of 4 × 4 against the dense product (1e0: as fast)".to_owned(),
        x: ("kept blocks, %".to_owned(), Axis::Linear),
        y: ("times as fast".to_owned(), Axis::Log),
        series,
    };
    Ok(Map { table, picture, words: words(&shapes) })
}

/// Two of four out of the caches and in the last one, on the tier on which they are fastest out of the caches.
fn words(shapes: &[Shape]) -> String {
    let [.., (.., last), (.., memory)] = PLACES;
    let two = |shape: &Shape| shape.against_dense(&shape.two_of_four);
    let best = shapes.iter().filter(|shape| shape.place == memory);
    let Some(best) = best.max_by(|a, b| two(a).ratio.total_cmp(&two(b).ratio)) else { return String::new() };
    let out = two(best);
    let cached = shapes.iter().find(|shape| shape.place == last && shape.tier == best.tier);
    let cached = cached
        .map_or_else(String::new, |shape| format!(", and {} times from the last cache", digits(two(shape).ratio)));
    format!(
        "from memory its product is {} times as fast as the dense 8-bit one ({} by the intervals, {}; the goal of {GOAL} is {}){cached}",
        digits(out.ratio),
        interval(out.bounds),
        best.tier,
        if out.bounds[0] >= GOAL { "met" } else { "missed" },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shares that were read off the same lines by hand.
    #[test]
    fn the_map_is_that_of_the_stored_lines() {
        let map = map().unwrap();
        let shares: Vec<[&str; 2]> = map.table.rows.iter().map(|row| [row[6].as_str(), row[7].as_str()]).collect();
        let never = "never (5 %)";
        let expected = [
            ["42 %", "34 %"],
            ["35 %", "21 %"],
            ["55 %", "54 %"],
            ["61 %", "61 %"],
            [never, never],
            ["20 %", never],
            ["56 %", "55 %"],
            ["51 %", "50 %"],
        ];
        assert_eq!(shares, expected);
        // In the first cache with AVX-512 nothing is left of what is left out: 4 × 4 at 5 % takes 2.2 times as long.
        assert_eq!(map.table.rows[4][4], "0.458");
        assert_eq!(map.picture.series.len(), 8);
    }

    #[test]
    fn the_goal_is_judged_by_the_lower_bound() {
        let line = |form: &str, us: f64| {
            format!(
                r#"{{"tier":"t","outputs":4096,"inputs":4096,"copies":5,"form":"{form}","bytes":1,"us":{us},"ci95":[{},{}]}}"#,
                us * 0.99,
                us * 1.01
            )
        };
        let of = |us: f64| words(&shapes(&[line("dense", 150.0), line("2:4", us)].join("\n")).unwrap());
        assert!(
            of(100.0).starts_with("from memory its product is 1.50 times as fast") && of(100.0).contains("is met)")
        );
        assert!(of(106.5).contains("is missed)"), "1.41, and not for sure: {}", of(106.5));
        assert!(matches!(shapes(&line("dense", 1.0)), Err(Error::Damaged { .. })), "2:4 is not there");
        assert!(matches!(shapes("{}"), Err(Error::Damaged { line: 1, .. })));
    }
}

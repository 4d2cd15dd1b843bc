//! How well networks predict that are trained with ternary weights: at equal parameters, and at equal bytes.

use rin_bench::stats::{mean, stddev};
use rin_kernels::Format;
use rin_train::weights::Arithmetic;

use super::networks::{self, Arm, Course, RATES, column, plain, rates_case, seed_case};
use super::pairs::{Comparison, compare, comparisons_table};
use crate::report::{Axis, Picture, Series, Table, digits, percent};
use crate::results::Results;
use crate::{Case, Error, Scale};

/// Nats within which two arms count as the same.
const MARGIN: f64 = 0.02;
const SEEDS: u64 = 3;
const FLOAT: &str = "F32";
const BYTES: &str = "Q8_0";
const NIBBLES: &str = "Q4_0";
const EQUAL_PARAMETERS: &str = "ternary, equal parameters";
const EQUAL_BYTES: &str = "ternary, equal bytes";

fn arms(scale: Scale) -> [Arm; 5] {
    let layers = scale.pick(1, 2);
    let arm = |name, factor: usize, arithmetic| Arm {
        name,
        model: networks::model(256 * factor, layers, 256 * factor),
        arithmetic,
        make: plain,
    };
    [
        arm(FLOAT, 1, Arithmetic::Float),
        arm(BYTES, 1, Arithmetic::Quant(Format::Q8_0)),
        arm(NIBBLES, 1, Arithmetic::Quant(Format::Q4_0)),
        arm(EQUAL_PARAMETERS, 1, Arithmetic::Quant(Format::TQ2_0)),
        // 8.5 bits over 2.0625 are 4.1.
        arm(EQUAL_BYTES, 2, Arithmetic::Quant(Format::TQ2_0)),
    ]
}

/// Seeds at a scale.
fn seeds(scale: Scale) -> u64 {
    scale.pick(2, SEEDS)
}

/// How long the networks are trained.
fn course(scale: Scale) -> Course {
    scale.pick(
        Course { steps: 6, float_steps: 0, rates: RATES, rate_steps: 2, batch: 2, chars: 2000 },
        Course { steps: 900, float_steps: 0, rates: RATES, rate_steps: 225, batch: 4, chars: usize::MAX },
    )
}

pub(super) fn cases(scale: Scale) -> Vec<Case> {
    networks::cases(course(scale), arms(scale), seeds(scale), Course::run)
}

/// What the networks say.
pub(super) struct Quality {
    pub(super) tables: Vec<Table>,
    pub(super) picture: Picture,
    pub(super) because: String,
    pub(super) note: String,
    pub(super) better_at_equal_bytes: bool,
}

pub(super) fn judge(results: &Results) -> Result<Quality, Error> {
    let scale = results.header.scale;
    let n = seeds(scale);
    let mut table = Table::new(
        format!(
            "Networks trained with each kind of weights, means over {n} seeds, {} characters of the validation split:",
            results.number(&seed_case(FLOAT, 0), "/chars")?
        ),
        &["weights", "parameters", "MB", "rate", "nats", "standard deviation of seeds"],
    );
    let (mut least, mut edges, mut series) = (f64::INFINITY, Vec::new(), Vec::new());
    let [lowest, highest] = [RATES.into_iter().fold(f64::INFINITY, f64::min), RATES.into_iter().fold(0.0, f64::max)];
    for arm in arms(scale) {
        let nats = column(results, arm.name, n, "/nats")?;
        let of = |pointer| results.number(&seed_case(arm.name, 0), pointer);
        let of_arm = mean(&nats).unwrap_or(f64::NAN);
        least = least.min(of_arm);
        let rate = results.number(&rates_case(arm.name), "/best")?;
        if rate <= lowest || rate >= highest {
            edges.push(arm.name);
        }
        series.push(Series::dots(
            arm.name,
            nats.iter().map(|nats| Ok((of("/bytes")? / 1e6, *nats))).collect::<Result<_, Error>>()?,
        ));
        table.row([
            arm.name.to_owned(),
            digits(of("/parameters")?),
            format!("{:.3}", of("/bytes")? / 1e6),
            digits(rate),
            format!("{of_arm:.4}"),
            stddev(&nats).map_or_else(|| "-".to_owned(), digits),
        ]);
    }
    let pairs = [[BYTES, FLOAT], [NIBBLES, FLOAT], [EQUAL_PARAMETERS, FLOAT], [EQUAL_BYTES, BYTES]];
    let all = compare(results, &pairs, |name| column(results, name, n, "/nats"), MARGIN)?;
    let told = |names: [&str; 2]| {
        let found = all.iter().find(|c| c.names == names);
        found.map_or_else(String::new, Comparison::told)
    };
    let bytes_against = all.iter().find(|c| c.names == [EQUAL_BYTES, BYTES]);
    let better = bytes_against.is_some_and(Comparison::wins);
    let because = format!(
        "Trained with ternary weights a network of the same parameters is {} from F32, and one of the bytes of Q8_0 is {} from Q8_0{}.",
        told([EQUAL_PARAMETERS, FLOAT]),
        told([EQUAL_BYTES, BYTES]),
        match bytes_against {
            Some(c) if c.p < 0.05 => "",
            Some(c) if c.equivalence.holds() => ", the same within the margin",
            _ => ": neither better nor the same is shown",
        },
    );
    let bytes = |arm| results.number(&seed_case(arm, 0), "/bytes");
    let note = format!(
        "The larger network has {} of the bytes of the smaller one's Q8_0. The best arm has {} nats, where counting four characters gives 1.669: the networks are {}. Same steps are \
         more work for the larger network, in training and in use. The rates that were tried go from {} to {}; at an end of them, so that a better one may lie beyond: {}.",
        percent(bytes(EQUAL_BYTES)? / bytes(BYTES)?),
        digits(least),
        if least < 1.66 {
            "past what counting gives"
        } else {
            "short of what counting gives, so this is about how fast they learn"
        },
        digits(lowest),
        digits(highest),
        if edges.is_empty() { "none".to_owned() } else { edges.join("; ") },
    );
    let tables = vec![table, comparisons_table(&all, MARGIN)];
    let picture = Picture {
        title: "Loss by the bytes of the weights, each seed".to_owned(),
        x: ("MB".to_owned(), Axis::Log),
        y: ("nats per character".to_owned(), Axis::Linear),
        series,
    };
    Ok(Quality { tables, picture, because, note, better_at_equal_bytes: better })
}

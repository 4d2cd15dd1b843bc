//! Networks that are trained so that most neurons of a token can be left out.

use std::f64::consts::PI;

use rin_bench::stats::mean;
use rin_train::config::ModelConfig;
use rin_train::network::{Activated, Cut, Decoder, FeedForward, Network, Predictor, Route};
use rin_train::train::{Part, Trained};
use rin_train::weights::Arithmetic;
use serde_json::{Value, json};

use super::dct_uses::singular_vectors;
use super::gating_time;
use super::networks::{self, Arm, Course, column, corpus, plain, rates_case, seed_case};
use super::pairs::{Comparison, compare, comparisons_table};
use crate::decoder::{cut_off, magnitudes};
use crate::report::{Axis, Picture, Series, Table, digits, percent};
use crate::results::Results;
use crate::{Case, Context, Error, Scale};

const MARGIN: f64 = 0.02;
/// Of SwiGLU and ReLU², which the verdict is about, and of the others.
const SEEDS: [u64; 2] = [6, 3];
/// The rates that are tried: for SwiGLU, for ReLU² and random routes, which learn better with smaller ones, and for phases.
const RATES: [[f64; 3]; 3] = [[2e-3, 4e-3, 8e-3], [1e-3, 2e-3, 4e-3], [5e-4, 1e-3, 2e-3]];
/// Share of neurons that routes reach, that the narrow network has and that are chosen before gates are known.
const REACHED: f64 = 0.1;
const DENSE: &str = "SwiGLU";
const RELU: &str = "ReLU²";
const PHASE: &str = "phases";
const HASH: &str = "random by character";
const NARROW: &str = "a tenth of the width";
/// Shares that thresholds leave out after training.
const CUTS: [f64; 5] = [0.5, 0.8, 0.9, 0.95, 0.99];
/// Which of them the verdict is about.
const VERDICT_CUT: usize = 2;
/// Ranks of gate matrices that say which neurons count.
const RANKS: [usize; 3] = [16, 32, 64];
/// Windows of training text that cuts are made from, and of validation text that what they leave out is counted in.
const CALIBRATION: usize = 64;

fn way(activated: Activated, route: Route, cut: Cut) -> FeedForward {
    FeedForward { activated, route, cut }
}

fn with(model: &ModelConfig, vocab: usize, way: FeedForward) -> Result<Box<dyn Network>, rin_train::Error> {
    Ok(Box::new(Decoder::new(model, vocab, "arm")?.with_feed_forward(way)))
}

fn relu(model: &ModelConfig, vocab: usize) -> Result<Box<dyn Network>, rin_train::Error> {
    with(model, vocab, way(Activated::ReluSquared, Route::All, Cut::Nothing))
}

fn phases(model: &ModelConfig, vocab: usize) -> Result<Box<dyn Network>, rin_train::Error> {
    with(model, vocab, way(Activated::Silu, Route::Phase { tau: REACHED * PI }, Cut::Nothing))
}

fn hashed(model: &ModelConfig, vocab: usize) -> Result<Box<dyn Network>, rin_train::Error> {
    with(model, vocab, way(Activated::Silu, Route::Hash { share: REACHED }, Cut::Nothing))
}

fn arm(scale: Scale, name: &'static str) -> Arm {
    let (dim, ffn, ctx) = scale.pick((64, 160, networks::SEQ), (128, 800, 128));
    let (make, ffn): (networks::Make, _) = match name {
        RELU => (relu, ffn),
        PHASE => (phases, ffn),
        HASH => (hashed, ffn),
        NARROW => (plain, (ffn as f64 * REACHED) as usize),
        _ => (plain, ffn),
    };
    Arm { name, model: ModelConfig { ctx, ..networks::model(dim, 2, ffn) }, arithmetic: Arithmetic::Float, make }
}

fn arms(scale: Scale) -> [Arm; 5] {
    [DENSE, RELU, PHASE, HASH, NARROW].map(|name| arm(scale, name))
}

/// The activation of the arms whose neurons are cut after training.
fn cuttable(name: &str) -> Option<Activated> {
    match name {
        DENSE => Some(Activated::Silu),
        RELU => Some(Activated::ReluSquared),
        _ => None,
    }
}

fn seeds(name: &str, scale: Scale) -> u64 {
    scale.pick(2, SEEDS[usize::from(cuttable(name).is_none())])
}

fn rates(name: &str) -> [f64; 3] {
    RATES[match name {
        DENSE | NARROW => 0,
        PHASE => 2,
        _ => 1,
    }]
}

pub(super) fn cases(scale: Scale) -> Vec<Case> {
    let course = scale.pick(
        Course { steps: 6, float_steps: 0, rates: RATES[0], rate_steps: 2, batch: 2, chars: 2000 },
        Course { steps: 2500, float_steps: 0, rates: RATES[0], rate_steps: 1250, batch: 8, chars: usize::MAX },
    );
    let of_arm = |arm: Arm| {
        let course = Course { rates: rates(arm.name), ..course };
        let seeds = seeds(arm.name, scale);
        networks::cases(course, [arm], seeds, trained)
    };
    let mut cases: Vec<Case> = arms(scale).into_iter().flat_map(of_arm).collect();
    cases.push(gating_time::case(scale));
    cases
}

/// Trains and evaluates an arm, and evaluates it with more and more neurons left out.
fn trained(course: Course, arm: &Arm, seed: u64, context: &Context<'_>) -> Result<Value, Error> {
    let mut value = course.run(arm, seed, context)?;
    let Some(activated) = cuttable(arm.name) else { return Ok(value) };
    let (corpus, trained) = (corpus(context)?, course.network(arm, seed, context)?);
    let cut = |cut: Cut| -> Result<_, Error> {
        Ok(trained.within(with(&arm.model, corpus.vocab(), way(activated, Route::All, cut))?))
    };
    let nats = |network: &Trained| -> Result<f64, Error> {
        context.check()?;
        Ok(course.evaluated(network, Arithmetic::Float, context)?.nats_per_char)
    };
    let left_out = |network: &Trained| -> Result<f64, Error> {
        let seen = corpus.neurons(network, CALIBRATION, Part::Validation)?;
        let all: usize = seen.iter().map(|layer| layer.gates.len()).sum();
        let zero: usize = seen.iter().map(|layer| layer.gates.iter().filter(|x| **x == 0.0).count()).sum();
        Ok(zero as f64 / all.max(1) as f64)
    };
    let whole = cut(Cut::Nothing)?;
    value["zero"] = json!(left_out(&whole)?);
    let seen = corpus.neurons(&whole, CALIBRATION, Part::Training)?;
    let sizes: Vec<Vec<f32>> = seen.iter().map(|layer| magnitudes(&layer.gates)).collect();
    let mut cuts = Vec::new();
    for share in CUTS {
        let network = cut(Cut::Below(sizes.iter().map(|sizes| cut_off(sizes, share)).collect()))?;
        cuts.push(json!({ "asked": share, "left_out": left_out(&network)?, "nats": nats(&network)? }));
    }
    value["cuts"] = json!(cuts);
    let ffn = arm.model.ffn;
    let kept = (ffn as f64 * REACHED) as usize;
    let directions: Vec<_> = seen.iter().map(|layer| directions(&layer.inputs, ffn)).collect();
    let mut predicted = Vec::new();
    for rank in RANKS {
        let left = directions.iter().map(|all| {
            let taken = all.len().min(rank);
            (0..ffn * taken).map(|i| all[i % taken][i / taken] as f32).collect()
        });
        let network = cut(Cut::Predicted(Predictor { left: left.collect(), neurons: kept }))?;
        predicted.push(json!({ "rank": rank, "nats": nats(&network)? }));
    }
    value["predicted"] = json!(predicted);
    let pruned = seen.iter().enumerate().map(|(layer, seen)| {
        let down = trained.values(&format!("blk.{layer}.ffn_down.weight")).unwrap_or_default();
        largest(&importance(&seen.outputs, down, ffn), kept)
    });
    value["pruned"] = json!({ "nats": nats(&cut(Cut::Pruned(pruned.collect()))?)? });
    Ok(value)
}

/// The directions in which gates `(tokens, ffn)` are largest: the space of the first `n` of them is that of the gate matrix
/// of rank `n` whose gates are nearest to the true ones over these tokens (reduced-rank regression).
fn directions(gates: &[f32], ffn: usize) -> Vec<Vec<f64>> {
    let gates: Vec<f64> = gates.iter().map(|x| f64::from(*x)).collect();
    singular_vectors(&gates, gates.len() / ffn.max(1), ffn, RANKS[RANKS.len() - 1])
}

/// How much each neuron moves the residual stream: its mean size over tokens by the length of its column of the down
/// matrix `(dim, ffn)` (Sun et al., 2024, "Wanda", by whole columns).
fn importance(outputs: &[f32], down: &[f32], ffn: usize) -> Vec<f64> {
    let mut sizes = vec![[0.0_f64; 2]; ffn];
    for row in outputs.chunks_exact(ffn) {
        sizes.iter_mut().zip(row).for_each(|(size, x)| size[0] += f64::from(x.abs()));
    }
    for row in down.chunks_exact(ffn) {
        sizes.iter_mut().zip(row).for_each(|(size, w)| size[1] += f64::from(w * w));
    }
    sizes.iter().map(|[size, square]| size * square.sqrt()).collect()
}

/// The places of the `n` largest numbers.
fn largest(numbers: &[f64], n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_unstable_by(|a, b| numbers[*b].total_cmp(&numbers[*a]).then(a.cmp(b)));
    order.truncate(n);
    order
}

/// What the trained networks say.
pub(super) struct Findings {
    pub(super) tables: Vec<Table>,
    pub(super) picture: Picture,
    pub(super) because: String,
    pub(super) note: String,
    /// The largest share that ReLU² can leave out and be at most the margin worse than the whole SwiGLU network.
    pub(super) share: f64,
    /// The speed of a token's products at a tenth of the neurons.
    pub(super) speed: f64,
    /// Whether learned phases are at most the margin worse than the whole SwiGLU network.
    pub(super) phases: bool,
}

/// Share of the numbers of the layers' matrices that a token reads, with shares of the gate matrix and of the other two.
fn read(model: &ModelConfig, gate: f64, rest: f64) -> f64 {
    let kv = model.kv_heads.unwrap_or(model.heads) as f64 / model.heads.max(1) as f64;
    let (dim, ffn) = (model.dim as f64, model.ffn as f64);
    let attention = dim * dim * (2.0 + 2.0 * kv);
    (attention + dim * ffn * (gate + 2.0 * rest)) / (attention + 3.0 * dim * ffn)
}

/// The share of a gate matrix that is read where one of rank `rank` says which of its rows are needed.
fn of_rank(model: &ModelConfig, rank: usize) -> f64 {
    let (dim, ffn) = (model.dim as f64, model.ffn as f64);
    rank as f64 * (dim + ffn) / (dim * ffn) + REACHED
}

/// Networks in pairs by seed, against whole SwiGLU too.
struct Against {
    nats: f64,
    itself: Vec<f64>,
    whole: Vec<f64>,
}

impl Against {
    fn of(results: &Results, arm: &str, n: u64, what: &str) -> Result<Self, Error> {
        let nats = column(results, arm, n, what)?;
        let less = |base: Vec<f64>| nats.iter().zip(base).map(|(a, b)| a - b).collect();
        let [itself, whole] = [arm, DENSE].map(|arm| column(results, arm, n, "/nats").map(less));
        Ok(Self { nats: mean(&nats).unwrap_or(f64::NAN), itself: itself?, whole: whole? })
    }

    /// Its columns of a table.
    fn cells(&self) -> [String; 5] {
        let more = |d: &[f64]| [format!("{:+.4}", mean(d).unwrap_or(f64::NAN)), digits(not_worse(d))];
        let ([a, b], [c, d]) = (more(&self.itself), more(&self.whole));
        [format!("{:.4}", self.nats), a, b, c, d]
    }
}

fn against_table(caption: String, first: [&str; 3]) -> Table {
    let rest = ["nats", "more than itself", "p", "more than whole SwiGLU", "p"];
    Table::new(caption, &[&first[..], &rest[..]].concat())
}

pub(super) fn judge(results: &Results) -> Result<Findings, Error> {
    let scale = results.header.scale;
    let (n, few) = (seeds(DENSE, scale), seeds(PHASE, scale));
    let mut lines = Vec::new();
    let networks = networks_table(results, &mut lines)?;
    let relu = compare(results, &[[RELU, DENSE]], |name| column(results, name, n, "/nats"), MARGIN)?;
    let routed = [[PHASE, DENSE], [PHASE, HASH], [PHASE, NARROW], [HASH, DENSE], [NARROW, DENSE]];
    let routed = compare(results, &routed, |name| column(results, name, few, "/nats"), MARGIN)?;
    let (cuts, share) = cuts(results, n, &mut lines)?;
    let before = before(results, n, &mut lines)?;
    let (time, speed) = gating_time::table(results)?;
    let told = relu.first().map_or_else(String::new, Comparison::told);
    let cost = mean(&Against::of(results, RELU, n, &cut_nats(VERDICT_CUT))?.itself).unwrap_or(f64::NAN);
    let reaches = if share > 0.0 {
        format!("can leave out {} of the neurons and be at most {MARGIN} nats worse than whole SwiGLU", percent(share))
    } else {
        format!("over {n} seeds is not shown to be at most {MARGIN} nats worse than whole SwiGLU")
    };
    let of = |names: [&str; 2]| routed.iter().find(|c| c.names == names);
    let said = |names| of(names).map_or_else(String::new, Comparison::told);
    let phases = of([PHASE, DENSE]).is_some_and(|c| not_worse(&c.differences) < 0.05);
    let because = format!(
        "Trained with ReLU² a network is {told} from SwiGLU as a whole. With {} of its neurons left out it is {cost:+.4} nats \
         from itself, and {reaches}. Products that read a tenth of the neurons are {} times as fast. Learned phases that \
         leave out {} are {} from SwiGLU, {} from random routes and {} from a tenth of the width; random routes are {} from \
         SwiGLU.",
        percent(CUTS[VERDICT_CUT]),
        digits(speed),
        percent(1.0 - REACHED),
        said([PHASE, DENSE]),
        said([PHASE, HASH]),
        said([PHASE, NARROW]),
        said([HASH, DENSE]),
    );
    let note = format!(
        "The products that are timed are those of layers whose weights are random, with the shares of active neurons that \
         the table says, in F32 on one thread: all but attention itself, norms and the output matrix. The gate matrix is \
         read whole, so {} of the layers' bytes are read whatever is left out. The engine has no ReLU² in its decoder and \
         no product that skips columns; what is timed are rows and columns of plain arrays and the engine's `AddScaled`. \
         The rates that were tried are {} (SwiGLU and the narrow network), {} (ReLU² and random routes) and {} (phases); at an end of them, so that a better one may lie beyond: {}.",
        percent(11.0 / 27.0),
        RATES[0].map(digits).join(", "),
        RATES[1].map(digits).join(", "),
        RATES[2].map(digits).join(", "),
        at_an_end(results)?,
    );
    let picture = Picture {
        title: "Networks trained for it: loss by what a token reads of the layers' matrices".to_owned(),
        x: ("read, %".to_owned(), Axis::Linear),
        y: ("nats per character".to_owned(), Axis::Linear),
        series: lines,
    };
    let tables =
        vec![networks, comparisons_table(&relu, MARGIN), cuts, before, comparisons_table(&routed, MARGIN), time];
    Ok(Findings { tables, picture, because, note, share, speed, phases })
}

/// The table of whole networks.
fn networks_table(results: &Results, lines: &mut Vec<Series>) -> Result<Table, Error> {
    let scale = results.header.scale;
    let mut table = Table::new(
        format!(
            "Networks trained for it, means over seeds, {} characters of the validation split:",
            results.number(&seed_case(DENSE, 0), "/chars")?
        ),
        &["feed-forward part", "seeds", "parameters", "rate", "gates at 0", "layers' numbers read", "nats"],
    );
    for arm in arms(scale) {
        let n = seeds(arm.name, scale);
        let (zero, read) = match cuttable(arm.name) {
            Some(_) => (mean(&column(results, arm.name, n, "/zero")?), 1.0),
            None => {
                ((arm.name != NARROW).then_some(1.0 - REACHED), read(&self::arm(scale, DENSE).model, REACHED, REACHED))
            }
        };
        let nats = mean(&column(results, arm.name, n, "/nats")?).unwrap_or(f64::NAN);
        lines.push(Series::dots(arm.name, vec![(100.0 * read, nats)]));
        table.row([
            arm.name.to_owned(),
            n.to_string(),
            digits(results.number(&seed_case(arm.name, 0), "/parameters")?),
            digits(results.number(&rates_case(arm.name), "/best")?),
            zero.map_or_else(|| "-".to_owned(), percent),
            percent(read),
            format!("{nats:.4}"),
        ]);
    }
    Ok(table)
}

/// The arms whose best rate is the least or the largest that was tried.
fn at_an_end(results: &Results) -> Result<String, Error> {
    let mut found = Vec::new();
    for arm in arms(results.header.scale) {
        let best = results.number(&rates_case(arm.name), "/best")?;
        let [least, .., most] = rates(arm.name);
        if best <= least || best >= most {
            found.push(arm.name);
        }
    }
    Ok(if found.is_empty() { "none".to_owned() } else { found.join(", ") })
}

fn cut_nats(at: usize) -> String {
    format!("/cuts/{at}/nats")
}

/// The table of cuts after training, and the largest share at which ReLU² is not worse than whole SwiGLU by the margin.
fn cuts(results: &Results, n: u64, lines: &mut Vec<Series>) -> Result<(Table, f64), Error> {
    let model = arm(results.header.scale, DENSE).model;
    let mut table = against_table(
        format!(
            "Neurons whose gate is below a threshold left out after training, paired by seed; p of \"at most {MARGIN} nats worse\":"
        ),
        ["feed-forward part", "left out", "layers' numbers read"],
    );
    let mut best = 0.0_f64;
    for arm in [DENSE, RELU] {
        let mut points = Vec::new();
        // In a fixed order, so that no test after one that fails counts.
        let mut holds = true;
        for at in 0..CUTS.len() {
            let against = Against::of(results, arm, n, &cut_nats(at))?;
            let left_out = mean(&column(results, arm, n, &format!("/cuts/{at}/left_out"))?).unwrap_or(f64::NAN);
            holds = holds && not_worse(&against.whole) < 0.05;
            if arm == RELU && holds {
                best = best.max(left_out);
            }
            let read = read(&model, 1.0, 1.0 - left_out);
            points.push((100.0 * read, against.nats));
            table.row([arm.to_owned(), percent(left_out), percent(read)].into_iter().chain(against.cells()));
        }
        lines.push(Series::line(format!("{arm}, thresholds"), points));
    }
    Ok((table, best))
}

/// The table of neurons that are chosen before their gates are known.
fn before(results: &Results, n: u64, lines: &mut Vec<Series>) -> Result<Table, Error> {
    let model = arm(results.header.scale, DENSE).model;
    let mut table = against_table(
        format!(
            "The {} of the neurons that are chosen before gates are known, paired by seed; p of \"at most {MARGIN} nats worse\":",
            percent(REACHED)
        ),
        ["feed-forward part", "chosen", "layers' numbers read"],
    );
    for arm in [DENSE, RELU] {
        let pruned = Against::of(results, arm, n, "/pruned/nats")?;
        let share = read(&model, REACHED, REACHED);
        lines.push(Series::dots(format!("{arm}, pruned"), vec![(100.0 * share, pruned.nats)]));
        table.row([arm.to_owned(), "once for all tokens".to_owned(), percent(share)].into_iter().chain(pruned.cells()));
        let mut points = Vec::new();
        for (at, rank) in RANKS.into_iter().enumerate() {
            let against = Against::of(results, arm, n, &format!("/predicted/{at}/nats"))?;
            let read = read(&model, of_rank(&model, rank), REACHED);
            points.push((100.0 * read, against.nats));
            let first = [arm.to_owned(), format!("by gates of rank {rank}"), percent(read)];
            table.row(first.into_iter().chain(against.cells()));
        }
        lines.push(Series::line(format!("{arm}, predicted"), points));
    }
    Ok(table)
}

/// The one-sided probability of a mean as low where the truth is the margin.
fn not_worse(differences: &[f64]) -> f64 {
    let shifted: Vec<f64> = differences.iter().map(|d| d - MARGIN).collect();
    let Some(test) = rin_bench::stats::student::paired(&shifted) else { return 1.0 };
    if test.mean < 0.0 { test.p / 2.0 } else { 1.0 - test.p / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::super::dct_uses::dot;
    use super::*;

    #[test]
    fn directions_importance_and_shares_are_what_they_say() {
        assert!(not_worse(&[0.001, -0.001, 0.002]) < 0.01 && not_worse(&[0.02, 0.021, 0.019]) > 0.4);
        // Gates that lie in a plane are told whole by two directions.
        let rows: Vec<[f64; 2]> = (0..9).map(|i| [libm::cos(f64::from(i)), 2.0 * libm::sin(f64::from(i))]).collect();
        let gates: Vec<f32> =
            rows.iter().flat_map(|[a, b]| [*a as f32, *b as f32, (*a + *b) as f32, (*a - *b) as f32]).collect();
        let all = directions(&gates, 4);
        for row in gates.chunks_exact(4) {
            let row: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
            let told = |i: usize| all[..2].iter().map(|u| dot(&row, u) * u[i]).sum::<f64>();
            assert!((0..4).all(|i| (told(i) - row[i]).abs() < 1e-6), "{row:?}");
        }
        // Of neurons of the same size, the one with the longer column; signs do not count.
        let found = importance(&[1.0, -1.0, 3.0, -1.0, 1.0, 3.0], &[0.5, -2.0, 0.0, 0.5, 0.0, 0.1], 3);
        assert_eq!(largest(&found, 2), [1, 0]);
        let sizes = magnitudes(&[3.0, -1.0, 2.0, -4.0]);
        assert!((cut_off(&sizes, 0.5) - 3.0).abs() < 1e-6 && cut_off(&sizes, 1.0).is_infinite());
        let model = arm(Scale::Full, DENSE).model;
        // Width 128, 800 neurons, one head of two for keys and values.
        let numbers = 3.0 * 128.0 * 128.0 + 3.0 * 128.0 * 800.0;
        assert!((read(&model, 1.0, 0.0) - (3.0 * 128.0 * 128.0 + 128.0 * 800.0) / numbers).abs() < 1e-12);
        assert!(
            (read(&model, of_rank(&model, 32), 0.1)
                - (3.0 * 128.0 * 128.0 + 32.0 * 928.0 + 0.3 * 128.0 * 800.0) / numbers)
                .abs()
                < 1e-12
        );
    }
}

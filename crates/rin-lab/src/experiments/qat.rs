//! What rounding weights and activations costs after training and with it, and how often it changes the most probable
//! character.

use rin_bench::stats::mean;
use rin_bench::stats::student::paired;
use rin_kernels::Format;
use rin_train::config::ModelConfig;
use rin_train::evaluate::Evaluation;
use rin_train::ops::Scope;
use rin_train::weights::Arithmetic;
use serde_json::{Value, json};

use super::networks::{self, Arm, Course, plain, rates_case};
use super::pairs::{Comparison, compare, comparisons_table};
use crate::report::{Axis, Picture, Series, Table, digits, interval, percent};
use crate::results::Results;
use crate::{Case, Context, Error, Experiment, Findings, Scale, Verdict};

/// Nats within which rounding costs nothing.
const MARGIN: f64 = 0.005;
/// Nats that 4 bits may cost in training.
const MARGIN_4: f64 = 0.02;
/// The share of the most probable characters that 8 bits are to keep.
const SAME: f64 = 0.985;
/// Where logits differ by less than each of these from the next, and the rest.
const MARGINS: [f32; 4] = [0.1, 0.3, 1.0, f32::INFINITY];
const SEEDS: u64 = 3;
const FLOAT: &str = "F32";

/// A way to round: its arithmetic, and the names of networks that are rounded after training and in it.
#[derive(Clone, Copy)]
struct Way {
    arithmetic: Arithmetic,
    after: &'static str,
    with: &'static str,
}

const TENSOR: Way = Way {
    arithmetic: Arithmetic::Scaled(Scope::Tensor),
    after: "8 bits, a scale a tensor, after training",
    with: "8 bits, a scale a tensor, in training",
};
const ROW: Way = Way {
    arithmetic: Arithmetic::Scaled(Scope::Row),
    after: "8 bits, a scale a row, after training",
    with: "8 bits, a scale a row, in training",
};
const BYTES: Way =
    Way { arithmetic: Arithmetic::Quant(Format::Q8_0), after: "Q8_0 after training", with: "Q8_0 in training" };
const NIBBLES: Way =
    Way { arithmetic: Arithmetic::Quant(Format::Q4_0), after: "Q4_0 after training", with: "Q4_0 in training" };
const WAYS: [Way; 4] = [TENSOR, ROW, BYTES, NIBBLES];

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "qat",
    title: "Rounding in training and after (QAT)",
    claim: "Training with 8-bit rounding closes the \"uint8 argmax gap\". The seed's rounding has no gradient, so nothing before it learns, and its weights, activations and tables have one scale for \
            a whole tensor: the derivative of a rounding is 0 wherever there is one, and with PyTorch 2.15 \
            `torch.round(w).sum().backward()` leaves zeros.",
    definition: "Symmetric 8- and 4-bit weights with a 16-bit scale for 32 of a row (Q8_0, Q4_0), activations of 8 bits with a scale for 32, taken anew for each token: the runtime's own \
                 arithmetic. Against them: 8 bits with one scale for a whole matrix and all inputs of a batch, as the seed has it, and with one for each row of a matrix and each token \
                 (`rin_train::ops::Scope`, in floats). After training: a network that was trained in F32, rounded. In training: the same training, in which the last three eighths of the steps compute with rounded numbers, gradients straight through \
                 (`quant = \"q8_0\"`, `\"q4_0\"`, `quant_from_step`).",
    reference: "The codes of the gguf package 0.19.0, bit for bit (`crates/rin-import`); the logits of training are those of the exported file, bit for bit (`crates/rin-train/tests/exact.rs`).",
    method: "Tiny Shakespeare, two layers of width 256 with 256 neurons (0.8 M parameters), 1,600 steps of eight windows of 128 characters, three seeds, the best of three rates of F32 in trainings of half the steps with \
             another seed. Loss on the whole validation split against the same seed's F32, two \
             one-sided t tests over seeds within 0.005 nats, paired t tests with Holm's adjustment. Share of the places where the most probable character is that of the F32 network: all, and by \
             how far its logit is ahead of the next. A network that learned otherwise disagrees for that reason too: F32 of another seed is the control. Validated where three hold: 8 bits with a scale a row after \
             training cost nothing by that margin and keep 98.5 % of the characters; 4 bits in training cost at most 0.02 nats (upper end of the interval); \
             with one scale a tensor rounding after training costs nats, and training with it costs fewer (both adjusted p below 0.05). With limits, where two do.",
    expected: "8 bits with a scale a row after training at most 0.003 nats and 98.5 % of the characters, without training; Q4_0 in training within 0.02 nats, and training matters from 4 bits down.",
    reopens: "Five seeds and more; larger networks, whose activations have outliers; LSQ; rounding from the first step. What 8 bits do to memories of a fixed size is on their page; \
              signs and slots that change with rounding were not counted.",
    revision: 2,
    cases,
    judge,
};

fn seed_case(seed: u64) -> String {
    format!("seed {seed}")
}

/// A network whose training ends with an arithmetic.
fn arm(scale: Scale, name: &'static str, arithmetic: Arithmetic) -> Arm {
    let (dim, ctx) = scale.pick((64, 32), (256, 128));
    Arm { name, model: ModelConfig { ctx, ..networks::model(dim, 2, dim) }, arithmetic, make: plain }
}

fn course(scale: Scale) -> Course {
    let rates = [5e-4, 1e-3, 2e-3];
    scale.pick(
        Course { steps: 8, float_steps: 5, rates, rate_steps: 2, batch: 2, chars: 2000 },
        Course { steps: 1600, float_steps: 1000, rates, rate_steps: 800, batch: 8, chars: usize::MAX },
    )
}

fn seeds(scale: Scale) -> u64 {
    scale.pick(2, SEEDS)
}

fn cases(scale: Scale) -> Vec<Case> {
    let (course, seeds, float) = (course(scale), seeds(scale), arm(scale, FLOAT, Arithmetic::Float));
    let mut cases = vec![Case::new(rates_case(FLOAT), move |context| course.rates(&float, context))];
    for seed in 0..seeds {
        cases.push(Case::new(seed_case(seed), move |context| rounded(scale, seed, context)));
    }
    cases
}

/// All arms of a seed.
fn rounded(scale: Scale, seed: u64, context: &Context<'_>) -> Result<Value, Error> {
    let (course, float) = (course(scale), arm(scale, FLOAT, Arithmetic::Float));
    let network = course.network(&float, seed, context)?;
    let base = course.evaluated(&network, float.arithmetic, context)?;
    let other = course.network(&float, seed + 1, context)?;
    let other = course.evaluated(&other, float.arithmetic, context)?;
    let mut found = json!({
        "chars": base.chars,
        "control": agreement(&other, &base),
        "share": MARGINS.iter().enumerate().map(|(at, _)| share(&base, at)).collect::<Vec<_>>(),
    });
    let mut add = |name: &str, of: &Evaluation| {
        found["arms"][name] = json!({ "nats": of.nats_per_char, "same": agreement(of, &base) });
    };
    add(FLOAT, &base);
    for way in WAYS {
        add(way.after, &course.evaluated(&network, way.arithmetic, context)?);
        let trained = course.network_at(&arm(scale, way.with, way.arithmetic), &float, seed, context)?;
        add(way.with, &course.evaluated(&trained, way.arithmetic, context)?);
    }
    Ok(found)
}

/// Which of [`MARGINS`] a margin belongs to.
fn bin(margin: f32) -> usize {
    MARGINS.iter().position(|most| margin < *most).unwrap_or(MARGINS.len() - 1)
}

/// The share of places with such a margin.
fn share(base: &Evaluation, at: usize) -> f64 {
    base.margins.iter().filter(|margin| bin(**margin) == at).count() as f64 / base.margins.len().max(1) as f64
}

/// The share of places with the same most probable character: of all, then by the margin in `base`.
fn agreement(of: &Evaluation, base: &Evaluation) -> Vec<f64> {
    let (mut same, mut all) = ([0.0; MARGINS.len() + 1], [0.0; MARGINS.len() + 1]);
    for ((a, b), margin) in of.argmax.iter().zip(&base.argmax).zip(&base.margins) {
        for at in [0, bin(*margin) + 1] {
            all[at] += 1.0;
            same[at] += f64::from(u8::from(a == b));
        }
    }
    same.iter().zip(all).map(|(same, all): (&f64, f64)| same / all.max(1.0)).collect()
}

/// The means of a column over seeds.
fn average(results: &Results, pointer: &str) -> Result<f64, Error> {
    Ok(mean(&of_seeds(results, pointer)?).unwrap_or(f64::NAN))
}

fn of_seeds(results: &Results, pointer: &str) -> Result<Vec<f64>, Error> {
    (0..seeds(results.header.scale)).map(|seed| results.number(&seed_case(seed), pointer)).collect()
}

/// The table of all networks, and the picture of how often they agree with F32.
fn networks_table(results: &Results) -> Result<(Table, Picture), Error> {
    let mut table = Table::new(
        format!(
            "Means over {} seeds, {} characters; the same most probable character as in F32, by how far its logit is ahead of the next there:",
            seeds(results.header.scale),
            results.number(&seed_case(0), "/chars")?
        ),
        &["", "nats", "same", "below 0.1", "0.1 to 0.3", "0.3 to 1", "1 and more"],
    );
    let row = |pointer: &str| -> Result<Vec<f64>, Error> {
        (0..=MARGINS.len()).map(|at| average(results, &format!("{pointer}/{at}"))).collect()
    };
    let mut lines = Vec::new();
    let mut line = |name: &str, row: &[f64]| {
        let points = row.iter().enumerate().skip(1).map(|(at, share)| (at as f64, 100.0 * share));
        lines.push(Series::line(name, points.collect()));
    };
    for arm in [FLOAT].into_iter().chain(WAYS.iter().flat_map(|way| [way.after, way.with])) {
        let nats = format!("{:.4}", average(results, &format!("/arms/{arm}/nats"))?);
        let same = row(&format!("/arms/{arm}/same"))?;
        if WAYS.iter().any(|way| way.after == arm) {
            line(arm, &same);
        }
        table.row([arm.to_owned(), nats].into_iter().chain(same.into_iter().map(percent)));
    }
    let control = row("/control")?;
    line("F32 of another seed", &control);
    table.row(["F32 of another seed".to_owned(), "-".to_owned()].into_iter().chain(control.into_iter().map(percent)));
    let shares = (0..MARGINS.len()).map(|at| Ok(percent(average(results, &format!("/share/{at}"))?)));
    let shares = shares.collect::<Result<Vec<_>, Error>>()?;
    table.row(["share of the places".to_owned(), "-".to_owned(), "-".to_owned()].into_iter().chain(shares));
    let picture = Picture {
        title: "The same most probable character as in F32, by how far its logit is ahead of the next there".to_owned(),
        x: ("below 0.1 (1), 0.1 to 0.3 (2), 0.3 to 1 (3), 1 and more (4)".to_owned(), Axis::Linear),
        y: ("%".to_owned(), Axis::Linear),
        series: lines,
    };
    Ok((table, picture))
}

fn judge(results: &Results) -> Result<Findings, Error> {
    let (table, picture) = networks_table(results)?;
    let mut pairs = Vec::new();
    for way in WAYS {
        pairs.extend([[way.after, FLOAT], [way.with, FLOAT], [way.with, way.after]]);
    }
    pairs.push([TENSOR.after, ROW.after]);
    let all = compare(results, &pairs, |name| of_seeds(results, &format!("/arms/{name}/nats")), MARGIN)?;
    let of = |a: &str, b: &str| all.iter().find(|c| c.names == [a, b]);
    let told = |a: &str, b: &str| of(a, b).map_or_else(String::new, Comparison::told);
    let same = |way: Way| -> Result<(f64, String), Error> {
        let shares = of_seeds(results, &format!("/arms/{}/same/0", way.after))?;
        let percents: Vec<f64> = shares.iter().map(|share| 100.0 * share).collect();
        let ci = paired(&percents).map_or_else(|| "-".to_owned(), |test| interval(test.ci95));
        Ok((mean(&shares).unwrap_or(f64::NAN), ci))
    };
    let (of_row, of_row_ci) = same(ROW)?;
    let free = of(ROW.after, FLOAT).is_some_and(|c| c.equivalence.holds()) && of_row >= SAME;
    let four = of(NIBBLES.with, FLOAT).is_some_and(|c| c.test.ci95[1] <= MARGIN_4);
    let gap = of(TENSOR.after, FLOAT).is_some_and(|c| c.test.mean > 0.0 && c.p < 0.05);
    let closed = gap && of(TENSOR.with, TENSOR.after).is_some_and(Comparison::wins);
    let verdict = match [free, four, closed].iter().filter(|holds| **holds).count() {
        3 => Verdict::Validated,
        2 => Verdict::ValidatedWithLimits,
        _ => Verdict::Negative,
    };
    let because = format!(
        "With one scale a tensor, as the seed rounds, 8 bits after training are {} from F32 and keep {} of the most probable characters, and in training {} from those after it. \
         With a scale a row they are {} from F32 after training and keep {} (95 % interval {of_row_ci} over seeds), Q8_0 {} and {}. Rounded to 4 bits a network is {} from F32 after training and {} in it.",
        told(TENSOR.after, FLOAT),
        percent(same(TENSOR)?.0),
        told(TENSOR.with, TENSOR.after),
        told(ROW.after, FLOAT),
        percent(of_row),
        told(BYTES.after, FLOAT),
        percent(same(BYTES)?.0),
        told(NIBBLES.after, FLOAT),
        told(NIBBLES.with, FLOAT),
    );
    let mut tried = Vec::new();
    for at in 0..course(results.header.scale).rates.len() {
        tried.push(digits(results.number(&rates_case(FLOAT), &format!("/tried/{at}/lr"))?));
    }
    let note = format!(
        "F32 of another seed agrees in {} of the places; networks that were rounded in training agree less with F32 than those that were rounded after it, since they learned otherwise, too. All rates are the best of F32, {} of {}, so that the trainings are the same until rounding begins. F32 predicts with {:.4} nats; an n-gram of four characters with 1.669, and the target of a model that is trained to the end is 1.62.",
        percent(average(results, "/control/0")?),
        digits(results.number(&rates_case(FLOAT), "/best")?),
        tried.join(", "),
        average(results, &format!("/arms/{FLOAT}/nats"))?,
    );
    Ok(Findings::judged(results, verdict, because)
        .table(table)
        .table(comparisons_table(&all, MARGIN))
        .picture(picture)
        .note(note))
}

//! What rounding weights and activations costs after training and with it, and how often it changes the most probable
//! character.

use rin_bench::stats::mean;
use rin_train::config::{ModelConfig, Quant};
use rin_train::evaluate::Evaluation;
use serde_json::{Value, json};

use super::networks::{self, Arm, Course, plain, rates_case};
use super::pairs::{Comparison, compare, comparisons_table};
use crate::report::{Table, digits, percent};
use crate::results::Results;
use crate::{Case, Context, Error, Experiment, Findings, Scale, Verdict};

/// Nats within which rounding costs nothing.
const MARGIN: f64 = 0.005;
/// Where logits differ by less than each of these from the next, and the rest.
const MARGINS: [f32; 4] = [0.1, 0.3, 1.0, f32::INFINITY];
const SEEDS: u64 = 3;
const FLOAT: &str = "F32";
const AFTER_8: &str = "Q8_0 after training";
const AFTER_4: &str = "Q4_0 after training";
const WITH_8: &str = "Q8_0 in training";
const WITH_4: &str = "Q4_0 in training";
const ARMS: [&str; 5] = [FLOAT, AFTER_8, WITH_8, AFTER_4, WITH_4];

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "qat",
    title: "Rounding in training and after (QAT)",
    claim: "Training with 8-bit rounding closes the \"uint8 argmax gap\". The seed's rounding has no gradient, so nothing before it learns, and its weights, activations and tables have one scale for \
            a whole tensor.",
    definition: "Symmetric 8- and 4-bit weights with a 16-bit scale for 32 of a row (Q8_0, Q4_0), activations of 8 bits with a scale for 32, taken anew for each token: the runtime's own \
                 arithmetic. After training: a network that was trained in F32, rounded. In training: the same training, in which the last three eighths of the steps compute with rounded numbers, gradients straight through \
                 (`quant = \"q8_0\"`, `\"q4_0\"`, `quant_from_step`).",
    reference: "The codes of the gguf package 0.19.0, bit for bit (`crates/rin-import`); the logits of training are those of the exported file, bit for bit (`crates/rin-train/tests/exact.rs`).",
    method: "Tiny Shakespeare, two layers of width 256 with 256 neurons (0.8 M parameters), 800 steps of eight windows of 128 characters, three seeds, the best of three rates of F32 in trainings of 160 steps with \
             another seed. Loss on the whole validation split against the same seed's F32, two \
             one-sided t tests over seeds within 0.005 nats, paired t tests with Holm's adjustment. Share of the places where the most probable character is that of the F32 network: all, and by \
             how far its logit is ahead of the next. A network that learned otherwise disagrees for that reason too: F32 of another seed is the control. Validated where 8 bits after training \
             cost nothing by that margin and keep 98.5 % of the characters, and 4 bits in training cost at most 0.02 nats; with limits, where one of the two holds.",
    expected: "Q8_0 after training at most 0.003 nats and 98.5 % of the characters; training matters from 4 bits down: Q4_0 in training within 0.02 nats, after it more.",
    reopens: "Trainings to the end, wider networks, six seeds; scales for a whole row or tensor. What 8 bits do to memories of a fixed size is on their page.",
    revision: 1,
    cases,
    judge,
};

fn seed_case(seed: u64) -> String {
    format!("seed {seed}")
}

/// The networks: in F32, and with 8 and 4 bits at the end of the training.
fn arms(scale: Scale) -> [Arm; 3] {
    let (dim, ctx) = scale.pick((64, 32), (256, 128));
    let model = ModelConfig { ctx, ..networks::model(dim, 2, dim) };
    let arm = |name, quant| Arm { name, model: model.clone(), quant, make: plain };
    [arm(FLOAT, Quant::None), arm(WITH_8, Quant::Q8_0), arm(WITH_4, Quant::Q4_0)]
}

fn course(scale: Scale) -> Course {
    let rates = [1e-3, 2e-3, 4e-3];
    scale.pick(
        Course { steps: 8, float_steps: 5, rates, rate_steps: 2, batch: 2, chars: 2000 },
        Course { steps: 800, float_steps: 500, rates, rate_steps: 160, batch: 8, chars: usize::MAX },
    )
}

fn seeds(scale: Scale) -> u64 {
    scale.pick(2, SEEDS)
}

fn cases(scale: Scale) -> Vec<Case> {
    let (course, arms, seeds) = (course(scale), arms(scale), seeds(scale));
    let float = arms[0].clone();
    let mut cases = vec![Case::new(rates_case(FLOAT), move |context| course.rates(&float, context))];
    for seed in 0..seeds {
        let arms = arms.clone();
        cases.push(Case::new(seed_case(seed), move |context| rounded(course, &arms, seed, seeds, context)));
    }
    cases
}

/// All arms of a seed.
fn rounded(course: Course, arms: &[Arm; 3], seed: u64, seeds: u64, context: &Context<'_>) -> Result<Value, Error> {
    let [float, bytes, nibbles] = arms;
    let network = course.network(float, seed, context)?;
    let base = course.evaluated(&network, float.quant, context)?;
    let other = course.evaluated(&*course.network(float, (seed + 1) % seeds, context)?, float.quant, context)?;
    let mut found = json!({
        "chars": base.chars,
        "control": agreement(&other, &base),
        "share": MARGINS.iter().enumerate().map(|(at, _)| share(&base, at)).collect::<Vec<_>>(),
    });
    let mut add = |name: &str, of: &Evaluation| {
        found["arms"][name] = json!({ "nats": of.nats_per_char, "same": agreement(of, &base) });
    };
    add(FLOAT, &base);
    for (arm, after, with) in [(bytes, AFTER_8, WITH_8), (nibbles, AFTER_4, WITH_4)] {
        add(after, &course.evaluated(&network, arm.quant, context)?);
        add(with, &course.evaluated(&*course.network_at(arm, float, seed, context)?, arm.quant, context)?);
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

fn judge(results: &Results) -> Result<Findings, Error> {
    let n = seeds(results.header.scale);
    let column = |pointer: &str| -> Result<Vec<f64>, Error> {
        (0..n).map(|seed| results.number(&seed_case(seed), pointer)).collect()
    };
    let average = |pointer: &str| Ok::<f64, Error>(mean(&column(pointer)?).unwrap_or(f64::NAN));
    let mut table = Table::new(
        format!(
            "Means over {n} seeds, {} characters; the same most probable character as in F32, by how far its logit is ahead of the next there:",
            results.number(&seed_case(0), "/chars")?
        ),
        &["", "nats", "same", "below 0.1", "0.1 to 0.3", "0.3 to 1", "1 and more"],
    );
    let row = |pointer: &str| -> Result<Vec<String>, Error> {
        (0..=MARGINS.len()).map(|at| Ok(percent(average(&format!("{pointer}/{at}"))?))).collect()
    };
    for arm in ARMS {
        let nats = format!("{:.4}", average(&format!("/arms/{arm}/nats"))?);
        table.row([arm.to_owned(), nats].into_iter().chain(row(&format!("/arms/{arm}/same"))?));
    }
    table.row(["F32 of another seed".to_owned(), "-".to_owned()].into_iter().chain(row("/control")?));
    let shares = (0..MARGINS.len()).map(|at| Ok(percent(average(&format!("/share/{at}"))?)));
    let shares = shares.collect::<Result<Vec<_>, Error>>()?;
    table.row(["share of the places".to_owned(), "-".to_owned(), "-".to_owned()].into_iter().chain(shares));
    let pairs =
        [[AFTER_8, FLOAT], [WITH_8, FLOAT], [WITH_8, AFTER_8], [AFTER_4, FLOAT], [WITH_4, FLOAT], [WITH_4, AFTER_4]];
    let all = compare(results, &pairs, |name| column(&format!("/arms/{name}/nats")), MARGIN)?;
    let of = |a: &str, b: &str| all.iter().find(|c| c.names == [a, b]);
    let told = |a: &str, b: &str| of(a, b).map_or_else(String::new, Comparison::told);
    let same = average(&format!("/arms/{AFTER_8}/same/0"))?;
    let free = of(AFTER_8, FLOAT).is_some_and(|c| c.equivalence.holds()) && same >= 0.985;
    let trained = of(WITH_4, FLOAT).is_some_and(|c| c.test.ci95[1] <= 0.02);
    let verdict = match (free, trained) {
        (true, true) => Verdict::Validated,
        (false, false) => Verdict::Negative,
        _ => Verdict::ValidatedWithLimits,
    };
    let because = format!(
        "Rounded to 8 bits after training a network is {} from F32 and keeps {} of the most probable characters; rounded to 4 bits {} after training and {} in training.",
        told(AFTER_8, FLOAT),
        percent(same),
        told(AFTER_4, FLOAT),
        told(WITH_4, FLOAT),
    );
    let note = format!(
        "F32 of another seed agrees in {} of the places. All rates are the best of F32, {}, so that the trainings are the same until rounding begins.",
        percent(average("/control/0")?),
        digits(results.number(&rates_case(FLOAT), "/best")?),
    );
    Ok(Findings::judged(results, verdict, because).table(table).table(comparisons_table(&all, MARGIN)).note(note))
}

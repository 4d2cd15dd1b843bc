//! Distillation of a teacher's inside against that of its answers alone, at equal processor time.

use std::time::Duration;

use rin_bench::stats::{mean, stddev};
use rin_train::config::{DistillConfig, HintLayers, Hints};
use rin_train::train::{Budget, Kept, Pupil, PupilConfig};
use serde_json::{Map, Value, json};

use super::pairs::{Comparison, compare, comparisons_table};
use super::students::{Shared, logits, network, windows};
use crate::report::{Axis, Picture, Series, Table, digits, percent};
use crate::representation::distance;
use crate::results::Results;
use crate::{Case, Context, Error, Experiment, Findings, Scale, Verdict};

/// What others are compared with.
const BASE: &str = "logits";
const TEXT_ALONE: &str = "text";
const PAYS: &str = "logits, teacher's time counted";
/// Hints, and the same with the teacher's layers in the opposite order where there is such a control.
const HINTS: [(&str, Hints, Option<&str>); 4] = [
    ("hidden", Hints::Hidden, Some("hidden, reversed")),
    ("attention", Hints::Attention, Some("attention, reversed")),
    ("relations", Hints::Relations, None),
    ("hidden and attention", Hints::Both, None),
];
/// Width and layers of a student.
const SHAPE: (usize, usize) = (96, 2);
const BATCH: usize = 16;
const RATE: f64 = 4e-3;
const SEEDS: u64 = 6;
/// Seconds of a student.
const BUDGET: f64 = 15.0;
/// Windows of the pool: 163,840 characters, of which the teacher's inside takes 1 GB.
const WINDOWS: usize = 2560;
/// Students take turns, so that what else the machine does befalls all of them.
const SLICE: Duration = Duration::from_millis(200);
/// Windows of the validation split on which student and teacher are compared.
const PROBE: usize = 128;
/// Nats within which two arms count as the same.
const MARGIN: f64 = 0.01;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "distill",
    title: "Mechanistic distillation",
    claim: "A student learns more where it is shown its teacher's inside (features, attention, \"resonance\", Betti numbers) beside its answers. The seed's program \
            computes such losses without gradients; its attention is compared over the whole matrix rather than row by row, \"resonance\" is never computed, and Betti \
            numbers are constant between jumps, so that they have no gradient to follow.",
    definition: "Students of two layers of width 96 (0.2 M parameters) and the model inside the binary as the teacher (six layers of width 256, 3.6 M parameters). `text`: cross-entropy alone. `logits`: \
                 half of that, and half of T² KL with T = 2 (Hinton, Vinyals and Dean 2015). The others add to `logits` a hint, divided by what it was in the first step: `hidden`, the mean \
                 squared difference of the stream after a layer through a learned map (FitNets); `attention`, KL of each head's rows (attention transfer); `relations`, KL of the attention and of \
                 the values among themselves in the last layers (MiniLM); `hidden and attention`, both (TinyBERT without the embedding). `reversed`: the student's first layer looks where its last \
                 one should. \"Resonance\" has no definition and Betti numbers no gradient, so neither is an arm. `rin_train::train::Pupil`.",
    reference: "Each loss against its definition in double precision or its gradient against differences of the loss (tests of rin-train); CKA against its form with centred Gram matrices.",
    method: "Six seeds, paired. All students of a seed begin with the same weights, see the same windows in the same order, take turns of 0.2 s, and end after 15 s of processor time each; the \
             learning rate falls along a cosine over that time. One rate (4e-3) for all. The teacher's answers to the pool (2,560 windows of 64 characters) were computed once and kept, and \
             cost the students nothing but the copy, as where many students share a teacher; for the arm `logits, teacher's time counted` each new window costs what \
             its answer did. Loss on the whole validation split. Paired t tests with Holm's adjustment over all comparisons of the page, exact sign flips, and two one-sided t tests \
             within 0.01 nats. The component is validated where a hint beats `logits` and its reversed control; with limits, where one beats `logits` but no control; \
             negative, where none beats `logits`.",
    expected: "`logits` 0.01 to 0.04 nats below `text`; hints within 0.01 of `logits`; reversed layers as good as others.",
    reopens: "A loss of CKA, and a reversed control for `relations`; torchdistill or TextBrewer beside it (not run); a teacher of six layers of width 192 was asked for. Budgets of hours, at which students are near what they can reach; a pool as large as the text, larger students, weights of the hints and learning rates chosen per arm.",
    revision: 1,
    cases,
    judge,
};

/// The arms: name, what is learned of the teacher, and whether its time counts.
fn arms() -> Vec<(&'static str, Option<DistillConfig>, bool)> {
    let mut arms = vec![(TEXT_ALONE, None, false), (BASE, Some(logits()), false)];
    for (name, hints, control) in HINTS {
        let uniform = DistillConfig { hints, ..logits() };
        let reversed = DistillConfig { hint_layers: HintLayers::Reversed, ..uniform.clone() };
        arms.push((name, Some(uniform), false));
        arms.extend(control.map(|name| (name, Some(reversed), false)));
    }
    arms.push((PAYS, Some(logits()), true));
    arms
}

fn seed_case(seed: u64) -> String {
    format!("seed {seed}")
}

fn cases(scale: Scale) -> Vec<Case> {
    let (n_windows, seconds, seeds) = scale.pick((64, 0.5, 2), (WINDOWS, BUDGET, SEEDS));
    let course = Shared::new(n_windows, Kept { depths: vec![SHAPE.1], attention: true });
    let of_teacher = course.clone();
    let mut cases = vec![Case::new("teacher", move |context| teacher(&of_teacher, context))];
    for seed in 0..seeds {
        let course = course.clone();
        cases.push(Case::new(seed_case(seed), move |context| students(&course, seed, seconds, context)));
    }
    cases
}

fn teacher(course: &Shared, context: &Context<'_>) -> Result<Value, Error> {
    let course = course.get(context)?;
    let (ids, targets) = windows(course, 0, PROBE)?;
    let seen = course.seen(&ids)?;
    let itself = distance(&seen, &seen, &targets)?;
    Ok(json!({ "nats": itself.nats, "ms_of_answer": 1e3 * course.time_of_answer().as_secs_f64() }))
}

/// Trains all arms of a seed in turns.
fn students(course: &Shared, seed: u64, seconds: f64, context: &Context<'_>) -> Result<Value, Error> {
    let course = course.get(context)?;
    let mut pupils = Vec::new();
    for (name, distill, pays_teacher) in arms() {
        let budget = Budget::Time(Duration::from_secs_f64(seconds));
        let model = network(SHAPE.0, SHAPE.1);
        let config = PupilConfig { model, batch: BATCH, lr: RATE, seed, budget, distill, pays_teacher };
        pupils.push((name, Pupil::new(config, course)?, true));
    }
    while pupils.iter().any(|(.., at_work)| *at_work) {
        for (_, pupil, at_work) in pupils.iter_mut().filter(|(.., at_work)| *at_work) {
            context.check()?;
            *at_work = pupil.work(course, SLICE)?;
        }
    }
    let (ids, targets) = windows(course, 0, PROBE)?;
    let of_teacher = course.seen(&ids)?;
    let mut found = Map::new();
    for (name, pupil, _) in &pupils {
        context.check()?;
        let to_teacher = distance(&pupil.seen(course, &ids, None)?, &of_teacher, &targets)?;
        let value = json!({
            "nats": pupil.evaluate(course)?.nats_per_char,
            "steps": pupil.steps(),
            "seconds": pupil.spent().as_secs_f64(),
            "cka": to_teacher.cka,
            "kl": to_teacher.kl,
            "disagreement": to_teacher.disagreement,
        });
        found.insert((*name).to_owned(), value);
    }
    Ok(json!({ "arms": found, "parameters": pupils.first().map(|(_, pupil, _)| pupil.parameters()) }))
}

/// A number of each seed.
fn column(results: &Results, arm: &str, what: &str) -> Result<Vec<f64>, Error> {
    let seeds = 0..results.header.scale.pick(2, SEEDS);
    // A name is no pointer where it has a slash; none has.
    seeds.map(|seed| results.number(&seed_case(seed), &format!("/arms/{arm}/{what}"))).collect()
}

fn comparisons(results: &Results) -> Result<Vec<Comparison>, Error> {
    let mut pairs = vec![[BASE, TEXT_ALONE], [PAYS, TEXT_ALONE]];
    for (name, _, control) in HINTS {
        pairs.push([name, BASE]);
        if let Some(control) = control {
            pairs.extend([[control, BASE], [name, control]]);
        }
    }
    compare(results, &pairs, |name| column(results, name, "nats"), MARGIN)
}

fn judge(results: &Results) -> Result<Findings, Error> {
    let mut arms_table = Table::new(
        format!(
            "Students, means over seeds. The teacher has {} nats on windows of the same length, and an answer to one took {} ms. CKA and disagreement are of the stream after the last \
             layer and of the most probable character, against the teacher, on 8,192 characters:",
            digits(results.number("teacher", "/nats")?),
            digits(results.number("teacher", "/ms_of_answer")?),
        ),
        &["arm", "steps", "nats", "CKA", "disagreement"],
    );
    let (mut series, mut least) = (Vec::new(), f64::INFINITY);
    let of_text = column(results, TEXT_ALONE, "nats")?;
    for (name, ..) in arms() {
        let of = |what| column(results, name, what).map(|all| mean(&all).unwrap_or(f64::NAN));
        let nats = of("nats")?;
        least = least.min(nats);
        arms_table.row([
            name.to_owned(),
            digits(of("steps")?),
            format!("{nats:.4}"),
            digits(of("cka")?),
            percent(of("disagreement")?),
        ]);
        let each = column(results, name, "nats")?;
        let points = (0_u32..).map(f64::from).zip(each.iter().zip(&of_text).map(|(a, b)| a - b));
        series.push(Series::line(name, points.collect()));
    }
    let all = comparisons(results)?;
    let tests = comparisons_table(&all, MARGIN);
    let of = |a: &str, b: &str| all.iter().find(|c| c.names == [a, b]);
    let beats = |a: &str, b: &str| of(a, b).is_some_and(Comparison::wins);
    let helps: Vec<&str> = HINTS.iter().map(|hint| hint.0).filter(|name| beats(name, BASE)).collect();
    let mapped = HINTS.iter().any(|(name, _, control)| helps.contains(name) && control.is_some_and(|c| beats(name, c)));
    let verdict = match (helps.is_empty(), mapped) {
        (true, _) => Verdict::Negative,
        (false, false) => Verdict::ValidatedWithLimits,
        (false, true) => Verdict::Validated,
    };
    let told = |c: Option<&Comparison>| c.map_or_else(String::new, Comparison::told);
    let best = HINTS.iter().filter_map(|hint| of(hint.0, BASE)).min_by(|a, b| a.test.mean.total_cmp(&b.test.mean));
    let because = format!(
        "At equal processor time {} the answers alone; the best hint, `{}`, is {} from them. The answers are {} from the text alone, and {} where the teacher's time counts.",
        if helps.is_empty() { "no hint beats".to_owned() } else { format!("{} beats", helps.join(", ")) },
        best.map_or("-", |c| c.names[0]),
        told(best),
        told(of(BASE, TEXT_ALONE)),
        told(of(PAYS, TEXT_ALONE)),
    );
    let spreads = HINTS.iter().filter_map(|hint| of(hint.0, BASE)).filter_map(|c| stddev(&c.differences));
    let (low, high) = spreads.fold((f64::INFINITY, 0.0_f64), |(low, high), x| (low.min(x), high.max(x)));
    Ok(Findings::judged(results, verdict, because)
        .table(arms_table)
        .table(tests)
        .picture(Picture {
            title: "Nats more than by the text alone".to_owned(),
            x: ("seed".to_owned(), Axis::Linear),
            y: ("nats".to_owned(), Axis::Linear),
            series,
        })
        .note(format!(
            "Negative is the rule's word: no hint is shown to help. None is shown to be the same either, since the differences from the answers alone have standard deviations of {} to {} nats over seeds and the expected effects are 0.01 to 0.04; nor \
             is it shown that the teacher's answers help, which `rin train` takes by default as the literature does. One rate for all arms, against the laboratory's own rule of three each. Seeds differ in first weights and in the order of the windows; the text, the pool and the teacher are the same for all, so the intervals are about them. Equal steps would be another \
             question: hints make a step dearer, and the column of steps says how much.",
            digits(low),
            digits(high),
        ))
        .note(format!(
            "The best arm has {} nats; counting four characters gives 1.669. So this is about how fast a student learns, not about where it ends.",
            digits(least)
        )))
}

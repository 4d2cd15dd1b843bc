//! Whether the shape of a student's representation says how good the student is.

use std::cell::OnceCell;
use std::rc::Rc;
use std::time::Duration;

use rin_bench::stats::correlation::{
    partial_spearman, spearman, spearman_interval, spearman_lead_interval, spearman_p,
};
use rin_bench::stats::multiple::holm;
use rin_kernels::Format;
use rin_train::config::{DistillConfig, Hints};
use rin_train::train::{Budget, Course, Kept, Pupil, PupilConfig, Seen};
use serde_json::{Value, json};

use super::students::{SEQ, Shared, logits, network, windows};
use crate::random::Random;
use crate::report::{Axis, Picture, Series, Table, digits, interval, percent};
use crate::representation::distance;
use crate::results::Results;
use crate::tda::{Bar, Distances, Ground, betti, persistence, rtd, wasserstein};
use crate::{Case, Context, Error, Experiment, Findings, Scale, Verdict};

/// Numbers that shall say how good a student is; the first ones are of shapes.
const PREDICTORS: [(&str, &str); 9] = [
    ("b0", "Betti number 0, difference"),
    ("b1", "Betti number 1, difference"),
    ("curve", "Betti curve 1, area between"),
    ("w0", "Wasserstein distance, H0"),
    ("w1", "Wasserstein distance, H1"),
    ("rtd", "representation topology divergence"),
    ("cka", "linear CKA"),
    ("kl", "KL of the logits"),
    ("nats", "loss, first half"),
];
const SHAPES: usize = 6;
/// What shapes are held against.
const OTHERS: [&str; 2] = ["cka", "kl"];
const STUDENTS: u32 = 60;
const WIDTHS: [usize; 3] = [32, 64, 96];
const LAYERS: [usize; 3] = [1, 2, 3];
const STEPS: [usize; 4] = [60, 120, 240, 480];
const TAUGHT: [&str; 3] = ["text", "logits", "hidden"];
const BATCH: usize = 8;
const RATE: f64 = 4e-3;
/// Windows of the pool: 262,144 characters.
const WINDOWS: usize = 4096;
/// Windows of the first half of the validation split, which predictors see, and of the second half.
const SEEN: usize = 64;
const HELD_OUT: usize = 256;
/// Characters from whose representations a shape is computed, and how often they are drawn.
const POINTS: usize = 80;
const DRAWS: u32 = 3;
/// The scale of single Betti numbers, and those of the curve, in units of the 0.9 quantile of the distances.
const SCALE: f64 = 0.5;
const SCALES: u32 = 40;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "betti",
    title: "Betti numbers as a validator of distillation",
    claim: "A student whose representation has its teacher's Betti numbers has been distilled well: topology validates a distillation.",
    definition: "Representations are the streams after the last layers on the same 80 characters, drawn three times; distances are divided by their 0.9 quantile. Differences of the Betti numbers \
                 0 and 1 at scale 0.5, area between the curves of Betti number 1 over scales 0 to 1, Wasserstein distances of order 1 of the bars of H0 and H1, and representation topology divergence \
                 (Barannikov et al. 2022), each the mean over draws. `rin_lab::tda`.",
    reference: "The engine of persistence is held against GUDHI and Ripser on its own page; CKA against its form with centred Gram matrices; Spearman's correlation against textbook examples.",
    method: "Sixty students of the model inside the binary on tiny Shakespeare, drawn from widths 32, 64 and 96, one to three layers, 60 to 480 steps of 8 windows of 64 characters, the text alone, its \
             teacher's logits, or hidden layers too, and 32-bit or 4-bit weights. Predictors are measured on 4,096 characters of the first half of the validation split, outcomes (loss; share of \
             characters on which teacher and student disagree) on 16,384 of the second half. Spearman's ρ with intervals by resampling students; partial ρ given parameters and training loss, since a larger student \
             is better whatever is measured, and given CKA and KL; Student's approximation with Holm's adjustment over all of a column. Validated, where a number of shapes is farther from zero in its \
             correlation with the loss than CKA and than KL, with intervals of both leads above zero; with limits, where one adds to CKA and KL (adjusted p below 0.05); else negative.",
    expected: "Betti numbers |ρ| below 0.3 and nothing when capacity is given; divergence and CKA 0.5 to 0.8; KL of the logits above all.",
    reopens: "Students of a classifier of digits by test accuracy, as was asked for; noise as a treatment; explained variance beyond CKA and KL under cross-validation. Students that are equal in loss and differ in what they generalise to; other layers, more points, H2. NTS, a bounded relative of the divergence, was not built. Topology as a loss is another claim and was not run.",
    revision: 1,
    cases,
    judge,
};

fn case_of(student: u32) -> String {
    format!("student {student}")
}

fn cases(scale: Scale) -> Vec<Case> {
    let (n_windows, students, most) = scale.pick((64, 8, 20), (WINDOWS, STUDENTS, usize::MAX));
    let course = Shared::new(n_windows, Kept { depths: LAYERS.to_vec(), attention: false });
    let teacher = Rc::new(OnceCell::new());
    let case = |i| {
        let (course, teacher) = (course.clone(), teacher.clone());
        Case::new(case_of(i), move |context| {
            let course = course.get(context)?;
            let halves = if let Some(halves) = teacher.get() {
                halves
            } else {
                let found = Halves::new(course)?;
                teacher.get_or_init(|| found)
            };
            student(course, halves, i, most, context)
        })
    };
    (0..students).map(case).collect()
}

/// The text on which predictors are measured, and that of the outcomes: windows, the token after each of theirs, and what
/// the teacher makes of them.
struct Halves([(Vec<u32>, Vec<u32>, Seen); 2]);

impl Halves {
    fn new(course: &Course) -> Result<Self, Error> {
        let half = |from, n| {
            let (ids, targets) = windows(course, from, n)?;
            let seen = course.seen(&ids)?;
            Ok::<_, Error>((ids, targets, seen))
        };
        Ok(Self([half(0, SEEN)?, half(course.validation().len() / 2, HELD_OUT)?]))
    }
}

/// Trains the student `i`, with `most` steps at most, and measures it.
fn student(course: &Course, halves: &Halves, i: u32, most: usize, context: &Context<'_>) -> Result<Value, Error> {
    let mut random = Random::new(60, i);
    let none = || Error::input("students", "nothing to draw from");
    let dim = random.one_of(&WIDTHS).ok_or_else(none)?;
    let layers = random.one_of(&LAYERS).ok_or_else(none)?;
    let steps = random.one_of(&STEPS).ok_or_else(none)?.min(most);
    let taught = random.one_of(&TAUGHT).ok_or_else(none)?;
    let format = random.one_of(&[None, Some(Format::Q4_0)]).ok_or_else(none)?;
    let distill = match taught {
        "text" => None,
        "logits" => Some(logits()),
        _ => Some(DistillConfig { hints: Hints::Hidden, ..logits() }),
    };
    // Rows of whole blocks, for 4 bits.
    let model = rin_train::config::ModelConfig { ffn: 3 * dim, ..network(dim, layers) };
    let (budget, seed) = (Budget::Steps(steps), i.into());
    let config = PupilConfig { model, batch: BATCH, lr: RATE, seed, budget, distill, pays_teacher: false };
    let mut pupil = Pupil::new(config, course)?;
    while pupil.work(course, Duration::from_millis(500))? {
        context.check()?;
    }
    let [(ids, targets, of_teacher), (later, after, teacher_later)] = &halves.0;
    let of_student = pupil.seen(course, ids, format)?;
    let near = distance(&of_student, of_teacher, targets)?;
    let shapes = shapes(&of_student, of_teacher, context)?;
    let held_out = distance(&pupil.seen(course, later, format)?, teacher_later, after)?;
    let [b0, b1, curve, w0, w1, rtd] = shapes;
    Ok(json!({
        "dim": dim, "layers": layers, "steps": steps, "taught": taught, "bits": if format.is_some() { 4 } else { 32 },
        "parameters": pupil.parameters(), "training_loss": pupil.loss(),
        "b0": b0, "b1": b1, "curve": curve, "w0": w0, "w1": w1, "rtd": rtd,
        "cka": near.cka, "kl": near.kl, "nats": near.nats,
        "loss": held_out.nats, "disagreement": held_out.disagreement,
    }))
}

/// How far two shapes are apart, as in [`PREDICTORS`].
fn shapes(student: &Seen, teacher: &Seen, context: &Context<'_>) -> Result<[f64; SHAPES], Error> {
    let mut sums = [0.0; SHAPES];
    for draw in 0..DRAWS {
        context.check()?;
        let mut random = Random::new(61, draw);
        let rows: Vec<usize> = random.permutation(SEEN * SEQ).into_iter().take(POINTS).collect();
        let cloud = |seen: &Seen| {
            let row = |i: &usize| seen.hidden.iter().skip(i * seen.dim).take(seen.dim).map(|x| f64::from(*x));
            Distances::euclidean(&rows.iter().flat_map(row).collect::<Vec<f64>>(), seen.dim)?.normalized()
        };
        let (a, b) = (cloud(student)?, cloud(teacher)?);
        let found = shape_differences(&a, &b)?;
        sums.iter_mut().zip(found).for_each(|(sum, x)| *sum += x / f64::from(DRAWS));
    }
    Ok(sums)
}

fn shape_differences(a: &Distances, b: &Distances) -> Result<[f64; SHAPES], Error> {
    let (of_a, of_b) = (persistence(a, 1, None)?, persistence(b, 1, None)?);
    let bars = |all: &[Vec<Bar>], k: usize| all.get(k).cloned().unwrap_or_default();
    let ([a0, a1], [b0, b1]) = ([0, 1].map(|k| bars(&of_a, k)), [0, 1].map(|k| bars(&of_b, k)));
    let apart = |x: &[Bar], y: &[Bar], scale: f64| betti(x, scale).abs_diff(betti(y, scale)) as f64;
    let curve =
        (1..=SCALES).map(|i| apart(&a1, &b1, f64::from(i) / f64::from(SCALES))).sum::<f64>() / f64::from(SCALES);
    Ok([
        apart(&a0, &b0, SCALE),
        apart(&a1, &b1, SCALE),
        curve,
        wasserstein(&a0, &b0, 1.0, Ground::Max)?,
        wasserstein(&a1, &b1, 1.0, Ground::Max)?,
        rtd(a, b)?,
    ])
}

fn column(results: &Results, what: &str) -> Result<Vec<f64>, Error> {
    let students = 0..results.header.scale.pick(8, STUDENTS);
    students.map(|i| results.number(&case_of(i), &format!("/{what}"))).collect()
}

/// What a predictor says of an outcome.
struct Said {
    rho: f64,
    interval: Option<[f64; 2]>,
    /// Given parameters and training loss, and given CKA and KL.
    partial: [Option<f64>; 2],
    /// Whether it adds to CKA and KL: the adjusted probability that it does not.
    adds: Option<f64>,
}

fn said(results: &Results, predictor: &str, outcome: &[f64]) -> Result<Said, Error> {
    let x = column(results, predictor)?;
    let given = |names: [&str; 2]| -> Result<Option<f64>, Error> {
        // Nothing is left of what is given.
        if names.contains(&predictor) {
            return Ok(None);
        }
        let [a, b] = names.map(|name| column(results, name));
        Ok(partial_spearman(&x, outcome, &[&a?, &b?]))
    };
    Ok(Said {
        rho: spearman(&x, outcome).unwrap_or(f64::NAN),
        interval: spearman_interval(&x, outcome),
        partial: [given(["parameters", "training_loss"])?, given(OTHERS)?],
        adds: None,
    })
}

/// Adjusted probabilities of correlations of `n` rows given two columns; none where there is no correlation.
fn adjusted(partial: &[Option<f64>], n: usize) -> Vec<Option<f64>> {
    let p = |rho: &Option<f64>| rho.and_then(|rho| spearman_p(rho, n, 2));
    let all = holm(&partial.iter().filter_map(p).collect::<Vec<_>>());
    let mut all = all.into_iter();
    partial.iter().map(|rho| p(rho).and_then(|_| all.next())).collect()
}

fn table(results: &Results, what: &str, outcome: &[f64]) -> Result<(Table, Vec<Said>), Error> {
    let mut table = Table::new(
        format!("Rank correlation of predictors with {what} of {} students on the held-out half:", outcome.len()),
        &[
            "predictor",
            "ρ",
            "95 % interval",
            "given parameters and training loss",
            "adjusted p",
            "given CKA and KL",
            "adjusted p",
        ],
    );
    let mut all = PREDICTORS.iter().map(|(key, _)| said(results, key, outcome)).collect::<Result<Vec<_>, _>>()?;
    let [capacity, others] =
        [0, 1].map(|i| adjusted(&all.iter().map(|said| said.partial[i]).collect::<Vec<_>>(), outcome.len()));
    let or_none = |x: Option<f64>| x.map_or_else(|| "-".to_owned(), digits);
    for (((_, name), said), (p_capacity, p_others)) in PREDICTORS.iter().zip(&all).zip(capacity.iter().zip(&others)) {
        table.row([
            (*name).to_owned(),
            digits(said.rho),
            said.interval.map_or_else(|| "-".to_owned(), interval),
            or_none(said.partial[0]),
            or_none(*p_capacity),
            or_none(said.partial[1]),
            or_none(*p_others),
        ]);
    }
    all.iter_mut().zip(others).for_each(|(said, p)| said.adds = p);
    Ok((table, all))
}

fn judge(results: &Results) -> Result<Findings, Error> {
    let (loss, disagreement) = (column(results, "loss")?, column(results, "disagreement")?);
    let (of_loss, found) = table(results, "the loss", &loss)?;
    let (of_disagreement, _) = table(results, "disagreement with the teacher", &disagreement)?;
    let mut leads = Table::new(
        "How much farther from zero than that of CKA and of KL the correlation of a number of shapes with the loss is, |ρ| less |ρ|:",
        &["predictor", "less CKA's", "95 % interval", "less KL's", "95 % interval"],
    );
    let rho =
        |key: &str| PREDICTORS.iter().zip(&found).find(|((k, _), _)| *k == key).map_or(f64::NAN, |(_, said)| said.rho);
    let mut leading = Vec::new();
    for ((key, name), said) in PREDICTORS.iter().zip(&found).take(SHAPES) {
        let x = column(results, key)?;
        let mut row = vec![(*name).to_owned()];
        let mut leads_both = true;
        for other in OTHERS {
            let ci = spearman_lead_interval(&x, &column(results, other)?, &loss);
            leads_both &= ci.is_some_and(|ci| ci[0] > 0.0);
            row.push(format!("{:+.3}", said.rho.abs() - rho(other).abs()));
            row.push(ci.map_or_else(|| "-".to_owned(), interval));
        }
        leads.row(row);
        if leads_both {
            leading.push(*name);
        }
    }
    let shapes = || PREDICTORS.iter().zip(&found).take(SHAPES);
    let adds: Vec<&str> =
        shapes().filter(|(_, said)| said.adds.is_some_and(|p| p < 0.05)).map(|((_, name), _)| *name).collect();
    let verdict = match (leading.is_empty(), adds.is_empty()) {
        (false, _) => Verdict::Validated,
        (true, false) => Verdict::ValidatedWithLimits,
        (true, true) => Verdict::Negative,
    };
    let best = shapes().max_by(|a, b| a.1.rho.abs().total_cmp(&b.1.rho.abs()));
    let (best, best_rho) = best.map_or(("-", f64::NAN), |((_, name), said)| (*name, said.rho));
    let list = |names: &[&str]| if names.is_empty() { "none".to_owned() } else { names.join("; ") };
    let because = format!(
        "Of {} students, the loss correlates {} with the KL of the logits and {} with CKA; of the numbers of shapes most with the {best} ({}); with Betti numbers 0 and 1 {} and {}. \
         Ahead of both CKA and KL: {}. Adding to both: {}.",
        loss.len(),
        digits(rho("kl")),
        digits(rho("cka")),
        digits(best_rho),
        digits(rho("b0")),
        digits(rho("b1")),
        list(&leading),
        list(&adds),
    );
    let series = |key: &str| -> Result<Series, Error> {
        let x = column(results, key)?;
        let most = x.iter().copied().fold(0.0, f64::max).max(1e-12);
        let name = PREDICTORS.iter().find(|(k, _)| *k == key).map_or(key, |(_, name)| name);
        Ok(Series::dots(name, x.iter().map(|x| x / most).zip(loss.iter().copied()).collect()))
    };
    let share =
        |holds: &dyn Fn(f64) -> bool| loss.iter().filter(|x| holds(**x)).count() as f64 / loss.len().max(1) as f64;
    Ok(Findings::judged(results, verdict, because)
        .table(of_loss)
        .table(of_disagreement)
        .table(leads)
        .picture(Picture {
            title: "Loss over what shall predict it".to_owned(),
            x: ("share of the largest value".to_owned(), Axis::Linear),
            y: ("nats on the held-out half".to_owned(), Axis::Linear),
            series: vec![series("kl")?, series("rtd")?, series("b1")?],
        })
        .note(
            "The loss on the first half is the plain way to know the loss on the second, and stands in the tables for that. KL of the logits needs the teacher's answers but no text beyond the inputs; \
             CKA and shapes need its inside.",
        )
        .note(format!(
            "Expected otherwise: Betti numbers were to correlate below 0.3. Most of the students have learned little ({} have more than the 2.4857 nats of pairs of characters, {} less than the 1.66 of four), so the loss here mostly says how long they were trained, \
             and KL of the logits at {} is nearly the same number. The divergence is the mean of three draws of 80 points, where ten of up to 500 were asked for. Students differ in width and training far more than students that one would choose between; correlations among those are lower. Good networks have been found to destroy topology layer by layer (Naitzat, Zhitnikov, Lim, \
             JMLR 2020), so kept Betti numbers are no virtue in themselves.",
            percent(share(&|x| x > 2.4857)),
            percent(share(&|x| x < 1.66)),
            digits(rho("kl")),
        )
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circle(n: u32, wobble: f64) -> Distances {
        let at = |i: u32| f64::from(i) * std::f64::consts::TAU / f64::from(n);
        let points: Vec<f64> = (0..n).flat_map(|i| [libm::cos(at(i)), libm::sin(at(i)) * wobble]).collect();
        Distances::euclidean(&points, 2).unwrap().normalized().unwrap()
    }

    #[test]
    fn a_shape_is_itself_and_a_circle_is_no_line() {
        let same = shape_differences(&circle(24, 1.0), &circle(24, 1.0)).unwrap();
        assert!(same.iter().all(|x| *x < 1e-12), "{same:?}");
        let [_, b1, curve, _, w1, rtd] = shape_differences(&circle(24, 1.0), &circle(24, 0.0)).unwrap();
        assert!((b1 - 1.0).abs() < 1e-12 && curve > 0.3 && w1 > 0.2 && rtd > 0.05, "{b1} {curve} {w1} {rtd}");
    }

    #[test]
    fn probabilities_stand_where_their_correlations_do() {
        let found = adjusted(&[Some(0.9), None, Some(0.0)], 30);
        assert!(found[0].unwrap() < 1e-6 && found[1].is_none() && (found[2].unwrap() - 1.0).abs() < 1e-9);
    }
}

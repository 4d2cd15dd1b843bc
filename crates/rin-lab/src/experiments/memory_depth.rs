//! Whether deep stacks of memories can be trained, and what that depends on: the norm of what is read, masks of the gradients
//! of signs, warmup and clipping.

use rin_bench::stats::median;
use rin_bench::stats::multiple::holm;
use rin_bench::stats::proportion::fisher_exact;
use rin_train::arms::arm;
use rin_train::config::MemoryConfig;
use rin_train::mqar::{Task, Trial};
use rin_train::ops::Straight;
use serde_json::json;

use crate::report::{Table, digits};
use crate::results::Results;
use crate::{Case, Error, Scale};

const ARMS: [&str; 4] = ["gated-delta", "a3", "a6", "a10"];
const DEPTHS: [usize; 3] = [4, 8, 12];
/// The arms of the factorial test, at [`DEPTHS`]'s first.
const FACTORIAL_ARMS: [&str; 2] = ["a0", "a3"];
const FACTORIAL_SEEDS: u64 = 6;
const FACTORIAL_STEPS: usize = 500;
/// What is there or not in it.
const FACTORS: [&str; 3] = ["norm", "masks", "warmup and clipping"];
/// Nats of guessing one of 32 values.
const CHANCE: f64 = 3.466;
const RATE: f64 = 3e-3;

/// What is trained.
#[derive(Clone, Copy)]
struct Stack {
    name: &'static str,
    layers: usize,
    /// Which of [`FACTORS`] there are.
    has: [bool; 3],
    steps: usize,
    seed: u64,
}

impl Stack {
    fn case(self, title: String) -> Case {
        Case::new(title, move |_| {
            let Self { name, layers, has: [output_norm, masks, gentle], steps, seed } = self;
            let memory = arm(name, 8).map(|m| MemoryConfig { output_norm, output_gate: false, ..m });
            let task = Task { vocab: 64, seq: 32, pairs: 8 };
            let straight = if masks { Straight::Masked } else { Straight::Clamped };
            let (dim, heads, batch, lr, window) = (32, 2, 16, RATE, None);
            let trial = Trial { task, dim, layers, heads, memory, window, steps, batch, lr, gentle, straight, seed };
            Ok(json!({ "result": trial.run(128)? }))
        })
    }
}

fn depth_case(name: &str, layers: usize, norm: bool) -> String {
    format!("depth, {name}, {layers}, {norm}")
}

fn factorial_case(name: &str, has: [bool; 3], seed: u64) -> String {
    let [norm, masks, gentle] = has;
    format!("stack, {name}, norm {norm}, masks {masks}, gentle {gentle}, seed {seed}")
}

/// Whether a training ended without numbers or more than 0.1 nats above chance.
fn is_lost(results: &Results, case: &str) -> Result<bool, Error> {
    let diverged = results.at(case, "/result/diverged")?.as_u64().is_some();
    Ok(diverged || results.number(case, "/result/loss")? > CHANCE + 0.1)
}

fn plain() -> impl Iterator<Item = (&'static str, usize)> {
    ARMS.into_iter().flat_map(|name| DEPTHS.map(|layers| (name, layers)))
}

fn combinations() -> impl Iterator<Item = [bool; 3]> {
    (0..8).map(|bits| [bits & 1 != 0, bits & 2 != 0, bits & 4 != 0])
}

pub(super) fn cases(scale: Scale) -> Vec<Case> {
    let (steps, factorial_steps) = scale.pick((3, 2), (150, FACTORIAL_STEPS));
    let mut cases = Vec::new();
    for (name, layers) in plain() {
        for norm in [false, true] {
            let stack = Stack { name, layers, has: [norm, true, true], steps, seed: 0 };
            cases.push(stack.case(depth_case(name, layers, norm)));
        }
    }
    for name in FACTORIAL_ARMS {
        for has in combinations() {
            for seed in 0..seeds(scale) {
                let stack = Stack { name, layers: DEPTHS[0], has, steps: factorial_steps, seed };
                cases.push(stack.case(factorial_case(name, has, seed)));
            }
        }
    }
    cases
}

fn seeds(scale: Scale) -> u64 {
    scale.pick(1, FACTORIAL_SEEDS)
}

/// Deep stacks: the tables, and the arms that ended a gentle training with the norm above chance or without numbers.
pub(super) fn judge(results: &Results) -> Result<([Table; 3], Vec<&'static str>), Error> {
    let mut table = Table::new(
        "Deep stacks at a learning rate of 3e-3 without a warmup of more than 15 steps, gradients clipped at 1: largest norm of a gradient before clipping; the last loss \
         (chance: 3.47 nats):",
        &["arm", "layers", "without norm", "loss", "with norm", "loss"],
    );
    let mut diverged = Vec::new();
    for (name, layers) in plain() {
        let mut cells = vec![name.to_owned(), layers.to_string()];
        for norm in [false, true] {
            let case = depth_case(name, layers, norm);
            let step = results.at(&case, "/result/diverged")?.as_u64();
            if let Some(step) = step {
                cells.extend([format!("no number at step {step}"), "-".to_owned()]);
            } else {
                cells.push(digits(results.number(&case, "/result/gradient")?));
                cells.push(digits(results.number(&case, "/result/loss")?));
            }
            if norm && is_lost(results, &case)? && !diverged.contains(&name) {
                diverged.push(name);
            }
        }
        table.row(cells);
    }
    let [lost, tests] = factorial(results)?;
    Ok(([table, lost, tests], diverged))
}

/// How many of the trainings are lost, and what that depends on.
fn factorial(results: &Results) -> Result<[Table; 2], Error> {
    let n = seeds(results.header.scale);
    let mut table = Table::new(
        format!(
            "Four layers, {FACTORIAL_STEPS} steps at 3e-3, {n} seeds each: trainings that ended more than 0.1 nats above chance or without numbers, the median of the \
             last losses, and the largest norm of a gradient. Without masks the gradients of signs are shortened to 1, as the seed's were:",
        ),
        &["arm", FACTORS[0], FACTORS[1], FACTORS[2], "lost", "loss", "largest gradient"],
    );
    let mut tests = Table::new(
        "Fisher's exact tests of each of them over the others (Holm's adjustment):",
        &["arm", "of", "lost with it", "lost without it", "adjusted p"],
    );
    let mut found = Vec::new();
    for name in FACTORIAL_ARMS {
        let mut lost = [[0_u64; 2]; FACTORS.len()];
        for has in combinations() {
            let cases: Vec<String> = (0..n).map(|seed| factorial_case(name, has, seed)).collect();
            let here = cases.iter().map(|case| is_lost(results, case).map(u64::from)).sum::<Result<u64, _>>()?;
            for (lost, has) in lost.iter_mut().zip(has) {
                lost[usize::from(!has)] += here;
            }
            // A training without numbers has no last loss and no norm.
            let numbers = |pointer: &str| -> Result<Vec<f64>, Error> {
                cases.iter().map(|case| Ok(results.at(case, pointer)?.as_f64().unwrap_or(f64::INFINITY))).collect()
            };
            let gradient = numbers("/result/gradient")?.into_iter().fold(0.0, f64::max);
            let mut cells = vec![name.to_owned()];
            cells.extend(has.map(|has| if has { "yes" } else { "no" }.to_owned()));
            cells.extend([
                format!("{here} of {n}"),
                digits(median(&numbers("/result/loss")?).unwrap_or(f64::NAN)),
                digits(gradient),
            ]);
            table.row(cells);
        }
        let of = 4 * n;
        let tested =
            lost.map(|[with, without]| (with, without, of, fisher_exact([with, of - with], [without, of - without])));
        found.extend(FACTORS.into_iter().zip(tested).map(|(factor, test)| (name, factor, test)));
    }
    let adjusted = holm(&found.iter().map(|(_, _, test)| test.3).collect::<Vec<_>>());
    for ((name, factor, (with, without, of, _)), p) in found.into_iter().zip(adjusted) {
        let share = |lost: u64| format!("{lost} of {of}");
        tests.row([name.to_owned(), factor.to_owned(), share(with), share(without), digits(p)]);
    }
    Ok([table, tests])
}

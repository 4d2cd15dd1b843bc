//! Memories of a fixed size, BHRR's arms among them, against attention.

use rin_bench::stats::mean;
use rin_bench::stats::multiple::holm;
use rin_bench::stats::student::{Paired, paired};
use rin_train::arms::arm;
use rin_train::config::MemoryConfig;
use rin_train::mqar::{Task, Trial};
use rin_train::trials::{TextTrial, latency};
use serde_json::{Value, json};

use crate::report::{Axis, Picture, Series, Table, digits, interval, percent};
use crate::results::Results;
use crate::{Case, Context, Error, Experiment, Findings, Scale, Verdict};

/// What others are compared with.
const BASE: &str = "gated-delta";
/// The arms of BHRR that recall is measured of.
const BHRR: [&str; 5] = ["a0", "a3", "a6", "a9", "a10"];
const OTHERS: [&str; 4] = ["gated-delta", "gla", "delta", "linear"];
/// Rows of a head's memory, of 16 numbers each.
const ROWS: [usize; 3] = [2, 4, 8];
const RATES: [&str; 2] = ["2e-3", "5e-3"];
/// Arms that all seeds are run of; the others have one.
const FINALISTS: [&str; 5] = ["gated-delta", "gla", "a6", "a10", "gsa"];
const SEEDS: u64 = 3;
const TASK: Task = Task { vocab: 32, seq: 16, pairs: 4 };
const TEXT: &str = "text/tinyshakespeare.txt";
const TEXT_ARMS: [&str; 5] = ["softmax", "gated-delta", "gla", "a6", "a10"];
const LATENCY_ARMS: [&str; 3] = ["gated-delta", "a6", "a10"];
const STABLE_ARMS: [&str; 4] = ["gated-delta", "a3", "a6", "a10"];
const DEPTHS: [usize; 3] = [4, 8, 12];
/// Share of the answers that recall may be below another arm's and still count as equal.
const MARGIN: f64 = 0.02;
/// Nats of guessing one of 32 values.
const CHANCE: f64 = 3.466;
/// Nats that counting four characters gives on the validation split, by Witten and Bell's interpolation.
const BY_COUNTING: f64 = 1.669;
/// Nats that a language model may be above softmax's.
const NATS: f64 = 0.03;
const SAME: f64 = 0.99;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "memory",
    title: "Memories of a fixed size (BHRR)",
    claim: "Slots into which keys and values are hashed replace the cache of attention: constant memory, \"O(1)\" per token, at no loss. The seed's \
            numbers (2.45 nats) are those of counting pairs of characters.",
    definition: "BHRR's arms: `a0` as the seed's program has it, with a short convolution (hash of the key's signs, signs as values); `a3` with a norm and a gate, \
                 a learned router that queries address too; `a6` with three slots per token, real values, decays and writes that replace; `a9` with a matrix \
                 of keys by values in each of two slots, and decays; `a10` with delta writes besides, which with one slot would be Gated DeltaNet with decays \
                 of another form. Beside them linear attention, GLA, DeltaNet, Gated DeltaNet, Gated Slot Attention, softmax attention, and softmax that \
                 reaches back as many tokens as have the bytes of the largest memory. All stand in the same layer (docs/memory.md); softmax has no convolution and two layers.",
    reference: "flash-linear-attention's reference recurrences (logits within 1e-5 of their range) and PyTorch's gradients over them for all but the arms \
                with matrices, whose gradients are held against differences of the loss, and whose delta writes against their definition in double precision and, with one slot, DeltaNet's bits.",
    method: "Multi-query associative recall (Arora et al. 2023): 4 pairs of 15 keys and 16 values in 16 tokens, one layer of width 32, two heads of values of 16 numbers, \
             1,000 steps of 64 sequences, the better of two learning rates of each seed, 4,096 answers per trial; the share of right answers at equal bytes. Three seeds of the arms that led \
             after trials of half the length, one of the others. The best BHRR arm counts as equal to another where the mean of the paired differences over sizes and seeds is above -0.02; the margin and the sizes \
             were fixed after those trials. Language model: tiny Shakespeare, two layers of width 64, 256 characters, 600 steps of 8, one seed. \
             Depth: 4, 8 and 12 layers, 150 steps at 3e-3, one seed. One million tokens, one by one. The component is validated where such an arm recalls as much as \
             Gated DeltaNet and Gated Slot Attention, is within 0.03 nats of a softmax that is below what counting four characters gives, ends no training of a deep stack with norm more than 0.1 nats above chance, answers the same in 8 bits on 99 % \
             of the queries, and the slope of time over position has 0 in its interval; with limits, where it recalls as much and one of the others fails.",
    expected: "Gated DeltaNet above `a6` above `a3` far above `a0`, which is near chance (1 of 16); softmax 1. Text does not tell them apart.",
    reopens: "Vocabularies of thousands, sequences of 64 to 256 tokens with up to 64 pairs, widths up to 128, more learning rates and seeds, longer training: the trials here \
             were cut to fit an hour on one core. Mamba-2 and RWKV-7 were not trained.",
    revision: 1,
    cases,
    judge,
};

/// An arm whose heads have `rows` rows of 16 numbers.
fn of_rows(name: &str, rows: usize) -> Option<MemoryConfig> {
    let memory = match name {
        "gsa" => MemoryConfig { k_dim: Some(2), v_dim: Some(16), ..arm(name, 16)? },
        "a9" | "a10" => MemoryConfig { k_dim: Some(rows / 2), ..arm(name, 2)? },
        bhrr if bhrr.starts_with('a') => arm(name, rows)?,
        _ => MemoryConfig { k_dim: Some(rows), ..arm(name, rows)? },
    };
    Some(memory)
}

/// Arms and sizes: rows, and for those that have none such the size that is nearest to the largest.
fn recalled() -> impl Iterator<Item = (&'static str, usize)> {
    let sized = ROWS.into_iter().flat_map(|rows| OTHERS.into_iter().chain(BHRR).map(move |name| (name, rows)));
    sized.chain([("gsa", 9), ("softmax", 32), ("window", 4)])
}

/// How many seeds an arm is trained with.
fn seeds(name: &str, scale: Scale) -> u64 {
    if FINALISTS.contains(&name) { scale.pick(1, SEEDS) } else { 1 }
}

fn recall_case(name: &str, rows: usize, rate: &str, seed: u64) -> String {
    format!("recall, {name}, {rows}, {rate}, seed {seed}")
}

fn cases(scale: Scale) -> Vec<Case> {
    let mut cases = Vec::new();
    let (steps, test) = scale.pick((30, 64), (1000, 1024));
    for seed in 0..scale.pick(1, SEEDS) {
        for (name, rows) in recalled().filter(|(name, _)| seed < seeds(name, scale)) {
            for rate in RATES {
                cases.push(Case::new(recall_case(name, rows, rate, seed), move |_| {
                    let lr = rate.parse().map_err(|_| Error::input("rate", rate))?;
                    let attends = matches!(name, "softmax" | "window");
                    let trial = Trial {
                        task: TASK,
                        dim: 32,
                        layers: if attends { 2 } else { 1 },
                        heads: if name == "gsa" { 1 } else { 2 },
                        memory: of_rows(name, rows),
                        window: (name == "window").then_some(2),
                        steps,
                        batch: 64,
                        lr,
                        seed,
                    };
                    Ok(json!({ "result": trial.run(test)? }))
                }));
            }
        }
    }
    for name in TEXT_ARMS {
        let (steps, most, tokens) = scale.pick((5, 2000, 5000), (600, 100_000, 1_000_000));
        cases.push(Case::new(format!("text, {name}"), move |context| text(name, steps, most, tokens, context)));
    }
    for (name, depth) in STABLE_ARMS.into_iter().flat_map(|name| DEPTHS.map(|depth| (name, depth))) {
        for norm in [false, true] {
            let steps = scale.pick(3, 150);
            cases.push(Case::new(format!("depth, {name}, {depth}, {norm}"), move |_| {
                let memory = arm(name, 8).map(|m| MemoryConfig { output_norm: norm, output_gate: false, ..m });
                let task = Task { vocab: 64, seq: 32, pairs: 8 };
                let (dim, heads, batch, lr, seed, window) = (32, 2, 16, 3e-3, 0, None);
                let trial = Trial { task, dim, layers: depth, heads, memory, window, steps, batch, lr, seed };
                Ok(json!({ "result": trial.run(128)? }))
            }));
        }
    }
    cases
}

/// A language model, its loss by position, and the time of its tokens.
fn text(name: &str, steps: usize, most: usize, tokens: usize, context: &Context<'_>) -> Result<Value, Error> {
    let memory = match name {
        "a6" => arm(name, 32),
        "a10" => arm(name, 2).map(|m| MemoryConfig { k_dim: Some(16), ..m }),
        _ => arm(name, 16),
    };
    let (dim, layers, heads, window, seq, batch, lr, seed) = (64, 2, 2, None, 256, 8, 4e-3, 0);
    let trial = TextTrial { dim, layers, heads, memory, window, seq, steps, batch, lr, seed };
    let folder = std::env::temp_dir().join(format!("rin-lab-memory-{}-{name}", std::process::id()));
    let found = trial.run(&context.data(TEXT)?, &folder, name, most)?;
    let time = if LATENCY_ARMS.contains(&name) { Some(latency(&found.summary.model, tokens)?) } else { None };
    std::fs::remove_dir_all(&folder).map_err(Error::io(&folder))?;
    Ok(json!({ "result": found, "latency": time }))
}

/// What a seed's trials of an arm found: share of right answers and of answers that 8 bits keep, at the better rate; bytes.
fn best(results: &Results, name: &str, rows: usize, seed: u64) -> Result<(f64, f64, f64), Error> {
    let mut best = (f64::NEG_INFINITY, f64::NAN, f64::NAN);
    for rate in RATES {
        let case = recall_case(name, rows, rate, seed);
        let accuracy = results.number(&case, "/result/accuracy")?;
        if accuracy > best.0 {
            let same = results.at(&case, "/result/same_in_q8_0")?.as_f64().unwrap_or(f64::NAN);
            best = (accuracy, same, results.number(&case, "/result/state_bytes")?);
        }
    }
    Ok(best)
}

/// An arm, and its share of right answers by size and seed.
type Shares = (&'static str, Vec<((usize, u64), f64)>);
/// An arm, and what a language model of it loses, in nats.
type Loss = (&'static str, f64);

/// An arm, its mean difference to [`BASE`], and the interval of that.
type Lead = (&'static str, f64, [f64; 2]);

/// What recall found.
struct Recalled {
    tables: [Table; 2],
    picture: Picture,
    /// The BHRR arm with the largest mean, its difference to Gated DeltaNet, to Gated Slot Attention, and the least share
    /// of answers that 8 bits keep at the largest size.
    best: &'static str,
    to_base: f64,
    interval_to_base: [f64; 2],
    /// Of all arms that have several sizes, the one that does best, and its difference.
    winner: Lead,
    to_gsa: f64,
    same: f64,
    note: String,
}

/// Arms of BHRR and others against [`BASE`]; the one of BHRR's and the one of all that do best.
fn compare(by_arm: &[Shares]) -> Result<(Table, Lead, Lead), Error> {
    let base = by_arm.iter().find(|(name, _)| *name == BASE).map(|(_, all)| &all[..]).unwrap_or_default();
    let mut compared = Vec::new();
    for (name, all) in by_arm.iter().filter(|(name, _)| OTHERS.contains(name) || BHRR.contains(name)) {
        if *name == BASE {
            continue;
        }
        let to = |at: &(usize, u64)| base.iter().find(|(other, _)| other == at).map_or(f64::NAN, |(_, right)| *right);
        let differences: Vec<f64> = all.iter().map(|(at, right)| right - to(at)).collect();
        compared.push((*name, mean(&differences).unwrap_or(f64::NAN), paired(&differences)));
    }
    let adjusted = holm(&compared.iter().filter_map(|(_, _, test)| test.as_ref().map(|t| t.p)).collect::<Vec<_>>());
    let mut tests = Table::new(
        format!("Difference to {BASE} at equal bytes, paired by size and seed (t tests, Holm's adjustment):"),
        &["arm", "pairs", "mean", "95 % interval", "adjusted p"],
    );
    let mut adjusted = adjusted.into_iter();
    for (name, difference, test) in &compared {
        let ci = test.as_ref().map_or_else(|| "-".to_owned(), |test| interval(test.ci95));
        let p = test.as_ref().and_then(|_| adjusted.next()).map_or_else(|| "-".to_owned(), digits);
        let n = test.as_ref().map_or(1, |test| test.n).to_string();
        tests.row([(*name).to_owned(), n, digits(*difference), ci, p]);
    }
    let lead = |(name, difference, test): &(&'static str, f64, Option<Paired>)| -> Lead {
        (name, *difference, test.as_ref().map_or([f64::NAN; 2], |test| test.ci95))
    };
    let ours = compared.iter().filter(|(name, ..)| BHRR.contains(name));
    let best =
        ours.map(lead).max_by(|a, b| a.1.total_cmp(&b.1)).ok_or_else(|| Error::input("results", "no arm of BHRR"))?;
    let none: Lead = (BASE, 0.0, [0.0; 2]);
    let winner = compared.iter().map(lead).chain([none]).max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or(none);
    Ok((tests, best, winner))
}

fn recall(results: &Results) -> Result<Recalled, Error> {
    let mut table = Table::new(
        "Associative recall: share of right answers, the better learning rate of each seed. The limit is half a bit per number of the state \
         (Frady, Kleyko and Sommer 2018); a sequence's four values are 16 bits and its keys 15 more.",
        &["arm", "bytes, f32", "limit, bits", "seeds", "mean", "least and most", "same in 8 bits"],
    );
    let mut lines: Vec<(&str, Vec<(f64, f64)>)> = Vec::new();
    let mut by_arm: Vec<Shares> = Vec::new();
    let mut kept = Vec::new();
    for (name, rows) in recalled() {
        let seeds = seeds(name, results.header.scale);
        let found = (0..seeds).map(|seed| best(results, name, rows, seed)).collect::<Result<Vec<_>, _>>()?;
        let right: Vec<f64> = found.iter().map(|trial| trial.0).collect();
        let same = found.iter().map(|trial| trial.1).fold(f64::INFINITY, f64::min);
        let bytes = found.first().map_or(f64::NAN, |trial| trial.2);
        let middle = mean(&right).unwrap_or(f64::NAN);
        let least = right.iter().copied().fold(f64::INFINITY, f64::min);
        let most = right.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        table.row([
            name.to_owned(),
            digits(bytes),
            digits(bytes / 8.0),
            seeds.to_string(),
            digits(middle),
            interval([least, most]),
            if same.is_finite() { percent(same) } else { "-".to_owned() },
        ]);
        match lines.iter_mut().find(|(other, _)| *other == name) {
            Some((_, points)) => points.push((bytes, middle)),
            None => lines.push((name, vec![(bytes, middle)])),
        }
        let keyed = (0..).zip(right).map(|(seed, right)| ((rows, seed), right));
        match by_arm.iter_mut().find(|(other, _)| *other == name) {
            Some((_, all)) => all.extend(keyed),
            None => by_arm.push((name, keyed.collect())),
        }
        if Some(&rows) == ROWS.last() {
            kept.push((name, same));
        }
    }
    let (tests, (best, to_base, interval_to_base), winner) = compare(&by_arm)?;
    let largest = |name: &str| lines.iter().find(|line| line.0 == name).and_then(|line| line.1.last()).copied();
    let (ours, gsa) = (largest(best).unwrap_or_default(), largest("gsa").unwrap_or_default());
    let same = kept.iter().find(|(name, _)| *name == best).map_or(f64::NAN, |(_, same)| *same);
    let note = format!(
        "Gated Slot Attention has slots and values in multiples of 16 here, so that its smallest memory has {} bytes, and keys of two numbers then: its row says \
         little of it. It is compared with {} bytes of `{best}`. With 2 rows `a9` and `a10` have keys of one number, which \
         says no more than a sign.",
        digits(gsa.0),
        digits(ours.0),
    );
    let series = lines.into_iter().filter(|(_, points)| points.len() > 1);
    let mut series: Vec<Series> = series.map(|(name, points)| Series::line(name, points)).collect();
    series.push(Series::dots("gsa", vec![gsa]));
    let picture = Picture {
        title: "Recall against the bytes of the memory".to_owned(),
        x: ("bytes of a sequence's memory, f32".to_owned(), Axis::Linear),
        y: ("share of right answers".to_owned(), Axis::Linear),
        series,
    };
    Ok(Recalled {
        tables: [table, tests],
        picture,
        best,
        to_base,
        interval_to_base,
        winner,
        to_gsa: ours.1 - gsa.1,
        same,
        note,
    })
}

/// The language models: the table, each arm's loss, and the arms whose time does not depend on the position and whose arena stays.
fn texts(results: &Results) -> Result<(Table, Vec<Loss>, Vec<&'static str>), Error> {
    let mut table = Table::new(
        "Language model of tiny Shakespeare (nats per character on the whole validation split; positions in one text of 100,000 characters), and a million \
         tokens one by one (slope of log time over log position):",
        &["arm", "parameters", "nats", "95 % interval", "257 to 512", "from 65,537 on", "slope", "95 % interval of it"],
    );
    let (mut losses, mut flat) = (Vec::new(), Vec::new());
    for name in TEXT_ARMS {
        let case = format!("text, {name}");
        let nats = results.number(&case, "/result/nats_per_char")?;
        let ci = results.numbers(&case, "/result/interval")?;
        let buckets = results.at(&case, "/result/by_position")?.as_array().cloned().unwrap_or_default();
        let at = |end: u64| buckets.iter().find(|b| b[0].as_u64() == Some(end)).and_then(|b| b[1].as_f64());
        let mut cells = vec![
            name.to_owned(),
            digits(results.number(&case, "/result/summary/parameters")?),
            digits(nats),
            interval([ci.first().copied().unwrap_or(f64::NAN), ci.last().copied().unwrap_or(f64::NAN)]),
        ];
        let or_dash = |x: Option<f64>| x.map_or_else(|| "-".to_owned(), digits);
        cells.extend([or_dash(at(512)), or_dash(at(131_072))]);
        if LATENCY_ARMS.contains(&name) {
            let ci = results.numbers(&case, "/latency/interval")?;
            let [low, high] = [ci.first(), ci.last()].map(|x| x.copied().unwrap_or(f64::NAN));
            let arena = results.numbers(&case, "/latency/arena_bytes")?;
            if low <= 0.0 && high >= 0.0 && arena.first() == arena.last() {
                flat.push(name);
            }
            cells.extend([digits(results.number(&case, "/latency/slope")?), interval([low, high])]);
        } else {
            cells.extend(["-".to_owned(), "-".to_owned()]);
        }
        table.row(cells);
        losses.push((name, nats));
    }
    Ok((table, losses, flat))
}

/// Deep stacks: the table, and the arms that ended a training with the norm above chance or without numbers.
fn depths(results: &Results) -> Result<(Table, Vec<&'static str>), Error> {
    let mut table = Table::new(
        "Deep stacks at a learning rate of 3e-3 without a warmup of more than 15 steps, gradients clipped at 1: largest norm of a gradient before clipping; the last loss \
         (chance: 3.47 nats):",
        &["arm", "layers", "without norm", "loss", "with norm", "loss"],
    );
    let mut diverged = Vec::new();
    for (name, depth) in STABLE_ARMS.into_iter().flat_map(|name| DEPTHS.map(|depth| (name, depth))) {
        let mut cells = vec![name.to_owned(), depth.to_string()];
        for norm in [false, true] {
            let case = format!("depth, {name}, {depth}, {norm}");
            let step = results.at(&case, "/result/diverged")?.as_u64();
            if let Some(step) = step {
                cells.extend([format!("no number at step {step}"), "-".to_owned()]);
            } else {
                cells.push(digits(results.number(&case, "/result/gradient")?));
                cells.push(digits(results.number(&case, "/result/loss")?));
            }
            let lost = step.is_some() || results.number(&case, "/result/loss")? > CHANCE + 0.1;
            if norm && lost && !diverged.contains(&name) {
                diverged.push(name);
            }
        }
        table.row(cells);
    }
    Ok((table, diverged))
}

fn judge(results: &Results) -> Result<Findings, Error> {
    let recalled = recall(results)?;
    let (texts, losses, flat) = texts(results)?;
    let (depths, diverged) = depths(results)?;
    let stable = !diverged.contains(&recalled.best);
    let nats = |name: &str| losses.iter().find(|(other, _)| *other == name).map(|(_, nats)| *nats);
    let flat = flat.contains(&recalled.best);
    let softmax = nats("softmax").unwrap_or(f64::NAN);
    let worse = nats(recalled.best).map_or(f64::NAN, |ours| ours - softmax);
    let equal = recalled.to_base > -MARGIN && recalled.to_gsa > -MARGIN;
    let others = [worse <= NATS && softmax < BY_COUNTING, stable, recalled.same >= SAME, flat];
    let verdict = match (equal, others.iter().all(|good| *good)) {
        (true, true) => Verdict::Validated,
        (true, false) => Verdict::ValidatedWithLimits,
        (false, _) => Verdict::Negative,
    };
    let because = format!(
        "The best arm of BHRR is `{}`: its share of right answers differs by {} (95 % interval {}) from Gated DeltaNet's at equal bytes (best of all: `{}`, by {}) and by {} from Gated Slot Attention's; {} nats to \
         softmax, {}; its deep stacks {}; 8 bits keep {} of the answers; time per token over a million tokens is {}.",
        recalled.best,
        digits(recalled.to_base),
        interval(recalled.interval_to_base),
        recalled.winner.0,
        digits(recalled.winner.1),
        digits(recalled.to_gsa),
        digits(worse),
        if softmax < BY_COUNTING {
            "which has learned the text"
        } else {
            "which is above counting and so not trained to its end"
        },
        if stable { "are stable" } else { "are not stable" },
        percent(recalled.same),
        if flat { "flat" } else { "not shown to be flat" },
    );
    let [recall, tests] = recalled.tables;
    let limit = "A memory of `n` numbers holds of the order of `n / 2` bits, however long the text: \"O(1)\" is a statement about bytes and time, and about what can be \
                 recalled as well.";
    let stacks = format!(
        "Deep stacks that ended more than 0.1 nats above chance with a norm: {}. In 150 steps none learns the task; what is seen is whether it is lost.",
        if diverged.is_empty() { "none".to_owned() } else { diverged.join(", ") },
    );
    Ok(Findings::judged(results, verdict, because)
        .table(recall)
        .table(tests)
        .table(texts)
        .table(depths)
        .picture(recalled.picture)
        .note(recalled.note)
        .note(stacks)
        .note(
            "The language models have one width, and so not one number of parameters. Six hundred steps leave all of them above what counting four characters \
             gives (1.669), so none is shown to use more context than that.",
        )
        .note(limit))
}

//! Memories of a fixed size, BHRR's arms among them, against attention.

use rin_bench::stats::mean;
use rin_bench::stats::multiple::holm;
use rin_bench::stats::student::{Paired, paired};
use rin_train::arms::arm;
use rin_train::config::MemoryConfig;
use rin_train::mqar::{Task, Trial};
use rin_train::ops::Straight;
use serde_json::json;

use crate::report::{Axis, Picture, Series, Table, digits, interval, percent};
use crate::results::Results;
use crate::{Case, Error, Experiment, Findings, Scale, Verdict};

use super::memory_language::{self, BY_COUNTING, SOFTMAX, USES_CONTEXT};
use super::{memory_depth, memory_text};

/// What others are compared with.
const BASE: &str = "gated-delta";
/// The arms of BHRR that recall is measured of.
const BHRR: [&str; 5] = ["a0", "a3", "a6", "a9", "a10"];
const OTHERS: [&str; 6] = ["gated-delta", "gla", "delta", "linear", "mamba2", "rwkv7"];
/// Rows of a head's memory, of 16 numbers each.
const ROWS: [usize; 3] = [2, 4, 8];
const RATES: [&str; 2] = ["2e-3", "5e-3"];
/// Arms that all seeds are run of; the others have one.
const FINALISTS: [&str; 5] = ["gated-delta", "gla", "a6", "a10", "gsa"];
const SEEDS: u64 = 3;
const TASK: Task = Task { vocab: 32, seq: 16, pairs: 4 };
/// Longer sequences with more pairs, and what is trained on them.
const LONG: Task = Task { vocab: 128, seq: 64, pairs: 16 };
const LONG_ARMS: [&str; 8] = ["gated-delta", "gla", "linear", "mamba2", "rwkv7", "a3", "a6", "a10"];
const LONG_ROWS: [usize; 2] = [8, 16];
/// Steps of 32 sequences.
const LONG_STEPS: usize = 1500;
/// Share of the answers that recall may be below another arm's and still count as equal.
const MARGIN: f64 = 0.02;
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
                 of another form. Beside them linear attention, GLA, DeltaNet, Gated DeltaNet, Mamba-2, RWKV-7, Gated Slot Attention, softmax attention, and softmax that \
                 reaches back as many tokens as have the bytes of the largest memory. All stand in the same layer (docs/memory.md); softmax has no convolution and two layers.",
    reference: "flash-linear-attention's reference recurrences (logits within 1e-5 of their range) and PyTorch's gradients over them for all but the arms \
                with matrices, whose gradients are held against differences of the loss, and whose delta writes against their definition in double precision and, with one slot, DeltaNet's bits.",
    method: "Multi-query associative recall (Arora et al. 2023): 4 pairs of 15 keys and 16 values in 16 tokens, one layer of width 32, two heads of values of 16 numbers, \
             1,000 steps of 64 sequences, the better of two learning rates of each seed, 4,096 answers per trial; the share of right answers at equal bytes. Three seeds of the arms that led \
             after trials of half the length, one of the others. The best BHRR arm counts as equal to another where the mean of the paired differences over sizes and seeds is above -0.02; the margin and the sizes \
             were fixed after those trials. Longer: 16 pairs of 63 keys and 64 values in 64 tokens. Language model: tiny Shakespeare, five layers of width 96, parameters within 2 %, memories of 12 KiB a layer (`a6`: 10.5), 256 characters, 2,000 steps of 8, one seed, the best of three rates in \
             trainings of 200 steps. Length: two layers of width 64, 600 steps. \
             Depth: 4, 8 and 12 layers, 150 steps at 3e-3, one seed; what stability depends on: norm, masks of the gradients of signs, warmup and clipping, with and without each, six seeds. One million tokens, one by one. The component is validated where such an arm recalls as much as \
             Gated DeltaNet (in both tasks) and Gated Slot Attention, is within 0.03 nats of a softmax that is below what counting four characters gives, ends no training of a deep stack with norm more than 0.1 nats above chance, answers the same in 8 bits on 99 % \
             of the queries and of the characters, and the slope of time over position has 0 in its interval; with limits, where it recalls as much and one of the others fails.",
    expected: "Gated DeltaNet above `a6` above `a3` far above `a0`, which is near chance (1 of 16); softmax 1. Text does not tell them apart. The norm alone keeps most deep stacks from diverging.",
    reopens: "Vocabularies of thousands, sequences of 128 and 256 tokens with up to 64 pairs, widths up to 128, more learning rates and seeds, longer training: the trials here \
             were cut to fit hours of two cores. Gated Slot Attention and a convolution alone as language models.",
    revision: 1,
    cases,
    judge,
};

/// An arm whose heads have `rows` rows of 16 numbers.
fn of_rows(name: &str, rows: usize) -> Option<MemoryConfig> {
    let memory = match name {
        "gsa" => MemoryConfig { k_dim: Some(if rows < 16 { 2 } else { 16 }), v_dim: Some(16), ..arm(name, 16)? },
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

/// The same of the longer sequences.
fn recalled_long() -> impl Iterator<Item = (&'static str, usize)> {
    let sized = LONG_ROWS.into_iter().flat_map(|rows| LONG_ARMS.map(|name| (name, rows)));
    sized.chain([("gsa", 16), (SOFTMAX, 64), ("window", 2)])
}

/// How many seeds an arm is trained with.
fn seeds(name: &str, scale: Scale) -> u64 {
    if FINALISTS.contains(&name) { scale.pick(1, SEEDS) } else { 1 }
}

/// An arm on a task: at what size, with which rate and seed.
#[derive(Clone, Copy)]
struct Recalls {
    task: Task,
    name: &'static str,
    rows: usize,
    rate: &'static str,
    seed: u64,
}

impl Recalls {
    fn title(self) -> String {
        let Self { task, name, rows, rate, seed } = self;
        let long = if task == LONG { "long " } else { "" };
        format!("{long}recall, {name}, {rows}, {rate}, seed {seed}")
    }

    fn case(self, [steps, batch]: [usize; 2], test: usize) -> Case {
        Case::new(self.title(), move |_| {
            let Self { task, name, rows, rate, seed } = self;
            let lr = rate.parse().map_err(|_| Error::input("rate", rate))?;
            let layers = if matches!(name, "softmax" | "window") { 2 } else { 1 };
            let heads = if name == "gsa" { 1 } else { 2 };
            // Keys and values of the longer task are 16 numbers, too.
            let memory = of_rows(name, rows);
            let memory = memory.map(|m| MemoryConfig { k_dim: m.k_dim.or(Some(16)), v_dim: Some(16), ..m });
            let dim = if task == LONG { 64 } else { 32 };
            // Two tokens of two layers have the bytes of the largest memory.
            let window = (name == "window").then_some(2);
            let (gentle, straight) = (true, Straight::Masked);
            let trial = Trial { task, dim, layers, heads, memory, window, steps, batch, lr, gentle, straight, seed };
            Ok(json!({ "result": trial.run(test)? }))
        })
    }
}

fn cases(scale: Scale) -> Vec<Case> {
    let mut cases = Vec::new();
    let ((steps, test), long_steps) = scale.pick(((30, 64), 5), ((1000, 1024), LONG_STEPS));
    for seed in 0..scale.pick(1, SEEDS) {
        for (name, rows) in recalled().filter(|(name, _)| seed < seeds(name, scale)) {
            let of = |rate| Recalls { task: TASK, name, rows, rate, seed };
            cases.extend(RATES.map(|rate| of(rate).case([steps, 64], test)));
        }
    }
    for (name, rows) in recalled_long() {
        let of = |rate| Recalls { task: LONG, name, rows, rate, seed: 0 };
        cases.extend(RATES.map(|rate| of(rate).case([long_steps, 32], test)));
    }
    cases.extend(memory_language::cases(scale));
    cases.extend(memory_text::cases(scale));
    cases.extend(memory_depth::cases(scale));
    cases
}

/// What a seed's trials of an arm found: share of right answers and of answers that 8 bits keep, at the better rate; bytes.
fn best(results: &Results, recalls: Recalls) -> Result<(f64, f64, f64), Error> {
    let mut best = (f64::NEG_INFINITY, f64::NAN, f64::NAN);
    for rate in RATES {
        let case = Recalls { rate, ..recalls }.title();
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
        let of = |seed| Recalls { task: TASK, name, rows, rate: RATES[0], seed };
        let found = (0..seeds).map(|seed| best(results, of(seed))).collect::<Result<Vec<_>, _>>()?;
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

/// Recall of the longer sequences: the table, the best arm of BHRR, and its mean difference to [`BASE`] over sizes.
fn long_recall(results: &Results) -> Result<(Table, &'static str, f64), Error> {
    let mut table = Table::new(
        format!(
            "Recall of {} pairs in {} tokens of {} symbols, {LONG_STEPS} steps of 32 sequences, width 64, one seed, the better learning rate; {} bits are told:",
            LONG.pairs,
            LONG.seq,
            LONG.vocab,
            LONG.pairs * 6,
        ),
        &["arm", "bytes, f32", "limit, bits", "share of right answers", "same in 8 bits"],
    );
    let mut found = Vec::new();
    for (name, rows) in recalled_long() {
        let (right, same, bytes) = best(results, Recalls { task: LONG, name, rows, rate: RATES[0], seed: 0 })?;
        let same = if same.is_finite() { percent(same) } else { "-".to_owned() };
        table.row([name.to_owned(), digits(bytes), digits(bytes / 8.0), digits(right), same]);
        found.push((name, right));
    }
    let average = |name: &str| {
        let all: Vec<f64> = found.iter().filter(|(other, _)| *other == name).map(|(_, right)| *right).collect();
        mean(&all).unwrap_or(f64::NAN)
    };
    let ours = LONG_ARMS.into_iter().filter(|name| BHRR.contains(name)).map(|name| (name, average(name)));
    let (name, right) =
        ours.max_by(|a, b| a.1.total_cmp(&b.1)).ok_or_else(|| Error::input("results", "no arm of BHRR"))?;
    Ok((table, name, right - average(BASE)))
}

fn judge(results: &Results) -> Result<Findings, Error> {
    let recalled = recall(results)?;
    let (long, longest, to_base) = long_recall(results)?;
    let (language, losses) = memory_language::judge(results)?;
    let (texts, flat) = memory_text::judge(results)?;
    let (stability, diverged) = memory_depth::judge(results)?;
    let stable = !diverged.contains(&recalled.best);
    let of = |name: &str| losses.iter().find(|loss| loss.name == name);
    let flat = flat.contains(&recalled.best);
    let softmax = of(SOFTMAX).map_or(f64::NAN, |loss| loss.nats);
    let (worse, same) = of(recalled.best).map_or((f64::NAN, f64::NAN), |ours| (ours.nats - softmax, ours.same));
    let equal = recalled.to_base > -MARGIN && recalled.to_gsa > -MARGIN && to_base > -MARGIN;
    let others = [worse <= NATS && softmax < USES_CONTEXT, stable, recalled.same.min(same) >= SAME, flat];
    let verdict = match (equal, others.iter().all(|good| *good)) {
        (true, true) => Verdict::Validated,
        (true, false) => Verdict::ValidatedWithLimits,
        (false, _) => Verdict::Negative,
    };
    let because = format!(
        "The best arm of BHRR is `{}`: its share of right answers differs by {} (95 % interval {}) from Gated DeltaNet's at equal bytes (best of all: `{}`, by {}) and by {} from Gated Slot Attention's; with {} pairs in {} tokens `{longest}` differs by {} from Gated DeltaNet; {} nats to \
         softmax, {}; its deep stacks {}; 8 bits keep {} of the answers and {} of the characters; time per token over a million tokens is {}.",
        recalled.best,
        digits(recalled.to_base),
        interval(recalled.interval_to_base),
        recalled.winner.0,
        digits(recalled.winner.1),
        digits(recalled.to_gsa),
        LONG.pairs,
        LONG.seq,
        digits(to_base),
        digits(worse),
        if softmax < USES_CONTEXT {
            "which uses more context than four characters"
        } else {
            "which is not below counting and so not trained to its end"
        },
        if stable { "are stable" } else { "are not stable" },
        percent(recalled.same),
        percent(same),
        if flat { "flat" } else { "not shown to be flat" },
    );
    let [recall, tests] = recalled.tables;
    let limit = "A memory of `n` numbers holds of the order of `n / 2` bits, however long the text: \"O(1)\" is a statement about bytes and time, and about what can be \
                 recalled as well.";
    let using: Vec<&str> = losses.iter().filter(|loss| loss.nats < USES_CONTEXT).map(|loss| loss.name).collect();
    let text_note = format!(
        "Counting four characters gives {BY_COUNTING} nats; below {USES_CONTEXT}, and so shown to use more context than that: {}. One seed each: the intervals are those of the text, not \
         of the training.",
        if using.is_empty() { "none".to_owned() } else { using.join(", ") },
    );
    let longer = "Of the longer task a share below a tenth is that of a network that has hardly begun to learn which value belongs to which key, softmax's among them: equal steps compare how soon that is \
                  learned as well as how much is held.";
    let stacks = format!(
        "Deep stacks that ended more than 0.1 nats above chance with a norm: {}. In 150 steps none learns the task; what is seen is whether it is lost. \
         `a3` reads before it writes, from one slot: of an empty slot it reads zeros, where the norm's slope is one over the root of 10⁻⁵, layer after layer; that this is the cause was not tested.",
        if diverged.is_empty() { "none".to_owned() } else { diverged.join(", ") },
    );
    Ok(Findings::judged(results, verdict, because)
        .table(recall)
        .table(tests)
        .table(long)
        .table(language)
        .table(texts)
        .tables(stability)
        .picture(recalled.picture)
        .note(recalled.note)
        .note(longer)
        .note(stacks)
        .note(text_note)
        .note(limit))
}

//! A row of results: one test in one configuration, in the names of llama-bench.

use rin_energy::{Error as MeterError, Meter, Record};
use serde::{Deserialize, Serialize};

use crate::lane::Sample;
use crate::plan::{Setting, Test};
use crate::quiet::Verdict;
use crate::report::Machine;
use crate::stats::bootstrap::mean_interval;
use crate::stats::{Outlier, mean, median, outliers, percentile, sorted, stddev, tail};
use crate::subject::Facts;

/// One test in one configuration. Each field and its unit is described in `docs/bench.md`; those that are absent when a
/// row is read (llama-bench writes fewer) are empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// Version of RIN; when read also llama-bench's `build_commit`.
    #[serde(alias = "build_commit")]
    pub version: String,
    /// The processor's name.
    pub cpu_info: String,
    /// Path or name of the model.
    pub model_filename: String,
    /// Family, size and type of the weights.
    pub model_type: String,
    /// Bytes of all tensors in the file.
    pub model_size: u64,
    /// Weights.
    pub model_n_params: u64,
    /// Most tokens in one step.
    pub n_batch: u64,
    /// Workers.
    pub n_threads: u64,
    /// Type of the keys in the cache.
    pub type_k: String,
    /// Type of the values in the cache.
    pub type_v: String,
    /// The highest tier in use.
    pub tier: String,
    /// Sequences that are stepped together.
    #[serde(default = "one")]
    pub n_parallel: u64,
    /// `pp512` or `tg128`; with tokens before it `tg128 @ d8192`.
    pub test: String,
    /// Tokens of the prompt.
    pub n_prompt: u64,
    /// Steps of the generation.
    pub n_gen: u64,
    /// Tokens that each sequence held before.
    pub n_depth: u64,
    /// Begin of the first repetition, UTC.
    pub test_time: String,
    /// Mean time of a repetition, in ns.
    pub avg_ns: u64,
    /// Its standard deviation.
    pub stddev_ns: u64,
    /// Mean rate, in tokens per second.
    pub avg_ts: f64,
    /// Its standard deviation.
    pub stddev_ts: f64,
    /// 95 % interval of the mean rate.
    pub ci95_ts: Option<[f64; 2]>,
    /// Time of each repetition, in ns.
    pub samples_ns: Vec<u64>,
    /// Rate of each repetition, in tokens per second.
    pub samples_ts: Vec<f64>,
    /// Repetitions whose time is far from the others', in ns.
    pub outliers: Vec<Outlier>,
    /// Bytes of weights and cache that a generation reads, in 10⁹ per second.
    pub gb_per_s: Option<f64>,
    /// What this machine's memory gave in the same run.
    pub peak_gb_per_s: Option<f64>,
    /// Their ratio; of a prompt that of `tops` and `peak_tops`.
    pub share_of_peak: Option<f64>,
    /// Operations of a prompt's products, in 10¹² per second.
    pub tops: Option<f64>,
    /// What this machine's cores gave for 8-bit products in the same run.
    pub peak_tops: Option<f64>,
    /// Energy per token, in J.
    pub joules_per_token: Option<f64>,
    /// Where that comes from: `measured` or `unmeasured`.
    pub energy_status: String,
    /// Energy of all repetitions with its uncertainty and its source, or why it is not known.
    pub energy: Option<Record>,
    /// Allocations during all repetitions that count; none where they are not counted.
    pub allocs: Option<u64>,
    /// Bytes of the plan.
    pub plan_bytes: u64,
    /// Most memory that the process held, in bytes; none with several configurations.
    pub peak_rss: Option<u64>,
    /// Median time to the first logits, in ms.
    pub first_token_ms: f64,
    /// Single steps that were timed.
    pub n_steps: u64,
    /// Percentiles of their times, in µs.
    pub p50_us: Option<f64>,
    /// 99 % take no longer.
    pub p99_us: Option<f64>,
    /// 99.9 % take no longer.
    pub p999_us: Option<f64>,
    /// The longest.
    pub max_us: Option<f64>,
    /// Jitter of the machine: 99th percentile of a fixed loop's time over its median.
    pub jitter_p99: Option<f64>,
    /// 99.9th percentile over the median.
    pub jitter_p999: Option<f64>,
    /// Longest over the median.
    pub jitter_max: Option<f64>,
    /// Digest of the logits, the same in all repetitions.
    pub digest: Option<String>,
    /// Whether something else took the machine's time; none where that is not known.
    pub disturbed: Option<bool>,
    /// By what, in words.
    pub disturbed_by: Vec<String>,
}

/// llama-bench's generation steps one sequence.
fn one() -> u64 {
    1
}

/// What the repetitions of one test gave.
#[derive(Clone, Debug)]
pub(crate) struct Collected {
    pub(crate) test: Test,
    pub(crate) n_parallel: usize,
    pub(crate) depth: usize,
    pub(crate) facts: Facts,
    pub(crate) began: Option<String>,
    pub(crate) samples: Vec<Sample>,
    /// Times of single steps, in ns, further ones included.
    pub(crate) steps: Vec<u64>,
    pub(crate) peak_rss: Option<u64>,
}

impl Collected {
    pub(crate) fn new(test: Test, setting: &Setting) -> Self {
        let &Setting { n_parallel, depth, .. } = setting;
        let (samples, steps) = (Vec::new(), Vec::new());
        Self { test, n_parallel, depth, facts: Facts::default(), began: None, samples, steps, peak_rss: None }
    }

    /// Adds a repetition that began at a time of day.
    pub(crate) fn count(&mut self, at: String, facts: Facts, sample: Sample) {
        self.began.get_or_insert(at);
        self.facts = facts;
        self.steps.extend_from_slice(&sample.steps);
        self.samples.push(sample);
    }

    /// Bytes that one repetition of a generation reads; its first step comes after a prompt of one token.
    fn bytes(&self) -> Option<f64> {
        match self.test {
            Test::Generate(n) => {
                let cost = self.facts.cost;
                let positions = self.depth + 1..=self.depth + n;
                Some(positions.map(|position| cost.decode_bytes(self.n_parallel, position) as f64).sum())
            }
            Test::Prompt(_) => None,
        }
    }

    /// The energy of the repetitions in which the meter did not fail.
    fn energy(&self, meter: &Result<Meter, MeterError>) -> Record {
        let meter = match meter {
            Ok(meter) => meter,
            Err(error) => return Record::unmeasured(error),
        };
        let (mut spans, mut failure) = (Vec::new(), None);
        for energy in self.samples.iter().filter_map(|sample| sample.energy.as_ref()) {
            match energy {
                Ok(span) => spans.push(*span),
                Err(error) => failure = Some(error),
            }
        }
        match failure.filter(|_| spans.is_empty()) {
            Some(error) => Record::unmeasured(error),
            None => Record::sum(&spans, (spans.len() * self.test.tokens(self.n_parallel)) as u64, meter),
        }
    }

    /// Operations that one repetition of a prompt takes.
    fn ops(&self) -> Option<f64> {
        match self.test {
            Test::Prompt(n) => Some(self.facts.cost.prompt_ops(n)),
            Test::Generate(_) => None,
        }
    }
}

impl Row {
    pub(crate) fn of(cell: &Collected, machine: &Machine, meter: &Result<Meter, MeterError>) -> Self {
        let facts = &cell.facts;
        let ns: Vec<f64> = cell.samples.iter().map(|sample| sample.time.as_secs_f64() * 1e9).collect();
        let tokens = cell.test.tokens(cell.n_parallel) as f64;
        let ts: Vec<f64> = ns.iter().map(|ns| tokens / ns.max(1.0) * 1e9).collect();
        let avg_ns = mean(&ns).unwrap_or(0.0);
        // Per ns is 10⁹ per second.
        let per_ns = |amount: f64| amount / avg_ns.max(1.0);
        let (gb_per_s, tops) = (cell.bytes().map(per_ns), cell.ops().map(|ops| per_ns(ops) / 1e3));
        let peaks = machine.peaks.iter().find(|p| p.threads == facts.n_threads && p.tier == facts.tier);
        let peak_gb_per_s = peaks.and_then(|peaks| peaks.gb_per_s.as_ref()).map(|peak| peak.best);
        let peak_tops = peaks.and_then(|peaks| peaks.tops.as_ref()).map(|peak| peak.best);
        let share = |of: Option<f64>, peak: Option<f64>| of.zip(peak).map(|(of, peak)| of / peak);
        let steps = sorted(&cell.steps.iter().map(|ns| *ns as f64 / 1e3).collect::<Vec<_>>());
        let first: Vec<f64> = cell.samples.iter().map(|sample| sample.first_token.as_secs_f64() * 1e3).collect();
        let (n_prompt, n_gen) = match cell.test {
            Test::Prompt(n) => (n as u64, 0),
            Test::Generate(n) => (0, n as u64),
        };
        let disturbance = &machine.disturbance;
        let energy = cell.energy(meter);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cpu_info: machine.cpu_info.clone(),
            model_filename: facts.model_filename.clone(),
            model_type: facts.model_type.clone(),
            model_size: facts.model_size,
            model_n_params: facts.model_n_params,
            n_batch: facts.n_batch as u64,
            n_threads: facts.n_threads as u64,
            type_k: facts.kv_type.clone(),
            type_v: facts.kv_type.clone(),
            tier: facts.tier.clone(),
            n_parallel: cell.n_parallel as u64,
            test: test_name(cell.test.to_string(), cell.depth as u64),
            n_prompt,
            n_gen,
            n_depth: cell.depth as u64,
            test_time: cell.began.clone().unwrap_or_default(),
            avg_ns: whole(avg_ns),
            stddev_ns: whole(stddev(&ns).unwrap_or(0.0)),
            avg_ts: mean(&ts).unwrap_or(0.0),
            stddev_ts: stddev(&ts).unwrap_or(0.0),
            ci95_ts: mean_interval(&ts),
            samples_ns: ns.iter().copied().map(whole).collect(),
            outliers: outliers(&ns),
            samples_ts: ts,
            gb_per_s,
            peak_gb_per_s,
            share_of_peak: share(gb_per_s, peak_gb_per_s).or_else(|| share(tops, peak_tops)),
            tops,
            peak_tops,
            joules_per_token: energy.joules_per_token,
            energy_status: energy.status.name().to_owned(),
            energy: Some(energy),
            allocs: counted(&cell.samples),
            plan_bytes: facts.plan_bytes,
            peak_rss: cell.peak_rss,
            first_token_ms: median(&first).unwrap_or(0.0),
            n_steps: steps.len() as u64,
            p50_us: percentile(&steps, 500),
            p99_us: tail(&steps, 990),
            p999_us: tail(&steps, 999),
            max_us: steps.last().copied(),
            jitter_p99: machine.jitter.and_then(|jitter| jitter.p99),
            jitter_p999: machine.jitter.and_then(|jitter| jitter.p999),
            jitter_max: machine.jitter.map(|jitter| jitter.max),
            digest: cell.samples.last().map(|sample| sample.digest.to_string()),
            disturbed: (disturbance.verdict != Verdict::Unknown).then_some(disturbance.verdict == Verdict::Disturbed),
            disturbed_by: disturbance.reasons.clone(),
        }
    }

    /// The test's name, made up where a row was read without one.
    pub(crate) fn test_name(&self) -> String {
        let name = match (self.test.is_empty(), self.n_prompt, self.n_gen) {
            (false, ..) => return self.test.clone(),
            (true, prompt, 0) => format!("pp{prompt}"),
            (true, 0, steps) => format!("tg{steps}"),
            (true, prompt, steps) => format!("pp{prompt}+tg{steps}"),
        };
        test_name(name, self.n_depth)
    }

    /// The last part of the model's path, or where there is none, its type.
    pub(crate) fn model_name(&self) -> &str {
        let name = self.model_filename.rsplit(['/', '\\']).find(|part| !part.is_empty());
        name.unwrap_or(&self.model_type)
    }
}

/// A test's name with the tokens before it, as llama-bench writes it.
fn test_name(test: String, depth: u64) -> String {
    if depth == 0 { test } else { format!("{test} @ d{depth}") }
}

/// A time in whole ns.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded and not negative; saturates")]
pub(crate) fn whole(ns: f64) -> u64 {
    ns.round().max(0.0) as u64
}

/// Allocations over all samples; none where this process does not count them.
fn counted(samples: &[Sample]) -> Option<u64> {
    counted_or_none(samples.iter().map(|sample| sample.allocations).fold(0, u64::saturating_add))
}

/// A number of allocations; none where this process does not count them.
pub(crate) fn counted_or_none(n: u64) -> Option<u64> {
    (rin_kernels::alloc::allocations() > 0).then_some(n)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cost::Cost;
    use crate::jitter::Jitter;
    use crate::peak::{Peak, Peaks};
    use crate::quiet::Disturbance;
    use rin_engine::digest::LogitDigest;
    use std::time::Duration;

    pub(crate) fn no_meter() -> Result<Meter, MeterError> {
        Err(MeterError::NoSensor { looked_for: vec!["perf: nothing".to_owned()] })
    }

    pub(crate) fn machine() -> Machine {
        let peak = |best| Some(Peak { best, samples: vec![best] });
        Machine {
            cpu_info: "a processor".to_owned(),
            disturbance: Disturbance {
                steal_share: Some(0.0),
                other_load_share: Some(0.2),
                involuntary_switches: Some(3),
                others_runnable: [Some(0), Some(1)],
                verdict: Verdict::Disturbed,
                reasons: vec!["other processes took 20.0 % of the processors' time".to_owned()],
            },
            jitter: Some(Jitter { n: 20_000, median_us: 20.0, p99: Some(1.1), p999: Some(1.5), max: 9.0 }),
            peaks: vec![Peaks { threads: 2, tier: "scalar", gb_per_s: peak(10.0), tops: peak(0.5), notes: Vec::new() }],
            notes: vec!["huge pages are not to be had".to_owned()],
        }
    }

    pub(crate) fn setting(n_parallel: usize) -> Setting {
        let (threads, tier, kv_type) = (None, None, None);
        Setting { model: 0, threads, tier, kv_type, n_parallel, depth: 0, positions: 100, tests: Vec::new() }
    }

    pub(crate) fn cell(test: Test, n_parallel: usize, times_us: &[u64]) -> Collected {
        let cost =
            Cost { body_products: 1000, head_products: 500, weight_bytes: 4000, kv_bytes: 16, ..Cost::default() };
        let facts = Facts {
            model_filename: "/some/where/tiny.gguf".to_owned(),
            model_type: "llama 1.2K F32".to_owned(),
            model_size: 4800,
            model_n_params: 1200,
            n_batch: 512,
            n_threads: 2,
            tier: "scalar".to_owned(),
            kv_type: "f16".to_owned(),
            plan_bytes: 9999,
            vocab: 100,
            cost,
            notes: Vec::new(),
        };
        let mut cell = Collected::new(test, &setting(n_parallel));
        for us in times_us {
            let steps = match test {
                Test::Prompt(_) => Vec::new(),
                Test::Generate(n) => vec![us * 1000 / n as u64; n],
            };
            let time = Duration::from_micros(*us);
            let digest = LogitDigest::new().finish();
            let sample = Sample { time, first_token: time / 4, steps, allocations: 2, energy: None, digest };
            cell.count("2024-02-29T12:34:56Z".to_owned(), facts.clone(), sample);
        }
        cell
    }

    #[test]
    fn a_generation_is_counted_in_tokens_and_bytes() {
        let row = Row::of(&cell(Test::Generate(4), 2, &[10, 20, 10, 20, 40]), &machine(), &no_meter());
        assert_eq!((row.test.as_str(), row.n_prompt, row.n_gen, row.n_parallel), ("tg4", 0, 4, 2));
        assert_eq!((row.avg_ns, row.samples_ns[4]), (20_000, 40_000));
        // 4 steps of 2 sequences: 8 tokens.
        let expected = [8e5, 4e5, 8e5, 4e5, 2e5];
        assert!(row.samples_ts.iter().zip(expected).all(|(a, b)| (a / b - 1.0).abs() < 1e-12), "{:?}", row.samples_ts);
        assert!((row.avg_ts - 5.2e5).abs() < 1e-6);
        let [low, high] = row.ci95_ts.unwrap();
        assert!(low < row.avg_ts && row.avg_ts < high);
        // Positions 1 to 4, two sequences: 4 · 4000 + 2 · 16 · (2 + 3 + 4 + 5) bytes in 20 µs.
        assert!((row.gb_per_s.unwrap() - (16_000.0 + 448.0) / 20_000.0).abs() < 1e-12);
        assert!((row.share_of_peak.unwrap() - row.gb_per_s.unwrap() / 10.0).abs() < 1e-12);
        assert_eq!((row.tops, row.n_steps, row.p50_us, row.max_us), (None, 20, Some(5.0), Some(10.0)));
        assert_eq!((row.p99_us, row.p999_us), (None, None), "too few steps for tails");
        assert_eq!((row.first_token_ms, row.disturbed, row.type_v.as_str()), (0.005, Some(true), "f16"));
        assert_eq!(row.outliers, [Outlier { index: 4, value: 40_000.0 }]);
    }

    #[test]
    fn a_prompt_is_counted_in_operations() {
        let row = Row::of(&cell(Test::Prompt(100), 1, &[50, 50, 50, 50, 50, 90]), &machine(), &no_meter());
        assert_eq!((row.test.as_str(), row.n_prompt, row.n_gen), ("pp100", 100, 0));
        let ops = 2.0 * (100.0 * 1000.0 + 500.0);
        let us = 340.0 / 6.0;
        assert!((row.tops.unwrap() / (ops / us / 1e6) - 1.0).abs() < 1e-9);
        assert!((row.share_of_peak.unwrap() / (row.tops.unwrap() / 0.5) - 1.0).abs() < 1e-12);
        assert_eq!((row.gb_per_s, row.p50_us, row.n_steps), (None, None, 0));
        assert_eq!(row.outliers, [Outlier { index: 5, value: 90_000.0 }]);
        assert_eq!(Row::of(&cell(Test::Prompt(100), 1, &[50]), &machine(), &no_meter()).ci95_ts, None);
    }

    #[test]
    fn rows_of_llama_bench_are_read() {
        let text = r#"{"build_commit": "8cf427ff", "cpu_info": "x", "model_filename": "models/7B/q4_0.gguf",
            "model_type": "llama 7B Q4_0", "model_size": 3825065984, "model_n_params": 6738415616, "n_batch": 2048,
            "n_ubatch": 512, "n_threads": 8, "type_k": "f16", "type_v": "f16", "use_mmap": true, "n_prompt": 0,
            "n_gen": 128, "test_time": "2024-01-01T00:00:00Z", "avg_ns": 990219018, "stddev_ns": 1,
            "avg_ts": 129.3, "stddev_ts": 0.1, "samples_ns": [990, 991], "samples_ts": [129.2, 129.4]}"#;
        let row: Row = serde_json::from_str(text).unwrap();
        assert_eq!((row.test_name(), row.model_name(), row.n_parallel), ("tg128".to_owned(), "q4_0.gguf", 1));
        assert_eq!((row.version.as_str(), row.tier.as_str(), row.disturbed), ("8cf427ff", "", None));
    }
}

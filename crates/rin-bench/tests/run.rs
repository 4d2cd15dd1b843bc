//! How a measurement is conducted, watched through a subject that computes nothing.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rin_bench::peak::Peaks;
use rin_bench::{Error, Event, Facts, Grid, Loader, Report, Setting, Subject, Test, Workload, run};

/// What a fake does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Other logits from this call of `decode` on.
    OtherLogits(u32),
    /// No such configuration.
    Refuses,
    /// Panics while it is loaded.
    Panics,
}

/// Loads fakes, and keeps a log of what they are asked for.
struct Fakes {
    log: Arc<Mutex<Vec<String>>>,
    fit: bool,
    fault: Fault,
}

struct Fake {
    name: String,
    log: Arc<Mutex<Vec<String>>>,
    logits: Vec<f32>,
    n_sequences: usize,
    fault: Fault,
    decoded: AtomicU32,
}

impl Loader for Fakes {
    fn load(&self, setting: &Setting) -> Result<Box<dyn Subject>, Error> {
        match self.fault {
            Fault::Refuses => return Err(Error::NotSupported(setting.n_parallel)),
            Fault::Panics => panic!("as it shall"),
            Fault::None | Fault::OtherLogits(_) => {}
        }
        let name = format!("{}t{}b", setting.threads.unwrap(), setting.n_parallel);
        self.log.lock().unwrap().push(format!("load {name}"));
        Ok(Box::new(Fake {
            name,
            log: Arc::clone(&self.log),
            logits: Vec::new(),
            n_sequences: 0,
            fault: self.fault,
            decoded: AtomicU32::new(0),
        }))
    }

    fn fit_together(&self, _: &[Setting]) -> Result<bool, Error> {
        Ok(self.fit)
    }

    fn peaks(&self, threads: usize, _: &str) -> Result<Option<Peaks>, Error> {
        self.log.lock().unwrap().push(format!("peaks {threads}"));
        Ok(None)
    }
}

impl Subject for Fake {
    fn reset(&mut self, n_sequences: usize, _depth: usize) -> Result<(), Error> {
        self.n_sequences = n_sequences;
        Ok(())
    }

    fn prefill(&mut self, sequence: usize, tokens: &[u32]) -> Result<&[f32], Error> {
        assert!(sequence < self.n_sequences);
        if tokens.len() > 1 {
            self.log.lock().unwrap().push(format!("pp{} {}", tokens.len(), self.name));
        } else if sequence == 0 {
            self.log.lock().unwrap().push(format!("tg {}", self.name));
        }
        self.logits = tokens.iter().map(|id| *id as f32).collect();
        Ok(&self.logits)
    }

    fn decode(&mut self, tokens: &[u32]) -> Result<&[f32], Error> {
        assert_eq!(tokens.len(), self.n_sequences);
        assert!(tokens.iter().all(|id| *id < 50));
        std::thread::sleep(Duration::from_micros(20));
        self.logits = tokens.iter().map(|id| *id as f32).collect();
        let count = self.decoded.fetch_add(1, Ordering::Relaxed);
        if matches!(self.fault, Fault::OtherLogits(from) if count >= from) {
            self.logits[0] += 1.0;
        }
        Ok(&self.logits)
    }

    fn facts(&self) -> Facts {
        let n_threads = self.name.split('t').next().unwrap().parse().unwrap();
        let notes = vec!["a note".to_owned()];
        Facts { model_filename: "fake".to_owned(), n_threads, vocab: 50, notes, ..Facts::default() }
    }
}

fn workload() -> Workload {
    Workload { n_prompt: 9, n_gen: 3, repetitions: 2, latency_steps: 0, latency_budget: Duration::ZERO, machine: true }
}

fn bench(
    fit: bool,
    fault: Fault,
    grid: &Grid,
    workload: &Workload,
) -> (Result<Report, Error>, Vec<String>, Vec<Event>) {
    let loader = Fakes { log: Arc::default(), fit, fault };
    let mut events = Vec::new();
    let settings = grid.settings(workload).unwrap();
    let report = run(&loader, &settings, workload, |event| events.push(event));
    let log = loader.log.lock().unwrap().clone();
    (report, log, events)
}

fn two() -> Grid {
    Grid { models: 1, threads: vec![1, 2], ..Grid::default() }
}

#[test]
fn repetitions_are_interleaved_and_turn_back() {
    let (report, log, events) = bench(true, Fault::None, &two(), &workload());
    let expected = [
        "load 1t1b",
        "pp9 1t1b",
        "tg 1t1b", // Warm-up.
        "load 2t1b",
        "pp9 2t1b",
        "tg 2t1b", //
        "pp9 1t1b",
        "tg 1t1b",
        "pp9 2t1b",
        "tg 2t1b", // First round.
        "pp9 2t1b",
        "tg 2t1b",
        "pp9 1t1b",
        "tg 1t1b", // Second round, backwards.
        "peaks 1",
        "peaks 2",
    ];
    assert_eq!(log, expected);
    let report = report.unwrap();
    let tests: Vec<(&str, u64)> = report.rows.iter().map(|row| (row.test.as_str(), row.n_threads)).collect();
    assert_eq!(tests, [("pp9", 1), ("tg3", 1), ("pp9", 2), ("tg3", 2)]);
    for row in &report.rows {
        assert_eq!((row.samples_ns.len(), row.samples_ts.len()), (2, 2));
        assert_eq!(row.ci95_ts, None, "two repetitions give no interval");
        assert_eq!((row.peak_rss, row.peak_gb_per_s), (None, None));
        assert!(row.digest.as_ref().unwrap().starts_with("sha256:"));
    }
    assert_eq!(report.rows[1].n_steps, 6);
    assert!(report.rows[1].p50_us.unwrap() >= 20.0);
    assert!(report.rows[1].avg_ts > 0.0 && report.rows[1].avg_ts < 50_000.0);
    assert_eq!(report.rows[1].digest, report.rows[3].digest);
    assert_ne!(report.rows[0].digest, report.rows[1].digest);
    assert_eq!(report.machine.notes, ["a note"], "named once");
    assert!(report.machine.jitter.unwrap().n >= 20_000);
    assert_eq!(events.last(), Some(&Event::Machine));
    assert!(events.contains(&Event::Loading(1)) && events.contains(&Event::Repetitions(8, 8)));
}

#[test]
fn what_does_not_fit_together_is_loaded_one_by_one() {
    let only_tg = Workload { n_prompt: 0, repetitions: 1, ..workload() };
    let (report, log, _) = bench(false, Fault::None, &two(), &only_tg);
    let expected = ["load 1t1b", "tg 1t1b", "tg 1t1b", "load 2t1b", "tg 2t1b", "tg 2t1b", "peaks 1", "peaks 2"];
    assert_eq!(log, expected);
    assert!(report.unwrap().machine.notes[0].contains("do not fit into memory together"));
}

#[test]
fn several_sequences_are_stepped_together() {
    let grid = Grid { models: 1, threads: vec![1], parallel: vec![1, 4], ..Grid::default() };
    let (report, _, _) = bench(true, Fault::None, &grid, &workload());
    let rows = report.unwrap().rows;
    let tests: Vec<(&str, u64)> = rows.iter().map(|row| (row.test.as_str(), row.n_parallel)).collect();
    assert_eq!(tests, [("pp9", 1), ("tg3", 1), ("tg3", 4)]);
    let rate = 12.0 / (rows[2].samples_ns[0] as f64 / 1e9);
    assert!((rows[2].samples_ts[0] / rate - 1.0).abs() < 1e-6, "four tokens a step");
}

#[test]
fn further_steps_are_timed_for_the_tails_alone() {
    let many = Workload { n_prompt: 0, latency_steps: 40, latency_budget: Duration::from_mins(1), ..workload() };
    let (report, _, events) = bench(true, Fault::None, &two(), &many);
    for row in report.unwrap().rows {
        assert_eq!((row.n_steps, row.samples_ns.len()), (42, 2));
    }
    assert!(events.contains(&Event::Latencies));
    let hurried = Workload { latency_budget: Duration::from_nanos(1), ..many };
    let (report, _, _) = bench(true, Fault::None, &two(), &hurried);
    assert!(report.unwrap().rows.iter().all(|row| row.n_steps == 9), "the time is up after one more repetition");
}

#[test]
fn logits_that_change_end_the_bench() {
    // Three steps to warm up, three in the first repetition; the second one differs.
    let (report, ..) = bench(true, Fault::OtherLogits(6), &two(), &workload());
    let error = report.unwrap_err();
    assert!(matches!(&error, Error::Unrepeatable { test: Test::Generate(3), .. }), "{error}");
    assert!(error.to_string().starts_with("tg3 is not repeatable: a repetition has the digest sha256:"), "{error}");
}

#[test]
fn a_configuration_that_fails_ends_the_bench() {
    let (report, ..) = bench(true, Fault::Refuses, &two(), &workload());
    assert!(matches!(report, Err(Error::NotSupported(1))));
    let (report, ..) = bench(false, Fault::Panics, &two(), &workload());
    assert!(matches!(report, Err(Error::LaneEnded(0))));
}

//! A real bench of a tiny model. Allocations are counted process-wide, so this file has one test.

use std::time::Duration;

use rin_bench::report::Form;
use rin_bench::{EngineLoader, Error, Grid, Loader, Model, Row, Workload, run};
use rin_engine::LoadOptions;
use rin_kernels::Cpu;
use rin_kernels::Tier;
use rin_kernels::alloc::CountingAllocator;
use rin_kernels::ops::attention::KvType;
use rin_testkit::data::conformance;

#[global_allocator]
static GLOBAL: CountingAllocator = CountingAllocator;

#[test]
fn a_tiny_model_is_measured() {
    let workload = Workload {
        n_prompt: 40,
        n_gen: 12,
        repetitions: 5,
        latency_steps: 120,
        latency_budget: Duration::from_mins(1),
        machine: true,
    };
    let best = Cpu::detect().best();
    let grid = Grid {
        models: 1,
        threads: vec![1, 2],
        tiers: vec![Tier::Scalar, best],
        kv_types: vec![KvType::F16],
        parallel: vec![1, 3],
        depths: Vec::new(),
    };
    let options = LoadOptions { n_batch: 16, ..LoadOptions::default() };
    let loader = EngineLoader::alone(vec![Model::at(conformance("models/tiny-llama"))], options);
    let settings = grid.settings(&workload).unwrap();
    loader.check(&settings).unwrap();
    let report = run(&loader, &settings, &workload, |_| {}).unwrap();

    let tiers = if best == Tier::Scalar { 1 } else { 2 };
    assert_eq!(report.rows.len(), 2 * 3 * tiers, "a prompt, a generation of one and one of three sequences");
    for row in &report.rows {
        assert_eq!(row.allocs, Some(0), "{} with {} threads on {}", row.test, row.n_threads, row.tier);
        assert!(row.avg_ts > 0.0 && row.ci95_ts.is_some() && row.first_token_ms > 0.0);
        assert!(row.share_of_peak.is_some_and(|share| share > 0.0), "{row:?}");
        assert_eq!((row.n_batch, row.type_k.as_str()), (16, "f16"));
        assert_eq!(row.n_steps >= 120, row.n_gen > 0);
        // The contract: one model and test, one digest, whatever the threads and the tier.
        let same = |other: &&Row| (&other.test, other.n_parallel) == (&row.test, row.n_parallel);
        let first: &Row = report.rows.iter().find(same).unwrap();
        assert_eq!(first.digest, row.digest);
    }
    let table = report.write(Form::Markdown).unwrap();
    assert!(table.contains("| pp40 ") && table.contains("| tg12 "), "{table}");

    // Alone, a configuration knows its peak of memory.
    let alone = &settings[..1];
    let few = Workload { repetitions: 1, latency_steps: 0, ..workload };
    let report = run(&loader, alone, &few, |_| {}).unwrap();
    assert!(report.rows[0].peak_rss.is_some_and(|bytes| bytes >= report.rows[0].plan_bytes));

    // Memory that cannot hold one is an error, not a slow run.
    let options = LoadOptions { memory_limit: Some(1000), ..LoadOptions::default() };
    let small = EngineLoader { options, ..loader };
    assert!(!small.fit_together(&settings).unwrap());
    assert!(matches!(run(&small, &settings, &few, |_| {}), Err(Error::Engine(_))));
}

//! A bench of a network with a memory of a fixed size, at a depth. Allocations are counted process-wide, so this file has one
//! test.

use std::time::Duration;

use rin_bench::{EngineLoader, Grid, Model, Workload, run};
use rin_engine::LoadOptions;
use rin_kernels::alloc::CountingAllocator;
use rin_testkit::data::conformance;

#[global_allocator]
static GLOBAL: CountingAllocator = CountingAllocator;

#[test]
fn a_depth_is_come_back_to_before_every_repetition() {
    let workload = Workload {
        n_prompt: 20,
        n_gen: 8,
        repetitions: 3,
        latency_steps: 0,
        latency_budget: Duration::from_mins(1),
        machine: false,
    };
    let grid = Grid { models: 1, parallel: vec![1, 2], depths: vec![0, 100, 1000], ..Grid::default() };
    let options = LoadOptions { n_batch: 64, ..LoadOptions::default() };
    let loader = EngineLoader::alone(vec![Model::at(conformance("memory/gated-delta.rin"))], options);
    let settings = grid.settings(&workload).unwrap();
    loader.check(&settings).unwrap();
    // A repetition with other logits than the first one would end it.
    let report = run(&loader, &settings, &workload, |_| {}).unwrap();
    assert_eq!(report.rows.len(), 3 * 3, "a prompt, a generation of one and one of two sequences, at each depth");
    assert!(report.rows.iter().all(|row| row.allocs == Some(0)), "{:?}", report.rows);
    let digest = |depth: u64| &report.rows.iter().find(|row| row.n_depth == depth).unwrap().digest;
    assert!(digest(0) != digest(100) && digest(100) != digest(1000));
}

//! A spiking network allocates nothing once it is loaded.

use rin_engine::pool::{Pool, PoolOptions};
use rin_engine::snn::{Coding, Layer, Network, Projection, Readout, Simulator, SimulatorOptions, Source};
use rin_kernels::Cpu;
use rin_kernels::alloc::{CountingAllocator, allocations};
use rin_kernels::ops::lif::Reset;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[test]
fn a_run_allocates_nothing() {
    for coding in [Coding::Direct { scale: 1.0 }, Coding::Rate { scale: 1.0, seed: 1 }, Coding::Latency { scale: 1.0 }]
    {
        let mut hidden = Layer::new(70, 3000, 500, 2, Reset::Subtract);
        hidden.projections.push(Projection { from: Source::Input, weights: vec![9; 20 * 70] });
        hidden.projections.push(Projection { from: Source::Layer(0), weights: vec![-3; 70 * 70] });
        let mut last = Layer::new(10, 4096, i32::MAX, 2, Reset::Zero);
        last.projections.push(Projection { from: Source::Layer(0), weights: vec![5; 70 * 10] });
        let network = Network { inputs: 20, steps: 6, coding, layers: vec![hidden, last], readout: Readout::Membrane };
        let pool = Pool::new(PoolOptions { threads: 2, ..PoolOptions::default() }).unwrap();
        let mut simulator = Simulator::new(network, pool, SimulatorOptions::new(Cpu::detect())).unwrap();
        let input = vec![0.7; 20 * 5];
        let mut out = vec![0.0; 10 * 5];
        simulator.run(&input, 6, &mut out).unwrap();
        let before = allocations();
        for _ in 0..3 {
            simulator.run(&input, 6, &mut out).unwrap();
        }
        assert_eq!(allocations(), before, "{coding:?}");
    }
}

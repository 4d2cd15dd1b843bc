//! The machine that runs the tests.

use rin_energy::environment::Environment;
use rin_energy::{Host, Sensors, SourceState, SystemHost};

#[test]
fn time_passes_and_this_machine_can_be_looked_at() {
    let (a, b) = (SystemHost.now(), SystemHost.now());
    assert!(b.at >= a.at);
    let sensors = Sensors::discover("/");
    for report in sensors.sources() {
        match &report.state {
            SourceState::Available(domains) => assert!(!domains.is_empty()),
            SourceState::Absent(why) => assert!(why.contains(report.source.folder()), "{why}"),
            other => assert!(!other.to_string().is_empty()),
        }
    }
    if let Err(error) = sensors.meter() {
        println!("SKIPPED: no sensor of this machine was read: {error}");
    }
    let state = Environment::of(&sensors);
    assert_eq!(state.ticks.is_some(), cfg!(target_os = "linux"));
}

/// The system call itself, on a counter that every kernel has: `PERF_TYPE_SOFTWARE` (1), `PERF_COUNT_SW_CPU_CLOCK` (0).
#[test]
fn a_counter_of_the_kernel_counts() {
    let mut counter = match SystemHost.counter(1, 0, 0) {
        Ok(counter) => counter,
        Err(error) => {
            println!("SKIPPED: this system permits no performance events: {error}");
            return;
        }
    };
    let mut read = || {
        let mut bytes = [0; 8];
        assert_eq!(counter.read(&mut bytes).unwrap(), 8);
        u64::from_ne_bytes(bytes)
    };
    let first = read();
    let mut next = read();
    for _ in 0..1_000_000 {
        if next > first {
            break;
        }
        next = read();
    }
    assert!(next > first, "{first} {next}");
}

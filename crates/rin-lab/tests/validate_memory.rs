//! The check of memory sees a single allocation. The counter is process-wide, so this file has one test.

use std::cell::Cell;

use rin_kernels::alloc::{CountingAllocator, allocations};
use rin_lab::validate::{Status, checks};

#[global_allocator]
static GLOBAL: CountingAllocator = CountingAllocator;

#[test]
fn memory_sees_an_allocation() {
    let clean = checks::memory(1000, 0.0, allocations, || Ok(())).unwrap();
    assert!(clean.status == Status::Pass, "{clean:?}");
    let calls = Cell::new(0);
    let leaky = || {
        calls.set(calls.get() + 1);
        if calls.get() % 500 == 0 {
            drop(std::hint::black_box(vec![0_u8; 100]));
        }
        Ok(())
    };
    let found = checks::memory(1000, 0.0, allocations, leaky).unwrap();
    assert!(found.status == Status::Fail && (found.value.unwrap() - 2.0).abs() < 1e-9, "{found:?}");
    // A counter that does not count.
    let none = checks::memory(1000, 0.0, || 0, || Ok(())).unwrap();
    assert!(matches!(none.status, Status::NotTestableHere(_)), "{none:?}");
}

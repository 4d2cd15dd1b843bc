//! The check of memory sees a single allocation. The counter is process-wide, so this file has one test.

use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use rin_kernels::alloc::{CountingAllocator, allocations};
use rin_lab::validate::{Options, Status, Subject, Thermometers, Watch, check, checks};
use rin_lab::{Context, Scale};

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

    // The model: as it is, and with an allocation in some of its steps.
    let root = Path::new("nowhere");
    let mut subject = Subject::new(rin_embedded::model().unwrap(), Thermometers::read(root)).unwrap();
    let options = Options::new(root, Watch::for_seconds(10).unwrap(), Scale::Quick);
    let cancel = AtomicBool::new(false);
    let context = Context { data: root, python: None, cancel: &cancel };
    let clean = check("memory", &mut subject, &options, &context).unwrap().measured;
    assert!(clean.status == Status::Pass && clean.value == Some(0.0), "{clean:?}");
    let mut step = 0;
    subject.each_step = Box::new(move || {
        step += 1;
        if step % 40 == 0 {
            drop(std::hint::black_box(vec![0_u8; 100]));
        }
    });
    let found = check("memory", &mut subject, &options, &context).unwrap().measured;
    assert!(found.status == Status::Fail && found.value == Some(2.0), "{found:?}");
}

//! Reading a meter allocates nothing. Alone in its process, for the count is of the whole.

use rin_energy::Sensors;
use rin_kernels::alloc::{CountingAllocator, allocations};

#[global_allocator]
static GLOBAL: CountingAllocator = CountingAllocator;

#[test]
fn reading_allocates_nothing() {
    let root = std::env::temp_dir().join(format!("rin-energy-allocation-{}", std::process::id()));
    for (id, name) in [("intel-rapl:0", "package-0"), ("intel-rapl:0/intel-rapl:0:0", "dram")] {
        let folder = root.join("sys/devices/virtual/powercap/intel-rapl").join(id);
        std::fs::create_dir_all(&folder).unwrap();
        for (file, text) in [("name", name), ("max_energy_range_uj", "262143328850"), ("energy_uj", "1234567")] {
            std::fs::write(folder.join(file), format!("{text}\n")).unwrap();
        }
    }
    let board = root.join("sys/class/hwmon/hwmon0");
    std::fs::create_dir_all(&board).unwrap();
    let mut meter = Sensors::discover(&root).meter().unwrap();
    // The thread that reads allocates when it starts, which is over when this returns.
    meter.watch().unwrap();
    let before = allocations();
    assert!(before > 0, "nothing is counted");
    let mut last = meter.read();
    for _ in 0..1000 {
        let next = meter.read();
        assert!(meter.span(&last, &next).is_ok());
        last = next;
    }
    let edge = meter.edge();
    assert_eq!(allocations() - before, 0);
    assert!(edge.at() > last.at());
    drop(std::fs::remove_dir_all(&root));
}

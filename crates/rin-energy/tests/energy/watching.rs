//! The thread that reads, and real files.

use std::path::PathBuf;
use std::time::Duration;

use rin_energy::{Sensors, Source};

use crate::fake::Fake;

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("rin-energy-{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&path));
        Self(path)
    }

    fn file(&self, path: &str, text: &str) -> PathBuf {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

const RAPL: &str = "sys/devices/virtual/powercap/intel-rapl";

fn package(folder: &Folder, max: u64, uj: u64) -> PathBuf {
    folder.file(&format!("{RAPL}/intel-rapl:0/name"), "package-0\n");
    folder.file(&format!("{RAPL}/intel-rapl:0/max_energy_range_uj"), &format!("{max}\n"));
    folder.file(&format!("{RAPL}/intel-rapl:0/energy_uj"), &format!("{uj:012}\n"))
}

#[test]
fn the_thread_reads_by_itself_until_the_meter_goes() {
    let fake = Fake::new();
    let folder = "sys/class/hwmon/hwmon0";
    fake.file(&format!("{folder}/name"), "power_meter")
        .file(&format!("{folder}/power1_average"), "50000000")
        .file(&format!("{folder}/power1_average_interval"), "4");
    let mut meter = fake.meter();
    let before = fake.reads();
    meter.watch().unwrap();
    // However long that takes.
    while fake.reads() < before + 5 {
        std::thread::yield_now();
    }
    drop(meter);
    // The thread is joined, so nobody reads any more.
    let after = fake.reads();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(fake.reads(), after);
}

#[test]
fn files_are_read_anew_each_time() {
    let folder = Folder::new("anew");
    let counter = package(&folder, 262_143_328_850, 262_143_000_000);
    let meter = Sensors::discover(&folder.0).meter().unwrap();
    let began = meter.read();
    // The energy of updates that may be due before and after must be little of that of the whole.
    std::thread::sleep(Duration::from_millis(20));
    std::fs::write(&counter, "000000100000\n").unwrap();
    let found = meter.between(&began, &meter.read()).unwrap();
    assert!((found.lines[0].joules.as_ref().unwrap() - 0.428_911).abs() < 1e-5, "{found:?}");
}

#[test]
fn links_in_circles_end() {
    let folder = Folder::new("links");
    package(&folder, 262_143_328_850, 1_000_000);
    let zone = folder.0.join(format!("{RAPL}/intel-rapl:0"));
    for (link, target) in [("device", ".."), ("subsystem", "../../.."), ("intel-rapl:0:0", "."), ("intel-rapl:0", "..")]
    {
        std::os::unix::fs::symlink(target, zone.join(link)).unwrap();
    }
    let sensors = Sensors::discover(&folder.0);
    assert_eq!(sensors.chosen(), Ok(Source::Powercap));
    let meter = sensors.meter().unwrap();
    // The link that is called like a zone shows the package once more, and does not count.
    let names: Vec<_> = meter.domains().iter().map(|domain| domain.name.as_str()).collect();
    assert_eq!(names, ["package-0"]);
}

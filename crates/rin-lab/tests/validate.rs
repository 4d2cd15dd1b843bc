//! The tests of the tests: each check of the validation suite sees what is broken on purpose, and does not pass where
//! nothing could fail. That of memory is in `validate_memory.rs`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::cast_possible_truncation, reason = "random numbers for a test")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rin_energy::Sensors;
use rin_energy::protocol::Protocol;
use rin_lab::Error;
use rin_lab::random::Random;
use rin_lab::validate::{Measured, Status, checks, names};

/// An empty folder that is gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("validate-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, path: &str, content: &str) -> PathBuf {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn passes(found: &Measured) -> bool {
    found.status == Status::Pass
}

fn fails(found: &Measured) -> bool {
    found.status == Status::Fail && found.value.is_some()
}

fn untestable(found: &Measured) -> bool {
    matches!(found.status, Status::NotTestableHere(_)) && found.value.is_none()
}

#[test]
fn the_suite_is_the_seeds() {
    let expected = ["joule", "fidelity", "latency", "thermal", "numerical", "sparsity", "memory", "topology"];
    assert_eq!(names().collect::<Vec<_>>(), expected);
}

/// A counter that a thread moves at so many watts.
struct Counter {
    folder: Folder,
    end: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Counter {
    fn new(name: &str, watts: f64) -> Self {
        let folder = Folder::new(name);
        let zone = "sys/devices/virtual/powercap/intel-rapl/intel-rapl:0";
        folder.file(&format!("{zone}/name"), "package-0\n");
        folder.file(&format!("{zone}/max_energy_range_uj"), "262143328850\n");
        let path = folder.file(&format!("{zone}/energy_uj"), "000000000000\n");
        let end = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let file = File::options().write(true).open(path).unwrap();
            let began = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                let text = format!("{:012.0}\n", began.elapsed().as_secs_f64() * watts * 1e6);
                file.write_all_at(text.as_bytes(), 0).unwrap();
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        Self { folder, end, thread: Some(thread) }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(std::thread::JoinHandle::join));
    }
}

#[test]
fn joule_sees_a_hungry_machine() {
    let ms = Duration::from_millis;
    let protocol = Protocol { rounds: 2, window: ms(60), idle: ms(20), settle: ms(1) };
    // A unit takes a thousandth of a second or longer: at 0.1 W no more than ten times 0.1 mJ, at 50 W no less than 50 mJ.
    let measured = |name: &str, watts: f64| {
        let counter = Counter::new(name, watts);
        let work = || -> Result<u64, Error> {
            std::thread::sleep(ms(2));
            Ok(2)
        };
        checks::joule(&Sensors::discover(&counter.folder.0), protocol, 5.0, work).unwrap()
    };
    let (frugal, hungry) = (measured("frugal", 0.1), measured("hungry", 50.0));
    assert!(passes(&frugal), "{frugal:?}");
    assert!(fails(&hungry) && hungry.value.unwrap() > 49.0, "{hungry:?}");
    let folder = Folder::new("no-counter");
    let none = checks::joule(&Sensors::discover(&folder.0), protocol, 5.0, || Ok(1)).unwrap();
    assert!(untestable(&none), "{none:?}");
}

#[test]
fn fidelity_sees_a_changed_model() {
    let mut random = Random::new(1, 1);
    let expected: Vec<f32> = (0..200 * 32).map(|_| random.normal() as f32).collect();
    assert!(passes(&checks::fidelity(&expected, &expected, 32, 0.99)));
    let near: Vec<f32> = expected.iter().map(|x| x + 1e-6).collect();
    assert!(passes(&checks::fidelity(&near, &expected, 32, 0.99)));
    let noisy: Vec<f32> = expected.iter().map(|x| x + 0.5 * random.normal() as f32).collect();
    assert!(fails(&checks::fidelity(&noisy, &expected, 32, 0.99)));
    // Always the same token: agreement that means nothing.
    let constant: Vec<f32> = (0..200 * 32).map(|i| if i % 32 == 3 { 1.0 } else { 0.0 }).collect();
    assert!(untestable(&checks::fidelity(&constant, &constant, 32, 0.99)));
    assert!(untestable(&checks::fidelity(&expected[..320], &expected[..320], 32, 0.99)));
    assert!(untestable(&checks::fidelity(&[], &[], 0, 0.99)));
}

#[test]
fn latency_sees_a_slow_step() {
    let pause = |time: Duration| {
        move || -> Result<(), Error> {
            std::thread::sleep(time);
            Ok(())
        }
    };
    assert!(passes(&checks::latency(20, 15.0, pause(Duration::from_micros(100))).unwrap()));
    assert!(fails(&checks::latency(3, 15.0, pause(Duration::from_millis(90))).unwrap()));
    assert!(untestable(&checks::latency(0, 15.0, pause(Duration::ZERO)).unwrap()));
    assert!(checks::latency(1, 15.0, || Err(Error::Cancelled)).is_err());
}

#[test]
fn thermal_sees_a_machine_that_grows_hot() {
    let folder = Folder::new("hot");
    let zone = folder.file("sys/class/thermal/thermal_zone0/temp", "40000\n");
    folder.file("sys/class/hwmon/hwmon0/temp1_input", "35000\n");
    let reached = |degrees: u32| {
        fs::write(&zone, "40000\n").unwrap();
        checks::thermal(&folder.0, Duration::ZERO, 15.0, || {
            fs::write(&zone, format!("{degrees}000\n")).unwrap();
            Ok(())
        })
        .unwrap()
    };
    assert!(passes(&reached(50)) && (reached(50).value.unwrap() - 10.0).abs() < 1e-9);
    assert!(fails(&reached(60)));
    let none = Folder::new("no-sensor");
    assert!(untestable(&checks::thermal(&none.0, Duration::ZERO, 15.0, || Ok(())).unwrap()));
}

#[test]
fn numerical_sees_other_bits_and_other_spikes() {
    let same = ["a", "a", "a"].map(str::to_owned);
    let fired: Vec<bool> = (0..100).map(|i| i % 7 == 0).collect();
    assert!(passes(&checks::numerical(&same, &fired, &fired, 1.0)));
    let one_other = ["a", "a", "b"].map(str::to_owned);
    assert!(fails(&checks::numerical(&one_other, &fired, &fired, 1.0)));
    let mut late = fired.clone();
    late.rotate_right(1);
    assert!(fails(&checks::numerical(&same, &late, &fired, 1.0)));
    // The seed's test passed for neurons that cannot fire.
    assert!(untestable(&checks::numerical(&same, &[false; 100], &[false; 100], 1.0)));
    assert!(untestable(&checks::numerical(&same[..1], &fired, &fired, 1.0)));
}

#[test]
fn sparsity_sees_neurons_that_matter() {
    // The loss of leaving out a share: nothing up to an edge, then steep.
    let edge =
        |edge: f64| move |share: f64| -> Result<(f64, f64), Error> { Ok((1.5 + (share - edge).max(0.0) * 4.0, share)) };
    let found = checks::sparsity(0.02, 0.9, edge(0.95)).unwrap();
    assert!(passes(&found) && (found.value.unwrap() - 0.95).abs() < 0.02, "{found:?}");
    assert!(fails(&checks::sparsity(0.02, 0.9, edge(0.5)).unwrap()));
    // A loss that does not see the neurons would call all of them useless.
    assert!(untestable(&checks::sparsity(0.02, 0.9, |share| Ok((1.5, share))).unwrap()));
    assert!(untestable(&checks::sparsity(0.02, 0.9, |share| Ok((f64::NAN, share))).unwrap()));
}

#[test]
fn topology_sees_another_shape() {
    let mut random = Random::new(2, 1);
    let cloud: Vec<f32> = (0..60 * 4).map(|_| random.normal() as f32).collect();
    assert!(passes(&checks::topology(&cloud, &cloud, 4, 0.1).unwrap()));
    let near: Vec<f32> = cloud.iter().map(|x| x + 0.001 * random.normal() as f32).collect();
    assert!(passes(&checks::topology(&near, &cloud, 4, 0.1).unwrap()));
    let other: Vec<f32> = (0..60 * 4).map(|_| 2.0 * random.normal() as f32).collect();
    assert!(fails(&checks::topology(&other, &cloud, 4, 0.1).unwrap()));
    let line: Vec<f32> = (0..240).map(|i| i as f32).collect();
    assert!(untestable(&checks::topology(&line, &line, 4, 0.1).unwrap()), "a line has no loops");
}

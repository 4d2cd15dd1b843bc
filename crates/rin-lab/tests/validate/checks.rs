//! The checks over things made for them.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rin_energy::Sensors;
use rin_energy::protocol::Protocol;
use rin_lab::Error;
use rin_lab::random::Random;
use rin_lab::validate::checks::{MOST_KL, Way};
use rin_lab::validate::{Measured, Status, Thermometers, Watch, checks, thermal};

use crate::machine::{Counter, Folder, short};

pub(crate) fn passes(found: &Measured) -> bool {
    found.status == Status::Pass
}

pub(crate) fn fails(found: &Measured) -> bool {
    found.status == Status::Fail && found.value.is_some()
}

pub(crate) fn untestable(found: &Measured) -> bool {
    matches!(found.status, Status::NotTestableHere(_)) && found.value.is_none()
}

#[test]
fn joule_sees_a_hungry_machine() {
    // A unit takes a thousandth of a second or longer: at 0.1 W no more than ten times 0.1 mJ, at 50 W no less than 50 mJ.
    let work = || -> Result<u64, Error> {
        std::thread::sleep(Duration::from_millis(2));
        Ok(2)
    };
    let measured = |name: &str, watts: f64, protocol: Protocol| {
        let counter = Counter::new(name, watts);
        checks::joule(&Sensors::discover(&counter.folder.0), protocol, 5.0, work).unwrap()
    };
    let (frugal, hungry) = (measured("frugal", 0.1, short()), measured("hungry", 50.0, short()));
    assert!(passes(&frugal), "{frugal:?}");
    assert!(fails(&hungry) && hungry.value.unwrap() > 49.0, "{hungry:?}");
    let few = measured("few", 0.1, Protocol { rounds: 2, ..short() });
    assert!(untestable(&few), "two windows have no interval: {few:?}");
    let folder = Folder::new("no-counter");
    let none = checks::joule(&Sensors::discover(&folder.0), short(), 5.0, || Ok(1)).unwrap();
    assert!(untestable(&none), "{none:?}");
}

#[test]
fn joule_is_judged_on_the_interval() {
    let counter = Counter::new("one-hungry-window", 0.002);
    let sum = Arc::clone(&counter.microjoules);
    let pause = Duration::from_millis(300);
    let (mut window, mut last) = (0, Instant::now());
    // 1 mJ a unit in each window but the last, which takes ten times as much.
    let work = || -> Result<u64, Error> {
        window += u32::from(last.elapsed() > pause / 2);
        std::thread::sleep(Duration::from_millis(2));
        sum.fetch_add(if window == 6 { 10_000 } else { 1000 }, Ordering::Relaxed);
        last = Instant::now();
        Ok(1)
    };
    let protocol = Protocol { idle: pause, ..short() };
    let found = checks::joule(&Sensors::discover(&counter.folder.0), protocol, 5.0, work).unwrap();
    assert!(fails(&found) && found.value.unwrap() < 5.0 && found.ci95.unwrap()[1] > 5.0, "{found:?}");
}

#[test]
fn fidelity_sees_a_changed_model() {
    let mut random = Random::new(1, 1);
    let expected: Vec<f32> = (0..200 * 32).map(|_| random.normal() as f32).collect();
    let targets: Vec<u32> = (0..200).map(|_| random.below(32) as u32).collect();
    let fidelity = |found: &[f32]| checks::fidelity(found, &expected, &targets, 32, 0.99);
    assert!(passes(&fidelity(&expected)));
    let near: Vec<f32> = expected.iter().map(|x| x + 1e-6).collect();
    assert!(passes(&fidelity(&near)));
    let noisy: Vec<f32> = expected.iter().map(|x| x + 0.5 * random.normal() as f32).collect();
    assert!(fails(&fidelity(&noisy)));
    // Everywhere the same first token, and another certainty: what ranks alone do not see.
    let blunt: Vec<f32> = expected.iter().map(|x| 0.8 * x).collect();
    let found = fidelity(&blunt);
    assert!(fails(&found) && found.value.unwrap() > 0.999, "{found:?}");
    assert!(found.beside[0].value.unwrap() > MOST_KL, "{found:?}");
    let mut no_number = expected.clone();
    no_number[77] = f32::NAN;
    assert!(fails(&fidelity(&no_number)));
    // Always the same token: agreement that means nothing.
    let constant: Vec<f32> = (0..200 * 32).map(|i| if i % 32 == 3 { 1.0 } else { 0.0 }).collect();
    assert!(untestable(&checks::fidelity(&constant, &constant, &targets, 32, 0.99)));
    assert!(untestable(&checks::fidelity(&expected[..320], &expected[..320], &targets[..10], 32, 0.99)));
    assert!(untestable(&checks::fidelity(&expected[32..], &expected, &targets, 32, 0.99)));
    assert!(untestable(&checks::fidelity(&[], &[], &[], 0, 0.99)));
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

/// What sensors say while the work does `to` to the files of the first of two, which stand at 40 and 35 °C.
fn heated(name: &str, to: impl Fn(u32, &std::path::Path)) -> Measured {
    let folder = Folder::new(name);
    let zone = folder.file("sys/class/thermal/thermal_zone0/temp", "40000\n");
    folder.file("sys/class/hwmon/hwmon0/temp1_input", "35000\n");
    let watch = Watch::new(Duration::from_millis(200), Duration::from_millis(10)).unwrap();
    let mut times = 0;
    thermal(&Thermometers::read(&folder.0), watch, 15.0, || {
        std::thread::sleep(Duration::from_millis(1));
        times += 1;
        to(times, &zone);
        Ok(())
    })
    .unwrap()
}

#[test]
fn thermal_sees_a_machine_that_grows_hot() {
    let reached = |degrees: u32| {
        heated(&format!("hot-{degrees}"), move |_, zone| fs::write(zone, format!("{degrees}000\n")).unwrap())
    };
    let warm = reached(50);
    assert!(passes(&warm) && (warm.value.unwrap() - 10.0).abs() < 1e-9, "{warm:?}");
    let curve = warm.curve.unwrap();
    assert!(curve.y.contains("sys/class/thermal/thermal_zone0/temp"), "{}", curve.y);
    assert!((5..=22).contains(&curve.points.len()), "a reading each 10 ms of 200: {}", curve.points.len());
    assert!(fails(&reached(60)));
    // A sensor that falls is told as it is.
    let cooler = reached(38);
    assert!(passes(&cooler) && (cooler.value.unwrap() - 0.0).abs() < 1e-9, "the other did not move: {cooler:?}");
    // It peaked in between.
    let peak = heated("peak", |times, zone| {
        let text = if (1..30).contains(&times) { "60000\n" } else { "41000\n" };
        fs::write(zone, text).unwrap();
    });
    assert!(fails(&peak), "{peak:?}");
}

#[test]
fn thermal_passes_no_sensor_that_is_gone_or_fixed() {
    let fixed = heated("fixed", |_, _| {});
    assert!(untestable(&fixed), "{fixed:?}");
    let gone = heated("gone", |_, zone| drop(fs::remove_file(zone)));
    assert!(untestable(&gone), "{gone:?}");
    let later = heated("later", |times, zone| {
        if times == 20 {
            fs::remove_file(zone).unwrap();
        } else if times < 20 {
            fs::write(zone, "42000\n").unwrap();
        }
    });
    let Status::NotTestableHere(why) = &later.status else { panic!("{later:?}") };
    assert!(why.contains("of 2 sensors 1 stopped to be read and 1 never changed"), "{why}");
    // Too hot before it went.
    let burnt = heated("burnt", |times, zone| {
        if times < 60 {
            fs::write(zone, "90000\n").unwrap();
        } else {
            drop(fs::remove_file(zone));
        }
    });
    assert!(fails(&burnt), "{burnt:?}");
    let (none, watch) = (Folder::new("no-sensor"), Watch::for_seconds(10).unwrap());
    assert!(untestable(&thermal(&Thermometers::read(&none.0), watch, 15.0, || Ok(())).unwrap()));
}

#[test]
fn too_short_a_watch_is_refused() {
    assert!(Watch::for_seconds(0).is_err() && Watch::for_seconds(Watch::LEAST_SECONDS - 1).is_err());
    assert!(Watch::new(Duration::from_secs(1), Duration::ZERO).is_err());
    let long = Watch::new(Duration::from_hours(10), Duration::from_mins(1)).unwrap();
    assert_eq!(Watch::for_seconds(36_000).unwrap(), long, "the log does not grow with the time");
}

#[test]
fn numerical_sees_other_bits_and_other_spikes() {
    let ways =
        |digests: [&str; 3]| digests.map(|digest| Way { name: format!("way {digest}"), digest: digest.to_owned() });
    let same = ways(["a", "a", "a"]);
    let fired: Vec<bool> = (0..100).map(|i| i % 7 == 0).collect();
    assert!(passes(&checks::numerical(&same, &fired, &fired, 1.0)));
    let other = checks::numerical(&ways(["a", "a", "b"]), &fired, &fired, 1.0);
    assert!(fails(&other) && other.detail.contains("not way b"), "{other:?}");
    let mut late = fired.clone();
    late.rotate_right(1);
    assert!(fails(&checks::numerical(&same, &late, &fired, 1.0)));
    // The seed's test passed for neurons that cannot fire.
    assert!(untestable(&checks::numerical(&same, &[false; 100], &[false; 100], 1.0)));
    assert!(untestable(&checks::numerical(&same[..1], &fired, &fired, 1.0)));
}

#[test]
fn sparsity_sees_neurons_that_matter() {
    let shares = [0.2, 0.4, 0.6, 0.8, 0.9, 0.95];
    // The loss of leaving out a share: nothing up to an edge, then steep.
    let edge =
        |edge: f64| move |share: f64| -> Result<(f64, f64), Error> { Ok((1.5 + (share - edge).max(0.0) * 4.0, share)) };
    let found = checks::sparsity(0.02, 0.9, &shares, edge(0.93)).unwrap();
    assert!(passes(&found) && (found.value.unwrap() - 0.9).abs() < 1e-9, "{found:?}");
    assert_eq!(found.curve.unwrap().points.len(), 8);
    assert!(fails(&checks::sparsity(0.02, 0.9, &shares, edge(0.5)).unwrap()));
    // A hill at 0.4: beyond it the loss is small again, and those shares do not count.
    let hill = |share: f64| Ok((if (share - 0.4).abs() < 0.01 || share > 0.97 { 2.0 } else { 1.5 }, share));
    let found = checks::sparsity(0.02, 0.9, &shares, hill).unwrap();
    assert!(fails(&found) && (found.value.unwrap() - 0.2).abs() < 1e-9, "{found:?}");
    // Shares that were really left out count, not those that were asked for.
    let really = |share: f64| Ok((if share >= 1.0 { 9.0 } else { 1.5 }, 0.5 * share));
    assert!(fails(&checks::sparsity(0.02, 0.9, &shares, really).unwrap()));
    // A loss that does not see the neurons would call all of them useless.
    assert!(untestable(&checks::sparsity(0.02, 0.9, &shares, |share| Ok((1.5, share))).unwrap()));
    assert!(untestable(&checks::sparsity(0.02, 0.9, &shares, |share| Ok((f64::NAN, share))).unwrap()));
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

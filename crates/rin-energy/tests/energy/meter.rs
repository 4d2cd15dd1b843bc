//! What goes wrong between two readings.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rin_energy::{Error, Record, Status};

use crate::fake::{EACCES, EINVAL, EIO, ENODEV, Fake, MAX_14, watts, zone};

fn two_packages() -> Fake {
    let fake = Fake::new();
    fake.zone("intel-rapl:0", "package-0", MAX_14, watts(20.0, MAX_14)).zone(
        "intel-rapl:1",
        "package-1",
        MAX_14,
        watts(30.0, MAX_14),
    );
    fake
}

fn energy(id: &str) -> String {
    format!("{}/energy_uj", zone(id))
}

/// A package whose counter is set by the test.
fn set() -> (Fake, Arc<AtomicU64>) {
    let (fake, value) = (Fake::new(), Arc::new(AtomicU64::new(0)));
    let shown = Arc::clone(&value);
    fake.zone("intel-rapl:0", "package-0", MAX_14, move |_| shown.load(Ordering::Relaxed));
    (fake, value)
}

#[test]
fn a_failing_domain_leaves_the_others_and_no_sum() {
    for errno in [ENODEV, EINVAL, EIO] {
        let fake = two_packages();
        let meter = fake.meter();
        let began = meter.read();
        fake.pass(1.0).fails(&energy("intel-rapl:1"), errno);
        let found = meter.between(&began, &meter.read()).unwrap();
        let vanished = Error::DomainVanished { name: "package-1".to_owned(), errno: Some(errno) };
        assert_eq!(found.joules(), Err(vanished));
        assert!((found.lines[0].joules.as_ref().unwrap() - 20.0).abs() < 0.1);
        assert_eq!(found.joules_per(10), None);
    }
    let fake = two_packages();
    let meter = fake.meter();
    let began = meter.read();
    fake.pass(1.0).fails(&energy("intel-rapl:1"), EACCES);
    let found = meter.between(&began, &meter.read()).unwrap();
    assert!(matches!(found.joules(), Err(Error::PermissionDenied { .. })), "taken away meanwhile");
}

#[test]
fn a_zone_that_is_removed_has_vanished_and_one_that_appears_is_ignored() {
    let fake = two_packages();
    let meter = fake.meter();
    let began = meter.read();
    fake.pass(1.0).remove(&zone("intel-rapl:1")).zone("intel-rapl:2", "package-2", MAX_14, watts(9.0, MAX_14));
    let found = meter.between(&began, &meter.read()).unwrap();
    assert!(matches!(found.joules(), Err(Error::DomainVanished { name, .. }) if name == "package-1"));
    assert_eq!(found.lines.len(), 2);
    // It stays so.
    let began = meter.read();
    fake.pass(1.0);
    assert!(meter.between(&began, &meter.read()).unwrap().joules().is_err());
}

#[test]
fn garbage_is_no_figure_and_the_meter_recovers() {
    let long = [b'7'; 5000];
    for bytes in [&b""[..], b"\n", b"abc\n", b"-1\n", b"1e6\n", b"18446744073709551616\n", b"12\0\n", b"1 2\n", &long] {
        let (fake, _) = set();
        let meter = fake.meter();
        let began = meter.read();
        fake.pass(1.0).bytes(&energy("intel-rapl:0"), bytes);
        let found = meter.between(&began, &meter.read()).unwrap();
        let Err(Error::Malformed { path, text }) = found.joules() else { panic!("{bytes:?}") };
        assert!(path.ends_with("energy_uj") && text.chars().count() <= 30, "{text}");
        fake.bytes(&energy("intel-rapl:0"), b"0");
        let began = meter.read();
        fake.pass(1.0).bytes(&energy("intel-rapl:0"), b"7000000");
        assert!((meter.between(&began, &meter.read()).unwrap().joules().unwrap() - 7.0).abs() < 1e-3);
    }
}

#[test]
fn a_wrap_is_counted_and_two_are_refused() {
    let (fake, value) = set();
    value.store(MAX_14 - 1_000_000, Ordering::Relaxed);
    let meter = fake.meter();
    let began = meter.read();
    fake.pass(1.0);
    value.store(2_000_000, Ordering::Relaxed);
    let found = meter.between(&began, &meter.read()).unwrap();
    assert!((found.joules().unwrap() - 3.000_061).abs() < 1e-4, "{found:?}");
    // Nobody read it for an hour, in which it may have wrapped many times.
    let began = meter.read();
    fake.pass(3600.0);
    value.store(90_000_000, Ordering::Relaxed);
    let found = meter.between(&began, &meter.read()).unwrap();
    let Err(Error::AmbiguousWrap { elapsed, wrap_min, .. }) = found.joules() else { panic!("{found:?}") };
    assert_eq!((elapsed.as_secs(), wrap_min.as_secs()), (3600, 262));
    // Read often enough, an hour is no difficulty.
    let began = meter.read();
    for minute in 1..=60 {
        fake.pass(60.0);
        value.store((90_000_000 + minute * 6_000_000_000) % (MAX_14 + 61), Ordering::Relaxed);
        meter.read();
    }
    assert!((meter.between(&began, &meter.read()).unwrap().joules().unwrap() - 360_000.0).abs() < 1.0);
    assert!(meter.interval() <= Duration::from_secs(30));
}

#[test]
fn a_counter_above_its_range_is_no_figure_and_the_meter_recovers() {
    let (fake, value) = set();
    let meter = fake.meter();
    let began = meter.read();
    fake.pass(1.0);
    value.store(MAX_14 + 1, Ordering::Relaxed);
    let found = meter.between(&began, &meter.read()).unwrap();
    let Err(Error::Malformed { path, text }) = found.joules() else { panic!("{found:?}") };
    assert!(path.ends_with("energy_uj") && text.contains("above its range of 262143328850"), "{text}");
    // The sum goes on from the last reading that was one.
    value.store(4_000_000, Ordering::Relaxed);
    let began = meter.read();
    fake.pass(1.0);
    value.store(9_000_000, Ordering::Relaxed);
    assert!((meter.between(&began, &meter.read()).unwrap().joules().unwrap() - 5.0).abs() < 1e-3);
}

#[test]
fn limits_of_the_machine_raise_what_is_possible() {
    let above = |limit: Option<&str>| {
        let (fake, value) = set();
        if let Some(limit) = limit {
            fake.file(&format!("{}/constraint_0_power_limit_uw", zone("intel-rapl:0")), limit);
        }
        let meter = fake.meter();
        let began = meter.read();
        fake.pass(1.0);
        value.store(700_000_000, Ordering::Relaxed);
        meter.between(&began, &meter.read()).unwrap().joules()
    };
    assert!(matches!(above(None), Err(Error::ImpossiblePower { limit: 500.0, .. })));
    assert!(above(Some("400000000")).is_ok(), "twice 400 W are possible for a while");
    // What some firmware says in place of none is no limit.
    assert!(matches!(above(Some("4611686018427387904")), Err(Error::ImpossiblePower { limit: 500.0, .. })));
}

#[test]
fn a_counter_that_stands_still_is_no_zero() {
    let (fake, value) = set();
    value.store(5_000_000, Ordering::Relaxed);
    let mut meter = fake.meter();
    let waiting = meter.edge();
    assert!(!waiting.aligned(), "gives up");
    let waited = meter.edge().at() - waiting.at();
    assert!(waited >= Duration::from_millis(5) && waited < Duration::from_millis(6), "{waited:?}");
    meter.start().unwrap();
    fake.pass(2.0);
    let found = meter.stop().unwrap();
    let Err(Error::BelowResolution { joules, uncertainty, .. }) = found.joules() else { panic!("{found:?}") };
    assert!(joules == 0.0 && uncertainty > 0.0);
    let record = Record::of(&Ok(found), 100);
    assert_eq!((record.status, record.joules, record.joules_per_token), (Status::Unmeasured, None, None));
    assert!(record.reason.is_some_and(|reason| reason.contains("measure longer")));
    assert_eq!(meter.stop().unwrap_err(), Error::NotStarted);
}

#[test]
fn edges_of_the_counter_sharpen_a_figure() {
    let fake = Fake::new();
    fake.zone("intel-rapl:0", "package-0", MAX_14, watts(100.0, MAX_14));
    let meter = fake.meter();
    let measure = |aligned: bool| {
        let reading = || if aligned { meter.edge() } else { meter.read() };
        let began = reading();
        fake.pass(0.200_4);
        let ended = reading();
        assert_eq!((began.aligned(), ended.aligned()), (aligned, aligned));
        meter.between(&began, &ended).unwrap()
    };
    let (plain, sharp) = (measure(false), measure(true));
    // 100 W and updates every ms: 0.1 J at either end, over √6.
    assert!((plain.uncertainty - 0.1 / 6_f64.sqrt()).abs() < 1e-3, "{}", plain.uncertainty);
    assert!(sharp.uncertainty < plain.uncertainty / 100.0, "{}", sharp.uncertainty);
    assert!((sharp.watts().unwrap() - 100.0).abs() < 0.05, "{:?}", sharp.watts());
}

#[test]
fn a_suspended_machine_measures_nothing() {
    let fake = two_packages();
    let meter = fake.meter();
    let began = meter.read();
    fake.pass(1.0).suspend(30.0);
    assert_eq!(meter.between(&began, &meter.read()), Err(Error::Suspended { seconds: 30.0 }));
}

#[test]
fn no_tokens_take_no_energy_each() {
    let fake = two_packages();
    let meter = fake.meter();
    let began = meter.read();
    fake.pass(1.0);
    let found = meter.between(&began, &meter.read()).unwrap();
    assert_eq!(found.joules_per(0), None);
    assert!((found.joules_per(10).unwrap() - 5.0).abs() < 0.1);
    let record = Record::of(&Ok(found), 10);
    assert_eq!((record.status, record.source.as_deref()), (Status::Measured, Some("powercap (package)")));
    assert_eq!((record.reason, record.estimate), (None, None));
}

#[test]
fn short_spans_add_up() {
    let fake = two_packages();
    let meter = fake.meter();
    let mut spans = Vec::new();
    for _ in 0..100 {
        let began = meter.read();
        fake.pass(0.000_5);
        spans.push(meter.span(&began, &meter.read()).unwrap());
        fake.pass(0.1);
    }
    // A span is shorter than an update: one alone holds nothing or all of it.
    assert!(spans.iter().any(|span| span.joules == 0.0) && spans.iter().any(|span| span.joules > 0.04));
    let record = Record::sum(&spans, 10, &meter);
    let joules = record.joules.unwrap();
    assert!((joules - 50.0 * 0.05).abs() < 6.0 * record.uncertainty_joules.unwrap(), "{record:?}");
    assert_eq!(Record::sum(&[], 10, &meter).status, Status::Unmeasured);
    let began = meter.read();
    fake.pass(1.0).fails(&energy("intel-rapl:1"), EIO);
    assert!(matches!(meter.span(&began, &meter.read()), Err(Error::DomainVanished { .. })));
}

#[test]
fn reading_opens_nothing() {
    let fake = two_packages();
    let meter = fake.meter();
    let opened = fake.opened();
    for _ in 0..100 {
        meter.read();
    }
    assert_eq!(fake.opened(), opened);
}

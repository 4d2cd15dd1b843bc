//! The performance events of the `power` unit.

use rin_energy::{DomainKind, Error, Source, SourceState};

use crate::fake::{EACCES, ENODEV, EPERM, Fake, MAX_14, watts};

const FOLDER: &str = "sys/bus/event_source/devices/power";
const SCALE: &str = "2.3283064365386962890625e-10";
const PMU: u32 = 32;

/// A unit with events of some numbers on some processors.
fn unit(cpumask: &str, events: &[(&str, &str)]) -> Fake {
    let fake = Fake::new();
    fake.file(&format!("{FOLDER}/type"), "32").file(&format!("{FOLDER}/cpumask"), cpumask);
    for (event, config) in events {
        fake.file(&format!("{FOLDER}/events/{event}"), config)
            .file(&format!("{FOLDER}/events/{event}.unit"), "Joules")
            .file(&format!("{FOLDER}/events/{event}.scale"), SCALE);
    }
    fake
}

/// A counter in 2⁻³² J.
fn counts(watts: f64) -> impl Fn(f64) -> u64 + Send {
    move |seconds| ((seconds * 1e3).floor() / 1e3 * watts * 4_294_967_296.0) as u64
}

fn failure(fake: &Fake) -> Error {
    match &fake.sensors().sources()[0].state {
        SourceState::Failed(error) => error.clone(),
        other => panic!("{other}"),
    }
}

#[test]
fn packages_memory_and_platform() {
    let events = [("energy-pkg", "event=0x02"), ("energy-ram", "event=0x03"), ("energy-psys", "event=0x05")];
    let fake = unit("0,64", &events);
    for (cpu, package) in [(0, "0"), (64, "1")] {
        fake.file(&format!("sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id"), package);
        fake.counter((PMU, 2, cpu), counts(100.0)).counter((PMU, 3, cpu), counts(10.0));
    }
    fake.counter((PMU, 5, 0), counts(300.0)).file(&format!("{FOLDER}/events/energy-new"), "event=0x09");
    // The same counters as files are not read beside them.
    fake.zone("intel-rapl:0", "package-0", MAX_14, watts(100.0, MAX_14));
    let meter = fake.meter();
    assert_eq!(meter.source(), Source::Perf);
    let names: Vec<_> = meter.domains().iter().map(|domain| domain.name.as_str()).collect();
    assert_eq!(names, ["package-0", "package-1", "package-0/dram", "package-1/dram", "psys"]);
    let began = meter.read();
    fake.pass(2.0);
    let found = meter.between(&began, &meter.read()).unwrap();
    assert_eq!(found.covers, Some(DomainKind::Package));
    assert!((found.joules().unwrap() - 400.0).abs() < 0.5 && (found.dram_joules().unwrap() - 40.0).abs() < 0.1);
    assert!(fake.sensors().sources()[0].notes.join("").contains("`energy-new`"));
}

#[test]
fn dies_of_one_package_have_names_of_their_own() {
    let fake = unit("0-1,64", &[("energy-pkg", "event=0x02")]);
    for (cpu, package, die) in [(0, "0", "0"), (1, "0", "1"), (64, "1", "0")] {
        let topology = format!("sys/devices/system/cpu/cpu{cpu}/topology");
        fake.file(&format!("{topology}/physical_package_id"), package).file(&format!("{topology}/die_id"), die);
        fake.counter((PMU, 2, cpu), counts(1.0));
    }
    let meter = fake.meter();
    let names: Vec<_> = meter.domains().iter().map(|domain| domain.name.as_str()).collect();
    assert_eq!(names, ["package-0-die-0", "package-0-die-1", "package-1"]);
}

#[test]
fn permission_is_refused_with_the_remedy() {
    for errno in [EACCES, EPERM] {
        let fake = unit("0", &[("energy-pkg", "event=0x02")]);
        fake.counter_fails((PMU, 2, 0), errno);
        let Error::PermissionDenied { path, remedy } = failure(&fake) else { panic!() };
        assert!(path.ends_with("events/energy-pkg"));
        assert!(remedy.contains("perf_event_paranoid") && remedy.contains("cap_perfmon"), "{remedy}");
        // Files may be open where events are closed.
        fake.zone("intel-rapl:0", "package-0", MAX_14, watts(20.0, MAX_14));
        assert_eq!(fake.meter().source(), Source::Powercap);
    }
}

#[test]
fn files_of_the_unit_have_to_be_whole() {
    let event = || unit("0", &[("energy-pkg", "event=0x02")]);
    let scale = format!("{FOLDER}/events/energy-pkg.scale");
    let fake = event();
    fake.remove(&scale);
    assert!(matches!(failure(&fake), Error::Incomplete { path } if path.ends_with("energy-pkg.scale")));
    for (file, text) in [
        ("events/energy-pkg.scale", "0"),
        ("events/energy-pkg.scale", "-1e-10"),
        ("events/energy-pkg.scale", "nan"),
        ("events/energy-pkg.scale", ""),
        ("events/energy-pkg.unit", "Watts"),
        ("events/energy-pkg", "config=2"),
        ("events/energy-pkg", "event=0xzz"),
        ("cpumask", "0-"),
        ("type", "4294967296"),
        ("type", "power"),
    ] {
        let fake = event();
        fake.file(&format!("{FOLDER}/{file}"), text);
        let error = failure(&fake);
        assert!(matches!(&error, Error::Malformed { path, .. } if path.ends_with(file)), "{file} {text}: {error}");
    }
}

#[test]
fn a_short_read_is_no_value() {
    let fake = unit("0", &[("energy-pkg", "event=0x02")]);
    fake.short_counter((PMU, 2, 0), &[1, 2, 3, 4]);
    assert_eq!(failure(&fake), Error::ShortRead { name: "package-0".to_owned(), bytes: 4 });
}

#[test]
fn a_counter_that_goes_back_is_no_figure() {
    // The kernel adds signed differences of 32 bits: unread for long enough at high power, its sum goes back.
    let fake = unit("0", &[("energy-pkg", "event=0x02")]);
    fake.counter((PMU, 2, 0), |seconds| if seconds < 1.0 { 9_000 } else { 8_000 });
    let meter = fake.meter();
    let began = meter.read();
    fake.pass(2.0);
    let found = meter.between(&began, &meter.read()).unwrap();
    assert_eq!(found.joules(), Err(Error::Backwards { name: "package-0".to_owned(), prev: 9_000, cur: 8_000 }));
}

#[test]
fn a_processor_that_is_taken_away_ends_its_package() {
    let fake = unit("0,64", &[("energy-pkg", "event=0x02")]);
    for (cpu, package) in [(0, "0"), (64, "1")] {
        fake.file(&format!("sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id"), package);
        fake.counter((PMU, 2, cpu), counts(100.0));
    }
    let meter = fake.meter();
    let began = meter.read();
    fake.pass(1.0).counter_fails((PMU, 2, 64), ENODEV);
    let found = meter.between(&began, &meter.read()).unwrap();
    let vanished = Error::DomainVanished { name: "package-1".to_owned(), errno: Some(ENODEV) };
    assert_eq!(found.joules(), Err(vanished));
    assert!((found.lines[0].joules.as_ref().unwrap() - 100.0).abs() < 0.5, "the other one counts on");
}

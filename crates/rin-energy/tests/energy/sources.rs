//! Layouts of powercap, hardware monitors and batteries.

use rin_energy::{DomainKind, Error, Measurement, Source, SourceState};

use crate::fake::{EACCES, Fake, MAX_14, MAX_16, MAX_DRAM, watts, zone};

/// The lines of a second, by name, with their watts.
fn second(fake: &Fake) -> (Measurement, Vec<(String, f64)>) {
    let meter = fake.meter();
    let began = meter.read();
    fake.pass(1.0);
    let found = meter.between(&began, &meter.read()).unwrap();
    let seconds = found.time.as_secs_f64();
    let watts = |joules: f64| (joules / seconds * 10.0).round() / 10.0;
    let mut lines: Vec<_> =
        found.lines.iter().map(|line| (line.domain.name.clone(), watts(*line.joules.as_ref().unwrap()))).collect();
    lines.sort_by(|a, b| a.0.cmp(&b.0));
    (found, lines)
}

fn named(lines: &[(&str, f64)]) -> Vec<(String, f64)> {
    lines.iter().map(|(name, watts)| ((*name).to_owned(), *watts)).collect()
}

fn notes(fake: &Fake, source: Source) -> String {
    fake.sensors().sources().iter().find(|report| report.source == source).unwrap().notes.join("\n")
}

fn state(fake: &Fake, source: Source) -> SourceState {
    fake.sensors().sources().iter().find(|report| report.source == source).unwrap().state.clone()
}

#[test]
fn a_client_of_intel() {
    let fake = Fake::new();
    fake.zone("intel-rapl:0", "package-0", MAX_14, watts(20.0, MAX_14))
        .zone("intel-rapl:0:0", "core", MAX_14, watts(12.0, MAX_14))
        .zone("intel-rapl:0:1", "uncore", MAX_14, watts(1.0, MAX_14));
    let (found, lines) = second(&fake);
    assert_eq!(lines, named(&[("package-0", 20.0), ("package-0/core", 12.0), ("package-0/uncore", 1.0)]));
    // Cores and graphics are inside the package.
    assert!((found.joules().unwrap() - 20.0).abs() < 0.1, "{found:?}");
    assert_eq!((found.covers, found.source, found.dram_joules()), (Some(DomainKind::Package), Source::Powercap, None));
}

#[test]
fn a_server_with_two_sockets_and_memory() {
    let fake = Fake::new();
    fake.zone("intel-rapl:0", "package-0", MAX_14, watts(150.0, MAX_14))
        .zone("intel-rapl:0:0", "dram", MAX_DRAM, watts(15.3, MAX_DRAM))
        .zone("intel-rapl:1", "package-1", MAX_14, watts(100.0, MAX_14))
        .zone("intel-rapl:1:0", "dram", MAX_DRAM, watts(15.3, MAX_DRAM));
    let (found, lines) = second(&fake);
    // The kernel takes 15.3 µJ for a step of 2⁻¹⁶ J: the true power of the memory is 0.27 % lower.
    let expected = [("package-0", 150.0), ("package-0/dram", 15.3), ("package-1", 100.0), ("package-1/dram", 15.3)];
    assert_eq!(lines, named(&expected));
    assert!((found.joules().unwrap() - 250.0).abs() < 0.3, "{found:?}");
    let dram = found.dram_joules().unwrap();
    assert!((dram - 2.0 * 15.3 * 15_258.789 / 15_300.0).abs() < 0.04, "{dram}");
}

#[test]
fn amd_shows_a_package_and_its_cores() {
    let fake = Fake::new();
    fake.zone("intel-rapl:0", "package-0", MAX_16, watts(65.0, MAX_16)).zone(
        "intel-rapl:0:0",
        "core",
        MAX_16,
        watts(8.0, MAX_16),
    );
    let (found, lines) = second(&fake);
    assert_eq!(lines, named(&[("package-0", 65.0), ("package-0/core", 8.0)]));
    let truth = 65.0 * 15_258.789_062_5 / 15_258.0;
    assert!((found.joules().unwrap() - truth).abs() < 0.1);
}

#[test]
fn dies_are_added_up() {
    let fake = Fake::new();
    fake.zone("intel-rapl:0", "package-0-die-0", MAX_14, watts(70.0, MAX_14)).zone(
        "intel-rapl:1",
        "package-0-die-1",
        MAX_14,
        watts(50.0, MAX_14),
    );
    let (found, lines) = second(&fake);
    assert_eq!(lines, named(&[("package-0-die-0", 70.0), ("package-0-die-1", 50.0)]));
    assert!((found.joules().unwrap() - 120.0).abs() < 0.3);
}

#[test]
fn zones_beyond_the_tenth_have_hexadecimal_numbers() {
    let fake = Fake::new();
    for n in 0..12_u32 {
        let id = format!("intel-rapl:{n:x}");
        fake.zone(&id, &format!("package-{n}"), MAX_14, watts(10.0, MAX_14));
    }
    fake.zone("intel-rapl:a:0", "dram", MAX_DRAM, watts(2.0, MAX_DRAM));
    let (found, lines) = second(&fake);
    assert_eq!(lines.len(), 13);
    assert!(lines.contains(&("package-10".to_owned(), 10.0)) && lines.contains(&("package-10/dram".to_owned(), 2.0)));
    assert!((found.joules().unwrap() - 120.0).abs() < 0.3);
}

#[test]
fn psys_and_a_second_interface_are_not_added() {
    let fake = Fake::new();
    fake.zone("intel-rapl:0", "package-0", MAX_14, watts(20.0, MAX_14))
        .zone("intel-rapl:1", "psys", MAX_14, watts(35.0, MAX_14))
        .zone("intel-rapl-mmio:0", "package-0", MAX_14, watts(20.0, MAX_14));
    let (found, lines) = second(&fake);
    assert_eq!(lines, named(&[("package-0", 20.0), ("psys", 35.0)]));
    assert!((found.joules().unwrap() - 20.0).abs() < 0.1);
    assert!(notes(&fake, Source::Powercap).contains("intel-rapl-mmio:0 is package-0 once more"));
    // Where it is the only one, it counts.
    let fake = Fake::new();
    fake.zone("intel-rapl-mmio:0", "package-0", MAX_14, watts(20.0, MAX_14));
    assert_eq!(second(&fake).1, named(&[("package-0", 20.0)]));
}

#[test]
fn unknown_zones_are_noted_and_ignored() {
    let fake = Fake::new();
    fake.zone("intel-rapl:0", "package-0", MAX_14, watts(20.0, MAX_14))
        .zone("intel-rapl:0:0", "quantum", MAX_14, watts(9.0, MAX_14))
        .file("sys/devices/virtual/powercap/dtpm/dtpm:0/name", "soc");
    assert_eq!(second(&fake).1, named(&[("package-0", 20.0)]));
    let notes = notes(&fake, Source::Powercap);
    assert!(notes.contains("`quantum`") && notes.contains("`dtpm`"), "{notes}");
}

#[test]
fn places_in_the_list_mean_nothing() {
    // As `a_client_of_intel` has it, but the sub-zone that the seed took for memory comes first, and is memory.
    let fake = Fake::new();
    fake.zone("intel-rapl:1", "package-0", MAX_14, watts(20.0, MAX_14))
        .zone("intel-rapl:1:0", "dram", MAX_14, watts(3.0, MAX_14))
        .zone("intel-rapl:1:1", "uncore", MAX_14, watts(1.0, MAX_14))
        .zone("intel-rapl:1:2", "core", MAX_14, watts(12.0, MAX_14))
        .zone("intel-rapl:0", "psys", MAX_14, watts(35.0, MAX_14));
    let (found, lines) = second(&fake);
    let expected = [
        ("package-0", 20.0),
        ("package-0/core", 12.0),
        ("package-0/dram", 3.0),
        ("package-0/uncore", 1.0),
        ("psys", 35.0),
    ];
    assert_eq!(lines, named(&expected));
    assert!((found.joules().unwrap() - 20.0).abs() < 0.1 && (found.dram_joules().unwrap() - 3.0).abs() < 0.1);
}

#[test]
fn flat_links_serve_where_the_tree_is_hidden() {
    let fake = Fake::new();
    for (id, name) in [("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core")] {
        let folder = format!("sys/class/powercap/{id}");
        fake.file(&format!("{folder}/name"), name).file(&format!("{folder}/max_energy_range_uj"), &MAX_14.to_string());
        fake.live(&format!("{folder}/energy_uj"), watts(10.0, MAX_14));
    }
    assert_eq!(second(&fake).1, named(&[("package-0", 10.0), ("package-0/core", 10.0)]));
}

#[test]
fn a_file_that_root_alone_may_read_is_named_with_the_remedy() {
    let fake = Fake::new();
    fake.zone("intel-rapl:0", "package-0", MAX_14, watts(20.0, MAX_14));
    let path = format!("{}/energy_uj", zone("intel-rapl:0"));
    fake.fails(&path, EACCES);
    let error = fake.sensors().meter().unwrap_err();
    let Error::PermissionDenied { path: found, remedy } = &error else { panic!("{error}") };
    assert!(found.ends_with(&path) && remedy.contains("chmod a+r"), "{error}");
    // Another source that works is taken.
    fake.file("sys/class/power_supply/BAT0/type", "Battery")
        .file("sys/class/power_supply/BAT0/status", "Discharging")
        .file("sys/class/power_supply/BAT0/power_now", "9500000");
    assert_eq!(fake.meter().source(), Source::Battery);
    assert!(matches!(state(&fake, Source::Powercap), SourceState::Failed(Error::PermissionDenied { .. })));
}

#[test]
fn a_counter_above_its_range_is_no_sensor() {
    let fake = Fake::new();
    fake.zone("intel-rapl:0", "package-0", MAX_14, |_| MAX_14 + 1);
    let SourceState::Failed(Error::Malformed { text, .. }) = state(&fake, Source::Powercap) else { panic!() };
    assert!(text.contains("262143328851, above its range"), "{text}");
}

#[test]
fn an_empty_machine_says_where_was_looked() {
    let sensors = Fake::new().sensors();
    let Err(Error::NoSensor { looked_for }) = sensors.meter() else { panic!() };
    assert_eq!(looked_for.len(), Source::ALL.len());
    for (line, source) in looked_for.iter().zip(Source::ALL) {
        assert!(line.contains(source.name()) && line.contains(source.folder()), "{line}");
    }
}

#[test]
fn sockets_of_amd_energy() {
    let fake = Fake::new();
    let folder = "sys/class/hwmon/hwmon3";
    fake.file(&format!("{folder}/name"), "amd_energy");
    for (n, label) in [(1, "Ecore000"), (2, "Ecore001"), (33, "Esocket0"), (34, "Esocket1")] {
        fake.file(&format!("{folder}/energy{n}_label"), label);
        fake.live(&format!("{folder}/energy{n}_input"), watts(40.0, u64::MAX / 2));
    }
    fake.file("sys/class/hwmon/hwmon0/name", "nvme");
    let (found, lines) = second(&fake);
    assert_eq!(lines, named(&[("package-0", 40.0), ("package-1", 40.0)]));
    assert!((found.joules().unwrap() - 80.0).abs() < 0.2);
    let notes = notes(&fake, Source::Hwmon);
    assert!(notes.contains("2 counters") && notes.contains("`nvme`"), "{notes}");
}

#[test]
fn rails_of_a_module_are_voltage_times_current() {
    let fake = Fake::new();
    let folder = "sys/class/hwmon/hwmon1";
    fake.file(&format!("{folder}/name"), "ina3221");
    // 19.2 V and 500 mA are 9.6 W; 5 V and 600 mA are 3 W.
    for (n, label, mv, ma) in [(1, "VDD_IN", "19200", "500"), (2, "VDD_CPU_GPU_CV", "5000", "600")] {
        fake.file(&format!("{folder}/in{n}_label"), label)
            .file(&format!("{folder}/in{n}_input"), mv)
            .file(&format!("{folder}/curr{n}_input"), ma);
    }
    let (found, lines) = second(&fake);
    assert_eq!(lines, named(&[("VDD_CPU_GPU_CV", 3.0), ("VDD_IN", 9.6)]));
    assert!((found.joules().unwrap() - 9.6).abs() < 0.01, "the other rail is behind the input");
    assert_eq!(found.covers, Some(DomainKind::Board));
}

#[test]
fn rails_without_their_input_have_no_sum() {
    let fake = Fake::new();
    for (n, driver) in [(0, "ina226"), (1, "ina219")] {
        let folder = format!("sys/class/hwmon/hwmon{n}");
        fake.file(&format!("{folder}/name"), driver).file(&format!("{folder}/power1_input"), "2500000");
    }
    let (found, lines) = second(&fake);
    assert_eq!(lines, named(&[("ina219", 2.5), ("ina226", 2.5)]));
    assert!(matches!(found.joules(), Err(Error::NoTotal { names }) if names.len() == 2));
    // One alone is what its user put there.
    fake.remove("sys/class/hwmon/hwmon1");
    let found = second(&fake).0;
    assert_eq!((found.joules().is_ok(), found.source_name()), (true, "hwmon (rail)".to_owned()));
}

#[test]
fn a_power_meter_is_the_machine_unless_it_says_otherwise() {
    let fake = Fake::new();
    let folder = "sys/class/hwmon/hwmon0";
    fake.file(&format!("{folder}/name"), "power_meter")
        .file(&format!("{folder}/power1_average"), "180000000")
        .file(&format!("{folder}/power1_average_interval"), "1000");
    let (found, _) = second(&fake);
    assert_eq!(found.covers, Some(DomainKind::Board));
    assert!((found.joules().unwrap() - 180.0).abs() < 0.1);
    // Of 180 W that are new every second, the edges of one second hold 180 J / √6.
    assert!((found.uncertainty - 180.0 / 6_f64.sqrt()).abs() < 0.1, "{}", found.uncertainty);
    // Grace labels its meters.
    let fake = Fake::new();
    for (n, label) in [(0, "Module Power Socket 0"), (1, "Grace Power Socket 0"), (2, "CPU Power Socket 0")] {
        let folder = format!("sys/class/hwmon/hwmon{n}");
        fake.file(&format!("{folder}/name"), "power_meter")
            .file(&format!("{folder}/power1_average"), "100000000")
            .file(&format!("{folder}/power1_average_interval"), "50")
            .file(&format!("{folder}/power1_oem_info"), label);
    }
    let (found, lines) = second(&fake);
    assert_eq!((lines.len(), found.covers), (3, Some(DomainKind::Package)));
    assert!((found.joules().unwrap() - 100.0).abs() < 0.1);
}

#[test]
fn a_battery_tells_only_while_it_discharges() {
    let folder = "sys/class/power_supply/BAT0";
    let battery = |status: &str| {
        let fake = Fake::new();
        fake.file(&format!("{folder}/type"), "Battery").file(&format!("{folder}/status"), status);
        // Some drivers call a current that flows out negative.
        fake.file(&format!("{folder}/current_now"), "-800000").file(&format!("{folder}/voltage_now"), "12500000");
        fake
    };
    let fake = battery("Discharging");
    let meter = fake.meter();
    let began = meter.read();
    fake.pass(10.0);
    let found = meter.between(&began, &meter.read()).unwrap();
    assert!((found.joules().unwrap() - 100.0).abs() < 0.1, "0.8 A at 12.5 V for 10 s: {found:?}");
    for status in ["Charging", "Full", "Not charging", "Unknown"] {
        let error = battery(status).sensors().meter().unwrap_err();
        let expected = Error::NotDischarging { name: "BAT0".to_owned(), status: status.to_owned() };
        assert_eq!(error, expected);
    }
    // Plugged in meanwhile.
    let began = meter.read();
    fake.pass(2.0).file(&format!("{folder}/status"), "Charging");
    let found = meter.between(&began, &meter.read()).unwrap();
    assert!(matches!(found.joules(), Err(Error::NotDischarging { .. })));
    // The battery of a mouse is none of the machine.
    let fake = battery("Discharging");
    fake.file(&format!("{folder}/scope"), "Device");
    assert!(matches!(state(&fake, Source::Battery), SourceState::Absent(_)));
}

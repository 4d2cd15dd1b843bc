//! The protocol on a machine whose power is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rin_energy::protocol::{Progress, Protocol, Report};
use rin_energy::{Error, Sensors};

use crate::fake::{Fake, MAX_14};

const IDLE: f64 = 10.0;
/// Seconds and watts above idle of one unit of either variant.
const UNITS: [(f64, f64); 2] = [(0.03, 40.0), (0.05, 25.0)];

/// A machine whose work takes time and energy.
struct Machine {
    fake: Fake,
    /// µJ above idle.
    extra: Arc<AtomicU64>,
}

impl Machine {
    fn new() -> Self {
        let (fake, extra) = (Fake::new(), Arc::new(AtomicU64::new(0)));
        let shown = Arc::clone(&extra);
        fake.zone("intel-rapl:0", "package-0", MAX_14, move |seconds| {
            let updated = (seconds * 1e3).floor() / 1e3;
            (IDLE * 1e6 * updated) as u64 + shown.load(Ordering::Relaxed)
        });
        Self { fake, extra }
    }

    fn work(&self, variant: usize) -> u64 {
        let (seconds, watts) = UNITS[variant];
        self.fake.pass(seconds);
        self.extra.fetch_add((watts * seconds * 1e6) as u64, Ordering::Relaxed);
        1
    }
}

fn run(sensors: &Sensors, mut work: impl FnMut(usize) -> Result<u64, Error>) -> Report {
    let mut meter = sensors.meter().unwrap();
    let mut told = Vec::new();
    let report = Protocol::default()
        .run(sensors, &mut meter, &["prefill", "decode"], &mut work, &mut |progress| told.push(progress))
        .unwrap();
    assert_eq!(told[0], Progress::WarmUp);
    assert_eq!(told.last(), Some(&Progress::Windows(30, 31)));
    report
}

#[test]
fn known_energies_come_back() {
    let machine = Machine::new();
    let report = run(&machine.fake.sensors(), |variant| Ok(machine.work(variant)));
    let close = |found: f64, truth: f64| assert!((found / truth - 1.0).abs() < 2e-3, "{found} for {truth}");
    close(report.idle_watts.unwrap().median, IDLE);
    for (variant, (seconds, watts)) in report.variants.iter().zip(UNITS) {
        assert_eq!((variant.windows, variant.dropped), (10, 0));
        let (gross, net) = (variant.joules_per_unit.unwrap(), variant.net_joules_per_unit.unwrap());
        close(gross.median, (IDLE + watts) * seconds);
        close(net.median, watts * seconds);
        let [low, high] = gross.ci95.unwrap();
        assert!(low <= gross.median && gross.median <= high);
        close(variant.watts.unwrap().median, IDLE + watts);
        close(variant.seconds_per_unit.unwrap(), seconds);
        // Aligned windows of 2 s are sharp, and the idle power leaves more behind than the sensor.
        let sharp = variant.uncertainty_per_unit.unwrap();
        assert!(sharp > 0.0 && sharp < 1e-3 * gross.median, "{sharp}");
        assert!(variant.net_uncertainty_per_unit.unwrap() >= sharp);
    }
    let [low, high] = report.difference.unwrap().ci95.unwrap();
    let truth = (IDLE + UNITS[1].1) * UNITS[1].0 - (IDLE + UNITS[0].1) * UNITS[0].0;
    assert!(low > 0.0 && (low / truth - 1.0).abs() < 0.01 && (high / truth - 1.0).abs() < 0.01);
    assert!(report.disturbances.is_empty(), "{:?}", report.disturbances);
}

#[test]
fn windows_are_long_aligned_and_in_turn() {
    let machine = Machine::new();
    let report = run(&machine.fake.sensors(), |variant| Ok(machine.work(variant)));
    let order: Vec<_> = report.windows.iter().map(|window| window.variant).collect();
    let (a, b) = (Some(0), Some(1));
    assert_eq!(order[..7], [None, a, b, None, b, a, None], "ABBA with the idle machine between");
    assert_eq!((order.len(), order[30]), (31, None), "and at the end");
    assert!(report.windows.iter().all(|window| window.seconds >= 2.0 && window.aligned));
    assert!(report.windows.iter().all(|window| window.seconds < 2.06), "the tail is one unit and one update");
}

#[test]
fn what_goes_wrong_in_a_window_drops_it_and_is_counted() {
    let machine = Machine::new();
    let mut runs = 0;
    let report = run(&machine.fake.sensors(), |variant| {
        runs += 1;
        if runs == 100 {
            machine.fake.suspend(5.0);
        }
        if runs == 400 {
            machine.extra.fetch_add(100_000_000_000, Ordering::Relaxed);
        }
        Ok(machine.work(variant))
    });
    let dropped: Vec<_> = report.windows.iter().filter_map(|window| window.dropped.as_deref()).collect();
    assert_eq!(dropped.len(), 2, "{dropped:?}");
    assert!(dropped[0].contains("suspended for 5.0 s") && dropped[1].contains("possible"), "{dropped:?}");
    assert_eq!(report.variants.iter().map(|variant| variant.dropped).sum::<usize>(), 2);
    let gross = report.variants[0].joules_per_unit.unwrap().median;
    assert!((gross / 1.5 - 1.0).abs() < 2e-3, "{gross}");
}

#[test]
fn windows_that_were_all_dropped_have_one_reason() {
    let machine = Machine::new();
    let good = run(&machine.fake.sensors(), |variant| Ok(machine.work(variant)));
    assert_eq!(good.all_dropped(), None);
    // Each piece of work fills a window and sleeps; the fifth sleeps longer. Two are the warm-up.
    let mut runs = 0;
    let report = run(&machine.fake.sensors(), |variant| {
        runs += 1;
        machine.fake.pass(2.5).suspend(if runs == 7 { 9.0 } else { 0.5 });
        Ok(machine.work(variant))
    });
    let Some(Error::AllDropped { windows, reasons }) = report.all_dropped() else { panic!("{:?}", report.windows) };
    let reason = |seconds: &str| format!("the machine was suspended for {seconds} s meanwhile");
    assert_eq!((windows, reasons), (20, vec![(19, reason("0.5")), (1, reason("9.0"))]));
    let text = report.all_dropped().unwrap().to_string();
    let expected =
        "all 20 windows of work were dropped: in 19 windows the machine was suspended for 0.5 s meanwhile; in 1 window";
    assert!(text.starts_with(expected), "{text}");
    let many = (1..=5).map(|n| (n, format!("reason {n}"))).collect();
    let text = Error::AllDropped { windows: 15, reasons: many }.to_string();
    assert!(
        text.contains("in 1 window reason 1; in 2 windows reason 2") && text.ends_with("and 2 more reasons"),
        "{text}"
    );
}

#[test]
fn a_machine_that_changes_is_named() {
    let machine = Machine::new();
    let fake = &machine.fake;
    let policy = "sys/devices/system/cpu/cpufreq/policy0";
    fake.file(&format!("{policy}/scaling_governor"), "performance")
        .file(&format!("{policy}/scaling_driver"), "intel_pstate")
        .file("sys/devices/system/cpu/intel_pstate/no_turbo", "0")
        .file("sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "3")
        .file("proc/stat", "cpu  100 0 50 1000 5 0 0 2 0 0")
        .file("proc/self/stat", "7 (a) b) (c) S 1 7 7 0 -1 4194304 95 0 0 0 40 10 5 6 20 0 1 0 99 0 0");
    let sensors = fake.sensors();
    let mut runs = 0;
    let report = run(&sensors, |variant| {
        runs += 1;
        if runs == 50 {
            fake.file(&format!("{policy}/scaling_governor"), "powersave")
                .file("sys/devices/system/cpu/intel_pstate/no_turbo", "1")
                .file("sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "5")
                .file("proc/stat", "cpu  300 0 50 1000 5 0 0 7 0 0")
                .file("proc/self/stat", "7 (a) b) (c) S 1 7 7 0 -1 4194304 95 0 0 0 230 10 5 6 20 0 1 0 99 0 0");
        }
        Ok(machine.work(variant))
    });
    assert_eq!((report.before.boost, report.after.boost), (Some(true), Some(false)));
    let reasons = report.disturbances.join("; ");
    for part in
        ["frequencies", "may boost changed", "heat 2 times", "other processes took 5.0 %", "hypervisor took 2.4 %"]
    {
        assert!(reasons.contains(part), "{part}: {reasons}");
    }
}

#[test]
fn work_that_fails_ends_it() {
    let machine = Machine::new();
    let sensors = machine.fake.sensors();
    let mut meter = sensors.meter().unwrap();
    let failing = &mut |_| Err("no more");
    let found = Protocol::default().run(&sensors, &mut meter, &["a"], failing, &mut |_| {});
    assert_eq!(found.unwrap_err().to_string(), "no more");
}

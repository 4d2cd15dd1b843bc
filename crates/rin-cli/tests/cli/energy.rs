//! `rin energy`, and energy in the results of other commands, on machines that are folders.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::failures::fails;
use crate::network::{golden, residual};
use crate::program::{Place, TINY, conformance, json, output, stdout};

/// A machine of one package whose counter moves by 50 W until it goes.
struct Machine {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Machine {
    /// 50 W.
    fn new(place: &Place) -> Self {
        Self::with(place, |time| time.as_micros() * 50)
    }

    /// A counter in µJ that depends on the time.
    fn with(place: &Place, uj: fn(Duration) -> u128) -> Self {
        let zone = "machine/sys/devices/virtual/powercap/intel-rapl/intel-rapl:0";
        place.file(&format!("{zone}/name"), "package-0\n");
        place.file(&format!("{zone}/max_energy_range_uj"), "262143328850\n");
        let path = place.file(&format!("{zone}/energy_uj"), "000000000000\n");
        let file = std::fs::File::options().write(true).open(path).unwrap();
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let count = move || {
            let begin = Instant::now();
            while !ended.load(Ordering::Relaxed) {
                // In one call and of one length, so that no reader sees half of it.
                let value = format!("{:012}\n", uj(begin.elapsed()));
                file.write_all_at(value.as_bytes(), 0).unwrap();
                std::thread::sleep(Duration::from_micros(500));
            }
        };
        Self { end, thread: Some(std::thread::spawn(count)) }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

const QUICK: [&str; 9] = ["-p", "16", "-n", "8", "-r", "2", "--window", "0.2", "-q"];

#[test]
fn a_machine_without_sensors_says_where_was_looked() {
    let place = Place::new();
    let text = stdout(&output(place.rin(&["energy", "sensors"])));
    for part in ["perf", "powercap", "hwmon", "battery", "absent", "event_source", "not measured on this machine"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let found = json(&output(place.rin(&["energy", "sensors", "--json"])));
    assert!(found["used"].is_null() && found["sources"].as_array().unwrap().len() == 4);
}

#[test]
fn without_sensors_nothing_is_made_up() {
    let place = Place::new();
    let model = conformance(TINY);
    let found = json(&output(place.on("energy", &model, &["--json", "-q"])));
    assert_eq!(found["energy"]["status"], "unmeasured");
    assert!(found["energy"]["joules"].is_null() && found["energy"]["reason"].is_string());
    fails(place.on("energy", &model, &["--require-energy"]), 5, &["no energy sensor"]);
    fails(place.on("bench", &model, &["--require-energy"]), 5, &["no energy sensor"]);
    fails(place.tiny(&["-p", "a", "--power-budget", "20"]), 5, &["power budget needs a sensor"]);
    for bad in ["idle=9,max=5", "65", "idle=-1,max=5"] {
        fails(place.tiny(&["-p", "a", "--estimate-power", bad]), 2, &["idle=W,max=W"]);
    }
}

#[test]
fn a_picture_that_is_not_drawn_is_told_of() {
    let place = Place::new();
    let model = conformance(TINY);
    let estimate = ["--estimate-power", "idle=10,max=50"];
    for more in [&[][..], &["--json"], &["-q"], &[&["--json"][..], &estimate, &QUICK].concat()] {
        let output = output(place.on("energy", &model, &[&["--plot", "out.svg"], more].concat()));
        assert!(output.status.success(), "{more:?}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("no picture was drawn") && told.contains("out.svg"), "{more:?}: {told}");
        assert!(told.contains("no energy sensor"), "why: {told}");
        assert!(!place.path("out.svg").exists());
    }
    let quiet = output(place.on("energy", &model, &["-q"]));
    assert!(quiet.stderr.is_empty(), "nothing is said of a picture that nobody asked for");
}

#[test]
fn windows_that_were_all_dropped_are_told_with_the_reason() {
    let place = Place::new();
    let model = conformance(TINY);
    // A sensor is there and stands still.
    let machine = Machine::with(&place, |_| 77);
    let reasons = ["all 4 windows of work were dropped", "package-0 counted 0.000000 J", "measure longer"];
    fails(place.on("energy", &model, &[&QUICK[..], &["--require-energy"]].concat()), 5, &reasons);
    let output = output(place.on("energy", &model, &[&QUICK[..], &["--json", "--plot", "out.svg"]].concat()));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("no picture was drawn") && told.contains(reasons[0]), "{told}");
    assert!(output.status.success() && !place.path("out.svg").exists());
    let found = json(&output);
    assert_eq!(found["energy"]["status"], "unmeasured");
    let reason = found["energy"]["reason"].as_str().unwrap();
    assert!(reasons.iter().all(|part| reason.contains(part)), "{reason}");
    drop(machine);
}

#[test]
fn an_estimate_is_a_range_of_its_own() {
    let place = Place::new();
    let with = ["--estimate-power", "idle=10,max=50", "--json"];
    let run = json(&output(place.tiny(&[&["-p", "a", "-n", "3"], &with[..]].concat())));
    let energy = json(&output(place.on("energy", &conformance(TINY), &[&QUICK[..], &with].concat())))["energy"].clone();
    for found in [&run["energy"], &energy] {
        assert_eq!(found["status"], "estimated");
        assert!(found["joules"].is_null() && found["joules_per_token"].is_null());
        let range: Vec<f64> =
            found["estimate"]["joules"].as_array().unwrap().iter().map(|j| j.as_f64().unwrap()).collect();
        assert!(range[0] > 0.0 && (range[1] / range[0] - 5.0).abs() < 1e-9, "{range:?}");
        assert_eq!(found["estimate"]["label"], "ESTIMATE, not measured");
    }
}

#[test]
fn a_network_on_rows_is_measured_by_the_inference() {
    let place = Place::new();
    let model = residual(&place, &[]);
    // Without a sensor: no figure, and no cap.
    let found = json(&output(place.on("energy", &model, &["--json", "-q"])));
    assert_eq!(found["energy"]["status"], "unmeasured");
    let x = golden("residual-x.npy");
    fails(place.on("run", &model, &["--input", &x, "--power-budget", "20"]), 5, &["power budget needs a sensor"]);
    fails(place.on("energy", &model, &["--by-op"]), 2, &["--by-op", "rows"]);

    let machine = Machine::new(&place);
    let more = ["--carbon-intensity", "400", "--plot", "out.svg", "--json"];
    let found = json(&output(place.on("energy", &model, &[&QUICK[..], &more].concat())));
    let [phase] = found["phases"].as_array().unwrap().as_slice() else { panic!("{found}") };
    assert_eq!((&phase["name"], &phase["windows"], &phase["dropped"]), (&"inference".into(), &2.into(), &0.into()));
    let joules = found["joules_per_inference"].as_f64().unwrap();
    // The machine takes 50 W whatever it does.
    let seconds = phase["seconds_per_unit"].as_f64().unwrap();
    assert!((joules / (50.0 * seconds) - 1.0).abs() < 0.2, "{joules} J in {seconds} s");
    assert_eq!(phase["joules_per_unit"]["median"], found["joules_per_inference"]);
    let (rate, carbon) =
        (phase["inferences_per_joule"].as_f64().unwrap(), phase["carbon_g_per_inference"].as_f64().unwrap());
    assert!((rate * joules - 1.0).abs() < 1e-9 && (carbon / (joules / 3.6e6 * 400.0) - 1.0).abs() < 1e-9);
    assert!(std::fs::read_to_string(place.path("out.svg")).unwrap().contains("J per inference"));
    let text = stdout(&output(place.on("energy", &model, &QUICK)));
    assert!(text.contains("J/inference") && text.contains("inferences/J") && !text.contains("token"), "{text}");
    // The cap is tried on networks too: this machine takes more when idle.
    fails(place.on("run", &model, &["--input", &x, "--power-budget", "20"]), 2, &["20.0 W is not above"]);
    let run = json(&output(place.on("run", &model, &["--input", &x, "--power-budget", "60", "--json", "-q"])));
    assert_eq!((&run["energy"]["status"], &run["power"]["budget_watts"]), (&"measured".into(), &60.0.into()));
    drop(machine);
}

#[test]
fn a_model_is_measured() {
    let place = Place::new();
    let machine = Machine::new(&place);
    let more = ["--by-op", "--carbon-intensity", "400", "--embodied-carbon", "36", "--plot", "out.svg", "--json"];
    let found = json(&output(place.on("energy", &conformance(TINY), &[&QUICK[..], &more].concat())));
    assert_eq!(
        (&found["energy"]["status"], &found["energy"]["source"]),
        (&"measured".into(), &"powercap (package)".into())
    );
    assert!(found["energy"]["joules"].as_f64().unwrap() > 0.0 && found["energy"]["idle_watts"].as_f64().unwrap() > 0.0);
    let phases = found["phases"].as_array().unwrap();
    let names: Vec<_> = phases.iter().map(|phase| phase["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["prefill", "decode", "prefill, short", "decode, deep"]);
    for phase in phases {
        assert_eq!((&phase["windows"], &phase["dropped"]), (&2.into(), &0.into()), "{phase}");
        let joules = phase["joules_per_unit"]["median"].as_f64().unwrap();
        let carbon = phase["carbon_g_per_token"].as_f64().unwrap();
        // 36 g per hour are 0.01 g per second.
        let expected = joules / 3.6e6 * 400.0 + phase["seconds_per_unit"].as_f64().unwrap() * 0.01;
        assert!(joules > 0.0 && (carbon / expected - 1.0).abs() < 1e-9);
    }
    // Power that does not depend on the work tells nothing of kinds; but it was tried, and says so in one way or the other.
    let by_op = &found["by_op"];
    assert!(by_op["windows"] == 8 && (by_op["reason"].is_string() || by_op["shares"].as_array().unwrap().len() == 3));
    let svg = std::fs::read_to_string(place.path("out.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.contains("prefill, short") && svg.ends_with("</svg>\n"));
    let text = stdout(&output(place.on("energy", &conformance(TINY), &QUICK)));
    for part in ["energy ", "idle ", "prefill ", "decode ", "tokens/J", "2 windows, 0 dropped"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let text = stdout(&output(place.rin(&["energy", "sensors"])));
    assert!(text.contains("energy is read from powercap"), "{text}");
    drop(machine);
}

#[test]
fn runs_and_benches_have_the_record() {
    let place = Place::new();
    let machine = Machine::new(&place);
    let run = json(&output(place.tiny(&["-p", "a", "-n", "400", "--ignore-eos", "--json"])));
    assert_eq!(run["energy"]["status"], "measured", "{}", run["energy"]);
    let each = run["energy"]["joules"].as_f64().unwrap() / run["generated_tokens"].as_f64().unwrap();
    assert!((run["energy"]["joules_per_token"].as_f64().unwrap() / each - 1.0).abs() < 1e-9);
    assert_eq!(run["allocations_during_inference"], 0);
    let bench = output(place.on("bench", &conformance(TINY), &["-p", "200", "-n", "200", "-r", "5", "-q", "--json"]));
    let rows: Vec<serde_json::Value> = serde_json::from_str(&stdout(&bench)).unwrap();
    for row in &rows {
        assert_eq!(
            (&row["energy_status"], row["energy"]["source"].is_string()),
            (&"measured".into(), true),
            "{}",
            row["energy"]
        );
        assert!(row["joules_per_token"].as_f64().unwrap() > 0.0 && row["allocs"] == 0);
    }
    drop(machine);
}

#[test]
fn a_power_cap_rests_between_tokens() {
    let place = Place::new();
    let machine = Machine::new(&place);
    // Below what this machine takes when idle.
    fails(place.tiny(&["-p", "a", "-n", "4", "--power-budget", "20"]), 2, &["not above"]);
    fails(place.tiny(&["-p", "a", "--power-budget", "0"]), 2, &["above 0"]);
    let plain = json(&output(place.tiny(&["-p", "a", "-n", "20", "--json"])));
    let capped = json(&output(place.tiny(&["-p", "a", "-n", "20", "--json", "--power-budget", "90"])));
    assert_eq!(plain["digest"], capped["digest"], "rests change no bit");
    let threads = capped["power"]["threads"].as_u64().unwrap();
    assert!(threads >= 1 && Some(threads) <= capped["threads"].as_u64(), "{}", capped["power"]);
    assert!(capped["power"]["rested_s"].as_f64().unwrap() > 0.0 && capped["power"]["budget_watts"] == 90.0);
    assert_eq!(capped["allocations_during_inference"], 0);
    drop(machine);
}

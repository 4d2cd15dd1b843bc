//! `rin lab`: listing, running, reporting.

use crate::failures::fails;
use crate::program::{Place, json, output, stderr, stdout};

#[test]
fn experiments_are_listed_run_and_reported() {
    let place = Place::new();
    let listed = json(&output(place.rin(&["lab", "--json"])));
    let experiments = listed["experiments"].as_array().unwrap();
    assert!(experiments.len() >= 10 && experiments.iter().all(|e| e["done"] == 0 && e["verdict"].is_null()));

    let ran = json(&output(place.rin(&["lab", "run", "power", "--quick", "--results", "raw", "--json"])));
    assert_eq!((&ran["experiment"], &ran["scale"], &ran["resumed"]), (&"power".into(), &"quick".into(), &0.into()));
    assert_eq!(ran["done"], ran["cases"]);
    assert!(ran["verdict"].is_null() && ran["because"].as_str().unwrap().contains("simulated machines"));
    let again = output(place.rin(&["lab", "run", "power", "--quick", "--results", "raw"]));
    assert!(stdout(&again).contains("power: no verdict yet"), "{}", stdout(&again));
    assert!(stderr(&again).contains("power.quick.jsonl"), "{}", stderr(&again));
    let listed = stdout(&output(place.rin(&["lab", "--results", "raw"])));
    assert!(listed.contains("power        8 of 8 cases (quick)"), "{listed}");

    let report = stdout(&output(place.rin(&["lab", "report", "--results", "raw", "--docs", "pages"])));
    assert!(report.contains("pages/power.md") && report.contains("pages/README.md"), "{report}");
    assert!(std::fs::read_to_string(place.path("pages/power.md")).unwrap().contains("only the quick version"));
}

#[test]
fn wrong_names_and_missing_data_are_told() {
    let place = Place::new();
    fails(place.rin(&["lab", "run"]), 2, &["NAME"]);
    fails(place.rin(&["lab", "run", "resonance"]), 2, &["no experiment resonance", "softmax"]);
    let ran = output(place.rin(&["lab", "run", "tda", "--quick", "--results", "raw", "--data", "none"]));
    assert!(stderr(&ran).contains("SKIPPED: barcodes"), "{}", stderr(&ran));
    assert!(stdout(&ran).contains("no verdict"), "{}", stdout(&ran));
    fails(place.rin(&["lab", "report", "--results", "raw", "--docs", "pages", "--readme", "none.md"]), 1, &["none.md"]);
}

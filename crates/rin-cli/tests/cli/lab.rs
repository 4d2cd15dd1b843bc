//! `rin lab`: listing, running, reporting, and the validation suite.

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

#[test]
fn the_suite_tells_what_it_measured_and_becomes_a_page() {
    let place = Place::new();
    fails(place.rin(&["lab", "validate", "--heat-seconds", "9"]), 2, &["--heat-seconds", "less than 10 s"]);
    let ran = output(place.rin(&["lab", "validate", "--quick", "--json", "-q"]));
    let text = String::from_utf8(ran.stdout).unwrap();
    let found: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let failed = found["failed"].as_u64().unwrap();
    assert_eq!(ran.status.code(), Some(i32::from(failed > 0)), "{text}");
    assert!(found["threads"].as_u64().unwrap() > 0 && found["machine"]["cores"].as_u64().unwrap() > 0, "{text}");
    assert!(!found["tier"].as_str().unwrap().is_empty() && found["scale"] == "quick", "{text}");
    let check = |name: &str| {
        let checks = found["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {text}"))
    };
    for name in ["joule", "thermal"] {
        assert!(check(name)["status"] == "not-testable-here" && check(name)["value"].is_null(), "{text}");
    }
    // This program counts its allocations, and its kernels agree.
    for (name, value) in [("memory", 0.0), ("numerical", 1.0)] {
        assert!(check(name)["status"] == "pass" && check(name)["value"] == value, "{text}");
    }
    assert!(check("fidelity")["beside"].as_array().unwrap().len() == 2, "{text}");
    assert!(check("sparsity")["curve"]["points"].as_array().unwrap().len() == 6, "{text}");

    place.file("raw/validate.json", &text);
    let report = stdout(&output(place.rin(&["lab", "report", "--results", "raw", "--docs", "pages"])));
    assert!(report.contains("pages/validate.md"), "{report}");
    let page = std::fs::read_to_string(place.path("pages/validate.md")).unwrap();
    assert!(page.contains("| memory |") && page.contains("Only the quick version was run"), "{page}");
}

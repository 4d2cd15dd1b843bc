//! The whole suite, quickly, and the page of what it found.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use rin_lab::report::pages;
use rin_lab::validate::{Status, Validation, Watch, names, run};
use rin_lab::{Context, Scale};

use crate::machine::Folder;

#[test]
fn the_suite_is_the_seeds() {
    let expected = ["joule", "fidelity", "latency", "thermal", "numerical", "sparsity", "memory", "topology"];
    assert_eq!(names().collect::<Vec<_>>(), expected);
}

#[test]
fn what_it_finds_is_stored_and_becomes_a_page() {
    let folder = Folder::new("suite");
    let none = pages(&folder.0).unwrap();
    let readme =
        |pages: &[rin_lab::report::Page]| pages.iter().find(|p| p.name == "README.md").unwrap().content.clone();
    assert!(!none.iter().any(|page| page.name.contains("validate")) && !readme(&none).contains("validate.md"));

    let cancel = AtomicBool::new(false);
    let context = Context { data: Path::new(""), python: None, cancel: &cancel };
    let watch = Watch::for_seconds(Watch::LEAST_SECONDS).unwrap();
    let options = rin_lab::validate::Options::new(&folder.0, watch, Scale::Quick);
    let mut order = Vec::new();
    let found = run(&options, &context, |name| order.push(name)).unwrap();
    // What heat is counted from is read before anything else runs.
    assert_eq!(order[0], "thermal");
    assert!(found.checks.iter().map(|check| check.name.as_str()).eq(names()));
    assert_eq!(found.passed + found.failed + found.not_testable, 8);
    assert!(!found.tier.is_empty() && found.threads > 0 && found.machine.cores > 0);
    let status = |name: &str| &found.checks.iter().find(|check| check.name == name).unwrap().measured.status;
    for name in ["fidelity", "latency", "numerical", "topology"] {
        assert_eq!(*status(name), Status::Pass, "{found:?}");
    }
    // A machine of no files, and a program that does not count.
    for name in ["joule", "thermal", "memory"] {
        assert!(matches!(status(name), Status::NotTestableHere(_)), "{found:?}");
    }

    // As the command writes it where a test fails.
    let text = serde_json::to_string(&found).unwrap() + "\n{\"error\":{}}\n";
    std::fs::write(Validation::path(&folder.0), text).unwrap();
    assert_eq!(Validation::read(&Validation::path(&folder.0)).unwrap().unwrap(), found);
    let pages = pages(&folder.0).unwrap();
    let page = &pages.iter().find(|page| page.name == "validate.md").unwrap().content;
    for part in
        ["| joule |", "| not testable here |", "≥ 0.99", "mean KL(floats ‖ engine)", "](validate-1.svg)", "--quick"]
    {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(pages.iter().any(|page| page.name == "validate-1.svg" && page.content.starts_with("<svg")));
    assert!(readme(&pages).contains("](validate.md)"));
    std::fs::write(Validation::path(&folder.0), "{\n").unwrap();
    assert!(rin_lab::report::pages(&folder.0).is_err());
}

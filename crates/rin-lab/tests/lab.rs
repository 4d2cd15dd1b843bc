//! Running, going on, and reporting.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rin_lab::report::{pages, write_summary};
use rin_lab::results::{Results, path};
use rin_lab::{Context, EXPERIMENTS, Error, Experiment, Outcome, Scale, find, run};

/// A place for results that is gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("lab-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// An experiment of a second that needs no data.
fn short() -> &'static Experiment {
    find("power").unwrap()
}

fn quickly(folder: &Folder, overwrite: bool, cancel: &AtomicBool) -> Result<rin_lab::Ran, Error> {
    let context = Context { data: Path::new("nowhere"), python: None, cancel };
    run(short(), Scale::Quick, &folder.0, overwrite, "", &context, |_| {})
}

fn values(results: &Results) -> Vec<(String, String)> {
    results.records.iter().map(|record| (record.case.clone(), record.value.to_string())).collect()
}

#[test]
fn a_run_that_was_interrupted_goes_on_to_the_same_results() {
    let (whole, parts) = (Folder::new("whole"), Folder::new("parts"));
    let go = AtomicBool::new(false);
    let expected = quickly(&whole, false, &go).unwrap();
    assert!(expected.results.is_complete(short()) && expected.resumed == 0 && expected.skipped.is_empty());

    let stop = AtomicBool::new(false);
    let context = Context { data: Path::new("nowhere"), python: None, cancel: &stop };
    let ended = run(short(), Scale::Quick, &parts.0, false, "", &context, |at| {
        if at.done == 3 {
            stop.store(true, Ordering::Relaxed);
        }
    });
    assert!(matches!(ended, Err(Error::Cancelled)));
    // A last line that was cut short counts as not there.
    let file = path(&parts.0, "power", Scale::Quick);
    let text = fs::read_to_string(&file).unwrap();
    let cut = &text[..text.len() - 20];
    let kept = cut.matches('\n').count() - 1;
    fs::write(&file, cut).unwrap();
    let found = quickly(&parts, false, &go).unwrap();
    assert_eq!(found.resumed, kept);
    assert!(kept >= 1 && kept < expected.results.records.len());
    assert_eq!(values(&found.results), values(&expected.results));
    assert_eq!(Results::read(&file).unwrap().unwrap(), found.results);
}

/// Results that another machine began name it for its own cases alone, and the page names both.
#[test]
fn cases_of_another_machine_carry_its_name() {
    let folder = Folder::new("machines");
    let go = AtomicBool::new(false);
    let here = quickly(&folder, false, &go).unwrap().results;
    assert!(here.records.iter().all(|record| record.machine.is_none()));
    let page = |folder: &Folder| {
        let pages = pages(&folder.0).unwrap();
        pages.into_iter().find(|page| page.name == "power.md").unwrap().content
    };
    assert!(!page(&folder).contains(" of the cases)"));
    let file = path(&folder.0, "power", Scale::Quick);
    let text = fs::read_to_string(&file).unwrap();
    // Begun elsewhere, and ended before the last two cases.
    let processor = serde_json::to_string(&here.header.machine.processor).unwrap();
    let there = text.replacen(&format!("\"processor\":{processor}"), "\"processor\":\"Elsewhere 9000\"", 1);
    assert_ne!(there, text);
    let n = here.records.len();
    let kept: String = there.split_inclusive('\n').take(n - 1).collect();
    assert!(!kept.contains("\"machine\":null"));
    fs::write(&file, kept).unwrap();
    let found = quickly(&folder, false, &go).unwrap().results;
    assert_eq!(Results::read(&file).unwrap().unwrap(), found);
    let (before, after) = found.records.split_at(n - 2);
    assert!(before.iter().all(|record| record.machine.is_none()));
    assert!(after.iter().all(|record| record.machine.as_ref() == Some(&here.header.machine)));
    let machines: Vec<_> = found.machines().into_iter().map(|(m, cases)| (m.processor.clone(), cases)).collect();
    assert_eq!(machines, [("Elsewhere 9000".to_owned(), n - 2), (here.header.machine.processor.clone(), 2)]);
    let page = page(&folder);
    assert!(page.contains(&format!("on Elsewhere 9000 ({} cores", here.header.machine.cores)), "{page}");
    assert!(page.contains(&format!("; {} of the cases) and ", n - 2)) && page.contains("; 2 of the cases)"), "{page}");
}

#[test]
fn a_run_in_parts_gives_what_a_whole_one_gives() {
    let (whole, parts) = (Folder::new("whole-too"), Folder::new("some"));
    let go = AtomicBool::new(false);
    let expected = quickly(&whole, false, &go).unwrap();
    let context = Context { data: Path::new("nowhere"), python: None, cancel: &go };
    let of = |only: &str| run(short(), Scale::Quick, &parts.0, false, only, &context, |_| {});
    let last = expected.results.records.last().unwrap().case.clone();
    let some = of(&last).unwrap().results;
    assert!(some.records.iter().all(|record| record.case.contains(&last)) && !some.is_complete(short()));
    assert!(matches!(of("of no name"), Err(Error::Input { .. })));
    // Nothing is overwritten where nothing is meant.
    assert!(run(short(), Scale::Quick, &parts.0, true, "of no name", &context, |_| {}).is_err());
    assert_eq!(Results::read(&path(&parts.0, "power", Scale::Quick)).unwrap().unwrap(), some);
    let found = of("").unwrap().results;
    for record in &expected.results.records {
        assert_eq!(found.case(&record.case), Some(&record.value));
    }
}

#[test]
fn results_of_something_else_are_not_gone_on_with() {
    let folder = Folder::new("other");
    let go = AtomicBool::new(false);
    quickly(&folder, false, &go).unwrap();
    let file = path(&folder.0, "power", Scale::Quick);
    let text = fs::read_to_string(&file).unwrap();
    let other = text.replacen("\"revision\":", "\"revision\":99", 1);
    assert_ne!(other, text);
    fs::write(&file, other).unwrap();
    assert!(matches!(quickly(&folder, false, &go), Err(Error::OtherResults { .. })));
    assert_eq!(quickly(&folder, true, &go).unwrap().resumed, 0);
    let damaged = text.replacen("\"case\"", "\"cas\"", 1);
    fs::write(&file, damaged).unwrap();
    assert!(matches!(quickly(&folder, false, &go), Err(Error::Damaged { line: 2, .. })));
    assert!(matches!(find("resonance"), Err(Error::UnknownExperiment { .. })));
}

#[test]
fn cases_without_data_are_skipped_and_leave_no_verdict() {
    let folder = Folder::new("data");
    let go = AtomicBool::new(false);
    let context = Context { data: Path::new("nowhere"), python: None, cancel: &go };
    let experiment = find("tda").unwrap();
    let ran = run(experiment, Scale::Quick, &folder.0, false, "", &context, |_| {}).unwrap();
    assert!(!ran.results.is_complete(experiment));
    assert!(ran.skipped.iter().any(|(case, why)| case == "barcodes" && why.contains("nowhere")), "{:?}", ran.skipped);
    let pages = pages(&folder.0).unwrap();
    let page = pages.iter().find(|page| page.name == "tda.md").unwrap();
    assert!(page.content.contains("**No verdict yet**: it has not been run to its end"), "{}", page.content);
}

#[test]
fn a_quick_run_gives_figures_and_no_verdict() {
    let folder = Folder::new("quick");
    quickly(&folder, false, &AtomicBool::new(false)).unwrap();
    let pages = pages(&folder.0).unwrap();
    let page = |name: &str| pages.iter().find(|page| page.name == name).unwrap().content.clone();
    let power = page("power.md");
    assert!(power.contains("**No verdict yet**: only the quick version was run"), "{power}");
    for part in
        ["## The claim", "## The definition", "## Found", "| controller |", "](power-1.svg)", "## What would change"]
    {
        assert!(power.contains(part), "{part}");
    }
    assert!(page("power-1.svg").starts_with("<svg"));
    assert!(page("softmax.md").contains("has not been run"));
    for experiment in EXPERIMENTS {
        assert!(page("README.md").contains(&format!("]({}.md)", experiment.name)));
    }
    let readme = folder.0.join("readme.md");
    fs::write(&readme, "a\n<!-- lab: summary begins -->\nold\n<!-- lab: summary ends -->\nb\n").unwrap();
    write_summary(&folder.0, &readme, "docs/").unwrap();
    let text = fs::read_to_string(&readme).unwrap();
    assert!(
        text.starts_with("a\n") && text.ends_with("<!-- lab: summary ends -->\nb\n") && !text.contains("old"),
        "{text}"
    );
    assert!(text.contains("](docs/power.md) | no verdict yet |"), "{text}");
    fs::write(&readme, "nothing").unwrap();
    assert!(write_summary(&folder.0, &readme, "").is_err());
}

/// All cases of an experiment's quick version, judged: what was found is no verdict, and no case is left out. Those that
/// evaluate the model inside the binary many times take too long for this.
fn quick(name: &str) {
    let Some(text) = rin_testkit::data::shared("text/tinyshakespeare.txt") else { return };
    let data = text.parent().and_then(Path::parent).unwrap();
    let (folder, go) = (Folder::new(&format!("quick-{name}")), AtomicBool::new(false));
    let context = Context { data, python: None, cancel: &go };
    let experiment = find(name).unwrap();
    let ran = run(experiment, Scale::Quick, &folder.0, false, "", &context, |_| {}).unwrap();
    assert!(ran.skipped.is_empty() && ran.results.is_complete(experiment), "{name}: {:?}", ran.skipped);
    let judged = (experiment.judge)(&ran.results).unwrap();
    assert!(matches!(judged.outcome, Outcome::Open(_)), "{name}");
}

#[test]
fn neurons_run_quickly() {
    quick("lif");
}

#[test]
fn bindings_run_quickly() {
    quick("hrr");
}

#[test]
fn fusion_runs_quickly() {
    quick("fusion");
}

#[test]
fn rounding_runs_quickly() {
    quick("qat");
}

#[test]
fn ternary_runs_quickly() {
    quick("ternary");
}

#[test]
fn names_are_files_and_words_are_there() {
    let mut names: Vec<_> = EXPERIMENTS.iter().map(|experiment| experiment.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), EXPERIMENTS.len());
    for e in EXPERIMENTS {
        assert!(e.name.bytes().all(|b| b.is_ascii_lowercase()));
        for text in [e.title, e.claim, e.definition, e.reference, e.method, e.expected, e.reopens] {
            assert!(text.len() > 5 && !text.contains('\n') && !text.contains("  "), "{}: {text:?}", e.name);
        }
        for scale in [Scale::Quick, Scale::Full] {
            let mut cases: Vec<_> = (e.cases)(scale).into_iter().map(|case| case.name).collect();
            let n = cases.len();
            cases.sort_unstable();
            cases.dedup();
            assert!(n > 0 && cases.len() == n, "{}: names of cases", e.name);
        }
    }
}

/// The committed pages are what the committed results give; a verdict stands only on a complete full run.
#[test]
fn the_committed_pages_are_those_of_the_committed_results() {
    let docs = repository().join("docs/research");
    let results = docs.join("results");
    for page in pages(&results).unwrap() {
        let found = fs::read_to_string(docs.join(&page.name)).unwrap_or_default();
        assert!(found == page.content, "docs/research/{} is out of date: rin lab report", page.name);
    }
    let summary = fs::read_to_string(repository().join("docs/SUMMARY.md")).unwrap();
    if rin_lab::validate::Validation::path(&results).exists() {
        assert!(summary.contains("(research/validate.md)"), "SUMMARY.md lacks the validation suite");
    }
    for experiment in EXPERIMENTS {
        assert!(
            summary.contains(&format!("(research/{}.md)", experiment.name)),
            "SUMMARY.md lacks {}",
            experiment.name
        );
        if let Some(found) = rin_lab::report::results_of(&results, experiment).unwrap()
            && found.is_complete(experiment)
        {
            let judged = (experiment.judge)(&found).unwrap();
            assert_eq!(matches!(judged.outcome, Outcome::Verdict(_)), found.header.scale == Scale::Full);
        }
    }
}

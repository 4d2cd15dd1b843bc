//! From stored results to pages: one per component, one of the validation suite, and a table of all.

mod plot;
mod table;
mod validation;

use std::fs;
use std::path::{Path, PathBuf};

pub use plot::{Axis, Picture, Series};
pub use table::{Table, digits, interval, percent};

use crate::experiment::{Experiment, Findings, Outcome, Scale};
use crate::results::{self, Results};
use crate::validate::Validation;
use crate::{EXPERIMENTS, Error, Machine};

/// Where the summary table begins and ends in a file that shows it.
const BEGIN: &str = "<!-- lab: summary begins -->";
const END: &str = "<!-- lab: summary ends -->";

/// A file that a report consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its name in the folder.
    pub name: String,
    /// What stands in it.
    pub content: String,
}

/// The results that count for an experiment: complete ones of the full scale, else complete quick ones, else what there
/// is.
///
/// # Errors
/// Where a file is damaged.
pub fn results_of(folder: &Path, experiment: &Experiment) -> Result<Option<Results>, Error> {
    let mut partial = None;
    for scale in [Scale::Full, Scale::Quick] {
        let found = Results::read(&results::path(folder, experiment.name, scale))?;
        let Some(found) = found.filter(|found| found.header.revision == experiment.revision) else { continue };
        if found.is_complete(experiment) {
            return Ok(Some(found));
        }
        partial = partial.or(Some(found));
    }
    Ok(partial)
}

/// All pages, from the results in a folder.
///
/// # Errors
/// Where results are damaged or lack what a page needs.
pub fn pages(folder: &Path) -> Result<Vec<Page>, Error> {
    let mut pages = Vec::new();
    let mut rows = Vec::new();
    for experiment in EXPERIMENTS {
        let results = results_of(folder, experiment)?;
        let complete = results.as_ref().is_some_and(|results| results.is_complete(experiment));
        let findings = match &results {
            Some(results) if complete => (experiment.judge)(results)?,
            Some(results) => {
                let (done, all) = (results.records.len(), (experiment.cases)(results.header.scale).len());
                Findings::open("it has not been run to its end", format!("{done} of {all} cases have results."))
            }
            None => Findings::open("it has not been run", "Nothing was run yet."),
        };
        pages.extend(pictures(experiment, &findings));
        pages.push(page(experiment, results.as_ref(), &findings));
        rows.push((experiment, findings));
    }
    let mut overview = overview(&rows);
    if let Some(found) = Validation::read(&Validation::path(folder))? {
        overview.push_str(&format!("\n{}\n", validation::summary(&found)));
        pages.extend(validation::pages(&found));
    }
    pages.push(Page { name: "README.md".to_owned(), content: overview });
    Ok(pages)
}

fn picture_name(experiment: &Experiment, at: usize) -> String {
    format!("{}-{}.svg", experiment.name, at + 1)
}

fn pictures(experiment: &Experiment, findings: &Findings) -> impl Iterator<Item = Page> {
    let pictures = findings.pictures.iter().enumerate();
    pictures.map(|(at, picture)| Page { name: picture_name(experiment, at), content: picture.svg() })
}

fn page(experiment: &Experiment, results: Option<&Results>, findings: &Findings) -> Page {
    let mut out = format!("# {}\n\n", experiment.title);
    let verdict = match &findings.outcome {
        Outcome::Verdict(verdict) => format!("**{}**", verdict.name()),
        Outcome::Open(why) => format!("**No verdict yet**: {why}."),
    };
    out.push_str(&format!("{verdict}\n\n{}\n\n", findings.because));
    let sections = [
        ("The claim", experiment.claim),
        ("The definition", experiment.definition),
        ("The reference", experiment.reference),
        ("The test", experiment.method),
        ("Expected beforehand", experiment.expected),
    ];
    for (title, text) in sections {
        out.push_str(&format!("## {title}\n\n{text}\n\n"));
    }
    out.push_str("## Found\n\n");
    out.push_str(&match results {
        Some(results) => ran(experiment, results),
        None => format!("`rin lab run {}` has not been run.\n\n", experiment.name),
    });
    for table in &findings.tables {
        out.push_str(&format!("{}\n", table.markdown()));
    }
    for (at, picture) in findings.pictures.iter().enumerate() {
        out.push_str(&format!("![{}]({})\n\n", picture.title, picture_name(experiment, at)));
    }
    for note in &findings.notes {
        out.push_str(&format!("{note}\n\n"));
    }
    out.push_str(&format!("## What would change the verdict\n\n{}\n", experiment.reopens));
    Page { name: format!("{}.md", experiment.name), content: out }
}

/// What was run, and where.
fn ran(experiment: &Experiment, results: &Results) -> String {
    let header = &results.header;
    let quick = if header.scale == Scale::Quick { " --quick" } else { "" };
    let seconds: f64 = results.records.iter().map(|record| record.seconds).sum();
    format!(
        "Run: `rin lab run {}{quick}`, {} of {} cases, {} s in all, {}. The raw results are in `results/{}`.\n\n",
        experiment.name,
        results.records.len(),
        (experiment.cases)(header.scale).len(),
        digits(seconds),
        built_on(&header.version, &results.machines()),
        results::path(Path::new(""), experiment.name, header.scale).display(),
    )
}

/// Which RIN made results on which machines, each with the number of its cases.
fn built_on(version: &str, machines: &[(&Machine, usize)]) -> String {
    let named = |(machine, cases): &(&Machine, usize)| {
        let name = if machine.processor.is_empty() { "a machine without a name" } else { &machine.processor };
        let share = if machines.len() > 1 { format!("; {cases} of the cases") } else { String::new() };
        format!("{name} ({} cores, tier {}{share})", machine.cores, machine.tier)
    };
    format!("with rin {version} on {}", machines.iter().map(named).collect::<Vec<_>>().join(" and "))
}

fn overview(rows: &[(&Experiment, Findings)]) -> String {
    let mut out = String::from(
        "# Research\n\nOne page per component of the seed: its claim, what was built, whose results it is held against, \
         what was run, and the verdict. `rin lab` (a build with `--features lab`) lists the experiments, `rin lab run NAME` \
         runs one, and `rin lab report` writes these pages from the raw results in `results/`. A verdict is given for full \
         runs alone; expectations were written down before anything ran.\n\n",
    );
    out.push_str(&summary(rows, ""));
    out
}

/// The table of all components, with links that begin with `prefix`.
fn summary(rows: &[(&Experiment, Findings)], prefix: &str) -> String {
    let mut table = Table::new("", &["component", "verdict", "because"]);
    for (experiment, findings) in rows {
        let link = format!("[{}]({prefix}{}.md)", experiment.title, experiment.name);
        table.row([link, findings.outcome.name().to_owned(), findings.because.clone()]);
    }
    table.markdown().trim_start().to_owned()
}

/// The summary table alone, with links that begin with `prefix`.
///
/// # Errors
/// As [`pages`].
pub fn summary_table(folder: &Path, prefix: &str) -> Result<String, Error> {
    let mut rows = Vec::new();
    for experiment in EXPERIMENTS {
        let findings = match results_of(folder, experiment)? {
            Some(results) if results.is_complete(experiment) => (experiment.judge)(&results)?,
            _ => Findings::open("it has not been run to its end", "Not run to its end."),
        };
        rows.push((experiment, findings));
    }
    Ok(summary(&rows, prefix))
}

/// Writes the pages into a folder, which is made where it is not there, and tells their paths.
///
/// # Errors
/// As [`pages`]; what the system answers.
pub fn write(results: &Path, docs: &Path) -> Result<Vec<PathBuf>, Error> {
    let pages = pages(results)?;
    fs::create_dir_all(docs).map_err(Error::io(docs))?;
    let mut written = Vec::new();
    for page in pages {
        let path = docs.join(&page.name);
        fs::write(&path, page.content).map_err(Error::io(&path))?;
        written.push(path);
    }
    Ok(written)
}

/// Puts the summary table between its marks in a file that has them.
///
/// # Errors
/// As [`pages`]; where the file cannot be read or written, or lacks the marks.
pub fn write_summary(results: &Path, file: &Path, prefix: &str) -> Result<(), Error> {
    let text = fs::read_to_string(file).map_err(Error::io(file))?;
    let begin = text.find(BEGIN).map(|at| at + BEGIN.len());
    let (Some(begin), Some(end)) = (begin, text.find(END)) else {
        return Err(Error::input(
            "the file for the summary",
            format!("{} lacks the lines {BEGIN} and {END}", file.display()),
        ));
    };
    let (Some(before), Some(after)) = (text.get(..begin), text.get(end..)) else {
        return Err(Error::input("the file for the summary", "its marks stand in the wrong order"));
    };
    let table = summary_table(results, prefix)?;
    fs::write(file, format!("{before}\n{table}{after}")).map_err(Error::io(file))
}

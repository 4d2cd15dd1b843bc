//! `rin lab`: the research experiments.

use anyhow::Result;

use crate::args::LabArgs;

/// Without the laboratory there is only the word that it is missing.
///
/// # Errors
/// Always [`crate::exit::Usage`].
#[cfg(not(feature = "lab"))]
pub(crate) fn lab(_: &LabArgs) -> Result<()> {
    let missing = "this build of rin has no laboratory; build one that has: cargo build --release --features lab";
    Err(crate::exit::Usage(missing.to_owned()).into())
}

#[cfg(feature = "lab")]
pub(crate) use with_laboratory::lab;

#[cfg(feature = "lab")]
mod with_laboratory {
    use std::fmt::Write;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use rin_lab::report::{digits, interval, results_of, write, write_summary};
    use rin_lab::validate::{Check, Options, Watch};
    use rin_lab::{Context, EXPERIMENTS, Experiment, Findings, Outcome, Scale, find, run};
    use serde::Serialize;

    use super::{LabArgs, Result};
    use crate::args::{LabCommand, LabReportArgs, LabRunArgs, LabValidateArgs};
    use crate::exit::{Mismatch, Usage};
    use crate::{interrupt, output, report};

    /// Where an experiment stands.
    #[derive(Debug, Serialize)]
    struct Standing {
        name: &'static str,
        title: &'static str,
        /// Of the results that count.
        scale: Option<&'static str>,
        cases: usize,
        done: usize,
        verdict: Option<&'static str>,
        because: String,
    }

    #[derive(Debug, Serialize)]
    struct LabJson {
        experiments: Vec<Standing>,
        version: &'static str,
    }

    #[derive(Debug, Serialize)]
    struct RunJson {
        experiment: &'static str,
        scale: &'static str,
        cases: usize,
        done: usize,
        resumed: usize,
        skipped: Vec<(String, String)>,
        results: String,
        verdict: Option<&'static str>,
        because: String,
    }

    #[derive(Debug, Serialize)]
    struct ReportJson {
        files: Vec<String>,
        version: &'static str,
    }

    /// Lists, runs or reports.
    ///
    /// # Errors
    /// Whatever goes wrong on the way.
    pub(crate) fn lab(args: &LabArgs) -> Result<()> {
        match &args.what {
            None => list(args),
            Some(LabCommand::Run(args)) => run_all(args),
            Some(LabCommand::Report(args)) => pages(args),
            Some(LabCommand::Validate(args)) => validate(args),
        }
    }

    fn verdict(findings: &Findings) -> Option<&'static str> {
        match findings.outcome {
            Outcome::Verdict(verdict) => Some(verdict.name()),
            Outcome::Open(_) => None,
        }
    }

    fn standing(experiment: &'static Experiment, folder: &Path) -> Result<Standing> {
        let results = results_of(folder, experiment)?;
        let scale = results.as_ref().map_or(Scale::Full, |results| results.header.scale);
        let cases = (experiment.cases)(scale).len();
        let findings = match &results {
            Some(results) if results.is_complete(experiment) => Some((experiment.judge)(results)?),
            _ => None,
        };
        Ok(Standing {
            name: experiment.name,
            title: experiment.title,
            scale: results.as_ref().map(|results| results.header.scale.name()),
            cases,
            done: results.map_or(0, |results| results.records.len()),
            verdict: findings.as_ref().and_then(verdict),
            because: findings.map(|findings| findings.because).unwrap_or_default(),
        })
    }

    fn list(args: &LabArgs) -> Result<()> {
        let experiments = EXPERIMENTS.iter().map(|experiment| standing(experiment, &args.results.results));
        let experiments = experiments.collect::<Result<Vec<_>>>()?;
        if args.output().json {
            return output::json(&LabJson { experiments, version: env!("CARGO_PKG_VERSION") });
        }
        let mut text = String::new();
        for found in experiments {
            let state = match (found.scale, found.verdict) {
                (_, Some(verdict)) => verdict.to_owned(),
                (Some(scale), None) => format!("{} of {} cases ({scale})", found.done, found.cases),
                (None, None) => "not run".to_owned(),
            };
            writeln!(text, "{:<12} {:<24} {}", found.name, state, found.title)?;
        }
        output::text(&text)
    }

    fn run_all(args: &LabRunArgs) -> Result<()> {
        // All names are known before anything runs.
        let experiments = args.names.iter().map(|name| find(name)).collect::<Result<Vec<_>, _>>()?;
        let cancel = Arc::new(AtomicBool::new(false));
        interrupt::install()?;
        interrupt::begin_with(Arc::clone(&cancel));
        for experiment in experiments {
            run_one(args, experiment, &cancel)?;
        }
        Ok(())
    }

    fn scale(quick: bool) -> Scale {
        if quick { Scale::Quick } else { Scale::Full }
    }

    fn run_one(args: &LabRunArgs, experiment: &'static Experiment, cancel: &AtomicBool) -> Result<()> {
        let scale = scale(args.quick);
        let context = Context { data: &args.data, python: args.python.as_deref(), cancel };
        let bar = report::case_progress(0, experiment.name, args.output.quiet);
        let folder = &args.results.results;
        let ran = run(experiment, scale, folder, args.overwrite, &args.only, &context, |at| {
            bar.set_length(at.cases as u64);
            bar.set_message(format!("{}: {}", experiment.name, at.case));
            bar.set_position(at.done as u64);
        });
        bar.finish_and_clear();
        let ran = ran?;
        let cases = (experiment.cases)(scale).len();
        let complete = ran.results.is_complete(experiment);
        let findings = if complete { Some((experiment.judge)(&ran.results)?) } else { None };
        let file = rin_lab::results::path(folder, experiment.name, scale).display().to_string();
        if !args.output.quiet {
            for (case, why) in &ran.skipped {
                output::tell(&format!("SKIPPED: {case}: {why}"));
            }
            output::tell(&format!("{}: {} of {cases} cases in {file}", experiment.name, ran.results.records.len()));
        }
        let because = findings.as_ref().map(|findings| findings.because.clone()).unwrap_or_default();
        if args.output.json {
            return output::json(&RunJson {
                experiment: experiment.name,
                scale: scale.name(),
                cases,
                done: ran.results.records.len(),
                resumed: ran.resumed,
                skipped: ran.skipped,
                results: file,
                verdict: findings.as_ref().and_then(verdict),
                because,
            });
        }
        match &findings {
            Some(findings) => output::text(&format!("{}: {}. {because}\n", experiment.name, findings.outcome.name())),
            None => output::text(&format!("{}: no verdict: not all cases could be run\n", experiment.name)),
        }
    }

    fn pages(args: &LabReportArgs) -> Result<()> {
        let written = write(&args.results.results, &args.docs)?;
        let mut files: Vec<String> = written.iter().map(|path| path.display().to_string()).collect();
        if let Some(readme) = &args.readme {
            write_summary(&args.results.results, readme, "docs/research/")?;
            files.push(readme.display().to_string());
        }
        if args.output.json {
            return output::json(&ReportJson { files, version: env!("CARGO_PKG_VERSION") });
        }
        output::text(&(files.join("\n") + "\n"))
    }

    /// The eight tests.
    ///
    /// # Errors
    /// [`Mismatch`] where one fails; [`Usage`] for too short a time; whatever goes wrong on the way.
    fn validate(args: &LabValidateArgs) -> Result<()> {
        let heat = Watch::for_seconds(args.heat_seconds)
            .map_err(|_| Usage(format!("--heat-seconds: no drift shows in less than {} s", Watch::LEAST_SECONDS)))?;
        let options = Options::new(&args.sys_root, heat, scale(args.quick));
        let cancel = Arc::new(AtomicBool::new(false));
        interrupt::install()?;
        interrupt::begin_with(Arc::clone(&cancel));
        let context = Context { data: Path::new(""), python: None, cancel: &cancel };
        let all = rin_lab::validate::names().count() as u64;
        let bar = report::case_progress(all, "validating", args.output.quiet);
        let mut begun = 0;
        let found = rin_lab::validate::run(&options, &context, |name| {
            bar.set_message(name);
            bar.set_position(begun);
            begun += 1;
        });
        bar.finish_and_clear();
        let found = found?;
        if args.output.json {
            output::json(&found)?;
        } else {
            let mut text = String::new();
            for check in &found.checks {
                write_check(&mut text, check)?;
            }
            output::text(&text)?;
        }
        if found.failed == 0 {
            return Ok(());
        }
        Err(Mismatch(format!("{} of {all} tests fail; their values stand above", found.failed)).into())
    }

    fn write_check(text: &mut String, check: &Check) -> std::fmt::Result {
        let measured = &check.measured;
        let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), digits);
        let ci95 = measured.ci95.map_or_else(String::new, |ci95| format!(" (95 % interval {})", interval(ci95)));
        writeln!(
            text,
            "{:<10} {:<19} {}{ci95} {} {} {}: {}\n{:30} {}",
            check.name,
            measured.status.name(),
            shown(measured.value),
            check.bound.sign(),
            check.threshold,
            check.unit,
            check.what,
            "",
            measured.why()
        )?;
        for beside in &measured.beside {
            let (value, sign) = (shown(beside.value), beside.bound.sign());
            writeln!(text, "{:30} {value} {sign} {} {}: {}", "", beside.threshold, beside.unit, beside.what)?;
        }
        Ok(())
    }
}

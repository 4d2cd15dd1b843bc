//! The page of the validation suite.

use super::{Axis, Page, Picture, Series, Table, built_on, digits, interval};
use crate::Scale;
use crate::validate::{Bound, Check, Curve, Validation};

/// The name of the page, without its ending.
pub(super) const NAME: &str = "validate";

/// The page and its pictures.
pub(super) fn pages(found: &Validation) -> Vec<Page> {
    let quick = if found.scale == Scale::Quick { " --quick" } else { "" };
    let mut out = format!(
        "# The validation suite\n\n**{}**\n\nThe seed's eight tests, made real on the model inside the binary. What each \
         looks at, and when it says \"not testable here\", stands in [the laboratory's page](../lab.md); tests of the tests \
         break each of them on purpose.\n\nRun: `rin lab validate --json{quick}`, {}; the model ran on {} threads in tier {}, \
         a {} build. The raw results are in `results/{NAME}.json`.\n\n",
        counts(found),
        built_on(&found.version, &[(&found.machine, 1)]),
        found.threads,
        found.tier,
        found.profile,
    );
    if found.scale == Scale::Quick {
        out.push_str("Only the quick version was run: fewer steps, a shorter text, fewer ways to compute.\n\n");
    }
    let mut table = Table::new("", &["test", "what", "value", "unit", "threshold", "outcome", "why"]);
    for check in &found.checks {
        rows(&mut table, check);
    }
    out.push_str(table.markdown().trim_start());
    let mut pages = Vec::new();
    for (check, curve) in found.checks.iter().filter_map(|check| Some((check, check.measured.curve.as_ref()?))) {
        let picture = picture(check, curve);
        let name = format!("{NAME}-{}.svg", pages.len() + 1);
        out.push_str(&format!("\n![{}]({name})\n", picture.title));
        pages.push(Page { name, content: picture.svg() });
    }
    pages.push(Page { name: format!("{NAME}.md"), content: out });
    pages
}

fn counts(found: &Validation) -> String {
    format!(
        "{} of {} pass, {} fail, {} cannot be tested on this machine",
        found.passed,
        found.checks.len(),
        found.failed,
        found.not_testable
    )
}

/// A line for the overview.
pub(super) fn summary(found: &Validation) -> String {
    format!("[The validation suite]({NAME}.md), the seed's eight tests: {}.", counts(found))
}

fn rows(table: &mut Table, check: &Check) {
    let bounded = |bound: Bound, threshold: f64| format!("{} {threshold}", bound.sign());
    let value = |value: Option<f64>| value.map_or_else(|| "none".to_owned(), digits);
    let measured = &check.measured;
    let ci95 = measured.ci95.map_or_else(String::new, |ci95| format!(" (95 % interval {})", interval(ci95)));
    table.row([
        check.name.clone(),
        check.what.clone(),
        value(measured.value) + &ci95,
        check.unit.clone(),
        bounded(check.bound, check.threshold),
        measured.status.name().to_owned(),
        measured.why().to_owned(),
    ]);
    for beside in &measured.beside {
        table.row([
            check.name.clone(),
            beside.what.clone(),
            value(beside.value),
            beside.unit.clone(),
            bounded(beside.bound, beside.threshold),
            String::new(),
            "has to hold too".to_owned(),
        ]);
    }
}

fn picture(check: &Check, curve: &Curve) -> Picture {
    let points = curve.points.iter().map(|[x, y]| (*x, *y)).collect();
    Picture {
        title: format!("{}: {} over {}", check.name, curve.y, curve.x),
        x: (curve.x.clone(), Axis::Linear),
        y: (curve.y.clone(), Axis::Linear),
        series: vec![Series::line(check.name.clone(), points)],
    }
}

//! `rin energy --plot`: power over time, window by window, and the energy of a token or inference with its interval.

use std::fmt::{self, Write};

use rin_energy::protocol::{Report, Window};

use super::text::digits;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 20.0;
const PANEL: f64 = 200.0;
const TOP: f64 = 56.0;
const BAR: f64 = 26.0;
const IDLE: &str = "#bbbbbb";
/// Colours that stay apart for most eyes: P. Tol's muted scheme.
const COLOURS: [&str; 6] = ["#332288", "#cc6677", "#44aa99", "#ddcc77", "#882255", "#88ccee"];

/// The picture.
pub(crate) fn svg(report: &Report, title: &str, unit: &str) -> Result<String, fmt::Error> {
    let bars = report.variants.len() as f64 * BAR;
    let height = TOP + PANEL + 110.0 + bars;
    let mut out = String::new();
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">"
    )?;
    let title = escaped(title);
    writeln!(out, "<title>{title}</title>\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>")?;
    writeln!(out, "<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{title}</text>")?;
    legend(&mut out, report)?;
    power(&mut out, &report.windows)?;
    medians(&mut out, report, unit, TOP + PANEL + 56.0)?;
    if !report.disturbances.is_empty() {
        let why = escaped(&report.disturbances.join("; "));
        writeln!(out, "<text x=\"{LEFT}\" y=\"{}\" fill=\"#c30\">disturbed: {why}</text>", height - 12.0)?;
    }
    out.push_str("</svg>\n");
    Ok(out)
}

fn colour(variant: Option<usize>) -> &'static str {
    variant.and_then(|i| COLOURS.get(i % COLOURS.len()).copied()).unwrap_or(IDLE)
}

fn legend(out: &mut String, report: &Report) -> fmt::Result {
    let names = report.variants.iter().map(|variant| variant.name.as_str()).chain(["idle"]);
    for (i, name) in names.enumerate() {
        let x = LEFT + 150.0 * i as f64;
        let colour = colour((i < report.variants.len()).then_some(i));
        writeln!(out, "<rect x=\"{x}\" y=\"32\" width=\"10\" height=\"10\" fill=\"{colour}\"/>")?;
        writeln!(out, "<text x=\"{}\" y=\"41\">{}</text>", x + 15.0, escaped(name))?;
    }
    Ok(())
}

/// One block per window, as high as its mean power.
fn power(out: &mut String, windows: &[Window]) -> fmt::Result {
    let end = windows.iter().map(|window| window.begin + window.seconds).fold(f64::MIN_POSITIVE, f64::max);
    let most = windows.iter().filter_map(Window::watts).fold(f64::MIN_POSITIVE, f64::max);
    let (x, bottom) = (|seconds: f64| LEFT + seconds / end * (WIDTH - LEFT - RIGHT), TOP + PANEL);
    for window in windows {
        let Some(watts) = window.watts() else { continue };
        let (left, high) = (x(window.begin), watts.max(0.0) / most * PANEL);
        let wide = x(window.begin + window.seconds) - left;
        let colour = colour(window.variant);
        writeln!(
            out,
            "<rect x=\"{left:.2}\" y=\"{:.2}\" width=\"{wide:.2}\" height=\"{high:.2}\" fill=\"{colour}\"/>",
            bottom - high
        )?;
    }
    writeln!(out, "<path d=\"M{LEFT} {TOP}V{bottom}H{}\" fill=\"none\" stroke=\"#222\"/>", WIDTH - RIGHT)?;
    writeln!(out, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{} W</text>", LEFT - 6.0, TOP + 10.0, digits(most))?;
    writeln!(out, "<text x=\"{}\" y=\"{bottom}\" text-anchor=\"end\">0</text>", LEFT - 6.0)?;
    writeln!(out, "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{} s</text>", WIDTH - RIGHT, bottom + 16.0, digits(end))
}

/// One bar per variant, with the interval of its median.
fn medians(out: &mut String, report: &Report, unit: &str, top: f64) -> fmt::Result {
    let figures: Vec<_> = report.variants.iter().map(|variant| variant.joules_per_unit).collect();
    let ends = figures.iter().flatten().map(|figure| figure.ci95.map_or(figure.median, |[_, high]| high));
    let most = ends.fold(f64::MIN_POSITIVE, f64::max);
    let room = WIDTH - LEFT - RIGHT - 260.0;
    let x = |joules: f64| LEFT + joules.max(0.0) / most * room;
    writeln!(out, "<text x=\"{LEFT}\" y=\"{}\">J per {unit}, gross: median and 95 % interval</text>", top - 8.0)?;
    for (i, figure) in figures.iter().enumerate() {
        let (y, middle) = (top + i as f64 * BAR, top + i as f64 * BAR + 9.0);
        let Some(figure) = figure else {
            writeln!(out, "<text x=\"{LEFT}\" y=\"{}\">unmeasured</text>", middle + 4.0)?;
            continue;
        };
        let (end, colour) = (x(figure.median), colour(Some(i)));
        writeln!(out, "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{:.2}\" height=\"18\" fill=\"{colour}\"/>", end - LEFT)?;
        if let Some([low, high]) = figure.ci95.map(|ends| ends.map(x)) {
            writeln!(
                out,
                "<path d=\"M{low:.2} {middle}H{high:.2}M{low:.2} {y}v18M{high:.2} {y}v18\" stroke=\"#222\"/>"
            )?;
        }
        let label = super::text::figure(*figure, "J");
        writeln!(out, "<text x=\"{}\" y=\"{}\">{label}</text>", LEFT + room + 10.0, middle + 4.0)?;
    }
    Ok(())
}

/// Text within an element.
fn escaped(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c });
    plain.collect::<String>().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

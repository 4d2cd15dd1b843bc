//! A profile as a picture: for each phase a bar of its operations, and their figures below.

use std::fmt::{Arguments, Write};

use super::phase::BETWEEN;
use super::{Operation, Phase, Profile, duration, percent};
use crate::quiet::Verdict;
use crate::report::figure;

const WIDTH: f64 = 760.0;
const MARGIN: f64 = 24.0;
const BAR: f64 = 32.0;
const LINE: f64 = 19.0;
/// Room for the title, for the heading of a phase, after its legend, and for a note.
const TOP: f64 = 44.0;
const ABOVE: f64 = 32.0;
const BELOW: f64 = 14.0;
const BOTTOM: f64 = 24.0;

/// Right ends of the columns of figures.
const COLUMNS: [(f64, &str); 4] = [(440.0, "mean µs"), (530.0, "share"), (620.0, "GB/s"), (736.0, "of roofline")];

/// Colours that stay apart for most eyes: P. Tol's muted scheme, then of Okabe and Ito's.
const COLOURS: [&str; 12] = [
    "#332288", "#44aa99", "#cc6677", "#ddcc77", "#117733", "#88ccee", "#882255", "#999933", "#aa4499", "#e69f00",
    "#0072b2", "#d55e00",
];
const BETWEEN_COLOUR: &str = "#bbbbbb";

impl Profile {
    /// The profile as an SVG with a background of its own: for each phase a bar, cut into the operations by their
    /// shares, and a legend with their figures. An operation has one colour in all phases.
    pub fn svg(&self) -> String {
        let lines: usize = self.phases.iter().map(|phase| phase.operations.len()).sum();
        let height = TOP + self.phases.len() as f64 * (ABOVE + BAR + LINE + BELOW) + lines as f64 * LINE + BOTTOM;
        let title = escaped(&self.title());
        let mut out = String::new();
        add(
            &mut out,
            format_args!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
                 font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n\
                 <title>{title}</title>\n\
                 <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
                 <text x=\"{MARGIN}\" y=\"30\" font-size=\"15\">{title}</text>\n"
            ),
        );
        let names = self.names();
        let mut y = TOP;
        for phase in &self.phases {
            y = draw(&mut out, phase, &names, y);
        }
        let disturbance = &self.machine.disturbance;
        if disturbance.verdict == Verdict::Disturbed {
            let (y, why) = (y + 6.0, escaped(&disturbance.reasons.join("; ")));
            add(&mut out, format_args!("<text x=\"{MARGIN}\" y=\"{y}\" fill=\"#c30\">disturbed: {why}</text>\n"));
        }
        out.push_str("</svg>\n");
        out
    }

    /// The operations of all phases.
    fn names(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for operation in self.phases.iter().flat_map(|phase| &phase.operations) {
            if operation.name != BETWEEN && !names.contains(&operation.name.as_str()) {
                names.push(&operation.name);
            }
        }
        names
    }
}

/// The colour of an operation.
fn colour(name: &str, names: &[&str]) -> &'static str {
    let place = names.iter().position(|other| *other == name);
    place.and_then(|place| COLOURS.get(place % COLOURS.len()).copied()).unwrap_or(BETWEEN_COLOUR)
}

/// Draws a phase from `top` on; returns its bottom.
fn draw(out: &mut String, phase: &Phase, names: &[&str], top: f64) -> f64 {
    let bar = top + ABOVE;
    let y = bar - 10.0;
    let (test, time, passes) = (&phase.test, duration(phase.total.median_ns), phase.n_passes);
    let pass = phase.pass();
    let heading = format_args!("{test}: median {time} of {passes} passes; {pass}").to_string();
    add(out, format_args!("<text x=\"{MARGIN}\" y=\"{y}\" font-weight=\"bold\">{heading}</text>\n"));
    let mut x = MARGIN;
    for Operation { name, measured } in &phase.operations {
        let width = measured.share * (WIDTH - 2.0 * MARGIN);
        let (fill, label, share) = (colour(name, names), escaped(name), percent(measured.share));
        add(
            out,
            format_args!(
                "<rect x=\"{x:.2}\" y=\"{bar}\" width=\"{width:.2}\" height=\"{BAR}\" fill=\"{fill}\" stroke=\"#fff\" \
                 stroke-width=\"0.5\"><title>{label}: {share}</title></rect>\n"
            ),
        );
        x += width;
    }
    let mut y = bar + BAR + LINE;
    for (x, head) in COLUMNS {
        add(out, format_args!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\" fill=\"#666\">{head}</text>\n"));
    }
    for operation in &phase.operations {
        y += LINE;
        legend(out, operation, phase.n_passes, colour(&operation.name, names), y);
    }
    y + BELOW
}

/// One operation: its colour, its name, its figures per pass.
fn legend(out: &mut String, Operation { name, measured }: &Operation, passes: u64, fill: &str, y: f64) {
    let (square, name_x) = (y - 10.0, MARGIN + 18.0);
    let label = escaped(name);
    add(out, format_args!("<rect x=\"{MARGIN}\" y=\"{square}\" width=\"12\" height=\"12\" fill=\"{fill}\"/>\n"));
    add(out, format_args!("<text x=\"{name_x}\" y=\"{y}\">{label}</text>\n"));
    let none = || "–".to_owned();
    let figures = [
        figure(measured.total_ns as f64 / (passes as f64).max(1.0) / 1e3),
        percent(measured.share),
        measured.gb_per_s.map_or_else(none, figure),
        measured.roofline.map_or_else(none, percent),
    ];
    for ((x, _), text) in COLUMNS.into_iter().zip(figures) {
        add(out, format_args!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\">{text}</text>\n"));
    }
}

fn add(out: &mut String, text: Arguments<'_>) {
    // Writing to a String does not fail.
    out.write_fmt(text).ok();
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

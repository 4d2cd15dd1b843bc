//! Pictures: curves and points over two axes, as SVG that stands alone.

use std::fmt::{self, Write};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 50.0;
/// Colours that stay apart for most eyes: P. Tol's muted scheme.
const COLOURS: [&str; 8] = ["#332288", "#cc6677", "#44aa99", "#ddcc77", "#882255", "#88ccee", "#117733", "#999933"];

/// How an axis is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// In equal steps.
    Linear,
    /// In powers of ten; values of zero and below are left out.
    Log,
}

/// One set of points.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What it is called in the legend.
    pub name: String,
    /// x and y.
    pub points: Vec<(f64, f64)>,
    /// Whether a line joins them; else they are dots.
    pub line: bool,
}

impl Series {
    /// Points joined by a line.
    pub fn line(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points, line: true }
    }

    /// Dots.
    pub fn dots(name: impl Into<String>, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points, line: false }
    }
}

/// A picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// What it shows.
    pub title: String,
    /// The name of the x axis, and how it is divided.
    pub x: (String, Axis),
    /// The name of the y axis, and how it is divided.
    pub y: (String, Axis),
    /// What is drawn.
    pub series: Vec<Series>,
}

/// The range of an axis on the page.
struct Range {
    axis: Axis,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Range {
    fn new(axis: Axis, values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let of = |x: f64| match axis {
            Axis::Linear => Some(x),
            Axis::Log => (x > 0.0).then(|| libm::log10(x)),
        };
        let (low, high) = values
            .filter(|x| x.is_finite())
            .filter_map(of)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        let (low, high) = match axis {
            Axis::Log => (low.floor(), high.ceil()),
            Axis::Linear => {
                let step = step(high - low);
                ((low / step).floor() * step, (high / step).ceil() * step)
            }
        };
        let high = if high > low { high } else { low + 1.0 };
        Self { axis, low, high, from, to }
    }

    /// Where a value lies on the page; none for what the axis does not have.
    fn place(&self, x: f64) -> Option<f64> {
        let x = match self.axis {
            Axis::Linear => x,
            Axis::Log if x > 0.0 => libm::log10(x),
            Axis::Log => return None,
        };
        x.is_finite().then(|| self.from + (x - self.low) / (self.high - self.low) * (self.to - self.from))
    }

    /// Values that are named.
    fn ticks(&self) -> Vec<(f64, String)> {
        let step = match self.axis {
            Axis::Linear => step(self.high - self.low),
            Axis::Log => ((self.high - self.low) / 8.0).ceil().max(1.0),
        };
        let mut ticks = Vec::new();
        let mut at = self.low;
        while at <= self.high + step * 1e-6 && ticks.len() < 50 {
            ticks.push(match self.axis {
                Axis::Linear => (at, number(at, step)),
                Axis::Log => (libm::pow(10.0, at), format!("1e{at:.0}")),
            });
            at += step;
        }
        ticks
    }
}

/// A round distance that gives at most ten ticks.
fn step(range: f64) -> f64 {
    if range <= 0.0 || !range.is_finite() {
        return 1.0;
    }
    let power = libm::pow(10.0, libm::log10(range / 10.0).floor());
    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| range / step <= 10.0).unwrap_or(power)
}

/// A tick's value with as many places as its step has.
fn number(x: f64, step: f64) -> String {
    let places = (0..12_u8).find(|places| {
        let scaled = step * libm::pow(10.0, f64::from(*places));
        (scaled - scaled.round()).abs() < 1e-6 * scaled
    });
    let x = if x.abs() < step * 1e-6 { 0.0 } else { x };
    format!("{x:.*}", usize::from(places.unwrap_or(3)))
}

/// Text within an element.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

impl Picture {
    /// The picture as SVG.
    pub fn svg(&self) -> String {
        let mut out = String::new();
        // Writing to a String does not fail.
        self.write(&mut out).ok();
        out
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = Range::new(self.x.1, points().map(|p| p.0), LEFT, WIDTH - RIGHT);
        let y = Range::new(self.y.1, points().map(|p| p.1), HEIGHT - BOTTOM, TOP);
        let title = escaped(&self.title);
        writeln!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">"
        )?;
        writeln!(out, "<title>{title}</title>\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>")?;
        writeln!(out, "<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{title}</text>")?;
        for (value, label) in x.ticks() {
            let Some(at) = x.place(value) else { continue };
            writeln!(out, "<path d=\"M{at:.1} {TOP}V{:.1}\" stroke=\"#e4e4e4\"/>", HEIGHT - BOTTOM)?;
            writeln!(
                out,
                "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
                HEIGHT - BOTTOM + 16.0
            )?;
        }
        for (value, label) in y.ticks() {
            let Some(at) = y.place(value) else { continue };
            writeln!(out, "<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#e4e4e4\"/>", WIDTH - RIGHT)?;
            writeln!(out, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", LEFT - 6.0, at + 4.0)?;
        }
        let middle = f64::midpoint(LEFT, WIDTH - RIGHT);
        writeln!(
            out,
            "<text x=\"{middle}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - 12.0,
            escaped(&self.x.0)
        )?;
        let middle = f64::midpoint(TOP, HEIGHT - BOTTOM);
        writeln!(
            out,
            "<text transform=\"translate(16 {middle}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            escaped(&self.y.0)
        )?;
        for ((series, colour), at) in self.series.iter().zip(COLOURS.iter().cycle()).zip(0_u16..) {
            series.write(out, colour, (&x, &y))?;
            let y = TOP + 12.0 + 18.0 * f64::from(at);
            let x = WIDTH - RIGHT + 14.0;
            writeln!(out, "<rect x=\"{x}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>", y - 9.0)?;
            writeln!(out, "<text x=\"{}\" y=\"{y:.1}\">{}</text>", x + 16.0, escaped(&series.name))?;
        }
        out.push_str("</svg>\n");
        Ok(())
    }
}

impl Series {
    fn write(&self, out: &mut String, colour: &str, (x, y): (&Range, &Range)) -> fmt::Result {
        let places = || self.points.iter().filter_map(|p| Some((x.place(p.0)?, y.place(p.1)?)));
        if self.line {
            write!(out, "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\" points=\"")?;
            for (x, y) in places() {
                write!(out, "{x:.1},{y:.1} ")?;
            }
            writeln!(out, "\"/>")?;
        }
        let radius = if self.line { 2.2 } else { 3.2 };
        for (x, y) in places() {
            writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{colour}\"/>")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_within_the_frame_and_names_are_escaped() {
        let series = Series::line("a<b", vec![(1.0, 0.0), (10.0, 1e-3), (1e4, 5.0), (f64::NAN, 1.0)]);
        for axis in [Axis::Linear, Axis::Log] {
            let picture = Picture {
                title: "x & y".to_owned(),
                x: ("n".to_owned(), Axis::Log),
                y: ("error".to_owned(), axis),
                series: vec![series.clone()],
            };
            let svg = picture.svg();
            assert!(svg.contains("a&lt;b") && svg.contains("x &amp; y") && svg.ends_with("</svg>\n"));
            let points = svg.split("points=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
            let expected = if axis == Axis::Log { 2 } else { 3 };
            assert_eq!(points.split_whitespace().count(), expected, "zero has no logarithm");
            for point in points.split_whitespace() {
                let (x, y) = point.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((LEFT..=WIDTH - RIGHT).contains(&x) && (TOP..=HEIGHT - BOTTOM).contains(&y), "{point}");
            }
        }
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert!((step(7.3) - 1.0).abs() < 1e-12 && (step(0.034) - 0.005).abs() < 1e-12);
        assert_eq!(number(0.015, 0.005), "0.015");
        assert_eq!(number(-1e-12, 0.5), "0.0");
        assert_eq!(Range::new(Axis::Log, [1e-3, 40.0].into_iter(), 0.0, 1.0).ticks().len(), 6);
    }
}

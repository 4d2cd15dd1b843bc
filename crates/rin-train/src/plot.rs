//! The curves of a training as an SVG.

use crate::journal::Line;
use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 40.0;

/// The plane of the plot.
struct Axes {
    steps: f64,
    low: f64,
    high: f64,
}

impl Axes {
    fn x(&self, step: f64) -> f64 {
        LEFT + step / self.steps * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, loss: f64) -> f64 {
        TOP + (self.high - loss) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)
    }
}

/// Training and validation loss over the steps.
pub(crate) fn svg(title: &str, lines: &[Line]) -> String {
    let mut train = Vec::new();
    let mut eval = Vec::new();
    for line in lines {
        match *line {
            Line::Train { step, loss, .. } => train.push((step as f64, loss)),
            Line::Eval { step, nats_per_token, .. } => eval.push((step as f64, nats_per_token)),
        }
    }
    let all = || train.iter().chain(&eval);
    let steps = all().map(|p| p.0).fold(1.0, f64::max);
    let low = all().map(|p| p.1).fold(f64::INFINITY, f64::min).min(1e9);
    let high = all().map(|p| p.1).fold(low, f64::max);
    let tick = tick(high - low);
    let axes = Axes {
        steps,
        low: (low / tick).floor() * tick,
        high: (high / tick).ceil().max((low / tick).floor() + 1.0) * tick,
    };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{}</text>\n",
        escaped(title)
    );
    grid(&mut out, &axes, tick);
    curve(&mut out, &axes, &train, "#8aa", 1.0);
    curve(&mut out, &axes, &eval, "#c30", 2.0);
    legend(&mut out, &eval);
    out.push_str("</svg>\n");
    out
}

/// A round distance that gives at most ten ticks.
fn tick(range: f64) -> f64 {
    let steps = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
    steps.into_iter().find(|tick| range / tick <= 10.0).unwrap_or(100.0)
}

fn grid(out: &mut String, axes: &Axes, tick: f64) {
    let mut loss = axes.low;
    while loss <= axes.high + tick / 2.0 {
        let y = axes.y(loss);
        let right = WIDTH - RIGHT;
        let label = LEFT - 6.0;
        let middle = y + 4.0;
        add(out, format_args!("<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#ddd\"/>\n"));
        add(out, format_args!("<text x=\"{label}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>\n", round(loss)));
        loss += tick;
    }
    for part in 0..=4 {
        let step = axes.steps * f64::from(part) / 4.0;
        let (x, y) = (axes.x(step), HEIGHT - BOTTOM + 18.0);
        add(out, format_args!("<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{step:.0}</text>\n"));
    }
    let (x, y) = (f64::midpoint(LEFT, WIDTH - RIGHT), HEIGHT - 6.0);
    add(out, format_args!("<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">step</text>\n"));
}

fn round(x: f64) -> String {
    let text = format!("{x:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn curve(out: &mut String, axes: &Axes, points: &[(f64, f64)], colour: &str, width: f64) {
    if points.is_empty() {
        return;
    }
    add(out, format_args!("<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\" points=\""));
    for &(step, loss) in points.iter().filter(|p| p.1.is_finite()) {
        add(out, format_args!("{:.1},{:.1} ", axes.x(step), axes.y(loss)));
    }
    out.push_str("\"/>\n");
}

fn legend(out: &mut String, eval: &[(f64, f64)]) {
    let x = WIDTH - RIGHT;
    let best = eval.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
    add(
        out,
        format_args!("<text x=\"{x}\" y=\"16\" text-anchor=\"end\" fill=\"#577\">training, nats per token</text>\n"),
    );
    let note = if best.is_finite() { format!(", least {best:.4}") } else { String::new() };
    let text = format_args!("<text x=\"{x}\" y=\"32\" text-anchor=\"end\" fill=\"#c30\">validation{note}</text>\n")
        .to_string();
    out.push_str(&text);
}

fn add(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    out.write_fmt(text).ok();
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::svg;
    use crate::journal::Line;

    #[test]
    fn curves_lie_within_the_frame_and_names_are_escaped() {
        let lines: Vec<Line> = (1..=20)
            .map(|step| Line::Train { step, loss: 4.0 / step as f64, lr: 0.0, grad_norm: 0.0, tokens_per_second: 0.0 })
            .chain([Line::Eval {
                step: 20,
                nats_per_char: 1.0,
                interval: [0.9, 1.1],
                nats_per_token: 1.0,
                seconds: 1.0,
            }])
            .collect();
        let svg = svg("a<b", &lines);
        assert!(svg.contains("a&lt;b") && svg.contains("least 1.0000"));
        let points = svg.split("points=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
        for point in points.split_whitespace() {
            let (x, y) = point.split_once(',').unwrap();
            assert!(
                (56.0..=704.0).contains(&x.parse::<f64>().unwrap())
                    && (40.0..=360.0).contains(&y.parse::<f64>().unwrap())
            );
        }
        assert!(super::svg("", &[]).ends_with("</svg>\n"));
    }
}

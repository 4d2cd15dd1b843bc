//! A profile as a trace: one pass of each phase, for the viewers of Chrome and Perfetto.

use serde::Serialize;

use super::phase::BETWEEN;
use super::{Call, Phase, Profile, plain};
use crate::Error;

/// An event of the Trace Event Format (Google, "Trace Event Format", 2016): a name for the process, or a complete event.
#[derive(Debug, Serialize)]
struct Event<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    cat: &'a str,
    ph: &'a str,
    /// Begin, in µs.
    ts: f64,
    /// In µs.
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    pid: u32,
    tid: u32,
    args: Args<'a>,
}

#[derive(Debug, Default, Serialize)]
struct Args<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gb_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ops: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tops: Option<f64>,
}

impl Profile {
    /// One pass of each phase, the middle one by its time, as a JSON array of trace events. A pass holds its layers, those
    /// their steps, back to back as they ran; what no step took stands at the end.
    ///
    /// # Errors
    ///
    /// [`Error::Json`], which a profile never gives.
    pub fn chrome_trace(&self) -> Result<String, Error> {
        let title = self.title();
        let mut events = vec![Event {
            name: "process_name",
            cat: "",
            ph: "M",
            ts: 0.0,
            dur: None,
            pid: 1,
            tid: 1,
            args: Args { name: Some(&title), ..Args::default() },
        }];
        let names: Vec<(String, Vec<String>)> = self.phases.iter().map(layer_names).collect();
        let mut at = 0;
        for (phase, (pass, layers)) in self.phases.iter().zip(&names) {
            at = trace(&mut events, phase, pass, layers, at);
        }
        Ok(serde_json::to_string(&events).map_err(Error::Json)? + "\n")
    }
}

/// What the pass and its layers are called.
fn layer_names(phase: &Phase) -> (String, Vec<String>) {
    let layers = phase.steps.iter().filter_map(|step| step.layer).max().map_or(0, |last| last.saturating_add(1));
    let pass = plain(&format!("{}: {}", phase.test, phase.pass()));
    (pass, (0..layers).map(|layer| format!("layer {layer}")).collect())
}

/// Adds the pass that begins at `at` ns; returns its end.
fn trace<'a>(events: &mut Vec<Event<'a>>, phase: &'a Phase, pass: &'a str, layers: &'a [String], at: u64) -> u64 {
    let layer_of = |call: &Call| phase.steps.get(call.step).and_then(|step| step.layer);
    let calls = &phase.example.calls;
    let of_steps = sum(calls);
    // Clocks of the steps lie within that of the pass.
    let end = at.saturating_add(phase.example.whole_ns.max(of_steps));
    events.push(event(pass, "pass", at, end, Args::default()));
    let mut now = at;
    for group in calls.chunk_by(|a, b| layer_of(a) == layer_of(b)) {
        let layer = group.first().and_then(layer_of);
        if let Some((layer, name)) = layer.and_then(|layer| Some((layer, layers.get(layer)?))) {
            let args = Args { layer: Some(layer), ..Args::default() };
            events.push(event(name, "layer", now, now.saturating_add(sum(group)), args));
        }
        for call in group {
            let after = now.saturating_add(call.ns);
            let name = phase.steps.get(call.step).map_or("", |step| step.name.as_str());
            events.push(event(name, "step", now, after, args(call, layer)));
            now = after;
        }
    }
    if now < end {
        events.push(event(BETWEEN, "rest", now, end, Args::default()));
    }
    end
}

fn sum(calls: &[Call]) -> u64 {
    calls.iter().fold(0, |sum: u64, call| sum.saturating_add(call.ns))
}

fn event<'a>(name: &'a str, cat: &'a str, begin: u64, end: u64, args: Args<'a>) -> Event<'a> {
    let us = |ns: u64| ns as f64 / 1e3;
    Event { name, cat, ph: "X", ts: us(begin), dur: Some(us(end.saturating_sub(begin))), pid: 1, tid: 1, args }
}

fn args(call: &Call, layer: Option<usize>) -> Args<'static> {
    let rate = |amount: u64| (amount > 0 && call.ns > 0).then(|| amount as f64 / call.ns as f64);
    let ops = (call.ops > 0).then_some(call.ops);
    Args {
        name: None,
        step: Some(call.step),
        layer,
        bytes: Some(call.bytes),
        gb_per_s: rate(call.bytes),
        ops,
        tops: rate(call.ops).map(|tops| tops / 1e3),
    }
}

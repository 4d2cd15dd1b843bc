//! Resonance synchronisation against plain ones.

use rin_bench::stats::multiple::holm;
use rin_bench::stats::rank::mann_whitney;
use rin_bench::stats::{mean, median};
use serde_json::json;

use crate::report::{Axis, Picture, Series, Table, digits};
use crate::results::Results;
use crate::sync::clocks::{Method, Setting, simulate};
use crate::sync::kuramoto::{Oscillators, expected_order, lorentz};
use crate::{Case, Error, Experiment, Findings, Scale, Verdict};

const NODES: [usize; 3] = [4, 8, 16];
const LOSSES: [f64; 4] = [0.0, 0.1, 0.2, 0.3];
const COUPLINGS: [f64; 6] = [0.5, 1.5, 2.0, 3.0, 4.0, 8.0];
const DRIFT: f64 = 50e-6;
/// Below this spread, in seconds, clocks count as together.
const TOGETHER: f64 = 0.005;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "sync",
    title: "Resonance synchronisation",
    claim: "Nodes fall into step by pulses at 7.83 Hz. In the seed the frequency has no function, the delay is the difference of two machines' own \
            clocks, the phase is a time modulo 256 ms, and distributed inference returns −1.",
    definition: "Pulse-coupled oscillators (Kuramoto) that all send and all follow; offsets measured there and back, the quickest of eight \
                 believed (as NTP does); a leader's beacon. Rounds of 1 s, delays of 5 ms and an exponential part of mean 2 ms whose mean everybody \
                 knows, clocks off by up to 50 ppm, equal gains. `rin_lab::sync`.",
    reference: "For the oscillators scipy's solve_ivp, and Kuramoto's r = √(1 − Kc/K) for Lorentzian frequencies.",
    method: "How far 4, 8 and 16 clocks are apart after 100 rounds, at losses of 0 to 30 %, and after how many rounds they stay within 5 ms; seeds in \
             pairs; Mann–Whitney tests of pulses against offsets with Holm's adjustment over all settings. Then the leader falls silent.",
    expected: "Offsets measured there and back are the most accurate and the quickest; pulses win only where there is no leader.",
    reopens: "A setting with a leader in which pulses keep clocks closer. A pipeline over several hosts needs no common clock for right answers; it \
              was not part of this.",
    revision: 1,
    cases,
    judge,
};

fn cases(scale: Scale) -> Vec<Case> {
    let seeds = scale.pick(6, 30);
    let rounds = 300;
    let mut cases = vec![Case::new("locking", move |context| {
        let mut found = Vec::new();
        for coupling in COUPLINGS {
            context.check()?;
            let n = scale.pick(400, 2000);
            let phases = (0..n).map(|i| 2.4 * i as f64).collect();
            let mut all = Oscillators { phases, frequencies: lorentz(n, 0.5), coupling };
            (0..3000).for_each(|_| all.step(0.02));
            let mut orders = Vec::new();
            (0..1000).for_each(|_| {
                all.step(0.02);
                orders.push(all.order().0);
            });
            found
                .push(json!({ "coupling": coupling, "order": mean(&orders), "theory": expected_order(coupling, 0.5) }));
        }
        Ok(json!({ "rows": found }))
    })];
    for nodes in NODES {
        for loss in LOSSES {
            cases.push(Case::new(name(nodes, loss), move |_| {
                let setting = Setting { nodes, drift: DRIFT, loss, rounds, leader_ends: None };
                Ok(all_methods(&setting, seeds))
            }));
        }
    }
    cases.push(Case::new("silent leader", move |_| {
        let setting = Setting { nodes: 8, drift: DRIFT, loss: 0.1, rounds: 2000, leader_ends: Some(200) };
        Ok(all_methods(&setting, seeds))
    }));
    cases
}

fn name(nodes: usize, loss: f64) -> String {
    format!("{nodes} nodes, loss {loss}")
}

fn all_methods(setting: &Setting, seeds: u32) -> serde_json::Value {
    let mut found = serde_json::Map::new();
    for method in Method::ALL {
        let runs: Vec<Vec<f64>> = (0..seeds).map(|seed| simulate(method, setting, seed)).collect();
        let late = setting.leader_ends.map_or(100, |_| setting.rounds - 100);
        let spreads: Vec<Option<f64>> = runs.iter().map(|run| mean(&run[late..])).collect();
        let settled: Vec<usize> =
            runs.iter().map(|run| run.iter().rposition(|s| *s > TOGETHER).map_or(0, |at| at + 1)).collect();
        found.insert(method.name().to_owned(), json!({ "spread": spreads, "settled": settled }));
    }
    serde_json::Value::Object(found)
}

fn judge(results: &Results) -> Result<Findings, Error> {
    let mut locking =
        Table::new("Oscillators with Lorentzian frequencies of half width 0.5, so Kc = 1:", &["K", "r", "theory"]);
    for row in results.at("locking", "/rows")?.as_array().into_iter().flatten() {
        let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
        locking.row([
            digits(number("coupling")),
            format!("{:.3}", number("order")),
            format!("{:.3}", number("theory")),
        ]);
    }
    let mut spreads = Table::new(
        "Median over seeds of how far the clocks are apart, in ms (rounds until they stay within 5 ms in brackets):",
        &["nodes", "loss", "pulses", "offsets", "beacon", "p of pulses against offsets, adjusted"],
    );
    let mut rows = Vec::new();
    let mut tests = Vec::new();
    for nodes in NODES {
        for loss in LOSSES {
            let case = name(nodes, loss);
            let of = |method: Method, key: &str| results.numbers(&case, &format!("/{}/{key}", method.name()));
            let (pulses, offsets) = (of(Method::Pulses, "spread")?, of(Method::Offsets, "spread")?);
            let test = mann_whitney(&pulses, &offsets);
            tests.push(test.map_or(1.0, |test| test.p));
            let cells = Method::ALL.map(|method| -> Result<String, Error> {
                let spread = median(&of(method, "spread")?).unwrap_or(f64::NAN);
                let settled = median(&of(method, "settled")?).unwrap_or(f64::NAN);
                Ok(format!("{} ({})", digits(1e3 * spread), digits(settled)))
            });
            let [a, b, c] = cells;
            let better = median(&offsets) < median(&pulses);
            rows.push((nodes, loss, [a?, b?, c?], better));
        }
    }
    let adjusted = holm(&tests);
    let (mut wins, mut losses) = (0, 0);
    for ((nodes, loss, cells, better), p) in rows.iter().zip(&adjusted) {
        wins += usize::from(*better && *p < 0.05);
        losses += usize::from(!*better && *p < 0.05);
        let [a, b, c] = cells.clone();
        spreads.row([nodes.to_string(), format!("{loss}"), a, b, c, digits(*p)]);
    }
    let late = |method: Method| -> Result<f64, Error> {
        let found = results.numbers("silent leader", &format!("/{}/spread", method.name()))?;
        Ok(1e3 * median(&found).unwrap_or(f64::NAN))
    };
    let because = format!(
        "Offsets measured there and back keep clocks closer than pulses in {wins} of {} settings (adjusted p below 0.05), and pulses \
         in {losses}; 1,800 rounds after the \
         leader fell silent the clocks are {} ms apart with pulses, {} with offsets.",
        rows.len(),
        digits(late(Method::Pulses)?),
        digits(late(Method::Offsets)?),
    );
    let verdict = if wins == rows.len() { Verdict::Negative } else { Verdict::ValidatedWithLimits };
    let curve = |method: Method| -> Result<Series, Error> {
        let points = LOSSES.iter().map(|loss| {
            let found = results.numbers(&name(8, *loss), &format!("/{}/spread", method.name()))?;
            Ok((100.0 * loss, 1e3 * median(&found).unwrap_or(f64::NAN)))
        });
        Ok(Series::line(method.name(), points.collect::<Result<Vec<_>, Error>>()?))
    };
    let mut lora = Table::new(
        "Seconds for the activations of one token (width 4096, 8-bit) over one hop of a LoRa radio, by its bit rate:",
        &["0.3 kbit/s", "5.5 kbit/s", "50 kbit/s"],
    );
    lora.row([0.3, 5.5, 50.0].map(|rate| digits(4096.0 * 8.0 / (rate * 1000.0))));
    Ok(Findings::judged(results, verdict, because)
        .table(spreads)
        .table(locking)
        .table(lora)
        .picture(Picture {
            title: "How far 8 clocks are apart".to_owned(),
            x: ("messages lost, %".to_owned(), Axis::Linear),
            y: ("ms".to_owned(), Axis::Log),
            series: vec![curve(Method::Pulses)?, curve(Method::Offsets)?, curve(Method::Beacon)?],
        })
        .note(
            "A simulation of clocks and messages, not of radios or processes. What speaks for pulses is that nobody leads: they go on where a leader \
             falls silent and none is chosen anew. No answer of a network depends on clocks that agree.",
        ))
}

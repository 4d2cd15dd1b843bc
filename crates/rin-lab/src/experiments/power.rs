//! The power controller on simulated machines.

use rin_bench::stats::multiple::holm;
use rin_bench::stats::signed_rank::signed_rank;
use rin_bench::stats::{median, sorted};
use serde_json::json;

use crate::power::{Control, Plant, simulate};
use crate::report::{Axis, Picture, Series, Table, digits, percent};
use crate::results::Results;
use crate::{Case, Error, Experiment, Findings, Scale, Verdict};

const MACHINES: u32 = 30;
/// Ranges of the lag, in seconds.
const LAGS: [(&str, f64, f64); 2] = [("lag 0.01 to 0.1 s", 0.01, 0.1), ("lag 0.2 to 2 s", 0.2, 2.0)];

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "power",
    title: "Power controller on simulated machines",
    claim: "A tuner recommends the best mode within a power budget. The seed's takes any mode that makes one token a second, reads a key that does \
            not exist, and counts temperature and top-k as knobs of power.",
    definition: "The controller of `rin run --power-budget`: eleven lags as hypotheses, each with a Kalman filter for power and slope, \
                 and their probable duty cycle (`rin_energy::tuner`). Beside it: PI with gains from the machine's true slope and lag, all-or-nothing, and a duty cycle from a \
                 profile that is off by up to 10 %.",
    reference: "The PI controller equals simple-pid 2.0.1 step for step within 1e-9, and without noise and limits, on a machine whose lag its gains cancel, \
                1 − exp(−t / 0.5 s) within 0.001.",
    method: "Thirty random machines for each range of lags: idle 5 to 40 W, busy 2 to 6 times that, a sensor with 2 to 5 % noise and a grain of 61 µJ, \
             decisions every 0.1 s, 40 s, the load changing by up to 15 % in the middle. Both ranges have the same thirty machines with another lag. Goals: overshoot below 10 %, settled in 2 s \
             (from then on the mean of half a second is within 5 % of the cap), mean within 3 % \
             of the cap, never more than 3 % over it (mean of half a second) for longer than 1 s. Beside it the machines whose power can rise \
             fast enough to settle in 2 s whatever controls them. Wilcoxon's signed ranks of the tuner's error against \
             the others', Holm's adjustment.",
    expected: "Goals met; closer to the cap than all-or-nothing and open loop.",
    reopens: "A machine with a sensor: no watt was measured here. A cap is met, energy is not saved: a paced machine rests at its idle power.",
    revision: 2,
    cases,
    judge,
};

fn cases(_: Scale) -> Vec<Case> {
    // Seconds at either scale.
    let mut cases = Vec::new();
    for (lag, low, high) in LAGS {
        for control in Control::ALL {
            cases.push(Case::new(format!("{}, {lag}", control.name()), move |context| {
                context.check()?;
                let runs = (0..MACHINES).map(|seed| simulate(control, &Plant::random(seed, (low, high)), seed));
                let runs: Vec<_> = runs.collect();
                let of = |f: fn(&crate::power::Outcome) -> f64| runs.iter().map(f).collect::<Vec<_>>();
                Ok(json!({
                    "overshoot": of(|o| o.overshoot), "settled": of(|o| o.settled), "error": of(|o| o.error),
                    "longest_over": of(|o| o.longest_over),
                    "can_settle": (0..MACHINES).map(|seed| f64::from(u8::from(Plant::random(seed, (low, high)).can_settle()))).collect::<Vec<_>>(),
                }))
            }));
        }
    }
    cases
}

const GOALS: [(&str, f64); 4] = [("overshoot", 0.10), ("settled", 2.0), ("error", 0.03), ("longest_over", 1.0)];

/// What is looser than asked, and what was not done.
const NOTES: [&str; 3] = [
    "Two goals are looser here than the specification's words. It wants power never over the budget for longer than 1 s; counted is a mean of half a second that is more than \
             3 % over. It gives no band for \"settled\"; 5 % around a mean of half a second was chosen. The sixty machines are thirty, each with two lags, so that the two \
             ranges are no independent samples.",
    "Not done: an optimiser that profiles each setting and selects by energy, time or Zeus's cost (the open loop above is a duty cycle from a profile, no more); steering by the \
             size or rounding of the model, and by the processor's own limit (`powercap`); the threads that `rin run` takes and gives back are not simulated either, the duty cycle alone is. Measured intervals were not held against pyJoules or codecarbon: that takes a sensor.",
    "Nor is there a front of joules by token between running at full speed and resting, and pacing. On these machines it would show what was put in: power is linear in the \
             duty cycle, so that for the same tokens by the same time both take the same energy, and without a deadline, at a duty cycle d, a token takes (idle power / d + slope) × its \
             time at full speed, least at d = 1. Whether a real machine bends that line takes a sensor.",
];

fn judge(results: &Results) -> Result<Findings, Error> {
    let mut goals = Table::new(
        "Machines of thirty that meet each goal (worst machine in brackets):",
        &[
            "controller",
            "overshoot < 10 %",
            "settled < 2 s",
            "error < 3 %",
            "over the cap < 1 s",
            "all goals",
            "of those that can settle",
        ],
    );
    let mut tests = Table::new(
        "Distance from the cap, median over machines, and the tuner against the others:",
        &["controller", "median error", "p against the tuner, adjusted"],
    );
    let (mut met, mut met_by_pi, mut compared) = (Vec::new(), Vec::new(), Vec::new());
    let mut curves = Vec::new();
    for (lag, _, _) in LAGS {
        let of =
            |control: Control, key: &str| results.numbers(&format!("{}, {lag}", control.name()), &format!("/{key}"));
        let tuner = of(Control::Tuner, "error")?;
        for control in Control::ALL {
            let figures = GOALS.map(|(key, goal)| Ok::<_, Error>((of(control, key)?, goal)));
            let mut cells = vec![format!("{}, {lag}", control.name())];
            let mut all = vec![true; MACHINES as usize];
            for figure in figures {
                let (values, goal) = figure?;
                let good = values.iter().filter(|x| **x < goal).count();
                all.iter_mut().zip(&values).for_each(|(all, x)| *all &= *x < goal);
                cells.push(format!("{good} ({})", digits(values.iter().copied().fold(0.0, f64::max))));
            }
            let can = of(control, "can_settle")?;
            let could = can.iter().filter(|can| **can > 0.0).count();
            let and_did = all.iter().zip(&can).filter(|(all, can)| **all && **can > 0.0).count();
            let all = all.into_iter().filter(|all| *all).count();
            cells.extend([all.to_string(), format!("{and_did} of {could}")]);
            if control == Control::Tuner {
                met.push((all, and_did, could));
            }
            if control == Control::Pi {
                met_by_pi.push(all.to_string());
            }
            goals.row(cells);
            let error = of(control, "error")?;
            let differences: Vec<f64> = error.iter().zip(&tuner).map(|(a, b)| a - b).collect();
            let p = signed_rank(&differences).map(|test| test.p);
            compared.push((format!("{}, {lag}", control.name()), median(&error).unwrap_or(f64::NAN), p));
            let ranked = sorted(&error).into_iter().enumerate().map(|(i, x)| (i as f64 + 1.0, 100.0 * x)).collect();
            curves.push(Series::line(format!("{}, {lag}", control.name().to_owned()), ranked));
        }
    }
    let adjusted = holm(&compared.iter().filter_map(|(_, _, p)| *p).collect::<Vec<_>>());
    let mut adjusted = adjusted.into_iter();
    for (name, error, p) in compared {
        let p = p.and_then(|_| adjusted.next()).map_or_else(|| "-".to_owned(), digits);
        tests.row([name, percent(error), p]);
    }
    let [(quick, ..), (slow, did, could)] = [0, 1].map(|at| met.get(at).copied().unwrap_or_default());
    let because = format!(
        "The tuner meets all goals on {quick} of {MACHINES} simulated machines with a lag of 0.01 to 0.1 s and on {slow} of {MACHINES} with one of 0.2 to \
         2 s, {did} of the {could} among these whose power can rise fast enough; PI that knows slope and lag does on {}. No watt was measured.",
        met_by_pi.join(" and ")
    );
    let verdict = match (quick, slow) {
        (30, 30) => Verdict::Validated,
        (27.., _) => Verdict::ValidatedWithLimits,
        _ => Verdict::Negative,
    };
    let findings = Findings::judged(results, verdict, because).table(goals).table(tests).picture(Picture {
        title: "Distance from the cap, machines in order".to_owned(),
        x: ("machine".to_owned(), Axis::Linear),
        y: ("error, %".to_owned(), Axis::Log),
        series: curves,
    });
    Ok(NOTES.iter().fold(findings, |findings, note| findings.note(*note)))
}

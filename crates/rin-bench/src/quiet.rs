//! Whether the machine was left alone during a measurement.
//!
//! In go readings of Linux's counters before and after; out comes a verdict with its reasons. Elsewhere the verdict is
//! [`Verdict::Unknown`].

use std::path::Path;
use std::time::Instant;

use rin_energy::environment::{LEAST_TICKS, Ticks};
use serde::Serialize;

use crate::proc_file;

/// A larger share of the machine's time taken by its hypervisor disturbs.
pub const MAX_STEAL_SHARE: f64 = 0.01;
/// A larger share of the machine's time taken by other processes disturbs.
pub const MAX_OTHER_SHARE: f64 = 0.05;
/// More threads of this process put off their processor, per second, disturb.
pub const MAX_SWITCHES_PER_SECOND: f64 = 100.0;

/// The counters at one moment.
#[derive(Clone, Debug)]
pub struct Reading {
    at: Instant,
    ticks: Option<Ticks>,
    switches: Option<u64>,
    runnable: Option<u64>,
}

/// What a measurement was disturbed by.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Disturbance {
    /// Share of the machine's processor time that the hypervisor gave to others.
    pub steal_share: Option<f64>,
    /// Share of the machine's processor time that other processes took.
    pub other_load_share: Option<f64>,
    /// Times that a thread of this process was put off its processor.
    pub involuntary_switches: Option<u64>,
    /// Other threads that were running or waiting for a processor, before and after.
    pub others_runnable: [Option<u64>; 2],
    /// What follows.
    pub verdict: Verdict,
    /// Why, in words; empty where it was quiet.
    pub reasons: Vec<String>,
}

/// Whether figures of a run are the machine's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing took more than the limits of this module.
    Quiet,
    /// Something did.
    Disturbed,
    /// The system does not tell, or the run was too short.
    Unknown,
}

impl Reading {
    /// The counters now.
    pub fn now() -> Self {
        Self::read(Path::new("/"))
    }

    fn read(root: &Path) -> Self {
        let text = |path: &str| proc_file::text(&root.join(path));
        Self {
            at: Instant::now(),
            ticks: text("proc/stat").zip(text("proc/self/stat")).and_then(|(stat, own)| Ticks::parse(&stat, &own)),
            switches: switches(&root.join("proc/self/task")),
            runnable: text("proc/loadavg").and_then(|text| runnable(&text)),
        }
    }

    /// What happened between this reading and a later one.
    pub fn until(&self, after: &Self) -> Disturbance {
        self.after(after, after.at.duration_since(self.at).as_secs_f64())
    }

    fn after(&self, after: &Self, seconds: f64) -> Disturbance {
        let between = self.ticks.zip(after.ticks).and_then(|(before, after)| before.until(after));
        let between = between.filter(|between| between.all >= LEAST_TICKS);
        let share = |ticks: fn(Ticks) -> u64| between.map(|between| ticks(between) as f64 / between.all as f64);
        let steal_share = share(|between| between.steal);
        let other_load_share = share(Ticks::others);
        let involuntary_switches = self.switches.zip(after.switches).map(|(a, b)| b.saturating_sub(a));
        // One of those that run is the reader of the file.
        let others = |reading: &Self| reading.runnable.map(|n| n.saturating_sub(1));

        let mut reasons = Vec::new();
        if let Some(share) = steal_share.filter(|share| *share > MAX_STEAL_SHARE) {
            reasons.push(format!("the hypervisor took {:.1} % of the processors' time", 100.0 * share));
        }
        if let Some(share) = other_load_share.filter(|share| *share > MAX_OTHER_SHARE) {
            reasons.push(format!("other processes took {:.1} % of the processors' time", 100.0 * share));
        }
        let rate = involuntary_switches.map(|n| n as f64 / seconds.max(1e-9));
        if let Some(rate) = rate.filter(|rate| *rate > MAX_SWITCHES_PER_SECOND) {
            reasons.push(format!("threads were put off their processor {rate:.0} times a second"));
        }
        let verdict = match (reasons.is_empty(), other_load_share) {
            (false, _) => Verdict::Disturbed,
            (true, Some(_)) => Verdict::Quiet,
            (true, None) => Verdict::Unknown,
        };
        if verdict == Verdict::Unknown {
            let short = self.ticks.is_some();
            reasons.push(if short { "the run was too short to tell" } else { "this system does not tell" }.to_owned());
        }
        let others_runnable = [others(self), others(after)];
        Disturbance { steal_share, other_load_share, involuntary_switches, others_runnable, verdict, reasons }
    }
}

/// Involuntary switches of all living threads.
fn switches(tasks: &Path) -> Option<u64> {
    let counts = std::fs::read_dir(tasks).ok()?.filter_map(|task| {
        let text = proc_file::text(&task.ok()?.path().join("status"))?;
        proc_file::value(&text, "nonvoluntary_ctxt_switches")?.parse::<u64>().ok()
    });
    counts.reduce(u64::saturating_add)
}

/// The fourth word of `/proc/loadavg`: runnable / all.
fn runnable(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().nth(3)?.split_once('/')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proc_file::tests::Tree;

    fn reading(name: &str, stat: &str, own: &str, switches: [u64; 2]) -> Reading {
        let tree = Tree::new(name);
        tree.file("proc/stat", stat);
        tree.file("proc/self/stat", own);
        tree.file("proc/loadavg", "2.61 3.01 2.91 3/87 20835\n");
        for (i, n) in switches.into_iter().enumerate() {
            tree.file(
                &format!("proc/self/task/{i}/status"),
                &format!("Name:\tx\nvoluntary_ctxt_switches:\t9\nnonvoluntary_ctxt_switches:\t{n}\n"),
            );
        }
        Reading::read(tree.root())
    }

    fn own(user: u64, system: u64) -> String {
        format!("7 (a) b) (c) S 1 7 7 0 -1 4194304 95 0 0 0 {user} {system} 5 6 20 0 1 0 99 0 0\n")
    }

    #[test]
    fn a_quiet_run() {
        let before = reading("quiet-a", "cpu  100 0 50 1000 5 0 0 2 0 0\ncpu0 9\n", &own(40, 10), [3, 4]);
        let after = reading("quiet-b", "cpu  290 0 52 1000 5 0 0 2 0 0\n", &own(225, 12), [4, 4]);
        let found = before.after(&after, 1.0);
        // 192 ticks of 192 were busy, 187 of them our own.
        assert_eq!(found.other_load_share, Some(5.0 / 192.0));
        assert_eq!(found.steal_share, Some(0.0));
        assert_eq!(found.involuntary_switches, Some(1));
        assert_eq!(found.others_runnable, [Some(2), Some(2)]);
        assert_eq!((found.verdict, found.reasons), (Verdict::Quiet, Vec::<String>::new()));
    }

    #[test]
    fn each_disturbance_is_named() {
        let before = reading("loud-a", "cpu  100 0 50 1000 5 0 0 2 0 0\n", &own(40, 10), [0, 0]);
        let after = reading("loud-b", "cpu  200 0 50 1080 5 10 0 12 0 0\n", &own(140, 10), [150, 60]);
        let found = before.after(&after, 2.0);
        assert_eq!((found.steal_share, found.other_load_share), (Some(0.05), Some(0.05)));
        assert_eq!(found.verdict, Verdict::Disturbed);
        assert_eq!(
            found.reasons,
            [
                "the hypervisor took 5.0 % of the processors' time",
                "threads were put off their processor 105 times a second"
            ]
        );
        let after = reading("loud-c", "cpu  200 0 50 1080 5 11 0 2 0 0\n", &own(140, 10), [0, 0]);
        let found = before.after(&after, 2.0);
        assert_eq!(found.reasons, ["other processes took 5.8 % of the processors' time"]);
    }

    #[test]
    fn what_is_not_told_is_unknown() {
        let nothing = Reading::read(Path::new("/nowhere at all"));
        let found = nothing.after(&nothing, 1.0);
        assert_eq!((found.verdict, found.reasons), (Verdict::Unknown, vec!["this system does not tell".to_owned()]));
        let before = reading("short-a", "cpu  100 0 50 1000 5 0 0 2 0 0\n", &own(40, 10), [0, 0]);
        let found = before.after(&before, 0.01);
        assert_eq!((found.verdict, found.steal_share), (Verdict::Unknown, None));
        assert_eq!(found.reasons, ["the run was too short to tell"]);
        assert_eq!(runnable("1 2"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_can_be_read() {
        let reading = Reading::now();
        assert!(reading.ticks.is_some() && reading.switches.is_some());
        assert!(reading.runnable.is_some_and(|n| n > 0));
    }
}

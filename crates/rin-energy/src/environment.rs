//! The state of a machine before and after a measurement, and whether something changed or got in the way.

use crate::Sensors;
use crate::source::Machine;

/// The share of the processors' busy time that others may take before a figure counts as disturbed.
pub const OTHERS_AT_MOST: f64 = 0.02;
/// The share of all processor time that the hypervisor may take.
pub const STEAL_AT_MOST: f64 = 0.01;

/// What a machine says of itself. What it does not say is none or empty.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Environment {
    /// Name of the processor.
    pub cpu: Option<String>,
    /// Version of its microcode.
    pub microcode: Option<String>,
    /// Version of the kernel.
    pub kernel: Option<String>,
    /// How the frequency is chosen, once for each way that occurs.
    pub policies: Vec<Policy>,
    /// Mean frequency of the processors, in MHz.
    pub mhz: Option<f64>,
    /// Whether frequencies above the nominal one are permitted.
    pub boost: Option<bool>,
    /// Whether cores run several threads.
    pub smt: Option<bool>,
    /// How often cores and packages were slowed down for their heat, summed up.
    pub throttles: Option<u64>,
    /// Power limits of the packages, in W, as `name: value`.
    pub power_limits: Vec<String>,
    /// The highest temperature of a thermal zone, in °C.
    pub celsius: Option<f64>,
    /// Processes that were ready to run, mean over a minute.
    pub load: Option<f64>,
    /// Share of the last 10 s in which some process waited for a processor, in %.
    pub pressure: Option<f64>,
    /// Times of the processors.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub ticks: Option<Ticks>,
}

/// How the frequency of some processors is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Policy {
    /// The driver.
    pub driver: Option<String>,
    /// The governor.
    pub governor: Option<String>,
    /// The preference between energy and performance.
    pub preference: Option<String>,
    /// The lowest frequency that is permitted, in kHz.
    pub min_khz: Option<u64>,
    /// The highest.
    pub max_khz: Option<u64>,
}

/// Times of all processors since the machine began, in clock ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticks {
    /// Busy, whoever it was.
    pub busy: u64,
    /// Busy or idle, or taken by the hypervisor.
    pub all: u64,
    /// Taken by the hypervisor.
    pub steal: u64,
    /// Busy for this process.
    pub own: u64,
}

impl Environment {
    /// Looks at the machine that some sensors belong to.
    pub fn of(sensors: &Sensors) -> Self {
        Self::read(Machine { host: sensors.host().as_ref(), root: sensors.root() })
    }

    fn read(machine: Machine<'_>) -> Self {
        let cpuinfo = text(machine, "proc/cpuinfo");
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let mhz: Vec<f64> = cpuinfo
            .lines()
            .filter(|line| line.starts_with("cpu MHz"))
            .filter_map(|line| line.split_once(':')?.1.trim().parse().ok())
            .collect();
        let no_turbo = number(machine, "sys/devices/system/cpu/intel_pstate/no_turbo").map(|off| off == 0);
        let boost = || number(machine, "sys/devices/system/cpu/cpufreq/boost").map(|on| on == 1);
        let load = text(machine, "proc/loadavg");
        Self {
            cpu: field("model name"),
            microcode: field("microcode"),
            kernel: line(machine, "proc/sys/kernel/osrelease"),
            policies: policies(machine),
            mhz: frequency(machine).or_else(|| crate::stats::mean(&mhz)),
            boost: no_turbo.or_else(boost),
            smt: number(machine, "sys/devices/system/cpu/smt/active").map(|on| on == 1),
            throttles: throttles(machine),
            power_limits: power_limits(machine),
            celsius: celsius(machine),
            load: load.split_whitespace().next().and_then(|load| load.parse().ok()),
            pressure: pressure(&text(machine, "proc/pressure/cpu")),
            ticks: Ticks::parse(&text(machine, "proc/stat"), &text(machine, "proc/self/stat")),
        }
    }

    /// What changed between this state and a later one, or got in the way meanwhile, in words.
    pub fn disturbances(&self, later: &Self) -> Vec<String> {
        let mut reasons = Vec::new();
        let mut changed = |what: &str, same: bool| {
            if !same {
                reasons.push(format!("{what} changed"));
            }
        };
        changed("how frequencies are chosen (driver, governor, preference or limits)", self.policies == later.policies);
        changed("whether the processor may boost", self.boost == later.boost);
        changed("whether cores run several threads", self.smt == later.smt);
        changed("the power limits of the packages", self.power_limits == later.power_limits);
        if let (Some(before), Some(after)) = (self.throttles, later.throttles)
            && after > before
        {
            reasons.push(format!("the processor was slowed down for its heat {} times", after - before));
        }
        if let Some(share) = self.share_of_others(later).filter(|share| *share > OTHERS_AT_MOST) {
            reasons.push(format!("other processes took {:.1} % of the busy time", 100.0 * share));
        }
        if let Some(share) = self.share_of_steal(later).filter(|share| *share > STEAL_AT_MOST) {
            reasons.push(format!("the hypervisor took {:.1} % of the processors' time", 100.0 * share));
        }
        reasons
    }

    /// The share of the busy time that other processes took until a later state; none where too little passed to tell.
    pub fn share_of_others(&self, later: &Self) -> Option<f64> {
        let between = self.ticks?.until(later.ticks?)?;
        (between.busy >= LEAST_TICKS).then(|| between.others() as f64 / between.busy as f64)
    }

    /// The share of all time that the hypervisor took until a later state.
    pub fn share_of_steal(&self, later: &Self) -> Option<f64> {
        let between = self.ticks?.until(later.ticks?)?;
        (between.all >= LEAST_TICKS).then(|| between.steal as f64 / between.all as f64)
    }
}

/// Fewer ticks than these tell nothing: 0.1 s on two processors.
pub const LEAST_TICKS: u64 = 20;

impl Ticks {
    /// From the texts of `/proc/stat` and `/proc/self/stat`; none where one of them is something else.
    pub fn parse(stat: &str, own: &str) -> Option<Self> {
        let words = stat.lines().find_map(|line| line.strip_prefix("cpu "))?.split_ascii_whitespace();
        let fields: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
        // Guests, the two after steal, are part of user and nice. Kernels before 2.6.11 tell no steal.
        let [user, nice, system, idle, iowait, irq, softirq] = *fields.first_chunk()?;
        let steal = fields.get(7).copied().unwrap_or(0);
        let busy = [user, nice, system, irq, softirq].into_iter().fold(0, u64::saturating_add);
        let all = [idle, iowait, steal].into_iter().fold(busy, u64::saturating_add);
        // Fields 14 and 15: user and kernel mode, over all threads. The name in field 2 may hold anything, brackets too,
        // and ends with the last bracket.
        let mut own = own.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
        let mut next = || -> Option<u64> { own.next()?.parse().ok() };
        Some(Self { busy, all, steal, own: next()?.saturating_add(next()?) })
    }

    /// What passed until a later state; none where a count went back.
    pub fn until(self, later: Self) -> Option<Self> {
        Some(Self {
            busy: later.busy.checked_sub(self.busy)?,
            all: later.all.checked_sub(self.all)?,
            steal: later.steal.checked_sub(self.steal)?,
            own: later.own.checked_sub(self.own)?,
        })
    }

    /// Of the busy time that which was not this process's.
    pub fn others(self) -> u64 {
        self.busy.saturating_sub(self.own)
    }
}

fn text(machine: Machine<'_>, below: &str) -> String {
    let bytes = machine.host.head(&machine.path(below)).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn line(machine: Machine<'_>, below: &str) -> Option<String> {
    machine.line(&machine.path(below)).ok()?.filter(|line| !line.is_empty())
}

fn number(machine: Machine<'_>, below: &str) -> Option<u64> {
    machine.number(&machine.path(below)).ok()?
}

/// Folders in `folder` whose names are `prefix` and a number.
fn numbered(machine: Machine<'_>, folder: &str, prefix: &str) -> Vec<String> {
    let names = machine.list(&machine.path(folder)).ok().flatten().unwrap_or_default();
    let fits = |name: &String| {
        name.strip_prefix(prefix).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    names.into_iter().filter(fits).map(|name| format!("{folder}/{name}")).collect()
}

const CPUFREQ: &str = "sys/devices/system/cpu/cpufreq";

fn policies(machine: Machine<'_>) -> Vec<Policy> {
    let mut policies = Vec::new();
    for folder in numbered(machine, CPUFREQ, "policy") {
        let text = |name: &str| line(machine, &format!("{folder}/{name}"));
        let number = |name: &str| number(machine, &format!("{folder}/{name}"));
        let policy = Policy {
            driver: text("scaling_driver"),
            governor: text("scaling_governor"),
            preference: text("energy_performance_preference"),
            min_khz: number("scaling_min_freq"),
            max_khz: number("scaling_max_freq"),
        };
        if !policies.contains(&policy) {
            policies.push(policy);
        }
    }
    policies
}

fn frequency(machine: Machine<'_>) -> Option<f64> {
    let khz = numbered(machine, CPUFREQ, "policy")
        .into_iter()
        .filter_map(|folder| Some(number(machine, &format!("{folder}/scaling_cur_freq"))? as f64 / 1e3));
    crate::stats::mean(&khz.collect::<Vec<_>>())
}

fn throttles(machine: Machine<'_>) -> Option<u64> {
    let mut sum = None;
    for cpu in numbered(machine, "sys/devices/system/cpu", "cpu") {
        for name in ["core_throttle_count", "package_throttle_count"] {
            if let Some(count) = number(machine, &format!("{cpu}/thermal_throttle/{name}")) {
                sum = Some(count.saturating_add(sum.unwrap_or(0)));
            }
        }
    }
    sum
}

fn power_limits(machine: Machine<'_>) -> Vec<String> {
    let control = "sys/devices/virtual/powercap/intel-rapl";
    let mut limits = Vec::new();
    for zone in numbered(machine, control, "intel-rapl:") {
        let Some(name) = line(machine, &format!("{zone}/name")) else { continue };
        for n in 0..3 {
            if let Some(microwatts) = number(machine, &format!("{zone}/constraint_{n}_power_limit_uw")) {
                limits.push(format!("{name} limit {n}: {} W", microwatts as f64 / 1e6));
            }
        }
    }
    limits
}

fn celsius(machine: Machine<'_>) -> Option<f64> {
    let zones = numbered(machine, "sys/class/thermal", "thermal_zone");
    let temperatures =
        zones.into_iter().filter_map(|zone| Some(number(machine, &format!("{zone}/temp"))? as f64 / 1e3));
    temperatures.reduce(f64::max)
}

/// `some avg10=1.23 …` of the kernel's pressure figures.
fn pressure(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    line.split_whitespace().find_map(|field| field.strip_prefix("avg10="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "7 (a) b) (c) S 1 7 7 0 -1 4194304 95 0 0 0 40 10 5 6 20 0 1 0 99 0 0\n";

    #[test]
    fn times_of_processors() {
        let ticks = Ticks::parse("cpu  100 1 50 1000 5 2 3 7 9 9\ncpu0 9\n", OWN).unwrap();
        assert_eq!(ticks, Ticks { busy: 156, all: 1168, steal: 7, own: 50 });
        let old = Ticks::parse("cpu  100 1 50 1000 5 2 3\n", OWN).unwrap();
        assert_eq!((old.busy, old.all, old.steal), (156, 1161, 0), "a kernel that tells no steal");
        for (stat, own) in [("intr 1 2 3\n", OWN), ("cpu  1 2 3\n", OWN), ("cpu  1 2 3 4 5 6 7\n", "1 (x) S 1")] {
            assert_eq!(Ticks::parse(stat, own), None, "{stat} {own}");
        }
    }

    #[test]
    fn what_passed_is_shared_out() {
        let before = Ticks { busy: 100, all: 200, steal: 1, own: 50 };
        let after = Ticks { busy: 150, all: 300, steal: 3, own: 90 };
        let between = before.until(after).unwrap();
        assert_eq!((between, between.others()), (Ticks { busy: 50, all: 100, steal: 2, own: 40 }, 10));
        assert_eq!(after.until(before), None, "counts that go back");
        // Ticks are rounded: a process may seem to have more than all.
        assert_eq!(Ticks { own: 60, ..between }.others(), 0);
    }
}

//! `rin doctor`: what this machine offers to RIN, and what stands in the way, each with a remedy.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rin_energy::Sensors;
use rin_engine::LoadOptions;
use rin_engine::topology::{CoreKind, CpuQuota, Topology};
use rin_kernels::{Cpu, Tier};
use serde::Serialize;

use crate::args::DoctorArgs;
use crate::energy::{SourceInfo, sources};
use crate::output::Size;
use crate::{config_file, model_path, output};

#[derive(Debug, Serialize)]
struct Doctor {
    version: &'static str,
    tiers: Vec<TierState>,
    tier: &'static str,
    topology: TopologyState,
    default_threads: usize,
    memory: MemoryState,
    huge_pages: Option<String>,
    mlock_bytes: Option<u64>,
    mlock_unlimited: bool,
    energy: EnergyState,
    cache: CacheState,
    configuration: Vec<FileState>,
    problems: Vec<Problem>,
}

#[derive(Debug, Serialize)]
struct TierState {
    name: &'static str,
    usable: bool,
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct TopologyState {
    cpus: usize,
    allowed_cpus: usize,
    cores: usize,
    allowed_cores: usize,
    smt: bool,
    performance_cores: usize,
    efficiency_cores: usize,
    numa_nodes: usize,
    l3_groups: usize,
    quota_cpus: Option<f64>,
    quota_source: Option<String>,
    #[serde(skip)]
    whole_quota_cpus: Option<usize>,
}

#[derive(Debug, Serialize)]
struct MemoryState {
    limit_bytes: Option<u64>,
    limit_source: Option<String>,
}

#[derive(Debug, Serialize)]
struct EnergyState {
    status: &'static str,
    source: Option<&'static str>,
    reason: Option<String>,
    sources: Vec<SourceInfo>,
}

impl EnergyState {
    fn of(sensors: &Sensors) -> Self {
        let chosen = sensors.chosen();
        Self {
            status: if chosen.is_ok() { "available" } else { "unavailable" },
            source: chosen.as_ref().ok().map(|source| source.name()),
            reason: chosen.err().map(|error| error.to_string()),
            sources: sources(sensors),
        }
    }
}

#[derive(Debug, Serialize)]
struct CacheState {
    path: Option<String>,
    exists: bool,
}

#[derive(Debug, Serialize)]
struct FileState {
    path: String,
    exists: bool,
}

#[derive(Debug, Serialize)]
struct Problem {
    problem: String,
    remedy: &'static str,
}

/// Looks at the machine.
///
/// # Errors
/// Where standard output cannot be written; what cannot be found out is no failure.
pub(crate) fn doctor(args: &DoctorArgs) -> Result<()> {
    let state = Doctor::of_this_machine(&args.sensors.sys_root);
    if args.output.json {
        return output::json(&state);
    }
    let mut text = String::new();
    state.write(&mut text)?;
    output::text(&text)
}

impl Doctor {
    fn of_this_machine(sys_root: &Path) -> Self {
        let cpu = Cpu::detect();
        let topology = Topology::of_this_machine();
        let limit = LoadOptions::default().limit();
        let cache = model_path::cache_folder();
        let (mlock_bytes, mlock_unlimited) = mlock_limit();
        let mut state = Self {
            version: env!("CARGO_PKG_VERSION"),
            tiers: tiers(),
            tier: cpu.best().name(),
            topology: TopologyState::of(&topology),
            default_threads: topology.default_threads(),
            memory: MemoryState {
                limit_bytes: limit.as_ref().map(|limit| limit.bytes),
                limit_source: limit.map(|limit| limit.source),
            },
            huge_pages: huge_pages(),
            mlock_bytes,
            mlock_unlimited,
            energy: EnergyState::of(&Sensors::discover(sys_root)),
            cache: CacheState {
                exists: cache.as_deref().is_some_and(Path::is_dir),
                path: cache.map(|path| path.display().to_string()),
            },
            configuration: config_file::places()
                .into_iter()
                .map(|path| FileState { exists: path.is_file(), path: path.display().to_string() })
                .collect(),
            problems: Vec::new(),
        };
        state.problems = state.problems(topology.notes);
        state
    }

    fn problems(&self, notes: Vec<String>) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |holds: bool, problem: String, remedy: &'static str| {
            if holds {
                problems.push(Problem { problem, remedy });
            }
        };
        let topology = &self.topology;
        add(
            self.tier == Tier::Scalar.name(),
            "only the scalar tier can run: correct, and slow".to_owned(),
            "use a processor with AVX2 or a later extension, or let the virtual machine pass it on",
        );
        add(
            topology.whole_quota_cpus == Some(0),
            format!("the processor quota is {} of one processor", topology.quota_cpus.unwrap_or_default()),
            "raise the quota of the container (--cpus) or of the service (CPUQuota=) to whole processors",
        );
        add(
            topology.whole_quota_cpus.is_some_and(|cpus| cpus > 0 && cpus < topology.allowed_cores),
            format!("the processor quota is below the {} physical cores", topology.allowed_cores),
            "raise the quota of the container (--cpus) or of the service (CPUQuota=), or accept fewer threads",
        );
        add(
            topology.allowed_cpus < topology.cpus,
            format!("the affinity mask holds {} of {} processors", topology.allowed_cpus, topology.cpus),
            "start rin with a wider mask (taskset, --cpuset-cpus, CPUAffinity=)",
        );
        add(
            self.huge_pages.as_deref() == Some("never"),
            "huge pages are switched off".to_owned(),
            "as root: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        );
        add(
            !self.mlock_unlimited,
            "memory can be locked up to a limit only: --mlock leaves larger plans unlocked".to_owned(),
            "raise it: ulimit -l, LimitMEMLOCK= of a service, --ulimit memlock= of a container",
        );
        add(
            self.energy.reason.is_some(),
            format!("energy is not measured: {}", self.energy.reason.as_deref().unwrap_or_default()),
            "as told, or use a machine that shows its counters (virtual machines seldom do); results say `unmeasured`",
        );
        add(
            !self.cache.exists,
            "there is no model cache".to_owned(),
            "give models as paths, or set HF_HUB_CACHE or HF_HOME to where they are",
        );
        for note in notes {
            add(true, note, "where the system hides this, set --threads and --affinity yourself");
        }
        problems
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "rin {}", self.version)?;
        writeln!(text, "tiers")?;
        for tier in &self.tiers {
            let state = if tier.usable { "usable" } else { "no" };
            writeln!(text, "  {:<12} {state:<7} {}", tier.name, tier.reason.as_deref().unwrap_or_default())?;
        }
        let t = &self.topology;
        writeln!(
            text,
            "processors {} ({} allowed), cores {} ({} allowed), {}; {} performance, {} efficiency cores",
            t.cpus,
            t.allowed_cpus,
            t.cores,
            t.allowed_cores,
            if t.smt { "SMT" } else { "no SMT" },
            t.performance_cores,
            t.efficiency_cores,
        )?;
        writeln!(text, "NUMA nodes {}, groups with a last-level cache {}", t.numa_nodes, t.l3_groups)?;
        match (t.quota_cpus, &t.quota_source) {
            (Some(cpus), Some(source)) => writeln!(text, "quota      {cpus:.2} processors ({source})")?,
            _ => writeln!(text, "quota      none")?,
        }
        writeln!(text, "threads    {} by default", self.default_threads)?;
        match (self.memory.limit_bytes, &self.memory.limit_source) {
            (Some(bytes), Some(source)) => writeln!(text, "memory     {} ({source})", Size(bytes))?,
            _ => writeln!(text, "memory     no limit known")?,
        }
        writeln!(text, "huge pages {}", self.huge_pages.as_deref().unwrap_or("not known"))?;
        match (self.mlock_unlimited, self.mlock_bytes) {
            (true, _) => writeln!(text, "mlock      unlimited")?,
            (false, Some(bytes)) => writeln!(text, "mlock      up to {}", Size(bytes))?,
            (false, None) => writeln!(text, "mlock      limit not known")?,
        }
        writeln!(text, "energy     {}", self.energy.source.unwrap_or("not measured"))?;
        let there = |exists: bool| if exists { "" } else { " (not there)" };
        let cache = self.cache.path.as_deref().unwrap_or("no home folder");
        writeln!(text, "cache      {cache}{}", there(self.cache.exists))?;
        for file in &self.configuration {
            writeln!(text, "config     {}{}", file.path, there(file.exists))?;
        }
        for problem in &self.problems {
            writeln!(text, "! {}\n    {}", problem.problem, problem.remedy)?;
        }
        Ok(())
    }
}

impl TopologyState {
    fn of(topology: &Topology) -> Self {
        let cpus = &topology.cpus;
        let cores: BTreeSet<_> = cpus.iter().map(|cpu| (cpu.core, cpu.kind)).collect();
        let of_kind = |kind| cores.iter().filter(|core| core.1 == kind).count();
        let quota = topology.quota.as_ref();
        Self {
            cpus: cpus.len(),
            allowed_cpus: cpus.iter().filter(|cpu| cpu.allowed).count(),
            cores: cores.len(),
            allowed_cores: topology.allowed_cores(),
            smt: cores.len() < cpus.len(),
            performance_cores: of_kind(CoreKind::Performance),
            efficiency_cores: of_kind(CoreKind::Efficiency),
            numa_nodes: cpus.iter().map(|cpu| cpu.node).collect::<BTreeSet<_>>().len(),
            l3_groups: cpus.iter().map(|cpu| cpu.group).collect::<BTreeSet<_>>().len(),
            quota_cpus: quota.map(|quota| micros(quota.quota_us) / micros(quota.period_us.max(1))),
            whole_quota_cpus: quota.map(CpuQuota::whole_cpus),
            quota_source: quota.map(|quota| quota.source.clone()),
        }
    }
}

/// Microseconds in seconds.
fn micros(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

fn tiers() -> Vec<TierState> {
    let state = |tier: Tier| {
        let missing = tier.missing();
        let reason = (!missing.is_empty()).then(|| format!("lacks {}", missing.join(", ")));
        TierState { name: tier.name(), usable: missing.is_empty(), reason }
    };
    Tier::ALL.map(state).into()
}

/// The setting of transparent huge pages: the word in brackets.
fn huge_pages() -> Option<String> {
    let text = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").ok()?;
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// Bytes that this process may lock, and whether that is unlimited.
fn mlock_limit() -> (Option<u64>, bool) {
    let text = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    match line.and_then(|line| line.split_whitespace().next()) {
        Some("unlimited") => (None, true),
        Some(bytes) => (bytes.parse().ok(), false),
        None => (None, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tier_is_listed_and_says_what_it_lacks() {
        let tiers = tiers();
        assert_eq!(tiers.len(), Tier::ALL.len());
        for tier in tiers {
            assert_eq!(tier.usable, tier.reason.is_none(), "{}", tier.name);
        }
    }
}

//! What the machine offers to threads: processors, physical cores, cache and memory groups, and the share of them that
//! this process may use.
//!
//! In goes the file tree by which Linux describes itself (`/sys`, `/proc`), out come [`Topology`], a default number of
//! threads and a placement of workers on processors. Nothing here fails: what is missing or malformed is replaced by a
//! cautious assumption and noted.

mod affinity;
pub(crate) mod cgroup;
mod cpu_list;
mod place;
pub(crate) mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub use affinity::Affinity;
pub use cgroup::CpuQuota;
pub use cpu_list::{CpuId, CpuListError, MAX_CPU_ID, parse_cpu_list};
pub use place::Policy;

use cgroup::Cgroups;
use read::{Notes, read_cpu_list, read_number};

/// Kind of a core on a machine that mixes two; all are [`CoreKind::Performance`] where they are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CoreKind {
    /// The faster kind: P cores, big cores.
    Performance,
    /// The slower kind: E cores, little cores.
    Efficiency,
}

/// One logical processor that is online.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its number.
    pub id: CpuId,
    /// Physical core, counted from 0 in the order of first processors; SMT siblings share it.
    pub core: usize,
    /// NUMA node; 0 where the machine names none.
    pub node: u32,
    /// Group that shares a last-level cache within one node, counted from 0 in the order of first processors.
    pub group: usize,
    /// Kind of its core.
    pub kind: CoreKind,
    /// Whether the affinity mask lets this process use it.
    pub allowed: bool,
}

/// The machine as this process sees it.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The processors that are online, ascending by number; at least one, and at least one is allowed.
    pub cpus: Vec<Cpu>,
    /// The tightest processor quota of the control groups around this process.
    pub quota: Option<CpuQuota>,
    /// What could not be read as expected, in words.
    pub notes: Vec<String>,
}

impl Topology {
    /// The machine that this process runs on, with the affinity mask of the calling thread.
    pub fn of_this_machine() -> Topology {
        Topology::read(Path::new("/"), &Affinity::own())
    }

    /// Reads the tree below `root` (`/` in production), within an affinity mask.
    pub fn read(root: &Path, affinity: &Affinity) -> Topology {
        let mut notes = Notes::default();
        let quota = Cgroups::read(root, &mut notes).cpu_quota(&mut notes);
        let online = online(root, affinity, &mut notes);
        let anything_allowed = online.iter().any(|cpu| affinity.contains(*cpu));
        if !anything_allowed {
            notes.add("the affinity mask holds no processor that is online: all that are online are used".to_owned());
        }
        let system = root.join("sys/devices/system/cpu");
        let cores = cores(&system, &online, &mut notes);
        let nodes = nodes(root, &mut notes);
        let caches = last_level_caches(&system, &online, &mut notes);
        let kinds = kinds(root, &system, &online, &mut notes);
        let mut core_numbers = BTreeMap::new();
        let mut group_numbers = BTreeMap::new();
        let cpus = online
            .into_iter()
            .map(|id| {
                let node = nodes.get(&id).copied().unwrap_or(0);
                let core_key = cores.get(&id).copied().unwrap_or(CoreKey::Alone(id));
                Cpu {
                    id,
                    core: numbered(&mut core_numbers, core_key),
                    node,
                    group: numbered(&mut group_numbers, (node, caches.get(&id).copied())),
                    kind: kinds.get(&id).copied().unwrap_or(CoreKind::Performance),
                    allowed: !anything_allowed || affinity.contains(id),
                }
            })
            .collect();
        Topology { cpus, quota, notes: notes.into_inner() }
    }

    /// Physical cores of which the affinity mask holds at least one processor.
    pub fn allowed_cores(&self) -> usize {
        self.allowed().map(|cpu| cpu.core).collect::<BTreeSet<_>>().len()
    }

    /// Threads where the user names no number: a thread per allowed physical core, within the processor quota rounded
    /// down, and at least one.
    pub fn default_threads(&self) -> usize {
        let quota = self.quota.as_ref().map_or(usize::MAX, CpuQuota::whole_cpus);
        self.allowed_cores().min(quota).max(1)
    }

    /// Whether the allowed processors are of two kinds.
    pub fn is_hybrid(&self) -> bool {
        self.allowed().map(|cpu| cpu.kind).collect::<BTreeSet<_>>().len() > 1
    }

    /// A processor for each of `n` workers, worker 0 first; `None` leaves the worker to the operating system.
    ///
    /// Workers go to distinct physical cores first, performance cores before efficiency cores, and to SMT siblings when
    /// the cores are used up; workers beyond the last allowed processor get `None`.
    pub fn placement(&self, n: usize, policy: Policy) -> Vec<Option<CpuId>> {
        place::placement(self, n, policy)
    }

    fn allowed(&self) -> impl Iterator<Item = &Cpu> {
        self.cpus.iter().filter(|cpu| cpu.allowed)
    }
}

/// What makes two processors siblings of one core.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum CoreKey {
    /// First processor of a list of siblings.
    Siblings(CpuId),
    /// Package and core number.
    Numbered(i64, i64),
    /// Nothing is known: a core of its own.
    Alone(CpuId),
}

/// The number of a key, given out in the order of first appearance.
fn numbered<K: Ord>(numbers: &mut BTreeMap<K, usize>, key: K) -> usize {
    let next = numbers.len();
    *numbers.entry(key).or_insert(next)
}

fn online(root: &Path, affinity: &Affinity, notes: &mut Notes) -> Vec<CpuId> {
    let file = root.join("sys/devices/system/cpu/online");
    match read_cpu_list(&file, notes) {
        Some(list) if !list.is_empty() => return list,
        _ => notes.add(format!("{}: no list of processors, the affinity mask stands in", file.display())),
    }
    if affinity.cpus().is_empty() { vec![CpuId(0)] } else { affinity.cpus().to_vec() }
}

fn cores(system: &Path, online: &[CpuId], notes: &mut Notes) -> BTreeMap<CpuId, CoreKey> {
    let mut cores = BTreeMap::new();
    for cpu in online {
        if cores.contains_key(cpu) {
            continue;
        }
        let folder = system.join(format!("cpu{}/topology", cpu.0));
        let siblings = read_cpu_list(&folder.join("thread_siblings_list"), notes).filter(|list| list.contains(cpu));
        if let Some(siblings) = siblings {
            for sibling in siblings {
                cores.entry(sibling).or_insert(CoreKey::Siblings(*cpu));
            }
            continue;
        }
        let core = read_number(&folder.join("core_id"), notes);
        let package = read_number(&folder.join("physical_package_id"), notes);
        if let (Some(core), Some(package)) = (core, package) {
            cores.insert(*cpu, CoreKey::Numbered(package, core));
        } else {
            notes.add(format!("{}: the core of {cpu} is not named, it counts as one of its own", folder.display()));
        }
    }
    cores
}

fn nodes(root: &Path, notes: &mut Notes) -> BTreeMap<CpuId, u32> {
    let folder = root.join("sys/devices/system/node");
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let mut numbers: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()).collect();
    numbers.sort_unstable();
    let mut nodes = BTreeMap::new();
    for node in numbers {
        for cpu in read_cpu_list(&folder.join(format!("node{node}/cpulist")), notes).unwrap_or_default() {
            nodes.entry(cpu).or_insert(node);
        }
    }
    nodes
}

/// First processor of the level-3 cache that a processor shares. Without a level 3 the node is the group.
fn last_level_caches(system: &Path, online: &[CpuId], notes: &mut Notes) -> BTreeMap<CpuId, CpuId> {
    let mut caches = BTreeMap::new();
    for cpu in online {
        if caches.contains_key(cpu) {
            continue;
        }
        let folder = system.join(format!("cpu{}/cache", cpu.0));
        for index in 0..10 {
            let cache = folder.join(format!("index{index}"));
            match read_number(&cache.join("level"), notes) {
                Some(3) => {
                    for shared in read_cpu_list(&cache.join("shared_cpu_list"), notes).unwrap_or_default() {
                        caches.entry(shared).or_insert(*cpu);
                    }
                }
                Some(_) => {}
                None => break,
            }
        }
    }
    caches
}

/// Kinds of cores: by the lists that Intel's hybrid processors have, else by the capacities that Arm systems have,
/// where a core of at most half the highest capacity is an efficiency core.
fn kinds(root: &Path, system: &Path, online: &[CpuId], notes: &mut Notes) -> BTreeMap<CpuId, CoreKind> {
    let devices = root.join("sys/devices");
    let mut listed = |folder: &str| read_cpu_list(&devices.join(folder).join("cpus"), notes).unwrap_or_default();
    let (performance, efficiency) = (listed("cpu_core"), listed("cpu_atom"));
    if !performance.is_empty() && !efficiency.is_empty() {
        return efficiency.into_iter().map(|cpu| (cpu, CoreKind::Efficiency)).collect();
    }
    let mut capacities = Vec::new();
    for cpu in online {
        // The file is there for all processors or for none.
        let Some(capacity) = read_number(&system.join(format!("cpu{}/cpu_capacity", cpu.0)), notes) else { break };
        capacities.push((*cpu, capacity));
    }
    let half = capacities.iter().map(|(_, capacity)| *capacity).max().unwrap_or(0) / 2;
    let kind = |capacity| if capacity <= half { CoreKind::Efficiency } else { CoreKind::Performance };
    capacities.into_iter().map(|(cpu, capacity)| (cpu, kind(capacity))).collect()
}

#[cfg(test)]
pub(crate) mod tests;

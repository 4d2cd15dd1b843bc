//! Which worker goes to which processor.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{CoreKind, Cpu, CpuId, Topology};

/// How workers are spread over the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Fill one group of cores that share a cache, then the next group of the same node, then the next node: the
    /// shortest way between workers.
    Compact,
    /// Take the groups in turn, nodes first: the most cache and memory bandwidth.
    Scatter,
    /// Leave the workers to the operating system.
    #[default]
    None,
}

/// What is filled before the next begins: first threads of performance cores, first threads of efficiency cores, then
/// their second threads, and so on.
type Tier = (usize, CoreKind);

pub(super) fn placement(topology: &Topology, n: usize, policy: Policy) -> Vec<Option<CpuId>> {
    let order: Vec<CpuId> = match policy {
        Policy::None => Vec::new(),
        Policy::Compact => tiers(topology).into_values().flat_map(|tier| compact(topology, &tier)).collect(),
        Policy::Scatter => tiers(topology).into_values().flat_map(|tier| scatter(topology, &tier)).collect(),
    };
    order.into_iter().map(Some).chain(std::iter::repeat(None)).take(n).collect()
}

fn tiers(topology: &Topology) -> BTreeMap<Tier, Vec<&Cpu>> {
    let mut threads_of_core = BTreeMap::new();
    let mut tiers: BTreeMap<Tier, Vec<&Cpu>> = BTreeMap::new();
    for cpu in topology.allowed() {
        let rank = threads_of_core.entry(cpu.core).or_insert(0);
        tiers.entry((*rank, cpu.kind)).or_default().push(cpu);
        *rank += 1;
    }
    tiers
}

/// Nodes, and groups within each node, by falling number of allowed performance cores; ties go to the lower number.
///
/// All tiers take the groups in this one order, so that a second thread lands where the first threads are.
fn nodes_and_groups(topology: &Topology) -> Vec<Vec<usize>> {
    let mut groups: BTreeMap<(u32, usize), BTreeSet<usize>> = BTreeMap::new();
    for cpu in topology.allowed() {
        let cores = groups.entry((cpu.node, cpu.group)).or_default();
        if cpu.kind == CoreKind::Performance {
            cores.insert(cpu.core);
        }
    }
    let mut nodes: BTreeMap<u32, Vec<(usize, usize)>> = BTreeMap::new();
    for ((node, group), cores) in groups {
        nodes.entry(node).or_default().push((cores.len(), group));
    }
    let mut nodes: Vec<Vec<(usize, usize)>> = nodes.into_values().collect();
    for groups in &mut nodes {
        groups.sort_by_key(|(cores, _)| std::cmp::Reverse(*cores));
    }
    nodes.sort_by_key(|groups| std::cmp::Reverse(groups.iter().map(|(cores, _)| cores).sum::<usize>()));
    nodes.into_iter().map(|groups| groups.into_iter().map(|(_, group)| group).collect()).collect()
}

fn compact(topology: &Topology, tier: &[&Cpu]) -> Vec<CpuId> {
    let groups = nodes_and_groups(topology).into_iter().flatten();
    groups.flat_map(|group| tier.iter().filter(move |cpu| cpu.group == group).map(|cpu| cpu.id)).collect()
}

fn scatter(topology: &Topology, tier: &[&Cpu]) -> Vec<CpuId> {
    let nodes = nodes_and_groups(topology);
    let most = nodes.iter().map(Vec::len).max().unwrap_or(0);
    let in_turn = (0..most).flat_map(|round| nodes.iter().filter_map(move |groups| groups.get(round)));
    let queue = |group: &usize| tier.iter().filter(|cpu| cpu.group == *group).map(|cpu| cpu.id).collect();
    let mut queues: Vec<VecDeque<CpuId>> = in_turn.map(queue).collect();
    let mut order = Vec::with_capacity(tier.len());
    while order.len() < tier.len() {
        let round = queues.iter_mut().filter_map(VecDeque::pop_front);
        order.extend(round);
    }
    order
}

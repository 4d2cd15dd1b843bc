//! Topologies of fake trees.

use std::fs;
use std::path::PathBuf;

use super::*;

/// A tree of files below a folder of its own, removed at the end.
pub(crate) struct Tree(PathBuf);

impl Tree {
    pub(crate) fn new(name: &str) -> Tree {
        let folder = std::env::temp_dir().join(format!("rin-tree-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Tree(folder)
    }

    pub(crate) fn file(&self, path: &str, text: &str) -> &Tree {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    pub(crate) fn root(&self) -> &Path {
        &self.0
    }

    fn cpu(&self, id: u32, package: u32, core: u32, siblings: &str, l3: &str) -> &Tree {
        let cpu = format!("sys/devices/system/cpu/cpu{id}");
        self.file(&format!("{cpu}/topology/core_id"), &format!("{core}\n"))
            .file(&format!("{cpu}/topology/physical_package_id"), &format!("{package}\n"))
            .file(&format!("{cpu}/topology/thread_siblings_list"), &format!("{siblings}\n"))
            .file(&format!("{cpu}/cache/index0/level"), "1\n")
            .file(&format!("{cpu}/cache/index0/shared_cpu_list"), &format!("{siblings}\n"))
            .file(&format!("{cpu}/cache/index1/level"), "3\n")
            .file(&format!("{cpu}/cache/index1/shared_cpu_list"), &format!("{l3}\n"))
    }

    fn online(&self, list: &str) -> &Tree {
        self.file("sys/devices/system/cpu/online", list)
    }

    /// Four cores with two threads each: siblings are n and n + 4.
    fn one_socket(name: &str) -> Tree {
        let tree = Tree::new(name);
        tree.online("0-7\n").file("sys/devices/system/node/node0/cpulist", "0-7\n");
        for id in 0..8 {
            tree.cpu(id, 0, id % 4, &format!("{},{}", id % 4, id % 4 + 4), "0-7");
        }
        tree
    }

    /// Two sockets, each with two level-3 groups of two cores, no SMT: groups 0-1, 2-3 | 4-5, 6-7.
    fn two_sockets(name: &str) -> Tree {
        let tree = Tree::new(name);
        tree.online("0-7\n")
            .file("sys/devices/system/node/node0/cpulist", "0-3\n")
            .file("sys/devices/system/node/node1/cpulist", "4-7\n")
            .file("sys/devices/system/node/online", "0-1\n");
        for id in 0..8 {
            let first = id / 2 * 2;
            tree.cpu(id, id / 4, id % 4, &id.to_string(), &format!("{first}-{}", first + 1));
        }
        tree
    }

    fn topology(&self, mask: &str) -> Topology {
        Topology::read(&self.0, &Affinity::new(parse_cpu_list(mask).unwrap()))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn ids(placement: &[Option<CpuId>]) -> Vec<Option<u32>> {
    placement.iter().map(|cpu| cpu.map(|id| id.0)).collect()
}

fn some<const N: usize>(list: [u32; N]) -> Vec<Option<u32>> {
    list.into_iter().map(Some).collect()
}

#[test]
fn smt_siblings_are_one_core_and_come_last() {
    let tree = Tree::one_socket("smt");
    let machine = tree.topology("0-7");
    assert_eq!(machine.notes, Vec::<String>::new());
    assert_eq!(machine.cpus.len(), 8);
    assert_eq!((machine.cpus[1].core, machine.cpus[5].core), (1, 1));
    assert_eq!((machine.allowed_cores(), machine.default_threads()), (4, 4));
    for policy in [Policy::Compact, Policy::Scatter] {
        assert_eq!(ids(&machine.placement(6, policy)), some([0, 1, 2, 3, 4, 5]));
    }
    assert_eq!(machine.placement(3, Policy::None), [None; 3]);
    assert_eq!(ids(&machine.placement(10, Policy::Compact))[7..], [Some(7), None, None]);
}

#[test]
fn two_sockets_are_filled_or_alternated() {
    let machine = Tree::two_sockets("numa").topology("0-7");
    assert_eq!(machine.notes, Vec::<String>::new());
    assert_eq!(machine.cpus.iter().map(|cpu| cpu.group).collect::<Vec<_>>(), [0, 0, 1, 1, 2, 2, 3, 3]);
    assert_eq!(machine.cpus.iter().map(|cpu| cpu.node).collect::<Vec<_>>(), [0, 0, 0, 0, 1, 1, 1, 1]);
    assert_eq!(ids(&machine.placement(8, Policy::Compact)), some([0, 1, 2, 3, 4, 5, 6, 7]));
    assert_eq!(ids(&machine.placement(8, Policy::Scatter)), some([0, 4, 2, 6, 1, 5, 3, 7]));
}

#[test]
fn compact_begins_where_the_most_cores_are_allowed() {
    let machine = Tree::two_sockets("numa-mask").topology("1,3,4-6");
    assert_eq!(machine.default_threads(), 5);
    assert_eq!(ids(&machine.placement(5, Policy::Compact)), some([4, 5, 6, 1, 3]));
    assert_eq!(ids(&machine.placement(5, Policy::Scatter)), some([4, 1, 6, 3, 5]));
}

#[test]
fn performance_cores_come_before_efficiency_cores() {
    // Two P cores with two threads each (0,1 and 2,3), four E cores.
    let tree = Tree::new("hybrid");
    tree.online("0-7").file("sys/devices/cpu_core/cpus", "0-3\n").file("sys/devices/cpu_atom/cpus", "4-7\n");
    for id in 0..8 {
        let siblings = if id < 4 { format!("{}-{}", id / 2 * 2, id / 2 * 2 + 1) } else { id.to_string() };
        tree.cpu(id, 0, id, &siblings, "0-7");
    }
    let machine = tree.topology("0-7");
    assert!(machine.is_hybrid());
    assert_eq!(machine.default_threads(), 6);
    for policy in [Policy::Compact, Policy::Scatter] {
        assert_eq!(ids(&machine.placement(8, policy)), some([0, 2, 4, 5, 6, 7, 1, 3]));
    }
    assert!(!tree.topology("4-7").is_hybrid());
}

#[test]
fn capacities_tell_big_from_little() {
    let tree = Tree::new("capacity");
    tree.online("0-3");
    for (id, capacity) in [(0, 446), (1, 446), (2, 871), (3, 1024)] {
        tree.cpu(id, 0, id, &id.to_string(), "0-3");
        tree.file(&format!("sys/devices/system/cpu/cpu{id}/cpu_capacity"), &format!("{capacity}\n"));
    }
    assert_eq!(ids(&tree.topology("0-3").placement(4, Policy::Compact)), some([2, 3, 0, 1]));
}

#[test]
fn without_any_tree_the_mask_stands_in() {
    let tree = Tree::new("nothing");
    let machine = tree.topology("2-4");
    assert_eq!(machine.cpus.iter().map(|cpu| cpu.id.0).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!((machine.default_threads(), machine.quota.is_none()), (3, true));
    assert!(!machine.notes.is_empty());
    assert_eq!(tree.topology("").default_threads(), 1);
}

#[test]
fn quotas_round_down_to_at_least_one_thread() {
    for (text, threads) in
        [("150000 100000", 1), ("50000 100000", 1), ("300000 100000", 3), ("max 100000", 4), ("200000", 2)]
    {
        let tree = Tree::one_socket("quota");
        tree.file("proc/self/cgroup", "0::/\n").file("sys/fs/cgroup/cpu.max", text);
        let machine = tree.topology("0-7");
        assert_eq!(machine.default_threads(), threads, "{text}");
        assert_eq!(machine.notes, Vec::<String>::new());
    }
}

#[test]
fn the_tightest_quota_on_the_way_up_counts() {
    let tree = Tree::one_socket("nested");
    tree.file("proc/self/cgroup", "0::/a/b\n")
        .file("sys/fs/cgroup/a/b/cpu.max", "400000 100000\n")
        .file("sys/fs/cgroup/a/cpu.max", "20000 10000\n")
        .file("sys/fs/cgroup/cpu.max", "max 100000\n");
    let quota = tree.topology("0-7").quota.unwrap();
    assert_eq!((quota.quota_us, quota.period_us, quota.whole_cpus()), (20_000, 10_000, 2));
    assert!(quota.source.ends_with("sys/fs/cgroup/a/cpu.max"));
}

#[test]
fn a_container_that_sees_a_foreign_path_still_finds_its_own_quota() {
    let tree = Tree::one_socket("container");
    tree.file("proc/self/cgroup", "0::/../../docker/0123\n").file("sys/fs/cgroup/cpu.max", "200000 100000\n");
    assert_eq!(tree.topology("0-7").default_threads(), 2);
}

#[test]
fn version_1_quotas_are_read_from_their_controller() {
    for (folder, quota, threads) in
        [("cpu", "300000", 3), ("cpu,cpuacct", "200000", 2), ("cpu", "-1", 4), ("cpu", "0", 4)]
    {
        let tree = Tree::one_socket("v1");
        tree.file("proc/self/cgroup", "5:cpuset:/\n4:cpu,cpuacct:/job\n0::/\n")
            .file(&format!("sys/fs/cgroup/{folder}/job/cpu.cfs_quota_us"), quota)
            .file(&format!("sys/fs/cgroup/{folder}/job/cpu.cfs_period_us"), "100000\n");
        assert_eq!(tree.topology("0-7").default_threads(), threads, "{folder} {quota}");
    }
}

#[test]
fn malformed_quotas_are_left_out_with_a_note() {
    for text in ["many 100000", "100000 0", "-5 100000", "0 100000"] {
        let tree = Tree::one_socket("bad-quota");
        tree.file("proc/self/cgroup", "0::/\n").file("sys/fs/cgroup/cpu.max", text);
        let machine = tree.topology("0-7");
        assert_eq!((machine.default_threads(), machine.notes.len()), (4, 1), "{text}");
    }
}

#[test]
fn a_mask_narrows_cores_and_placement() {
    let tree = Tree::one_socket("mask");
    let machine = tree.topology("1,5,6");
    assert_eq!((machine.cpus.len(), machine.default_threads()), (8, 2));
    assert_eq!(ids(&machine.placement(4, Policy::Compact)), [Some(1), Some(6), Some(5), None]);
}

#[test]
fn a_mask_without_online_processors_is_ignored_with_a_note() {
    let machine = Tree::one_socket("foreign-mask").topology("64");
    assert_eq!((machine.default_threads(), machine.notes.len()), (4, 1));
}

#[test]
fn processors_that_are_offline_do_not_count() {
    let tree = Tree::one_socket("offline");
    tree.online("0-2,4,6\n");
    let machine = tree.topology("0-7");
    assert_eq!((machine.cpus.len(), machine.default_threads()), (5, 3));
    assert_eq!(ids(&machine.placement(5, Policy::Compact)), some([0, 1, 2, 4, 6]));
}

#[test]
fn cores_fall_back_to_package_and_core_number() {
    let tree = Tree::one_socket("core-id");
    for id in 0..8 {
        fs::remove_file(tree.root().join(format!("sys/devices/system/cpu/cpu{id}/topology/thread_siblings_list")))
            .unwrap();
    }
    let machine = tree.topology("0-7");
    assert_eq!((machine.default_threads(), machine.notes.len()), (4, 0));
}

#[test]
fn malformed_files_are_noted_and_replaced() {
    let tree = Tree::one_socket("malformed");
    tree.file("sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0-4294967295")
        .file("sys/devices/system/cpu/cpu4/topology/thread_siblings_list", "5-2")
        .file("sys/devices/system/node/node0/cpulist", "abc")
        .file("sys/devices/system/cpu/cpu1/cache/index1/level", "three");
    let machine = tree.topology("0-7");
    assert_eq!(machine.default_threads(), 4, "package and core number stand in");
    assert_eq!(machine.notes.len(), 3, "{:?}", machine.notes);

    let broken = Tree::new("all-broken");
    broken.online("abc").file("proc/self/cgroup", "\u{fffd}:::\n::\nnothing").file("sys/devices/system/node/nodeX", "");
    assert_eq!(broken.topology("0-1").default_threads(), 2);
    for id in 0..2000 {
        broken.file(&format!("sys/devices/system/cpu/cpu{id}/topology/thread_siblings_list"), "?");
    }
    broken.online("0-1999");
    assert!(broken.topology("0-1").notes.len() < 50);
}

#[test]
#[cfg(target_os = "linux")]
fn this_machine_has_a_thread_to_offer() {
    let machine = Topology::of_this_machine();
    assert!((1..=machine.cpus.len()).contains(&machine.default_threads()));
    let placement = machine.placement(machine.default_threads(), Policy::Compact);
    assert!(placement.iter().all(Option::is_some));
}

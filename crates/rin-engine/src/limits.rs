//! How much memory this process may still take, and who says so.

use std::path::Path;

use crate::topology::cgroup::Cgroups;
use crate::topology::read::{Notes, read_small};

/// Memory that may still be taken: the smallest of what the user, the control groups and the machine allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// Bytes.
    pub bytes: u64,
    /// Who sets this limit: an option or a file.
    pub source: String,
}

/// A plan that needs more memory than there is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitError {
    /// More bytes are needed than the limit leaves.
    #[error("{needed} bytes are needed, {available} are available ({source_of_limit})")]
    DoesNotFit {
        /// Bytes needed.
        needed: u64,
        /// Bytes available.
        available: u64,
        /// [`MemoryLimit::source`].
        source_of_limit: String,
    },
}

impl MemoryLimit {
    /// The limit of this machine and process, `requested` being the user's `--memory-limit` in bytes.
    pub fn of_this_machine(requested: Option<u64>) -> Option<MemoryLimit> {
        MemoryLimit::read(Path::new("/"), requested)
    }

    /// Reads the tree below `root` (`/` in production). `None` where neither the user nor the system says anything.
    ///
    /// A control group's limit counts less what the group uses already and cannot give back: its page cache can be
    /// reclaimed, all else cannot. Both cgroup versions are read, at every level from the leaf up. Of version 2, both
    /// `memory.max` and `memory.high` are limits: a group above the latter is throttled until it hardly runs. Version 1's
    /// `memory.soft_limit_in_bytes` is none: it only ranks groups when the machine runs short. Files that are missing or
    /// malformed set no limit.
    pub fn read(root: &Path, requested: Option<u64>) -> Option<MemoryLimit> {
        let mut notes = Notes::default();
        let groups = Cgroups::read(root, &mut notes);
        let mut limits = Vec::new();
        limits.extend(requested.map(|bytes| MemoryLimit { bytes, source: "--memory-limit".to_owned() }));
        groups.unified.iter().for_each(|folder| limits.extend(group_limit(folder, &V2, &mut notes)));
        groups.memory_v1.iter().for_each(|folder| limits.extend(group_limit(folder, &V1, &mut notes)));
        limits.extend(machine_limit(root, &mut notes));
        // The first of equals is kept: the user's word before the leaf, the leaf before its parents.
        limits.into_iter().min_by_key(|limit| limit.bytes)
    }

    /// Whether `needed` bytes fit.
    ///
    /// # Errors
    /// [`LimitError::DoesNotFit`] with both numbers.
    pub fn admit(&self, needed: u64) -> Result<(), LimitError> {
        if needed <= self.bytes {
            return Ok(());
        }
        Err(LimitError::DoesNotFit { needed, available: self.bytes, source_of_limit: self.source.clone() })
    }
}

/// Names of the files of a control group's memory controller.
struct GroupFiles {
    limits: &'static [&'static str],
    usage: &'static str,
    /// Keys of `memory.stat` that count page cache, here and below.
    page_cache: [&'static str; 2],
}

const V2: GroupFiles = GroupFiles {
    limits: &["memory.max", "memory.high"],
    usage: "memory.current",
    page_cache: ["inactive_file", "active_file"],
};
const V1: GroupFiles = GroupFiles {
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    page_cache: ["total_inactive_file", "total_active_file"],
};

/// The lowest limit of one group, less what the group keeps.
fn group_limit(folder: &Path, files: &GroupFiles, notes: &mut Notes) -> Option<MemoryLimit> {
    let mut limit_of = |name: &&str| {
        let file = folder.join(name);
        // "max" and "-1" are no numbers and set no limit; version 1 spells "no limit" as a number beyond any memory.
        let bytes: u64 = read_small(&file, notes)?.trim().parse().ok()?;
        Some((bytes, file))
    };
    let (limit, file) = files.limits.iter().filter_map(&mut limit_of).min_by_key(|(bytes, _)| *bytes)?;
    let usage = read_small(&folder.join(files.usage), notes).and_then(|text| text.trim().parse().ok()).unwrap_or(0u64);
    let stat = read_small(&folder.join("memory.stat"), notes).unwrap_or_default();
    let page_cache = files.page_cache.iter().filter_map(|key| value_of(&stat, key));
    let kept = usage.saturating_sub(page_cache.fold(0, u64::saturating_add));
    Some(MemoryLimit { bytes: limit.saturating_sub(kept), source: file.display().to_string() })
}

fn machine_limit(root: &Path, notes: &mut Notes) -> Option<MemoryLimit> {
    let file = root.join("proc/meminfo");
    let text = read_small(&file, notes)?;
    // Kernels before 3.14 have no MemAvailable; free memory is the cautious stand-in.
    let (key, kib) = ["MemAvailable:", "MemFree:"].iter().find_map(|key| Some((key, value_of(&text, key)?)))?;
    let source = format!("{} in {}", key.trim_end_matches(':'), file.display());
    Some(MemoryLimit { bytes: kib.saturating_mul(1024), source })
}

/// The number after a key at the start of a line.
fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == key).then(|| words.next()?.parse().ok())?
    })
}

/// Most memory that this process ever held at once, in bytes; `None` where the system does not say. Allocates nothing.
pub fn peak_rss_bytes() -> Option<u64> {
    use std::io::Read;

    let mut file = std::fs::File::open("/proc/self/status").ok()?;
    let mut buffer = [0; 4096];
    let mut length = 0;
    loop {
        let rest = buffer.get_mut(length..).filter(|rest| !rest.is_empty());
        match rest.map_or(Ok(0), |rest| file.read(rest)).ok()? {
            0 => break,
            n => length += n,
        }
    }
    // The buffer may end within a line, and a process name need not be UTF-8: lines are looked at one by one.
    let mut lines = buffer.get(..length)?.split(|byte| *byte == b'\n');
    let line = lines.find(|line| line.starts_with(b"VmHWM:"))?;
    value_of(std::str::from_utf8(line).ok()?, "VmHWM:")?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::tests::Tree;

    const MEMINFO: &str = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n";

    fn read(tree: &Tree, requested: Option<u64>) -> (u64, String) {
        let limit = MemoryLimit::read(tree.root(), requested).unwrap();
        (limit.bytes, limit.source.rsplit('/').next().unwrap().to_owned())
    }

    #[test]
    fn without_control_groups_the_machine_counts() {
        let tree = Tree::new("mem-machine");
        assert_eq!(MemoryLimit::read(tree.root(), None), None);
        tree.file("proc/meminfo", MEMINFO);
        assert_eq!(read(&tree, None), (8_192_000_000, "meminfo".to_owned()));
        assert_eq!(read(&tree, Some(5)), (5, "--memory-limit".to_owned()));
        assert_eq!(read(&tree, Some(u64::MAX)).0, 8_192_000_000);
        tree.file("proc/meminfo", "MemTotal: 16000000 kB\nMemFree: 1000 kB\n");
        assert_eq!(read(&tree, None).0, 1_024_000);
    }

    #[test]
    fn version_2_counts_less_what_cannot_be_reclaimed() {
        let tree = Tree::new("mem-v2");
        tree.file("proc/meminfo", MEMINFO)
            .file("proc/self/cgroup", "0::/user/job\n")
            .file("sys/fs/cgroup/user/job/memory.max", "max\n")
            .file("sys/fs/cgroup/user/memory.max", "1000000\n")
            .file("sys/fs/cgroup/user/memory.current", "700000\n")
            .file("sys/fs/cgroup/user/memory.stat", "anon 200000\ninactive_file 300000\nactive_file 150000\nfile 9\n");
        assert_eq!(read(&tree, None), (750_000, "memory.max".to_owned()));
        tree.file("sys/fs/cgroup/user/job/memory.max", "600000\n");
        assert_eq!(read(&tree, None).0, 600_000, "a leaf that tells no usage");
        tree.file("sys/fs/cgroup/user/job/memory.current", "900000\n");
        assert_eq!(read(&tree, None).0, 0, "a group above its limit has nothing left");
    }

    #[test]
    fn a_throttling_limit_counts_at_every_level_of_version_2() {
        let tree = Tree::new("mem-high");
        let group = |path: &str, max: &str, high: &str| {
            tree.file(&format!("sys/fs/cgroup/{path}memory.max"), max);
            tree.file(&format!("sys/fs/cgroup/{path}memory.high"), high);
        };
        tree.file("proc/meminfo", MEMINFO).file("proc/self/cgroup", "0::/user/job\n");
        group("user/job/", "900000\n", "max\n");
        assert_eq!(read(&tree, None), (900_000, "memory.max".to_owned()), "no throttling");
        group("user/job/", "900000\n", "800000\n");
        assert_eq!(read(&tree, None), (800_000, "memory.high".to_owned()));
        tree.file("sys/fs/cgroup/user/job/memory.current", "300000\n");
        assert_eq!(read(&tree, None).0, 500_000, "less what the group keeps");
        group("user/job/", "700000\n", "800000\n");
        assert_eq!(read(&tree, None), (400_000, "memory.max".to_owned()), "the lower of both");
        group("user/", "max\n", "350000\n");
        let limit = MemoryLimit::read(tree.root(), None).unwrap();
        assert_eq!(limit.bytes, 350_000, "an ancestor throttles first");
        assert!(limit.source.ends_with("cgroup/user/memory.high"), "{}", limit.source);
        let said = limit.admit(350_001).unwrap_err().to_string();
        assert!(said.contains("cgroup/user/memory.high"), "{said}");
    }

    #[test]
    fn a_soft_limit_of_version_1_is_none() {
        let tree = Tree::new("mem-soft");
        tree.file("proc/meminfo", MEMINFO)
            .file("proc/self/cgroup", "4:memory:/job\n")
            .file("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "500000\n")
            .file("sys/fs/cgroup/memory/job/memory.soft_limit_in_bytes", "1000\n")
            .file("sys/fs/cgroup/memory/job/memory.high", "1000\n");
        assert_eq!(read(&tree, None), (500_000, "memory.limit_in_bytes".to_owned()));
    }

    #[test]
    fn version_1_is_read_from_its_controller() {
        let tree = Tree::new("mem-v1");
        tree.file("proc/meminfo", MEMINFO)
            .file("proc/self/cgroup", "4:memory:/job\n0::/\n")
            .file("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
            .file("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "500000\n")
            .file("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "450000\n")
            .file("sys/fs/cgroup/memory/job/memory.stat", "inactive_file 7\ntotal_inactive_file 100000\n");
        assert_eq!(read(&tree, None), (150_000, "memory.limit_in_bytes".to_owned()));
    }

    #[test]
    fn version_1_counts_every_level() {
        let tree = Tree::new("mem-v1-nested");
        let group = |path: &str, limit: &str, usage: &str| {
            let folder = format!("sys/fs/cgroup/memory/{path}");
            tree.file(&format!("{folder}memory.limit_in_bytes"), limit);
            tree.file(&format!("{folder}memory.usage_in_bytes"), usage);
        };
        tree.file("proc/meminfo", MEMINFO).file("proc/self/cgroup", "7:cpu,cpuacct:/other\n5:hugetlb,memory:/a/b\n");
        group("", "9223372036854771712\n", "900\n");
        group("a/", "5000\n", "1000\n");
        group("a/b/", "7000\n", "500\n");
        assert_eq!(read(&tree, None), (4000, "memory.limit_in_bytes".to_owned()), "the parent leaves less");
        group("a/b/", "4300\n", "500\n");
        assert_eq!(read(&tree, None).0, 3800);
        group("", "3000\n", "900\n");
        let limit = MemoryLimit::read(tree.root(), None).unwrap();
        assert_eq!(limit.bytes, 2100, "the mount point is a level as well");
        assert!(limit.source.ends_with("cgroup/memory/memory.limit_in_bytes"), "{}", limit.source);
        assert_eq!(read(&tree, Some(2000)), (2000, "--memory-limit".to_owned()));
        assert_eq!(read(&tree, Some(2200)).0, 2100);
    }

    #[test]
    fn a_container_sees_its_own_group_at_the_mount_point() {
        for (line, limit, usage) in [
            ("3:memory:/docker/0123\n", "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
            ("0::/kubepods/pod/0123\n", "memory.max", "memory.current"),
            ("0::/\n", "memory.max", "memory.current"),
            // The hybrid layout: processes by version 2, memory by version 1.
            ("3:memory:/\n0::/\n", "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
            ("3:memory:/job\n0::/\n", "memory/job/memory.limit_in_bytes", "memory/job/memory.usage_in_bytes"),
            ("0::/../../job\n", "job/memory.max", "job/memory.current"),
            ("1:name=systemd:/\n0::/job\n", "unified/job/memory.max", "unified/job/memory.current"),
        ] {
            let tree = Tree::new("mem-container");
            tree.file("proc/meminfo", MEMINFO).file("proc/self/cgroup", line);
            tree.file(&format!("sys/fs/cgroup/{limit}"), "1000000\n");
            tree.file(&format!("sys/fs/cgroup/{usage}"), "250000\n");
            assert_eq!(read(&tree, None).0, 750_000, "{line}");
        }
    }

    #[test]
    fn the_tightest_of_both_versions_counts() {
        let tree = Tree::new("mem-both");
        tree.file("proc/meminfo", MEMINFO)
            .file("proc/self/cgroup", "4:memory:/a\n0::/b\n")
            .file("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "5000\n")
            .file("sys/fs/cgroup/unified/b/memory.max", "4000\n");
        assert_eq!(read(&tree, None), (4000, "memory.max".to_owned()));
        tree.file("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "3000\n");
        assert_eq!(read(&tree, None), (3000, "memory.limit_in_bytes".to_owned()));
        tree.file("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "-1\n");
        assert_eq!(read(&tree, None), (4000, "memory.max".to_owned()), "-1 is no limit");
    }

    #[test]
    fn malformed_files_set_no_limit() {
        let tree = Tree::new("mem-bad");
        tree.file("proc/meminfo", "MemAvailable: lots\nMemFree:\n")
            .file("proc/self/cgroup", "0::/\n")
            .file("sys/fs/cgroup/memory.max", "99999999999999999999999999\n");
        assert_eq!(MemoryLimit::read(tree.root(), None), None);
        tree.file("proc/meminfo", "MemAvailable: 18446744073709551615 kB\n");
        assert_eq!(read(&tree, None).0, u64::MAX);
    }

    #[test]
    fn a_plan_is_admitted_up_to_the_limit() {
        let limit = MemoryLimit { bytes: 100, source: "--memory-limit".to_owned() };
        assert_eq!(limit.admit(100), Ok(()));
        assert_eq!(
            limit.admit(101).unwrap_err().to_string(),
            "101 bytes are needed, 100 are available (--memory-limit)"
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_rises_with_touched_memory() {
        let size = 32 << 20;
        let touched = vec![1u8; size];
        assert!(peak_rss_bytes().unwrap() >= size as u64);
        assert_eq!(touched.iter().map(|byte| usize::from(*byte)).sum::<usize>(), size);
    }
}

//! The control group of this process: its folders from the leaf up, and the processor quota that they set.

use std::path::{Component, Path, PathBuf};

use super::read::{Notes, read_small};

/// Share of processor time that a control group grants: `quota` microseconds in every `period` microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuQuota {
    /// Microseconds of processor time per period, above zero.
    pub quota_us: u64,
    /// Length of the period in microseconds, above zero.
    pub period_us: u64,
    /// The file that says so.
    pub source: String,
}

impl CpuQuota {
    /// Whole processors that the quota pays for, possibly 0.
    pub fn whole_cpus(&self) -> usize {
        usize::try_from(self.quota_us / self.period_us.max(1)).unwrap_or(usize::MAX)
    }

    fn is_tighter_than(&self, other: &CpuQuota) -> bool {
        u128::from(self.quota_us) * u128::from(other.period_us)
            < u128::from(other.quota_us) * u128::from(self.period_us)
    }
}

/// Folders of the control groups that hold this process, each list from the leaf up to the mount point.
#[derive(Debug, Default)]
pub(crate) struct Cgroups {
    /// The unified hierarchy (version 2).
    pub(crate) unified: Vec<PathBuf>,
    /// The `cpu` controller of version 1.
    pub(crate) cpu_v1: Vec<PathBuf>,
    /// The `memory` controller of version 1.
    pub(crate) memory_v1: Vec<PathBuf>,
}

impl Cgroups {
    /// Reads `proc/self/cgroup` under `root`. Without that file the mount points alone are looked at.
    pub(crate) fn read(root: &Path, notes: &mut Notes) -> Cgroups {
        let mount = root.join("sys/fs/cgroup");
        let text = read_small(&root.join("proc/self/cgroup"), notes).unwrap_or_default();
        let mut groups = Cgroups::default();
        // Version 2 is mounted at the top, or in `unified` beside controllers of version 1.
        let v2_mounts = [mount.clone(), mount.join("unified")];
        let path_of = |wanted: &dyn Fn(&str) -> bool| {
            text.lines().find_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                wanted(controllers).then_some(path)
            })
        };
        let unified = path_of(&|controllers| controllers.is_empty()).unwrap_or("/");
        for base in v2_mounts {
            groups.unified.extend(levels(&base, unified));
        }
        let controller = |name: &str| {
            let path = path_of(&|controllers| controllers.split(',').any(|one| one == name))?;
            let joint = ["cpu,cpuacct", "cpuacct,cpu"].into_iter().filter(|_| name == "cpu");
            Some(std::iter::once(name).chain(joint).flat_map(|folder| levels(&mount.join(folder), path)).collect())
        };
        groups.cpu_v1 = controller("cpu").unwrap_or_default();
        groups.memory_v1 = controller("memory").unwrap_or_default();
        groups
    }

    /// The tightest processor quota of all levels, if any sets one.
    pub(crate) fn cpu_quota(&self, notes: &mut Notes) -> Option<CpuQuota> {
        let v2 = self.unified.iter().map(|folder| (folder, true));
        let v1 = self.cpu_v1.iter().map(|folder| (folder, false));
        let mut tightest: Option<CpuQuota> = None;
        for (folder, unified) in v2.chain(v1) {
            let found = if unified { quota_v2(folder, notes) } else { quota_v1(folder, notes) };
            if let Some(found) = found
                && tightest.as_ref().is_none_or(|so_far| found.is_tighter_than(so_far))
            {
                tightest = Some(found);
            }
        }
        tightest
    }
}

/// The folder of `path` below `mount` and all above it, `mount` last.
///
/// A process in a container may see a path that its own mount lacks; the levels that exist still count.
fn levels(mount: &Path, path: &str) -> Vec<PathBuf> {
    let mut folders = vec![mount.to_path_buf()];
    for component in Path::new(path).components() {
        // `..` stands for a level above the namespace's root, which cannot be looked into.
        if let Component::Normal(name) = component
            && let Some(parent) = folders.last()
        {
            folders.push(parent.join(name));
        }
    }
    folders.reverse();
    folders
}

fn quota_v2(folder: &Path, notes: &mut Notes) -> Option<CpuQuota> {
    let file = folder.join("cpu.max");
    let text = read_small(&file, notes)?;
    let mut words = text.split_ascii_whitespace();
    let quota = words.next()?;
    if quota == "max" {
        return None;
    }
    // The kernel's default period, should the file leave it out.
    let period = words.next().unwrap_or("100000");
    checked_quota(quota, period, &file, notes)
}

fn quota_v1(folder: &Path, notes: &mut Notes) -> Option<CpuQuota> {
    let file = folder.join("cpu.cfs_quota_us");
    let quota = read_small(&file, notes)?;
    let quota = quota.trim();
    // −1 is "no quota"; 0 cannot be set, but some sandboxes show it where nothing is limited.
    if quota.starts_with('-') || quota == "0" {
        return None;
    }
    let period = read_small(&folder.join("cpu.cfs_period_us"), notes)?;
    checked_quota(quota, period.trim(), &file, notes)
}

fn checked_quota(quota: &str, period: &str, file: &Path, notes: &mut Notes) -> Option<CpuQuota> {
    let source = file.display().to_string();
    match (quota.parse::<u64>(), period.parse::<u64>()) {
        (Ok(quota_us), Ok(period_us)) if quota_us > 0 && period_us > 0 => {
            Some(CpuQuota { quota_us, period_us, source })
        }
        _ => {
            notes.add(format!("{source}: the quota is not readable and is left out"));
            None
        }
    }
}

//! Powercap: zones of the running average power limit as files, `/sys/devices/virtual/powercap/intel-rapl/…`.
//!
//! Layout and units: Linux, `Documentation/power/powercap/powercap.rst` and `drivers/powercap/intel_rapl_common.c`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Absence, BOARD_LIMIT, Machine, Opened, PACKAGE_LIMIT};
use crate::channel::{Channel, Form, Value, file_error};
use crate::counter::Scale;
use crate::domain::ZoneName;
use crate::{Domain, DomainKind, Error};

pub(super) const FOLDER: &str = "sys/devices/virtual/powercap";
/// The same zones without their tree.
const FLAT: &str = "sys/class/powercap";
/// The interface that counters are also shown through on some machines.
const MMIO: &str = "intel-rapl-mmio";
/// Processors bring their counters up to date about every ms.
const UPDATE: Duration = Duration::from_millis(1);
const REMEDY: &str = "run as root, or let root open it to you: chmod a+r on each energy_uj below /sys/class/powercap \
                      (closed by default, for the figures can betray what others compute: CVE-2020-8694)";

/// A zone: its folder, and what it calls itself.
#[derive(Debug)]
struct Zone {
    folder: PathBuf,
    name: String,
}

pub(super) fn open(machine: Machine<'_>) -> Result<Opened, Absence> {
    let mut notes = Vec::new();
    let zones = zones(machine, &mut notes)?;
    if zones.is_empty() {
        let (tree, flat) = (machine.path(FOLDER), machine.path(FLAT));
        let found = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join("; ")) };
        let none = format!("neither {} nor {} holds a zone of intel-rapl{found}", tree.display(), flat.display());
        return Err(Absence::Absent(none));
    }
    let limit = limit(machine, &zones)?;
    let mut channels: Vec<Channel> = Vec::new();
    // The interface that shows counters a second time comes last, so that the first counts.
    let (mmio, first): (Vec<_>, Vec<_>) = zones.iter().partition(|(id, _)| id.starts_with(MMIO));
    for (id, zone) in first.into_iter().chain(mmio) {
        let Some(domain) = domain(id, &zones) else {
            notes.push(format!(
                "{} is called `{}`, which is no known domain: ignored",
                zone.folder.display(),
                zone.name
            ));
            continue;
        };
        if channels.iter().any(|channel| channel.domain == domain) {
            notes.push(format!("{} is {domain} once more: ignored", zone.folder.display()));
            continue;
        }
        channels.push(channel(machine, zone, domain, limit)?);
    }
    Ok(Opened { channels, notes })
}

/// All zones by their identity.
fn zones(machine: Machine<'_>, notes: &mut Vec<String>) -> Result<BTreeMap<String, Zone>, Error> {
    let mut folders = BTreeMap::new();
    let tree = machine.path(FOLDER);
    for control in machine.list(&tree)?.unwrap_or_default() {
        if control.starts_with("intel-rapl") {
            descend(machine, &tree.join(&control), &control, &mut folders)?;
        } else if !matches!(control.as_str(), "power" | "subsystem" | "uevent") {
            notes.push(format!("`{control}` is no counter of a processor: ignored"));
        }
    }
    if folders.is_empty() {
        let flat = machine.path(FLAT);
        for id in machine.list(&flat)?.unwrap_or_default() {
            if id.starts_with("intel-rapl") && id.contains(':') && is_zone(&id) {
                folders.insert(id.clone(), flat.join(&id));
            }
        }
    }
    let mut zones = BTreeMap::new();
    for (id, folder) in folders {
        // A zone whose processor went away meanwhile has no name any more.
        if let Some(name) = machine.line(&folder.join("name"))? {
            zones.insert(id, Zone { folder, name });
        }
    }
    Ok(zones)
}

/// Whether a folder is a zone by its name: `control:0`, `control:0:a`, with hexadecimal numbers.
fn is_zone(id: &str) -> bool {
    id.split(':').skip(1).all(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Zones are folders whose names go on from their parent's, so links that lead elsewhere or in circles are none.
fn descend(
    machine: Machine<'_>,
    folder: &Path,
    parent: &str,
    found: &mut BTreeMap<String, PathBuf>,
) -> Result<(), Error> {
    for id in machine.list(folder)?.unwrap_or_default() {
        let child = id.strip_prefix(parent).and_then(|rest| rest.strip_prefix(':'));
        if child.is_some_and(|number| !number.contains(':')) && is_zone(&id) {
            let folder = folder.join(&id);
            descend(machine, &folder, &id, found)?;
            found.insert(id, folder);
        }
    }
    Ok(())
}

/// What a zone covers, from its own name and those above it; none where that is unknown.
fn domain(id: &str, zones: &BTreeMap<String, Zone>) -> Option<Domain> {
    let name = zones.get(id)?.name.clone();
    match ZoneName::parse(&name)? {
        ZoneName::Package { .. } => Some(Domain { kind: DomainKind::Package, name }),
        ZoneName::Part(kind) => {
            let parent = id.rsplit_once(':').and_then(|(parent, _)| domain(parent, zones));
            let name = parent.map_or_else(|| name.clone(), |parent| format!("{parent}/{name}"));
            Some(Domain { kind, name })
        }
    }
}

/// The most that a domain is taken to draw, in W: twice the highest limit that some zone has, or what is usual.
fn limit(machine: Machine<'_>, zones: &BTreeMap<String, Zone>) -> Result<f64, Error> {
    let mut limit = PACKAGE_LIMIT;
    for zone in zones.values() {
        for name in machine.list(&zone.folder)?.unwrap_or_default() {
            let factor = match name.strip_prefix("constraint_").and_then(|rest| rest.split_once('_')) {
                Some((_, "max_power_uw")) => 1.0,
                Some((_, "power_limit_uw")) => 2.0,
                _ => continue,
            };
            // Limits that cannot be read or are out of all proportion (some firmware says "none" that way) say nothing.
            if let Ok(Some(microwatts)) = machine.number(&zone.folder.join(&name)) {
                let watts = factor * microwatts as f64 / 1e6;
                if watts <= BOARD_LIMIT {
                    limit = limit.max(watts);
                }
            }
        }
    }
    Ok(limit)
}

/// The most that a package is taken to draw, for sources that do not say it themselves.
pub(super) fn package_limit(machine: Machine<'_>) -> f64 {
    let zones = zones(machine, &mut Vec::new()).unwrap_or_default();
    limit(machine, &zones).unwrap_or(PACKAGE_LIMIT)
}

fn channel(machine: Machine<'_>, zone: &Zone, domain: Domain, limit: f64) -> Result<Channel, Error> {
    let path = zone.folder.join("max_energy_range_uj");
    let max = machine.number(&path)?.ok_or(Error::Incomplete { path })?;
    let path = zone.folder.join("energy_uj");
    let handle = machine.host.open(&path).map_err(|error| file_error(&path, &error, REMEDY))?;
    let limit = if domain.kind == DomainKind::Psys { BOARD_LIMIT } else { limit };
    // The kernel computes µJ from 2³² steps of a whole number of nJ.
    let unit_nj = (max as f64 * 1e3 / f64::from(u32::MAX)).round();
    let correction = exact_nj(unit_nj) / unit_nj.max(1.0);
    let scale =
        Scale { joules: 1e-6 * correction, step: (unit_nj / 1e3).max(1.0), max: Some(max), limit, update: UPDATE };
    Channel::counter(domain, Value::of(handle, path, Form::Text), scale, machine.host.now())
}

/// The step that the processor has where the kernel cut off its fraction: 2⁻ᵉ J. Memory of servers has 2⁻¹⁶ J, for
/// which the kernel takes 15.3 µJ here (and the exact step in its performance events).
fn exact_nj(unit_nj: f64) -> f64 {
    const SERVER_DRAM_NJ: f64 = 15_300.0;
    let exact = |exponent: i32| 1e9 / 2_f64.powi(exponent);
    let close = |a: f64, b: f64| (a - b).abs() < 0.5;
    if close(unit_nj, SERVER_DRAM_NJ) {
        return exact(16);
    }
    (10..=20).find(|e| close(exact(*e).floor(), unit_nj)).map_or(unit_nj, exact)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_that_the_kernel_cut_off() {
        let exact = |unit: f64, truth: f64| assert!((exact_nj(unit) / truth - 1.0).abs() < 1e-12, "{unit}");
        exact(61_035.0, 61_035.156_25);
        exact(15_258.0, 15_258.789_062_5);
        exact(15_300.0, 15_258.789_062_5);
        exact(1_000_000.0, 1_000_000.0);
        exact(976_562.0, 976_562.5);
    }

    #[test]
    fn zones_have_hexadecimal_numbers() {
        for zone in ["intel-rapl:0", "intel-rapl:a", "intel-rapl:1f:0", "intel-rapl-mmio:0"] {
            assert!(is_zone(zone), "{zone}");
        }
        for other in ["intel-rapl:", "intel-rapl:g", "intel-rapl:0:", "intel-rapl:0:power"] {
            assert!(!is_zone(other), "{other}");
        }
    }
}

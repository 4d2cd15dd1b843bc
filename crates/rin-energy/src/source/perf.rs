//! The `power` unit of Linux's performance events (`arch/x86/events/rapl.c`): 64 bits that the kernel unwraps.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Absence, BOARD_LIMIT, Machine, Opened, Source, powercap};
use crate::channel::{Channel, Form, Value, file_error};
use crate::counter::Scale;
use crate::{Domain, DomainKind, Error, text};

pub(super) const FOLDER: &str = "sys/bus/event_source/devices/power";
/// Events and what they cover.
const EVENTS: [(&str, DomainKind); 5] = [
    ("energy-pkg", DomainKind::Package),
    ("energy-cores", DomainKind::Core),
    ("energy-gpu", DomainKind::Uncore),
    ("energy-ram", DomainKind::Dram),
    ("energy-psys", DomainKind::Psys),
];
const UPDATE: Duration = Duration::from_millis(1);
const REMEDY: &str = "as root: setcap cap_perfmon=ep on the program, or sysctl kernel.perf_event_paranoid=0, or run as \
                      root; in a container also permit perf_event_open (--cap-add PERFMON)";

pub(super) fn open(machine: Machine<'_>) -> Result<Opened, Absence> {
    let folder = machine.folder(Source::Perf);
    let Some(files) = machine.list(&folder.join("events"))? else { return Err(machine.no_folder(Source::Perf)) };
    let path = folder.join("type");
    let pmu = machine.number(&path)?.ok_or(Error::Incomplete { path: path.clone() })?;
    let pmu = u32::try_from(pmu).map_err(|_| text::malformed(&path, pmu.to_string().as_bytes()))?;
    let cpus = cpus(machine, &folder)?;
    let limit = powercap::package_limit(machine);
    let mut opened = Opened::default();
    for (event, kind) in EVENTS {
        if !files.iter().any(|file| file == event) {
            continue;
        }
        let event = Event::read(machine, &folder.join("events"), event, pmu, kind, limit)?;
        // The platform is one, whatever the number of packages.
        let most = if kind == DomainKind::Psys { 1 } else { cpus.len() };
        for cpu in cpus.iter().take(most) {
            opened.channels.push(event.channel(machine, &cpus, cpu)?);
        }
    }
    let known = |file: &str| EVENTS.iter().any(|(event, _)| file.strip_prefix(event).is_some_and(is_attribute));
    for file in files.iter().filter(|file| !known(file)) {
        opened.notes.push(format!("the event `{file}` is no known domain: ignored"));
    }
    if opened.channels.is_empty() {
        return Err(Absence::Absent(format!("{} holds no event of a known domain", folder.join("events").display())));
    }
    Ok(opened)
}

/// Whether a file is an event itself or says something about it.
fn is_attribute(rest: &str) -> bool {
    matches!(rest, "" | ".unit" | ".scale")
}

/// A processor that stands for its package or die.
#[derive(Debug)]
struct Lead {
    cpu: u32,
    package: u32,
    die: u32,
}

fn cpus(machine: Machine<'_>, folder: &Path) -> Result<Vec<Lead>, Error> {
    let path = folder.join("cpumask");
    let line = machine.line(&path)?.ok_or(Error::Incomplete { path: path.clone() })?;
    let cpus = text::cpu_list(&line).ok_or_else(|| text::malformed(&path, line.as_bytes()))?;
    let mut leads = Vec::new();
    for (place, cpu) in (0..).zip(cpus) {
        let topology = machine.path(&format!("sys/devices/system/cpu/cpu{cpu}/topology"));
        let number = |name: &str| -> Option<u32> { machine.number(&topology.join(name)).ok()??.try_into().ok() };
        // Where the machine does not say it, the place in the list tells packages apart as well as anything.
        let package = number("physical_package_id").unwrap_or(place);
        leads.push(Lead { cpu, package, die: number("die_id").unwrap_or(0) });
    }
    Ok(leads)
}

/// An event as its files describe it.
#[derive(Debug)]
struct Event {
    path: PathBuf,
    kind: DomainKind,
    pmu: u32,
    config: u64,
    scale: Scale,
}

impl Event {
    fn read(
        machine: Machine<'_>,
        folder: &Path,
        name: &str,
        pmu: u32,
        kind: DomainKind,
        limit: f64,
    ) -> Result<Self, Error> {
        let file = |end: &str| -> Result<(PathBuf, String), Error> {
            let path = folder.join(format!("{name}{end}"));
            let line = machine.line(&path)?.ok_or(Error::Incomplete { path: path.clone() })?;
            Ok((path, line))
        };
        let (path, line) = file("")?;
        let hex = line.strip_prefix("event=0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let config = hex.ok_or_else(|| text::malformed(&path, line.as_bytes()))?;
        let (unit_path, unit) = file(".unit")?;
        if unit != "Joules" {
            return Err(text::malformed(&unit_path, unit.as_bytes()));
        }
        let (scale_path, line) = file(".scale")?;
        let joules = line.parse::<f64>().ok().filter(|scale| scale.is_finite() && *scale > 0.0 && *scale <= 1.0);
        let joules = joules.ok_or_else(|| text::malformed(&scale_path, line.as_bytes()))?;
        let limit = if kind == DomainKind::Psys { BOARD_LIMIT } else { limit };
        // The hardware's step is not told here. The coarsest that is usual is 2⁻¹⁴ J; that of some platforms is 1 J.
        let coarsest = if kind == DomainKind::Psys { 1.0 } else { 2_f64.powi(-14) };
        let step = (coarsest / joules).max(1.0);
        Ok(Self { path, kind, pmu, config, scale: Scale { joules, step, max: None, limit, update: UPDATE } })
    }

    fn channel(&self, machine: Machine<'_>, all: &[Lead], lead: &Lead) -> Result<Channel, Error> {
        let several = all.iter().filter(|other| other.package == lead.package).count() > 1;
        let die = if several { format!("-die-{}", lead.die) } else { String::new() };
        let package = format!("package-{}{die}", lead.package);
        let name = match self.kind {
            DomainKind::Package => package,
            DomainKind::Psys => "psys".to_owned(),
            kind => format!("{package}/{}", kind.name()),
        };
        let handle = machine.host.counter(self.pmu, self.config, lead.cpu);
        let handle = handle.map_err(|error| match error.kind() {
            // Neither says which file forbids it.
            ErrorKind::PermissionDenied => {
                Error::PermissionDenied { path: self.path.clone(), remedy: REMEDY.to_owned() }
            }
            _ => file_error(&self.path, &error, REMEDY),
        })?;
        let value = Value::of(handle, self.path.clone(), Form::Binary);
        Channel::counter(Domain { kind: self.kind, name }, value, self.scale, machine.host.now())
    }
}

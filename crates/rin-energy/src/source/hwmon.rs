//! Linux's hardware monitors (`Documentation/hwmon/sysfs-interface.rst`): counters of energy in µJ, power in µW, or
//! voltage and current.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Absence, BOARD_LIMIT, Machine, Opened, PACKAGE_LIMIT, Source};
use crate::channel::{Channel, Form, PowerSensor, Value};
use crate::counter::Scale;
use crate::{Domain, DomainKind, Error};

pub(super) const FOLDER: &str = "sys/class/hwmon";
/// Labels of the rail that feeds everything else on a module.
const INPUT_RAILS: [&str; 4] = ["VDD_IN", "POM_5V_IN", "VIN_SYS_5V0", "VIN"];
/// Monitors of single rails whose power is one file.
const INA2XX: [&str; 8] = ["ina219", "ina220", "ina226", "ina230", "ina231", "ina233", "ina237", "ina238"];
/// How often a monitor is taken to be brought up to date where it does not say so.
const UPDATE: Duration = Duration::from_millis(100);

/// A monitor: its folder and its driver's name.
#[derive(Debug)]
struct Monitor<'a> {
    machine: Machine<'a>,
    folder: PathBuf,
    driver: String,
    files: Vec<String>,
}

pub(super) fn open(machine: Machine<'_>) -> Result<Opened, Absence> {
    let folder = machine.folder(Source::Hwmon);
    let Some(names) = machine.list(&folder)? else { return Err(machine.no_folder(Source::Hwmon)) };
    let mut opened = Opened::default();
    let mut others = Vec::new();
    for name in names.iter().filter(|name| name.starts_with("hwmon")) {
        let folder = folder.join(name);
        let Some(driver) = machine.line(&folder.join("name"))? else { continue };
        let files = machine.list(&folder)?.unwrap_or_default();
        let monitor = Monitor { machine, folder, driver, files };
        match monitor.driver.as_str() {
            "amd_energy" => monitor.sockets(&mut opened)?,
            "ina3221" => monitor.rails(&mut opened)?,
            "power_meter" => monitor.power_meter(&mut opened)?,
            driver if INA2XX.contains(&driver) => monitor.one_rail(&mut opened)?,
            other => others.push(other.to_owned()),
        }
    }
    name_apart(&mut opened);
    if opened.channels.is_empty() {
        let found = if others.is_empty() { "nothing".to_owned() } else { others.join(", ") };
        let known = "amd_energy, ina3221, ina2xx or power_meter";
        return Err(Absence::Absent(format!("{} holds {found}, and no {known}", folder.display())));
    }
    opened
        .notes
        .extend(others.into_iter().map(|driver| format!("the monitor `{driver}` is of no known kind: ignored")));
    Ok(opened)
}

/// Two domains of the same name get the number of their place.
fn name_apart(opened: &mut Opened) {
    let names: Vec<String> = opened.channels.iter().map(|channel| channel.domain.name.clone()).collect();
    for (place, channel) in opened.channels.iter_mut().enumerate() {
        if names.iter().filter(|name| **name == channel.domain.name).count() > 1 {
            channel.domain.name = format!("{}-{place}", channel.domain.name);
        }
    }
}

impl Monitor<'_> {
    /// The numbers N of files `prefixN_suffix`.
    fn numbers(&self, prefix: &str, suffix: &str) -> Vec<u32> {
        let number = |file: &String| file.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok();
        let mut numbers: Vec<u32> = self.files.iter().filter_map(number).collect();
        numbers.sort_unstable();
        numbers
    }

    fn label(&self, file: &str) -> Result<Option<String>, Error> {
        Ok(self.machine.line(&self.folder.join(file))?.filter(|label| !label.is_empty()))
    }

    fn value(&self, file: &str, form: Form) -> Result<Value, Error> {
        Value::open(self.machine.host, &self.folder.join(file), form)
    }

    /// `amd_energy`: counters of 64 bits. Those of the sockets count; those of the cores are inside them.
    fn sockets(&self, opened: &mut Opened) -> Result<(), Error> {
        let mut cores = 0;
        for n in self.numbers("energy", "_input") {
            let label = self.label(&format!("energy{n}_label"))?.unwrap_or_default();
            let Some(socket) = label.strip_prefix("Esocket") else {
                cores += 1;
                continue;
            };
            let domain = Domain { kind: DomainKind::Package, name: format!("package-{socket}") };
            let scale = Scale {
                joules: 1e-6,
                step: 1e6 / 2_f64.powi(16),
                max: None,
                limit: PACKAGE_LIMIT,
                update: Duration::from_millis(1),
            };
            let value = self.value(&format!("energy{n}_input"), Form::Text)?;
            opened.channels.push(Channel::counter(domain, value, scale, self.machine.host.now())?);
        }
        if cores > 0 {
            opened.notes.push(format!("{cores} counters of {} are inside the sockets': not read", self.driver));
        }
        Ok(())
    }

    /// `ina3221`: for each rail voltage in mV and current in mA.
    fn rails(&self, opened: &mut Opened) -> Result<(), Error> {
        for n in self.numbers("curr", "_input") {
            let volts = format!("in{n}_input");
            if !self.files.contains(&volts) {
                opened.notes.push(format!("{}: rail {n} has no voltage: ignored", self.folder.display()));
                continue;
            }
            let label = self.label(&format!("in{n}_label"))?.unwrap_or_else(|| format!("rail-{n}"));
            // Currents of a rail that feeds back are negative and rare; taken as they are they would be an error.
            let factors = vec![self.value(&volts, Form::Text)?, self.value(&format!("curr{n}_input"), Form::Text)?];
            let sensor = PowerSensor { factors, watts: 1e-6, status: None };
            self.push(opened, rail(label), sensor, UPDATE)?;
        }
        Ok(())
    }

    /// `ina2xx`: the one rail that the chip sits on.
    fn one_rail(&self, opened: &mut Opened) -> Result<(), Error> {
        for n in self.numbers("power", "_input") {
            let label = self.label(&format!("power{n}_label"))?.unwrap_or_else(|| self.driver.clone());
            let factors = vec![self.value(&format!("power{n}_input"), Form::Text)?];
            let update = self.update("update_interval")?;
            self.push(opened, rail(label), PowerSensor { factors, watts: 1e-6, status: None }, update)?;
        }
        Ok(())
    }

    /// ACPI's power meter: the machine at its supply, or what its label says (NVIDIA Grace has one for each part).
    fn power_meter(&self, opened: &mut Opened) -> Result<(), Error> {
        for n in self.numbers("power", "_average") {
            let label = match self.label(&format!("power{n}_oem_info"))? {
                Some(label) => Some(label),
                None => self.label(&format!("power{n}_label"))?,
            };
            let kind = match label.as_deref() {
                None => DomainKind::Board,
                Some(label) if label.starts_with("Grace Power Socket") => DomainKind::Package,
                Some(_) => DomainKind::Rail,
            };
            let name = label.unwrap_or_else(|| "power_meter".to_owned());
            let factors = vec![self.value(&format!("power{n}_average"), Form::Text)?];
            let update = self.update(&format!("power{n}_average_interval"))?;
            let sensor = PowerSensor { factors, watts: 1e-6, status: None };
            self.push(opened, Domain { kind, name }, sensor, update)?;
        }
        Ok(())
    }

    /// A file with milliseconds, where there is one.
    fn update(&self, file: &str) -> Result<Duration, Error> {
        let path: &Path = &self.folder.join(file);
        Ok(self.machine.number(path)?.filter(|ms| *ms > 0).map_or(UPDATE, Duration::from_millis))
    }

    fn push(&self, opened: &mut Opened, domain: Domain, sensor: PowerSensor, update: Duration) -> Result<(), Error> {
        opened.channels.push(Channel::power(domain, sensor, BOARD_LIMIT, update, self.machine.host.now())?);
        Ok(())
    }
}

/// A rail by its label: the one that feeds all others stands for the board.
fn rail(name: String) -> Domain {
    let kind = if INPUT_RAILS.contains(&name.as_str()) { DomainKind::Board } else { DomainKind::Rail };
    Domain { kind, name }
}

//! Batteries (`Documentation/ABI/testing/sysfs-class-power`): what the machine takes, while nothing else feeds it.

use std::time::Duration;

use super::{Absence, BOARD_LIMIT, Machine, Opened, Source};
use crate::channel::{Channel, Form, PowerSensor, Value, file_error};
use crate::{Domain, DomainKind, Error};

pub(super) const FOLDER: &str = "sys/class/power_supply";
/// Batteries are brought up to date once in some seconds.
const UPDATE: Duration = Duration::from_secs(2);

pub(super) fn open(machine: Machine<'_>) -> Result<Opened, Absence> {
    let folder = machine.folder(Source::Battery);
    let Some(names) = machine.list(&folder)? else { return Err(machine.no_folder(Source::Battery)) };
    let mut opened = Opened::default();
    let mut why = None;
    for name in names {
        let folder = folder.join(&name);
        if machine.line(&folder.join("type"))?.as_deref() != Some("Battery") {
            continue;
        }
        // Batteries of mice and the like do not feed the machine.
        if machine.line(&folder.join("scope"))?.as_deref() == Some("Device") {
            continue;
        }
        let files = machine.list(&folder)?.unwrap_or_default();
        let has = |file: &str| files.iter().any(|name| name == file);
        let value = |file: &str| Value::open(machine.host, &folder.join(file), Form::Signed);
        // µW, or µA times µV.
        let (factors, watts) = if has("power_now") {
            (vec![value("power_now")?], 1e-6)
        } else if has("current_now") && has("voltage_now") {
            (vec![value("current_now")?, value("voltage_now")?], 1e-12)
        } else {
            opened.notes.push(format!("{name} tells neither power nor current and voltage: ignored"));
            continue;
        };
        let path = folder.join("status");
        let status = machine.host.open(&path).map_err(|error| file_error(&path, &error, ""))?;
        let sensor = PowerSensor { factors, watts, status: Some((status, path)) };
        let domain = Domain { kind: DomainKind::Battery, name };
        match Channel::power(domain, sensor, BOARD_LIMIT, UPDATE, machine.host.now()) {
            Ok(channel) => opened.channels.push(channel),
            Err(error @ Error::NotDischarging { .. }) => why = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    match (opened.channels.is_empty(), why) {
        (false, None) => Ok(opened),
        // One battery alone does not tell what the machine takes while another is fed.
        (_, Some(error)) => Err(Absence::Failed(error)),
        (true, None) => Err(Absence::Absent(format!("{} holds no battery of the machine", folder.display()))),
    }
}

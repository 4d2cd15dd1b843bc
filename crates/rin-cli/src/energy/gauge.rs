//! The meter of a command, or why it has none.

use rin_cluster::Ranks;
use rin_cluster::energy::{HostEnergy, Sum};
use rin_energy::{Error, Measurement, Meter, PowerRange, Reading, Record, Sensors};

use crate::args::EnergyArgs;
use crate::exit::NoEnergy;

/// What a command measures energy with.
#[derive(Debug)]
pub(crate) struct Gauge {
    pub(crate) sensors: Sensors,
    pub(crate) meter: Result<Meter, Error>,
    pub(crate) range: Option<PowerRange>,
    required: bool,
}

impl Gauge {
    /// Looks for sensors and starts to read them. Before an engine is made: the thread that reads must not be pinned to
    /// the processor of a worker.
    ///
    /// # Errors
    /// [`NoEnergy`] where a sensor is required and there is none.
    pub(crate) fn open(args: &EnergyArgs) -> anyhow::Result<Self> {
        let sensors = Sensors::discover(&args.sensors.sys_root);
        let meter = sensors.meter().and_then(|mut meter| meter.watch().map(|()| meter));
        if let (true, Err(error)) = (args.require_energy, &meter) {
            return Err(NoEnergy(error.clone()).into());
        }
        Ok(Self { sensors, meter, range: args.estimate_power.map(|power| power.0), required: args.require_energy })
    }

    /// All sums at the next update of the counter, where there is one.
    pub(crate) fn edge(&self) -> Option<Reading> {
        self.meter.as_ref().ok().map(Meter::edge)
    }

    /// What was taken between two readings.
    pub(crate) fn between(&self, began: Option<&Reading>, ended: Option<&Reading>) -> Result<Measurement, Error> {
        match (&self.meter, began, ended) {
            (Ok(meter), Some(began), Some(ended)) => meter.between(began, ended),
            (Err(error), ..) => Err(error.clone()),
            (Ok(_), ..) => Err(Error::NotStarted),
        }
    }

    /// As [`record`](Self::record), over the hosts of all ranks: this one between two readings, and the others between what
    /// was noted to them.
    ///
    /// # Errors
    /// As for [`record`](Self::record); where a rank has failed.
    pub(crate) fn record_of_all(
        &self,
        ranks: &Ranks,
        began: Option<&Reading>,
        ended: Option<&Reading>,
        tokens: usize,
        seconds: f64,
    ) -> anyhow::Result<(Record, Option<Sum>)> {
        if !ranks.several() {
            return Ok((self.record(began, ended, tokens, seconds)?, None));
        }
        let host = ranks.hellos().first().map(|hello| hello.host.clone()).unwrap_or_default();
        let sum = ranks.energy(HostEnergy::of(0, host, &self.between(began, ended)))?;
        let record = sum.as_ref().map(|sum| sum.record(tokens as u64));
        Ok((record.unwrap_or_else(|| Record::unmeasured(&Error::NotStarted)), sum))
    }

    /// What was taken between two readings, for so many tokens and seconds.
    ///
    /// # Errors
    /// [`NoEnergy`] where it is required and not known.
    pub(crate) fn record(
        &self,
        began: Option<&Reading>,
        ended: Option<&Reading>,
        tokens: usize,
        seconds: f64,
    ) -> anyhow::Result<Record> {
        let tokens = tokens as u64;
        let found = self.between(began, ended);
        if let (true, Err(error)) = (self.required, found.as_ref().map_err(Clone::clone).and_then(Measurement::joules))
        {
            return Err(NoEnergy(error).into());
        }
        Ok(Record::of(&found, tokens).or_estimate(self.range, seconds, tokens))
    }
}

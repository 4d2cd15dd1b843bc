//! The energy of a piece of work over all hosts.
//!
//! A sensor shows what its machine takes, for everything that runs there. So each host counts once, however many ranks it
//! has, and the sum is one only where every host has a figure.

use std::collections::BTreeMap;

use rin_energy::{Error as MeterError, Measurement, Record, Status};
use rin_engine::Error;
use rin_engine::chain::{ChainError, Failure};
use serde::{Deserialize, Serialize};

use crate::ranks::Ranks;
use crate::world::{Tag, World, lost, take, tell, wait};

/// What rank 0 [notes](rin_engine::Engine::note) where the work begins.
pub const BEGIN: u32 = 1;

/// What it notes where the work ends; each other rank then [`send`]s what it measured.
pub const END: u32 = 2;

/// What one host took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostEnergy {
    /// The rank that measured.
    pub rank: usize,
    /// The host.
    pub host: String,
    /// Whether there is a figure.
    pub status: Status,
    /// What the host took, in J.
    pub joules: Option<f64>,
    /// Standard uncertainty of it, in J.
    pub uncertainty_joules: Option<f64>,
    /// The sensor.
    pub source: Option<String>,
    /// Why there is none.
    pub reason: Option<String>,
    /// By domain: its kind, and J.
    pub domains: Vec<(String, f64)>,
}

impl HostEnergy {
    /// What a rank has measured.
    pub fn of(rank: usize, host: String, found: &Result<Measurement, MeterError>) -> Self {
        let record = Record::of(found, 0);
        let lines = found.iter().flat_map(|found| &found.lines);
        let domain =
            |line: &rin_energy::Line| Some((line.domain.kind.name().to_owned(), line.joules.as_ref().ok().copied()?));
        Self {
            rank,
            host,
            status: record.status,
            joules: record.joules,
            uncertainty_joules: record.uncertainty_joules,
            source: record.source,
            reason: record.reason,
            domains: lines.filter_map(domain).collect(),
        }
    }
}

/// What all hosts took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sum {
    /// Each host, once.
    pub hosts: Vec<HostEnergy>,
    /// J by kind of domain, over the hosts that have it.
    pub domains: BTreeMap<String, f64>,
}

impl Sum {
    /// The first of each host's figures counts: they are of one machine.
    pub fn of(figures: Vec<HostEnergy>) -> Self {
        let mut hosts: Vec<HostEnergy> = Vec::new();
        for figure in figures {
            if hosts.iter().all(|known| known.host != figure.host) {
                hosts.push(figure);
            }
        }
        let mut domains = BTreeMap::new();
        for (kind, joules) in hosts.iter().flat_map(|host| &host.domains) {
            *domains.entry(kind.clone()).or_insert(0.0) += joules;
        }
        Self { hosts, domains }
    }

    /// The sum as one figure for so many tokens; unmeasured, with the names of the hosts, where one has none.
    pub fn record(&self, tokens: u64) -> Record {
        let joules: Option<Vec<f64>> = self.hosts.iter().map(|host| host.joules).collect();
        let without = self.hosts.iter().filter(|host| host.joules.is_none());
        let reason = |host: &HostEnergy| format!("{}: {}", host.host, host.reason.as_deref().unwrap_or("unmeasured"));
        let Some(joules) = joules.filter(|joules| !joules.is_empty()) else {
            let reasons: Vec<String> = without.map(reason).collect();
            return Record::without(format!("not every host has a figure: {}", reasons.join("; ")));
        };
        let sum: f64 = joules.iter().sum();
        let squares = self.hosts.iter().filter_map(|host| host.uncertainty_joules).map(|u| u * u).sum::<f64>();
        let source = |host: &HostEnergy| format!("{}: {}", host.host, host.source.as_deref().unwrap_or("unknown"));
        Record {
            status: Status::Measured,
            joules: Some(sum),
            joules_per_token: (tokens > 0).then(|| sum / tokens as f64),
            uncertainty_joules: Some(squares.sqrt()),
            idle_watts: None,
            source: Some(self.hosts.iter().map(source).collect::<Vec<_>>().join("; ")),
            reason: None,
            estimate: None,
        }
    }
}

/// Tells rank 0 what this one has measured.
///
/// # Errors
///
/// Where rank 0 is gone.
pub fn send(world: &dyn World, figure: &HostEnergy) -> Result<(), Error> {
    tell(world, 0, Tag::Energy, figure)
}

impl Ranks {
    /// What all hosts took, `own` being the figure of rank 0; none for one that is alone. To be asked for when [`END`] has
    /// been noted.
    ///
    /// # Errors
    ///
    /// [`ChainError::Failed`] where a rank has failed instead, [`ChainError::Lost`] where one is gone.
    pub fn energy(&self, own: HostEnergy) -> Result<Option<Sum>, Error> {
        let Some(world) = self.world() else { return Ok(None) };
        let world = world.as_ref();
        let mut figures = vec![own];
        for rank in 1..world.size() {
            let lost = |reason| lost(world, reason);
            let arrived = wait(world, &[(Some(rank), Tag::Energy), (None, Tag::Failure)]).map_err(lost)?;
            let bytes = take(world, arrived).map_err(lost)?;
            if arrived.tag == Tag::Failure {
                let failure: Failure = serde_json::from_slice(&bytes).map_err(|error| lost(error.to_string()))?;
                return Err(ChainError::Failed(failure).into());
            }
            figures.push(serde_json::from_slice(&bytes).map_err(|error| lost(error.to_string()))?);
        }
        Ok(Some(Sum::of(figures)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(rank: usize, host: &str, joules: Option<f64>) -> HostEnergy {
        let status = if joules.is_some() { Status::Measured } else { Status::Unmeasured };
        HostEnergy {
            rank,
            host: host.to_owned(),
            status,
            joules,
            uncertainty_joules: joules.map(|_| 3.0),
            source: joules.map(|_| "perf (package)".to_owned()),
            reason: joules.is_none().then(|| "no sensor".to_owned()),
            domains: joules
                .map(|joules| vec![("package".to_owned(), joules), ("dram".to_owned(), 1.0)])
                .unwrap_or_default(),
        }
    }

    #[test]
    fn a_host_counts_once_however_many_ranks_it_has() {
        let sum = Sum::of(vec![figure(0, "a", Some(10.0)), figure(1, "a", Some(11.0)), figure(2, "b", Some(20.0))]);
        assert_eq!(sum.hosts.iter().map(|host| host.rank).collect::<Vec<_>>(), [0, 2]);
        assert_eq!((sum.domains["package"], sum.domains["dram"]), (30.0, 2.0));
        let record = sum.record(10);
        assert_eq!((record.status, record.joules, record.joules_per_token), (Status::Measured, Some(30.0), Some(3.0)));
        assert!((record.uncertainty_joules.unwrap() - 18.0_f64.sqrt()).abs() < 1e-12);
        assert_eq!(record.source.unwrap(), "a: perf (package); b: perf (package)");
    }

    #[test]
    fn a_host_without_a_sensor_leaves_no_sum_and_is_named() {
        let sum = Sum::of(vec![figure(0, "a", Some(10.0)), figure(1, "b", None)]);
        let record = sum.record(10);
        assert_eq!((record.status, record.joules, record.joules_per_token), (Status::Unmeasured, None, None));
        assert_eq!(record.reason.unwrap(), "not every host has a figure: b: no sensor");
        assert_eq!(sum.hosts[0].joules, Some(10.0), "the figure of the other one is there");
    }
}

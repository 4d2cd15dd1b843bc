//! `rin energy`: what a model takes, by the protocol of `rin-energy`; `rin energy sensors`: what this machine offers. The
//! gauge and the pacing serve `rin run` and `rin bench` too.

mod by_op;
mod gauge;
mod measure;
mod pacing;
mod plot;
mod sensors;
mod text;

pub(crate) use gauge::Gauge;
pub(crate) use pacing::{Pacing, Power};
pub(crate) use sensors::{SourceInfo, sources};
pub(crate) use text::line;

use anyhow::Result;

use crate::args::{EnergyCommand, EnergyCommandArgs};

/// Measures, or lists what there is to measure with.
///
/// # Errors
/// Whatever goes wrong on the way; see [`crate::exit`].
pub(crate) fn energy(args: &EnergyCommandArgs) -> Result<()> {
    match &args.what {
        Some(EnergyCommand::Sensors(args)) => sensors::list(args),
        None => measure::measure(args),
    }
}

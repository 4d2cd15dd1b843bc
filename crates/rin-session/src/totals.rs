//! Sums over all generations of a session.

use rin_energy::{Error as EnergyError, Meter, Reading, Record, Span};

use crate::{Failure, RinStatus};

#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) inferences: u64,
    pub(crate) tokens: u64,
    energy: Option<Span>,
    /// Why the sum of the energy is not known.
    lost: Option<EnergyError>,
}

impl Totals {
    /// Adds a generation, and gives its own energy.
    pub(crate) fn add(
        &mut self,
        meter: Result<&Meter, &EnergyError>,
        ends: &[Option<Reading>; 2],
        tokens: u64,
    ) -> Record {
        self.inferences += 1;
        self.tokens += tokens;
        let (meter, [Some(began), Some(ended)]) = (meter, ends) else {
            return Record::unmeasured(meter.err().unwrap_or(&EnergyError::NotStarted));
        };
        let Ok(meter) = meter else { return Record::unmeasured(&EnergyError::NotStarted) };
        match meter.span(began, ended) {
            Ok(span) => {
                self.energy = Some(self.energy.map_or(span, |sum| sum + span));
                Record::sum(&[span], tokens, meter)
            }
            Err(error) => {
                let record = Record::unmeasured(&error);
                self.lost = Some(error);
                record
            }
        }
    }

    /// Energy of all generations, in J.
    pub(crate) fn joules(&self, meter: &Meter) -> Result<f64, Failure> {
        if let Some(error) = &self.lost {
            return Err(error.clone().into());
        }
        let Some(span) = self.energy else {
            let message = "nothing was generated, so nothing was measured";
            return Err(Failure::new(RinStatus::Unmeasured, "NotStarted", message));
        };
        let record = Record::sum(&[span], 0, meter);
        let reason = record.reason.unwrap_or_default();
        record.joules.ok_or_else(|| Failure::new(RinStatus::Unmeasured, "BelowResolution", reason))
    }
}

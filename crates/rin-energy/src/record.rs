//! The energy of a piece of work as every command and binding reports it.

use crate::{Error, Measurement, Meter, Span};

/// Where a figure comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum Status {
    /// From a sensor.
    Measured,
    /// From the user's own figures for the power; see [`Record::estimate`].
    Estimated,
    /// There is none.
    Unmeasured,
}

impl Status {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Estimated => "estimated",
            Self::Unmeasured => "unmeasured",
        }
    }
}

/// The energy of a piece of work, or why it is not known.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Record {
    /// Where the figures come from.
    pub status: Status,
    /// What the sensor's domains took, in J. Only where measured.
    pub joules: Option<f64>,
    /// That per token.
    pub joules_per_token: Option<f64>,
    /// Standard uncertainty of `joules` from the sensor, in J.
    pub uncertainty_joules: Option<f64>,
    /// Power without the work, in W, where that was measured.
    pub idle_watts: Option<f64>,
    /// The sensor.
    pub source: Option<String>,
    /// Why nothing was measured.
    pub reason: Option<String>,
    /// A range from the user's own figures. Never in the fields above.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub estimate: Option<Estimate>,
}

/// The power that a user says a machine takes, in W.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PowerRange {
    /// When it does nothing.
    pub idle: f64,
    /// At most.
    pub max: f64,
}

impl PowerRange {
    /// A range of finite, ordered powers; none of others.
    pub fn new(idle: f64, max: f64) -> Option<Self> {
        (idle >= 0.0 && max > 0.0 && idle <= max && max.is_finite()).then_some(Self { idle, max })
    }
}

/// Energy as it would be if the machine took no less and no more than its user says.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Estimate {
    /// What this is.
    pub label: String,
    /// The user's figures, in W.
    pub watts: [f64; 2],
    /// Lowest and highest energy, in J.
    pub joules: [f64; 2],
    /// Those per token.
    pub joules_per_token: Option<[f64; 2]>,
}

impl Estimate {
    /// The label of every estimate.
    pub const LABEL: &'static str = "ESTIMATE, not measured";

    /// For so many seconds of work on so many tokens.
    pub fn of(range: PowerRange, seconds: f64, tokens: u64) -> Self {
        let watts = [range.idle, range.max];
        let joules = watts.map(|watts| watts * seconds);
        let joules_per_token = (tokens > 0).then(|| joules.map(|joules| joules / tokens as f64));
        Self { label: Self::LABEL.to_owned(), watts, joules, joules_per_token }
    }
}

impl Record {
    /// Nothing was measured, and why.
    pub fn unmeasured(reason: &Error) -> Self {
        Self::without(reason.to_string())
    }

    /// [`unmeasured`](Self::unmeasured), with the reason in words.
    pub fn without(reason: String) -> Self {
        Self {
            status: Status::Unmeasured,
            joules: None,
            joules_per_token: None,
            uncertainty_joules: None,
            idle_watts: None,
            source: None,
            reason: Some(reason),
            estimate: None,
        }
    }

    /// Sums that were measured apart, for so many tokens in all.
    pub fn sum(spans: &[Span], tokens: u64, source: &Meter) -> Self {
        let joules: f64 = spans.iter().map(|span| span.joules).sum();
        let uncertainty = spans.iter().map(|span| span.uncertainty * span.uncertainty).sum::<f64>().sqrt();
        if joules <= uncertainty {
            let name = source.name();
            return Self::unmeasured(&Error::BelowResolution { name, joules, uncertainty });
        }
        Self {
            status: Status::Measured,
            joules: Some(joules),
            joules_per_token: (tokens > 0).then(|| joules / tokens as f64),
            uncertainty_joules: Some(uncertainty),
            idle_watts: None,
            source: Some(source.name()),
            reason: None,
            estimate: None,
        }
    }

    /// What was measured for so many tokens.
    pub fn of(found: &Result<Measurement, Error>, tokens: u64) -> Self {
        let measured = found.as_ref().map_err(Clone::clone).and_then(|found| Ok((found, found.joules()?)));
        match measured {
            Ok((found, joules)) => Self {
                status: Status::Measured,
                joules: Some(joules),
                joules_per_token: found.joules_per(tokens),
                uncertainty_joules: Some(found.uncertainty),
                idle_watts: None,
                source: Some(found.source_name()),
                reason: None,
                estimate: None,
            },
            Err(error) => Self::unmeasured(&error),
        }
    }

    /// Puts an estimate in the place of a figure that is missing. One that was measured stays, without an estimate.
    #[must_use]
    pub fn or_estimate(self, range: Option<PowerRange>, seconds: f64, tokens: u64) -> Self {
        match (self.status, range) {
            (Status::Unmeasured, Some(range)) => {
                let estimate = Some(Estimate::of(range, seconds, tokens));
                Self { status: Status::Estimated, estimate, ..self }
            }
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_is_a_range_beside_the_figures() {
        let none = Error::NoSensor { looked_for: vec!["perf: nothing".to_owned()] };
        let record = Record::unmeasured(&none);
        assert_eq!(record.clone().or_estimate(None, 2.0, 10), record);
        let record = record.or_estimate(PowerRange::new(10.0, 100.0), 2.0, 10);
        assert_eq!(record.status, Status::Estimated);
        assert_eq!((record.joules, record.joules_per_token, record.uncertainty_joules), (None, None, None));
        assert!(record.reason.is_some_and(|reason| reason.contains("no energy sensor")));
        let estimate = record.estimate.unwrap();
        assert_eq!((estimate.joules, estimate.joules_per_token), ([20.0, 200.0], Some([2.0, 20.0])));
        assert_eq!(Estimate::of(PowerRange { idle: 1.0, max: 2.0 }, 1.0, 0).joules_per_token, None);
    }

    #[test]
    fn ranges_are_ordered_and_finite() {
        for (idle, max) in [(5.0, 4.0), (-1.0, 4.0), (0.0, 0.0), (0.0, f64::INFINITY), (f64::NAN, 1.0)] {
            assert_eq!(PowerRange::new(idle, max), None, "{idle} {max}");
        }
        assert!(PowerRange::new(0.0, 65.0).is_some());
    }
}

//! Energy in words.

use rin_energy::protocol::Figure;
use rin_energy::{Record, Status};

/// A number with four digits that count.
pub(crate) fn digits(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let places = (1..=12).find(|places| value.abs() * 10_f64.powi(*places) >= 1000.0).unwrap_or(12);
    let places = if value.abs() >= 1000.0 { 0 } else { usize::try_from(places).unwrap_or(0) };
    format!("{value:.places$}")
}

/// A median with its unit and interval.
pub(crate) fn figure(figure: Figure, unit: &str) -> String {
    match figure.ci95 {
        Some([low, high]) => {
            format!("{} {unit}, 95 % interval {} to {}", digits(figure.median), digits(low), digits(high))
        }
        None => format!("{} {unit}", digits(figure.median)),
    }
}

/// A record on one line; `unit` is what its work is counted in.
pub(crate) fn line(record: &Record, unit: &str) -> String {
    let per_unit =
        |joules: Option<f64>| joules.map(|joules| format!(", {} J/{unit}", digits(joules))).unwrap_or_default();
    let reason = record.reason.as_deref().unwrap_or_default();
    match (record.status, record.joules, record.uncertainty_joules, &record.estimate) {
        (Status::Measured, Some(joules), Some(uncertainty), _) => format!(
            "{} J ± {} J from {}{}",
            digits(joules),
            digits(uncertainty),
            record.source.as_deref().unwrap_or_default(),
            per_unit(record.joules_per_token)
        ),
        (Status::Estimated, .., Some(estimate)) => {
            let [low, high] = estimate.joules.map(digits);
            format!("{}: {low} to {high} J; nothing was measured ({reason})", estimate.label)
        }
        _ => format!("unmeasured ({reason})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_digits() {
        let cases = [(0.0, "0"), (12_345.6, "12346"), (1.0, "1.000"), (-0.012_345, "-0.01235"), (99.999, "100.00")];
        for (value, expected) in cases {
            assert_eq!(digits(value), expected);
        }
        assert_eq!(digits(1.5e-7), "0.0000001500");
    }

    #[test]
    fn an_estimate_cannot_be_taken_for_a_measurement() {
        let none = rin_energy::Error::NoSensor { looked_for: vec!["perf: nothing".to_owned()] };
        let record = Record::unmeasured(&none);
        assert_eq!(line(&record, "token"), "unmeasured (no energy sensor: perf: nothing)");
        let range = rin_energy::PowerRange::new(10.0, 65.0);
        let text = line(&record.or_estimate(range, 2.0, 10), "token");
        assert!(text.starts_with("ESTIMATE, not measured: 20.00 to 130.0 J"), "{text}");
    }
}

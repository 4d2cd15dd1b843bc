//! The time of day, as results state it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, in UTC, as ISO 8601 with seconds: `2024-02-29T12:34:56Z`.
pub(crate) fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    iso8601(seconds)
}

/// Seconds since the beginning of 1970 (leap seconds not counted) as ISO 8601.
fn iso8601(seconds: u64) -> String {
    const DAY: u64 = 86_400;
    let (year, month, day) = date(seconds / DAY);
    let rest = seconds % DAY;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// The Gregorian date of a day counted from 1 January 1970.
fn date(day: u64) -> (u64, u64, u64) {
    /// Days of 400 years, of 100, of 4 and of one, the leap days at the end of each but the last.
    const SPANS: [(u64, u64); 4] = [(146_097, 400), (36_524, 100), (1461, 4), (365, 1)];
    // From 1 March of year 0, so that a leap day is the last of its year.
    let mut rest = day + 719_468;
    let mut year = 0;
    for (i, (days, years)) in SPANS.into_iter().enumerate() {
        // The last century of four and the last year of four hold a leap day more than the others.
        let most = if i % 2 == 1 { 3 } else { u64::MAX };
        let count = (rest / days).min(most);
        rest -= count * days;
        year += count * years;
    }
    // Months from March have 31, 30, 31, 30, 31, and again: 153 days in five.
    let month = (5 * rest + 2) / 153;
    let day_of_month = rest - (153 * month + 2) / 5 + 1;
    if month < 10 { (year, month + 3, day_of_month) } else { (year + 1, month - 9, day_of_month) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_000_000_000, "2001-09-09T01:46:40Z"),
            (1_709_210_096, "2024-02-29T12:34:56Z"),
            (2_147_483_647, "2038-01-19T03:14:07Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(iso8601(seconds), text);
        }
    }

    /// Four hundred years, day after day, by the calendar's own rules.
    #[test]
    fn every_day_follows_the_one_before() {
        let mut expected = (1970, 1, 1);
        for day in 0..146_097 {
            assert_eq!(date(day), expected);
            let (y, m, d) = expected;
            let leap = y % 4 == 0 && y % 100 != 0 || y % 400 == 0;
            let days = match m {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            expected = match (d == days, m == 12) {
                (false, _) => (y, m, d + 1),
                (true, false) => (y, m + 1, 1),
                (true, true) => (y + 1, 1, 1),
            };
        }
    }
}

//! A counter of energy that wraps becomes a sum that does not, or an error.

use std::time::Duration;

/// What a counter is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scale {
    /// Joules of one count.
    pub(crate) joules: f64,
    /// The smallest difference that the counter shows, in counts.
    pub(crate) step: f64,
    /// Its highest value, where it wraps.
    pub(crate) max: Option<u64>,
    /// The most power that its domain can take, in W.
    pub(crate) limit: f64,
    /// How often it is brought up to date.
    pub(crate) update: Duration,
}

impl Scale {
    /// Counts after which the counter shows the same value again: one step more than its highest value.
    fn period(&self) -> Option<u64> {
        let step = crate::text::whole(self.step.round())?;
        self.max?.checked_add(step.max(1))
    }

    /// Half of the time that the counter takes to wrap at the highest power: a longer gap between two readings may
    /// hide a wrap.
    pub(crate) fn longest_gap(&self) -> Option<Duration> {
        let seconds = self.max? as f64 * self.joules / self.limit / 2.0;
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }
}

/// Why a reading does not follow from the one before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Break {
    /// Above the highest value.
    AboveMax(u64),
    /// A counter that cannot wrap went back.
    Backwards { prev: u64, cur: u64 },
    /// More power than is possible, in W.
    Impossible(f64),
    /// Too long without a reading.
    Ambiguous { elapsed: Duration, longest: Duration },
}

/// The sum of a counter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sum {
    last: u64,
    at: Duration,
    counts: u128,
}

impl Sum {
    /// Begins at a reading.
    pub(crate) fn begin(cur: u64, at: Duration, scale: &Scale) -> Result<Self, Break> {
        if scale.max.is_some_and(|max| cur > max) {
            return Err(Break::AboveMax(cur));
        }
        Ok(Self { last: cur, at, counts: 0 })
    }

    /// Adds a reading. After a break the sum goes on from it; what lies between is lost, and whoever measures across it
    /// has been told.
    pub(crate) fn add(&mut self, cur: u64, at: Duration, scale: &Scale) -> Result<(), Break> {
        if scale.max.is_some_and(|max| cur > max) {
            return Err(Break::AboveMax(cur));
        }
        let (prev, elapsed) = (self.last, at.saturating_sub(self.at));
        (self.last, self.at) = (cur, at);
        if let Some(longest) = scale.longest_gap()
            && elapsed >= longest
        {
            return Err(Break::Ambiguous { elapsed, longest });
        }
        let delta = match (cur.checked_sub(prev), scale.period()) {
            (Some(delta), _) => delta,
            // Both are at most `max`, which is below the period.
            (None, Some(period)) => period.saturating_sub(prev).saturating_add(cur),
            (None, None) => return Err(Break::Backwards { prev, cur }),
        };
        // An update that was due before the first reading may show only now.
        let seconds = (elapsed + 10 * scale.update).as_secs_f64();
        let joules = delta as f64 * scale.joules;
        if joules > scale.limit * seconds {
            return Err(Break::Impossible(joules / elapsed.max(scale.update).as_secs_f64()));
        }
        self.counts += u128::from(delta);
        Ok(())
    }

    /// What was counted since the begin.
    pub(crate) fn counts(&self) -> u128 {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A counter in µJ as the kernel computes it: 2³² steps of a whole number of nJ each.
    fn powercap(unit_nj: u64) -> Scale {
        let max = u64::from(u32::MAX) * unit_nj / 1000;
        let step = unit_nj as f64 / 1e3;
        Scale { joules: 1e-6, step, max: Some(max), limit: 500.0, update: Duration::from_millis(1) }
    }

    fn after(scale: &Scale, readings: &[u64], gap: Duration) -> Result<u128, Break> {
        let mut sum = Sum::begin(readings[0], Duration::ZERO, scale)?;
        for (i, reading) in (1_u32..).zip(&readings[1..]) {
            sum.add(*reading, gap * i, scale)?;
        }
        Ok(sum.counts())
    }

    #[test]
    fn ranges_of_known_processors() {
        for (unit_nj, max) in [(61_035, 262_143_328_850), (15_258, 65_532_610_987), (15_300, 65_712_999_613)] {
            assert_eq!(powercap(unit_nj).max, Some(max));
        }
        let scale = powercap(15_258);
        assert_eq!(scale.longest_gap().map(|gap| gap.as_secs()), Some(65), "65.5 kJ at 500 W wrap in 131 s");
    }

    #[test]
    fn wraps() {
        let scale = powercap(61_035);
        let max = 262_143_328_850;
        let second = Duration::from_secs(1);
        assert_eq!(after(&scale, &[max - 5, 10], second), Ok(15 + 61));
        assert_eq!(after(&scale, &[max, 0], second), Ok(61), "the step from the highest value to none");
        assert_eq!(after(&scale, &[7, 7], second), Ok(0));
        assert_eq!(after(&scale, &[0, max], second), Err(Break::Impossible(262_143.328_850)), "no wrap, and 262 kW");
        // So short a counter that it turns in half a ms: the way up to the highest value is no wrap either.
        let quick = Scale { limit: 1e9, ..scale };
        assert_eq!(after(&quick, &[0, max], Duration::from_micros(100)), Ok(u128::from(max)));
        assert_eq!(after(&scale, &[0, max + 1], second), Err(Break::AboveMax(max + 1)));
        assert_eq!(after(&scale, &[max + 1], second), Err(Break::AboveMax(max + 1)));
        assert_eq!(after(&scale, &[5_000_000, 4_000_000], second), Err(Break::Impossible(262_142.328_911)));
    }

    #[test]
    fn a_second_wrap_cannot_be_seen_so_a_long_gap_is_refused() {
        let scale = powercap(61_035);
        let minute = Duration::from_mins(1);
        assert_eq!(after(&scale, &[0, 6_000_000_000], minute), Ok(6_000_000_000));
        let longest = scale.longest_gap().unwrap();
        // Forwards as well: a whole turn may lie between.
        for cur in [6_000_000_000, 1] {
            let found = after(&scale, &[2, cur], longest);
            assert_eq!(found, Err(Break::Ambiguous { elapsed: longest, longest }));
        }
    }

    #[test]
    fn what_cannot_wrap_cannot_go_back() {
        let scale = Scale { max: None, ..powercap(61_035) };
        let second = Duration::from_secs(1);
        assert_eq!(after(&scale, &[9, 8], second), Err(Break::Backwards { prev: 9, cur: 8 }));
        assert_eq!(after(&scale, &[u64::MAX - 1, u64::MAX], second), Ok(1));
    }

    #[test]
    fn ten_kilowatts_are_impossible_and_the_sum_goes_on_after_them() {
        let scale = powercap(61_035);
        let mut sum = Sum::begin(0, Duration::ZERO, &scale).unwrap();
        let second = Duration::from_secs(1);
        assert!(matches!(sum.add(10_000_000_000, second, &scale), Err(Break::Impossible(w)) if (w - 1e4).abs() < 1.0));
        assert_eq!(sum.add(10_030_000_000, 2 * second, &scale), Ok(()));
        assert_eq!(sum.counts(), 30_000_000);
    }

    #[test]
    fn an_update_that_was_due_before_is_no_impossible_power() {
        let scale = powercap(61_035);
        // 400 W for 1 ms, seen 10 µs after the reading before.
        assert_eq!(after(&scale, &[0, 400_000], Duration::from_micros(10)), Ok(400_000));
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are small and positive")]
    fn counts(watts: f64, seconds: f64, unit_nj: u64) -> u64 {
        (watts * seconds * 1e9 / unit_nj as f64) as u64
    }

    proptest! {
        /// Whatever way a counter of 32 bits walks, the sum is the true one.
        #[test]
        fn the_sum_is_the_true_sum(
            esu in 14_u32..=16,
            begin in any::<u32>(),
            watts in proptest::collection::vec(0.0_f64..499.0, 1..200),
            gap_ms in 1_u64..30_000,
        ) {
            let unit_nj = 1_000_000_000_u64 >> esu;
            let scale = powercap(unit_nj);
            let shown = |raw: u64| (raw & 0xffff_ffff) * unit_nj / 1000;
            let gap = Duration::from_millis(gap_ms);
            let (mut raw, mut at) = (u64::from(begin), Duration::ZERO);
            let mut sum = Sum::begin(shown(raw), at, &scale).unwrap();
            for watts in watts {
                raw += counts(watts, gap.as_secs_f64(), unit_nj);
                at += gap;
                prop_assert_eq!(sum.add(shown(raw), at, &scale), Ok(()));
            }
            let wraps = (raw >> 32) as f64;
            let truth = (raw - u64::from(begin)) as f64 * unit_nj as f64 / 1e3;
            // The kernel cuts off parts of µJ in each value, and the step of a wrap is rounded to one.
            prop_assert!((sum.counts() as f64 - truth).abs() <= 1.0 + wraps, "{} {truth}", sum.counts());
        }
    }
}

//! Nodes whose clocks drift, over a network that delays and loses: how closely three ways to agree keep them together.
//!
//! Time goes in rounds of [`PERIOD`]. In a round every node sends what its method sends, receivers collect, and at its end
//! they correct their clocks by [`GAIN`] of what they found. A one-way delay is [`DELAY`] and an exponential part with
//! mean [`JITTER`]; every receiver knows the mean of the sum. All methods have the same information about delays and the
//! same gain.

use crate::random::Random;

/// Seconds of a round.
pub const PERIOD: f64 = 1.0;
/// Seconds that every message takes.
pub const DELAY: f64 = 0.005;
/// Mean seconds that it takes longer.
pub const JITTER: f64 = 0.002;
/// The part of a found difference that a clock is corrected by.
pub const GAIN: f64 = 0.5;
/// Exchanges of which the quickest is believed.
const KEPT: usize = 8;

/// A way to agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Every node sends a pulse when its phase is zero; all move towards the pulses they hear by the sine of the
    /// difference, as Kuramoto's oscillators do. No leader; only phases agree.
    Pulses,
    /// Every node asks the leader for the time and takes half of the way there and back for the delay, the quickest of the
    /// last eight answers being believed (D. L. Mills, NTP, RFC 5905, section 8).
    Offsets,
    /// The leader sends its time, and a receiver adds the mean delay.
    Beacon,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pulses, Self::Offsets, Self::Beacon];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pulses => "pulses",
            Self::Offsets => "offsets",
            Self::Beacon => "beacon",
        }
    }
}

/// Where it happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// Nodes; the first is the leader.
    pub nodes: usize,
    /// Largest relative error of a clock's rate.
    pub drift: f64,
    /// Share of the messages that are lost.
    pub loss: f64,
    /// Rounds.
    pub rounds: usize,
    /// The round in which the leader falls silent, if it does. Its clock counts no more from there.
    pub leader_ends: Option<usize>,
}

/// A node's clock: real time at its own rate, and what was corrected.
#[derive(Clone, Copy, Debug)]
struct Clock {
    rate: f64,
    offset: f64,
}

impl Clock {
    fn at(&self, real: f64) -> f64 {
        self.rate * real + self.offset
    }

    /// The real time at which the clock shows `shown`.
    fn when(&self, shown: f64) -> f64 {
        (shown - self.offset) / self.rate
    }
}

/// To the nearest multiple of the period.
fn wrapped(x: f64) -> f64 {
    x - PERIOD * (x / PERIOD).round()
}

/// How far phases are apart: the shortest arc that holds all of them.
fn spread(phases: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = phases.map(|x| x.rem_euclid(PERIOD)).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return 0.0 };
    let around = PERIOD - last + first;
    let widest = sorted.windows(2).map(|pair| pair[1] - pair[0]).fold(around, f64::max);
    PERIOD - widest
}

/// For each round, how far the clocks are apart in its middle, modulo the period, in seconds.
pub fn simulate(method: Method, setting: &Setting, seed: u32) -> Vec<f64> {
    let mut random = Random::new(seed, 300);
    let mut clocks: Vec<Clock> = (0..setting.nodes)
        .map(|_| Clock {
            rate: 1.0 + random.within(-setting.drift, setting.drift),
            offset: random.within(-PERIOD / 2.0, PERIOD / 2.0),
        })
        .collect();
    let mut heard: Vec<Vec<(f64, f64)>> = vec![Vec::new(); setting.nodes];
    let mut found = Vec::with_capacity(setting.rounds);
    for round in 0..setting.rounds {
        let leader = setting.leader_ends.is_none_or(|end| round < end);
        let alive = usize::from(!leader)..setting.nodes;
        let now = round as f64 * PERIOD;
        let corrections: Vec<f64> = (0..setting.nodes)
            .map(|node| match method {
                _ if !alive.contains(&node) => 0.0,
                Method::Pulses => by_pulses(&clocks, node, alive.clone(), now, setting.loss, &mut random),
                Method::Offsets if node > 0 && leader => {
                    by_offsets(&clocks, node, now, setting.loss, &mut heard[node], &mut random)
                }
                Method::Beacon if node > 0 && leader => by_beacon(&clocks, node, now, setting.loss, &mut random),
                Method::Offsets | Method::Beacon => 0.0,
            })
            .collect();
        for ((clock, correction), heard) in clocks.iter_mut().zip(&corrections).zip(&mut heard) {
            clock.offset += correction;
            // What was measured before the correction is off by it now.
            for (_, offset) in heard.iter_mut() {
                *offset -= correction;
            }
        }
        let middle = now + 1.5 * PERIOD;
        found.push(spread(clocks[alive].iter().map(|clock| clock.at(middle))));
    }
    found
}

/// Seconds of a message's way; none where it is lost.
fn way(loss: f64, random: &mut Random) -> Option<f64> {
    let delay = DELAY - JITTER * libm::log(1.0 - random.uniform());
    (!random.chance(loss)).then_some(delay)
}

fn by_pulses(
    clocks: &[Clock],
    node: usize,
    alive: std::ops::Range<usize>,
    now: f64,
    loss: f64,
    random: &mut Random,
) -> f64 {
    let own = &clocks[node];
    let n = alive.len() as f64;
    let mut sum = 0.0;
    for other in alive.filter(|other| *other != node) {
        let clock = &clocks[other];
        // The first whole period of the sender from now on.
        let sent = clock.when((clock.at(now) / PERIOD).ceil() * PERIOD);
        let Some(delay) = way(loss, random) else { continue };
        let difference = wrapped(DELAY + JITTER - own.at(sent + delay));
        sum += libm::sin(2.0 * std::f64::consts::PI * difference / PERIOD) * PERIOD / (2.0 * std::f64::consts::PI);
    }
    2.0 * GAIN * sum / n
}

fn by_offsets(
    clocks: &[Clock],
    node: usize,
    now: f64,
    loss: f64,
    heard: &mut Vec<(f64, f64)>,
    random: &mut Random,
) -> f64 {
    let (own, leader) = (&clocks[node], &clocks[0]);
    let sent = now + random.uniform() * PERIOD / 2.0;
    let (Some(there), Some(back)) = (way(loss, random), way(loss, random)) else { return 0.0 };
    let [t1, t2, t4] = [own.at(sent), leader.at(sent + there), own.at(sent + there + back)];
    heard.push((t4 - t1, t2 - f64::midpoint(t1, t4)));
    if heard.len() > KEPT {
        heard.remove(0);
    }
    let quickest = heard.iter().copied().min_by(|a, b| a.0.total_cmp(&b.0));
    quickest.map_or(0.0, |(_, offset)| GAIN * offset)
}

fn by_beacon(clocks: &[Clock], node: usize, now: f64, loss: f64, random: &mut Random) -> f64 {
    let Some(delay) = way(loss, random) else { return 0.0 };
    let difference = clocks[0].at(now) + DELAY + JITTER - clocks[node].at(now + delay);
    GAIN * difference
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTING: Setting = Setting { nodes: 8, drift: 50e-6, loss: 0.0, rounds: 200, leader_ends: None };

    fn late(found: &[f64]) -> f64 {
        let late = &found[100..];
        late.iter().sum::<f64>() / late.len() as f64
    }

    #[test]
    fn every_method_brings_the_clocks_together() {
        for method in Method::ALL {
            let found = simulate(method, &SETTING, 1);
            assert!(found[0] > 0.05, "{method:?}: apart at first, {}", found[0]);
            assert!(late(&found) < 0.01, "{method:?}: {}", late(&found));
        }
    }

    #[test]
    fn without_messages_clocks_drift_apart() {
        for method in Method::ALL {
            let found = simulate(method, &Setting { loss: 1.0, ..SETTING }, 1);
            assert!(found[199] > 0.2, "{method:?}");
        }
    }

    #[test]
    fn pulses_go_on_without_a_leader_and_beacons_do_not() {
        let setting = Setting { rounds: 2000, leader_ends: Some(100), ..SETTING };
        let at_the_end = |method| simulate(method, &setting, 2)[1999];
        assert!(
            at_the_end(Method::Pulses) < 0.01
                && at_the_end(Method::Beacon) > 0.05
                && at_the_end(Method::Offsets) > 0.05
        );
    }

    #[test]
    fn the_arc_goes_around_the_end_of_the_period() {
        assert!((spread([0.95, 0.05].into_iter()) - 0.1).abs() < 1e-12);
        assert!((spread([0.2, 0.5, 0.3].into_iter()) - 0.3).abs() < 1e-12);
        assert!(spread([0.4].into_iter()).abs() < 1e-12 && spread(std::iter::empty()).abs() < 1e-12);
    }
}

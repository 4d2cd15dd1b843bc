//! What a machine may be: lags of first order, each with a filter for its power and its slope.

use super::DUTY_LEAST;

/// Seconds of the lags that are thought of.
const LAGS: [f64; 11] = [0.001, 0.05, 0.1, 0.2, 0.3, 0.45, 0.7, 1.0, 1.5, 2.2, 3.3];
/// Relative standard deviation of what a sensor shows.
const NOISE: f64 = 0.06;
/// Relative drift of the slope, standard deviation per observation.
const DRIFT: f64 = 0.025;
/// What is left of a hypothesis's log-probability per observation.
const MEMORY: f64 = 0.98;
/// Seconds in which the power shall come near the budget, as a time constant.
const APPROACH: f64 = 0.1;
/// How much less work runs where the hypotheses disagree, in standard deviations.
const CAUTION: f64 = 0.5;
/// Standard deviations from which on a surprise is a change of the work, not noise.
const SURPRISE: f64 = 4.0;
/// The least slope, of the budget above idle.
const SLOPE_LEAST: f64 = 0.05;

/// One hypothesis: power above idle, in W, and slope, in W at work all the time, with their covariances.
#[derive(Clone, Copy, Debug)]
struct Model {
    lag: f64,
    power: f64,
    slope: f64,
    power_variance: f64,
    covariance: f64,
    slope_variance: f64,
    /// Logarithm of the probability, up to a sum that all share.
    likelihood: f64,
}

/// What is foreseen of an observation.
#[derive(Clone, Copy)]
struct Foreseen {
    /// Mean power above idle, in W.
    mean: f64,
    variance: f64,
    /// Covariances of that mean with power and slope.
    gains: [f64; 2],
}

impl Model {
    fn foresee(&self, idle: f64, seen: f64, duty: f64, seconds: f64) -> Foreseen {
        // The share of the mean that the power from before the span has.
        let old = self.lag / seconds * (1.0 - libm::exp(-seconds / self.lag));
        let new = (1.0 - old) * duty;
        let mean = old * self.power + new * self.slope;
        let gains =
            [old * self.power_variance + new * self.covariance, old * self.covariance + new * self.slope_variance];
        let noise = NOISE * (idle + mean.max(seen));
        Foreseen { mean, variance: old * gains[0] + new * gains[1] + noise * noise, gains }
    }

    /// Learns from a mean power, and goes on to the span's end.
    fn hear(&mut self, seen: f64, foreseen: Foreseen, least: f64, duty: f64, seconds: f64) {
        let Foreseen { mean, variance, gains: [power, slope] } = foreseen;
        let surprise = seen - mean;
        self.likelihood = MEMORY * self.likelihood - 0.5 * (surprise * surprise / variance + libm::log(variance));
        self.power += power / variance * surprise;
        self.slope = (self.slope + slope / variance * surprise).max(least);
        self.power_variance -= power * power / variance;
        self.covariance -= power * slope / variance;
        self.slope_variance -= slope * slope / variance;
        let kept = libm::exp(-seconds / self.lag);
        let gained = (1.0 - kept) * duty;
        self.power = kept * self.power + gained * self.slope;
        self.power_variance = kept * kept * self.power_variance
            + 2.0 * kept * gained * self.covariance
            + gained * gained * self.slope_variance;
        self.covariance = kept * self.covariance + gained * self.slope_variance;
        self.slope_variance += DRIFT * DRIFT * self.slope * self.slope;
    }

    /// The duty cycle that brings the power as near to a target in the next span as the approach asks.
    fn duty(&self, target: f64, seconds: f64) -> f64 {
        let power = self.power.max(0.0);
        let next = power + (target - power) * (1.0 - libm::exp(-seconds / APPROACH));
        let kept = libm::exp(-seconds / self.lag);
        ((next - kept * power) / (self.slope * (1.0 - kept))).clamp(DUTY_LEAST, 1.0)
    }
}

/// All hypotheses on one machine.
#[derive(Clone, Debug)]
pub(super) struct Models {
    /// The budget above idle, in W.
    target: f64,
    models: [Model; LAGS.len()],
}

impl Models {
    /// Of a machine that rests; at work all the time it takes a few times the target, in W above idle.
    pub(super) fn new(target: f64) -> Self {
        let slope = 2.0 * target;
        let models = LAGS.map(|lag| Model {
            lag,
            power: 0.0,
            slope,
            power_variance: 0.0,
            covariance: 0.0,
            slope_variance: slope * slope,
            likelihood: 0.0,
        });
        Self { target, models }
    }

    /// Hears the mean power above idle over a span in which work ran for a share of the time.
    pub(super) fn hear(&mut self, seen: f64, idle: f64, duty: f64, seconds: f64) {
        if let Some(likely) = self.models.iter().max_by(|a, b| a.likelihood.total_cmp(&b.likelihood)) {
            let foreseen = likely.foresee(idle, seen, duty, seconds);
            let surprise = seen - foreseen.mean;
            if surprise * surprise > SURPRISE * SURPRISE * foreseen.variance {
                // Other work than before: the slope is to be found anew.
                self.models.iter_mut().for_each(|model| {
                    model.slope_variance += model.slope * model.slope + surprise * surprise / (duty * duty);
                });
            }
        }
        let least = SLOPE_LEAST * self.target;
        for model in &mut self.models {
            let foreseen = model.foresee(idle, seen, duty, seconds);
            model.hear(seen, foreseen, least, duty, seconds);
        }
        // Only differences count; the sum would grow.
        let most = self.most();
        self.models.iter_mut().for_each(|model| model.likelihood -= most);
    }

    /// The duty cycle for the next span.
    pub(super) fn duty(&self, seconds: f64) -> f64 {
        let most = self.most();
        let each = || {
            let weight = |model: &Model| libm::exp(model.likelihood - most);
            self.models.iter().map(move |model| (weight(model), model.duty(self.target, seconds)))
        };
        let weights: f64 = each().map(|(weight, _)| weight).sum();
        let mean = each().map(|(weight, duty)| weight * duty).sum::<f64>() / weights;
        let variance = each().map(|(weight, duty)| weight * (duty - mean) * (duty - mean)).sum::<f64>() / weights;
        (mean - CAUTION * variance.sqrt()).clamp(DUTY_LEAST, 1.0)
    }

    /// The work runs on other threads: its slope becomes a multiple of what it was.
    pub(super) fn scale(&mut self, factor: f64) {
        for model in &mut self.models {
            model.slope *= factor;
            model.covariance *= factor;
            model.slope_variance *= factor * factor;
        }
    }

    fn most(&self) -> f64 {
        self.models.iter().map(|model| model.likelihood).fold(f64::NEG_INFINITY, f64::max)
    }
}
